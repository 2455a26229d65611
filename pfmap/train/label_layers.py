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
from pfmap.raster.align import burn_values
from pfmap.raster.classmap import image_size, read_image
from pfmap.train.config import LayerSpec
from pfmap.vector.labels import LabelPolygons, PolygonFile

Labels = npt.NDArray[np.uint8]
"""``(height, width)`` indices into a table of class sets; 0 is unknown."""

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
    """Labels in a raster on the image's own grid.

    Raises:
        TrainingError: it has another size than the image, or the values are none of a raster's.
        SourceError: it cannot be read.
    """

    places: tuple[tuple[int, int], ...] = ()
    """Empty: any place is as good."""

    def __init__(self, path: Path, image: Path, geobox: GeoBox, spec: LayerSpec, sets: ClassSets) -> None:
        height, width = image_size(path)
        if (height, width) != (geobox.height, geobox.width):
            raise TrainingError(
                f"{path} is {width} x {height} pixels, its image {image} {geobox.width} x {geobox.height}: "
                "label rasters lie on the image's grid"
            )
        self._path = path
        self._lookup = np.full(256, sets.add_named(spec.rest, spec.weight), dtype=np.uint8)
        for value, names in spec.values.items():
            if not value.isdecimal() or int(value) > 255:
                raise TrainingError(
                    f"{path}: the label value {value!r} is none: rasters hold whole numbers up to 255"
                )
            self._lookup[int(value)] = sets.add_named(names, spec.weight)

    def read(self, rows: Span, cols: Span) -> Labels:
        """Read ``(rows, cols)`` label sets; 0 where nothing is said."""
        values, valid = read_image(self._path, rows, cols)
        found: Labels = self._lookup[values[0]]
        found[~valid] = 0
        return found


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
            if names
        }
        """Text -> label set; None stands for polygons of a file without a column."""


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
    return {value: names or () for value, names in meant.items()}


class PolygonLayer:
    """Labels drawn as polygons; the last of several over one another counts.

    Raises:
        SourceError: the file cannot be read.
        UsageError: the CRSs cannot be brought together.
    """

    def __init__(self, legend: PolygonLegend, image: Path, geobox: GeoBox) -> None:
        self._legend = legend
        self._polygons = LabelPolygons(legend.file, geobox, str(image))

    def read(self, rows: Span, cols: Span) -> Labels:
        """Burn ``(rows, cols)`` label sets."""
        index = self._legend.index
        shapes = [(shape, index[value]) for shape, value in self._polygons.box(rows, cols) if value in index]
        return burn_values(shapes, rows, cols, self._legend.rest)

    @cached_property
    def places(self) -> list[tuple[int, int]]:
        """Rows and columns of points within polygons, some of every class."""
        return self._polygons.points(_PLACES)


LabelLayer = RasterLayer | PolygonLayer
