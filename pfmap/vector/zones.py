"""Count objects and add up their areas, per class and per zone, a chunk of the layer at a time."""

from collections.abc import Iterator
from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pyproj
import shapely

from pfmap.core.errors import SourceError, UsageError
from pfmap.vector.geodesy import Measurer
from pfmap.vector.layer import VECTOR_FAILURES, Shapes, open_layer

OUTSIDE = "outside all zones"


@dataclass(slots=True)
class Row:
    """What there is of one class in one zone.

    Attributes:
        zone: its name, or "" without zones.
        klass: name of the class.
        objects: number of objects whose inner point lies in the zone; one that was cut counts once.
        area: of what lies in the zone: square metres, or square units of the layer where it has no CRS.
    """

    zone: str
    klass: str
    objects: int = 0
    area: float = 0.0


@dataclass(frozen=True, slots=True)
class Summary:
    """Objects and areas per zone and class, in the order of the zones and of the names.

    Attributes:
        unit: "m2", or "px" where the layer has no CRS.
        rows: those that are not empty.
    """

    unit: str
    rows: list[Row]


def summarize(objects: str, zones: str | None = None, zone_field: str | None = None) -> Summary:
    """Count objects and add up their areas per class, and per zone if there are zones.

    Objects are cut at the zones' borders: areas are those of the pieces within.

    Args:
        objects: a vector file that pfmap wrote, or another with a field `class`; or ``FILE:layer``.
        zones: a vector file with polygons, in any CRS; or ``FILE:layer``.
        zone_field: field with the zones' names; None for `name`, else the first text, else their number.

    Raises:
        SourceError: a file cannot be read, or is not what is needed.
        UsageError: the two CRSs cannot be brought together.
    """
    layer = open_layer(objects, "objects")
    if "class" not in layer.fields:
        raise SourceError(
            f"{objects} has no field class (it has {', '.join(layer.fields) or 'none'}): polygons of pfmap "
            "predict or vectorize are needed"
        )
    if not layer.count:
        raise SourceError(f"{objects} has no objects: there is nothing to sum up")
    places = _Zones.read(zones, zone_field, layer.crs, objects) if zones is not None else None
    rows: dict[tuple[int, str], Row] = {}
    columns = [name for name in ("class", "object_id", "region_id") if name in layer.fields]
    measurer: Measurer | None = None
    try:
        for shapes, fields in layer.chunks(columns):
            if measurer is None:
                measurer = _measurer(layer.crs, shapes)
            whole = np.ones(len(shapes), dtype=np.bool_)
            if "region_id" in fields and "object_id" in fields:  # of a cut object, one piece stands for all
                whole = np.asarray(fields["region_id"] == fields["object_id"])
            found = (
                places.split(shapes, measurer)
                if places is not None
                else [(0, np.arange(len(shapes)), np.ones(len(shapes), bool), measurer.measure(shapes)[0])]
            )
            for zone, which, inside, areas in found:
                names = fields["class"][which]
                for name in np.unique(names.astype(str)):
                    here = names.astype(str) == name
                    title = places.names[zone] if places is not None else ""
                    row = rows.setdefault((zone, name), Row(title, name))
                    row.objects += int(np.count_nonzero(here & inside & whole[which]))
                    row.area += float(areas[here].sum())
    except VECTOR_FAILURES as error:
        raise SourceError(f"{objects} cannot be read ({' '.join(str(error).split())})") from error
    ordered = [rows[key] for key in sorted(rows)]
    return Summary("px" if layer.crs is None else "m2", ordered)


@dataclass(frozen=True, slots=True)
class _Zones:
    """Polygons with names; the last name stands for what lies outside all of them."""

    shapes: Shapes
    names: list[str]
    tree: shapely.STRtree
    union: shapely.Geometry

    @classmethod
    def read(cls, text: str, name_field: str | None, crs: pyproj.CRS | None, objects: str) -> "_Zones":
        layer = open_layer(text, "zones")
        if name_field is not None and name_field not in layer.fields:
            raise UsageError(
                f"{text} has no field {name_field!r}: it has {', '.join(layer.fields) or 'none'}"
            )
        if (layer.crs is None) != (crs is None):
            which, other = (text, objects) if layer.crs is None else (objects, text)
            raise UsageError(f"{which} has no CRS and {other} has one: they cannot be brought together")
        try:
            frame = (
                gpd.read_file(layer.path, layer=layer.name)
                if layer.path.suffix != ".parquet"
                else (gpd.read_parquet(layer.path))
            )
            if crs is not None:
                frame = frame.to_crs(crs)
            shapes = shapely.make_valid(shapely.force_2d(np.asarray(frame.geometry, dtype=object)))
        except VECTOR_FAILURES as error:
            raise SourceError(f"{text} cannot be read ({' '.join(str(error).split())})") from error
        polygonal = np.array([shape is not None and shape.area > 0 for shape in shapes], dtype=np.bool_)
        if not polygonal.any():
            raise SourceError(f"{text} has no polygon: zones are needed")
        texts = [name for name in layer.fields if frame[name].dtype.kind not in "iufb"]
        named = name_field or ("name" if "name" in layer.fields else next(iter(texts), None))
        names = [str(v) for v in frame[named]] if named else [str(k + 1) for k in range(len(frame))]
        kept = shapes[polygonal]
        shapely.prepare(kept)
        titles = [name for name, keep in zip(names, polygonal, strict=True) if keep]
        return cls(kept, [*titles, OUTSIDE], shapely.STRtree(kept), shapely.union_all(kept))

    def split(
        self, shapes: Shapes, measurer: Measurer
    ) -> Iterator[tuple[int, npt.NDArray[np.int64], npt.NDArray[np.bool_], npt.NDArray[np.float64]]]:
        """Yield for each zone: its number, which shapes reach it, whose inner point it has, areas within."""
        points = shapely.point_on_surface(shapes)
        which, zone = self.tree.query(shapes, predicate="intersects")
        for number in np.unique(zone).tolist():
            mine = which[zone == number]
            yield number, mine, *self._within(shapes[mine], points[mine], self.shapes[number], measurer)
        rest = shapely.difference(shapes, self.union)
        outside = np.flatnonzero(shapely.area(rest) > 0)
        apart = ~shapely.intersects(self.union, points[outside])
        yield len(self.shapes), outside, apart, measurer.measure(rest[outside])[0]

    @staticmethod
    def _within(
        shapes: Shapes, points: Shapes, zone: shapely.Geometry, measurer: Measurer
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
        covered = shapely.covers(zone, shapes)
        pieces = shapes.copy()
        pieces[~covered] = shapely.intersection(shapes[~covered], zone)
        return np.asarray(shapely.intersects(zone, points)), measurer.measure(pieces)[0]


def _measurer(crs: pyproj.CRS | None, shapes: Shapes) -> Measurer:
    left, top, right, bottom = shapely.total_bounds(shapes)
    return Measurer(None if crs is None else crs.to_wkt(), ((left + right) / 2, (top + bottom) / 2))
