"""Output rasters: swaths become one raster, as if it had been written whole."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import NORTH_UP, UTM, stand_in

from pfmap.core.errors import TargetError
from pfmap.core.grid import GeoBox, Span
from pfmap.raster import target as target_module
from pfmap.raster.classmap import ClassMap
from pfmap.raster.gdal import horizontal
from pfmap.raster.location import locate
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
    made = finish([(codes, swaths), (percent, swaths)], out)
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


@pytest.mark.parametrize("level", ["whole", "overview"])
def test_pixels_that_got_lost_while_gdal_said_nothing_are_noticed(
    level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).integers(0, 100, (700, 530), dtype=np.uint8)
    target = RasterTarget(GeoBox(530, 700, None, tuple(NORTH_UP)[:6]), "codes.tif", "mode", {}, "", 6)
    target.write_swath(tmp_path, values)
    out = tmp_path / "out"
    out.mkdir()
    copy = rasterio.shutil.copy

    def copy_most(source: Path, final: Path, **options: object) -> None:
        copy(source, final, **options)
        with rasterio.open(final) as src:
            overview = 0 if level == "overview" else None
            offset = int(src.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1, ovr=overview))
        with final.open("r+b") as file:
            file.seek(offset)
            file.write(bytes(64))

    monkeypatch.setattr(rasterio.shutil, "copy", copy_most)
    with pytest.raises(TargetError, match=r"codes\.tif could not be written"):
        finish([(target, [(Span(0, 700), tmp_path)])], out)


def test_what_cannot_be_written_or_read_is_named(tmp_path: Path) -> None:
    target = RasterTarget(GeoBox(4, 4, None, tuple(NORTH_UP)[:6]), "codes.tif", "mode", {}, "", 6)
    with pytest.raises(TargetError, match=r"none/codes\.tif"):
        target.write_swath(tmp_path / "none", np.zeros((2, 4), np.uint8))
    (tmp_path / "codes.tif").write_bytes(b"half")
    with pytest.raises(TargetError, match=r"codes\.tif of an earlier run cannot be read"):
        target.read_swath(tmp_path)


DERIVED = """DERIVEDPROJCRS["site",BASEPROJCRS["UTM 45N",BASEGEOGCRS["WGS 84",
DATUM["World Geodetic System 1984",ELLIPSOID["WGS 84",6378137,298.257223563,LENGTHUNIT["metre",1]]]],
CONVERSION["UTM zone 45N",METHOD["Transverse Mercator"],
PARAMETER["Latitude of natural origin",0,ANGLEUNIT["degree",0.0174532925199433]],
PARAMETER["Longitude of natural origin",87,ANGLEUNIT["degree",0.0174532925199433]],
PARAMETER["Scale factor at natural origin",0.9996],
PARAMETER["False easting",500000,LENGTHUNIT["metre",1]],
PARAMETER["False northing",0,LENGTHUNIT["metre",1]]]],
DERIVINGCONVERSION["Affine",METHOD["Affine parametric transformation",ID["EPSG",9624]],
PARAMETER["A0",7,LENGTHUNIT["metre",1]],PARAMETER["A1",1,SCALEUNIT["coefficient",1]],
PARAMETER["A2",0,SCALEUNIT["coefficient",1]],PARAMETER["B0",0,LENGTHUNIT["metre",1]],
PARAMETER["B1",0,SCALEUNIT["coefficient",1]],PARAMETER["B2",1,SCALEUNIT["coefficient",1]]],
CS[Cartesian,2],AXIS["easting",east],AXIS["northing",north],LENGTHUNIT["metre",1]]"""
SITE = 'LOCAL_CS["Site (m) & more",LOCAL_DATUM["Local",0],UNIT["metre",1],AXIS["X",EAST],AXIS["Y",NORTH]]'


def finished(folder: Path, crs: rasterio.crs.CRS | None) -> list[Path]:
    """Class raster and confidence of one swath."""
    box = GeoBox(40, 30, None if crs is None else crs.to_wkt(), tuple(NORTH_UP)[:6])
    codes = RasterTarget(box, "codes.tif", "mode", {}, "<qgis/>", 6, SPECS)
    percent = RasterTarget(box, "percent.tif", "average", {}, "<qgis/>", 1)
    swath = folder / "swath"
    swath.mkdir()
    for one in (codes, percent):
        one.write_swath(swath, np.zeros((30, 40), np.uint8))
    return finish([(one, [(Span(0, 30), swath)]) for one in (codes, percent)], folder)


@pytest.mark.parametrize("wkt", [DERIVED, SITE, "EPSG:8857", "EPSG:5513", "EPSG:2048", "ESRI:54030"])
def test_a_crs_that_a_geotiff_has_no_place_for_is_kept(wkt: str, tmp_path: Path) -> None:
    crs = rasterio.crs.CRS.from_user_input(wkt)
    for path in finished(tmp_path, crs):
        with rasterio.open(path) as src:
            assert src.crs == crs
            assert src.transform == NORTH_UP
    with ClassMap(locate(tmp_path / "codes.tif"), None) as opened:  # in the same side file
        assert [opened.classes[k] for k in range(3)] == list(SPECS)


@pytest.mark.parametrize(
    ("given", "flat"),
    [
        ("EPSG:4979", 4326),
        ("EPSG:32645+5773", 32645),
        ("EPSG:7405", 27700),
        ("3D", 32645),
        ("EPSG:3857", 3857),
    ],
)
def test_heights_of_a_crs_are_left_out(given: str, flat: int) -> None:
    table = rasterio.crs.CRS.from_epsg(32645).to_dict(projjson=True)
    up = {"name": "h", "abbreviation": "h", "direction": "up", "unit": "metre"}
    table["coordinate_system"]["axis"].append(up)
    table["base_crs"]["coordinate_system"]["axis"].append(up)
    crs = rasterio.crs.CRS.from_user_input(json.dumps(table) if given == "3D" else given)
    assert horizontal(crs).to_wkt() == rasterio.crs.CRS.from_epsg(flat).to_wkt()


def test_a_raster_that_is_not_what_was_written_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target_module, "side_file", lambda *_: "<PAMDataset/>")
    with pytest.raises(TargetError, match=r"codes\.tif could not be .* read back, its CRS is .*, not site"):
        finished(tmp_path, rasterio.crs.CRS.from_wkt(DERIVED))
