"""Where scenes lie: their outlines on the ground, and which of them shows an object."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyproj
import shapely
from shapely.geometry.base import BaseGeometry

from pfmap.core.arrays import Floats, Objects
from pfmap.core.errors import SourceError
from pfmap.core.grid import GeoBox, Span
from pfmap.vector.geodesy import cut_at_180, unwrapped

_ALONG = 8  # points per edge: lines that are straight in one CRS bend in another


def lonlat_ring(box: GeoBox) -> tuple[tuple[float, float], ...]:
    """Return the closed ring around a raster as (longitude, latitude) in WGS 84; empty without a CRS.

    Counter-clockwise, as GeoJSON wants it (RFC 7946). Over the antimeridian longitudes go on past 180, and
    around a pole the ring goes to the pole and back: `footprint_geometry` cuts it as that standard asks.
    """
    ring = None if box.crs_wkt is None else _ring(box, "OGC:CRS84")
    if ring is None:
        return ()
    polygon = shapely.orient_polygons(shapely.Polygon(unwrapped(np.concatenate([ring, ring[:1]]))))
    return tuple((round(x, 8), round(y, 8)) for x, y in shapely.get_coordinates(polygon))


def footprint_geometry(
    ring: Sequence[tuple[float, float]],
) -> tuple[dict[str, Any] | None, list[float] | None]:
    """Return a ring of longitudes that may go on past 180 as GeoJSON (RFC 7946) and its bbox; or nothing.

    What crosses the antimeridian is cut there, and its bbox begins in the east: west is the larger number.
    """
    points = np.asarray(ring, dtype=np.float64).round(8)  # a millimetre
    if len(points) < 4 or not np.isfinite(points).all():
        return None, None
    shape: BaseGeometry = shapely.Polygon(points)
    bounds = west, south, east, north = shape.bounds
    if west < -180 or east > 180:
        if east - west >= 360:
            west, east = -180, 180
        shape, bounds = cut_at_180(shape), ((west + 180) % 360 - 180, south, 180 - (180 - east) % 360, north)
    geometry: dict[str, Any] = json.loads(shapely.to_geojson(shapely.orient_polygons(shape)))
    return geometry, list(bounds)


def ring_around(boxes: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """Return the shortest ring around boxes of longitude and latitude, over the antimeridian if need be.

    Each is west, south, east, north, and west is the larger number where it crosses; without any, no point.
    """
    if not boxes:
        return []
    wests, souths, _, norths = zip(*boxes, strict=True)

    def end(start: float) -> float:
        return float(max(east + 360 * ((east < west) + (west < start)) for west, _, east, _ in boxes))

    west = min(wests, key=lambda start: end(start) - start)
    south, east, north = min(souths), end(west), max(norths)
    return [(west, south), (east, south), (east, north), (west, north)]


class Footprints:
    """Says which scene of a survey shows an object: the last one whose outline its inner point lies in.

    Boxes are the scenes' grids, those that are shown over others last; the CRS is that of the objects.
    """

    def __init__(self, boxes: Sequence[GeoBox], names: Sequence[str], crs_wkt: str | None) -> None:
        rings = [_ring(box, crs_wkt) for box in boxes]
        missing = [name for name, ring in zip(names, rings, strict=True) if ring is None]
        if missing:
            raise SourceError(f"{missing[0]} cannot be brought into the CRS of the other scenes")
        self._names = np.array(names, dtype=object)
        self._tree = shapely.STRtree([shapely.Polygon(ring) for ring in rings])

    def __call__(self, polygons: Objects) -> Objects:
        """Return the name of a scene for each of ``(n,)`` polygons."""
        points = shapely.point_on_surface(polygons)
        which, scene = self._tree.query(points, predicate="intersects")
        last = np.full(len(polygons), -1)
        np.maximum.at(last, which, scene)
        outside = np.flatnonzero(last < 0)  # by a rounding, at a seam of another grid
        if outside.size:
            last[outside] = self._tree.nearest(points[outside])
        return np.asarray(self._names[last])


def clusters(places: Sequence[tuple[Span, Span]]) -> list[tuple[Span, Span]]:
    """Return rows and columns around scenes on one grid that touch or overlap, also at a corner.

    They go from the top; no two of these touch.
    """
    near = 0.25  # wider by this, those that touch at a corner overlap
    spans = [(x.start - near, y.start - near, x.stop + near, y.stop + near) for y, x in places]
    parts, before = shapely.box(*np.transpose(spans)), 0
    while len(parts) != before:
        before = len(parts)
        parts = shapely.envelope(shapely.get_parts(shapely.union_all(parts)))
    bounds = shapely.bounds(parts).round().astype(int).tolist()
    found = [(Span(top, bottom), Span(left, right)) for left, top, right, bottom in bounds]
    return sorted(found, key=lambda part: (part[0].start, part[1].start))


def _ring(box: GeoBox, crs: str | None) -> Floats | None:
    """Return the ring around a raster in a CRS; None if it has no place there."""
    share = np.linspace(0, 1, _ALONG, endpoint=False)
    zero, one = np.zeros(_ALONG), np.ones(_ALONG)
    cols = np.concatenate([share, one, 1 - share, zero]) * box.width
    rows = np.concatenate([zero, share, one, 1 - share]) * box.height
    a, b, c, d, e, f = box.transform
    x, y = a * cols + b * rows + c, d * cols + e * rows + f
    if crs is not None and box.crs_wkt is not None:
        own, other = pyproj.CRS.from_user_input(box.crs_wkt).to_2d(), pyproj.CRS.from_user_input(crs).to_2d()
        if own != other:
            try:
                x, y = pyproj.Transformer.from_crs(own, other, always_xy=True).transform(x, y)
            except pyproj.exceptions.ProjError:  # of a building site, or of another planet
                return None
            if other.is_geographic:  # over the antimeridian it goes on past 180
                x = np.unwrap(x, period=360)
                x += 360 * (x.min() < -180)
    ring = np.stack([np.asarray(x), np.asarray(y)], axis=1)
    return ring if np.isfinite(ring).all() else None
