"""The data sets of a training: their images and labels, what of them is trained on, what is held out."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from glob import has_magic
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from pfmap.core.arrays import Floats
from pfmap.core.errors import SourceError, TrainingError, few
from pfmap.core.grid import GeoBox, mean_size
from pfmap.core.resources import free_memory
from pfmap.raster.parts import found_file, found_rasters, refuse_pointers
from pfmap.raster.view import figures_of
from pfmap.train.config import LayerSpec, Paint, SourceSpec, Split, TrainingConfig
from pfmap.train.label_layers import ClassSets, Labels, PolygonLayer, PolygonLegend, RasterLayer
from pfmap.train.labelled_image import Image, LabelledScene, Sample, pieces, sample_of
from pfmap.train.split import hold_out
from pfmap.vector.geodesy import pixel_size
from pfmap.vector.labels import PolygonFile, PolygonTally, remarks
from pfmap.vector.layer import OWN_DATA, find_layer, is_vector, refuse_leads

_SPREAD = 1024  # side of the parts of a large sample of which only some are wanted
_LOOKS = 16_000_000  # pixels of a source
_EVERY, _RARE = 4, (2, 98)  # of the pixels one in so many; percentiles
_SHARE = 4  # of the free memory, the part that scenes may be kept in

PIECE = 4096
"""Largest side of what is mapped in memory."""


@dataclass(frozen=True, slots=True)
class Source:
    """One data set."""

    spec: SourceSpec
    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    holders: dict[int, list[int]]
    """Label set -> indices of the training samples that have it, for sets of one class."""
    chances: Floats
    """How likely each training sample is drawn: by its labelled pixels."""
    green: tuple[Labels, Labels]
    """What the colour rule makes of each label where the image is green, and where it is not."""
    paint: dict[Paint, tuple[int, ...]]
    """What is painted -> label sets of the ground over which it may be; the first is what it is itself."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """All sources and the table that their labels point into."""

    sources: tuple[Source, ...]
    sets: ClassSets
    notes: tuple[str, ...] = ()
    """What of the labels was left out, mended, or taken for granted."""

    def learned(self, zoom: tuple[float, ...]) -> dict[str, Any]:
        """Return how the images look that are trained on, but rare ones, as `Card.learned` has it."""
        usual: dict[str, list[Floats]] = {}
        sizes: list[float] = []
        for source in self.sources:
            looks = list(filter(None, map(figures_of, _shown(source.train))))
            for name in looks[0] if looks else ():
                usual.setdefault(name, []).append(np.percentile([one[name] for one in looks], _RARE, axis=0))
            metres = [_metres(sample.scene.geobox) for sample in source.train]
            sizes += [size / factor for size in metres for factor in source.spec.scale or zoom]
        ends = {name: [np.min(pairs, axis=0)[0], np.max(pairs, axis=0)[1]] for name, pairs in usual.items()}
        ends |= {"gsd": [[min(sizes)], [max(sizes)]]} if all(sizes) else {}
        return {name: np.stack(pair, axis=1).round(4).tolist() for name, pair in ends.items()}


def _shown(samples: Sequence[Sample]) -> Iterator[Image]:
    """Yield some of the pixels that parts from all over samples show."""
    for sample in spread(samples, _LOOKS):
        for part in sample.pieces(_SPREAD):
            yield part.scene.shown(part.rows, part.cols, part.hidden)[:, ::_EVERY]


def load_data(config: TrainingConfig, folder: Path) -> TrainingData:
    """Open all sources of a configuration, whose paths are relative to the folder.

    What fits into memory is read at once. A `TrainingError` says that there are no images or labels, or only
    one class.
    """
    sets = ClassSets(tuple(spec.name for spec in config.card.classes))
    opened = [(spec, _open_scenes(spec, config, folder, sets)) for spec in config.sources]
    notes = [note for one in opened for note in _about_layers(*one)]
    _keep_what_fits([scene for _, scenes in opened for scene in scenes])
    # Colour rules after all labels: they add the sets they lead to.
    parts = [(spec, scenes, *_split(spec, scenes, config.training.seed)) for spec, scenes in opened]
    notes += [note for part in parts for note in _about_labels(*part)]
    sources = [_source(spec, train, validation, sets) for spec, _, train, validation in parts]
    notes += _about_classes(sources, sets)
    return TrainingData(tuple(sources), sets, tuple(notes))


def _metres(box: GeoBox) -> float:
    """Return the size of a pixel; 0 where it is unknown, or none."""
    try:
        return mean_size(pixel_size(box) or (0.0, 0.0))
    except SourceError:
        return 0.0


def pixels_of(samples: Iterable[Sample]) -> int:
    """Count the pixels of samples."""
    return sum(math.prod(sample.shape) for sample in samples)


def spread(samples: Sequence[Sample], limit: int) -> Sequence[Sample]:
    """Choose parts that together have about `limit` pixels, from all over; everything, if that is less."""
    if (total := pixels_of(samples)) <= limit:
        return samples
    parts = [piece for sample in samples for piece in sample.pieces(_SPREAD)]
    count = max(1, len(parts) * limit // total)
    return [parts[k] for k in np.linspace(0, len(parts) - 1, count).astype(int).tolist()]


def _open_scenes(
    spec: SourceSpec, config: TrainingConfig, folder: Path, sets: ClassSets
) -> list[LabelledScene]:
    # A pattern lies in an image's folder where its path is not a whole one.
    extra = {name: str(folder.absolute() / file) for name, file in spec.extra.items()}
    scenes = [LabelledScene(path, spec.bands or None, config.card, extra) for path in _images(spec, folder)]
    legends: dict[tuple[int, Path], PolygonLegend] = {}  # one polygon file may lie over many images
    masks: dict[Path, Path] = {}
    for scene in scenes:
        for number, layer in enumerate(spec.layers):
            path = folder / layer.path.replace("{stem}", scene.path.stem)
            if own := "{stem}" in layer.path:
                _refuse_pointer(Path(find_layer(str(path), "label file")[0]), layer.path)
            if not is_vector(str(path)):
                if own and (other := masks.setdefault(path, scene.path)) != scene.path:
                    raise TrainingError(
                        f"{other} and {scene.path} have one name, and so the same labels, {path}: rename one"
                    )
                scene.layers.append(RasterLayer(path, scene.path, scene.geobox, layer, sets))
                continue
            if (number, path) not in legends:
                file = PolygonFile(str(path), layer.field or None, layer.checked or None)
                legends[number, path] = PolygonLegend(file, layer, sets)
            scene.layers.append(PolygonLayer(legends[number, path], scene.path, scene.geobox))
    return scenes


def _images(spec: SourceSpec, folder: Path) -> list[Path]:
    """Find the images of a source."""
    root = Path(spec.images).anchor
    base, pattern = Path(root or folder), spec.images[len(root) :]
    named = [base / pattern] if (base / pattern).is_file() else []
    paths = found_rasters(base, pattern) if has_magic(pattern) else named
    if not paths:
        raise TrainingError(f"source {spec.name!r}: {folder / spec.images} matches no file")
    return paths


def _refuse_pointer(path: Path, pattern: str) -> None:
    """Refuse a file that a pattern found where what it shows would come from elsewhere."""
    if path.suffix.lower() in OWN_DATA:
        refuse_leads(path)
    elif (found := found_file(path, pattern)).driver:
        refuse_pointers(found)


def _about_layers(spec: SourceSpec, scenes: Sequence[LabelledScene]) -> Iterator[str]:
    """Say how the labels of a source, further bands and its images fit together, before pixels are read."""
    yield from _first(scene.notes for scene in scenes)
    for number, layer in enumerate(spec.layers):
        layers = [scene.layers[number] for scene in scenes]
        over = zip(scenes, layers, strict=True)
        if drawn := {scene.path: found for scene, found in over if isinstance(found, PolygonLayer)}:
            yield from _about_polygons(spec, layer, drawn)
        yield from _first(found.notes for found in layers)


def _first(notes: Iterable[Sequence[str]]) -> Iterator[str]:
    if some := ["; ".join(one) for one in notes if one]:
        yield some[0] + f" (and so on: {len(some)} images)" * (len(some) > 1)


def _about_polygons(spec: SourceSpec, layer: LayerSpec, drawn: Mapping[Path, PolygonLayer]) -> Iterator[str]:
    """Say what of the polygons over these images does not count; refuse them if none of these shows one."""
    counts = PolygonTally(*map(sum, zip(*(astuple(found.counted) for found in drawn.values()), strict=True)))
    name, first = PurePath(layer.path).name, next(iter(drawn))
    if not counts.placed:
        raise TrainingError(
            f"source {spec.name!r}: no feature of {layer.path} is a polygon on {first}"
            f"{' or any other of its images' * (len(drawn) > 1)}: check kind, place and CRS of the two"
            + "".join(f" ({note})" for note in drawn[first].notes)
        )
    files = list({id(found.legend): found.legend.file for found in drawn.values()}.values())
    # What lies outside of all of several images was not counted.
    yield from (f"{line} ({name})" for line in remarks(files, counts, whole=len(drawn) == 1))
    bare = [path.name for path, found in drawn.items() if not found.counted.placed]
    if bare and layer.rest:
        rest = " or ".join(layer.rest)
        yield f"warning: {_some(bare, len(drawn))} show no polygon of {name}: all of them counts as {rest}"


def _about_labels(
    spec: SourceSpec, scenes: Sequence[LabelledScene], train: Sequence[Sample], validation: Sequence[Sample]
) -> Iterator[str]:
    """Say which images have no label, that nothing is held out, and which values are no class."""
    some = {id(sample.scene) for sample in (*train, *validation)}
    if bare := [scene.path.name for scene in scenes if id(scene) not in some]:
        yield f"warning: {_some(bare, len(scenes))} have no labelled pixel: nothing is learned from them"
    if spec.validation != Split() and not validation:
        yield f"warning: source {spec.name!r} holds nothing out: no label lies where its validation says"
    for number, layer in enumerate(spec.layers):
        rasters = [found for scene in scenes if isinstance(found := scene.layers[number], RasterLayer)]
        values = sorted(set().union(*(raster.unnamed() for raster in rasters)))
        if values and not layer.rest:
            text = f"pixels of value {few(values, 8)} do not count, for they name no class"
            yield f"{PurePath(layer.path).name}: {text}"


def _some(names: Sequence[str], total: int) -> str:
    return f"{len(names)} of {total} images ({few(names)})"


def _keep_what_fits(scenes: Sequence[LabelledScene]) -> None:
    """Read scenes into memory, the small ones first, as long as there is plenty."""
    left = free_memory() // _SHARE
    for scene in sorted(scenes, key=lambda scene: scene.size):
        left -= scene.size
        if left < 0:
            break
        scene.kept = scene.read(*scene.box)


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
    add = sets.add_named
    paint = {kind: tuple(add((name,), 1.0) for name in names) for kind, names in spec.paint.items()}
    return Source(spec, tuple(train), tuple(validation), holders, chances, _green_lookups(spec, sets), paint)


def _green_lookups(spec: SourceSpec, sets: ClassSets) -> tuple[Labels, Labels]:
    """Say what each label becomes where the image is green, and where it is not."""
    above = np.arange(256, dtype=np.uint8)
    below = above.copy()
    if spec.green is None:
        return above, below
    green = frozenset([sets.classes.index(spec.green.name)])
    for index, entry in enumerate(tuple(sets.entries)):
        if entry.weight and len(entry.members) > 1 and green <= entry.members:
            above[index] = sets.add(entry._replace(members=green))
            below[index] = sets.add(entry._replace(members=entry.members - green))
    return above, below


def _about_classes(sources: Sequence[Source], sets: ClassSets) -> Iterator[str]:
    """Say which classes no label to train on speaks of; refuse labels that cannot teach a difference."""
    used = {index for source in sources for sample in source.train for index in sample.anchors}
    members = [sets.entries[index].members for index in used]
    if common := frozenset.intersection(*members):
        name = sets.classes[min(common)]
        raise TrainingError(
            f"all labels of the training part may be {name!r}: there is nothing to tell it from; label "
            "something else too, or say what lies outside the polygons with rest"
        )
    known = frozenset.union(*members)
    if unknown := ", ".join(name for index, name in enumerate(sets.classes) if index not in known):
        yield f"warning: no label to train on may be {unknown}: the model learns nothing of that"
