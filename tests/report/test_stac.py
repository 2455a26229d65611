"""The STAC catalogue of a survey, read back with pystac and checked against the schemas that come with it."""

import base64
import contextlib
import json
import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pystac
import pytest
import rasterio
import rasterio.warp
import shapely
from conftest import Write, blobs, stand_in
from jsonschema import Draft7Validator
from pystac.validation.local_validator import get_local_schema_cache
from referencing import Registry, Resource
from surveys import CARD, made_up, mapped

import pfmap
from pfmap.core.card import Provenance
from pfmap.report.survey_figures import SurveyFigures
from pfmap.survey.campaign import write_reports
from pfmap.vector.footprints import footprint_geometry

SCHEMAS = get_local_schema_cache()
REGISTRY = Registry().with_resources([(k, Resource.from_contents(schema)) for k, schema in SCHEMAS.items()])
ITEM, COLLECTION = (
    Draft7Validator(next(s for k, s in SCHEMAS.items() if k.endswith(f"/{kind}.json")), registry=REGISTRY)
    for kind in ("item", "collection")
)


def read(folder: Path) -> tuple[pystac.Collection, dict[str, pystac.Item]]:
    """Open a catalogue as its readers do, after checking each file against STAC's own schemas."""
    for path in (folder / "stac").rglob("*.json"):
        table = json.loads(path.read_text())
        found = list((COLLECTION if path.name == "collection.json" else ITEM).iter_errors(table))
        assert not found, (path, found[:2])
        for entry in (*table["links"], *table["assets"].values()):
            assert not Path(entry["href"]).is_absolute(), entry
            assert str(folder) not in json.dumps(entry)
    collection = pystac.Collection.from_file(str(folder / "stac" / "collection.json"))
    return collection, {item.id: item for item in collection.get_items(recursive=True)}


def on_disk(asset: pystac.Asset) -> Path:
    href = asset.get_absolute_href()
    assert href is not None
    return Path(unquote(href))


@pytest.fixture
def real(write_scene: Write, tmp_path: Path) -> SurveyFigures:
    """Three scenes that were mapped, two of them below a name that is no id, and one that was not."""
    model, out = stand_in(), tmp_path / "out"
    pfmap.predict(write_scene(blobs(70, 90), "one.tif"), out, model=model)
    for name, crs in (("süd 2#.tif", "EPSG:4326"), ("c.tif", None)):
        turned = rasterio.Affine(1e-5, 2e-6, 85.5, 2e-6, -1e-5, 27.6) if crs else None
        with contextlib.nullcontext() if crs else pytest.warns(rasterio.errors.NotGeoreferencedWarning):
            path = write_scene(blobs(60, 80), name, crs=crs, transform=turned)
        pfmap.predict(path, out / "flight 3", model=model)
    survey = mapped(out, model.card)
    return replace(
        survey, model=model.card, model_sha256="ab" * 32, scenes=(*survey.scenes, made_up(7).scenes[6])
    )


def test_the_catalogue_leads_to_every_file_that_was_written(real: SurveyFigures, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_reports(real, out, {})
    collection, items = read(out)
    assert set(items) == {"model", "one", "flight-3-c", "flight-3-sud-2"}
    for scene, name in zip(real.scenes, ("flight-3-c", "flight-3-sud-2", "one"), strict=False):
        assets = items[name].assets
        assert {kind: on_disk(asset) for kind, asset in assets.items()} == {
            kind: out / path for kind, path in scene.outputs.items()
        }
        assert all(on_disk(asset).is_file() for asset in assets.values())
        assert assets["classes"].media_type == pystac.MediaType.COG
        assert assets["gpkg"].media_type == pystac.MediaType.GEOPACKAGE
        assert all(asset.roles for asset in assets.values())
        parent = items[name].get_parent()
        assert parent is not None
        assert parent.id == collection.id
        (used,) = items[name].get_links("derived_from")
        assert Path(used.get_absolute_href() or "") == out / "stac/model/model.json"
    assert {kind: on_disk(asset).name for kind, asset in collection.assets.items()} == {
        "html": "survey_report.html", "json": "survey_report.json", "csv": "survey_report.csv",
    }  # fmt: skip
    assert all(on_disk(asset).is_file() for asset in collection.assets.values())
    (out / "stac").rename(tmp_path / "elsewhere")  # the whole folder can move: nothing points back here
    out.rename(tmp_path / "moved")
    (tmp_path / "elsewhere").rename(tmp_path / "moved" / "stac")
    _, items = read(tmp_path / "moved")
    assert all(on_disk(asset).is_file() for asset in items["one"].assets.values())


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_an_item_lies_where_its_raster_does(real: SurveyFigures, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_reports(real, out, {})
    collection, items = read(out)
    for name in ("one", "flight-3-sud-2", "flight-3-c"):
        item = items[name]
        with rasterio.open(on_disk(item.assets["classes"])) as src:
            found = item.properties
            assert found["proj:shape"] == [src.height, src.width]
            assert found["proj:code"] == (f"EPSG:{src.crs.to_epsg()}" if src.crs else None)
            if src.crs:
                assert found["proj:transform"] == pytest.approx(list(src.transform)[:6])
                lons, lats = rasterio.warp.transform(
                    src.crs, "EPSG:4326", *zip(*(src.transform @ (c, r) for c in (0, src.width)
                                                 for r in (0, src.height)), strict=True)
                )  # fmt: skip
                assert item.bbox == pytest.approx([min(lons), min(lats), max(lons), max(lats)], abs=1e-7)
                assert shapely.geometry.shape(item.geometry).exterior.is_ccw
            else:
                assert item.geometry is item.bbox is None
                assert "proj:transform" not in found
    boxes = [item.bbox for item in items.values() if item.bbox]
    whole = shapely.union_all([shapely.box(*box) for box in boxes]).bounds
    assert collection.extent.spatial.bboxes == [pytest.approx(list(whole))]


def test_a_crs_without_a_number_is_told_in_words(write_scene: Write, tmp_path: Path) -> None:
    own = "+proj=tmerc +lat_0=27.6 +lon_0=85.5 +datum=WGS84 +units=m"
    path = write_scene(blobs(64, 64), crs=own, transform=rasterio.Affine(0.5, 0, 0, 0, -0.5, 0))
    model, out = stand_in(), tmp_path / "out"
    pfmap.predict(path, out, model=model)
    write_reports(mapped(out, model.card), out, {})
    found = read(out)[1]["scene"].properties
    assert found["proj:code"] is None
    with rasterio.open(out / "scene_classes.tif") as src:
        assert rasterio.CRS.from_wkt(found["proj:wkt2"]) == src.crs


def test_times_are_those_of_the_mapping_unless_the_image_says_its_own(tmp_path: Path) -> None:
    survey = made_up(2)
    taken = replace(survey.scenes[1], taken="2025-06-01T10:00:00+02:00")
    write_reports(replace(survey, scenes=(survey.scenes[0], taken)), tmp_path, {})
    collection, items = read(tmp_path)
    first, second = items["a-b-0"], items["north-sheet-001"]
    assert first.datetime == datetime.fromisoformat(survey.scenes[0].finished)
    assert "does not say when it was taken" in first.properties["description"]
    assert second.datetime == datetime.fromisoformat("2025-06-01T08:00:00Z")
    assert "does not say" not in second.properties["description"]
    assert second.properties["created"] == "2026-11-20T09:00:00Z"
    assert first.properties["processing:software"] == {"pfmap": survey.version}
    (interval,) = collection.extent.temporal.intervals
    assert interval == [datetime.fromisoformat(survey.started), datetime.fromisoformat(survey.finished)]


def test_classes_have_values_names_and_colours(tmp_path: Path) -> None:
    survey = made_up(1)
    write_reports(survey, tmp_path, {})
    _, items = read(tmp_path)
    found = items["a-b-0"].assets["classes"].extra_fields["classification:classes"]
    assert [(c["value"], c["name"], c["color_hint"]) for c in found[:-1]] == [
        (c.class_id, c.name, c.color[1:].upper()) for c in survey.classes
    ]
    assert all(re.fullmatch("[0-9A-Za-z_-]+", c["name"]) for c in found)
    assert found[-1]["value"] == 255
    assert found[-1]["nodata"] is True


def test_the_model_is_described_as_the_mlm_extension_asks(tmp_path: Path) -> None:
    """By hand, from its schema and text: required fields, enumerations, patterns, the model as an asset."""
    survey = made_up(1)
    write_reports(survey, tmp_path, {})
    _, items = read(tmp_path)
    model = items["model"]
    found: dict[str, Any] = model.properties
    assert "https://stac-extensions.github.io/mlm/v1.4.0/schema.json" in model.stac_extensions
    for key in ("name", "architecture", "tasks", "framework", "input", "output"):
        assert found[f"mlm:{key}"]
    assert re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_.-]+[a-zA-Z0-9]", found["mlm:name"])
    assert found["mlm:tasks"] == ["semantic-segmentation"]
    (given,), (made,) = found["mlm:input"], found["mlm:output"]
    assert (
        given["bands"]
        == [band["name"] for band in model.assets["weights"].extra_fields["bands"]]
        == ["red", "green", "blue"]
    )
    for shape in (given["input"], made["result"]):
        assert len(shape["shape"]) == len(shape["dim_order"]) == len(set(shape["dim_order"])) == 4
        assert shape["data_type"] == "float32"
    assert given["input"]["shape"] == [-1, 3, 384, 384]
    assert made["result"]["shape"] == [-1, 5, 384, 384]
    assert [scaling["type"] for scaling in given["value_scaling"]] == ["z-score"] * 3
    value, card_mean, card_std = 200.0, 0.498, 0.502  # what the network sees of this value, by the card
    scaling = given["value_scaling"][0]
    assert (value - scaling["mean"]) / scaling["stddev"] == pytest.approx(
        (value / 255 - card_mean) / card_std
    )
    assert [c["value"] for c in made["classification:classes"]] == [0, 1, 2, 3, 4]
    (weights,) = model.assets.values()
    assert {"mlm:model", "mlm:weights"} <= set(weights.roles or [])
    assert weights.extra_fields["mlm:artifact_type"]
    digest = base64.urlsafe_b64decode(weights.href.rsplit(";", 1)[1] + "=")
    assert digest.hex() == survey.model_sha256


@pytest.mark.parametrize("name", ["", "7", "a/b"])
def test_a_model_of_an_odd_name_makes_a_sound_catalogue_too(tmp_path: Path, name: str) -> None:
    bare = replace(CARD, name=name, title="", provenance=Provenance("", "", ""))
    write_reports(made_up(3, model=bare), tmp_path, {})
    _, items = read(tmp_path)
    found = items["model"].properties
    assert re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_.-]+[a-zA-Z0-9]", found["mlm:name"])


def test_a_survey_of_which_nothing_could_be_mapped_has_a_catalogue(tmp_path: Path) -> None:
    write_reports(made_up(7, scenes=made_up(7).scenes[6:], classes=(), title="..."), tmp_path, {})
    collection, items = read(tmp_path)
    assert collection.id == "survey"
    assert set(items) == {"model"}


def test_a_survey_on_both_sides_of_the_antimeridian_has_the_short_way_as_its_extent(tmp_path: Path) -> None:
    rings = [
        ((lon, -17.0), (lon + wide, -17.0), (lon + wide, -16.0), (lon, -16.0), (lon, -17.0))
        for lon, wide in ((177.0, 1.0), (-175.0, 2.0), (179.5, 1.0))
    ]
    scenes = [
        replace(scene, footprint=ring, state="done")
        for scene, ring in zip(made_up(3).scenes, rings, strict=True)
    ]
    write_reports(made_up(3, scenes=tuple(scenes)), tmp_path, {})
    collection, items = read(tmp_path)
    assert collection.extent.spatial.bboxes == [[177.0, -17.0, -173.0, -16.0]]
    assert items["model"].bbox == [177.0, -17.0, -173.0, -16.0]
    assert sorted(item.geometry["type"] for item in items.values()) == ["MultiPolygon"] * 2 + ["Polygon"] * 2


def test_a_ring_turns_counter_clockwise_and_is_closed() -> None:
    clockwise = ((0.0, 0.0), (0.0, 1.0), (2.0, 1.0), (2.0, 0.0))
    geometry, bbox = footprint_geometry(clockwise)
    assert geometry is not None
    ring = geometry["coordinates"][0]
    assert ring[0] == ring[-1]
    assert shapely.LinearRing(ring).is_ccw
    assert shapely.Polygon(ring).equals(shapely.Polygon(clockwise))
    assert bbox == [0.0, 0.0, 2.0, 1.0]
    assert (
        footprint_geometry(())
        == footprint_geometry(((0, 0), (1, float("inf")), (1, 0), (0, 0)))
        == (None, None)
    )
