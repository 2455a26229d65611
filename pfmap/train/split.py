"""What is held out for validation: images, parts of scenes, or blocks of ground, never single windows."""

import math
import re
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from pfmap.core.errors import TrainingError
from pfmap.core.grid import GeoBox, Span
from pfmap.train.config import SourceSpec, Split
from pfmap.train.labelled_image import LOOKS, Box, Counts, LabelledScene, survey

Cell = tuple[Hashable, int, int]
"""A block of ground: what plane it lies in, its row and column there."""

_TRIES = 200
_RUN = 8  # images without a place that stay together, in the order of their names
_LOOKS_IN_ALL = 6000  # at a scene that is looked at block by block


def hold_out(spec: SourceSpec, scenes: Sequence[LabelledScene], seed: int) -> list[list[Box]]:
    """Choose what of each scene of a source is held out; a `TrainingError` if all labels lie in one block."""
    if not spec.validation.share:
        return [_named_part(spec.validation, scene) for scene in scenes]
    cut = [cells(scene.geobox, spec.validation.block, number) for number, scene in enumerate(scenes)]
    counts: dict[Cell, Counts] = {}
    for scene, boxes in zip(scenes, cut, strict=True):
        looks = max(2, min(LOOKS, math.isqrt(_LOOKS_IN_ALL // len(boxes))))
        for cell, box in boxes:
            counts[cell] = counts.get(cell, np.zeros(256)) + survey(scene, box, looks=looks)[0]
    chosen = _choose_blocks(counts, spec.validation.share, seed, spec.name)
    return [[box for cell, box in boxes if cell in chosen] for boxes in cut]


def _named_part(split: Split, scene: LabelledScene) -> list[Box]:
    """Return what of an image its configuration holds out by name, if anything."""
    rows, cols = scene.box
    if split.stems:
        return [(rows, cols)] if re.search(split.stems, scene.path.stem) else []
    if not (split.rows or split.columns):
        return []
    wanted = Span(*split.rows) if split.rows else rows, Span(*split.columns) if split.columns else cols
    rows, cols = (
        Span(span.start, min(span.stop, own.stop)) for span, own in zip(wanted, scene.box, strict=True)
    )
    return [(rows, cols)]


def cells(geobox: GeoBox, side: int, number: int) -> list[tuple[Cell, Box]]:
    """Cut a scene into blocks, aligned with those of all scenes on the same grid of the ground.

    Blocks have so many pixels along a side; `number` is the scene's among those of its source, in the order
    of their names. Returned are the blocks that the scene has a part of, with its rows and columns of each.
    """
    a, b, c, d, e, f = geobox.transform
    plane: Hashable = ("scene", number)
    top = left = 0
    if geobox.georeferenced and b == d == 0:
        # Blocks count from the CRS's origin, so that two sheets of one place share them.
        plane = (geobox.crs_wkt, round(abs(a), 9), round(abs(e), 9))
        top, left = round(f / e), round(c / a)
    elif max(geobox.height, geobox.width) <= side:
        plane, side = ("run", number // _RUN), max(geobox.height, geobox.width)
    return [
        ((plane, row, col), (rows, cols))
        for row, rows in _runs(top, geobox.height, side)
        for col, cols in _runs(left, geobox.width, side)
    ]


def _runs(first: int, size: int, side: int) -> list[tuple[int, Span]]:
    return [
        (k, Span(k * side - first, (k + 1) * side - first).clip(Span(0, size)))
        for k in range(first // side, (first + size - 1) // side + 1)
    ]


def _choose_blocks(counts: Mapping[Cell, Counts], share: float, seed: int, source: str) -> frozenset[Cell]:
    """Choose the blocks to hold out: about their share of the pixels of every label, and some of each.

    Of many random choices the best is taken: labels lie in clumps, and rare ones in few blocks.
    """
    cells = [cell for cell, found in counts.items() if found.sum()]
    if len(cells) < 2:
        raise TrainingError(
            f"source {source!r}: all labels lie in one block: lower validation.block, so that some can be "
            "held out and some trained on"
        )
    table = np.array([counts[cell] for cell in cells])
    total = table.sum(axis=0)
    used = total > 0
    rng = np.random.default_rng(seed)
    best = math.inf, np.zeros(0, dtype=np.intp)
    for _ in range(_TRIES):
        order = rng.permutation(len(cells))
        reached = np.cumsum(table[order].sum(axis=1)) / table.sum()
        number = min(max(1, int(np.argmin(np.abs(reached - share))) + 1), len(cells) - 1)
        held = table[order[:number]].sum(axis=0)[used] / total[used]
        # A label that is missing on one side cannot be learned, or not be measured.
        cost = float(np.abs(held - share).mean() + np.count_nonzero((held == 0) | (held == 1)))
        if cost < best[0]:
            best = cost, order[:number]
    return frozenset(cells[k] for k in best[1])
