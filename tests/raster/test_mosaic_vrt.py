"""Rasters on one grid: the mosaic is what painting them one over the other gives."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from conftest import NORTH_UP, UTM, Write, stand_in

from pfmap.core.errors import SourceError, TargetError
from pfmap.core.grid import GeoBox
from pfmap.raster import mosaic
from pfmap.raster.mosaic import Look, Part, common_crs, common_grid, extent, on_grid, write_mosaic
from pfmap.vector.footprints import Footprints

WKT = rasterio.crs.CRS.from_string(UTM).to_wkt()
OTHER = rasterio.crs.CRS.from_string("EPSG:32644").to_wkt()


def box(col: float, row: float, width: int, height: int, scale: float = 1.0, wkt: str | None = WKT) -> GeoBox:
    place = NORTH_UP @ Affine.translation(col, row) @ Affine.scale(scale)
    return GeoBox(width, height, wkt, tuple(place)[:6])


def test_later_rasters_lie_over_earlier_ones_but_for_their_nodata(write_scene: Write, tmp_path: Path) -> None:
    rng, boxes, parts = np.random.default_rng(0), [], []
    painted = np.full((90, 100), 255, np.uint8)
    for number, (col, row, width, height) in enumerate([(0, 0, 60, 50), (40, 20, 60, 70), (10, 30, 50, 40)]):
        values = rng.choice([0, 1, 2, 255], (1, height, width)).astype(np.uint8)
        place = NORTH_UP @ Affine.translation(col, row)
        path = write_scene(values, f"part{number}.tif", transform=place, nodata=255)
        boxes.append(box(col, row, width, height))
        parts.append(Part(str(path), boxes[-1]))
        under = painted[row : row + height, col : col + width]
        under[values[0] != 255] = values[0][values[0] != 255]
    grid = common_grid(boxes)
    look = Look("uint8", ("Palette",), 255, stand_in().card.classes, {"NOTE": "a & <b>"})
    path = write_mosaic(tmp_path / "all.vrt", grid, parts, look)
    with rasterio.open(path) as src:
        assert np.array_equal(src.read(1), painted)
        assert (src.transform, src.crs, src.nodata) == (NORTH_UP, UTM, 255)
        assert src.tags()["NOTE"] == "a & <b>"
        assert src.colormap(1)[1][:3] == stand_in().card.classes[1].rgb
    before = path.stat().st_mtime_ns
    write_mosaic(path, grid, parts, look)
    assert path.stat().st_mtime_ns == before  # what would not change is left as it is


def test_the_grid_is_that_of_most_pixels_and_covers_all() -> None:
    boxes = [box(-10, 5, 50, 40), box(100, 80, 60, 60), box(3, 3, 10, 10, scale=0.5)]
    grid = common_grid(boxes)
    assert grid == box(-10, 3, 170, 137)
    assert common_crs([*boxes, GeoBox(500, 500, OTHER, boxes[0].transform)]) == OTHER
    assert [on_grid(one, grid) for one in boxes] == [True, True, False]
    rows, cols = extent(boxes[1], grid)
    assert (rows.start, rows.stop, cols.start, cols.stop) == (77, 137, 110, 170)
    with pytest.raises(SourceError, match="with and without a CRS"):
        common_grid([boxes[0], box(0, 0, 9, 9, wkt=None)])


def test_a_raster_on_another_grid_is_warped_beside_the_mosaic(write_scene: Write, tmp_path: Path) -> None:
    """Pixels half as large: of four, the mosaic shows one, or the mean where it is smooth."""
    values = np.random.default_rng(0).integers(0, 200, (1, 80, 60), dtype=np.uint8)
    path = write_scene(values, transform=NORTH_UP @ Affine.scale(0.5), nodata=255)
    grid, part = box(0, 0, 30, 40), Part(str(path), box(0, 0, 60, 80, scale=0.5))
    nearest = write_mosaic(tmp_path / "nearest.vrt", grid, [part], Look("uint8", ("Gray",), 255))
    smooth = write_mosaic(tmp_path / "smooth.vrt", grid, [part], Look("uint8", ("Gray",), 255, smooth=True))
    assert (tmp_path / "nearest.parts" / "00000.vrt").is_file()
    four = values[0].reshape(40, 2, 30, 2).transpose(0, 2, 1, 3).reshape(40, 30, 4)
    with rasterio.open(nearest) as src, rasterio.open(smooth) as other:
        assert (four == src.read(1)[..., None]).any(axis=-1).all()
        assert np.abs(other.read(1) - four.mean(axis=-1)).max() <= 1


def test_a_grid_goes_on_over_the_antimeridian() -> None:
    """A sheet in degrees up to it, and one in metres across it."""
    degrees, utm = rasterio.crs.CRS.from_epsg(4326).to_wkt(), rasterio.crs.CRS.from_epsg(32760).to_wkt()
    boxes = [
        GeoBox(4000, 300, degrees, (5e-6, 0, 179.98, 0, -5e-6, -16.8)),
        GeoBox(600, 200, utm, (0.5, 0, 819700, 0, -0.5, 8140100)),
    ]
    grid = common_grid(boxes)
    assert grid.width < 5000
    left, _, right, _ = grid.bounds
    assert left < 180 < right < 180.01
    objects = [shapely.box(x, -16.8005, x + 1e-5, -16.8004) for x in (179.99, right - 1e-4)]
    mirrored = replace(boxes[1], transform=(-0.5, 0, 820000, 0, -0.5, 8140100))  # it begins at -180
    for metres in (boxes[1], mirrored):
        across = Footprints([boxes[0], metres], ["degrees", "metres"], grid.crs_wkt)
        assert across(np.array(objects, dtype=object)).tolist() == ["degrees", "metres"]


def test_a_mosaic_that_gdal_reads_otherwise_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = mosaic.vrt
    monkeypatch.setattr(mosaic, "vrt", lambda _grid, *rest: real(box(1, 0, 60, 50), *rest))
    with pytest.raises(TargetError, match=r"survey\.vrt would not be .* read back, its size, bands"):
        write_mosaic(tmp_path / "survey.vrt", box(0, 0, 60, 50), [], Look("uint8", ("Gray",), 255))
    assert list(tmp_path.iterdir()) == []
