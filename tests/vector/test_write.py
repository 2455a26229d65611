"""Every vector format holds every object, in however many chunks and parts it comes."""

import itertools
import json
import re
import threading
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyogrio
import pyproj
import pytest
import shapely
from pyarrow import parquet
from rasters import blotches, percent, polygons, traced

from pfmap.core.classes import ClassSpec
from pfmap.core.errors import TargetError, UsageError
from pfmap.core.grid import GeoBox
from pfmap.core.stages import Regions
from pfmap.trace import tracer as tracer_module
from pfmap.trace.separate import Separation
from pfmap.trace.tracer import Tracer
from pfmap.vector import formats, write
from pfmap.vector.formats import FORMATS
from pfmap.vector.geodesy import Measurer, rectangles, sizes
from pfmap.vector.layer import open_layer
from pfmap.vector.regularize import Regularizer
from pfmap.vector.write import ObjectWriter

CLASSES = {
    0: ClassSpec("Häuser & co", "#d7301f"),
    1: ClassSpec("road", "#4daf4a"),
    2: ClassSpec("tree", "#377eb8"),
}
UTM = str(pyproj.CRS(32645).to_wkt())
RASTER = blotches(5, 120, 150, 4, 2.0)
TABLES = tuple(form for form in FORMATS if form != "pmtiles")  # those that have each object once, as it is


def written(
    folder: Path, forms: tuple[str, ...] = TABLES, crs: str | None = UTM, **options: Any
) -> dict[str, list[Path]]:
    """Write the regions of a raster as they close."""
    geobox = options.pop("geobox", GeoBox(150, 120, crs, (0.5, 0, 300000, 0, -0.5, 3000000)))
    settings = {"wanted": None, "min_area": 0.0, "scene": "scene", "metadata": {"PFMAP_VERSION": "1"}}
    writer = ObjectWriter(
        folder=folder, stem="objects", formats=forms, classes=CLASSES, geobox=geobox,
        measurer=Measurer(crs, geobox.center), **(settings | options),
    )  # fmt: skip
    with closing(writer), Tracer(120, 150, nodata=255, tolerance=1.25, tile=30) as tracer:
        for regions in tracer.add(RASTER, percent(RASTER)):
            writer.add(regions)
        return writer.finish()


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "_CHUNK", 30)


def read(path: Path) -> gpd.GeoDataFrame:
    if path.suffix == ".parquet":
        return gpd.read_parquet(path)
    return gpd.read_file(path, layer=path.stem if path.suffix == ".shp" else "objects")


LONG = {short: name for name, short in formats._SHORT.items()}


def by_id(path: Path) -> pd.DataFrame:
    frame = read(path).rename(columns=LONG)
    return frame.sort_values("object_id").reset_index(drop=True)


def test_all_formats_hold_the_same_objects(tmp_path: Path) -> None:
    files = written(tmp_path)
    assert [len(paths) for paths in files.values()] == [1] * 5
    expected = traced(RASTER, percent(RASTER), tolerance=1.25, tile=30)
    gpkg = by_id(files["gpkg"][0])
    assert gpkg["object_id"].tolist() == sorted(expected.ids)
    assert len(gpkg) > 60  # several chunks
    for form in TABLES[1:]:
        other = by_id(files[form][0])
        assert other.crs.to_epsg() == (4326 if form == "geojson" else 32645)
        for name in gpkg.columns.drop("geometry"):
            same = gpkg[name].tolist() == other[name].tolist()
            close = gpkg[name].dtype.kind == "f" and np.allclose(gpkg[name], other[name], atol=1e-6)
            assert same or close, (form, name)
        shapes = other.geometry.to_crs(32645)
        off = shapely.hausdorff_distance(gpkg.geometry.array, np.asarray(shapes.array))
        assert off.max() < (0.02 if form == "geojson" else 1e-6)
    assert {path.suffix for path in tmp_path.iterdir()} == {
        ".gpkg", ".shp", ".shx", ".dbf", ".prj", ".cpg", ".fgb", ".geojson", ".parquet", ".qml",
    }  # fmt: skip


@pytest.mark.parametrize("crs", [UTM, None])
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("points", [10**6, 60])
def test_pieces_of_an_object_that_was_taken_apart_say_what_all_of_it_is_like(
    crs: str | None, squared: bool, points: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Objects of class 0 are taken apart; one of too many points is not held in memory as a whole."""
    monkeypatch.setattr(write, "_CHUNK_POINTS", points)
    monkeypatch.setattr(write, "_WAITING_POINTS", points)
    monkeypatch.setattr(tracer_module, "_MANY", points // 6)
    contact = np.zeros(RASTER.shape, np.uint8)
    contact[40::50], contact[:, 40::50] = 100, 100
    how = Separation(frozenset({0}), depth=1, reach=40, least=4)
    geobox = GeoBox(150, 120, crs, (0.5, 0, 300000, 0, -0.5, 3000000))
    regularizer = Regularizer(frozenset({1}), (0.5, 0.5), True)
    found, told = [], []
    for split in (0, 8):
        writer = ObjectWriter(
            folder=tmp_path, stem=f"{split}", formats=("gpkg",), classes=CLASSES, wanted=None, geobox=geobox,
            measurer=Measurer(crs, geobox.center), scene="scene", min_area=(), metadata={},
            apart=frozenset({0}), regularizer=regularizer if squared else None,
        )  # fmt: skip
        tracing = {"tolerance": 1.25, "tile": 30, "separation": how, "split": split}
        with closing(writer), Tracer(120, 150, nodata=255, **tracing) as tracer:
            for regions in tracer.add(RASTER, percent(RASTER), contact):
                writer.add(regions)
            path = writer.finish()["gpkg"][0]
        found.append(gpd.read_file(path, layer=pyogrio.list_layers(path)[0, 0]).drop(columns="geometry"))
        told.append((writer.counts, writer.areas))
    unit = "m2" if crs else "px"
    whole, pieces = (frame.set_index("object_id") for frame in found)
    assert told[0][0] == told[1][0]
    assert told[0][1] == pytest.approx(told[1][1], rel=0.02 if squared else 1e-6)
    is_cut = pieces.index.duplicated(keep=False)
    own = pieces[is_cut & (pieces["class_id"] > 0)]
    assert own.groupby("object_id")[f"area_{unit}"].nunique().gt(1).all()
    shared = pieces[is_cut & (pieces["class_id"] == 0)]
    assert min(len(own), len(shared)) > 9
    assert set(shared.groupby("object_id")["piece"].apply(list).map(sorted).map(tuple)) <= {
        tuple(range(1, k)) for k in range(3, 30)
    }
    if points > 60:
        expected = whole.loc[shared.index].drop(columns="piece")
        pd.testing.assert_frame_equal(shared.drop(columns="piece"), expected, atol=2e-6, rtol=1e-9)
    else:
        assert shared.groupby("object_id")[f"area_{unit}"].nunique().gt(1).any()


def test_geojson_follows_rfc_7946(tmp_path: Path) -> None:
    (path,) = written(tmp_path, ("geojson",))["geojson"]
    content = json.loads(path.read_text(encoding="utf-8"))
    assert "crs" not in content
    for feature in content["features"]:
        for number, ring in enumerate(feature["geometry"]["coordinates"]):
            assert shapely.LinearRing(ring).is_ccw == (number == 0)  # right-hand rule
            assert -180 <= ring[0][0] <= 180


def test_geoparquet_says_what_it_is(tmp_path: Path) -> None:
    (path,) = written(tmp_path, ("parquet",))["parquet"]
    file = parquet.ParquetFile(path)
    geo = json.loads(file.schema_arrow.metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    column = geo["columns"][geo["primary_column"]]
    assert column["encoding"] == "WKB"
    assert column["covering"] == {"bbox": {side: ["bbox", side] for side in ("xmin", "ymin", "xmax", "ymax")}}
    assert file.num_row_groups > 1
    assert file.schema_arrow.metadata[b"PFMAP_VERSION"] == b"1"
    boxes = pd.DataFrame(file.read(["bbox"])["bbox"].to_pylist()).to_numpy()
    np.testing.assert_array_equal(boxes, read(path).bounds)
    assert "bbox" not in open_layer(str(path), "objects").fields  # for other commands it says nothing new


def test_of_a_geoparquet_file_only_what_lies_near_is_read(tmp_path: Path) -> None:
    """Groups of rows follow a Hilbert curve, in small ones as in all: their boxes hardly overlap."""
    (path,) = written(tmp_path, ("parquet",))["parquet"]
    whole, file = read(path), parquet.ParquetFile(path)
    sides = ("xmin", "ymin", "xmax", "ymax")
    names = [f"bbox.{side}" for side in sides]
    columns = [file.schema.names.index(side) for side in sides]
    assert [file.schema.column(column).path for column in columns] == names
    groups = [file.metadata.row_group(k) for k in range(file.num_row_groups)]
    assert max(group.num_rows for group in groups) < 90 < len(whole)  # a chunk has 30
    stats = [[group.column(column).statistics for column in columns] for group in groups]
    boxes = np.array([[a.min, b.min, c.max, d.max] for a, b, c, d in stats])
    small = whole[whole.area < 25]  # the largest reach from one end to the other, wherever they are
    for x, y in itertools.product((300010, 300060), (2999945, 2999990)):
        window = (x, y, x + 5, y + 5)
        near = small.cx[x : x + 5, y : y + 5]
        found = gpd.read_parquet(path, bbox=window)
        assert len(near) > 0
        assert set(near["object_id"]) <= set(found["object_id"])
        assert len(found) < len(whole) / 2
    place = small.hilbert_distance(total_bounds=(300000, 2999940, 300075, 3000000))
    assert place.is_monotonic_increasing
    assert boxes.shape == (len(groups), 4)


@pytest.mark.parametrize(("crs", "x", "y"), [(32645, 300000, 3000000), (3857, 20037438, -1894000)])
def test_vector_tiles_hold_every_object_with_the_colour_of_its_class(
    crs: int, x: float, y: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the closest zoom, where a unit of a tile is no larger than a pixel; also over the antimeridian.

    There what is cut comes in parts: GDAL takes seconds for an object with one at either end of the map.
    """
    real, given = formats.Streamed._append, []

    def append(self: formats.Streamed, table: pa.Table) -> None:
        given.extend(shapely.from_wkb(table["geom"].to_numpy()))
        real(self, table)

    monkeypatch.setattr(formats.Streamed, "_append", append)
    geobox = GeoBox(150, 120, pyproj.CRS(crs).to_wkt(), (0.5, 0, x, 0, -0.5, y))
    paths = written(tmp_path, ("gpkg", "pmtiles"), geobox.crs_wkt, geobox=geobox)
    whole, tiles = by_id(paths["gpkg"][0]), gpd.read_file(paths["pmtiles"][0])
    notes = pyogrio.read_info(paths["pmtiles"][0])["dataset_metadata"]
    assert json.loads(notes["description"]) == {"PFMAP_VERSION": "1"}
    closest = int(notes["maxzoom"])
    unit = 40_075_017 / 4096 / 2**closest * np.cos(np.radians(float(notes["center"].split(",")[1])))
    true = 0.5 if crs == 32645 else 0.5 * np.cos(np.radians(16.77))
    assert unit <= true * 1.001 < 2 * unit
    assert int(notes["minzoom"]) == closest - 4
    assert set(tiles.columns) == {
        "mvt_id", "object_id", "class", "area_m2", "confidence_mean", "color", "geometry",
    }  # fmt: skip
    assert dict(zip(tiles["class"], tiles["color"], strict=True)) == {
        spec.name: spec.color for spec in CLASSES.values()
    }
    assert tiles.total_bounds.tolist() == pytest.approx(
        [-20037508.34, y - 60, 20037508.34, y] if crs == 3857 else whole.to_crs(3857).total_bounds, abs=1
    )
    assert {shape.geom_type for shape in given} == {"Polygon"}
    areas = tiles.set_geometry(tiles.to_crs(6933).geometry).dissolve("object_id").area
    assert sorted(areas.index) == whole["object_id"].tolist()
    assert areas.to_numpy() == pytest.approx(whole["area_m2"].to_numpy(), rel=0.1, abs=2 * 3 * unit)


def test_vector_tiles_need_a_place_on_a_web_map(tmp_path: Path) -> None:
    for crs, x, y in ((None, 0, 0), (3413, 0.0, 0.0)):
        geobox = GeoBox(150, 120, crs and pyproj.CRS(crs).to_wkt(), (0.5, 0, x, 0, -0.5, y))
        with pytest.raises(UsageError, match="pmtiles files cannot hold objects without a CRS, or nearer to"):
            written(tmp_path, ("pmtiles",), geobox.crs_wkt, geobox=geobox)
    assert not list(tmp_path.iterdir())


def test_a_large_shapefile_goes_on_in_numbered_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "SHAPEFILE_BYTES", 8_000)
    paths = written(tmp_path, ("shp", "gpkg"))["shp"]
    assert len(paths) > 3
    assert [path.stem for path in paths[:3]] == ["objects", "objects_part2", "objects_part3"]
    for number, path in enumerate(paths):
        assert path.stat().st_size <= 8_100
        if number:  # of the first chunk it is not known how large a record is
            assert path.with_suffix(".dbf").stat().st_size <= 9_000
        for suffix in (".shx", ".prj", ".cpg", ".qml"):
            assert path.with_suffix(suffix).is_file()
    together = pd.concat([read(path) for path in paths])
    assert sorted(together["object_id"]) == sorted(by_id(tmp_path / "objects.gpkg")["object_id"])


def test_one_object_larger_than_a_part_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "SHAPEFILE_BYTES", 300)
    paths = written(tmp_path, ("shp",))["shp"]
    assert sum(len(read(path)) for path in paths) == len(traced(RASTER, percent(RASTER)))


def test_each_class_may_have_its_own_files(tmp_path: Path) -> None:
    files = written(tmp_path, ("gpkg", "shp"), by_class=True, wanted=frozenset({0, 1, 2}))
    assert set(files) == {f"{form}.{spec.name}" for form in ("gpkg", "shp") for spec in CLASSES.values()}
    assert (tmp_path / "objects_Häuser___co.gpkg").is_file()
    whole = traced(RASTER, percent(RASTER))
    for value, spec in CLASSES.items():
        frame = read(files[f"gpkg.{spec.name}"][0])
        assert set(frame["class"]) == {spec.name}
        assert len(frame) == np.count_nonzero(whole.classes == value)


def test_no_objects_give_layers_with_all_fields(tmp_path: Path) -> None:
    geobox = GeoBox(10, 10, UTM, (0.5, 0, 300000, 0, -0.5, 3000000))
    writer = ObjectWriter(
        tmp_path, "objects", FORMATS, CLASSES, frozenset({0, 1}), geobox, Measurer(UTM, geobox.center),
        "scene", 0.0, {},
    )  # fmt: skip
    with closing(writer):
        writer.add(Regions.none())
        files = writer.finish()
    for form, (path,) in files.items():
        frame = read(path)
        assert len(frame) == 0
        if form not in ("geojson", "pmtiles"):  # which have no place for them
            assert {"class", "area_m2", "scene"} <= set(frame.columns)


def test_a_raster_without_a_crs_is_measured_in_pixels(tmp_path: Path) -> None:
    files = written(tmp_path, crs=None)
    frame = by_id(files["gpkg"][0])
    assert frame["area_px"].sum() == pytest.approx(np.count_nonzero(RASTER != 255))
    assert {"perimeter_px", "length_px", "width_px"} <= set(frame.columns)
    for form in ("shp", "fgb", "parquet", "geojson"):
        assert len(read(files[form][0])) == len(frame)


def test_the_geopackage_has_an_index_a_style_and_the_runs_parameters(tmp_path: Path) -> None:
    import sqlite3

    (path,) = written(tmp_path, ("gpkg",))["gpkg"]
    with sqlite3.connect(path) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        assert "rtree_objects_geom" in tables
        name, qml, default = db.execute(
            "SELECT f_table_name, styleQML, useAsDefault FROM layer_styles"
        ).fetchone()
        assert (name, default) == ("objects", 1)
        assert "H&#228;user &amp; co" in qml or "Häuser &amp; co" in qml
    db.close()
    assert pyogrio.read_info(path, layer="objects")["layer_metadata"]["PFMAP_VERSION"] == "1"


def test_rectangles_say_length_width_and_direction() -> None:
    shapes = [shapely.box(0, 0, 4, 2)]
    for degrees in (10, 45, 80, 135, 179):
        # A rectangle whose longer side points so many degrees clockwise from north.
        upright = shapely.box(-1, -3, 1, 3)
        shapes.append(shapely.affinity.rotate(upright, -degrees))
    lengths, longer = rectangles(np.array(shapes, dtype=object))
    np.testing.assert_allclose(np.sort(lengths), [[2, 4], *[[2, 6]] * 5])
    np.testing.assert_allclose(Measurer(None, (0, 0)).azimuths(longer), [90, 10, 45, 80, 135, 179])


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        (None, (1, 0, 0, 0, 1, 0)),
        (UTM, (0.1, 0, 300000, 0, -0.1, 3000000)),
        (pyproj.CRS(4326).to_wkt(), (1e-6, 0, 179.99995, 0, -1e-6, 28)),
        (pyproj.CRS(3857).to_wkt(), (0.1, 0, 9e6, 0, -0.1, 3.2e6)),
    ],
)
@pytest.mark.parametrize("split", [0, 30])
def test_outlines_are_to_the_bit_what_shapely_makes_of_polygons(
    tmp_path: Path, crs: str | None, transform: tuple[float, ...], split: int
) -> None:
    """Geometry and measures, of regions with holes, of cut ones, and of none at all."""
    raster = RASTER.copy()
    raster[61:80, 61:80] = 0
    raster[65:67, 65:67] = raster[70:73, 72:74] = 1
    regions = traced(raster, percent(raster), tolerance=1.25, tile=30, split=split)
    assert regions.whole.all() == (not split)
    assert np.diff(regions.region_offsets).max() > 2
    geobox = GeoBox(150, 120, crs, transform)
    (a, b, c, d, e, f), measurer = transform, Measurer(crs, geobox.center)
    for some in (regions, Regions.none()):
        folder = tmp_path / f"{len(some)}"
        folder.mkdir()
        writer = ObjectWriter(
            folder=folder, stem="objects", formats=("parquet",), classes=CLASSES, geobox=geobox, wanted=None,
            measurer=measurer, min_area=0.0, scene="scene", metadata={},
        )  # fmt: skip
        with closing(writer):
            writer.add(some)
            table = parquet.read_table(writer.finish()["parquet"][0])
        table = table.sort_by([("object_id", "ascending"), ("piece", "ascending")])
        table = table.take(np.argsort(np.argsort(some.object_ids, kind="stable")))
        shapes = polygons(some)
        placed = shapely.transform(shapes, lambda xy: xy @ np.array([[a, d], [b, e]]) + (c, f))
        assert table["geom"].to_pylist() == shapely.to_wkb(placed).tolist()
        ground = placed if crs else shapely.transform(shapes, lambda xy: xy * (1, -1))
        ground = shapely.transform(ground, measurer.ground)
        if len(some):
            coords, offsets = shapely.to_ragged_array(ground)[1:]
            exact = replace(some, coords=coords, ring_offsets=offsets[0], region_offsets=offsets[1])
            np.testing.assert_array_equal(sizes(exact), [shapely.area(ground), shapely.length(ground)])
        lengths, longer = rectangles(ground)
        unit = measurer.units
        for name, values in {
            f"area_{measurer.area_units}": shapely.area(ground).round(6),
            f"perimeter_{unit}": shapely.length(ground).round(6),
            f"length_{unit}": lengths.max(axis=1).round(6),
            f"width_{unit}": lengths.min(axis=1).round(6),
            "azimuth_deg": measurer.azimuths(longer).round(2) % 180,
        }.items():
            assert table[name].type == "double"
            np.testing.assert_array_equal(table[name].to_numpy(), values)


def test_files_do_not_depend_on_how_objects_come(tmp_path: Path) -> None:
    """Not on the chunks in which tracing gives them, nor on the day."""
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    geobox = GeoBox(150, 120, UTM, (0.5, 0, 300000, 0, -0.5, 3000000))
    with Tracer(120, 150, nodata=255, tolerance=1.25, tile=30) as tracer:
        regions = Regions.join(list(tracer.add(RASTER, percent(RASTER))))
    content = []
    for size in (len(regions), 31, 1):
        folder = tmp_path / f"{size}"
        folder.mkdir()
        writer = ObjectWriter(
            folder=folder, stem="objects", formats=FORMATS, classes=CLASSES, geobox=geobox, wanted=None,
            measurer=Measurer(UTM, geobox.center), min_area=0.0, scene="scene", metadata={"A": "1"},
            moment=moment,
        )  # fmt: skip
        with closing(writer):
            for first in range(0, len(regions), size):
                writer.add(regions.part(first, first + size))
            writer.finish()
        content.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert content[0] == content[1] == content[2]
    gpkg = content[0]["objects.gpkg"]
    assert set(re.findall(rb"20\d\d-\d\d-\d\dT[\d:.]+Z", gpkg)) == {b"2026-01-02T03:04:05.000Z"}
    assert content[0]["objects.dbf"][1:4] == bytes((126, 1, 2))


def test_a_file_that_is_not_what_was_written_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for form, change in (("gpkg", {"features": 3}), ("fgb", {"crs": None}), ("shp", {"features": 0})):
        with monkeypatch.context() as patched:
            real = pyogrio.read_info
            patched.setattr(formats.pyogrio, "read_info", lambda *a, **k: real(*a, **k) | change)  # noqa: B023
            if form == "shp":  # its CRS is tried first, with the same call
                patched.setattr(write, "refuse_unfit", lambda *_: None)
            with pytest.raises(
                TargetError, match=rf"objects\.{form} could not be written: read back, it has"
            ):
                written(tmp_path, (form,))


@pytest.mark.parametrize(("crs", "x", "y"), [(3857, 20037508.0, -1894000.0), (3413, 0.0, 0.0)])
def test_geojson_over_the_antimeridian_or_a_pole_is_sound(
    crs: int, x: float, y: float, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    geobox = GeoBox(150, 120, pyproj.CRS(crs).to_wkt(), (0.5, 0, x - 37, 0, -0.5, y + 30))
    writer = ObjectWriter(
        folder=tmp_path, stem="objects", formats=("geojson",), classes=CLASSES, geobox=geobox, wanted=None,
        measurer=Measurer(geobox.crs_wkt, geobox.center), min_area=0.0, scene="scene", metadata={},
    )  # fmt: skip
    with closing(writer), Tracer(120, 150, nodata=255, tolerance=1.25, tile=30) as tracer:
        for regions in tracer.add(RASTER, percent(RASTER)):
            writer.add(regions)
        writer.finish()
    features = json.loads((tmp_path / "objects.geojson").read_text())["features"]
    shapes = np.array([shapely.geometry.shape(feature["geometry"]) for feature in features])
    assert shapely.is_valid(shapes).all()
    parts = shapely.get_parts(shapes)
    west, _, east, north = shapely.bounds(parts).T
    assert ((west >= -180) & (east <= 180) & ((east - west < 1) | (north > 89))).all()
    assert len(parts) > len(shapes)
    areas = [abs(pyproj.Geod(ellps="WGS84").geometry_area_perimeter(shape)[0]) for shape in shapes]
    own = sum(feature["properties"]["area_m2"] for feature in features)
    assert sum(areas) == pytest.approx(own, rel=0.002)
    assert capfd.readouterr().err == ""


def test_two_classes_never_share_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alike = {0: ClassSpec("a b", "#d7301f"), 1: ClassSpec("a/b", "#4daf4a"), 2: ClassSpec("c", "#377eb8")}
    monkeypatch.setitem(globals(), "CLASSES", alike)
    before = threading.active_count()
    with pytest.raises(UsageError, match="the same file"):
        written(tmp_path, ("gpkg", "parquet"), by_class=True)
    assert threading.active_count() == before  # none goes on writing
