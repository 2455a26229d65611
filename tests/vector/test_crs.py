"""A CRS by its number, where its north is, and what crosses the antimeridian or a pole."""

import numpy as np
import pyproj
import pytest
import rasterio
import shapely

from pfmap.core.errors import SourceError
from pfmap.core.grid import GeoBox
from pfmap.vector.footprints import footprint_geometry, lonlat_ring
from pfmap.vector.geodesy import Measurer, crs_names, in_degrees

OWN = "+proj=tmerc +lat_0=27.6 +lon_0=85.5 +datum=WGS84 +units=m"


@pytest.mark.parametrize("code", [2056, 3857, 4326, 6933, 27700, 32645])
def test_the_number_is_that_of_the_crs_however_gdal_writes_it(code: int) -> None:
    wkt = rasterio.CRS.from_epsg(code).to_wkt()
    name, wkt2 = crs_names(wkt)
    assert name == f"EPSG:{code}"
    assert pyproj.CRS.from_wkt(wkt2) == pyproj.CRS.from_epsg(code)


def test_a_crs_of_its_own_has_no_number_but_words() -> None:
    wkt = pyproj.CRS(OWN).to_wkt("WKT1_GDAL")
    name, wkt2 = crs_names(wkt)
    assert name is None
    assert crs_names(pyproj.CRS("+proj=utm +zone=45 +ellps=bessel").to_wkt())[0] is None
    assert wkt2.startswith("PROJCRS[")
    there = pyproj.Transformer.from_crs("OGC:CRS84", wkt2, always_xy=True).transform(85.51, 27.61)
    assert there == pytest.approx(pyproj.Proj(OWN)(85.51, 27.61))


def test_what_is_no_crs_is_refused() -> None:
    with pytest.raises(SourceError, match="is no CRS"):
        crs_names("nonsense")


GEOD = pyproj.Geod(ellps="WGS84")


@pytest.mark.parametrize("azimuth", [0.0, 30.0, 77.7, 135.0])
@pytest.mark.parametrize(
    ("crs", "lon", "lat"),
    [
        (32645, 85.5, 27.6), (32645, 89.9, 60), (3413, 45, 70), (3413, 170, 80), (3031, -100, -75),
        (32661, 10, 89.99), (5513, 15, 50), (5514, 15, 50), (2048, 19.9, -33), (27572, 2, 47),
        (2263, -73, 40.7), (3857, 10, 60), (4326, 10, 60), (4326, 180.0001, -17), (4807, 2, 47),
        (8857, 120, 40), (5070, -120, 48),
    ],
)  # fmt: skip
def test_azimuths_are_from_true_north(crs: int, lon: float, lat: float, azimuth: float) -> None:
    """The oracle walks on the ellipsoid, in both directions from the middle."""
    there = [GEOD.fwd(lon, lat, azimuth + turn, 40)[:2] for turn in (180, 0)]
    if crs == 4326 and lon > 180:
        there = [(x % 360, y) for x, y in there]
    else:
        there = [pyproj.Transformer.from_crs(4326, crs, always_xy=True).transform(*place) for place in there]
    measurer = Measurer(pyproj.CRS(crs).to_wkt(), tuple(np.mean(there, axis=0)))
    sides = measurer.ground(np.array(there)).reshape(1, 2, 2)
    found = measurer.azimuths(sides)
    assert (found[0] - azimuth + 90) % 180 - 90 == pytest.approx(0, abs=0.02)
    assert np.hypot(*(sides[0, 1] - sides[0, 0])) == pytest.approx(80, rel=0.02)


def test_without_an_earth_azimuths_are_from_the_grids_north() -> None:
    site = 'LOCAL_CS["Site",UNIT["US survey foot",0.3048006096],AXIS["X",EAST],AXIS["Y",NORTH]]'
    for wkt in (site, None):
        sides = np.array([[[0, 0], [1, 1]], [[5, 0], [0, 0]]], dtype=float)
        assert Measurer(wkt, (0, 0)).azimuths(sides) == pytest.approx([45, 90])


AROUND = [
    (3460, 180, -16.8, 0.1), (32760, 180, -16.8, 0.1), (32701, 180, 51, 0.1), (3832, 180, -16.8, 0.1),
    (3857, 179.999999, 5, 0.1), (4326, 180, -16.8, 1e-6), (4326, 190, -16.8, 1e-6), (3413, 180, 75, 10),
    (3413, 0, 90, 1), (3413, 50, 89.999, 1), (3031, 0, -90, 1), (32661, 0, 90, 1),
]  # fmt: skip


def _around(crs: int, lon: float, lat: float, size: float) -> GeoBox:
    """A raster of 400 x 400 pixels around a place."""
    way = pyproj.Transformer.from_crs(4326, crs, always_xy=True)
    x, y = (lon, lat) if crs == 4326 else way.transform(lon, lat)
    box = (size, 0.0, x - 200 * size, 0.0, -size, y + 200 * size)
    return GeoBox(400, 400, pyproj.CRS(crs).to_wkt(), box)


def _sound(shape: shapely.Geometry, true: float) -> None:
    """Within the world, in no part around it but about a pole, and as large as it is."""
    assert shape.is_valid
    west, south, east, north = shape.bounds
    assert -180 <= west <= east <= 180
    assert -90 <= south <= north <= 90
    for part in shapely.get_parts(shape):
        assert part.bounds[2] - part.bounds[0] <= 180 or abs(north) > 89.9
    assert abs(GEOD.geometry_area_perimeter(shapely.orient_polygons(shape))[0]) == pytest.approx(
        true, rel=0.01
    )


@pytest.mark.parametrize("place", AROUND)
def test_what_crosses_the_antimeridian_or_a_pole_is_cut(place: tuple[int, float, float, float]) -> None:
    box = _around(*place)
    x, y = box.center
    size = 50 * box.transform[0]
    shape = shapely.box(x - size, y - size, x + size, y + size)
    shape -= shapely.box(x - size / 3, y - size / 3, x + size / 5, y + size / 4)
    beside = shapely.affinity.translate(shapely.box(x, y, x + size, y + size), 3 * size)
    found = in_degrees(np.array([shape, beside], dtype=object), pyproj.CRS(place[0]))
    for one, given in zip(found, (shape, beside), strict=True):
        _sound(one, Measurer(box.crs_wkt, box.center).measure(np.array([given]))[0][0])


@pytest.mark.parametrize("place", AROUND)
def test_footprints_are_cut_at_the_antimeridian_as_rfc_7946_asks(
    place: tuple[int, float, float, float],
) -> None:
    box = _around(*place)
    geometry, bbox = footprint_geometry(lonlat_ring(box))
    assert geometry is not None
    assert bbox is not None
    shape = shapely.geometry.shape(geometry)
    corners = [box.place(col, row) for col, row in ((0, 0), (400, 0), (400, 400), (0, 400))]
    area = Measurer(box.crs_wkt, box.center).measure(np.array([shapely.Polygon(corners)]))[0][0]
    _sound(shape, area)
    west, south, east, north = bbox
    assert (south, north) == pytest.approx((shape.bounds[1], shape.bounds[3]), abs=1e-7)
    if place[0] == 4326 and place[1] == 190:
        assert (geometry["type"], west, east) == (
            "Polygon",
            pytest.approx(-170.0002),
            pytest.approx(-169.9998),
        )
    elif abs(place[2]) < 89:
        assert geometry["type"] == "MultiPolygon"
        assert west > 179
        assert east < -179
    else:
        assert (west, east) == (-180, 180)
