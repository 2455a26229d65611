"""Output rasters: swaths become one raster, as if it had been written whole."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import NORTH_UP, UTM, stand_in

from pfmap.core.errors import TargetError
from pfmap.core.grid import GeoBox, Span
from pfmap.raster.classmap import ClassMap
from pfmap.raster.gdal import locate
from pfmap.raster.target import RasterTarget, finish

SPECS = stand_in().card.classes


@pytest.mark.parametrize("crs", [UTM, None])
def test_swaths_of_any_height_make_the_whole_raster(crs: str | None, tmp_path: Path) -> None:
    values = np.random.default_rng(0).choice([0, 1, 2, 255], (700, 530)).astype(np.uint8)
    wkt = None if crs is None else rasterio.crs.CRS.from_string(crs).to_wkt()
    box = GeoBox(530, 700, wkt, tuple(NORTH_UP)[:6])
    codes = RasterTarget(box, "codes.tif", "mode", {"MADE_BY": "a <test> & more"}, "<qgis/>", 6, SPECS)
    percent = RasterTarget(box, "percent.tif", "average", {}, "<qgis/>", 1)
    swaths = []
    for top, stop in ((0, 1), (1, 300), (300, 700)):
        folder = tmp_path / f"{top}"
        folder.mkdir()
        codes.write_swath(folder, values[top:stop])
        percent.write_swath(folder, values[top:stop] // 3)
        assert np.array_equal(codes.read_swath(folder), values[top:stop])
        swaths.append((Span(top, stop), folder))
    out = tmp_path / "out"
    out.mkdir()
    made = finish([codes, percent], out, swaths)
    assert made == [out / "codes.tif", out / "percent.tif"]
    assert sorted(p.name for p in out.iterdir()) == [
        "codes.qml", "codes.tif", "codes.tif.aux.xml", "percent.qml", "percent.tif",
    ]  # fmt: skip
    with rasterio.open(made[0]) as src, rasterio.open(made[1]) as other:
        assert np.array_equal(src.read(1), values)
        assert np.array_equal(other.read(1), values // 3)
        assert (src.nodata, src.dtypes, src.crs, src.transform) == (255, ("uint8",), crs, NORTH_UP)
        assert src.tags()["MADE_BY"] == "a <test> & more"
        assert src.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert src.overviews(1) == [2]
        assert [src.colormap(1)[k][:3] for k in range(3)] == [spec.rgb for spec in SPECS]
    with ClassMap(locate(made[0]), None) as opened:
        assert [opened.classes[k] for k in range(3)] == list(SPECS)


def test_what_cannot_be_written_or_read_is_named(tmp_path: Path) -> None:
    target = RasterTarget(GeoBox(4, 4, None, tuple(NORTH_UP)[:6]), "codes.tif", "mode", {}, "", 6)
    with pytest.raises(TargetError, match=r"none/codes\.tif"):
        target.write_swath(tmp_path / "none", np.zeros((2, 4), np.uint8))
    (tmp_path / "codes.tif").write_bytes(b"half")
    with pytest.raises(TargetError, match=r"codes\.tif of an earlier run cannot be read"):
        target.read_swath(tmp_path)
