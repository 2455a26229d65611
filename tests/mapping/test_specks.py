"""No specks: regions too small for objects of their class become a part of a neighbour."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from conftest import Write, blobs, houses, stand_in
from rasterio import features
from scipy import ndimage
from sheets import OVERLAPPING, QUARTERS, sheets

import pfmap
from pfmap.core.errors import ModelError, UsageError
from pfmap.mapping.options import PredictOptions
from pfmap.model.store import Model
from pfmap.survey.merge import merge
from pfmap.survey.scenes import predict_all
from pfmap.trace.sieve import Sieve

NODATA = 255
BANEPA = Path(__file__).parents[2] / "examples" / "banepa.tif"


def model(**least: float) -> Model:
    """A stand-in whose card says from which area on regions of some classes are objects."""
    made = stand_in()
    classes = (dataclasses.replace(spec, min_area=least.get(spec.name, 0.0)) for spec in made.card.classes)
    return dataclasses.replace(made, card=dataclasses.replace(made.card, classes=tuple(classes)))


def read(path: Path) -> Any:
    with rasterio.open(path) as src:
        return src.read(1)


def objects(path: Path) -> gpd.GeoDataFrame:
    return gpd.read_file(path, layer="objects")


def drawn(layer: gpd.GeoDataFrame, like: Path) -> Any:
    """Polygons as a class raster."""
    with rasterio.open(like) as src:
        pairs = zip(layer.geometry, layer["class_id"], strict=True)
        return features.rasterize(pairs, src.shape, NODATA, transform=src.transform, dtype="uint8")


@pytest.mark.parametrize(
    ("crs", "options", "pixels"),
    [
        ("EPSG:32645", {}, (16, 40, 16)),  # a pixel has 0.25 m2
        (None, {}, (16, 16, 16)),
        ("EPSG:32645", {"min_area": 6.0}, (24, 24, 24)),
        (None, {"min_area": 3.0}, (3, 3, 3)),
        ("EPSG:32645", {"min_area": 0.0}, (0, 0, 0)),
    ],
)
def test_polygons_are_those_of_the_raster_without_small_regions(
    crs: str | None, options: dict[str, float], pixels: tuple[int, ...], write_scene: Write, tmp_path: Path
) -> None:
    scene = write_scene(blobs(170, 150), crs=crs)
    card = model(class_1=10.0, class_2=1.0)
    lines: list[str] = []
    result = pfmap.predict(
        scene, tmp_path, model=card, device="cpu", simplify=0, on_message=lines.append, **options
    )
    classes = read(result.outputs["classes"])
    sieve = Sieve(170, 150, nodata=NODATA, limits=pixels, holes_only=False, pixel_area=lambda _row: 1.0)
    expected = np.concatenate([part[0] for part in sieve.add(classes, classes)])
    assert np.array_equal(drawn(objects(result.outputs["gpkg"]), result.outputs["classes"]), expected)
    rows = result.report["classes"]
    changed = np.bincount(classes[classes != expected], minlength=3)
    assert [row.get("merged_pixels", 0) for row in rows] == changed.tolist()
    assert [row.get("merged_regions", 0) > 0 for row in rows] == (changed > 0).tolist()
    unit, area = ("m2", 0.25) if crs else ("pixels", 1)
    said = ", ".join(f"class_{value} {count * area:.3g}" for value, count in enumerate(pixels) if count)
    assert (
        f"objects  from so many {unit} on: {said}" * any(pixels) in lines or "objects  of any size" in lines
    )


def test_small_regions_are_left_out_by_class(write_scene: Write, tmp_path: Path) -> None:
    scene, card = write_scene(blobs(150, 150)), model(class_1=10.0)
    some = [
        objects(pfmap.predict(scene, tmp_path / str(n), model=card, device="cpu", **options).outputs["gpkg"])
        for n, options in enumerate([{"drop_small": True}, {"min_area": 0}])
    ]
    least = some[1]["class"].map({"class_0": 3.9996, "class_1": 10, "class_2": 3.9996})
    assert len(some[0]) == (some[1]["area_m2"] >= least).sum() < len(some[1])


@pytest.mark.parametrize("drop", [False, True])
def test_small_parts_of_a_row_join_a_neighbour(drop: bool, write_scene: Write, tmp_path: Path) -> None:
    image, ids = houses(150, 300)
    result = pfmap.predict(
        write_scene(image), tmp_path, model=stand_in(contact=("class_2",)), device="cpu", simplify=0,
        min_area=161.0, drop_small=drop,
    )  # fmt: skip
    found = objects(result.outputs["gpkg"]).query("class_id == 2")
    rows = np.bincount(ndimage.label(ids)[0].flat)[1:] / 4
    large = rows[rows > 161]
    assert found["area_m2"].sum() == pytest.approx(large.sum(), rel=1e-3)
    assert found["area_m2"].min() >= 161
    assert len(large) < len(found) < ids.max() - (len(rows) - len(large))


@pytest.mark.parametrize("options", [{}, {"fill_holes": 30.0}, {"min_area": 0.0}])
def test_the_class_raster_can_be_what_the_polygons_are(
    options: dict[str, float], write_scene: Write, tmp_path: Path
) -> None:
    mask = np.ones((400, 90), dtype=bool)
    mask[100:220, 30:60] = False
    scene, card = write_scene(blobs(400, 90), mask=mask), model(class_1=10.0)
    settings = {"model": card, "device": "cpu", "simplify": 0, "swath_pixels": 5000, **options}
    raw = pfmap.predict(scene, tmp_path / "polygons", **settings)
    result = pfmap.predict(scene, tmp_path / "raster", sieve="raster", **settings)
    made, before = (read(one.outputs["classes"]) for one in (result, raw))
    assert np.array_equal(made, drawn(objects(result.outputs["gpkg"]), result.outputs["classes"]))
    assert np.array_equal(made, before) == (options.get("min_area") == 0)
    assert result.report["scene"] == raw.report["scene"]
    assert [row["pixels"] for row in result.report["classes"]] == np.bincount(made.flat)[:3].tolist()
    areas = objects(result.outputs["gpkg"]).groupby("class_id")["area_m2"].sum()
    assert [row["area_m2"] for row in result.report["classes"]] == pytest.approx(areas.tolist())
    for kind in ("gpkg", "confidence"):
        assert result.outputs[kind].read_bytes() == raw.outputs[kind].read_bytes()
    with rasterio.open(result.outputs["classes"]) as src:
        assert src.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"


@pytest.mark.parametrize(
    "boxes",
    [QUARTERS, OVERLAPPING, [(0, 0, 90, 100), (110, 100, 90, 100)]],
    ids=["touch", "overlap", "apart"],
)
def test_the_map_of_a_survey_too(boxes: list[Any], write_scene: Write, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"sieve": "raster", "simplify": 0}
    card, out, scenes = model(class_1=10.0), tmp_path / "out", sheets(write_scene, blobs(200, 200), boxes)
    for _ in range(2):  # a second time over the files of the first
        results = predict_all(scenes, out, model=card, device="cpu", **settings)
        assert [one.reason for one in results] == [""] * len(scenes)
        found = merge(results, out, card.card, PredictOptions.of(**settings), lambda _done, _all: None, str)
        assert found is not None
        classes, layer = read(found.outputs["classes"]), objects(found.outputs["gpkg"])
        assert np.array_equal(classes, drawn(layer, found.outputs["classes"]))
        assert np.array_equal(found.pixels, np.bincount(classes.ravel(), minlength=256)) or boxes[0][2] == 90
        assert layer["area_m2"].min() >= 4


@pytest.mark.parametrize("height", [512, pytest.param(4096, marks=pytest.mark.slow)])
def test_the_demo_has_no_specks_and_stays_one_coverage(height: int, tmp_path: Path) -> None:
    with rasterio.open(BANEPA) as src:
        left, _, right, top = src.bounds
        box = (left, top - height * src.transform.a, right, top)
    result = pfmap.predict(BANEPA, tmp_path, bbox=box, device="cpu")
    layer = objects(result.outputs["gpkg"])
    assert (layer["area_m2"] < 1).mean() <= 0.02
    assert shapely.coverage_is_valid(layer.geometry.array)
    assert layer.area.sum() == pytest.approx((box[2] - box[0]) * (top - box[1]), rel=1e-9)
    if height == 4096:  # the areas for which the card was measured
        areas = layer.groupby("class")["area_m2"].sum()
        rows = [row for row in result.report["classes"] if row["pixels"] > 0.01 * 1024 * 4096]
        for row in rows:
            assert areas[row["class"]] == pytest.approx(row["area_m2"], rel=0.01)


def test_areas_that_are_none_and_options_that_exclude_each_other_are_refused(write_scene: Write) -> None:
    for least in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ModelError, match="class 'class_1' has min_area"):
            model(class_1=least)
    scene = write_scene(blobs(80, 80))
    with pytest.raises(UsageError, match="drop_small=True leaves gaps, and a class raster has none"):
        pfmap.predict(scene, model=model(), sieve="raster", drop_small=True)
    with pytest.raises(UsageError, match="sieve 'both' is unknown: use polygons or raster"):
        pfmap.predict(scene, model=model(), sieve="both")


def test_a_card_with_other_areas_is_another_model(write_scene: Write, tmp_path: Path) -> None:
    scene = write_scene(blobs(80, 80))
    first = pfmap.predict(scene, tmp_path, model=model(), device="cpu")
    assert pfmap.predict(scene, tmp_path, model=model(), device="cpu").skipped
    again = pfmap.predict(scene, tmp_path, model=model(class_1=50.0), device="cpu", overwrite=True)
    assert not again.skipped
    assert json.loads(again.outputs["report"].read_text())["identity"] != first.report["identity"]
