"""What becomes of objects, straight from the definitions and in plain sets of pixels."""

import numpy as np
from rasters import NODATA
from scipy import ndimage

from pfmap.trace.compare import FOUND, IOUS, MERGED, MISSED, SPLIT

FOUR = ndimage.generate_binary_structure(2, 1)

Objects = dict[tuple[int, int], set[int]]
"""Pixels of objects by class and number."""


def objects(codes: np.ndarray, marks: np.ndarray | None = None) -> Objects:
    """Connected regions, or what has one number above 0, of the class of its first pixel."""
    found: Objects = {}
    if marks is not None:
        marks = np.where(codes == NODATA, 0, marks)
        for number in np.unique(marks[marks > 0]).tolist():
            pixels = np.flatnonzero(marks == number)
            found[int(codes.flat[pixels[0]]), number] = set(pixels.tolist())
        return found
    for klass in np.unique(codes[codes != NODATA]).tolist():
        labels, count = ndimage.label(codes == klass, FOUR)
        found |= {(klass, k): set(np.flatnonzero(labels == k).tolist()) for k in range(1, count + 1)}
    return found


def brute_force(true: Objects, found: Objects, least: int) -> tuple[np.ndarray, np.ndarray, dict[int, int]]:
    """The oracle, straight from the definitions: both tables, and the fate of each pixel of a true object."""
    tables = np.zeros((256, 5), dtype=int), np.zeros((256, 3), dtype=int)
    fates: dict[int, int] = {}
    large = [{key: one for key, one in side.items() if len(one) >= least} for side in (true, found)]
    holds = {
        p: [t for t in large[0] if t[0] == p[0] and 2 * len(large[0][t] & other) > len(large[0][t])]
        for p, other in large[1].items()
    }
    iou = {
        (t, p): len(a & b) / len(a | b)
        for t, a in large[0].items()
        for p, b in large[1].items()
        if t[0] == p[0]
    }
    for t, pixels in large[0].items():
        hits = [any(value >= level for (a, _), value in iou.items() if a == t) for level in IOUS]
        merged = any(t in held and len(held) > 1 for held in holds.values())
        parts = [
            p for p, other in large[1].items() if p[0] == t[0] and 5 * len(pixels & other) >= len(pixels)
        ]
        tables[0][t[0]] += [1, *hits, merged, len(parts) > 1]
        fate = MERGED if merged else SPLIT if len(parts) > 1 else FOUND if hits[0] else MISSED
        fates |= dict.fromkeys(pixels, fate)
    for p in large[1]:
        tables[1][p[0]] += [
            1,
            *(any(value >= level for (_, b), value in iou.items() if b == p) for level in IOUS),
        ]
    return *tables, fates
