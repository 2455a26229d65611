"""Overviews: most frequent value or mean of four pixels, nodata aside, level by level."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from pfmap.raster.target import halve, write_overviews

NODATA = 255
rasters = npst.arrays(
    np.uint8, npst.array_shapes(min_dims=2, max_dims=2, max_side=7), elements=st.sampled_from([0, 1, 2, 255])
)


@given(rasters)
@settings(max_examples=60, deadline=None)
def test_a_pixel_is_the_most_frequent_of_four(values: np.ndarray) -> None:
    out = halve(values, "mode")
    for (row, col), found in np.ndenumerate(out):
        four = values[2 * row : 2 * row + 2, 2 * col : 2 * col + 2].ravel()
        counts = Counter(int(value) for value in four if value != NODATA)
        if not counts:
            assert found == NODATA
        else:
            assert counts[int(found)] == max(counts.values())


@given(rasters)
@settings(max_examples=60, deadline=None)
def test_a_pixel_is_the_mean_of_four(values: np.ndarray) -> None:
    values = np.where(values == 2, np.uint8(100), values)
    out = halve(values, "average")
    for (row, col), found in np.ndenumerate(out):
        four = values[2 * row : 2 * row + 2, 2 * col : 2 * col + 2].ravel()
        valid = four[four != NODATA]
        assert found == NODATA if not len(valid) else abs(found - valid.mean()) <= 0.5


def test_of_equals_the_first_pixel_counts() -> None:
    values = np.array([[3, 1], [1, 3]], np.uint8)
    assert halve(values, "mode").tolist() == [[3]]
    assert halve(np.array([[NODATA, 1], [2, NODATA]], np.uint8), "mode").tolist() == [[1]]


@pytest.mark.parametrize("shape", [(512, 512), (513, 700), (1500, 40)])
@pytest.mark.parametrize("halving", ["mode", "average"])
def test_each_level_is_half_the_one_before(shape: tuple[int, int], halving: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 4, shape, dtype=np.uint8)
    values[rng.random(shape) < 0.3] = NODATA
    path = tmp_path / "classes.tif.vrt"
    with rasterio.open(
        path, "w", driver="GTiff", width=shape[1], height=shape[0], count=1, dtype="uint8", nodata=NODATA,
        crs="EPSG:32645", transform=rasterio.Affine(0.5, 0, 0, 0, -0.5, 0),
    ) as dst:  # fmt: skip
        dst.write(values, 1)
    for level in write_overviews(path, tmp_path, halving, 1):  # type: ignore[arg-type]
        values = halve(values, halving)  # type: ignore[arg-type]
        with rasterio.open(level) as src:
            assert np.array_equal(src.read(1), values)
    assert max(values.shape) <= 512
