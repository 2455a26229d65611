"""Measure true areas and lengths on the ground, whatever the CRS, and name a CRS for other programs."""

import math
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyproj
import shapely
import shapely.affinity
from shapely.geometry.base import BaseGeometry

from pfmap.core.arrays import Floats, Objects
from pfmap.core.errors import SourceError, saying
from pfmap.core.grid import GeoBox
from pfmap.core.stages import Regions

_METRIC_TOLERANCE = 0.002
"""A CRS whose areas and lengths are right to 0.2 % at the scene counts as metric: UTM, national grids."""


class Measurer:
    """Measures geometries of one scene, of whose CRS x and y of its centre are given, in metres.

    In a metric CRS that is plain geometry. Elsewhere - degrees, Web Mercator, which at 28 degrees north
    shows areas 28 % too large - geometries are measured in an equal-area projection about the scene's
    centre. Without a CRS units are pixels. In some none can be measured: that is a `SourceError`.
    """

    def __init__(self, crs_wkt: str | None, center: tuple[float, float]) -> None:
        self.units, self.area_units = ("px", "px") if crs_wkt is None else ("m", "m2")
        """Of lengths and of areas: "px" without a CRS."""
        self._factor = 1.0
        self._to_equal_area: pyproj.Transformer | None = None
        self._to_degrees: pyproj.Transformer | None = None
        if crs_wkt is None:
            return
        what = f"the scene's CRS cannot be measured in at {center}"
        remedy = "correct it with gdal_edit.py -a_srs"
        with saying(what, SourceError, pyproj.exceptions.ProjError, remedy=remedy):
            crs, geographic, to_degrees = _systems(crs_wkt)
            if geographic is None or geographic.ellipsoid is None or to_degrees is None:
                # A local (engineering) CRS has no place on Earth; its units are all there is.
                self._factor = crs.axis_info[0].unit_conversion_factor
                return
            self._unit = _degrees(geographic)
            self._to_degrees, self._geod = to_degrees, geographic.get_geod()
            lon, lat = (value * self._unit for value in to_degrees.transform(*center, errcheck=True))
        if not (math.isfinite(lon) and -90 <= lat <= 90):
            raise SourceError(
                f"the scene's middle, {center}, is no place on Earth in its CRS {crs.name}: correct the CRS "
                "with gdal_edit.py -a_srs, or the transform with -a_ullr"
            )
        if crs.is_projected and _is_metric(crs, geographic, to_degrees, lon, lat):
            self._factor = crs.axis_info[0].unit_conversion_factor
            return
        self._to_equal_area = _to_equal_area(crs_wkt, lat, lon)

    def ground(self, points: Floats) -> Floats:
        """Return ``(n, 2)`` points where lengths and areas are true: in metres; in pixels without a CRS."""
        if self._to_equal_area is not None:
            points = np.stack(self._to_equal_area.transform(*points.T), axis=1)
        return points * self._factor

    def azimuths(self, sides: Floats) -> Floats:
        """Return where lines point in their middle: ``(n,)`` degrees clockwise from true north, 0 to 180.

        Where there is no true north - in a local CRS, or without one - it is that of the grid. Lines are
        ``(n, 2, 2)``: x and y of both ends where lengths are true, as `ground` gives them.
        """
        middle, end = sides.mean(axis=1), sides[:, 1]
        if self._to_degrees is None or self._geod is None:
            along = end - middle
            return np.asarray(np.degrees(np.arctan2(along[:, 0], along[:, 1])) % 180)
        points = np.concatenate([middle, end]) / self._factor
        if self._to_equal_area is not None:
            x, y = self._to_equal_area.transform(points[:, 0], points[:, 1], direction="INVERSE")
            points = np.stack([x, y], axis=1)
        lonlat = np.stack(self._to_degrees.transform(points[:, 0], points[:, 1])) * self._unit
        start, stop = np.split(lonlat, 2, axis=1)
        return np.asarray(self._geod.inv(*start, *stop)[0]) % 180

    def measure(self, geometry: Objects) -> tuple[Floats, Floats]:
        """Return ``(n,)`` areas and perimeters, holes included: square metres and metres, or in pixels."""
        geometry = shapely.transform(geometry, self.ground)
        return shapely.area(geometry), shapely.length(geometry)


def in_degrees(shapes: Objects, crs: pyproj.CRS) -> Objects:
    """Return ``(n,)`` polygons of a CRS in WGS 84, longitude first, cut where they cross 180 degrees.

    As RFC 7946 wants them: what reaches over the antimeridian, or over a pole, is cut there into parts.
    """
    way = to_degrees(crs)
    assert way is not None
    project: Any = partial(way.transform, errcheck=True)
    found = np.asarray(shapely.transform(shapes, project, interleaved=False), dtype=object)
    west, _, east, _ = shapely.bounds(found).reshape(-1, 4).T
    for k in np.flatnonzero((east - west > 180) | (west < -180) | (east > 180)):
        # With short edges a jump in longitude is one over the antimeridian.
        x0, y0, x1, y1 = shapely.bounds(shapes[k])
        short = shapely.segmentize(shapes[k], max(x1 - x0, y1 - y0) / 64)
        dense = shapely.transform(short, project, interleaved=False)
        rings = [shapely.Polygon(unwrapped(shapely.get_coordinates(r))) for r in shapely.get_rings(dense)]
        outer, *holes = shapely.make_valid(rings)
        around = [shapely.affinity.translate(hole, turn) for hole in holes for turn in range(-720, 721, 360)]
        whole = shapely.transform(cut_at_180(outer - shapely.union_all(around)), _near_180)
        found[k] = shapely.set_precision(whole, 1e-7)  # GDAL rounds to that: what it rounds may be invalid
    return found


def unwrapped(ring: Floats) -> Floats:
    """Return a closed ``(n, 2)`` ring of longitudes and latitudes without jumps, past 180 degrees if need be.

    One around a pole goes on to the pole and back; no edge may be longer than 180 degrees.
    """
    ring = np.stack([np.unwrap(ring[:, 0], period=360), ring[:, 1]], axis=1)
    if abs(ring[-1, 0] - ring[0, 0]) < 180:
        return ring
    lons = np.linspace(ring[-1, 0], ring[0, 0], 5)  # GDAL takes a long edge for one over the antimeridian
    pole = np.full(5, math.copysign(90, ring[:, 1].mean()))
    return np.concatenate([ring, np.stack([lons, pole], axis=1), ring[:1]])


def _near_180(points: Floats) -> Floats:
    """Move points a hand's breadth off the antimeridian onto it: GDAL writes 179.999999 as 180."""
    near = np.abs(np.abs(points[:, 0]) - 180) < 1.5e-6
    return np.stack([np.where(near, np.copysign(180, points[:, 0]), points[:, 0]), points[:, 1]], axis=1)


def cut_at_180(shape: BaseGeometry) -> BaseGeometry:
    """Bring a polygon whose longitudes go on past 180 degrees into -180 to 180, cut into parts."""
    west, _, east, _ = shape.bounds
    parts = []
    for turn in range(math.floor((west + 180) / 360), math.ceil((east + 180) / 360)):
        part = shapely.intersection(shape, shapely.box(360 * turn - 180, -90, 360 * turn + 180, 90))
        parts.append(shapely.affinity.translate(part, -360 * turn))
    flat = shapely.get_parts(shapely.get_parts(np.array(parts, dtype=object)))
    return shapely.union_all(flat[shapely.area(flat) > 0])


def to_degrees(crs: pyproj.CRS) -> pyproj.Transformer | None:
    """Return the way from a CRS to WGS 84, longitude first; None where it is not one on Earth."""
    try:
        return pyproj.Transformer.from_crs(crs, 4326, always_xy=True)
    except pyproj.exceptions.ProjError:
        return None


def over_180(box: GeoBox) -> bool:
    """Whether a raster with a CRS reaches over the line where that begins anew, as degrees do at 180."""
    crs, geographic, way = _systems(box.crs_wkt or "")
    x, y = np.transpose([box.place(col, row) for col in (0, box.width) for row in (0, box.height)])
    if geographic is None or way is None:
        return False
    if crs.is_geographic:
        return bool(np.abs(x).max() * _degrees(geographic) > 180)
    back = np.abs(np.array(way.transform(*way.transform(x, y), direction="INVERSE")) - (x, y)).max()
    return bool(abs(box.transform[0]) + abs(box.transform[1]) < back < math.inf)


def same_place(one: pyproj.CRS, other: pyproj.CRS, point: tuple[float, float]) -> bool:
    """Whether two CRSs mean the same by coordinates near this x, y, whatever they call it."""
    if one.equals(other, ignore_axis_order=True):
        return True
    ways = to_degrees(one), to_degrees(other)
    if ways[0] is None or ways[1] is None:
        return ways[0] is ways[1] and one.axis_info[0].unit_name == other.axis_info[0].unit_name
    first, second = (way.transform(*point) for way in ways if way is not None)
    return bool(np.allclose(first, second, rtol=0, atol=1e-7))  # a centimetre


def pixel_area(geobox: GeoBox, measurer: Measurer, row: float) -> float:
    """Return the ground area of a pixel in the middle of a row: square metres, or 1 without a CRS."""
    if measurer.units == "px":
        return 1.0
    x = geobox.width / 2
    pixel = shapely.Polygon([geobox.place(x + dx, row + dy) for dx, dy in ((0, 0), (1, 0), (1, 1), (0, 1))])
    return float(measurer.measure(np.array([pixel], dtype=object))[0][0])


@lru_cache(maxsize=16)
def _systems(wkt: str) -> tuple[pyproj.CRS, pyproj.CRS | None, pyproj.Transformer | None]:
    """Return a CRS, its geographic one, and the way there: a survey's scenes have few."""
    crs = pyproj.CRS.from_wkt(wkt).to_2d()
    geographic = pyproj.CRS.from_wkt(wkt).geodetic_crs
    if geographic is None or geographic.ellipsoid is None:
        return crs, None, None
    geographic = geographic.to_2d()
    return crs, geographic, pyproj.Transformer.from_crs(crs, geographic, always_xy=True)


@lru_cache(maxsize=16)
def _to_equal_area(wkt: str, lat: float, lon: float) -> pyproj.Transformer:
    """Return the way from a CRS to an equal-area one about a place: a scene asks for it several times."""
    crs, geographic, _ = _systems(wkt)
    assert geographic is not None
    assert geographic.ellipsoid is not None
    axes = {"a": geographic.ellipsoid.semi_major_metre, "b": geographic.ellipsoid.semi_minor_metre}
    local = pyproj.CRS.from_dict({"proj": "laea", "lat_0": lat, "lon_0": lon, **axes})
    return pyproj.Transformer.from_crs(crs, local, always_xy=True)


def _degrees(geographic: pyproj.CRS) -> float:
    """Return how many degrees there are to a unit of a geographic CRS: some count in grads."""
    return round(math.degrees(geographic.axis_info[0].unit_conversion_factor), 12)


def _is_metric(
    crs: pyproj.CRS, geographic: pyproj.CRS, to_degrees: pyproj.Transformer, lon: float, lat: float
) -> bool:
    """Whether areas and lengths in this projected CRS are true at this place."""
    geod = geographic.get_geod()
    if geod is None:
        return False
    # A 100 m square on the ground, measured in the grid.
    places = [(lon, lat), *(geod.fwd(lon, lat, azimuth, 100)[:2] for azimuth in (90, 0))]
    lons, lats = np.array(places).T / _degrees(geographic)
    (x0, x1, x2), (y0, y1, y2) = to_degrees.transform(lons, lats, direction="INVERSE")
    unit = crs.axis_info[0].unit_conversion_factor
    area = abs((x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)) * unit**2
    # Sides too: equal-area ones are sheared.
    sizes = (area / 100**2, *(math.hypot(x - x0, y - y0) * unit / 100 for x, y in ((x1, y1), (x2, y2))))
    return bool(max(abs(size - 1) for size in sizes) < _METRIC_TOLERANCE)


def crs_names(wkt: str) -> tuple[str | None, str]:
    """Return a CRS's authority and number, such as EPSG:32645, None where none is certain; and its WKT 2.

    A `SourceError` says that the text is no CRS.
    """
    with saying(f"{wkt[:80]!r} is no CRS", SourceError, pyproj.exceptions.CRSError):
        crs = pyproj.CRS.from_wkt(wkt)
    code = crs.to_authority(min_confidence=100)
    return code and ":".join(code), str(crs.to_wkt(pyproj.enums.WktVersion.WKT2_2019))


def pixel_size(geobox: GeoBox) -> tuple[float, float] | None:
    """Measure a pixel in the scene's middle on the ground: metres across and down; None without a CRS."""
    measurer = Measurer(geobox.crs_wkt, geobox.center)
    if measurer.units == "px":
        return None
    col, row = geobox.width / 2, geobox.height / 2
    here, right, below = geobox.place(col, row), geobox.place(col + 1, row), geobox.place(col, row + 1)
    sides = np.array([shapely.LineString([here, there]) for there in (right, below)], dtype=object)
    across, down = measurer.measure(sides)[1].tolist()
    if not (0 < across < math.inf and 0 < down < math.inf):
        raise SourceError(
            f"a pixel in the scene's middle measures {across} x {down} m on the ground: the georeferencing "
            "does not fit the CRS; correct it with gdal_edit.py -a_ullr or -a_srs"
        )
    return across, down


def sizes(regions: Regions) -> tuple[Floats, Floats]:
    """Return ``(n,)`` areas and perimeters of regions, holes included, to the last bit as GEOS does."""
    first, last = regions.ring_offsets[:-1], regions.ring_offsets[1:] - 1
    ring = np.repeat(np.arange(len(first)), last + 1 - first)  # of each point
    x, y = regions.coords.T
    rise, step = np.zeros((2, len(x)))
    rise[1:-1] = y[:-2] - y[2:]
    step[1:] = np.sqrt(np.diff(x) ** 2 + np.diff(y) ** 2)
    rise[first] = rise[last] = step[first] = 0
    area = np.abs(np.bincount(ring, (x - x[first][ring]) * rise, len(first))) / -2
    area[regions.region_offsets[:-1]] *= -1  # the others are holes
    region = np.repeat(np.arange(len(regions)), np.diff(regions.region_offsets))  # of each ring
    both = area, np.bincount(ring, step, len(first))
    areas, perimeters = (np.bincount(region, of_ring, len(regions)).astype(np.float64) for of_ring in both)
    return areas, perimeters


def rectangles(polygons: Objects) -> tuple[Floats, Floats]:
    """Measure the rectangles of least area around ``(n,)`` polygons, or the points of lines.

    Returns:
        ``(n, 2)`` lengths of two neighbouring sides, and ``(n, 2, 2)`` both ends of the longer one.
    """
    corners = shapely.get_coordinates(shapely.oriented_envelope(polygons)).reshape(-1, 5, 2)
    sides = np.stack([corners[:, :2], corners[:, 1:3]], axis=1)
    lengths = np.hypot(*np.moveaxis(sides[:, :, 1] - sides[:, :, 0], -1, 0))
    return lengths, np.take_along_axis(sides, lengths.argmax(axis=1)[:, None, None, None], axis=1)[:, 0]
