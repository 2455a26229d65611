"""Output rasters: swaths become one raster, as if it had been written whole."""

import json
from itertools import product
from pathlib import Path
from typing import Any

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
from pfmap.raster.target import RasterTarget, finish, halve

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
        codes.write_swath(folder, Span(top, stop), values[top:stop])
        percent.write_swath(folder, Span(top, stop), values[top:stop] // 3)
        assert np.array_equal(codes.read_swath(folder, Span(top, stop)), values[top:stop])
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
def test_pixels_that_got_lost_without_a_word_are_noticed(
    level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).integers(0, 100, (700, 530), dtype=np.uint8)
    target = RasterTarget(GeoBox(530, 700, None, tuple(NORTH_UP)[:6]), "codes.tif", "mode", {}, "", 6)
    target.write_swath(tmp_path, Span(0, 700), values)
    out = tmp_path / "out"
    out.mkdir()
    assemble = target_module._assemble

    def assemble_most(final: Path, *rest: Any) -> None:
        assemble(final, *rest)
        with rasterio.open(final) as src:
            overview = 0 if level == "overview" else None
            offset = int(src.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1, ovr=overview))
        with final.open("r+b") as file:
            file.seek(offset)
            file.write(bytes(64))

    monkeypatch.setattr(target_module, "_assemble", assemble_most)
    with pytest.raises(TargetError, match=r"codes\.tif could not be written"):
        finish([(target, [(Span(0, 700), tmp_path)])], out)


def finish_in(folder: Path, target: RasterTarget, values: np.ndarray, stops: list[int]) -> Path:
    """Write values in swaths that end at these rows, and finish the raster."""
    parts = []
    for rows in map(Span, [0, *stops], stops):
        part = folder / f"{rows.start}"
        part.mkdir()
        target.write_swath(part, rows, values[..., rows.start : rows.stop, :])
        parts.append((rows, part))
    return finish([(target, parts)], folder)[0]


def block(path: Path, col: int, row: int) -> bytes:
    """Compressed bytes of a block."""
    with rasterio.open(path) as src:
        offset, size = (
            int(src.get_tag_item(f"BLOCK_{k}_{col}_{row}", "TIFF", bidx=1)) for k in ("OFFSET", "SIZE")
        )
    return path.read_bytes()[offset : offset + size]


def test_whole_block_rows_are_compressed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(0, 9, (2500, 1100), dtype=np.uint8)
    target = RasterTarget(GeoBox(1100, 2500, None, tuple(NORTH_UP)[:6]), "codes.tif", "mode", {}, "", 6)
    compressed = []
    compress = target_module._compress
    monkeypatch.setattr(
        target_module,
        "_compress",
        lambda file, bands, *rest: (compressed.append(bands.shape), compress(file, bands, *rest))[1],
    )
    path = finish_in(tmp_path, target, values, [1024, 1700, 2500])
    assert compressed == [(1, 1024, 1100), (1, 676, 1100), (1, 800, 1100), (1, 512, 1100)]  # at last the seam
    for part, rows in ((0, (0, 1)), (1024, (2,)), (1700, (4,))):
        for row, col in product(rows, range(3)):
            assert block(path, col, row) == block(tmp_path / f"{part}" / "codes.tif", col, row - part // 512)
    with rasterio.open(path) as src:
        assert np.array_equal(src.read(1), values)


def refuse_unlike_gdal(path: Path, levels: int) -> None:
    """Check what GDAL promises readers of a COG: where directories and blocks lie, in which order."""
    content, found, directories = path.read_bytes(), [], []
    for level in range(levels):
        with rasterio.open(path, **({"overview_level": level - 1} if level else {})) as src:
            rows, cols = (range(-(-size // 512)) for size in src.shape)
            places = [
                [int(src.get_tag_item(f"BLOCK_{k}_{col}_{row}", "TIFF", bidx=1)) for k in ("OFFSET", "SIZE")]
                for row, col in product(rows, cols)
            ]
            directories.append(int(src.get_tag_item("IFD_OFFSET", "TIFF", bidx=1)))
            found = places + found  # the smallest first
    end = 0
    for offset, size in found:
        assert int.from_bytes(content[offset - 4 : offset], "little") == size
        assert content[offset + size : offset + size + 4] == content[offset + size - 4 : offset + size]
        assert not end or end == offset - 4
        end = offset + size + 4
    assert end == len(content)
    assert directories == sorted(directories)
    assert directories[-1] < found[0][0]


@pytest.mark.parametrize("bands", [1, 5])
@pytest.mark.parametrize("largest", [0, 1 << 40])
def test_a_file_of_any_size_is_laid_out_as_gdal_does_it(
    bands: int, largest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With offsets of four bytes, or of eight, as very large files need."""
    monkeypatch.setattr(target_module, "_CLASSIC", largest)
    values = np.random.default_rng(0).integers(0, 9, (bands, 1300, 2100), dtype=np.uint8)
    names = [f"band {n}" for n in range(bands)] if bands > 1 else []
    target = RasterTarget(
        GeoBox(2100, 1300, None, tuple(NORTH_UP)[:6]), "all.tif", "average", {"A": "b"}, "", 1, (), names
    )
    path = finish_in(tmp_path, target, values, [1, 512, 700, 1300])
    assert (path.read_bytes()[2] == 43) == (largest == 0)
    refuse_unlike_gdal(path, levels=4)
    with rasterio.open(path) as src:
        assert np.array_equal(src.read(), values)
        assert src.descriptions == (tuple(names) or (None,))
        assert (src.nodata, src.transform, src.tags()["A"]) == (255, NORTH_UP, "b")
        assert src.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    for level in range(3):
        values = np.stack([halve(one, "average") for one in values])
        with rasterio.open(path, overview_level=level) as src:
            assert np.array_equal(src.read(), values)
            assert src.nodata == 255


def test_what_cannot_be_written_or_read_is_named(tmp_path: Path) -> None:
    target = RasterTarget(GeoBox(4, 4, None, tuple(NORTH_UP)[:6]), "codes.tif", "mode", {}, "", 6)
    with pytest.raises(TargetError, match=r"none/codes\.tif"):
        target.write_swath(tmp_path / "none", Span(0, 2), np.zeros((2, 4), np.uint8))
    (tmp_path / "codes.tif").write_bytes(b"half")
    with pytest.raises(TargetError, match=r"codes\.tif of an earlier run cannot be read"):
        target.read_swath(tmp_path, Span(0, 4))


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
        one.write_swath(swath, Span(0, 30), np.zeros((30, 40), np.uint8))
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
