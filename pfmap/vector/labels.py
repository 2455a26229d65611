"""Read polygons with classes, some rows of a raster at a time, in the raster's pixel coordinates."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyogrio
import shapely
from shapely.geometry.base import BaseGeometry

from pfmap.core.arrays import Array, Bools, Floats, Objects
from pfmap.core.errors import SourceError, UsageError
from pfmap.core.grid import GeoBox, Span
from pfmap.vector.layer import POLYGONS, explained, open_layer, polygons_of

_DEFAULT_FIELD = "class"
_INDEXED = frozenset({"GPKG", "FlatGeobuf", "ESRI Shapefile", "SQLite", "OpenFileGDB", "PostgreSQL"})
"""Formats that find the features in a box without reading all of them."""

_ROWS = 4096  # counted at a time
_MARGIN = 1.0  # pixels that pieces reach beyond the rows they are cut to


@dataclass(slots=True)
class PolygonTally:
    """What became of the polygons so far; each counts in the first rows that it reaches."""

    placed: int = 0
    """Those that reach the raster."""
    mended: int = 0
    """Invalid ones among them, which were made valid."""
    lost: int = 0
    """Features in reach without an area, or without finite coordinates."""


Label = tuple[str | None, int]
"""Class of a polygon as text, or None, and the number of its object, from 1; 0 for none."""


class PolygonFile:
    """Polygons with classes in any vector file or ``FILE:layer``, whichever rasters they are laid over.

    `field` is the column with the classes; None for `class` if there is one, else for none. `checked` is one
    that says of which features the class counts, None where it does of all. A `SourceError` says that there
    are no features, or none that counts, a `UsageError` that there is no such column.
    """

    def __init__(self, text: str, field: str | None, checked: str | None = None) -> None:
        self.text = text
        self.layer = layer = open_layer(text, "polygon file")
        if not layer.count:
            raise SourceError(f"{text} has no features: polygons are needed")
        if field is not None and field not in layer.fields:
            some = ", ".join(layer.fields) or "none"
            raise UsageError(f"{text} has no field '{field}': choose one of {some} with field=")
        self.checked = checked
        if checked is not None and checked not in layer.fields:
            raise SourceError(
                f"{text} has no field '{checked}' that says which objects a person has checked: add it, true "
                "or false, or make the file anew with pfmap review"
            )
        self.field = field or (_DEFAULT_FIELD if _DEFAULT_FIELD in layer.fields else None)
        """The column with the classes, or None."""
        of_pieces = {"object_id", "region_id"} <= set(layer.fields)  # pfmap cuts large objects into pieces
        self.columns = [name for name in (self.field, "object_id" if of_pieces else None, checked) if name]
        """Those that say what a polygon is."""
        self._everything: tuple[Objects, list[Label]] | None = None
        with explained(text):
            self.values = self._counted()
            """Classes that occur, as text, and how many features have each; None for those without one."""

    def _counted(self) -> Counter[str | None]:
        """Count the features of each class; a `SourceError` if none of them is checked."""
        if self.checked is not None:
            values = Counter(value for value, _ in self.everything()[1])
            if set(values) <= {None}:
                raise SourceError(
                    f"none of the {self.layer.count:,} objects of {self.text} is checked: open it in QGIS, "
                    f"correct the class of some where it is wrong, tick '{self.checked}', and save"
                )
            return values
        values = Counter()
        for value, count in self.layer.values(self.field).items() if self.field else ():
            values[_text(value)] += count
        return values

    def everything(self) -> tuple[Objects, list[Label]]:
        """Return all geometries as they are, and what they say; read once."""
        if self._everything is None:
            shapes, table = self.layer.everything(self.columns)
            self._everything = shapes, self.labels(range(len(shapes)), table)
        return self._everything

    def labels(self, numbers: Iterable[int], table: Mapping[str, Array]) -> list[Label]:
        """Make labels of some features: of their numbers in the file, and their `columns`."""
        own = [number + 1 for number in numbers]
        texts = table[self.field].tolist() if self.field else [None] * len(own)
        if "object_id" in self.columns:  # may have gaps
            texts_of = map(_text, table["object_id"].tolist())
            own = [int(text) + 1 if text and text.isdecimal() else 0 for text in texts_of]
        if self.checked is not None:
            sure = (value == 1 for value in table[self.checked].tolist())  # as a boolean or a number
            texts = [text if ticked else None for text, ticked in zip(texts, sure, strict=True)]
        return [(_text(text), number) for text, number in zip(texts, own, strict=True)]


class LabelPolygons:
    """A polygon file over a raster, whose name is for messages; a `UsageError` if their CRSs do not fit."""

    def __init__(self, file: PolygonFile, geobox: GeoBox, raster: str) -> None:
        self.file, self.geobox, self.raster = file, geobox, raster
        self.tally = PolygonTally()
        self._onto, note = file.layer.way_onto(geobox, raster)
        self.note = "; ".join(filter(None, (file.layer.note, note)))
        """What to tell the user about how the two were brought together."""
        a, b, c, d, e, f = geobox.inverse()
        self._matrix, self._shift = np.array([[a, d], [b, e]]), np.array([c, f])
        self._all: tuple[Objects, list[Label], shapely.STRtree] | None = None
        if file.layer.driver not in _INDEXED:
            with explained(file.text):
                self._all = self._read_all()

    def counted(self) -> PolygonTally:
        """Count all polygons over the raster, as `strip` does on its way."""
        with explained(self.file.text):
            for rows in Span(0, self.geobox.height).cut(_ROWS):
                self._count(*self._near(rows), rows)
        return self.tally

    def strip(self, rows: Span) -> Iterator[tuple[BaseGeometry, Label]]:
        """Yield the polygons that reach these rows, in the file's order, cut to them, with what they say."""
        with explained(self.file.text):
            mended, chosen = self._count(*self._near(rows), rows)
            for k, piece in _pieces(mended, rows, Span(0, self.geobox.width)):
                yield piece, chosen[k]

    def box(self, rows: Span, cols: Span) -> list[tuple[int, BaseGeometry, str | None]]:
        """Return the polygons that reach a box of pixels, in the file's order, with their classes.

        Pieces of one have one number, whose sole meaning that is.
        """
        with explained(self.file.text):
            shapes, values = self._near(rows, cols)
            at = np.flatnonzero(_drawn(shapes))
            drawn = shapes[at]
            pieces = _pieces(_mended(drawn, shapely.is_valid(drawn)), rows, cols)
            return [(k, piece, values[at[k]][0]) for k, piece in pieces]

    def points(self, count: int) -> list[tuple[int, int]]:
        """Return row and column of a point within each of some polygons, about as many of every class."""
        rng = np.random.default_rng(0)
        share = max(1, count // max(1, len(self.file.values)))
        found: dict[str | None, list[tuple[int, int]]] = {}
        with explained(self.file.text):
            shapes, labels, _ = self._all or self._read_all()
            values = [klass for klass, _ in labels]
            for value in dict.fromkeys(values):
                at = np.flatnonzero([v == value for v in values])
                some = shapes[rng.permutation(at)[: 4 * share]]
                some = some[np.isin(shapely.get_type_id(some), POLYGONS)]
                inner = shapely.get_coordinates(shapely.point_on_surface(shapely.make_valid(some)))
                inside = ((inner >= 0) & (inner < (self.geobox.width, self.geobox.height))).all(axis=1)
                found[value] = [(int(y), int(x)) for x, y in inner[inside][:share]]
        return [place for places in found.values() for place in places]

    def _count(self, shapes: Objects, values: list[Label], rows: Span) -> tuple[Objects, list[Label]]:
        """Count polygons that begin in some rows; return all in reach, made valid, and what they say."""
        bounds = shapely.bounds(shapes)
        width = self.geobox.width
        finite = np.isfinite(bounds).all(axis=1)
        reach = finite & (bounds[:, 3] > rows.start) & (bounds[:, 1] < rows.stop)
        reach &= (bounds[:, 2] > 0) & (bounds[:, 0] < width)
        first = reach & ((bounds[:, 1] >= rows.start) | (rows.start == 0))
        good = reach & _drawn(shapes)
        valid = shapely.is_valid(shapes)
        self.tally.mended += int(np.count_nonzero(first & good & ~valid))
        chosen = np.flatnonzero(good)
        mended = _mended(shapes[chosen], valid[chosen])
        area = shapely.area(mended) > 0
        placed = int(np.count_nonzero(first[chosen] & area))
        self.tally.placed += placed
        self.tally.lost += int(np.count_nonzero(first)) - placed
        if rows.start == 0:
            self.tally.lost += int(np.count_nonzero(~finite))
        return mended, [values[k] for k in chosen]

    def _near(self, rows: Span, cols: Span | None = None) -> tuple[Objects, list[Label]]:
        """Return the features around these rows and columns, in pixel coordinates, and what they say."""
        cols = cols or Span(0, self.geobox.width)
        if self._all is not None:
            shapes, values, tree = self._all
            at = np.sort(tree.query(shapely.box(cols.start, rows.start, cols.stop, rows.stop)))
            if rows.start == 0:  # what lies nowhere is counted with the first rows
                at = np.union1d(at, np.flatnonzero(~np.isfinite(shapely.bounds(shapes)).all(axis=1)))
            return shapes[at].copy(), [values[k] for k in at]
        part = self.geobox.crop(rows, cols)
        box: tuple[float, float, float, float] | None = part.bounds
        if self._onto is not None and box is not None:
            box = self._onto.transform_bounds(*box, densify_pts=101, direction="INVERSE")
            # A little more: edges of the rows are curves in the other CRS.
            margin = 0.01 * max(box[2] - box[0], box[3] - box[1])
            box = (box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin)
            if not np.isfinite(box).all() or box[0] > box[2]:
                box = None
        layer = self.file.layer
        meta, fids, geometry, columns = pyogrio.raw.read(
            layer.path, layer=layer.name, columns=self.file.columns, bbox=box,
            force_2d=True, return_fids=True, encoding=layer.encoding,
        )  # fmt: skip
        order = np.argsort(fids)  # an index gives them in an order of its own
        shapes = np.asarray(shapely.from_wkb(geometry[order]), dtype=object)
        table = {name: column[order] for name, column in zip(meta["fields"], columns, strict=True)}
        return self._placed(shapes, self.file.labels(fids[order].tolist(), table))

    def _read_all(self) -> tuple[Objects, list[Label], shapely.STRtree]:
        shapes, values = self._placed(*self.file.everything())
        return shapes, values, shapely.STRtree(shapes)

    def _placed(self, shapes: Objects, values: list[Label]) -> tuple[Objects, list[Label]]:
        """Bring geometries into pixel coordinates, and leave out what is none."""
        some = shapely.is_geometry(shapes) & ~shapely.is_empty(shapes)
        values = [value for value, keep in zip(values, some, strict=True) if keep]

        def place(xy: Floats) -> Floats:
            if self._onto is not None:
                xy = np.column_stack(self._onto.transform(xy[:, 0], xy[:, 1]))
            return np.asarray(xy @ self._matrix + self._shift)

        flat = _polygons_alone(shapely.force_2d(shapes[some]))
        return np.asarray(shapely.transform(flat, place), dtype=object), values


def remarks(files: Sequence[PolygonFile], counted: PolygonTally, *, whole: bool = True) -> list[str]:
    """Say what of files' polygons was left out or mended; what lies outside only of the `whole` ground."""
    lines = []
    if counted.mended:
        lines.append(f"warning: {counted.mended:,} invalid polygons were made valid")
    if counted.lost:
        lines.append(f"warning: {counted.lost:,} features without an area or a place were left out")
    if nameless := sum(file.values.get(None, 0) for file in files):
        ticked = f"{nameless:,} of {sum(file.layer.count for file in files):,} objects are not checked"
        bare = f"warning: {nameless:,} features have no {files[0].field}"
        lines.append(f"{ticked if files[0].checked else bare}: they do not count")
    total = sum(file.layer.count for file in files)
    if whole and (outside := total - counted.placed - counted.lost) > 0:
        lines.append(f"{outside:,} of {total:,} features lie outside the scene")
    return lines


def _polygons_alone(shapes: Objects) -> Objects:
    """Keep only the polygons of collections, where overlays leave points and lines beside them."""
    flat = shapes.copy()
    for k in np.flatnonzero(shapely.get_type_id(shapes) == shapely.GeometryType.GEOMETRYCOLLECTION):
        polygons = polygons_of(shapely.make_valid(shapes[k : k + 1]))
        if not polygons.is_empty:
            flat[k] = polygons
    return flat


def _drawn(shapes: Objects) -> Bools:
    """Say which geometries are polygons with finite coordinates."""
    polygonal = np.isin(shapely.get_type_id(shapes), POLYGONS)
    return np.asarray(polygonal & np.isfinite(shapely.bounds(shapes)).all(axis=1))


def _mended(shapes: Objects, valid: Bools) -> Objects:
    """Make invalid polygons valid, and leave the others as they are."""
    mended = shapes.copy()
    mended[~valid] = shapely.make_valid(shapes[~valid])
    return mended


def _pieces(shapes: Objects, rows: Span, cols: Span) -> Iterator[tuple[int, BaseGeometry]]:
    """Yield what of valid polygons lies in a box of pixels, piece by piece, with the polygon's number.

    Mending and cutting may leave lines and points beside polygons: they are no area, and burn nothing.
    """
    around = cols.start - _MARGIN, rows.start - _MARGIN, cols.stop + _MARGIN, rows.stop + _MARGIN
    for number, shape in enumerate(shapely.clip_by_rect(shapes, *around)):
        for part in shapely.get_parts(shape):
            if shapely.get_type_id(part) == shapely.GeometryType.POLYGON and not part.is_empty:
                yield number, part


def _text(value: object) -> str | None:
    """Write a class as text, without blanks around it; whole numbers without a point. Blank is no class."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() or None
