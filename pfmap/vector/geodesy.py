"""Measure true areas and lengths on the ground, whatever the CRS, and name a CRS for other programs."""

import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import shapely

from pfmap.core.errors import SourceError
from pfmap.core.grid import GeoBox

_METRIC_TOLERANCE = 0.002
"""A CRS whose areas are right to 0.2 % at the scene counts as metric: UTM and national grids do."""


class Measurer:
    """Measures geometries of one scene in square metres and metres.

    In a metric CRS that is plain geometry. Elsewhere - degrees, Web Mercator, which at 28 degrees north
    shows areas 28 % too large - geometries are measured in an equal-area projection about the scene's
    centre.

    Args:
        crs_wkt: the scene's CRS, or None: then units are pixels.
        center: x, y of the scene's centre in that CRS.

    Raises:
        SourceError: the CRS is not one that can be measured in.
    """

    def __init__(self, crs_wkt: str | None, center: tuple[float, float]) -> None:
        self.units = "px" if crs_wkt is None else "m"
        """Of lengths: "m", or "px" without a CRS."""
        self._factor = 1.0
        self._to_equal_area: pyproj.Transformer | None = None
        if crs_wkt is None:
            return
        try:
            crs, geographic, to_degrees = _systems(crs_wkt)
            if geographic is None or geographic.ellipsoid is None or to_degrees is None:
                # A local (engineering) CRS has no place on Earth; its units are all there is.
                self._factor = crs.axis_info[0].unit_conversion_factor
                return
            ellipsoid = geographic.ellipsoid
            lon, lat = to_degrees.transform(*center, errcheck=True)
        except pyproj.exceptions.ProjError as error:
            raise SourceError(
                f"the scene's CRS cannot be measured in at {center} ({error}): correct it with gdal_edit.py "
                "-a_srs"
            ) from error
        if not (math.isfinite(lon) and -90 <= lat <= 90):
            raise SourceError(
                f"the scene's middle, {center}, is no place on Earth in its CRS {crs.name}: correct the CRS "
                "with gdal_edit.py -a_srs, or the transform with -a_ullr"
            )
        if crs.is_projected and _is_metric(crs, geographic, lon, lat):
            self._factor = crs.axis_info[0].unit_conversion_factor
            return
        local: dict[str, Any] = {"proj": "laea", "lat_0": lat, "lon_0": lon}
        local |= {"a": ellipsoid.semi_major_metre, "b": ellipsoid.semi_minor_metre}
        self._to_equal_area = pyproj.Transformer.from_crs(crs, pyproj.CRS.from_dict(local), always_xy=True)

    def ground(self, geometry: npt.NDArray[np.object_]) -> npt.NDArray[np.object_]:
        """Return ``(n,)`` geometries where lengths and areas are true: in metres; in pixels without a CRS."""
        if self._to_equal_area is not None:
            geometry = shapely.transform(geometry, self._project)
        if self._factor != 1.0:
            geometry = shapely.transform(geometry, lambda points: points * self._factor)
        return geometry

    def measure(
        self, geometry: npt.NDArray[np.object_]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return ``(n,)`` areas and perimeters, holes included: square metres and metres, or in pixels."""
        geometry = self.ground(geometry)
        return shapely.area(geometry), shapely.length(geometry)

    def area(self, corners: npt.NDArray[np.float64]) -> float:
        """Return the area of the polygon with these ``(n, 2)`` corners, square metres."""
        return float(self.measure(np.array([shapely.Polygon(corners)], dtype=object))[0][0])

    def distance(self, start: tuple[float, float], stop: tuple[float, float]) -> float:
        """Return the distance between two points in metres, or pixels without a CRS."""
        return float(self.measure(np.array([shapely.LineString([start, stop])], dtype=object))[1][0])

    def _project(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        assert self._to_equal_area is not None
        return np.stack(self._to_equal_area.transform(points[:, 0], points[:, 1]), axis=1)


def pixel_area(geobox: GeoBox, measurer: Measurer, row: float) -> float:
    """Return the ground area of a pixel in the middle of a row: square metres, or 1 without a CRS."""
    if measurer.units == "px":
        return 1.0
    x = geobox.width / 2
    corners = [geobox.place(x + dx, row + dy) for dx, dy in ((0, 0), (1, 0), (1, 1), (0, 1))]
    return measurer.area(np.array(corners))


@lru_cache(maxsize=16)
def _systems(wkt: str) -> tuple[pyproj.CRS, pyproj.CRS | None, pyproj.Transformer | None]:
    """Return a CRS, its geographic one, and the way there: a survey's scenes have few."""
    crs = pyproj.CRS.from_wkt(wkt).to_2d()
    geographic = pyproj.CRS.from_wkt(wkt).geodetic_crs
    if geographic is None or geographic.ellipsoid is None:
        return crs, None, None
    geographic = geographic.to_2d()
    return crs, geographic, pyproj.Transformer.from_crs(crs, geographic, always_xy=True)


def _is_metric(crs: pyproj.CRS, geographic: pyproj.CRS, lon: float, lat: float) -> bool:
    """Whether areas in this projected CRS are true at this place."""
    to_grid = pyproj.Transformer.from_crs(geographic, crs, always_xy=True)
    geod = geographic.get_geod()
    if geod is None:
        return False
    # A 100 m square on the ground, measured in the grid.
    east = geod.fwd(lon, lat, 90, 100)[:2]
    north = geod.fwd(lon, lat, 0, 100)[:2]
    unit = crs.axis_info[0].unit_conversion_factor
    x0, y0 = to_grid.transform(lon, lat)
    x1, y1 = to_grid.transform(*east)
    x2, y2 = to_grid.transform(*north)
    area = abs((x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)) * unit**2
    return bool(abs(area / 100**2 - 1) < _METRIC_TOLERANCE)


def crs_code(wkt: str) -> str | None:
    """Return a CRS's authority and number, such as EPSG:32645, or None where none is certain.

    Raises:
        SourceError: the text is no CRS.
    """
    found = _crs(wkt).to_authority(min_confidence=100)
    return None if found is None else ":".join(found)


def crs_wkt2(wkt: str) -> str:
    """Return a CRS as WKT 2 of the year 2019, the standard's latest, whichever WKT it came in.

    Raises:
        SourceError: the text is no CRS.
    """
    return str(_crs(wkt).to_wkt(pyproj.enums.WktVersion.WKT2_2019))


def _crs(wkt: str) -> pyproj.CRS:
    try:
        return pyproj.CRS.from_wkt(wkt)
    except pyproj.exceptions.CRSError as error:
        raise SourceError(f"{wkt[:80]!r} is no CRS ({error})") from error


def pixel_size(geobox: GeoBox) -> tuple[float, float] | None:
    """Measure a pixel in the scene's middle on the ground: metres across and down; None without a CRS."""
    measurer = Measurer(geobox.crs_wkt, geobox.center)
    if measurer.units == "px":
        return None
    col, row = geobox.width / 2, geobox.height / 2
    here = geobox.place(col, row)
    across = measurer.distance(here, geobox.place(col + 1, row))
    down = measurer.distance(here, geobox.place(col, row + 1))
    if not (0 < across < math.inf and 0 < down < math.inf):
        raise SourceError(
            f"a pixel in the scene's middle measures {across} x {down} m on the ground: the georeferencing "
            "does not fit the CRS; correct it with gdal_edit.py -a_ullr or -a_srs"
        )
    return across, down
