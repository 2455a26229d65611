"""Made-up orthophotos: a pattern that repeats without a seam, at any size."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import Write

from pfmap.core.errors import SourceError, TargetError
from pfmap.raster.synthetic import PATTERN, make_pattern, read_pattern
from pfmap.raster.synthetic import write_scene as write_made


def test_the_scene_is_the_pattern_repeated(tmp_path: Path) -> None:
    pattern = np.random.default_rng(0).integers(0, 256, (3, 300, 700), dtype=np.uint8)
    for kind in ("raw", "deflate", "jpeg", "sparse"):
        write_made(tmp_path / "scene.tif", pattern, 900, 1100, 0.25, kind)
        with rasterio.open(tmp_path / "scene.tif") as src:
            values = src.read()
            assert (src.res, src.crs.is_projected, src.block_shapes[0]) == ((0.25, 0.25), True, (512, 512))
        rows, cols = np.arange(1100) % 300, np.arange(900) % 700
        if kind == "sparse":
            assert not values.any()
        elif kind != "jpeg":
            assert np.array_equal(values, pattern[:, rows][:, :, cols])


def test_made_up_ground_is_the_same_each_time_and_has_no_seam() -> None:
    pattern = make_pattern()
    assert pattern.shape == (3, PATTERN, PATTERN)
    assert np.array_equal(pattern, make_pattern())
    values = pattern.astype(int)
    inner = np.abs(np.diff(values, axis=2)).mean()
    across = np.abs(values[:, :, 0] - values[:, :, -1]).mean()
    assert across == pytest.approx(inner, rel=0.25)  # the last column meets the first like any other


def test_a_piece_is_taken_from_the_middle(write_scene: Write, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 60, 2100), dtype=np.uint8)
    assert np.array_equal(read_pattern(str(write_scene(image))), image[:3, :, 26 : 26 + PATTERN])
    deep = write_scene(np.zeros((3, 20, 20), np.uint16), "deep.tif")
    with pytest.raises(SourceError, match="needs three 8-bit bands"):
        read_pattern(str(deep))
    with pytest.raises(TargetError, match="none"):
        write_made(tmp_path / "none" / "scene.tif", image[:3], 64, 64, 0.5, "raw")
