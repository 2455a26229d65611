"""Reading scenes: which bands, which pixels are valid, and threads that stop."""

import numpy as np
import pytest
import rasterio
from conftest import Write
from rasterio.enums import ColorInterp

from pfmap.core.errors import SourceError, UsageError
from pfmap.core.grid import Frame, Scale, Span
from pfmap.raster.location import locate
from pfmap.raster.source import Source
from pfmap.raster.view import View

C = ColorInterp


def numbered(count: int) -> np.ndarray:
    return np.stack([np.full((8, 9), 10 * (i + 1), np.uint8) for i in range(count)])


@pytest.mark.parametrize(
    ("interpretation", "names", "expected"),
    [
        ((C.red, C.green, C.blue), ("red", "green", "blue"), (1, 2, 3)),
        ((C.blue, C.green, C.red), ("red", "green", "blue"), (3, 2, 1)),
        ((C.blue, C.green, C.red, C.alpha), ("red", "green", "blue"), (3, 2, 1)),
        ((C.red, C.green, C.blue, C.nir), ("nir", "red", "green"), (4, 1, 2)),
        ((C.alpha, C.gray, C.undefined, C.undefined), ("red", "green", "blue"), (2, 3, 4)),
    ],
)
def test_colour_interpretation_chooses_the_bands(interpretation, names, expected, write_scene: Write) -> None:
    path = write_scene(numbered(len(interpretation)), photometric="minisblack")
    with rasterio.open(path, "r+") as dst:
        dst.colorinterp = interpretation
    with Source(locate(path), names) as source:
        assert source.info.bands == expected
    with Source(locate(path), names, bands=(2, 2, 1)) as source:
        pixels, _ = source.read(Span(0, 8), Span(0, 9))
        assert pixels[:, 0, 0].tolist() == [20, 20, 10]


def test_near_infrared_has_to_be_named(write_scene: Write) -> None:
    path = write_scene(numbered(3))
    with pytest.raises(UsageError, match=r"nir, red, green.*bands=\(1, 2, 3\)"):
        Source(locate(path), ("nir", "red", "green"), model="vaihingen")
    with Source(locate(path), ("nir", "red", "green"), (1, 2, 3)) as source:
        assert source.info.bands == (1, 2, 3)


def test_windows_are_clipped_to_the_scene(write_scene: Write) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (3, 30, 40), dtype=np.uint8)
    frame = Frame(0, 0, Scale(30, 30), Scale(40, 40))
    with Source(locate(write_scene(image))) as source:
        view = View(source, frame, None, native=True)
        tile = view.read(Span(20, 52), Span(32, 64), Span(20, 30), Span(32, 40))
    assert np.array_equal(tile.pixels, image[:, 20:, 32:])
    assert tile.seen.shape == tile.valid.shape == (10, 8)
    assert tile.valid.all()


def test_a_damaged_file_names_the_place(write_scene: Write) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (3, 512, 512), dtype=np.uint8)
    path = write_scene(image, tiled=True, blockxsize=256, blockysize=256, compress="deflate")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    with Source(locate(path)) as source, pytest.raises(SourceError, match="damaged, incomplete or gone"):
        source.read(Span(0, 512), Span(0, 512))
