"""Few pixels of a scene and of its classes: the same ones of both."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from conftest import NORTH_UP, UTM, Write

from pfmap.core.errors import SourceError
from pfmap.core.grid import GeoBox
from pfmap.raster.location import locate
from pfmap.raster.preview import read_preview
from pfmap.raster.scaling import EIGHT_BIT

CODES = np.random.default_rng(0).choice([0, 1, 255], (20, 25)).astype(np.uint8)
COLORS = np.array([30, 200, 90], np.uint8)
SHOWN = COLORS[np.where(CODES == 255, 2, CODES)]


@pytest.fixture
def pair(write_scene: Write) -> tuple[Path, Path]:
    """A scene of 8 x 8 pixels of one grey for each class, and its class raster, which covers a part of it."""
    scene = np.zeros((3, 200, 240), np.uint8)
    scene[:, 16:176, 24:224] = np.kron(SHOWN, np.ones((8, 8), np.uint8))
    codes = np.kron(CODES, np.ones((8, 8), np.uint8))[None]
    place = NORTH_UP @ Affine.translation(24, 16)
    return write_scene(scene), write_scene(codes, "codes.tif", transform=place, nodata=255)


def test_the_scene_is_shown_where_its_classes_lie(pair: tuple[Path, Path]) -> None:
    pixels, seen, classes = read_preview(locate(pair[0]), pair[1], 25, EIGHT_BIT)
    assert np.array_equal(classes, CODES)
    assert pixels is not None
    assert np.abs(pixels.astype(int) - SHOWN).max() <= 1
    assert seen.all()


@pytest.mark.parametrize(
    ("bands", "shown"), [((2,), [2, 2, 2]), ((3, 1), [3, 3, 3]), ((4, 3, 1, 2), [4, 3, 1])]
)
def test_three_bands_are_shown_or_one_in_grey(
    bands: tuple[int, ...], shown: list[int], pair: tuple[Path, Path], write_scene: Write
) -> None:
    scene = np.arange(4, dtype=np.uint8)[:, None, None] + np.zeros((4, 200, 240), np.uint8)
    pixels, _, _ = read_preview(locate(write_scene(scene, "four.tif")), pair[1], 25, EIGHT_BIT, bands)
    assert pixels is not None
    assert [band.max() + 1 for band in pixels] == shown


def test_a_part_of_a_raster_of_many_scenes_is_shown_on_the_scenes_grid(pair: tuple[Path, Path]) -> None:
    wkt = rasterio.crs.CRS.from_string(UTM).to_wkt()
    _, _, classes = read_preview(
        locate(pair[0]), pair[1], 30, EIGHT_BIT, part=GeoBox(240, 200, wkt, tuple(NORTH_UP)[:6])
    )
    expected = np.full((25, 30), 255, np.uint8)
    expected[2:22, 3:28] = CODES
    assert np.array_equal(classes, expected)


def test_a_scene_that_lies_elsewhere_now_is_refused(pair: tuple[Path, Path]) -> None:
    with rasterio.open(pair[0], "r+") as dst:
        dst.transform = NORTH_UP @ Affine.translation(5000, 0)
    with pytest.raises(SourceError, match="no longer where its class raster lies"):
        read_preview(locate(pair[0]), pair[1], 25, EIGHT_BIT)
