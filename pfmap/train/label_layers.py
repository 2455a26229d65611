"""Labels: what a pixel may be, as rasters on the image's grid or polygons of any vector file say.

A label is a set of classes. "Building" is a set of one, "not a building" a set of several, "unknown" the set
of all. One byte per pixel points into one table for all sources, so that full, partial and missing labels are
the same thing to everything that follows.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pfmap.core.errors import TrainingError
from pfmap.core.grid import GeoBox, Span
from pfmap.raster.align import AlignedMap, burn_values
from pfmap.raster.location import locate
from pfmap.train.config import LayerSpec
from pfmap.vector.labels import LabelPolygons, PolygonFile, PolygonTally

Labels = npt.NDArray[np.uint8]
"""``(height, width)`` indices into a table of class sets; 0 is unknown."""

ADVICE = "masks have one band, with the classes' numbers: take one with gdal_translate -b 1"
"""What to do about a label raster with several bands."""

_PLACES = 1000  # of polygons that are looked at in a large scene


class LabelSet(NamedTuple):
    """The classes that a pixel may be of, and how much it counts."""

    members: frozenset[int]
    weight: float


class ClassSets:
    """The table of label sets; entry 0 is "unknown": every class, weight 0."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes = classes
        self.entries = [LabelSet(frozenset(range(len(classes))), 0.0)]

    def add(self, members: frozenset[int], weight: float) -> int:
        """Find or make the entry for these classes with this weight, and return its index."""
        entry = LabelSet(members, weight)
        if entry not in self.entries:
            if len(self.entries) == 256:
                raise TrainingError("the sources use more than 255 different label sets")
            self.entries.append(entry)
        return self.entries.index(entry)

    def add_named(self, names: tuple[str, ...], weight: float) -> int:
        """Find or make the entry for classes given by name; no name is unknown."""
        return self.add(frozenset(map(self.classes.index, names)), weight) if names else 0

    def table(self) -> npt.NDArray[np.bool_]:
        """Return ``(S, classes)`` bool: which classes each entry allows."""
        return np.array([[k in members for k in range(len(self.classes))] for members, _ in self.entries])

    def weights(self) -> npt.NDArray[np.float32]:
        """Return ``(S,)`` float32 weights."""
        return np.array([weight for _, weight in self.entries], dtype=np.float32)


class RasterLayer:
    """Labels in a class raster; one on another grid is brought onto the image's, as `pfmap evaluate` does.

    Raises:
        TrainingError: the values are none of a raster's.
        SourceError: it cannot be read, lies elsewhere, or is no class raster.
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
        self._lookup = np.full(256, sets.add_named(spec.rest, spec.weight), dtype=np.uint8)
        for value, names in spec.values.items():
            if not value.isdecimal() or int(value) > 255:
                raise TrainingError(
                    f"{path}: the label value {value!r} is none: rasters hold whole numbers up to 255"
                )
            self._lookup[int(value)] = sets.add_named(names, spec.weight)

    def read(self, rows: Span, cols: Span) -> Labels:
        """Read ``(rows, cols)`` label sets; 0 where nothing is said.

        Raises:
            TrainingError: a value is above 255.
            SourceError: it cannot be read, or a value is negative.
        """
        with self._opened() as source:
            values = source.read(rows, cols)
            known = np.ones(values.shape, dtype=bool) if source.nodata is None else values != source.nodata
        if values.dtype != np.uint8:
            if (values[known] > 255).any():
                raise TrainingError(f"{self._path} has the value {values[known].max()}: labels go up to 255")
            values = np.where(known, values, 0).astype(np.uint8)
        self._seen[values[known]] = True
        found: Labels = self._lookup[values]
        found[~known] = 0
        return found

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
    """What the texts in a polygon file's column mean, as label sets.

    Raises:
        TrainingError: some have a class that is not in the list.
    """

    def __init__(self, file: PolygonFile, spec: LayerSpec, sets: ClassSets) -> None:
        self.file = file
        self.rest = sets.add_named(spec.rest, spec.weight)
        """Label set of what lies outside."""
        self.index = {
            value: sets.add_named(names, spec.weight)
            for value, names in _meanings(file, spec, sets.classes).items()
        }
        """Text -> label set. None stands for polygons of a file without a column, or for those without a
        class: what they are is unknown, and not what lies outside."""


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
    unknown = sorted(v for v, names in meant.items() if names is None or not set(names) <= set(classes))
    if unknown:
        raise TrainingError(
            f"{file.text} has classes {', '.join(unknown)} in column {file.field}, which are not in the "
            f"list ({', '.join(classes)}): add them to the classes, or say what they are with values"
        )
    return {None: (), **{value: names or () for value, names in meant.items()}}


class PolygonLayer:
    """Labels drawn as polygons; the last of several over one another counts.

    Raises:
        SourceError: the file cannot be read.
        UsageError: the CRSs cannot be brought together.
    """

    def __init__(self, legend: PolygonLegend, image: Path, geobox: GeoBox) -> None:
        self.legend = legend
        self._polygons = LabelPolygons(legend.file, geobox, str(image))
        self.notes = [_short(note, Path(legend.file.text), image) for note in [self._polygons.note] if note]
        """What to tell the user about how polygons and image were brought together."""

    def read(self, rows: Span, cols: Span) -> Labels:
        """Burn ``(rows, cols)`` label sets."""
        index = self.legend.index
        shapes = [(shape, index[value]) for shape, value in self._polygons.box(rows, cols) if value in index]
        return burn_values(shapes, rows, cols, self.legend.rest)

    @cached_property
    def counted(self) -> PolygonTally:
        """What became of the polygons over the image."""
        return self._polygons.counted()

    @cached_property
    def places(self) -> list[tuple[int, int]]:
        """Rows and columns of points within polygons, some of every class."""
        return self._polygons.points(_PLACES)


LabelLayer = RasterLayer | PolygonLayer
