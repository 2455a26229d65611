"""`pfmap vectorize` on class rasters of any origin."""

import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from click.testing import CliRunner
from conftest import UTM, blobs, houses, stand_in
from rasters import blotches, percent, polygons, traced

import pfmap
from pfmap.cli.main import cli
from pfmap.core.errors import PfmapError, SourceError, TargetError, UsageError
from pfmap.mapping import polygonize
from pfmap.raster.classmap import ClassMap
from pfmap.vector.zones import summarize

NORTH_UP = Affine(0.5, 0, 300000, 0, -0.5, 3000000)


def write(path: Path, values: np.ndarray, **options: Any) -> Path:
    bands = values if values.ndim == 3 else values[None]
    settings: dict[str, Any] = {"crs": UTM, "transform": NORTH_UP}
    settings |= options
    with rasterio.open(
        path, "w", driver="GTiff", count=len(bands), height=bands.shape[1], width=bands.shape[2],
        dtype=bands.dtype, **settings,
    ) as dst:  # fmt: skip
        dst.write(bands)
    return path


def read(path: Path) -> gpd.GeoDataFrame:
    return gpd.read_file(path, layer="objects")


def test_a_foreign_raster_becomes_the_polygons_of_its_regions(tmp_path: Path) -> None:
    classes = blotches(2, 300, 260, 4, 3.0)
    raster = write(tmp_path / "cover.tif", classes, nodata=255)
    result = pfmap.vectorize(raster, simplify=0)
    frame = read(result.outputs["gpkg"])
    oracle = traced(classes, percent(classes))
    pixels = shapely.transform(frame.geometry.array, lambda xy: (xy - (300000, 3000000)) * (2, -2) + 0.0)
    assert sorted(shapely.to_wkb(shapely.normalize(pixels))) == sorted(
        shapely.to_wkb(shapely.normalize(polygons(oracle)))
    )
    assert result.counts == {str(v): int((oracle.classes == v).sum()) for v in (0, 1, 2)}
    assert sum(result.areas.values()) == pytest.approx((classes != 255).sum() / 4)
    assert "confidence_mean" not in frame.columns
    assert set(frame["scene"]) == {"cover"}


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "uint32"])
def test_whole_numbers_of_any_type_are_classes(dtype: str, tmp_path: Path) -> None:
    classes = blotches(2, 60, 70, 3, 3.0).astype(dtype) * (100 if dtype != "uint8" else 1)
    classes[classes >= 255] = 0 if dtype == "uint8" else 25_500
    raster = write(tmp_path / "cover.tif", classes, nodata=0)
    result = pfmap.vectorize(raster, names={100: "grass", 1: "grass"})
    frame = read(result.outputs["gpkg"])
    assert "grass" in result.counts
    assert sum(result.counts.values()) == len(frame)
    assert 0 not in set(frame["class_id"])
    assert frame["area_m2"].sum() == pytest.approx((classes != 0).sum() / 4, rel=1e-6)


@pytest.mark.parametrize("contact", [(), ("class_2",)])
def test_the_map_that_predict_wrote_gives_the_same_objects(
    contact: tuple[str, ...], tmp_path: Path, write_scene: Any
) -> None:
    scene = write_scene(houses(200, 180)[0] if contact else blobs(200, 180, smooth=3))
    options: dict[str, Any] = {"classes": ("class_1", "class_2"), "min_area": 0}
    first = pfmap.predict(scene, tmp_path / "a", model=stand_in(contact=contact), device="cpu", **options)
    if contact:  # wherever it lies
        options["contact"] = first.outputs["contact"].rename(tmp_path / "walls.tif")
    lines: list[str] = []
    result = pfmap.vectorize(
        first.outputs["classes"], tmp_path / "b", on_message=lines.append, simplify=None, **options
    )
    assert any("confidence from" in line for line in lines)
    assert result.outputs["gpkg"].name == first.outputs["gpkg"].name
    before, after = (read(r.outputs["gpkg"]) for r in (first, result))
    assert before.drop(columns="geometry").equals(after.drop(columns="geometry"))
    assert (shapely.to_wkb(before.geometry) == shapely.to_wkb(after.geometry)).all()
    assert (before["region_id"] != before["object_id"]).any() == bool(contact)


def test_a_contact_map_beside_is_taken_and_others_are_said(tmp_path: Path, write_scene: Any) -> None:
    image, ids = houses(110, 160)
    model, out = stand_in(contact=("class_2",)), tmp_path / "a"
    first = pfmap.predict(write_scene(image), out, model=model, device="cpu", min_area=0)
    classes, walls = first.outputs["classes"], first.outputs["contact"]

    def count(raster: Path = classes, **options: Any) -> tuple[int, str]:
        lines: list[str] = []
        found = pfmap.vectorize(raster, tmp_path / "b", overwrite=True, on_message=lines.append, **options)
        return found.counts["class_2"], "\n".join(lines)

    number, said = count()
    assert number == ids.max()
    assert f"contact from {walls}" in said
    assert "objects of class_2 are taken apart where the contact map shows that they touch" in said
    together, said = count(separate=("none",))
    assert together < number
    assert "contact from" not in said
    assert pfmap.vectorize(classes, tmp_path / "c", names={2: "house"}).counts["house"] == number
    with rasterio.open(walls) as src:
        values = src.read(1)
    both, said = count(separate=("class_1", "class_2"))
    assert both == number
    assert "shows that they touch, and those of class_1 are taken apart by their shape alone" in said
    plain = write(tmp_path / "plain.tif", values)
    assert count(contact=plain, separate=("class_2",))[0] == number
    for options, words in (
        ({"contact": plain}, "does not name its classes: do so with separate="),
        ({"separate": ("shed",)}, "class 'shed' is unknown"),
        ({"contact": write(tmp_path / "small.tif", values[:9])}, "give the contact of the same map"),
        ({"classes": ("class_1",), "separate": ("class_2",)}, "is to be taken apart, but does not become"),
    ):
        with pytest.raises(PfmapError, match=words) as caught:
            count(**options)
        assert "\n" not in str(caught.value)


def test_without_a_contact_map_shape_takes_objects_apart_when_asked_for_by_name(tmp_path: Path) -> None:
    classes = np.zeros((80, 160), np.uint8)
    classes[20:60, 20:60] = classes[20:60, 90:130] = 1
    classes[38:42, 60:90] = 1  # a neck between two houses
    raster, lines = write(tmp_path / "cover.tif", classes), list[str]()
    assert pfmap.vectorize(raster).counts == {"0": 1, "1": 1}
    found = pfmap.vectorize(raster, overwrite=True, separate=("1",), on_message=lines.append)
    assert found.counts == {"0": 1, "1": 2}
    assert any(
        line.startswith("warning: objects of 1 are taken apart by their shape alone") for line in lines
    )
    frame = read(found.outputs["gpkg"])
    assert frame[frame["class"] == "1"]["region_id"].nunique() == 1


def test_pieces_of_a_house_have_its_area_and_other_pieces_their_own(tmp_path: Path) -> None:
    classes = np.ones((40, 560), np.uint8)
    classes[20:] = 2
    walls = np.zeros_like(classes)
    walls[:20, 299:301] = 100
    raster, contact = write(tmp_path / "cover.tif", classes), write(tmp_path / "walls.tif", walls)
    found = pfmap.vectorize(raster, contact=contact, separate=("1",), split_large=1)
    frame = read(found.outputs["gpkg"])
    assert found.counts == {"1": 2, "2": 1}
    assert sorted(frame[frame["class"] == "1"]["area_m2"].tolist()) == pytest.approx([1300, 1300, 1500])
    assert sorted(frame[frame["class"] == "2"]["area_m2"].tolist()) == pytest.approx([240, 2560])
    assert found.areas == pytest.approx({"1": 2800, "2": 2800})


def test_small_regions_merge_and_holes_are_filled(tmp_path: Path) -> None:
    classes = np.ones((40, 60), np.uint8)
    classes[5, 5] = 2  # 0.25 m2
    classes[10:14, 10:14] = 3  # 4 m2, a hole
    classes[20:24, 0:4] = 3  # 4 m2, at the edge
    raster = write(tmp_path / "cover.tif", classes, nodata=0)

    def counts(**options: Any) -> dict[str, int]:
        return pfmap.vectorize(raster, overwrite=True, **options).counts

    assert counts() == {"1": 1, "2": 1, "3": 2}
    assert counts(min_area=1.0) == {"1": 1, "3": 2}
    assert counts(min_area=1.0, fill_holes=5.0) == {"1": 1, "3": 1}
    assert counts(min_area=5.0) == {"1": 1}
    assert counts(min_area=1.0, drop_small=True) == {"1": 1, "3": 2}
    merged = pfmap.vectorize(raster, overwrite=True, min_area=5.0)
    assert merged.areas["1"] == 600
    dropped = pfmap.vectorize(raster, overwrite=True, min_area=5.0, drop_small=True)
    assert dropped.areas["1"] == 600 - 8.25


def test_large_objects_are_cut_into_numbered_pieces_of_one_object(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    classes = (rng.random((1500, 1100)) < 0.01).astype(np.uint8)
    raster = write(tmp_path / "cover.tif", classes)
    made = pfmap.vectorize(raster, classes=("0",), split_large=1000)
    frame, summed = read(made.outputs["gpkg"]), summarize(str(made.outputs["gpkg"])).rows
    assert made.counts["0"] == summed[0].objects == 1
    assert len(frame) == 9  # along every 512th row and column
    assert frame["region_id"].nunique() == frame["object_id"].nunique() == 1
    assert sorted(frame["piece"]) == list(range(1, 10))
    assert frame["area_m2"].sum() == pytest.approx((classes == 0).sum() / 4, rel=1e-3)
    whole = read(pfmap.vectorize(raster, classes=("0",), split_large=0, overwrite=True).outputs["gpkg"])
    assert len(whole) == 1


BAD = {
    "float": (np.zeros((4, 4), np.float32), {}, "holds float32 values; classes are whole numbers"),
    "bands": (np.zeros((3, 4, 4), np.uint8), {}, "has 3 bands; a class raster has one"),
    "empty": (np.full((4, 4), 7, np.uint8), {"nodata": 7}, "has no valid pixel"),
    "negative": (np.full((4, 4), -5, np.int16), {}, "has the value -5; classes are whole numbers from 0 up"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_class_raster_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    values, options, message = BAD[name]
    raster = write(tmp_path / "bad.tif", values, **options)
    with pytest.raises(SourceError, match=message) as caught:
        pfmap.vectorize(raster)
    assert str(raster) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"bad.tif"}


def test_outlines_become_curves_on_request(tmp_path: Path) -> None:
    raster = write(tmp_path / "cover.tif", blotches(1, 90, 90, 3, 4.0), nodata=255)
    plain, curved = (
        gpd.read_file(
            pfmap.vectorize(raster, tmp_path / str(smooth), smooth=smooth).outputs["gpkg"], layer="objects"
        )
        for smooth in ((), ("1",))
    )
    assert shapely.coverage_is_valid(curved.geometry.to_numpy())
    moved = ~curved.geometry.geom_equals(plain.geometry)
    assert moved[curved["class"] == "1"].all()
    assert curved.area.sum() == pytest.approx(plain.area.sum())


def test_unknown_classes_and_existing_files_are_refused(tmp_path: Path) -> None:
    raster = write(tmp_path / "cover.tif", blotches(1, 30, 30, 3, 2.0), nodata=255)
    with pytest.raises(UsageError, match="class 'lawn' is unknown"):
        pfmap.vectorize(raster, classes=("lawn",))
    with pytest.raises(UsageError, match="class 'lawn' is unknown"):
        pfmap.vectorize(raster, regularize=("lawn",))
    with pytest.raises(UsageError, match="class '2' is to be squared, but does not become polygons"):
        pfmap.vectorize(raster, classes=("1",), regularize=("2",))
    with pytest.raises(UsageError, match="class 'lawn' is unknown"):
        pfmap.vectorize(raster, smooth=("lawn",))
    with pytest.raises(UsageError, match="class '1' is in smooth= and in regularize=: curves or right"):
        pfmap.vectorize(raster, smooth=("2", "1"), regularize=("1",))
    with pytest.raises(UsageError, match="leave simplify=0 out"):
        pfmap.vectorize(raster, smooth=("1",), simplify=0)
    by_either = pfmap.vectorize(
        raster, tmp_path / "named", names={1: "lawn"}, classes=("lawn",), regularize=("1",)
    )
    assert list(by_either.counts) == ["lawn"]
    with pytest.raises(UsageError, match="drop_small=True needs min_area="):
        pfmap.vectorize(raster, drop_small=True)
    pfmap.vectorize(raster)
    with pytest.raises(TargetError, match="overwrite=True"):
        pfmap.vectorize(raster)
    empty = tmp_path / "empty.tif"
    empty.touch()
    with pytest.raises(SourceError, match="is not a raster that GDAL can open"):
        pfmap.vectorize(empty)


@pytest.mark.parametrize(("size", "message"), [(30, "replace with overwrite=True"), (31, "of the same map")])
def test_an_error_leaves_no_raster_open(
    size: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raster = write(tmp_path / "cover.tif", blotches(1, 30, 30, 3, 2.0), nodata=255)
    certain = write(tmp_path / "percent.tif", np.full((size, size), 50, np.uint8))
    (tmp_path / "cover_objects.gpkg").touch()
    opened: list[ClassMap] = []

    class Watched(ClassMap):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            opened.append(self)

    monkeypatch.setattr(polygonize, "ClassMap", Watched)
    monkeypatch.setattr("pfmap.raster.classmap.ClassMap", Watched)
    with pytest.raises(PfmapError, match=message):
        pfmap.vectorize(raster, confidence=certain)
    assert [one._src.closed for one in opened] == [True, True]


def test_a_raster_without_a_crs_is_announced_and_measured_in_pixels(tmp_path: Path) -> None:
    raster = write(tmp_path / "cover.tif", blotches(1, 30, 30, 3, 2.0), nodata=255, crs=None)
    lines: list[str] = []
    result = pfmap.vectorize(raster, on_message=lines.append)
    assert result.unit == "px"
    assert any("has no CRS" in line for line in lines)


def test_names_and_colours_come_from_the_raster(tmp_path: Path) -> None:
    classes = blotches(1, 60, 60, 3, 2.0)
    raster = write(tmp_path / "cover.tif", classes, nodata=255, photometric="palette")
    with rasterio.open(raster, "r+") as dst:
        dst.write_colormap(1, {0: (10, 20, 30, 255), 1: (200, 100, 50, 255)})
    raster.with_name("cover.tif.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><CategoryNames><Category>water</Category>'
        "<Category>wood</Category></CategoryNames></PAMRasterBand></PAMDataset>"
    )
    result = pfmap.vectorize(raster, tmp_path / "out", formats=("shp",), split_by_class=True)
    assert set(result.counts) == {"water", "wood"}
    style = result.outputs["shp.wood"].with_suffix(".qml").read_text(encoding="utf-8")
    assert "200,100,50" in style


def test_the_command_prints_what_it_found(tmp_path: Path) -> None:
    raster = write(tmp_path / "cover.tif", blotches(1, 60, 60, 3, 2.0), nodata=255)
    done = CliRunner().invoke(cli, ["vectorize", str(raster), "--json", "-q", "--names", "0=bog, 1=fen"])
    assert done.exit_code == 0, done.output
    table = json.loads(done.stdout)
    assert set(table["counts"]) == {"bog", "fen"}
    done = CliRunner().invoke(cli, ["vectorize", str(raster), "--names", "bog"])
    assert done.exit_code == 2
    assert "VALUE=NAME" in done.output


def test_nothing_is_left_behind_when_it_is_stopped(tmp_path: Path) -> None:
    raster = write(tmp_path / "cover.tif", blotches(1, 60, 60, 3, 2.0), nodata=255)

    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pfmap.vectorize(raster, on_progress=stop)
    assert {path.name for path in tmp_path.iterdir()} == {"cover.tif"}


def test_names_that_vector_libraries_misread_are_refused(tmp_path: Path) -> None:
    raster = write(tmp_path / "co;ver.tif", blotches(1, 30, 30, 3, 2.0), nodata=255)
    with pytest.raises(TargetError, match="in its name"):
        pfmap.vectorize(raster)
