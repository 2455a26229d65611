import dataclasses
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from conftest import NORTH_UP, Write, blobs, houses, stand_in
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.warp import reproject, transform_bounds
from sheets import OVERLAPPING, QUARTERS, sheets

import pfmap
from pfmap.core.errors import SourceError
from pfmap.mapping.options import PredictOptions
from pfmap.survey.merge import Merged, merge
from pfmap.survey.scenes import predict_all

ROWS = COLS = 200


def merged(scenes: list[Path], out: Path, **settings) -> Merged:
    model = settings.pop("model", stand_in())
    results = predict_all(scenes, out, model=model, device="cpu", **settings)
    assert not [result.reason for result in results if result.reason]
    found = merge(
        results, out, model.card, PredictOptions.of(**settings), lambda _done, _total: None, said.append
    )
    assert found is not None
    return found


said: list[str] = []


@pytest.fixture(autouse=True)
def _silence() -> None:
    said.clear()


def objects(path: Path) -> gpd.GeoDataFrame:
    return gpd.read_file(path, layer="objects").sort_values("object_id", ignore_index=True)


ROW = [(0, col, 100, 100) for col in range(0, 500, 100)]
SITE = 'LOCAL_CS["Site",LOCAL_DATUM["Local",0],UNIT["metre",1],AXIS["X",EAST],AXIS["Y",NORTH]]'
MARS = """GEOGCS["Mars",DATUM["D_MARS",SPHEROID["MARS",3396190,0]],PRIMEM["Meridian",0],
UNIT["degree",0.0174532925199433]]"""


@pytest.mark.parametrize("boxes", [QUARTERS, OVERLAPPING], ids=["touching", "overlapping"])
def test_sheets_that_touch_or_overlap_give_the_objects_of_the_whole(
    boxes, write_scene: Write, tmp_path: Path
):
    image = blobs(ROWS, COLS)
    whole = pfmap.predict(write_scene(image, "whole.tif"), tmp_path / "one", model=stand_in(), device="cpu")
    found = merged(sheets(write_scene, image, boxes), tmp_path / "many")
    ours, theirs = objects(found.outputs["gpkg"]), objects(whole.outputs["gpkg"])
    assert len(ours) > 20
    assert shapely.equals_exact(ours.geometry.values, theirs.geometry.values, 1e-9).all()
    for name in ("object_id", "class", "area_m2", "confidence_mean", "touches_edge"):
        assert (ours[name] == theirs[name]).all()
    assert [row["pixels"] for row in whole.report["classes"]] == found.pixels[:3].tolist()
    assert [row["area_m2"] for row in whole.report["classes"]] == pytest.approx(found.areas[:3], abs=0.01)
    assert found.objects == {row["class"]: row["objects"] for row in whole.report["classes"]}
    with rasterio.open(found.outputs["classes"]) as ours_src, rasterio.open(whole.outputs["classes"]) as src:
        assert (ours_src.read(1) == src.read(1)).all()
        assert ours_src.transform == src.transform
        assert ours_src.colormap(1)[1] == src.colormap(1)[1]


@pytest.mark.parametrize("seam", ["through houses", "along a common wall"])
def test_seams_join_the_halves_of_a_house_and_never_two_houses(
    seam: str, write_scene: Write, tmp_path: Path
) -> None:
    """Oracle: the map of the whole scene. The walls beside a seam are seen from either side."""
    image, ids = houses(140, 200)
    model = stand_in(contact=("class_2",))
    left, right = ids[10, 40:160], ids[10, 41:161]
    at = (
        41
        + int(np.flatnonzero((left > 0) & (right > 0) & (left != right))[0])
        + (6 if seam == "through houses" else 0)
    )
    assert (ids[10, at - 1] == ids[10, at]) == (seam == "through houses")
    whole = pfmap.predict(write_scene(image, "whole.tif"), tmp_path / "one", model=model, device="cpu")
    halves = sheets(write_scene, image, [(0, 0, 140, at), (0, at, 140, 200 - at)])
    found = merged(halves, tmp_path / "many", model=model)
    ours, theirs = objects(found.outputs["gpkg"]), objects(whole.outputs["gpkg"])
    assert (ours["class"] == "class_2").sum() == ids.max()
    for name in ("object_id", "region_id", "area_m2", "confidence_mean"):
        assert (ours[name] == theirs[name]).all()
    assert shapely.equals_exact(ours.geometry.values, theirs.geometry.values, 1e-9).all()
    again = pfmap.vectorize(
        found.outputs["classes"], tmp_path / "again", contact=found.outputs["contact"], min_area=4,
        confidence=found.outputs["confidence"],
    )  # fmt: skip
    assert again.counts["class_2"] == ids.max()


def test_sheets_above_each_other_with_a_gap_are_mapped_where_they_lie(
    write_scene: Write, tmp_path: Path
) -> None:
    image = blobs(350, 100)
    whole = pfmap.predict(write_scene(image, "whole.tif"), tmp_path / "one", model=stand_in(), device="cpu")
    cut = sheets(write_scene, image, [(0, 0, 100, 100), (250, 0, 100, 100)])
    found = objects(merged(cut, tmp_path / "many").outputs["gpkg"])
    assert found["object_id"].is_unique
    assert found.total_bounds == pytest.approx(objects(whole.outputs["gpkg"]).total_bounds)


def test_a_survey_takes_objects_apart_at_the_resolution_that_the_network_saw(
    write_scene: Write, tmp_path: Path
) -> None:
    """Common walls have a gap, which is closed by lengths that are twice as many pixels of these sheets."""
    image, ids = houses(110, 200)
    image[2, 13:23], image[2, 47:57] = 15, 15
    model = stand_in(contact=("class_2",))
    card = dataclasses.replace(model.card, input=dataclasses.replace(model.card.input, gsd=(1.0, 1.0)))
    cut = sheets(write_scene, image.repeat(2, 1).repeat(2, 2), [(0, 0, 220, 150), (0, 150, 220, 250)])
    found = merged(cut, tmp_path / "out", model=dataclasses.replace(model, card=card))
    assert (objects(found.outputs["gpkg"])["class"] == "class_2").sum() == ids.max()


def test_every_object_names_the_scene_that_shows_it(write_scene: Write, tmp_path: Path) -> None:
    found = merged(sheets(write_scene, blobs(ROWS, COLS), OVERLAPPING), tmp_path / "many")
    layer = objects(found.outputs["gpkg"])
    inner = shapely.point_on_surface(layer.geometry.values)
    col, row = ~NORTH_UP @ np.stack([shapely.get_x(inner), shapely.get_y(inner)])
    for name, x, y in zip(layer["scene"], col, row, strict=True):
        shown = [n for n, (r, c, h, w) in enumerate(OVERLAPPING) if r <= y <= r + h and c <= x <= c + w]
        assert name == f"sheet{shown[-1]}"
    assert set(layer["scene"]) == {"sheet0", "sheet1", "sheet2", "sheet3"}


def test_a_later_scene_does_not_hide_others_where_it_has_no_data(write_scene: Write, tmp_path: Path) -> None:
    image = blobs(ROWS, COLS)
    below = write_scene(image, "below.tif")
    mask = np.zeros((ROWS, COLS), dtype=bool)
    mask[50:100, 50:100] = True
    above = write_scene(255 - image, "above.tif", mask=mask)
    found = merged([below, above], tmp_path / "out")
    layers = [
        pfmap.predict(path, tmp_path / "alone", model=stand_in(), device="cpu") for path in (below, above)
    ]
    lower, upper = (rasterio.open(one.outputs["classes"]).read(1) for one in layers)
    with rasterio.open(found.outputs["classes"]) as src:
        assert (src.read(1) == np.where(mask, upper, lower)).all()
    assert int(found.pixels[:255].sum()) == ROWS * COLS


def test_other_crs_and_resolution_are_brought_to_the_grid_of_most(write_scene: Write, tmp_path: Path) -> None:
    """A large sheet in UTM 45 and, beside it, one in UTM 44 of pixels half as large."""
    image = np.full((3, 900, 300), 10, dtype=np.uint8)
    image[:, 100:200, 100:300] = 245
    main = write_scene(image, "main.tif")
    east = NORTH_UP @ (300, 0)
    fine = np.full((3, 400, 400), 10, dtype=np.uint8)
    fine[:, 200:400, 0:200] = 245
    here = Affine(0.25, 0, east[0] - 10, 0, -0.25, east[1])
    bounds = transform_bounds("EPSG:32645", "EPSG:32644", here.c, here.f - 100, here.c + 100, here.f)
    to = Affine(0.25, 0, bounds[0], 0, -0.25, bounds[3])
    width, height = (int((bounds[i + 2] - bounds[i]) / 0.25) + 1 for i in (0, 1))
    turned, inside = np.zeros((3, height, width), np.uint8), np.zeros((height, width), np.uint8)
    place = {"src_transform": here, "src_crs": "EPSG:32645", "dst_transform": to, "dst_crs": "EPSG:32644"}
    reproject(fine, turned, resampling=Resampling.nearest, **place)
    reproject(np.ones((400, 400), np.uint8), inside, resampling=Resampling.nearest, **place)
    other = write_scene(turned, "other.tif", crs="EPSG:32644", transform=to, mask=inside > 0)
    found = merged([main, other], tmp_path / "out", classes=["class_2"])
    assert found.grid.crs_wkt is not None
    assert CRS.from_wkt(found.grid.crs_wkt) == CRS.from_epsg(32645)
    assert found.grid.transform[0] == pytest.approx(0.5)
    layer = objects(found.outputs["gpkg"])
    # one object across both: 100 x 50 m in the large one, and what the other adds of its 50 x 50 m
    assert len(layer) == 1
    left, top = NORTH_UP @ (100, 100)
    expected = shapely.box(left, top - 50, left + 100, top).union(
        shapely.box(here.c, here.f - 100, here.c + 50, here.f - 50)
    )
    both = layer.geometry.iloc[0]
    assert both.symmetric_difference(expected).area < 0.03 * expected.area
    assert found.areas[2] == pytest.approx(expected.area, rel=0.03)


def test_scenes_in_ten_crs_become_one_layer(write_scene: Write, tmp_path: Path) -> None:
    scenes = []
    for zone in range(31, 41):
        image = blobs(64, 64, seed=zone)
        scenes.append(
            write_scene(
                image, f"z{zone}.tif", crs=f"EPSG:326{zone}", transform=Affine(20, 0, 5e5, 0, -20, 5e6)
            )
        )
    found = merged(scenes, tmp_path / "out", gsd=0.5)
    layer = objects(found.outputs["gpkg"])
    assert set(layer["scene"]) == {f"z{zone}" for zone in range(31, 41)}


def test_a_scene_without_a_crs_is_left_out_and_named(write_scene: Write, tmp_path: Path) -> None:
    image = blobs(80, 80)
    scenes = [write_scene(image, "here.tif"), write_scene(image, "nowhere.tif", crs=None)]
    found = merged(scenes, tmp_path / "out")
    text = "nowhere has no CRS as the others have: it is no part of the survey's own outputs"
    assert list(found.warnings) == [text]
    assert said[-1] == f"warning: {text}"
    assert (found.grid.width, found.grid.height) == (80, 80)


def test_a_scene_that_is_too_far_away_is_left_out_and_named(write_scene: Write, tmp_path: Path) -> None:
    """A local CRS of Nepal has no place for the other side of the Earth."""
    image = blobs(80, 80)
    far = "+proj=gnom +lat_0=0 +lon_0=-94 +datum=WGS84 +units=m +no_defs"
    away = Affine(0.5, 0, 0, 0, -0.5, 0)
    main = write_scene(
        blobs(120, 120), "here.tif", crs="+proj=gnom +lat_0=0 +lon_0=86 +datum=WGS84", transform=away
    )
    found = merged([main, write_scene(image, "far.tif", crs=far, transform=away)], tmp_path / "out")
    assert [text.split(" into")[0] for text in found.warnings] == ["far cannot be brought from unknown"]
    assert (found.grid.width, found.grid.height) == (120, 120)


def test_a_vrt_that_stays_the_same_is_left_alone_and_moves_with_its_folder(
    write_scene: Write, tmp_path: Path
) -> None:
    scenes = sheets(write_scene, blobs(ROWS, COLS), QUARTERS)
    out = tmp_path / "out"
    before = merged(scenes, out).outputs["classes"]
    time = before.stat().st_mtime_ns
    merged(scenes, out)
    assert before.stat().st_mtime_ns == time
    moved = out.rename(tmp_path / "elsewhere")
    with rasterio.open(moved / before.name) as src:
        assert (src.read(1) < 3).all()


def test_a_class_raster_that_is_gone_is_named(write_scene: Write, tmp_path: Path) -> None:
    scenes = sheets(write_scene, blobs(ROWS, COLS), QUARTERS)
    model = stand_in()
    results = predict_all(scenes, tmp_path / "out", model=model, device="cpu")
    assert results[1].result is not None
    results[1].result.outputs["classes"].unlink()
    with pytest.raises(SourceError, match=r"survey_classes\.vrt cannot be read"):
        merge(results, tmp_path / "out", model.card, PredictOptions(), lambda _d, _t: None, said.append)
    assert not (tmp_path / "out/survey_objects.gpkg").exists()


def test_scenes_named_as_gdal_names_rasters_in_files_are_joined(
    write_scene: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["NETCDF:a.nc:b.tif", "GPKG:x.tif", r"b\ok.tif", "ok.tif", "10:00.tif"]
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    for name, scene in zip(names, sheets(write_scene, blobs(100, 500), ROW), strict=True):
        scene.rename(name)
    made = pfmap.batch(names, "../out", model=stand_in(), device="cpu")
    assert [one.reason for one in made.scenes] == [""] * 5
    with rasterio.open(made.outputs["classes"]) as src:
        joined = src.read(1)
    for index, name in enumerate(names):
        with rasterio.open(tmp_path / "out" / f"{name.removesuffix('.tif')}_classes.tif") as src:
            assert (src.read(1) == joined[:, 100 * index : 100 * index + 100]).all()


@pytest.mark.parametrize("crs", [SITE, MARS])
def test_scenes_without_a_way_to_longitudes_become_a_survey(
    crs: str, write_scene: Write, tmp_path: Path
) -> None:
    pixel = Affine(1e-6, 0, 10, 0, -1e-6, 20) if crs == MARS else Affine(1, 0, 0, 0, -1, 80)
    scene = write_scene(blobs(80, 80), "scene.tif", crs=crs, transform=pixel)
    made = pfmap.batch([scene], tmp_path / "out", model=stand_in(), device="cpu")
    assert [one.reason for one in made.scenes] == [""]
    assert made.figures.scenes[0].footprint == ()
    assert all(path.exists() for path in made.outputs.values())
