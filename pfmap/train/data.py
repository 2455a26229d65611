"""The data sets of a training: scenes with labels, what of them is trained on, what is held out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pfmap.core.errors import TrainingError
from pfmap.core.grid import Span
from pfmap.core.resources import free_memory
from pfmap.train.config import LayerSpec, SourceSpec, TrainingConfig
from pfmap.train.label_layers import ClassSets, LabelLayer, Labels, PolygonLayer, PolygonLegend, RasterLayer
from pfmap.train.labelled_image import Image, LabelledScene
from pfmap.train.split import LOOKS, Cell, Cells, Counts, Points, choose_blocks, mask_of, named_part, survey
from pfmap.vector.labels import PolygonFile, is_vector

_LOOKS_IN_ALL = 6000  # at a scene that is looked at block by block
_SPREAD = 1024  # side of the parts of a large sample of which only some are wanted
_SHARE = 4  # of the free memory, the part that scenes may be kept in

PIECE = 4096
"""Largest side of what is mapped in memory."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A part of a scene, to train on or to validate on.

    Attributes:
        scene: what it is a part of.
        rows: of the scene.
        cols: of the scene.
        hidden: parts of the scene whose labels do not count.
        anchors: ``{label set: rows and columns}`` within the sample, where it can be found.
        labelled: pixels with a label.
    """

    scene: LabelledScene
    rows: Span
    cols: Span
    hidden: tuple[tuple[Span, Span], ...]
    anchors: dict[int, Points]
    labelled: float

    @property
    def name(self) -> str:
        """The image's file name."""
        return self.scene.path.name

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.rows.size, self.cols.size

    def cut(self, top: int, left: int, height: int, width: int) -> tuple[Image, Labels]:
        """Read a part: ``(3, height, width)`` and its ``(height, width)`` label sets."""
        rows = Span(self.rows.start + top, self.rows.start + top + height)
        cols = Span(self.cols.start + left, self.cols.start + left + width)
        image, labels = self.scene.read(rows, cols)
        if self.hidden:
            labels = np.where(mask_of(self.hidden, rows, cols), np.uint8(0), labels)
        return image, labels

    def pieces(self, side: int) -> list["Sample"]:
        """Cut a large sample into samples of at most `side` pixels along each axis."""
        return [replace(self, rows=rows, cols=cols) for rows, cols in _pieces(self.rows, self.cols, side)]

    @property
    def image(self) -> Image:
        """All of the image, ``(3, height, width)``."""
        return self.cut(0, 0, *self.shape)[0]

    @property
    def labels(self) -> Labels:
        """All of the labels."""
        return self.cut(0, 0, *self.shape)[1]


@dataclass(frozen=True, slots=True)
class Source:
    """One data set; `green` maps a label to what the colour rule makes of it, or is None.

    Attributes:
        spec: its configuration.
        train: what is trained on.
        validation: what is held out.
        holders: ``{label set: indices of the training samples that have it}`` for sets of one class.
        chances: how likely each training sample is drawn: by its labelled pixels.
    """

    spec: SourceSpec
    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    holders: dict[int, tuple[int, ...]]
    chances: npt.NDArray[np.float64]
    green_above: Labels | None
    green_below: Labels | None


@dataclass(frozen=True, slots=True)
class TrainingData:
    """All sources and the table that their labels point into."""

    sources: tuple[Source, ...]
    sets: ClassSets


def load_data(config: TrainingConfig, folder: Path) -> TrainingData:
    """Open all sources of a configuration; what fits into memory is read at once.

    Args:
        config: the training configuration.
        folder: what its paths are relative to.

    Raises:
        TrainingError: a source has no images, no labels, only one class, or sizes differ.
        SourceError: a file cannot be read.
    """
    sets = ClassSets(tuple(spec.name for spec in config.card.classes))
    scenes = [_open_scenes(spec, config, folder, sets) for spec in config.sources]
    _keep_what_fits([scene for group in scenes for scene in group])
    # Colour rules after all labels: they add the sets they lead to.
    seed = config.training.seed
    parts = [_split(spec, group, seed) for spec, group in zip(config.sources, scenes, strict=True)]
    sources = [
        _source(spec, train, validation, sets)
        for spec, (train, validation) in zip(config.sources, parts, strict=True)
    ]
    _refuse_one_class(sources, sets)
    return TrainingData(tuple(sources), sets)


def _open_scenes(
    spec: SourceSpec, config: TrainingConfig, folder: Path, sets: ClassSets
) -> list[LabelledScene]:
    root = Path(spec.images).anchor
    pattern = spec.images[len(root) :]
    paths = sorted(path for path in (Path(root) if root else folder).glob(pattern) if path.is_file())
    if not paths:
        raise TrainingError(f"source {spec.name!r}: {folder / spec.images} matches no file")
    scenes = [LabelledScene(path, spec.bands or None, config.card) for path in paths]
    legends: dict[Path, PolygonLegend | None] = {}  # one polygon file may lie over many images
    for scene in scenes:
        for layer in spec.layers:
            where = folder / layer.path.replace("{stem}", scene.path.stem)
            if where not in legends:
                legends[where] = _polygon_legend(str(where), layer, sets)
            scene.layers.append(_label_layer(legends[where], where, layer, scene, sets))
    _refuse_far_polygons(spec, scenes)
    return scenes


def _polygon_legend(text: str, spec: LayerSpec, sets: ClassSets) -> PolygonLegend | None:
    return PolygonLegend(PolygonFile(text, spec.field or None), spec, sets) if is_vector(text) else None


def _label_layer(
    legend: PolygonLegend | None, where: Path, spec: LayerSpec, scene: LabelledScene, sets: ClassSets
) -> LabelLayer:
    if legend is not None:
        return PolygonLayer(legend, scene.path, scene.geobox)
    return RasterLayer(where, scene.path, scene.shape, spec, sets)


def _refuse_far_polygons(spec: SourceSpec, scenes: Sequence[LabelledScene]) -> None:
    """Refuse polygons that none of a source's images shows.

    Raises:
        TrainingError: there are some.
    """
    drawn = [
        [layer for layer in layers if isinstance(layer, PolygonLayer)]
        for layers in zip(*(scene.layers for scene in scenes), strict=True)
    ]
    for number, layers in enumerate(drawn):
        if layers and not any(layer.places for layer in layers):
            scene = scenes[0]
            raise TrainingError(
                f"source {spec.name!r}: no polygon of {spec.layers[number].path} lies on {scene.path}"
                f"{' or any other of its images' * (len(scenes) > 1)}: check place and CRS of the two"
            )


def _keep_what_fits(scenes: Sequence[LabelledScene]) -> None:
    """Read scenes into memory, the small ones first, as long as there is plenty."""
    left = free_memory() // _SHARE
    for scene in sorted(scenes, key=lambda scene: scene.size):
        left -= scene.size
        if left < 0:
            break
        scene.keep()


def _split(spec: SourceSpec, scenes: Sequence[LabelledScene], seed: int) -> tuple[list[Sample], list[Sample]]:
    """Say what of a source is trained on, and what is held out."""
    held: list[list[tuple[Span, Span]]]
    if spec.validation.share:
        held = _held_blocks(spec, scenes, seed)
    else:
        named = [named_part(spec.validation, scene.path.stem, *scene.shape) for scene in scenes]
        held = [[part] if part is not None else [] for part in named]
    train: list[Sample] = []
    validation: list[Sample] = []
    for scene, boxes in zip(scenes, held, strict=True):
        rest = _sample(scene, Span(0, scene.shape[0]), Span(0, scene.shape[1]), tuple(boxes))
        if rest is not None:
            train.append(rest)
        pieces = [piece for rows, cols in boxes for piece in _pieces(rows, cols, PIECE)]
        validation += [s for s in (_sample(scene, *piece, ()) for piece in pieces) if s is not None]
    if not train:
        where = scenes[0].path.parent if len(scenes) > 1 else scenes[0].path
        raise TrainingError(
            f"source {spec.name!r} ({where}) has no labelled pixel left for training: check where its labels "
            "lie, their values, and its validation"
        )
    return train, validation


def _held_blocks(
    spec: SourceSpec, scenes: Sequence[LabelledScene], seed: int
) -> list[list[tuple[Span, Span]]]:
    """Choose blocks to hold out, and return each scene's rows and columns of them."""
    cut = [Cells(scene.geobox, spec.validation.block, number).boxes() for number, scene in enumerate(scenes)]
    counts: dict[Cell, Counts] = {}
    for scene, boxes in zip(scenes, cut, strict=True):
        looks = max(2, min(LOOKS, math.isqrt(_LOOKS_IN_ALL // len(boxes))))
        for cell, rows, cols in boxes:
            counts[cell] = counts.get(cell, np.zeros(256)) + survey(scene, rows, cols, (), looks)[0]
    chosen = choose_blocks(counts, spec.validation.share, seed, spec.name)
    return [[(rows, cols) for cell, rows, cols in boxes if cell in chosen] for boxes in cut]


def spread(samples: Sequence[Sample], limit: int) -> Sequence[Sample]:
    """Choose parts that together have about `limit` pixels, from all over; everything, if that is less."""
    total = sum(sample.rows.size * sample.cols.size for sample in samples)
    if total <= limit:
        return samples
    pieces = [piece for sample in samples for piece in sample.pieces(_SPREAD)]
    count = max(1, len(pieces) * limit // total)
    return [pieces[k] for k in np.linspace(0, len(pieces) - 1, count).astype(int).tolist()]


def _pieces(rows: Span, cols: Span, side: int) -> list[tuple[Span, Span]]:
    return [
        (Span(top, min(top + side, rows.stop)), Span(left, min(left + side, cols.stop)))
        for top in range(rows.start, rows.stop, side)
        for left in range(cols.start, cols.stop, side)
    ]


def _sample(
    scene: LabelledScene, rows: Span, cols: Span, hidden: tuple[tuple[Span, Span], ...]
) -> Sample | None:
    """Make a sample of a part of a scene, of what is labelled in it; None if nothing is."""
    counts, found = survey(scene, rows, cols, hidden)
    if not counts.any():
        return None
    if scene.kept:
        rows, cols = _labelled_box(scene, rows, cols, hidden)
    origin = np.array([rows.start, cols.start])
    anchors = {index: (points - origin).astype(np.int32) for index, points in found.items()}
    return Sample(scene, rows, cols, hidden, anchors, float(counts.sum()))


def _labelled_box(
    scene: LabelledScene, rows: Span, cols: Span, hidden: tuple[tuple[Span, Span], ...]
) -> tuple[Span, Span]:
    """Return the rows and columns that hold all labelled pixels."""
    known = (scene.read(rows, cols)[1] > 0) & ~mask_of(hidden, rows, cols)
    y, x = np.flatnonzero(known.any(axis=1)), np.flatnonzero(known.any(axis=0))
    return (
        Span(rows.start + int(y[0]), rows.start + int(y[-1]) + 1),
        Span(cols.start + int(x[0]), cols.start + int(x[-1]) + 1),
    )


def _source(spec: SourceSpec, train: list[Sample], validation: list[Sample], sets: ClassSets) -> Source:
    holders: dict[int, list[int]] = {}
    for number, sample in enumerate(train):
        for index in sample.anchors:
            if sets.sure(index):
                holders.setdefault(index, []).append(number)
    labelled = np.array([sample.labelled for sample in train])
    above, below = _green_lookups(spec, sets)
    return Source(
        spec,
        tuple(train),
        tuple(validation),
        {index: tuple(numbers) for index, numbers in holders.items()},
        labelled / labelled.sum(),
        above,
        below,
    )


def _refuse_one_class(sources: Sequence[Source], sets: ClassSets) -> None:
    """Refuse data that cannot teach a difference.

    Raises:
        TrainingError: every labelled pixel may be of one and the same class.
    """
    used = {index for source in sources for sample in source.train for index in sample.anchors}
    common = frozenset.intersection(*(sets.members(index) for index in used))
    if common:
        name = sets.classes[min(common)]
        raise TrainingError(
            f"all labels of the training part may be {name!r}: there is nothing to tell it from; label "
            "something else too, or say what lies outside the polygons with rest"
        )


def _green_lookups(spec: SourceSpec, sets: ClassSets) -> tuple[Labels | None, Labels | None]:
    """Say what each label becomes where the image is green, and where it is not."""
    if spec.green is None:
        return None, None
    green = frozenset([sets.classes.index(spec.green.name)])
    above = np.arange(256, dtype=np.uint8)
    below = above.copy()
    for index in range(len(sets)):
        members, weight = sets.members(index), sets.weight(index)
        if weight and len(members) > 1 and green <= members:
            above[index] = sets.add(green, weight)
            below[index] = sets.add(members - green, weight)
    return above, below
