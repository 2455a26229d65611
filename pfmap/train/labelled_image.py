"""Images with labels: whole scenes of any size, and the parts of them that are trained or validated on.

A scene is kept in memory where it fits, else read window by window.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np

from pfmap.core.arrays import Bools, Bytes, Floats, Ints
from pfmap.core.card import Card
from pfmap.core.grid import GeoBox, Span
from pfmap.raster.extra import open_bands
from pfmap.raster.location import locate
from pfmap.raster.scaling import known_scaling, sampled_scaling
from pfmap.train.label_layers import Labels, PolygonLayer, RasterLayer

Image = Bytes

Box = tuple[Span, Span]
"""Rows and columns of a scene."""

Counts = Floats
"""``(256,)`` pixels by label set."""

Points = Ints
"""``(n, 2)`` rows and columns."""

LOOKS = 24
"""Spots along each axis of a scene that is too large to be looked at whole."""

_POINTS = 500  # remembered of every label
_LOOK = 128  # side of a spot


class LabelledScene:
    """An image and what is known of its pixels.

    The bands, whose numbers count from 1, are those that the card of the model to be names, unless given, and
    some may come from `extra` files; a `UsageError` says that they do not fit, a `SourceError` that there is
    no valid pixel.
    """

    def __init__(
        self, path: Path, bands: tuple[int, ...] | None, card: Card, extra: Mapping[str, str] | None = None
    ) -> None:
        self.path, self.bands = path, len(card.input.bands)
        self.layers: list[RasterLayer | PolygonLayer] = []
        """Where its labels come from; later ones lie over earlier ones. Filled by the caller, who needs the
        grid for that."""
        self._open = partial(open_bands, locate(path), card.input, bands, card.name, extra)
        # What prediction shows the network where a scene has no data: the mean colour.
        self._neutral = (np.array(card.input.mean) * 255).round().astype(np.uint8)[:, None]
        self.kept: tuple[Image, Labels] | None = None
        """All of it, if it is small enough to be kept in memory."""
        with self._open() as source:
            self.geobox: GeoBox = source.info.geobox
            known = known_scaling(source.info, card.input.scale, None)
            self._scaling = known or sampled_scaling(source.sample(values=True), source.info)
            self.notes = [note for one in source.extra for note in (*one.info.guesses, *one.about()[0])]
            """What to tell the user about the files of further bands."""

    @property
    def box(self) -> Box:
        """All rows and columns."""
        return Span(0, self.geobox.height), Span(0, self.geobox.width)

    @property
    def size(self) -> int:
        """Bytes that image and labels take in memory."""
        return (self.bands + 1) * self.geobox.height * self.geobox.width

    def read(self, rows: Span, cols: Span) -> tuple[Image, Labels]:
        """Read a part: ``(bands, rows, cols)`` as the network is to see it, and its label sets."""
        if self.kept is None:
            return self._load(rows, cols)
        box = np.s_[rows.start : rows.stop, cols.start : cols.stop]
        image, labels = self.kept
        return image[:, *box], labels[box]

    def shown(self, rows: Span, cols: Span, hidden: Sequence[Box]) -> Image:
        """Return the ``(bands, n)`` pixels of a part that have data and are not hidden."""
        image, _ = self.read(rows, cols)
        return image[:, self.seen(image, rows, cols, hidden)]

    def seen(self, image: Image, rows: Span, cols: Span, hidden: Sequence[Box]) -> Bools:
        """Say which pixels of a part, of which this is the image, have data and are not hidden."""
        known = _without(hidden, np.ones(image.shape[1:], dtype=np.uint8), rows, cols) > 0
        return np.asarray(known & (image != self._neutral[..., None]).any(axis=0))

    def _load(self, rows: Span, cols: Span) -> tuple[Image, Labels]:
        # Opened each time: training reads in one thread and validates in another.
        with self._open() as source:
            source.scaling = self._scaling
            image, valid = source.read(rows, cols)
        labels = np.zeros(valid.shape, dtype=np.uint8)
        for layer in self.layers:
            found = layer.read(rows, cols)
            np.copyto(labels, found, where=found > 0)
        labels[~valid] = 0
        image[:, ~valid] = self._neutral
        return image, labels


@dataclass(frozen=True, slots=True)
class Sample:
    """A part of a scene, to train on or to validate on."""

    scene: LabelledScene
    rows: Span
    cols: Span
    hidden: tuple[Box, ...]
    """Parts of the scene whose labels do not count."""
    anchors: dict[int, Points]
    """Label set -> rows and columns, within the sample, of some pixels that have it."""
    labelled: float
    """Pixels with a label."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.rows.size, self.cols.size

    def cut(self, top: int, left: int, height: int, width: int) -> tuple[Image, Labels]:
        """Read a part: ``(bands, height, width)`` and its ``(height, width)`` label sets."""
        rows = Span(self.rows.start + top, self.rows.start + top + height)
        cols = Span(self.cols.start + left, self.cols.start + left + width)
        image, labels = self.scene.read(rows, cols)
        return image, _without(self.hidden, labels, rows, cols)

    def read(self) -> tuple[Image, Labels]:
        """Read all of it."""
        return self.cut(0, 0, *self.shape)

    def pieces(self, side: int) -> list["Sample"]:
        """Cut a large sample into samples of at most `side` pixels along each axis."""
        return [replace(self, rows=rows, cols=cols) for rows, cols in pieces((self.rows, self.cols), side)]


def pieces(box: Box, side: int) -> list[Box]:
    """Cut a part of a scene into parts of at most `side` pixels along each axis."""
    rows, cols = box
    return list(product(rows.cut(side), cols.cut(side)))


def sample_of(scene: LabelledScene, box: Box, hidden: tuple[Box, ...] = ()) -> Sample | None:
    """Make a sample of what is labelled in a part of a scene, and not hidden; None if nothing is.

    Of a scene in memory only what holds all labelled pixels of the part is taken.
    """
    counts, found = survey(scene, box, hidden)
    if not counts.any():
        return None
    rows, cols = box
    if scene.kept:
        known = _without(hidden, scene.read(rows, cols)[1], rows, cols) > 0
        y, x = np.flatnonzero(known.any(axis=1)), np.flatnonzero(known.any(axis=0))
        rows = Span(rows.start + int(y[0]), rows.start + int(y[-1]) + 1)
        cols = Span(cols.start + int(x[0]), cols.start + int(x[-1]) + 1)
    origin = np.array([rows.start, cols.start])
    anchors = {index: (points - origin).astype(np.int32) for index, points in found.items()}
    return Sample(scene, rows, cols, hidden, anchors, float(counts.sum()))


def survey(
    scene: LabelledScene, box: Box, hidden: tuple[Box, ...] = (), looks: int = LOOKS
) -> tuple[Counts, dict[int, Points]]:
    """Count the labels of a part of a scene, and remember where some of each are.

    A scene in memory is counted pixel by pixel. Of a larger one spots all over it are looked at, and around
    some of its polygons; counts are then estimates. What is hidden or unknown does not count.
    """
    rng = np.random.default_rng(0)
    counts = np.zeros(256)
    places: dict[int, list[Points]] = {}
    spots = _spots(scene, *box, looks)
    for y, x in spots:
        labels = _without(hidden, scene.read(y, x)[1], y, x)
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
    counts *= box[0].size * box[1].size / max(1, seen)
    return counts, {k: rng.permutation(np.concatenate(parts))[:_POINTS] for k, parts in places.items()}


def _without(hidden: Sequence[Box], labels: Labels, rows: Span, cols: Span) -> Labels:
    """Return the ``(rows, cols)`` labels of a part of a scene without those that are hidden."""
    if not hidden:
        return labels
    labels = labels.copy()
    for y, x in hidden:
        top, left = max(0, y.start - rows.start), max(0, x.start - cols.start)
        labels[top : max(0, y.stop - rows.start), left : max(0, x.stop - cols.start)] = 0
    return labels


def _spots(scene: LabelledScene, rows: Span, cols: Span, looks: int) -> list[Box]:
    """Name the parts to look at: everything, or a grid of spots and the surroundings of some polygons."""
    if scene.kept or max(rows.size, cols.size) <= looks * _LOOK:
        return [(rows, cols)]
    lines = (np.linspace(span.start, span.stop - 1, looks).astype(int).tolist() for span in (rows, cols))
    drawn = [place for layer in scene.layers for place in layer.places]
    inside = [(r, c) for r, c in drawn if rows.start <= r < rows.stop and cols.start <= c < cols.stop]
    return [(_around(row, rows), _around(col, cols)) for row, col in (*product(*lines), *inside)]


def _around(center: int, limits: Span) -> Span:
    start = max(limits.start, min(center - _LOOK // 2, limits.stop - _LOOK))
    return Span(start, min(start + _LOOK, limits.stop))
