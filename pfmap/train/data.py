"""Data sets in memory: images, and labels as indices into a table of class sets.

A label says which classes a pixel may be. "Building" is a set of one, "not a building" a set of several,
"unknown" the set of all. One byte per pixel points into one table for all sources, so that full, partial and
missing labels are the same thing to everything that follows.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pfmap.errors import TrainingError
from pfmap.raster.image import read_image
from pfmap.train.config import LayerSpec, SourceSpec, Split, TrainingConfig

Labels = npt.NDArray[np.uint8]
Image = npt.NDArray[np.uint8]


class ClassSets:
    """The table of label sets; entry 0 is "unknown": every class, weight 0."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes = classes
        everything = frozenset(range(len(classes)))
        self._entries: list[tuple[frozenset[int], float]] = [(everything, 0.0)]

    def add(self, members: frozenset[int], weight: float) -> int:
        """Find or make the entry for these classes with this weight, and return its index."""
        entry = (members, weight)
        if entry not in self._entries:
            if len(self._entries) == 256:
                raise TrainingError("the sources use more than 255 different label sets")
            self._entries.append(entry)
        return self._entries.index(entry)

    def add_named(self, names: tuple[str, ...], weight: float) -> int:
        """Find or make the entry for classes given by name."""
        return self.add(frozenset(self.classes.index(name) for name in names), weight)

    def members(self, index: int) -> frozenset[int]:
        """Return the classes of an entry."""
        return self._entries[index][0]

    def weight(self, index: int) -> float:
        """Return the weight of an entry."""
        return self._entries[index][1]

    def __len__(self) -> int:
        return len(self._entries)

    def table(self) -> npt.NDArray[np.bool_]:
        """Return ``(S, classes)`` bool: which classes each entry allows."""
        out = np.zeros((len(self), len(self.classes)), dtype=bool)
        for index, (members, _) in enumerate(self._entries):
            out[index, sorted(members)] = True
        return out

    def weights(self) -> npt.NDArray[np.float32]:
        """Return ``(S,)`` float32 weights."""
        return np.array([weight for _, weight in self._entries], dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled image.

    Attributes:
        name: for messages.
        image: ``(3, height, width)`` uint8.
        labels: ``(height, width)`` uint8 indices into the class sets.
        anchors: ``{set index: (n, 2) rows and columns}``: where sure classes can be found, for balanced
            sampling.
    """

    name: str
    image: Image
    labels: Labels
    anchors: dict[int, npt.NDArray[np.int32]]


@dataclass(frozen=True, slots=True)
class Source:
    """One data set in memory; `green` maps a label to what the colour rule makes of it, or is None."""

    spec: SourceSpec
    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    green_above: Labels | None
    green_below: Labels | None


@dataclass(frozen=True, slots=True)
class TrainingData:
    """All sources and the table that their labels point into."""

    sources: tuple[Source, ...]
    sets: ClassSets


def load_data(config: TrainingConfig, folder: Path) -> TrainingData:
    """Read all sources of a configuration.

    Args:
        config: the training configuration.
        folder: what its paths are relative to.

    Raises:
        TrainingError: a source has no images, no labels, or sizes differ.
        SourceError: a file cannot be read.
    """
    sets = ClassSets(tuple(spec.name for spec in config.card.classes))
    # What prediction shows the network where a scene has no data: the mean colour.
    neutral = np.array([config.card.input.mean]).T * config.card.input.scale
    loaded = [(spec, *_load_samples(spec, folder, sets, neutral)) for spec in config.sources]
    # Rules after all labels: they add the sets they lead to.
    lookups = [_green_lookups(spec, sets) for spec in config.sources]
    sources = [
        Source(spec, train, validation, above, below)
        for (spec, train, validation), (above, below) in zip(loaded, lookups, strict=True)
    ]
    return TrainingData(tuple(sources), sets)


def _load_samples(
    spec: SourceSpec, folder: Path, sets: ClassSets, neutral: npt.NDArray[np.float64]
) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    paths = sorted(folder.glob(spec.images))
    if not paths:
        raise TrainingError(f"source {spec.name!r}: {folder / spec.images} matches no file")
    train: list[Sample] = []
    validation: list[Sample] = []
    for path in paths:
        image, valid = read_image(path)
        if image.shape[0] != 3:
            raise TrainingError(f"{path} has {image.shape[0]} colour bands: training needs 3")
        labels = _read_labels(path, image.shape[1:], spec.layers, folder, sets)
        labels[~valid] = 0
        image[:, ~valid] = neutral.round().astype(np.uint8)
        held_out = _held_out(spec.validation, path.stem, labels.shape)
        for samples, part in ((validation, held_out), (train, ~held_out)):
            known = np.where(part, labels, np.uint8(0))
            if known.any():
                box = _bounding_box(known)
                samples.append(_sample(path.name, image[:, *box], known[box], sets))
    if not train:
        raise TrainingError(f"source {spec.name!r} has no image left for training: check its validation")
    return tuple(train), tuple(validation)


def _held_out(split: Split, stem: str, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Say which pixels of an image are for validation: ``(height, width)`` bool."""
    held_out = np.zeros(shape, dtype=bool)
    if split.stems:
        held_out[:] = re.search(split.stems, stem) is not None
    elif split.columns or split.rows:
        held_out[slice(*(split.rows or (None,))), slice(*(split.columns or (None,)))] = True
    return held_out


def _bounding_box(labels: Labels) -> tuple[slice, slice]:
    """Return the rows and columns that hold all labelled pixels."""
    rows, cols = np.flatnonzero(labels.any(axis=1)), np.flatnonzero(labels.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(cols[0]), int(cols[-1]) + 1)


def _read_labels(
    path: Path, shape: tuple[int, ...], layers: tuple[LayerSpec, ...], folder: Path, sets: ClassSets
) -> Labels:
    labels = np.zeros(shape, dtype=np.uint8)
    for layer in layers:
        where = folder / layer.path.format(stem=path.stem)
        raster = read_image(where)[0][0]
        if raster.shape != shape:
            raise TrainingError(
                f"{where} is {raster.shape[1]} x {raster.shape[0]} pixels, its image {path} "
                f"{shape[1]} x {shape[0]}: labels lie on the image's grid"
            )
        lookup = np.zeros(256, dtype=np.uint8)
        for value, names in layer.values.items():
            lookup[value] = sets.add_named(names, layer.weight)
        found = lookup[raster]
        np.copyto(labels, found, where=found > 0)
    return labels


def _sample(name: str, image: Image, labels: Labels, sets: ClassSets) -> Sample:
    rng = np.random.default_rng(0)
    anchors = {}
    for index in np.unique(labels):
        if len(sets.members(int(index))) == 1:
            at = np.flatnonzero(labels == index)
            some = rng.choice(at, size=min(len(at), 500), replace=False)
            anchors[int(index)] = np.stack(np.divmod(some, labels.shape[1]), axis=1).astype(np.int32)
    return Sample(name, np.ascontiguousarray(image), np.ascontiguousarray(labels), anchors)


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
