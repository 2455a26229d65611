"""What lies where outputs go: old side files go with old outputs, and what cannot be written is refused."""

import json
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import geopandas as gpd
import pytest
import rasterio
import rasterio.shutil
from conftest import Pointwise, Write, blobs, stand_in
from runs import PowerError, breaking
from torch import Tensor

import pfmap
from pfmap.core.errors import TargetError, UsageError
from pfmap.model.store import Model
from pfmap.vector.formats import FORMATS

SITE = 'LOCAL_CS["Site",LOCAL_DATUM["Local",0],UNIT["metre",1],AXIS["X",EAST],AXIS["Y",NORTH]]'
MARS = """GEOGCS["Mars",DATUM["D_MARS",SPHEROID["MARS",3396190,0]],PRIMEM["Meridian",0],
UNIT["degree",0.0174532925199433]]"""
SHIFTED = "+proj=utm +zone=45 +ellps=bessel +towgs84=598,73,418,0.2,0.04,-2.4,6.7"


class Untouched(Pointwise):
    """A network that nothing may reach."""

    def forward(self, image: Tensor) -> Tensor:
        raise AssertionError(image.shape)


def untouched() -> Model:
    return stand_in(network=Untouched(3))


def refused(scene: Path, out: Path, why: str, error: type[Exception] = TargetError, **options: Any) -> None:
    """Refused before anything is computed; nothing is left, nothing changed."""
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")} if out.is_dir() else {}
    with pytest.raises(error, match=why):
        pfmap.predict(scene, out, model=untouched(), device="cpu", **options)
    after = {path: path.stat().st_mtime_ns for path in out.rglob("*")} if out.is_dir() else {}
    assert after == before


def test_side_files_of_old_outputs_go_with_them(write_scene: Write, tmp_path: Path) -> None:
    scene, out = write_scene(blobs(120, 130)), tmp_path / "out"
    options: dict[str, Any] = {"model": stand_in(), "device": "cpu", "formats": FORMATS}
    made = {path.name for path in _files(pfmap.predict(scene, out, **options), out)}
    for name in ("classes.tif.ovr", "confidence.tif.aux.xml", "confidence.tif.msk", "objects.gpkg-wal",
                 "objects.qix", "objects.sbn", "objects_part2.shp", "objects_part2.qix"):  # fmt: skip
        (out / f"scene_{name}").write_bytes(b"old")
    (out / "scene_plan.ovr").touch()
    pfmap.predict(scene, out, min_area=20, overwrite=True, **options)
    assert {path.name for path in out.iterdir()} == {*made, "scene_plan.ovr"}
    (out / "scene_objects.gpkg-journal").write_bytes(b"old")
    pfmap.vectorize(out / "scene_classes.tif", overwrite=True)
    assert not (out / "scene_objects.gpkg-journal").exists()
    with sqlite3.connect(out / "scene_objects.gpkg") as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    db.close()


def _files(result: Any, out: Path) -> list[Path]:
    assert result.outputs
    return list(out.iterdir())


def test_a_survey_that_is_made_again_leaves_no_old_pyramids(write_scene: Write, tmp_path: Path) -> None:
    scene, out = write_scene(blobs(100, 120)), tmp_path / "out"
    for _ in range(2):
        pfmap.batch([scene], out, model=stand_in(), device="cpu")
        for name in ("survey_classes.vrt.ovr", "survey_objects.gpkg-wal"):
            assert not (out / name).exists()
            (out / name).write_bytes(b"old")


def test_a_geopackage_with_a_log_left_behind_is_replaced_whole(write_scene: Write, tmp_path: Path) -> None:
    """As QGIS leaves it when it is killed: the log of the old file is no part of the new one."""
    scene = write_scene(blobs(120, 130))
    made = pfmap.predict(scene, tmp_path / "out", model=stand_in(), device="cpu")
    path = made.outputs["gpkg"]
    db = sqlite3.connect(path)
    db.execute("PRAGMA journal_mode=WAL")
    for name in ("ST_MinX", "ST_MaxX", "ST_MinY", "ST_MaxY", "ST_IsEmpty"):
        db.create_function(name, 1, lambda _shape: 0.0)
    db.execute("UPDATE objects SET confidence_min = 0.123")
    db.commit()
    for ending in ("-wal", "-shm"):
        shutil.copy(f"{path}{ending}", tmp_path / ending)
    db.close()
    for ending in ("-wal", "-shm"):
        shutil.copy(tmp_path / ending, f"{path}{ending}")
    pfmap.predict(
        scene, tmp_path / "out", model=stand_in(), device="cpu", overwrite=True, classes=("class_2",)
    )
    assert not Path(f"{path}-wal").exists()
    found = gpd.read_file(path, layer="objects")
    assert set(found["class"]) == {"class_2"}
    assert (found["confidence_min"] != 0.123).all()


@pytest.mark.parametrize("stem", ["x" * 240, "ü" * 115, "y" * 209])
def test_names_too_long_for_the_disk_are_refused_first(stem: str, write_scene: Write, tmp_path: Path) -> None:
    scene = write_scene(blobs(80, 80))
    (tmp_path / "in").mkdir()
    refused(
        scene.rename(tmp_path / "in" / f"{stem}.tif"), tmp_path / "out", r"too long a name: .* of 255 that"
    )
    assert not (tmp_path / "out").exists()


def test_the_longest_name_that_is_not_refused_can_be_written(write_scene: Write, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    scene = write_scene(blobs(80, 80)).rename(tmp_path / "in" / f"{'y' * 206}.tif")
    formats = ("shp", "fgb", "geojson", "parquet")
    pfmap.predict(scene, tmp_path / "out", model=stand_in(), device="cpu", formats=formats)


def test_a_path_too_long_for_a_geopackage_is_refused_first(write_scene: Write, tmp_path: Path) -> None:
    scene, out = write_scene(blobs(80, 80)), tmp_path
    while len(os.fsencode(out)) < 440:
        out /= "d" * 50
    refused(scene, out, "too long a path: .* a GeoPackage's can have")
    pfmap.predict(scene, out, model=stand_in(), device="cpu", formats=("fgb",))


@pytest.mark.parametrize(
    ("crs", "forms"),
    [(SITE, ("geojson",)), (MARS, ("gpkg", "geojson")), (SHIFTED, ("shp",)), ("EPSG:10266", ("shp",))],
)
def test_formats_that_would_lose_the_crs_are_refused_first(
    crs: str, forms: tuple[str, ...], write_scene: Write, tmp_path: Path
) -> None:
    scene = write_scene(blobs(80, 80), crs=crs)
    degrees = (
        rasterio.Affine(1e-6, 0, 10, 0, -1e-6, 20) if crs == MARS else rasterio.Affine(1, 0, 9, 0, -1, 80)
    )
    with rasterio.open(scene, "r+") as dst:
        dst.transform, given = degrees, dst.crs
    (tmp_path / "out").mkdir()
    why = f"{forms[-1]} files cannot hold CRS .*choose another format with formats="
    refused(scene, tmp_path / "out", why, UsageError, formats=forms)
    result = pfmap.predict(scene, tmp_path / "out", model=stand_in(), device="cpu", formats=("gpkg", "fgb"))
    for kind in ("gpkg", "fgb"):
        with rasterio.open(result.outputs["classes"]) as src:
            assert src.crs == given
        assert gpd.read_file(result.outputs[kind], layer="objects").crs.equals(
            src.crs.to_wkt(), ignore_axis_order=True
        )


def test_names_that_a_shapefile_would_cut_are_refused_first(write_scene: Write, tmp_path: Path) -> None:
    made = pfmap.predict(write_scene(blobs(80, 80)), tmp_path, model=stand_in(), device="cpu")
    with pytest.raises(UsageError, match="shp files cannot hold a class with a name of more than 254 bytes"):
        pfmap.vectorize(
            made.outputs["classes"], tmp_path / "out", names={1: "林" * 85}, formats=("gpkg", "shp")
        )
    assert list((tmp_path / "out").iterdir()) == []
    pfmap.vectorize(made.outputs["classes"], tmp_path / "out", names={1: "林" * 84}, formats=("shp",))


@pytest.mark.parametrize("name", ["scene_classes.tif", "scene_classes.tif.aux.xml", "scene_objects.dbf"])
def test_a_folder_where_a_file_is_to_go_is_refused_first(
    name: str, write_scene: Write, tmp_path: Path
) -> None:
    (tmp_path / "out" / name).mkdir(parents=True)
    for overwrite in (False, True):
        refused(
            write_scene(blobs(80, 80)), tmp_path / "out", f"{name} is a folder", overwrite=overwrite,
            formats=("shp",),
        )  # fmt: skip


def test_outputs_never_replace_what_they_are_made_of(write_scene: Write, tmp_path: Path) -> None:
    sheet = write_scene(blobs(80, 80), "scene_classes.tif")
    rasterio.shutil.copy(sheet, tmp_path / "scene.vrt", driver="VRT")
    for overwrite in (False, True):
        refused(tmp_path / "scene.vrt", tmp_path, "scene_classes.tif is what .* made of", overwrite=overwrite)
    (tmp_path / "maps").mkdir()
    area = gpd.GeoDataFrame(geometry=gpd.GeoSeries.from_wkt(["POINT (300020 2999980)"]).buffer(9), crs=32645)
    area.to_file(tmp_path / "maps" / "scene_objects.gpkg")
    refused(
        tmp_path / "scene.vrt", tmp_path / "maps", "scene_objects.gpkg is what", overwrite=True,
        aoi=str(tmp_path / "maps" / "scene_objects.gpkg"),
    )  # fmt: skip


def test_an_interrupted_run_ends_with_the_same_bytes_in_all_files(write_scene: Write, tmp_path: Path) -> None:
    """And so does one that is cut into other swaths, on another day."""
    scene = write_scene(blobs(230, 230))
    options: dict[str, Any] = {"device": "cpu", "formats": FORMATS, "regularize": ("class_2",)}
    pfmap.predict(scene, tmp_path / "whole", model=breaking(None), **options)
    whole = _content(tmp_path / "whole")
    assert b"1980-01-01" not in whole["scene_objects.gpkg"]
    with pytest.raises(PowerError):
        pfmap.predict(scene, tmp_path / "cut", model=breaking(9), swath_pixels=12_000, **options)
    pfmap.predict(scene, tmp_path / "cut", model=breaking(None), swath_pixels=12_000, **options)
    assert json.loads((tmp_path / "cut" / "scene_report.json").read_text())["swaths"]["from_earlier_runs"]
    assert {name for name, content in _content(tmp_path / "cut").items() if content != whole[name]} == set()
    os.utime(scene, (0, 1_500_000_000))
    pfmap.predict(scene, tmp_path / "dated", model=breaking(None), **options)
    dated = _content(tmp_path / "dated")
    assert {name for name in dated if dated[name] != whole[name]} == {
        "scene_objects.gpkg",
        "scene_objects.dbf",
    }
    assert dated["scene_objects.gpkg"].count(b"2017-07-14T02:40:00.000Z") >= 3


def _content(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.iterdir() if path.is_file()]
    return {path.name: path.read_bytes() for path in files if not path.name.endswith("_report.json")}


def test_surveys_in_two_folders_have_the_same_bytes(write_scene: Write, tmp_path: Path) -> None:
    scene = write_scene(blobs(100, 120))
    for out in ("one", "other"):
        pfmap.batch([scene], tmp_path / out, model=stand_in(), device="cpu", formats=FORMATS)
    one, other = (_content(tmp_path / out) for out in ("one", "other"))
    differ = {name for name in one if one[name] != other[name]}
    assert differ <= {"survey_report.html", "survey_report.csv"}  # when it was made
