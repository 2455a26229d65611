"""What is labelled in a part of a scene, and where: exactly for scenes in memory, by spots for others."""

import numpy as np
import numpy.typing as npt

from pfmap.core.grid import Span
from pfmap.train.labelled_image import LabelledScene
from pfmap.train.split import Counts, mask_of

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
