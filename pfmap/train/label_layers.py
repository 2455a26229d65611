"""Where labels come from: rasters on the image's grid, and polygons of any vector file."""

from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pfmap.core.errors import TrainingError
from pfmap.core.grid import GeoBox, Span
from pfmap.raster.align import burn_values
from pfmap.raster.classmap import image_size, read_image
from pfmap.train.config import LayerSpec, Names
from pfmap.vector.labels import LabelPolygons, PolygonFile

Labels = npt.NDArray[np.uint8]


"""``(height, width)`` indices into a table of class sets; 0 is unknown."""


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

    def sure(self, index: int) -> bool:
        """Say whether an entry names one class."""
        return len(self._entries[index][0]) == 1

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
        values = dict(spec.values) or {name: Names((name,)) for name in found}
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
