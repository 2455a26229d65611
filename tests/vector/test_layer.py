"""One reader for vector files of all kinds: labels, truths, zones, objects and areas of interest."""

import os
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely
from conftest import NORTH_UP, UTM, Write, blobs, stand_in
from pyproj import CRS
from range_server import served

import pfmap
from pfmap.core.errors import PfmapError, SourceError, UsageError
from pfmap.core.grid import GeoBox, Span
from pfmap.raster.classmap import ClassMap
from pfmap.raster.location import locate
from pfmap.vector import layer
from pfmap.vector.area import read_area
from pfmap.vector.labels import LabelPolygons, PolygonFile
from pfmap.vector.layer import is_vector, open_layer
from pfmap.vector.zones import summarize

BOX = GeoBox(100, 100, CRS.from_user_input(UTM).to_wkt(), tuple(NORTH_UP)[:6])
SQUARES = shapely.box([300005, 300025], 2999960, [300015, 300035], 2999970)
NAMES = ["Gebäude – groß", "Straße"]


def frame() -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame({"class": NAMES, "name": NAMES}, geometry=SQUARES, crs=UTM)


def shapefile(path: Path, encoding: str, code_page: int, cpg: str | None) -> Path:
    """Write a shapefile as an office's programs do: a code page that the file names, or not."""
    frame().to_file(path, encoding=encoding)
    path.with_suffix(".cpg").unlink()
    if cpg is not None:
        path.with_suffix(".cpg").write_text(cpg)
    table = bytearray(path.with_suffix(".dbf").read_bytes())
    table[29] = code_page
    path.with_suffix(".dbf").write_bytes(table)
    return path


@pytest.mark.parametrize("code_page", [0x00, 0x03, 0x57])
@pytest.mark.parametrize("encoding", ["CP1252", "UTF-8"])
def test_a_shapefile_that_names_no_encoding_has_its_right_letters(
    encoding: str, code_page: int, tmp_path: Path
) -> None:
    path = str(shapefile(tmp_path / "a.shp", encoding, code_page, None))
    file = PolygonFile(path, None)
    assert file.values == dict.fromkeys(NAMES, 1)
    polygons = LabelPolygons(file, BOX, "scene")
    assert [name for _, _, name in polygons.box(Span(0, 100), Span(0, 100))] == NAMES
    assert polygons.note == (
        f"{path} names no encoding: its texts are read as CP1252" * (encoding == "CP1252")
    )
    found = summarize(path, path)
    assert {row.zone for row in found.rows if row.objects} == set(NAMES)
    assert found.notes == (polygons.note,) * 2 * (encoding == "CP1252")


def test_a_shapefile_that_names_another_encoding_than_its_own_is_refused(tmp_path: Path) -> None:
    path = shapefile(tmp_path / "a.shp", "CP1252", 0, "UTF-8")
    for read in (lambda: PolygonFile(str(path), None), lambda: summarize(str(path))):
        with pytest.raises(SourceError, match=r"a\.shp has texts in an encoding that .* \.cpg file"):
            read()
    (tmp_path / "a.csv").write_bytes('WKT,class\n"POLYGON ((0 0,1 0,1 1,0 0))",Süd\n'.encode("latin-1"))
    with pytest.raises(SourceError, match=r"a\.csv has texts in an encoding"):
        PolygonFile(str(tmp_path / "a.csv"), None)


def circle(x: float, y: float, radius: float) -> bytes:
    """Return a disc as well-known binary, its edge a circular string."""
    points = [(x - radius, y), (x, y + radius), (x + radius, y), (x, y - radius), (x - radius, y)]
    string = struct.pack("<BII", 1, 8, len(points)) + b"".join(struct.pack("<dd", *point) for point in points)
    return struct.pack("<BII", 1, 10, 1) + string


def write_kind(kind: str, folder: Path) -> str:
    """Write the squares as a file of a kind; returns what to read."""
    squares, path = frame(), folder / f"roofs.{kind.split(maxsplit=1)[0]}"
    name = str(path)
    if kind == "plain parquet":
        squares.to_parquet(path := folder / "roofs")
        name = str(path)
    elif kind == "geoparquet":
        squares.to_parquet(path)
    elif kind == "kml":
        squares.to_crs(4326).to_file(path, driver="KML", engine="pyogrio")
    elif kind == "gdb":
        squares.to_file(path, driver="OpenFileGDB", layer="roofs")
        name = f"{path}:roofs"
    elif kind == "csv":
        table = squares.assign(WKT=squares.geometry.to_wkt())
        table[["WKT", "class", "name"]].to_csv(path, index=False)
    elif kind == "zip":
        squares.to_file(folder / "a.shp")
        with zipfile.ZipFile(path, "w") as archive:
            for part in folder.glob("a.*"):
                archive.write(part, part.name)
    else:
        squares.geometry = shapely.force_3d(squares.geometry, 7.0)
        squares.to_file(path)
    return name


KINDS = ("geoparquet", "plain parquet", "kml", "gdb", "csv", "zip", "fgb with heights", "gpkg with heights")


@pytest.mark.filterwarnings("ignore:.*CRS")
@pytest.mark.parametrize("kind", KINDS)
def test_every_format_is_read_for_every_purpose(kind: str, tmp_path: Path) -> None:
    text = write_kind(kind, tmp_path)
    assert is_vector(text)
    open_layer(text, "area")
    area = read_area(text, None, BOX, "scene")
    assert area.geometry.area == pytest.approx(2 * 20 * 20, rel=1e-3)
    field = "Name" if kind == "kml" else "class"
    polygons = LabelPolygons(PolygonFile(text, field), BOX, "scene")
    found = {name: shape for _, shape, name in polygons.box(Span(0, 100), Span(0, 100))}
    assert [found[name].area for name in NAMES if name in found] == pytest.approx([400, 400], rel=1e-3)
    objects = str(tmp_path / "objects.gpkg")
    frame().to_file(objects)
    if kind != "csv":  # which names no CRS
        rows = summarize(objects, text).rows
        assert sum(row.objects for row in rows) == 2


def test_curves_are_lines_for_every_purpose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer, "_CHUNK", 1)
    shapes = [circle(300020, 2999970, 5), shapely.to_wkb(SQUARES[0])]
    path = str(tmp_path / "curves.gpkg")
    pyogrio.raw.write(
        path, np.array(shapes, dtype=object), [np.array(NAMES, dtype=object)],
        np.array(["class"], dtype=object), geometry_type="Unknown", crs=UTM, driver="GPKG", layer="roofs",
    )  # fmt: skip
    disc = np.pi * 100
    assert read_area(path, None, BOX, "scene").geometry.area == pytest.approx(disc + 400, rel=1e-3)
    found = LabelPolygons(PolygonFile(path, None), BOX, "scene").box(Span(0, 100), Span(0, 100))
    assert [shape.area for _, shape, _ in found] == pytest.approx([disc, 400], rel=1e-3)
    assert sum(row.area for row in summarize(path, path).rows) == pytest.approx((disc + 400) / 4, rel=3e-3)


def test_what_was_cut_into_tiles_is_no_layer(tmp_path: Path) -> None:
    """Of an object that crosses their edges there would be several."""
    frame().to_file(tmp_path / "roofs.pmtiles", driver="PMTiles", MAXZOOM=18)
    with pytest.raises(SourceError, match=r"roofs\.pmtiles has features cut into tiles: name the file"):
        summarize(str(tmp_path / "roofs.pmtiles"))


def test_a_file_of_something_else_is_a_clear_error_for_every_purpose(tmp_path: Path) -> None:
    (tmp_path / "odd.parquet").write_text("no parquet")
    pd.DataFrame({"class": ["a"]}).to_parquet(tmp_path / "table.parquet")
    (tmp_path / "table.csv").write_text("class\na\n")
    os.mkfifo(tmp_path / "pipe.gpkg")
    for name in ("odd.parquet", "table.parquet", "table.csv", "gone.gpkg", "pipe.gpkg"):
        for read in (
            lambda name=name: read_area(str(tmp_path / name), None, BOX, "scene"),
            lambda name=name: PolygonFile(str(tmp_path / name), None),
            lambda name=name: summarize(str(tmp_path / name)),
            lambda name=name: open_layer(str(tmp_path / name), "area"),
        ):
            with pytest.raises(PfmapError, match=name.replace(".", r"\.")) as caught:
                read()
            assert "\n" not in str(caught.value)
    frame().to_file(tmp_path / "two.gpkg", layer="a")
    frame().to_file(tmp_path / "two.gpkg", layer="b")
    with pytest.raises(UsageError, match="has layers a, b: name one"):
        open_layer(str(tmp_path / "two.gpkg"), "area")
    assert open_layer(f"{tmp_path / 'two.gpkg'}:b", "area").name == "b"


@pytest.mark.parametrize("scheme", ["gs", "az"])
def test_layers_are_read_from_object_stores(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / f"layers-{scheme}"
    place.mkdir()
    frame().to_file(place / "a.fgb", layer="roofs")
    with served(tmp_path) as url:
        for name, value in (
            ("CPL_GS_ENDPOINT", f"{url}/"), ("GS_NO_SIGN_REQUEST", "YES"), ("CPL_AZURE_ENDPOINT", url),
            ("AZURE_STORAGE_ACCOUNT", "me"), ("AZURE_NO_SIGN_REQUEST", "YES"),
        ):  # fmt: skip
            monkeypatch.setenv(name, value)
        assert open_layer(f"{scheme}://{place.name}/a.fgb", "area").count == 2


UTF_16 = '{"type": "FeatureCollection", "features": []}'.encode("utf-16")
OTHERS = {
    "a page": (b"\xef\xbb\xbf\n<!DOCTYPE html><html>", "it is a web page, such as a login"),
    "a wide page": ("<html><body>".encode("utf-16"), "it is a web page"),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "it is an image"),
    "wide": (UTF_16, "it is a text in UTF-16: save it as UTF-8"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer"),
    "nothing": (b"", "it is empty, or all zeros"),
    "a document": (b"%PDF-1.7\n", "it is a document"),
    "packed": (b"BZh91AY", "it is packed"),
    "words": ("404: N\u00f6t found\n".encode(), "it is a text that begins with '404: N\u00f6t found'"),
    "bytes": (b"\x07\xfe\x01\x02", ""),
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("ending", ["gpkg", "parquet", "tif"])
def test_a_file_that_is_something_else_is_called_what_it_is(kind: str, ending: str, tmp_path: Path) -> None:
    content, what = OTHERS[kind]
    (tmp_path / f"a.{ending}").write_bytes(content)
    path = str(tmp_path / f"a.{ending}")
    for read in (lambda: PolygonFile(path, None), lambda: open_layer(path, "area"), lambda: summarize(path)):
        with pytest.raises(SourceError, match=rf"a\.{ending} cannot be read \({what}") as caught:
            read()
        assert "driver" not in str(caught.value)
    if kind != "a picture":
        with pytest.raises(SourceError, match=rf"a\.{ending} is not a raster that GDAL can open .{what}"):
            ClassMap(locate(path), None)


def test_vectors_and_rasters_in_the_place_of_the_other_are_called_so(
    write_scene: Write, tmp_path: Path
) -> None:
    frame().to_file(tmp_path / "a.gpkg")
    with pytest.raises(SourceError, match=r"a\.gpkg is not a raster that GDAL can open .it is a vector file"):
        ClassMap(locate(tmp_path / "a.gpkg"), None)
    scene = write_scene(blobs(20, 20))
    with pytest.raises(SourceError, match=r"scene\.tif cannot be read .it is an image"):
        open_layer(str(scene), "area")


def test_what_is_missing_of_a_shapefile_is_said_without_advice_for_programmers(tmp_path: Path) -> None:
    frame().to_file(tmp_path / "a.shp")
    (tmp_path / "a.shx").unlink()
    assert is_vector(str(tmp_path / "a.shp"))
    with pytest.raises(SourceError, match=r"area .*a\.shp cannot be read \(Unable to open .*a\.SHX\)$"):
        open_layer(str(tmp_path / "a.shp"), "area")


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff.gpkg")
    try:
        path.write_bytes(b"")
    except OSError:
        pytest.skip("this file system has no such names")
    assert not is_vector(str(path))
    with pytest.raises(SourceError, match=r"cannot be read \(its name is not utf-8: rename it\)"):
        open_layer(str(path), "area")


@pytest.mark.parametrize("crs", [4326, 3857])
def test_what_is_laid_over_the_end_of_a_crs_is_refused_or_said(crs: int, tmp_path: Path) -> None:
    """Degrees and Web Mercator begin anew at 180: a polygon over it would go round the globe."""
    x, y = CRS_180[crs]
    size = 1e-5 if crs == 4326 else 1.0
    box = GeoBox(100, 100, CRS(crs).to_wkt(), (size, 0, x - 50 * size, 0, -size, y + 50 * size))
    name = str(tmp_path / "a.gpkg")
    here = [shapely.box(x - 9 * size, y, x + 9 * size, y + 9 * size)]
    gpd.GeoDataFrame({"class": ["a"]}, geometry=here, crs=crs).to_file(name)
    assert "reaches over 180 degrees: of" in LabelPolygons(PolygonFile(name, None), box, "scene").note
    area = read_area(name, None, box, "scene")
    assert (area.geometry.area, "over 180" in area.note) == (pytest.approx(162), True)
    gpd.GeoDataFrame({"class": ["a"]}, geometry=here, crs=crs).to_crs(32760).to_file(name)
    for read in (
        lambda: LabelPolygons(PolygonFile(name, None), box, "scene"),
        lambda: read_area(name, None, box, "scene"),
    ):
        with pytest.raises(UsageError, match=r"scene reaches over 180 degrees, .* gdalwarp"):
            read()
    west = replace(box, transform=(size, 0, x - 150 * size, 0, -size, y + 50 * size))
    assert not LabelPolygons(PolygonFile(name, None), west, "scene").note


CRS_180 = {4326: (180.0, -16.8), 3857: (20037508.342789, -1897374.9)}


def test_geoparquet_bounds_a_map(write_scene: Write, tmp_path: Path) -> None:
    frame().to_parquet(tmp_path / "area.parquet")
    result = pfmap.predict(
        write_scene(blobs(100, 100)), tmp_path, model=stand_in(), device="cpu", aoi=tmp_path / "area.parquet"
    )
    assert result.report["map"]["width"] == 60
