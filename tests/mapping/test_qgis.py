"""The QGIS project opens every file, from where it lies. QGIS itself does so in `make test-qgis`."""

import shutil
import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pyogrio
import pytest
import rasterio
from conftest import Write, blobs, stand_in

import pfmap
from pfmap.core.errors import TargetError
from pfmap.mapping.job import Result
from pfmap.raster.location import locate
from pfmap.report.project import place_beside


def read(path: Path) -> ET.Element:
    with zipfile.ZipFile(path) as archive:
        (name,) = archive.namelist()
        assert name.endswith(".qgs")
        return ET.fromstring(archive.read(name))


def layers(root: ET.Element) -> dict[str, ET.Element]:
    """Layers by name, in the order of the legend."""
    by_id = {layer.findtext("id"): layer for layer in root.iter("maplayer")}
    return {str(node.get("name")): by_id[node.get("id")] for node in root.iter("layer-tree-layer")}


def source(layer: ET.Element, project: Path) -> Path:
    """The file that a layer opens, as QGIS finds it."""
    text = str(layer.findtext("datasource")).split("|")[0]
    return (project.parent / text).resolve() if text.startswith(".") else Path(text)


def mapped(scene: Path | str, folder: Path, **options: Any) -> Result:
    return pfmap.predict(scene, folder, model=stand_in(), device="cpu", **options)


def test_the_project_shows_objects_over_classes_over_the_scene(write_scene: Write, tmp_path: Path) -> None:
    result = mapped(write_scene(blobs(80, 70)), tmp_path / "maps")
    project = result.outputs["project"]
    assert project == tmp_path / "maps" / "scene.qgz"
    root = read(project)
    found = layers(root)
    assert list(found) == ["scene objects", "scene confidence", "scene classes", "scene"]
    files = {name: source(layer, project) for name, layer in found.items()}
    assert files == {
        "scene objects": result.outputs["gpkg"].resolve(),
        "scene confidence": result.outputs["confidence"].resolve(),
        "scene classes": result.outputs["classes"].resolve(),
        "scene": (tmp_path / "scene.tif").resolve(),
    }
    shown = {node.get("name"): node.get("checked") for node in root.iter("layer-tree-layer")}
    assert [name for name, checked in shown.items() if checked != "Qt::Checked"] == ["scene confidence"]
    assert found["scene objects"].find("renderer-v2").get("type") == "categorizedSymbol"
    assert [c.get("value") for c in found["scene objects"].iter("category")] == [
        "class_0", "class_1", "class_2",
    ]  # fmt: skip
    renderer = found["scene classes"].find("pipe/rasterrenderer")
    assert renderer.get("type") == "paletted"
    assert 0 < float(renderer.get("opacity")) < 1
    assert found["scene"].find("pipe/rasterrenderer").get("redBand") == "1"
    with rasterio.open(result.outputs["classes"]) as src:
        extent = [
            float(str(root.findtext(f"mapcanvas/extent/{name}"))) for name in ("xmin", "ymin", "xmax", "ymax")
        ]
        assert extent == pytest.approx(list(src.bounds))
        systems = [root.findtext("projectCrs/spatialrefsys/wkt")]
        systems += [layer.findtext("srs/spatialrefsys/wkt") for layer in found.values()]
        assert {rasterio.crs.CRS.from_wkt(wkt) for wkt in systems} == {src.crs}
    # QGIS ignores keys of ten letters or fewer, and the project's CRS without this switch.
    assert all(len(str(layer.findtext("id"))) > 10 for layer in found.values())
    assert root.findtext("properties/SpatialRefSys/ProjectionsEnabled") == "1"


def test_the_project_may_be_moved_with_its_files(write_scene: Write, tmp_path: Path) -> None:
    (tmp_path / "survey").mkdir()
    scene = write_scene(blobs(70, 70), "survey/Ortho Süd.tif")
    project = mapped(scene, tmp_path / "survey" / "maps").outputs["project"]
    moved = shutil.move(tmp_path / "survey", tmp_path / "elsewhere")
    project = Path(moved) / "maps" / project.name
    files = [source(layer, project) for layer in layers(read(project)).values()]
    assert len(files) == 4
    assert all(path.is_file() and path.is_relative_to(Path(moved).resolve()) for path in files)


def test_the_scene_is_found_however_it_was_named(
    write_scene: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = write_scene(blobs(70, 70))
    with zipfile.ZipFile(tmp_path / "delivery.zip", "w") as archive:
        archive.write(scene, "ortho.tif")
    (tmp_path / "maps").mkdir()
    monkeypatch.chdir(tmp_path / "maps")
    for name in ("../scene.tif", "./../scene.tif", "../delivery.zip"):
        project = mapped(name, Path("out"), overwrite=True).outputs["project"]
        layer = list(layers(read(project)).values())[-1]
        if name.endswith(".zip"):
            assert layer.findtext("datasource") == f"/vsizip/{tmp_path.resolve()}/delivery.zip/ortho.tif"
        else:
            assert source(layer, project.resolve()) == scene.resolve()


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://example.com/a.tif", "/vsicurl/https://example.com/a.tif"),
        ("s3://bucket/a.tif", "/vsis3/bucket/a.tif"),
        ("/vsigs/bucket/a.tif", "/vsigs/bucket/a.tif"),
    ],
)
def test_scenes_on_servers_are_named_as_gdal_has_it(address: str, name: str) -> None:
    assert place_beside(locate(address), Path("out")) == name


@pytest.mark.parametrize(
    ("formats", "ending"),
    [
        (("shp", "gpkg"), "gpkg|layername=objects"),
        (("parquet", "shp"), "shp"),
        (("geojson",), "geojson"),
        (("pmtiles",), "pmtiles"),
    ],
)
def test_of_several_formats_the_quickest_is_shown(
    formats: tuple[str, ...], ending: str, write_scene: Write, tmp_path: Path
) -> None:
    result = mapped(write_scene(blobs(70, 70)), tmp_path / "out", formats=formats, confidence=False)
    found = layers(read(result.outputs["project"]))
    assert list(found) == ["scene objects", "scene classes", "scene"]
    assert str(found["scene objects"].findtext("datasource")) == f"./scene_objects.{ending}"
    if code := {"geojson": "EPSG:4326", "pmtiles": "EPSG:3857"}.get(ending):
        assert found["scene objects"].findtext("srs/spatialrefsys/authid") == code


def test_each_class_is_a_layer_where_each_has_a_file(write_scene: Write, tmp_path: Path) -> None:
    result = mapped(
        write_scene(blobs(80, 80)), tmp_path / "out", split_by_class=True, classes=("class_0", "class_2")
    )
    found = layers(read(result.outputs["project"]))
    assert list(found)[:2] == ["scene class_0", "scene class_2"]
    for name in ("class_0", "class_2"):
        layer = found[f"scene {name}"]
        assert [c.get("value") for c in layer.iter("category")] == [name]
        frame = pyogrio.read_dataframe(source(layer, result.outputs["project"]), layer="objects")
        assert set(frame["class"]) == {name}


def test_scenes_are_shown_as_the_network_saw_them(write_scene: Write, tmp_path: Path) -> None:
    deep = (blobs(70, 70).astype("uint16") * 40)[[2, 1, 0]]
    scene = write_scene(np.concatenate([deep, np.full((1, 70, 70), 65535, "uint16")]), "deep.tif")
    with rasterio.open(scene, "r+") as dst:
        dst.colorinterp = tuple(
            rasterio.enums.ColorInterp[name] for name in ("blue", "green", "red", "alpha")
        )
    result = mapped(scene, tmp_path / "out", scale=(0.0, 10200.0))
    renderer = layers(read(result.outputs["project"]))["deep"].find("pipe/rasterrenderer")
    assert [renderer.get(f"{name}Band") for name in ("red", "green", "blue", "alpha")] == ["3", "2", "1", "4"]
    assert renderer.findtext("redContrastEnhancement/maxValue") == "10200"


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_scene_without_a_place_has_a_project_too(write_scene: Write, tmp_path: Path) -> None:
    scene = write_scene(blobs(70, 70), crs=None, transform=None)
    root = read(mapped(scene, tmp_path / "out").outputs["project"])
    assert root.find("projectCrs/spatialrefsys/wkt") is None
    assert len(layers(root)) == 4


def test_existing_projects_are_not_replaced(write_scene: Write, tmp_path: Path) -> None:
    scene = write_scene(blobs(70, 70))
    (tmp_path / "scene.qgz").write_bytes(b"mine")
    with pytest.raises(TargetError, match=r"scene\.qgz exists already"):
        mapped(scene, tmp_path)
    assert (tmp_path / "scene.qgz").read_bytes() == b"mine"
