"""Where labels come from: rasters on the image's grid, and polygons of any vector file."""

from pathlib import Path
from typing import Protocol

import numpy as np

from pfmap.errors import TrainingError
from pfmap.geobox import GeoBox
from pfmap.grid import Span
from pfmap.raster.burn import burn_values
from pfmap.raster.image import image_size, read_image
from pfmap.train.config import LayerSpec
from pfmap.train.sets import ClassSets, Labels
from pfmap.vector.labels import LabelPolygons


class LabelLayer(Protocol):
    """Labels of one image."""

    def read(self, rows: Span, cols: Span) -> Labels:
        """Read ``(rows, cols)`` label sets; 0 where this layer says nothing."""

    def places(self, count: int) -> list[tuple[int, int]]:
        """Name rows and columns where something is labelled; none if any place is as good."""


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

    def places(self, count: int) -> list[tuple[int, int]]:  # noqa: ARG002
        """Name no place: pixels of a raster are looked at all over."""
        return []


class PolygonLayer:
    """Labels drawn as polygons; the last of several over one another counts.

    Args:
        path: a vector file, or ``FILE:layer``.
        image: path of the image.
        geobox: its grid.
        spec: what the column's values mean; without any, they are class names.
        sets: the table of label sets.

    Raises:
        TrainingError: no polygon has a class of the model, or some have one that is not in the list.
        SourceError: the file cannot be read.
        UsageError: it does not have the column, or the CRSs cannot be brought together.
    """

    def __init__(self, path: str, image: Path, geobox: GeoBox, spec: LayerSpec, sets: ClassSets) -> None:
        self._polygons = LabelPolygons(path, spec.field or None, geobox, str(image))
        self._rest = sets.add_named(spec.rest, spec.weight) if spec.rest else 0
        field = self._polygons.field
        found = [value for value in self._polygons.values if value is not None]
        values = dict(spec.values) or {name: (name,) for name in found}
        if field is None:
            if set(values) != {"*"}:
                raise TrainingError(
                    f"{path} has no column class: name one with field, or say what all its polygons are with "
                    'values = { "*" = "building" }'
                )
            found = ["*"]
        unknown = sorted(value for value in found if "*" not in values and value not in values)
        strange = sorted({n for value in found for n in values.get(value, ()) if n not in sets.classes})
        if unknown or strange:
            raise TrainingError(
                f"{path} has classes {', '.join(unknown or strange)} in column {field}, which are not in the "
                f"list ({', '.join(sets.classes)}): add them to the classes, or say what they are with values"
            )
        self._index = {
            value: sets.add_named(values[value if value in values else "*"], spec.weight) for value in found
        }

    def read(self, rows: Span, cols: Span) -> Labels:
        """Burn ``(rows, cols)`` label sets."""
        shapes = [
            (shape, self._index[value if value is not None and "*" not in self._index else "*"])
            for shape, value in self._polygons.box(rows, cols)
            if value in self._index or "*" in self._index
        ]
        return burn_values(shapes, rows, cols, self._rest)

    def places(self, count: int) -> list[tuple[int, int]]:
        """Name points within polygons, some of every class."""
        return self._polygons.points(count)


def _byte(value: str, path: Path) -> int:
    """Read a raster value that a configuration names."""
    if not value.isdecimal() or int(value) > 255:
        raise TrainingError(
            f"{path}: the label value {value!r} is none: rasters hold whole numbers up to 255"
        )
    return int(value)
