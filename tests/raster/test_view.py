"""Windows of a part of a scene: what each sees is cut out of the whole, whatever the grids."""

import numpy as np
import pytest
import rasterio
from conftest import Write, blobs
from rasterio.enums import Resampling

from pfmap.core.grid import Frame, Grid, Scale, Span
from pfmap.raster.location import locate
from pfmap.raster.source import Source
from pfmap.raster.view import Inside, View

TOP, LEFT, HEIGHT, WIDTH = 7, 11, 90, 120


def assembled(
    path: object, rows: Scale, cols: Scale, inside: Inside | None, *, native: bool
) -> tuple[np.ndarray, np.ndarray]:
    """All windows' blocks put together: pixels on the network's grid, and validity on that of the outputs."""
    grid = Grid.of(rows.size, cols.size, 32, 8)
    pixels = np.zeros((3, rows.size, cols.size), np.uint8)
    valid = np.zeros((rows.native, cols.native) if native else (rows.size, cols.size), bool)
    with Source(locate(path)) as source:
        view = View(source, Frame(TOP, LEFT, rows, cols), inside, native=native)
        for row, col in grid.windows(Span(0, grid.rows.count)):
            block = grid.rows.block(row), grid.cols.block(col)
            out = block
            if native:
                out = tuple(
                    Span(scale.finished(span.start) if span.start else 0, scale.finished(span.stop))
                    for scale, span in zip((rows, cols), block, strict=True)
                )
            tile = view.read(grid.rows.extent(row), grid.cols.extent(col), *out)
            pixels[:, block[0].start : block[0].stop, block[1].start : block[1].stop] = tile.pixels[
                :, : block[0].size, : block[1].size
            ]
            valid[out[0].start : out[0].stop, out[1].start : out[1].stop] = tile.valid
    return pixels, valid


def test_on_the_scenes_own_grid_windows_are_cut_out_of_it(write_scene: Write) -> None:
    image, mask = blobs(120, 150), np.ones((120, 150), bool)
    mask[30:60, 40:100] = False
    path = write_scene(image, mask=mask)

    def inside(rows: Span, cols: Span) -> np.ndarray:
        return (np.arange(rows.start, rows.stop)[:, None] + np.arange(cols.start, cols.stop)) % 150 > 20

    pixels, valid = assembled(path, Scale(HEIGHT, HEIGHT), Scale(WIDTH, WIDTH), inside, native=True)
    at = np.s_[TOP : TOP + HEIGHT, LEFT : LEFT + WIDTH]
    wanted = (mask & inside(Span(0, 120), Span(0, 150)))[at]
    assert np.array_equal(valid, wanted)
    assert np.array_equal(pixels[:, wanted], image[:, *at][:, wanted])


@pytest.mark.parametrize("native", [True, False])
def test_a_coarser_grid_sees_averages_as_gdal_makes_them(native: bool, write_scene: Write) -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 120, 150), dtype=np.uint8)
    mask = np.ones((120, 150), bool)
    mask[TOP + 31 : TOP + 62, LEFT : LEFT + 61] = False  # a third or two of the pixels at its edges
    path = write_scene(image, mask=mask)
    pixels, valid = assembled(path, Scale(HEIGHT, HEIGHT // 3), Scale(WIDTH, WIDTH // 3), None, native=native)
    with rasterio.open(path) as src:
        wanted = src.read(
            window=((TOP, TOP + HEIGHT), (LEFT, LEFT + WIDTH)), out_shape=(3, HEIGHT // 3, WIDTH // 3),
            resampling=Resampling.average,
        )  # fmt: skip
    seen = mask[TOP : TOP + HEIGHT, LEFT : LEFT + WIDTH]
    share = seen.reshape(HEIGHT // 3, 3, WIDTH // 3, 3).mean(axis=(1, 3))
    assert {round(value, 2) for value in np.unique(share)} > {0.0, 0.33, 0.67, 1.0}
    assert np.abs(pixels[:, share == 1].astype(int) - wanted[:, share == 1]).max() <= 1
    assert np.array_equal(valid, seen if native else share >= 0.5)
