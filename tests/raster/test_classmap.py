"""Class rasters of any origin, and the same on the pixels of another grid: rasterio is the oracle."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from conftest import NORTH_UP, UTM, Write
from rasterio.enums import ColorInterp
from rasterio.warp import Resampling, reproject, transform_bounds

from pfmap.core.classes import default_color
from pfmap.core.errors import SourceError
from pfmap.core.grid import GeoBox, Span
from pfmap.raster import classmap
from pfmap.raster.align import AlignedMap
from pfmap.raster.classmap import ClassMap
from pfmap.raster.location import locate


def classes(height: int, width: int, dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4, (1, height, width)).astype(dtype)


@pytest.mark.parametrize(
    ("dtype", "nodata", "held"),
    [("uint8", None, None), ("uint8", 3, 3), ("int16", -1, 2**31 - 1), ("uint16", 3, 2**31 - 1)],
)
def test_rows_are_those_of_rasterio_with_nodata_where_it_says_so(
    dtype: str, nodata: int | None, held: int | None, write_scene: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = classes(70, 50, dtype)
    if nodata == -1:
        values[0, 10:20] = -1
    path = write_scene(values, nodata=nodata, tiled=True, blockxsize=16, blockysize=16)
    monkeypatch.setattr(classmap, "_PIXELS", 16 * 50)
    with ClassMap(locate(path), None) as opened:
        whole = np.concatenate([*map(opened.read, opened.strips())])
        part = np.concatenate(
            [opened.read(rows, Span(3, 20)) for rows in opened.strips(Span(5, 40), Span(3, 20))]
        )
        assert [strip.start for strip in opened.strips()] == [0, 16, 32, 48, 64]
        assert opened.nodata == held
    with rasterio.open(path) as src:
        expected = np.where(src.read_masks(1) == 0, held or 0, src.read(1).astype(np.int64))
    assert np.array_equal(whole, expected)
    assert np.array_equal(part, expected[5:40, 3:20])


def test_names_and_colours_come_from_tags_tables_and_colour_maps(write_scene: Write, tmp_path: Path) -> None:
    path = write_scene(classes(10, 10))
    with rasterio.open(path, "r+") as dst:
        dst.write_colormap(1, {1: (255, 0, 0, 255), 2: (0, 128, 0, 255)})
    with ClassMap(locate(path), None) as opened:
        found = {value: (spec.name, spec.color) for value, spec in opened.classes.items()}
    assert found == {1: ("1", "#ff0000"), 2: ("2", "#008000")}
    (tmp_path / "scene.tif.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><CategoryNames><Category></Category><Category>roof</Category>'
        "</CategoryNames></PAMRasterBand></PAMDataset>"
    )
    with ClassMap(locate(path), None) as opened:
        assert opened.classes[1].name == "roof"
        assert opened.classes[1].color == "#ff0000"
    with rasterio.open(path, "r+") as dst:
        dst.update_tags(PFMAP_CLASSES="ground,roof of tin,tree,water")
    with ClassMap(locate(path), None) as opened:
        assert [opened.classes[k].name for k in range(4)] == ["ground", "roof of tin", "tree", "water"]
        assert opened.classes[2].color == "#008000"
    assert default_color(3) == default_color(23) != default_color(4)


@pytest.mark.parametrize(
    ("values", "band", "words"),
    [
        (np.zeros((2, 9, 9), np.uint8), None, "has 2 bands; a class raster has one"),
        (np.zeros((2, 9, 9), np.uint8), 3, "has bands 1 to 2, not 3"),
        (np.zeros((1, 9, 9), np.float32), None, "holds float32 values"),
        (np.full((1, 9, 9), -5, np.int16), None, "has the value -5"),
    ],
)
def test_what_is_no_class_raster_is_refused(
    values: Any, band: int | None, words: str, write_scene: Write
) -> None:
    with pytest.raises(SourceError, match=words), ClassMap(locate(write_scene(values)), band) as opened:
        [*map(opened.read, opened.strips())]


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        (UTM, NORTH_UP @ Affine.translation(-20, 13)),
        (UTM, NORTH_UP @ Affine.translation(-3.3, 2.4) @ Affine.scale(0.7)),
        ("EPSG:32644", None),
    ],
)
def test_another_grid_has_the_class_of_the_nearest_pixel(
    crs: str, transform: Affine | None, write_scene: Write
) -> None:
    """The oracle: rasterio's own reprojection of the whole raster."""
    values = np.kron(classes(20, 25)[0], np.ones((8, 8), np.uint8))[None]
    path = write_scene(values, nodata=3)
    with rasterio.open(path) as src:
        if transform is None:
            left, _, _, top = transform_bounds(src.crs, crs, *src.bounds)
            transform = Affine(0.6, 0, left, 0, -0.6, top)
        box = GeoBox(150, 140, rasterio.crs.CRS.from_string(crs).to_wkt(), tuple(transform)[:6])
        expected = np.full((140, 150), 99, np.uint8)
        reproject(
            src.read(1), expected, src_transform=src.transform, src_crs=src.crs, src_nodata=3,
            dst_transform=transform, dst_crs=crs, dst_nodata=99, resampling=Resampling.nearest,
        )  # fmt: skip
    with AlignedMap(locate(path), box, "", "the map") as opened:
        found = np.concatenate([*map(opened.read, opened.strips())])
        found = np.where(found == opened.nodata, 99, found)
    assert set(np.unique(found)) == {0, 1, 2, 99}
    if crs == UTM:
        assert np.array_equal(found, expected)
    else:  # GDAL projects a raster of its own a little less exactly than a view of it
        assert (found != expected).mean() < 0.01


def test_the_alpha_band_may_be_the_first(write_scene: Write) -> None:
    image = np.concatenate([np.full((1, 20, 30), 255, np.uint8), classes(20, 30)])
    path = write_scene(image, photometric="minisblack")
    with rasterio.open(path, "r+") as dst:
        dst.colorinterp = [ColorInterp.alpha, ColorInterp.gray]
        box = GeoBox(30, 20, dst.crs.to_wkt(), tuple(dst.transform @ Affine.translation(2, 0))[:6])
    with ClassMap(locate(path), None) as opened:
        assert np.array_equal(opened.read(Span(0, 20)), image[1])
    with AlignedMap(locate(path), box, "", "the map") as moved:
        assert np.array_equal(moved.read(Span(0, 20))[:, :28], image[1, :, 2:])


def test_a_name_that_is_no_text_is_refused(write_scene: Write, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff.tif")
    try:
        path.write_bytes(write_scene(classes(9, 9)).read_bytes())
    except OSError:
        pytest.skip("this file system has no such names")
    with pytest.raises(SourceError, match="its name is not utf-8: rename it"):
        ClassMap(locate(path), None)


def test_rasters_that_cannot_be_brought_together_are_refused_or_noted(write_scene: Write) -> None:
    path = write_scene(classes(20, 30))
    far = GeoBox(30, 20, rasterio.crs.CRS.from_string(UTM).to_wkt(), (0.5, 0, 900000, 0, -0.5, 3000000))
    with pytest.raises(SourceError, match=r"scene\.tif and the map do not overlap"):
        AlignedMap(locate(path), far, "", "the map")
    unplaced = write_scene(classes(20, 30), "unplaced.tif", crs=None)
    near = GeoBox(30, 20, far.crs_wkt, tuple(NORTH_UP @ Affine.translation(2, 0))[:6])
    with AlignedMap(locate(unplaced), near, "", "the map") as opened:
        assert "names no CRS: taken to be in that of the map" in opened.note
        assert np.array_equal(opened.read(Span(0, 20))[:, :28], classes(20, 30)[0, :, 2:])
