"""Labels: what a pixel may be, as rasters on the image's grid or polygons of any vector file say.

A label is a set of classes. "Building" is a set of one, "not a building" a set of several, "unknown" the set
of all. One byte per pixel points into one table for all sources, so that full, partial and missing labels are
the same thing to everything that follows.
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import max_pool2d

from pfmap.core.arrays import Array, Bools, Bytes
from pfmap.core.errors import TrainingError
from pfmap.core.grid import GeoBox, Span
from pfmap.raster.align import AlignedMap, burn_values
from pfmap.raster.location import locate
from pfmap.train.config import LayerSpec
from pfmap.vector.labels import LabelPolygons, PolygonFile, PolygonTally

Labels = Bytes
"""``(height, width)`` indices into a table of class sets; 0 is unknown."""

Labelled = Callable[[Span, Span], tuple[Labels, Array]]
"""Gives labels of rows and columns, and the ids of the objects there."""

ADVICE = "masks have one band, with the classes' numbers: take one with gdal_translate -b 1"
"""What to do about a label raster with several bands."""

_PLACES = 1000  # of polygons that are looked at in a large scene


class LabelSet(NamedTuple):
    """The classes that a pixel may be of, and how much it counts."""

    members: frozenset[int]
    weight: float
    contact: bool | None = None
    """Whether two objects meet there; None where that is unknown."""


class ClassSets:
    """The table of label sets; entry 0 is "unknown": every class, weight 0."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes = classes
        self.entries = [LabelSet(frozenset(range(len(classes))), 0.0)]

    def add(self, entry: LabelSet) -> int:
        """Find or make an entry, and return its index."""
        if entry not in self.entries:
            if len(self.entries) == 256:
                raise TrainingError("the sources use more than 255 different label sets")
            self.entries.append(entry)
        return self.entries.index(entry)

    def add_named(self, names: tuple[str, ...], weight: float) -> int:
        """Find or make the entry for classes given by name; no name is unknown."""
        return self.add(LabelSet(frozenset(map(self.classes.index, names)), weight)) if names else 0

    def table(self) -> Bools:
        """Return ``(S, classes)`` bool: which classes each entry allows."""
        return np.array([[k in each.members for k in range(len(self.classes))] for each in self.entries])

    def weights(self) -> npt.NDArray[np.float32]:
        """Return ``(S,)`` float32 weights."""
        return np.array([each.weight for each in self.entries], dtype=np.float32)

    def contacts(self) -> npt.NDArray[np.float32]:
        """Return ``(S,)`` float32: 1 where objects meet, 0 where none do, NaN where that is unknown."""
        return np.array([each.contact for each in self.entries], dtype=np.float32)


class Contacts:
    """Where objects of a layer meet, as part of its labels.

    `own` are the label sets of the classes whose objects are told apart, `others` those of other pixels.
    """

    def __init__(self, spec: LayerSpec, sets: ClassSets, own: set[int], others: set[int]) -> None:
        self.own = own
        self._near = spec.near if spec.instances else 0
        # Beside a checked object there may be others that nobody has checked.
        self._knows = bool(spec.instances or spec.apart) and not spec.checked
        self._told = np.tile(np.arange(256, dtype=np.uint8), (2, 1))
        for index in (own | others) - {0} if self._knows else ():
            for contact in (False, True):
                self._told[int(contact), index] = sets.add(sets.entries[index]._replace(contact=contact))

    def put(self, labelled: Labelled, rows: Span, cols: Span, box: GeoBox) -> Labels:
        """Read labels and ids of objects, 0 for none, around ``(rows, cols)``, and make them labels there."""
        if not self._knows:
            return labelled(rows, cols)[0]
        near = self._near
        y = Span(rows.start - near, rows.stop + near).clip(Span(0, box.height))
        x = Span(cols.start - near, cols.stop + near).clip(Span(0, box.width))
        labels, ids = labelled(y, x)
        meet = np.zeros(labels.shape, dtype=np.uint8)
        if near:
            some = torch.from_numpy(ids.astype(np.float64))[None]  # float32 takes large ids for one
            most = max_pool2d(some, 2 * near + 1, 1, near)
            least = -max_pool2d(-torch.where(some > 0, some, torch.inf), 2 * near + 1, 1, near)
            meet = (least < most)[0].numpy().astype(np.uint8)
        found = self._told[meet, labels]
        return np.ascontiguousarray(found[rows.within(y), cols.within(x)])


class RasterLayer:
    """Labels in a class raster; one on another grid is brought onto the image's, as `pfmap evaluate` does.

    A `TrainingError` says that the values are none of a raster's, a `SourceError` that it is no class raster.
    """

    places: tuple[tuple[int, int], ...] = ()
    """Empty: any place is as good."""

    def __init__(self, path: Path, image: Path, geobox: GeoBox, spec: LayerSpec, sets: ClassSets) -> None:
        self._path, self._image, self._geobox = path, image, geobox
        self._seen = np.zeros(256, dtype=bool)
        self._named = {int(value) for value in spec.values if value.isdecimal()}
        with self._opened() as source:
            notes = []
            if source.stated_nodata in self._named:
                value = f"{source.stated_nodata:g}"
                notes.append(
                    f"warning: {path} calls {value} nodata, so none of it counts as "
                    f"{' or '.join(spec.values[value])}: where it is that, use gdal_edit.py -unsetnodata"
                )
            if source.note:
                notes.append(source.note)
            elif source.moved:
                notes.append(f"{path} lies on another grid than {image}: brought onto that, pixel by pixel")
        self.notes = [_short(note, path, image) for note in notes]
        rest, own = (sets.add_named(names, spec.weight) for names in (spec.rest, spec.instances))
        self._lookup = np.full(256, rest, dtype=np.uint8)
        for value, names in spec.values.items():
            if not value.isdecimal() or int(value) > 255:
                raise TrainingError(
                    f"{path}: the label value {value!r} is none: rasters hold whole numbers up to 255"
                )
            self._lookup[int(value)] = sets.add_named(names, spec.weight)
        if spec.instances and (spec.values or len(spec.instances) > 1):
            raise TrainingError(
                f"{path}: a raster holds the ids of one class's objects: name that class in instances, and "
                "no values"
            )
        self._contacts = Contacts(spec, sets, {own}, set(self._lookup.tolist()))

    def read(self, rows: Span, cols: Span) -> Labels:
        """Read ``(rows, cols)`` label sets, 0 where nothing is said; values above 255 are ids, or raise."""
        return self._contacts.put(self._labelled, rows, cols, self._geobox)

    def _labelled(self, rows: Span, cols: Span) -> tuple[Labels, Array]:
        with self._opened() as source:
            values = source.read(rows, cols)
            known = np.ones(values.shape, dtype=bool) if source.nodata is None else values != source.nodata
        (own,) = self._contacts.own
        if own:
            ids = np.where(known, values, 0)
            return np.where(ids > 0, np.uint8(own), self._lookup[0] * known), ids
        if values.dtype != np.uint8:
            if (values[known] > 255).any():
                raise TrainingError(f"{self._path} has the value {values[known].max()}: labels go up to 255")
            values = np.where(known, values, 0).astype(np.uint8)
        self._seen[values[known]] = True
        found: Labels = self._lookup[values]
        found[~known] = 0
        return found, found

    def unnamed(self) -> set[int]:
        """Return the values read so far that are no class; 255 is none by custom."""
        return set(np.flatnonzero(self._seen).tolist()) - self._named - {255}

    def _opened(self) -> AlignedMap:
        return AlignedMap(locate(self._path), self._geobox, ADVICE, str(self._image))


def _short(note: str, *paths: Path) -> str:
    """Name files without their folders: notes go into the card, and with that to others."""
    for path in paths:
        note = note.replace(str(path), path.name)
    return note


class PolygonLegend:
    """What the texts in a polygon file's column mean, as label sets; a `TrainingError` if one is no class."""

    def __init__(self, file: PolygonFile, spec: LayerSpec, sets: ClassSets) -> None:
        self.file = file
        self.rest = sets.add_named(spec.rest, spec.weight)
        """Label set of what lies outside."""
        meanings = _meanings(file, spec, sets.classes).items()
        self.index = {value: sets.add_named(names, spec.weight) for value, names in meanings}
        """Text -> label set. None stands for polygons of a file without a column, or for those without a
        class: what they are is unknown, and not what lies outside."""
        own = {sets.add_named((name,), spec.weight) for name in spec.instances}
        self.contacts = Contacts(spec, sets, own, {self.rest, *self.index.values()})


def _meanings(
    file: PolygonFile, spec: LayerSpec, classes: tuple[str, ...]
) -> Mapping[str | None, tuple[str, ...]]:
    """Say which classes polygons of each text may be of."""
    any_text = spec.values.get("*")
    if file.field is None:
        if any_text is None:
            raise TrainingError(
                f"{file.text} has no column class: name one with field, or say what all its polygons are "
                'with values = { "*" = "building" }'
            )
        return {None: any_text}
    found = [value for value in file.values if value is not None]
    meant = {value: spec.values.get(value, any_text) if spec.values else (value,) for value in found}
    if unknown := sorted(v for v, names in meant.items() if names is None or not {*names} <= {*classes}):
        raise TrainingError(
            f"{file.text} has classes {', '.join(unknown)} in column {file.field}, which are not in the "
            f"list ({', '.join(classes)}): add them to the classes, or say what they are with values"
        )
    return {None: (), **{value: names or () for value, names in meant.items()}}


class PolygonLayer:
    """Labels drawn as polygons, the last of several over one another; a `UsageError` if CRSs do not fit."""

    def __init__(self, legend: PolygonLegend, image: Path, geobox: GeoBox) -> None:
        self.legend = legend
        self._polygons, self._geobox = LabelPolygons(legend.file, geobox, str(image)), geobox
        self.notes = [_short(note, Path(legend.file.text), image) for note in [self._polygons.note] if note]
        """What to tell the user about how polygons and image were brought together."""

    def read(self, rows: Span, cols: Span) -> Labels:
        """Burn ``(rows, cols)`` label sets."""
        return self.legend.contacts.put(self._labelled, rows, cols, self._geobox)

    def _labelled(self, rows: Span, cols: Span) -> tuple[Labels, Array]:
        index, own = self.legend.index, self.legend.contacts.own
        found = [(shape, index[v], k) for k, shape, v in self._polygons.box(rows, cols) if v in index]
        labels = burn_values([(shape, label) for shape, label, _ in found], rows, cols, self.legend.rest)
        if not own:
            return labels, labels
        ids = [(shape, (k + 1) * (label in own)) for shape, label, k in found]
        return labels, burn_values(ids, rows, cols, 0, dtype=np.int32)

    @cached_property
    def counted(self) -> PolygonTally:
        """What became of the polygons over the image."""
        return self._polygons.counted()

    @cached_property
    def places(self) -> list[tuple[int, int]]:
        """Rows and columns of points within polygons, some of every class."""
        return self._polygons.points(_PLACES)
