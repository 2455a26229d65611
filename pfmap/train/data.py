"""The data sets of a training: their images and labels, what of them is trained on, what is held out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pfmap.core.errors import TrainingError
from pfmap.core.resources import free_memory
from pfmap.raster.parts import found_file, refuse_pointers
from pfmap.train.config import SourceSpec, TrainingConfig
from pfmap.train.label_layers import ClassSets, Labels, PolygonLayer, PolygonLegend, RasterLayer
from pfmap.train.labelled_image import LabelledScene, Sample, pieces, sample_of
from pfmap.train.split import hold_out
from pfmap.vector.labels import PolygonFile, is_vector

_SPREAD = 1024  # side of the parts of a large sample of which only some are wanted
_SHARE = 4  # of the free memory, the part that scenes may be kept in

PIECE = 4096
"""Largest side of what is mapped in memory."""


@dataclass(frozen=True, slots=True)
class Source:
    """One data set."""

    spec: SourceSpec
    train: tuple[Sample, ...]
    """What is trained on."""
    validation: tuple[Sample, ...]
    """What is held out."""
    holders: dict[int, list[int]]
    """Label set -> indices of the training samples that have it, for sets of one class."""
    chances: npt.NDArray[np.float64]
    """How likely each training sample is drawn: by its labelled pixels."""
    green: tuple[Labels, Labels]
    """What the colour rule makes of each label where the image is green, and where it is not."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """All sources and the table that their labels point into."""

    sources: tuple[Source, ...]
    sets: ClassSets


def load_data(config: TrainingConfig, folder: Path) -> TrainingData:
    """Open all sources of a configuration; what fits into memory is read at once.

    Raises:
        TrainingError: a source has no images, no labels, only one class, or sizes differ.
        SourceError: a file cannot be read.
    """
    sets = ClassSets(tuple(spec.name for spec in config.card.classes))
    scenes = [_open_scenes(spec, config, folder, sets) for spec in config.sources]
    _keep_what_fits([scene for group in scenes for scene in group])
    # Colour rules after all labels: they add the sets they lead to.
    parts = [
        _split(spec, group, config.training.seed) for spec, group in zip(config.sources, scenes, strict=True)
    ]
    sources = [_source(spec, *part, sets) for spec, part in zip(config.sources, parts, strict=True)]
    _refuse_one_class(sources, sets)
    return TrainingData(tuple(sources), sets)


def spread(samples: Sequence[Sample], limit: int) -> Sequence[Sample]:
    """Choose parts that together have about `limit` pixels, from all over; everything, if that is less."""
    total = sum(sample.rows.size * sample.cols.size for sample in samples)
    if total <= limit:
        return samples
    parts = [piece for sample in samples for piece in sample.pieces(_SPREAD)]
    count = max(1, len(parts) * limit // total)
    return [parts[k] for k in np.linspace(0, len(parts) - 1, count).astype(int).tolist()]


def _open_scenes(
    spec: SourceSpec, config: TrainingConfig, folder: Path, sets: ClassSets
) -> list[LabelledScene]:
    root = Path(spec.images).anchor
    pattern = spec.images[len(root) :]
    paths = sorted(path for path in (Path(root) if root else folder).glob(pattern) if path.is_file())
    if not paths:
        raise TrainingError(f"source {spec.name!r}: {folder / spec.images} matches no file")
    for path in paths:
        refuse_pointers(found_file(path, pattern))
    scenes = [LabelledScene(path, spec.bands or None, config.card) for path in paths]
    legends: dict[tuple[int, Path], PolygonLegend] = {}  # one polygon file may lie over many images
    for scene in scenes:
        for number, layer in enumerate(spec.layers):
            path = folder / layer.path.replace("{stem}", scene.path.stem)
            if not is_vector(str(path)):
                if "{stem}" in layer.path:  # found by its name
                    refuse_pointers(found_file(path, layer.path))
                scene.layers.append(RasterLayer(path, scene.path, scene.geobox, layer, sets))
                continue
            if (number, path) not in legends:
                file = PolygonFile(str(path), layer.field or None)
                legends[number, path] = PolygonLegend(file, layer, sets)
            scene.layers.append(PolygonLayer(legends[number, path], scene.path, scene.geobox))
    _refuse_far_polygons(spec, scenes)
    return scenes


def _refuse_far_polygons(spec: SourceSpec, scenes: Sequence[LabelledScene]) -> None:
    """Refuse polygons that none of a source's images shows."""
    for number, layer in enumerate(spec.layers):
        drawn = [scene.layers[number] for scene in scenes]
        if isinstance(drawn[0], PolygonLayer) and not any(layer.places for layer in drawn):
            raise TrainingError(
                f"source {spec.name!r}: no polygon of {layer.path} lies on {scenes[0].path}"
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
    held = hold_out(spec, scenes, seed)
    train: list[Sample] = []
    validation: list[Sample] = []
    for scene, boxes in zip(scenes, held, strict=True):
        rest = sample_of(scene, scene.box, tuple(boxes))
        parts = [sample_of(scene, piece) for box in boxes for piece in pieces(box, PIECE)]
        train += [rest] if rest else []
        validation += [part for part in parts if part]
    if not train:
        where = scenes[0].path.parent if len(scenes) > 1 else scenes[0].path
        raise TrainingError(
            f"source {spec.name!r} ({where}) has no labelled pixel left for training: check where its labels "
            "lie, their values, and its validation"
        )
    return train, validation


def _source(spec: SourceSpec, train: list[Sample], validation: list[Sample], sets: ClassSets) -> Source:
    holders: dict[int, list[int]] = {}
    for k, sample in enumerate(train):
        for index in sample.anchors:
            if len(sets.entries[index].members) == 1:
                holders.setdefault(index, []).append(k)
    labelled = np.array([sample.labelled for sample in train])
    chances = labelled / labelled.sum()
    return Source(spec, tuple(train), tuple(validation), holders, chances, _green_lookups(spec, sets))


def _green_lookups(spec: SourceSpec, sets: ClassSets) -> tuple[Labels, Labels]:
    """Say what each label becomes where the image is green, and where it is not."""
    above = np.arange(256, dtype=np.uint8)
    below = above.copy()
    if spec.green is None:
        return above, below
    green = frozenset([sets.classes.index(spec.green.name)])
    for index, (members, weight) in enumerate(tuple(sets.entries)):
        if weight and len(members) > 1 and green <= members:
            above[index] = sets.add(green, weight)
            below[index] = sets.add(members - green, weight)
    return above, below


def _refuse_one_class(sources: Sequence[Source], sets: ClassSets) -> None:
    """Refuse data that cannot teach a difference: every labelled pixel may be of one and the same class."""
    used = {index for source in sources for sample in source.train for index in sample.anchors}
    common = frozenset.intersection(*(sets.entries[index].members for index in used))
    if common:
        name = sets.classes[min(common)]
        raise TrainingError(
            f"all labels of the training part may be {name!r}: there is nothing to tell it from; label "
            "something else too, or say what lies outside the polygons with rest"
        )
