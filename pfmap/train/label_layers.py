"""Where labels come from: rasters on the image's grid, and polygons of any vector file."""

from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from pfmap.core.errors import TrainingError
from pfmap.core.geobox import GeoBox
from pfmap.core.grid import Span
from pfmap.raster.burn import burn_values
from pfmap.raster.image import image_size, read_image
from pfmap.train.class_sets import ClassSets, Labels
from pfmap.train.config import LayerSpec
from pfmap.vector.labels import LabelPolygons, PolygonFile

_PLACES = 1000  # of polygons that are looked at in a large scene


class LabelLayer(Protocol):
    """Labels of one image."""

    def read(self, rows: Span, cols: Span) -> Labels:
        """Read ``(rows, cols)`` label sets; 0 where this layer says nothing."""

    @property
    def places(self) -> list[tuple[int, int]]:
        """Rows and columns where something is labelled; none if any place is as good."""


class RasterLayer:
    """Labels in a raster on the image's own grid.

    Args:
        path: the raster.
        image: path of the image.
        shape: height and width of the image.
        spec: what its values mean.
        sets: the table of label sets.

    Raises:
        TrainingError: it has another size.
        SourceError: it cannot be read.
    """

    def __init__(
        self, path: Path, image: Path, shape: tuple[int, int], spec: LayerSpec, sets: ClassSets
    ) -> None:
        height, width = image_size(path)
        if (height, width) != shape:
            raise TrainingError(
                f"{path} is {width} x {height} pixels, its image {image} {shape[1]} x {shape[0]}: label "
                "rasters lie on the image's grid"
            )
        self._path = path
        self._lookup = np.full(
            256, sets.add_named(spec.rest, spec.weight) if spec.rest else 0, dtype=np.uint8
        )
        for value, names in spec.values.items():
            self._lookup[_byte(value, path)] = sets.add_named(names, spec.weight)

    def read(self, rows: Span, cols: Span) -> Labels:
        """Read ``(rows, cols)`` label sets."""
        values, valid = read_image(self._path, rows, cols)
        found: Labels = self._lookup[values[0]]
        found[~valid] = 0
        return found

    @property
    def places(self) -> list[tuple[int, int]]:
        """No place: pixels of a raster are looked at all over."""
        return []


class PolygonLegend:
    """What the texts in a polygon file's column mean, as label sets.

    Args:
        file: the polygons.
        spec: what the texts mean; without any, they are class names.
        sets: the table of label sets.

    Attributes:
        index: text -> label set; None stands for polygons of a file without a column.
        rest: label set of what lies outside.

    Raises:
        TrainingError: some have a class that is not in the list.
    """

    def __init__(self, file: PolygonFile, spec: LayerSpec, sets: ClassSets) -> None:
        self.file = file
        self.rest = sets.add_named(spec.rest, spec.weight) if spec.rest else 0
        found = [value for value in file.values if value is not None]
        values = dict(spec.values) or {name: (name,) for name in found}
        any_text = values.pop("*", None)
        if file.field is None and any_text is None:
            raise TrainingError(
                f"{file.text} has no column class: name one with field, or say what all its polygons are "
                'with values = { "*" = "building" }'
            )
        meant = {value: values.get(value, any_text) for value in found}
        unknown = sorted(value for value, names in meant.items() if names is None)
        unknown += sorted({n for names in meant.values() if names for n in names} - set(sets.classes))
        if unknown:
            raise TrainingError(
                f"{file.text} has classes {', '.join(unknown)} in column {file.field}, which are not in the "
                f"list ({', '.join(sets.classes)}): add them to the classes, or say what they are with values"
            )
        self.index: dict[str | None, int] = {
            value: sets.add_named(names, spec.weight) for value, names in meant.items() if names
        }
        if file.field is None and any_text is not None:
            self.index[None] = sets.add_named(any_text, spec.weight)


class PolygonLayer:
    """Labels drawn as polygons; the last of several over one another counts.

    Args:
        legend: the polygons and what they mean.
        image: path of the image.
        geobox: its grid.

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
        """Points within polygons, some of every class."""
        return self._polygons.points(_PLACES)


def _byte(value: str, path: Path) -> int:
    """Read a raster value that a configuration names."""
    if not value.isdecimal() or int(value) > 255:
        raise TrainingError(
            f"{path}: the label value {value!r} is none: rasters hold whole numbers up to 255"
        )
    return int(value)
