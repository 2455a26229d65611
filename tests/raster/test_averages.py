"""Scenes much finer than what the network sees are read from overviews, where these are averages of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from conftest import Write
from rasterio.enums import Resampling
from rasterio.shutil import copy
from scipy.ndimage import gaussian_filter

from pfmap.core.grid import Frame, Scale, Span
from pfmap.raster import view as view_module
from pfmap.raster.location import locate
from pfmap.raster.scaling import Scaling
from pfmap.raster.source import Source
from pfmap.raster.view import Tile, View, is_average, overview_of

HEIGHT, WIDTH = 1203, 1410
TILED = {"tiled": True, "blockxsize": 128, "blockysize": 128, "photometric": "rgb"}


def ground(seed: int = 0) -> np.ndarray:
    """Detail of all sizes, down to single pixels, in colours of its own."""
    rng = np.random.default_rng(seed)
    rough = [gaussian_filter(rng.standard_normal((HEIGHT, WIDTH)), size) * size * 30 for size in (0.4, 2, 9)]
    shift = gaussian_filter(rng.standard_normal((3, HEIGHT, WIDTH)), (0, 1, 1)) * 30
    return (120 + sum(rough) + shift).clip(0, 255).astype(np.uint8)


def with_overviews(path: Path, method: str = "average", levels: tuple[int, ...] = (2,)) -> Path:
    with rasterio.open(path, "r+") as dst:
        dst.build_overviews(list(levels), Resampling[method])
    return path


def unsigned(path: Path, method: str, **options: Any) -> Path:
    """A copy of a scene with overviews of which nothing says how they were made."""
    out = path.with_name(f"{method}.tif")
    copy(path, out, driver="COG", overview_resampling=method, blocksize=128, **options)
    return out


def frame_of(factor: float, top: int = 0, left: int = 0) -> Frame:
    rows, cols = HEIGHT - 2 * top, WIDTH - 2 * left
    return Frame(top, left, Scale(rows, round(rows / factor)), Scale(cols, round(cols / factor)))


def chosen(path: Path, factor: float) -> int:
    with Source(locate(path)) as source:
        return overview_of(source, frame_of(factor))


def looked(
    path: Path, frame: Frame, factor: int, *, native: bool, inside: Any = None
) -> tuple[Tile, Tile, list[int]]:
    """What a view shows of a frame in full, and with an overview, and heights of what that read in full."""
    rows, cols = Span(0, frame.rows.size), Span(0, frame.cols.size)
    block = (Span(0, frame.rows.native), Span(0, frame.cols.native)) if native else (rows, cols)
    with Source(locate(path)) as source:
        full = View(source, frame, inside, native).read(rows, cols, *block)
        small, read, counted = source.overview(factor), source.read, []
        source.read = lambda y, x: (counted.append(y.size), read(y, x))[1]  # type: ignore[method-assign]
        return full, View(source, frame, inside, native, small).read(rows, cols, *block), counted


def apart(one: Tile, other: Tile) -> float:
    return float(np.sqrt(np.mean((one.pixels.astype(float) - other.pixels) ** 2)))


def test_the_coarsest_that_is_fine_enough_is_read(write_scene: Write) -> None:
    path = with_overviews(write_scene(ground(), **TILED), levels=(2, 4, 8))
    found = [chosen(path, factor) for factor in (1.0, 5.9, 6.1, 12.2, 30.0)]
    assert found == [0, 0, 2, 4, 8]
    webp = write_scene(ground(), "webp.tif", compress="webp", webp_level=95, **TILED)
    with rasterio.Env(WEBP_LEVEL_OVERVIEW=95):
        noisy = with_overviews(webp, levels=(2, 4, 8))
    found = [chosen(noisy, factor) for factor in (11.5, 12.5)]
    assert found == [0, 2]


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(("top", "left", "factor"), [(0, 0, 6.0), (7, 11, 6.3), (64, 128, 9.1)])
def test_what_the_network_sees_is_the_same(
    top: int, left: int, factor: float, native: bool, write_scene: Write
) -> None:
    path = unsigned(write_scene(ground(), **TILED), "average")
    full, thin, read = looked(path, frame_of(factor, top, left), 2, native=native)
    assert read == []
    assert thin.valid.shape == full.valid.shape
    assert thin.valid.all()
    assert thin.seen.all()
    assert apart(full, thin) < 1 < full.pixels.std() / 8


@pytest.mark.parametrize("method", ["nearest", "mode", "gauss", "bilinear"])
@pytest.mark.parametrize("signed", [True, False])
def test_other_overviews_are_left_alone(method: str, signed: bool, write_scene: Write) -> None:
    scene = write_scene(ground(), **TILED)
    path = with_overviews(scene, method, (2, 4)) if signed else unsigned(scene, method)
    with Source(locate(path)) as source:
        assert source.info.overviews == (() if signed else (2, 4, 8, 16))
        assert overview_of(source, frame_of(30)) == 0
        assert not is_average(source, source.overview(2))


def test_what_proves_nothing_is_left_alone(write_scene: Write) -> None:
    even = with_overviews(write_scene(np.full((3, HEIGHT, WIDTH), 90, np.uint8), "even.tif", **TILED))
    assert chosen(even, 8) == 0
    stale = with_overviews(write_scene(ground(), "stale.tif", **TILED))
    assert chosen(stale, 8) == 2
    with rasterio.open(stale, "r+") as dst:  # a little brighter, in one place
        dst.write(ground()[:, :100, :100] + np.uint8(7), window=((0, 100), (0, 100)))
    assert chosen(stale, 8) == 0


def test_only_eight_bits_as_they_are_count(write_scene: Write) -> None:
    path = with_overviews(write_scene(ground(), **TILED))
    with Source(locate(path)) as source:
        source.scaling = Scaling(10, 200, "--scale")
        assert overview_of(source, frame_of(8)) == 0
    with Source(locate(path), skip_unreadable=True) as source:
        assert overview_of(source, frame_of(8)) == 0
    assert chosen(with_overviews(write_scene(ground().astype(np.uint16), "deep.tif", **TILED)), 8) == 0


def holes() -> np.ndarray:
    valid = np.ones((HEIGHT, WIDTH), bool)
    valid[:260, 900:] = False
    valid[1000, 301] = False  # a single pixel, of which no overview says anything
    return valid


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("kind", ["mask", "alpha", "area"])
def test_nodata_stays_what_it_is(
    kind: str, native: bool, write_scene: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view_module, "_STRIP_PIXELS", WIDTH * 60)
    image, valid = ground(), holes()
    if kind == "alpha":
        layers = np.concatenate([image, 255 * valid[None].astype(np.uint8)])
        path = write_scene(layers, interleave="band", alpha="yes", **TILED)
    else:
        path = write_scene(image, mask=valid if kind == "mask" else None, **TILED)
    with_overviews(path)

    def inside(rows: Span, cols: Span) -> np.ndarray:
        return valid[rows.start : rows.stop, cols.start : cols.stop]

    assert chosen(path, 6) == 2
    frame = frame_of(6.3, 7, 11)
    full, thin, read = looked(path, frame, 2, native=native, inside=inside if kind == "area" else None)
    assert np.array_equal(full.valid, thin.valid)
    assert np.array_equal(full.seen, thin.seen)
    assert not full.valid.all()
    assert 0 < sum(read) < 500  # strips with a hole, with the scene's pixels around each
    assert apart(full, thin) < 1.5
    if native:
        assert np.array_equal(thin.valid, valid[7:-7, 11:-11])


def test_where_nodata_shows_in_pixels_alone_all_are_read(write_scene: Write) -> None:
    image, valid = ground(), holes()
    rgba = np.concatenate([image, 255 * valid[None].astype(np.uint8)])
    mixed = with_overviews(write_scene(rgba, "rgba.tif", interleave="pixel", alpha="yes", **TILED))
    marked = with_overviews(write_scene(image * valid, "marked.tif", nodata=0, **TILED))
    assert chosen(mixed, 8) == chosen(marked, 8) == 0
