"""Count objects and add up their areas, per class and per zone, a chunk of the layer at a time."""

from collections.abc import Iterator
from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import pyproj
import shapely

from pfmap.core.arrays import Array, Bools, Floats, Longs, Objects
from pfmap.core.errors import SourceError, UsageError
from pfmap.vector.geodesy import Measurer
from pfmap.vector.layer import explained, open_layer

OUTSIDE = "outside all zones"


@dataclass(slots=True)
class Row:
    """What there is of one class in one zone."""

    zone: str
    """Its name; empty without zones."""
    klass: str
    objects: int = 0
    """Number of objects whose inner point lies in the zone; one that was cut counts once."""
    area: float = 0.0
    """Of what lies in the zone: square metres, or square units of the layer where it has no CRS."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Objects and areas per zone and class that are not empty, in the order of the zones and of the names."""

    unit: str
    """"m2", or "px" where the layer has no CRS."""
    rows: list[Row]
    notes: tuple[str, ...] = ()


_Part = tuple[int, str, Longs, Bools, Floats]
"""Number and name of a zone; of the objects of a chunk that reach it ``(n,)`` numbers, whether their inner
point lies in it, and their areas in it."""


def summarize(objects: str, zones: str | None = None, zone_field: str | None = None) -> Summary:
    """Count objects and add up their areas per class, and per zone if there are zones.

    Objects, of a file with a field `class`, are cut at the zones' borders: areas are those of the pieces
    within. Zones are polygons in any CRS; `zone_field` has their names, None for `name`, else the first text,
    else their number. Both may be ``FILE:layer``. A `SourceError` says that a file is not what is needed, a
    `UsageError` that the two CRSs cannot be brought together.
    """
    layer = open_layer(objects, "objects")
    if "class" not in layer.fields:
        raise SourceError(
            f"{objects} has no field class (it has {', '.join(layer.fields) or 'none'}): polygons of pfmap "
            "predict or vectorize are needed"
        )
    if not layer.count:
        raise SourceError(f"{objects} has no objects: there is nothing to sum up")
    places = None if zones is None else _read_zones(zones, zone_field, layer.crs, objects)
    rows: dict[tuple[int, str], Row] = {}
    columns = [name for name in ("class", "piece") if name in layer.fields]
    measurer: Measurer | None = None
    with explained(objects):
        for shapes, fields in layer.chunks(columns):
            measurer = measurer or _measurer(layer.crs, shapes)
            whole = np.ones(len(shapes), dtype=np.bool_)
            if "piece" in fields:  # of a cut object, the first one stands for all
                whole = np.asarray(fields["piece"] == 1)
            everywhere: _Part = 0, "", np.arange(len(shapes)), whole, measurer.measure(shapes)[0]
            for part in [everywhere] if places is None else places.split(shapes, measurer):
                _add(rows, part, fields["class"].astype(str), whole)
    notes = tuple(filter(None, (layer.note, places.note if places else "")))
    return Summary("px" if layer.crs is None else "m2", [rows[key] for key in sorted(rows)], notes)


def _measurer(crs: pyproj.CRS | None, shapes: Objects) -> Measurer:
    """Measure about the middle of some objects."""
    left, top, right, bottom = shapely.total_bounds(shapes)
    return Measurer(None if crs is None else crs.to_wkt(), ((left + right) / 2, (top + bottom) / 2))


def _add(rows: dict[tuple[int, str], Row], part: _Part, names: Array, whole: Bools) -> None:
    """Add to a zone's rows what reaches it of objects of ``(n,)`` classes; `whole` are those that count."""
    zone, title, which, inside, areas = part
    for name in np.unique(names[which]).tolist():
        here = names[which] == name
        row = rows.setdefault((zone, name), Row(title, name))
        row.objects += int(np.count_nonzero(here & inside & whole[which]))
        row.area += float(areas[here].sum())


@dataclass(frozen=True, slots=True)
class _Zones:
    """Polygons with names; the last name stands for what lies outside all of them."""

    shapes: Objects
    names: list[str]
    tree: shapely.STRtree
    union: shapely.Geometry
    note: str

    def split(self, shapes: Objects, measurer: Measurer) -> Iterator[_Part]:
        """Yield for each zone the objects that reach it, and last those that reach out of all of them."""
        points = shapely.point_on_surface(shapes)
        which, zone = self.tree.query(shapes, predicate="intersects")
        for number in np.unique(zone).tolist():
            mine, place = which[zone == number], self.shapes[number]
            covered = shapely.covers(place, shapes[mine])
            pieces = shapes[mine]
            pieces[~covered] = shapely.intersection(pieces[~covered], place)
            inside = np.asarray(shapely.intersects(place, points[mine]))
            yield number, self.names[number], mine, inside, measurer.measure(pieces)[0]
        rest = shapely.difference(shapes, self.union)
        outside = np.flatnonzero(shapely.area(rest) > 0)
        apart = ~shapely.intersects(self.union, points[outside])
        yield len(self.shapes), self.names[-1], outside, apart, measurer.measure(rest[outside])[0]


def _read_zones(text: str, name_field: str | None, crs: pyproj.CRS | None, objects: str) -> _Zones:
    """Read zones, and bring them into the CRS of the objects."""
    layer = open_layer(text, "zones")
    if name_field is not None and name_field not in layer.fields:
        raise UsageError(f"{text} has no field '{name_field}': it has {', '.join(layer.fields) or 'none'}")
    if (layer.crs is None) != (crs is None):
        which, other = (text, objects) if layer.crs is None else (objects, text)
        raise UsageError(f"{which} has no CRS and {other} has one: they cannot be brought together")
    with explained(text):
        shapes, table = layer.everything(layer.fields)
        placed = gpd.GeoSeries(shapes, crs=layer.crs)
        if crs is not None:
            placed = placed.to_crs(crs)
        shapes = shapely.make_valid(shapely.force_2d(np.asarray(placed, dtype=object)))
    polygonal = shapely.area(shapes) > 0
    if not polygonal.any():
        raise SourceError(f"{text} has no polygon: zones are needed")
    texts = (name for name, values in table.items() if any(isinstance(value, str) for value in values))
    named = name_field or ("name" if "name" in table else next(texts, None))
    names = np.arange(1, len(shapes) + 1) if named is None else table[named]
    kept = shapes[polygonal]
    shapely.prepare(kept)
    titles = [str(name) for name in names[polygonal].tolist()]
    return _Zones(kept, [*titles, OUTSIDE], shapely.STRtree(kept), shapely.union_all(kept), layer.note)
