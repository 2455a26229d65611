"""What is held out for validation: images, parts of scenes, or blocks of ground, never single windows."""

import re
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pfmap.core.errors import TrainingError
from pfmap.core.grid import GeoBox, Span
from pfmap.train.config import Split
from pfmap.train.labelled_image import LabelledScene

Cell = tuple[Hashable, int, int]
"""A block of ground: what plane it lies in, its row and column there."""

Counts = npt.NDArray[np.float64]
"""``(256,)`` pixels by label set."""

_TRIES = 200
_RUN = 8  # images without a place that stay together, in the order of their names


class Cells:
    """How one scene is cut into blocks, aligned with those of all scenes on the same grid of the ground.

    Args:
        geobox: the scene's grid.
        side: of the blocks, in pixels.
        number: of the scene among those of its source, in the order of their names.
    """

    def __init__(self, geobox: GeoBox, side: int, number: int) -> None:
        self.height, self.width, self.side = geobox.height, geobox.width, side
        a, b, c, d, e, f = geobox.transform
        self._top = self._left = 0
        if geobox.georeferenced and b == d == 0:
            # Blocks count from the CRS's origin, so that two sheets of one place share them.
            self.plane: Hashable = (geobox.crs_wkt, round(abs(a), 9), round(abs(e), 9))
            self._left, self._top = round(c / a), round(f / e)
        elif max(geobox.height, geobox.width) <= side:
            self.plane = ("run", number // _RUN)
            self.side = max(geobox.height, geobox.width)
        else:
            self.plane = ("scene", number)

    def boxes(self) -> list[tuple[Cell, Span, Span]]:
        """Name all blocks that the scene has a part of, with its rows and columns of each."""
        return [
            ((self.plane, row, col), rows, cols)
            for row, rows in self._runs(self._top, self.height)
            for col, cols in self._runs(self._left, self.width)
        ]

    def _runs(self, first: int, size: int) -> list[tuple[int, Span]]:
        side = self.side
        return [
            (k, Span(max(0, k * side - first), min(size, (k + 1) * side - first)))
            for k in range(first // side, (first + size - 1) // side + 1)
        ]


def choose_blocks(counts: Mapping[Cell, Counts], share: float, seed: int, source: str) -> frozenset[Cell]:
    """Choose the blocks to hold out: about their share of the pixels of every label, and some of each.

    Args:
        counts: labelled pixels of every block, by label set.
        share: wanted, of the labelled pixels.
        seed: of the choice.
        source: name of the source, for messages.

    Raises:
        TrainingError: all labels lie in one block.
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
    best: tuple[float, npt.NDArray[np.intp]] | None = None
    for _ in range(_TRIES):
        order = rng.permutation(len(cells))
        reached = np.cumsum(table[order].sum(axis=1)) / table.sum()
        number = min(max(1, int(np.argmin(np.abs(reached - share))) + 1), len(cells) - 1)
        held = table[order[:number]].sum(axis=0)[used] / total[used]
        # A label that is missing on one side cannot be learned, or not be measured.
        cost = float(np.abs(held - share).mean() + np.count_nonzero((held == 0) | (held == 1)))
        if best is None or cost < best[0]:
            best = cost, order[:number]
    assert best is not None
    return frozenset(cells[k] for k in best[1])


def named_part(split: Split, stem: str, height: int, width: int) -> tuple[Span, Span] | None:
    """Return the rows and columns of an image that its configuration holds out by name, or None."""
    if split.stems:
        return (Span(0, height), Span(0, width)) if re.search(split.stems, stem) else None
    if split.columns or split.rows:
        rows = Span(*(int(v) for v in split.rows)) if split.rows else Span(0, height)
        cols = Span(*(int(v) for v in split.columns)) if split.columns else Span(0, width)
        return Span(rows.start, min(rows.stop, height)), Span(cols.start, min(cols.stop, width))
    return None


def mask_of(held: Sequence[tuple[Span, Span]], rows: Span, cols: Span) -> npt.NDArray[np.bool_]:
    """Say which pixels of a part of a scene are held out: ``(rows, cols)`` bool."""
    mask = np.zeros((rows.size, cols.size), dtype=bool)
    for y, x in held:
        top, bottom = max(y.start, rows.start), min(y.stop, rows.stop)
        left, right = max(x.start, cols.start), min(x.stop, cols.stop)
        if top < bottom and left < right:
            mask[top - rows.start : bottom - rows.start, left - cols.start : right - cols.start] = True
    return mask


Points = npt.NDArray[np.int32]
"""``(n, 2)`` rows and columns."""

LOOKS = 24
"""Spots along each axis of a scene that is too large to be looked at whole."""

_POINTS = 500  # remembered of every label
_LOOK = 128  # side of a spot


def survey(
    scene: LabelledScene,
    rows: Span,
    cols: Span,
    hidden: tuple[tuple[Span, Span], ...],
    looks: int | None = None,
) -> tuple[Counts, dict[int, Points]]:
    """Count the labels of a part of a scene, and remember where some of each are.

    A scene in memory is counted pixel by pixel. Of a larger one spots all over it are looked at, and around
    some of its polygons; counts are then estimates.

    Args:
        scene: the scene.
        rows: of the part.
        cols: of the part.
        hidden: parts of the scene whose labels do not count.
        looks: spots along each axis; None for `LOOKS`.

    Returns:
        ``(256,)`` pixels by label set, without the unknown ones, and rows and columns of the scene.
    """
    rng = np.random.default_rng(0)
    counts = np.zeros(256)
    places: dict[int, list[Points]] = {}
    spots = _spots(scene, rows, cols, looks or LOOKS)
    for y, x in spots:
        labels = np.where(mask_of(hidden, y, x), np.uint8(0), scene.read(y, x)[1])
        here = np.bincount(labels.ravel(), minlength=256)
        here[0] = 0
        counts += here
        for index in np.flatnonzero(here).tolist():
            at = np.flatnonzero(labels == index)
            some = rng.choice(at, min(len(at), max(2, 2 * _POINTS // len(spots))), replace=False)
            row, col = np.divmod(some, x.size)
            points = np.stack([row + y.start, col + x.start], axis=1).astype(np.int32)
            places.setdefault(index, []).append(points)
    seen = sum(y.size * x.size for y, x in spots)
    counts *= rows.size * cols.size / max(1, seen)
    anchors: dict[int, Points] = {}
    for index, parts in places.items():
        points = np.concatenate(parts)
        anchors[index] = points[rng.permutation(len(points))[:_POINTS]]
    return counts, anchors


def _spots(scene: LabelledScene, rows: Span, cols: Span, looks: int) -> list[tuple[Span, Span]]:
    """Name the parts to look at: everything, or a grid of spots and the surroundings of some polygons."""
    if scene.kept or max(rows.size, cols.size) <= looks * _LOOK:
        return [(rows, cols)]
    grid = [
        (row, col)
        for row in np.linspace(rows.start, rows.stop - 1, looks).astype(int).tolist()
        for col in np.linspace(cols.start, cols.stop - 1, looks).astype(int).tolist()
    ]
    drawn = [place for layer in scene.layers for place in layer.places]
    inside = [(r, c) for r, c in drawn if rows.start <= r < rows.stop and cols.start <= c < cols.stop]
    return [(_around(row, rows), _around(col, cols)) for row, col in grid + inside]


def _around(center: int, limits: Span) -> Span:
    start = max(limits.start, min(center - _LOOK // 2, limits.stop - _LOOK))
    return Span(start, min(start + _LOOK, limits.stop))
