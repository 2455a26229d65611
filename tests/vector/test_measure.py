"""Areas and lengths on the ground."""

import numpy as np
import pyproj
import pytest
import shapely
from pyproj import Geod

from pfmap.core.errors import SourceError
from pfmap.vector.geodesy import Measurer

HERE = (85.52, 27.63)


def square(crs: str, side: float) -> tuple[np.ndarray, shapely.Polygon]:
    """A square of `side` metres in a CRS about a point in Nepal, and the same in degrees."""
    to = pyproj.Transformer.from_crs(4326, crs, always_xy=True)
    x, y = to.transform(*HERE)
    scale = side if not pyproj.CRS(crs).is_geographic else side / 111_000
    geometry = shapely.box(x, y, x + scale, y + scale)
    back = pyproj.Transformer.from_crs(crs, 4326, always_xy=True)
    degrees = shapely.transform(
        shapely.segmentize(geometry, scale / 50), lambda p: np.stack(back.transform(p[:, 0], p[:, 1]), 1)
    )
    return np.array([geometry], dtype=object), degrees


@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:4326", "EPSG:32645", "EPSG:3395", "EPSG:6933"])
@pytest.mark.parametrize("side", [1.0, 500.0])
def test_areas_and_lengths_are_geodesic(crs: str, side: float) -> None:
    geometry, degrees = square(crs, side)
    center = geometry[0].centroid.coords[0]
    area, length = Measurer(pyproj.CRS(crs).to_wkt(), center).measure(geometry)
    true_area, true_length = Geod(ellps="WGS84").geometry_area_perimeter(degrees)
    # A metric grid such as UTM is taken at its word: 0.1 %.
    tolerance = 1e-3 if crs == "EPSG:32645" else 1e-5
    assert area[0] == pytest.approx(abs(true_area), rel=tolerance)
    # An equal-area projection keeps areas; lengths are right where it is centred.
    assert length[0] == pytest.approx(true_length, rel=1e-3)


def test_utm_is_measured_in_the_grid() -> None:
    geometry, _ = square("EPSG:32645", 100)
    area, length = Measurer(pyproj.CRS(32645).to_wkt(), geometry[0].centroid.coords[0]).measure(geometry)
    assert (area[0], length[0]) == pytest.approx((10_000, 400))


def test_feet_become_metres() -> None:
    # US survey feet in a state plane: the unit is not the metre.
    geometry = np.array([shapely.box(6_000_000, 2_000_000, 6_000_100, 2_000_100)], dtype=object)
    area, _ = Measurer(pyproj.CRS(2229).to_wkt(), (6_000_050, 2_000_050)).measure(geometry)
    assert area[0] == pytest.approx((100 * 1200 / 3937) ** 2, rel=1e-6)


def test_a_compound_crs_is_measured_in_its_plane() -> None:
    geometry, _ = square("EPSG:32645", 100)
    compound = pyproj.CRS("EPSG:32645+5773").to_wkt()
    area, _ = Measurer(compound, geometry[0].centroid.coords[0]).measure(geometry)
    assert area[0] == pytest.approx(10_000)


def test_without_a_crs_units_are_pixels() -> None:
    measurer = Measurer(None, (0, 0))
    area, length = measurer.measure(np.array([shapely.box(0, 0, 3, 4)], dtype=object))
    assert (measurer.units, area[0], length[0]) == ("px", 12, 14)


def test_a_place_outside_the_crs_is_a_clear_error() -> None:
    with pytest.raises(SourceError, match="CRS"):
        Measurer(pyproj.CRS(32645).to_wkt(), (1e12, 1e12))
