"""A CRS by its number."""

import pyproj
import pytest
import rasterio

from pfmap.core.errors import SourceError
from pfmap.vector.geodesy import crs_code, crs_wkt2

OWN = "+proj=tmerc +lat_0=27.6 +lon_0=85.5 +datum=WGS84 +units=m"


@pytest.mark.parametrize("code", [2056, 3857, 4326, 6933, 27700, 32645])
def test_the_number_is_that_of_the_crs_however_gdal_writes_it(code: int) -> None:
    wkt = rasterio.CRS.from_epsg(code).to_wkt()
    assert crs_code(wkt) == f"EPSG:{code}"
    assert pyproj.CRS.from_wkt(crs_wkt2(wkt)) == pyproj.CRS.from_epsg(code)


def test_a_crs_of_its_own_has_no_number_but_words() -> None:
    wkt = pyproj.CRS(OWN).to_wkt("WKT1_GDAL")
    assert crs_code(wkt) is None
    assert crs_code(pyproj.CRS("+proj=utm +zone=45 +ellps=bessel").to_wkt()) is None
    assert crs_wkt2(wkt).startswith("PROJCRS[")
    there = pyproj.Transformer.from_crs("OGC:CRS84", crs_wkt2(wkt), always_xy=True).transform(85.51, 27.61)
    assert there == pytest.approx(pyproj.Proj(OWN)(85.51, 27.61))


def test_what_is_no_crs_is_refused() -> None:
    for ask in (crs_code, crs_wkt2):
        with pytest.raises(SourceError, match="is no CRS"):
            ask("nonsense")
