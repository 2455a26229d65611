"""GDAL's XML files: what they say is what GDAL, and we, read from them."""

from pathlib import Path

import numpy as np
import pytest
import rasterio

from pfmap.core.classes import ClassSpec
from pfmap.core.grid import GeoBox, Span
from pfmap.raster.classmap import percent_beside
from pfmap.raster.layout import Band, Hidden, Shown, class_names, side_file, vrt
from pfmap.raster.location import locate

ODD = 'a & b <"c">'
CLASSES = (ClassSpec(ODD, "#102030"), ClassSpec("wood", "#405060"))
PLACE = (0.5, 0.0, 300000.0, 0.0, -0.5, 3000000.0)


def write(path: Path, values: np.ndarray) -> str:
    height, width = values.shape
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=1, dtype=values.dtype, nodata=7,
        crs="EPSG:32645", transform=rasterio.Affine(*PLACE),
    ) as dst:  # fmt: skip
        dst.write(values, 1)
    return str(path)


@pytest.mark.parametrize("hidden", [None, 9, "masked"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
def test_the_later_raster_hides_the_earlier_one_but_for_hidden_pixels(
    hidden: Hidden, dtype: str, tmp_path: Path
) -> None:
    under = np.array([[1, 2, 3], [4, 5, 6]], dtype)
    over = np.array([[7, 8], [9, 10]], dtype)
    names = [write(tmp_path / "a & b 'c'.tif", under), write(tmp_path / "d<e>.tif", over)]
    shown = [Shown(names[0], Span(0, 2), Span(0, 3)), Shown(names[1], Span(1, 3), Span(2, 4), hidden=hidden)]
    with rasterio.open(names[0]) as src:
        wkt = src.crs.to_wkt()
    path = tmp_path / "both.vrt"
    path.write_text(vrt(GeoBox(4, 3, wkt, PLACE), [Band(dtype, "Gray", shown, 99)], {ODD: ODD}))
    expected = np.full((3, 4), 99, dtype)
    expected[:2, :3] = under
    clear = np.ones((2, 2), bool) if hidden is None else over != (7 if hidden == "masked" else hidden)
    expected[1:, 2:][clear] = over[clear]
    with rasterio.open(path) as src:
        assert np.array_equal(src.read(1), expected)
        assert src.dtypes == (dtype,)
        assert src.tags()[ODD] == ODD
        assert tuple(src.transform)[:6] == PLACE
        assert src.crs.to_epsg() == 32645


def test_a_relative_name_is_one_from_the_folder_of_the_vrt(tmp_path: Path) -> None:
    (tmp_path / "sheets").mkdir()
    write(tmp_path / "sheets/a.tif", np.array([[1, 7]], np.uint8))
    shown = Shown("sheets/a.tif", Span(0, 1), Span(0, 2), relative=True)
    mask = Shown("sheets/a.tif", Span(0, 1), Span(0, 2), "mask,1", relative=True)
    path = tmp_path / "all.vrt"
    path.write_text(vrt(GeoBox(2, 1, None, PLACE), [Band("uint8", "Gray", [shown])], {}, [mask]))
    with rasterio.open(path) as src:
        assert src.read(1).tolist() == [[1, 7]]
        assert src.dataset_mask().tolist() == [[255, 0]]


def test_names_of_classes_come_back_from_the_side_file(tmp_path: Path) -> None:
    raster = tmp_path / "cover.tif"
    write(raster, np.array([[0, 1]], np.uint8))
    side = tmp_path / "cover.tif.aux.xml"
    side.write_text(side_file(CLASSES))
    assert class_names(side, 1) == {0: ODD, 1: "wood"}
    assert class_names(side, 2) == {}
    assert class_names(tmp_path / "none.aux.xml", 1) == {}
    side.write_text("<PAMDataset>")
    assert class_names(side, 1) == {}


def test_a_table_that_does_not_begin_with_values_names_nothing(tmp_path: Path) -> None:
    side = tmp_path / "cover.tif.aux.xml"
    side.write_text(side_file(CLASSES).replace("<Usage>5</Usage>", "<Usage>1</Usage>"))
    assert class_names(side, 1) == {0: ODD, 1: "wood"}  # by the category names
    text = side.read_text().replace("Category", "Other")
    side.write_text(text)
    assert class_names(side, 1) == {}


def test_the_confidence_is_found_by_the_name_of_the_classes(tmp_path: Path) -> None:
    classes, other = tmp_path / "town_classes.tif", tmp_path / "cover.tif"
    for path in (classes, other):
        path.touch()
    assert percent_beside(locate(classes)) is None
    beside = tmp_path / "town_confidence.tif"
    beside.touch()
    (tmp_path / "cover_confidence.tif").touch()
    assert percent_beside(locate(classes)) == beside
    assert percent_beside(locate(other)) is None
    assert percent_beside(locate("https://example.org/town_classes.tif")) is None
