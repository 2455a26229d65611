"""The pipeline of one scene, against per-pixel and whole-raster references."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
import torch
from affine import Affine
from conftest import Pointwise, Write, blobs, houses, pointwise_reference, stand_in
from pyproj import Geod
from rasterio import features
from rasterio.enums import ColorInterp
from runs import noise, small_model
from torch import Tensor, nn

import pfmap
from pfmap.core.errors import PfmapError, SourceError, TargetError, UsageError
from pfmap.mapping.job import Job
from pfmap.mapping.options import PredictOptions
from pfmap.mapping.runtime import Runtime
from pfmap.net.pfnet import ContactHead
from pfmap.raster.location import locate

NODATA = 255
ROTATED = Affine.translation(300000, 3000000) @ Affine.rotation(30) @ Affine.scale(0.5, -0.5)
LONG = Affine(0.48, 0, 300000, 0, -0.55, 3000000)
SOUTH_UP = Affine(0.5, 0, 300000, 0, 0.5, 3000000)


def read(path: Path) -> Any:
    with rasterio.open(path) as src:
        return src.read(1)


def objects(path: Path) -> gpd.GeoDataFrame:
    return gpd.read_file(path, layer=path.stem if path.suffix == ".shp" else "objects")


def whole_raster_polygons(classes: Any, transform: Affine) -> set[tuple[int, bytes]]:
    """Trace the finished raster at once with GDAL: the oracle for stitching."""
    return {
        (int(value), shapely.normalize(shapely.geometry.shape(geometry)).wkb)
        for geometry, value in features.shapes(classes, mask=classes != NODATA, transform=transform)
    }


def file_polygons(path: Path) -> list[tuple[int, bytes]]:
    frame = objects(path)
    return list(zip(frame["class_id"], shapely.to_wkb(shapely.normalize(frame.geometry)), strict=True))


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (63, 65), (64, 64), (65, 191), (131, 257)])
@pytest.mark.parametrize("overlap", [0, 7, 32])
def test_class_raster_equals_the_per_pixel_reference(
    size: tuple[int, int], overlap: int, write_scene: Write
) -> None:
    image = blobs(*size)
    scene = write_scene(image)
    result = pfmap.predict(scene, model=stand_in(), device="cpu", overlap=overlap, swath_pixels=5000)
    assert np.count_nonzero(read(result.outputs["classes"]) != pointwise_reference(image)) == 0


class BatchShapes(nn.Module):
    """Pointwise, and remembers the shapes it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Pointwise(3)
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, image: Tensor) -> Tensor:
        self.shapes.append(tuple(image.shape))
        return self.inner(image)


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_every_batch_has_the_same_shape(batch_size: int, write_scene: Write) -> None:
    image = blobs(150, 200)
    network = BatchShapes()
    result = pfmap.predict(
        write_scene(image), model=stand_in(network=network), device="cpu", batch_size=batch_size
    )
    assert set(network.shapes) == {(batch_size, 3, 64, 64)}
    assert np.array_equal(read(result.outputs["classes"]), pointwise_reference(image))


@pytest.mark.parametrize("swath_pixels", [1, 9_000, 10**9])
def test_polygons_are_those_of_the_whole_raster(swath_pixels: int, write_scene: Write) -> None:
    image = blobs(230, 170, smooth=4)
    scene = write_scene(image)
    options = {"device": "cpu", "swath_pixels": swath_pixels, "simplify": 0, "min_area": 0}
    result = pfmap.predict(scene, model=stand_in(), **options)
    with rasterio.open(result.outputs["classes"]) as src:
        oracle = whole_raster_polygons(src.read(1), src.transform)
    found = file_polygons(result.outputs["gpkg"])
    assert len(found) == len(oracle)
    assert set(found) == oracle


def houses_in(result: Any) -> gpd.GeoDataFrame:
    frame = objects(result.outputs["gpkg"])
    return frame[frame["class"] == "class_2"]


def test_houses_in_a_row_are_objects_however_the_scene_is_cut(write_scene: Write, tmp_path: Path) -> None:
    """Oracle: the houses as drawn. Squares of 64 pixels and swaths of any height cut through them."""
    image, ids = houses(230, 300)
    scene, outputs = write_scene(image), []
    for pixels in (1, 9_000, 10**9):
        result = pfmap.predict(
            scene, tmp_path / f"{pixels}", model=stand_in(contact=("class_2",)), device="cpu", simplify=0,
            swath_pixels=pixels,
        )  # fmt: skip
        outputs.append([result.outputs[kind].read_bytes() for kind in ("contact", "gpkg")])
    assert outputs[0] == outputs[1] == outputs[2]
    with rasterio.open(result.outputs["contact"]) as src:
        contact = src.read(1)
        assert (src.nodata, src.dtypes, src.tags()["PFMAP_SEPARATED"]) == (255, ("uint8",), "class_2")
        assert src.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    assert ((contact > 50) == (image[2] > 128)).all()
    found = houses_in(result)
    drawn = features.rasterize(
        zip(found.geometry, range(1, len(found) + 1), strict=True), ids.shape, transform=src.transform
    )
    assert len(found) == ids.max() == len({*zip(ids[ids > 0], drawn[ids > 0], strict=True)})
    assert found["region_id"].nunique() < len(found) == found["object_id"].nunique()
    assert found["area_m2"].sum() == pytest.approx((ids > 0).sum() / 4, rel=1e-3)
    assert found["piece"].eq(1).all()


def test_separation_is_switched_off_said_and_refused(write_scene: Write, tmp_path: Path) -> None:
    image, ids = houses(100, 160)
    scene, lines = write_scene(image), list[str]()

    def count(model: Any, **options: Any) -> tuple[int, Any]:
        lines.clear()
        result = pfmap.predict(
            scene, tmp_path, model=model, device="cpu", overwrite=True, on_message=lines.append, **options
        )
        return len(houses_in(result)), result

    shown = stand_in(contact=("class_2",))
    number, result = count(shown)
    assert number == ids.max()
    assert any("objects of class_2 are taken apart where the contact map shows" in line for line in lines)
    both, result = count(shown, separate=["class_0", "class_2"], classes=["class_0", "class_2"])
    assert both == number
    assert result.report["options"]["separated"].startswith("objects of class_2 are taken apart where")
    assert any("and those of class_0 are taken apart by their shape" in line for line in lines)
    with rasterio.open(result.outputs["contact"]) as src:
        told = {name: text for name, text in src.tags().items() if name.startswith("PFMAP_SEPARATED")}
    assert told == {"PFMAP_SEPARATED": "class_2", "PFMAP_SEPARATED_BY_SHAPE": "class_0"}
    together, result = count(shown, separate=["none"])
    assert together < number
    assert not any("taken apart" in line for line in lines)
    assert "contact" not in result.outputs
    plain, other = count(stand_in(network=FirstTwo(3)))
    assert plain == together
    assert result.outputs["classes"].name in {path.name for path in other.outputs.values()}
    _, result = count(stand_in(network=FirstTwo(3)), separate=("class_2",))
    assert any(
        line.startswith("warning: objects of class_2 are taken apart by their shape") for line in lines
    )
    assert any("by their shape alone" in line for line in result.report["warnings"])
    assert "contact" not in result.outputs
    for model, options, words in (
        (shown, {"separate": ("shed",)}, "shed"),
        (shown, {"separate": ("class_2",), "classes": ("class_1",)}, "taken apart, but does not become"),
    ):
        with pytest.raises(PfmapError, match=words):
            count(model, **options)


def test_the_contact_head_rests_where_nothing_is_taken_apart(
    write_scene: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, model = write_scene(blobs(100, 140)), small_model(tmp_path / "model", contact=("class_2",))
    windows, masks = [noise(64, 64)] * 3, [np.ones((64, 64), bool)] * 3
    made = []
    for options in ({}, {"separate": ("none",)}, {"classes": ("class_1",)}):
        runtime = Runtime.of(model, "cpu", "float32", 3, print)
        with Job(locate(scene), runtime, PredictOptions.of(**options), print).planned() as (_, plan):
            made.append(runtime.predictor(plan).probabilities(windows, masks))
        monkeypatch.setattr(ContactHead, "forward", lambda *_seen: pytest.fail("it was computed"))
    assert [len(each[0]) for each in made] == [4, 3, 3]
    assert all(torch.equal(each, made[0][:, :3]) for each in made[1:])
    pfmap.predict(scene, model=model, device="cpu", separate=("none",))


class FirstTwo(Pointwise):
    """Sees what `Walled` sees, but for where objects touch."""

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image[:, :2])


def alpha(scene: dict[str, Any], valid: Any) -> None:
    scene["image"] = np.concatenate([scene["image"], valid[None] * np.uint8(255)])


def mask(scene: dict[str, Any], valid: Any) -> None:
    scene["mask"] = valid


def value(scene: dict[str, Any], valid: Any) -> None:
    scene["image"] = np.where(valid, scene["image"], np.uint8(0))
    scene["nodata"] = 0


@pytest.mark.parametrize("kind", [alpha, mask, value])
def test_nodata_stays_nodata(kind: Callable[[dict[str, Any], Any], None], write_scene: Write) -> None:
    valid = np.ones((300, 300), dtype=bool)
    valid[:, :150] = False
    valid[40:60, 200:230] = False
    settings: dict[str, Any] = {"image": blobs(300, 300)}
    reference = np.where(valid, pointwise_reference(settings["image"]), NODATA)
    kind(settings, valid)
    scene = write_scene(settings.pop("image"), **settings)
    if kind is alpha:
        with rasterio.open(scene, "r+") as dst:
            dst.colorinterp = [
                ColorInterp.red,
                ColorInterp.green,
                ColorInterp.blue,
                ColorInterp.alpha,
            ]
    network = BatchShapes()
    result = pfmap.predict(scene, model=stand_in(network=network), device="cpu", overlap=8)
    assert np.array_equal(read(result.outputs["classes"]), reference)
    assert np.array_equal(read(result.outputs["confidence"]) == NODATA, ~valid)
    frame = objects(result.outputs["gpkg"])
    assert frame.area.sum() == pytest.approx(valid.sum() * 0.25)
    # 6 x 6 windows, of which the two leftmost columns see nothing: stride 56, 150 px empty.
    assert len(network.shapes) == 6 * 4
    assert result.report["scene"]["valid_pixels"] == valid.sum()


@pytest.mark.parametrize("transform", [ROTATED, SOUTH_UP, LONG])
def test_rotated_south_up_and_long_pixels_keep_their_place(transform: Affine, write_scene: Write) -> None:
    image = blobs(90, 140)
    scene = write_scene(image, transform=transform)
    result = pfmap.predict(scene, model=stand_in(), device="cpu", simplify=0, sieve="raster")
    with rasterio.open(result.outputs["classes"]) as src:
        assert src.transform.almost_equals(transform)
        assert src.crs.to_epsg() == 32645
        classes = src.read(1)
    frame = objects(result.outputs["gpkg"])
    for klass in range(3):
        burnt = features.rasterize(
            frame.geometry[frame["class_id"] == klass], out_shape=classes.shape, transform=transform
        )
        assert np.array_equal(burnt == 1, classes == klass)
    assert frame["area_m2"].sum() == pytest.approx(classes.size * abs(transform.determinant))


def test_a_scene_without_georeferencing_is_mapped_in_pixels(tmp_path: Path) -> None:
    scene = tmp_path / "photo.jpg"
    image = blobs(80, 100)
    with (
        pytest.warns(rasterio.errors.NotGeoreferencedWarning),
        rasterio.open(scene, "w", driver="JPEG", width=100, height=80, count=3, dtype="uint8") as dst,
    ):
        dst.write(image)
    said: list[str] = []
    result = pfmap.predict(scene, model=stand_in(), device="cpu", on_message=said.append)
    assert sum("no georeferencing" in line for line in said) == 1
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        src = rasterio.open(result.outputs["classes"])
    with src:
        assert src.crs is None
        assert src.transform == Affine.identity()
    frame = objects(result.outputs["gpkg"])
    assert frame.crs is None or frame.crs.to_epsg() is None
    assert frame["area_px"].sum() == pytest.approx(80 * 100)
    assert frame.total_bounds.tolist() == [0, -80, 100, 0]  # where QGIS draws such a photo


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:3857", Affine(0.15, 0, 9519926, 0, -0.15, 3202940)),
        ("EPSG:4326", Affine(1.3e-6, 0, 85.52, 0, -1.3e-6, 27.63)),
    ],
)
def test_areas_are_true_square_metres(crs: str, transform: Affine, write_scene: Write) -> None:
    image = blobs(120, 150)
    scene = write_scene(image, crs=crs, transform=transform)
    result = pfmap.predict(scene, model=stand_in(), device="cpu", simplify=0, sieve="raster")
    frame = objects(result.outputs["gpkg"])
    with rasterio.open(result.outputs["classes"]) as src:
        assert src.crs == rasterio.CRS.from_user_input(crs)
        assert src.transform.almost_equals(transform)
    geod = Geod(ellps="WGS84")
    degrees = frame.to_crs(4326).geometry
    areas = np.array([abs(geod.geometry_area_perimeter(shape)[0]) for shape in degrees])
    lengths = np.array([abs(geod.geometry_length(shape.boundary)) for shape in degrees])
    np.testing.assert_allclose(frame["area_m2"], areas, rtol=1e-3, atol=2e-3)
    np.testing.assert_allclose(frame["perimeter_m"], lengths, rtol=1e-3, atol=2e-3)
    per_class = {row["class"]: row["area_m2"] for row in result.report["classes"]}
    for name, area in frame.groupby("class")["area_m2"].sum().items():
        assert per_class[name] == pytest.approx(area, rel=1e-3)


def test_confidence_is_that_of_exactly_the_objects_pixels(write_scene: Write) -> None:
    rng = np.random.default_rng(3)
    image = np.repeat(rng.integers(0, 256, (1, 100, 90), dtype=np.uint8), 3, axis=0)
    options = {"device": "cpu", "swath_pixels": 1, "simplify": 0, "min_area": 0}
    result = pfmap.predict(write_scene(image), model=stand_in(), **options)
    classes, confidence = read(result.outputs["classes"]), read(result.outputs["confidence"])
    reference = torch.softmax(Pointwise(3)(torch.from_numpy(image)[None] / 255), dim=1).amax(1)[0].numpy()
    assert np.abs(confidence / 100 - reference).max() <= 0.00501
    frame = objects(result.outputs["gpkg"])
    with rasterio.open(result.outputs["classes"]) as src:
        for row in frame.sample(60, random_state=0).itertuples():
            inside = features.rasterize([row.geometry], out_shape=classes.shape, transform=src.transform)
            values = confidence[inside == 1] / 100
            assert row.confidence_mean == pytest.approx(values.mean(), abs=1e-4)
            assert row.confidence_min == pytest.approx(values.min(), abs=1e-4)


def test_the_class_raster_is_a_cog_with_names_and_colours(write_scene: Write) -> None:
    result = pfmap.predict(write_scene(blobs(700, 600)), model=stand_in(), device="cpu")
    with rasterio.open(result.outputs["classes"]) as src:
        assert src.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert src.dtypes == ("uint8",)
        assert src.nodata == NODATA
        assert src.overviews(1)
        assert src.block_shapes == [(512, 512)]
        assert src.colormap(1)[0][:3] == (0xD7, 0x30, 0x1F)
        assert src.tags()["PFMAP_MODEL"] == "stand_in"
        assert src.tags()["PFMAP_OVERLAP"] == "8"
    sidecar = result.outputs["classes"].with_name("scene_classes.tif.aux.xml").read_text()
    assert "<Category>class_1</Category>" in sidecar
    assert 'label="class_2"' in result.outputs["classes"].with_suffix(".qml").read_text()


def test_the_report_tells_what_was_done(write_scene: Write) -> None:
    image = blobs(100, 120)
    result = pfmap.predict(write_scene(image), model=stand_in(), device="cpu")
    report = json.loads(result.outputs["report"].read_text())
    assert report == result.report
    pixels = np.bincount(pointwise_reference(image).ravel(), minlength=3)
    assert [row["pixels"] for row in report["classes"]] == pixels.tolist()
    assert [row["area_m2"] for row in report["classes"]] == (pixels * 0.25).tolist()
    counts = objects(result.outputs["gpkg"])["class"].value_counts()
    assert {row["class"]: row["objects"] for row in report["classes"]} == counts.to_dict()
    assert report["peak_memory_bytes"] > 10**8
    assert {"read", "network", "blend", "trace", "write objects"} <= set(report["seconds"])


def test_formats_hold_the_same_objects(write_scene: Write) -> None:
    formats = ("gpkg", "shp", "geojson")
    result = pfmap.predict(write_scene(blobs(150, 150)), model=stand_in(), device="cpu", formats=formats)
    gpkg, shp, geojson = (objects(result.outputs[form]) for form in formats)
    assert len(gpkg) == len(shp) == len(geojson) > 10
    assert list(shp.columns) == [
        "object_id", "piece", "region_id", "class_id", "class", "area_m2", "perim_m", "length_m", "width_m",
        "azimuth",
        "conf_mean", "conf_min", "at_edge", "scene", "geometry",
    ]  # fmt: skip
    assert shp.crs == gpkg.crs
    assert geojson.crs.to_epsg() == 4326
    assert shp["area_m2"].sum() == pytest.approx(gpkg["area_m2"].sum())
    assert geojson.to_crs(gpkg.crs).area.sum() == pytest.approx(gpkg.area.sum(), rel=1e-4)
    folder = result.outputs["shp"].parent
    assert (folder / "scene_objects.cpg").read_text().strip() == "UTF-8"
    assert {".shp", ".dbf", ".shx", ".prj", ".cpg", ".qml"} <= {
        p.suffix for p in folder.glob("scene_objects.*")
    }


def test_min_area_and_classes_choose_the_polygons(write_scene: Write) -> None:
    scene = write_scene(blobs(150, 150))
    result = pfmap.predict(
        scene, model=stand_in(), device="cpu", classes=("class_1",), min_area=2.0, drop_small=True
    )
    frame = objects(result.outputs["gpkg"])
    assert set(frame["class"]) == {"class_1"}
    assert frame["area_m2"].min() >= 2.0
    everything = pfmap.predict(scene, model=stand_in(), device="cpu", overwrite=True, min_area=0)
    kept = objects(everything.outputs["gpkg"]).query("`class` == 'class_1' and area_m2 >= 2")
    assert len(kept) == len(frame)


def test_no_stray_file_lies_beside_the_outputs(write_scene: Write) -> None:
    scene = write_scene(blobs(80, 80))
    result = pfmap.predict(scene, model=stand_in(), device="cpu")
    assert len(objects(result.outputs["gpkg"]))  # reading leaves nothing behind either
    sidecars = {"scene_classes.qml", "scene_confidence.qml", "scene_classes.tif.aux.xml"}
    expected = {scene.name, *sidecars, *(path.name for path in result.outputs.values())}
    assert {path.name for path in scene.parent.iterdir()} == expected


def test_existing_outputs_are_refused_and_kept(write_scene: Write) -> None:
    scene = write_scene(blobs(80, 80))
    first = pfmap.predict(scene, model=stand_in(), device="cpu")
    before = {p: p.read_bytes() for p in scene.parent.iterdir()}
    with pytest.raises(TargetError, match=r"already \(of other options\): replace with overwrite=True"):
        pfmap.predict(scene, model=stand_in(), device="cpu", min_area=3)
    assert {p: p.read_bytes() for p in scene.parent.iterdir()} == before
    again = pfmap.predict(scene, model=stand_in(), device="cpu", min_area=3, overwrite=True)
    assert read(again.outputs["classes"]).tobytes() == read(first.outputs["classes"]).tobytes()
    os.utime(scene)
    with pytest.raises(TargetError, match=r"\(of the scene before it changed and of other options\)"):
        pfmap.predict(scene, model=stand_in(), device="cpu")


def test_what_is_done_is_not_done_again(write_scene: Write) -> None:
    scene = write_scene(blobs(80, 80))
    first = pfmap.predict(scene, model=stand_in(), device="cpu")
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in scene.parent.iterdir()}
    again = pfmap.predict(scene, model=stand_in(), device="cpu", swath_pixels=100, overwrite=True)
    assert again.skipped
    assert not first.skipped
    assert (again.outputs, again.report) == (first.outputs, first.report)
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in scene.parent.iterdir()} == before
    assert not pfmap.predict(scene, model=stand_in(), device="cpu", overwrite=True, resume=False).skipped
    first.outputs["gpkg"].unlink()
    assert not pfmap.predict(scene, model=stand_in(), device="cpu", overwrite=True).skipped
    assert first.outputs["gpkg"].exists()


class Breaks(nn.Module):
    """Fails at the third window."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error, self.calls = error, 0
        self.inner = Pointwise(3)

    def forward(self, image: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == 3:
            raise self.error
        return self.inner(image)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("broken")])
def test_a_broken_run_leaves_nothing_behind(error: BaseException, write_scene: Write) -> None:
    scene = write_scene(blobs(200, 200))
    with pytest.raises(type(error)):
        pfmap.predict(scene, model=stand_in(network=Breaks(error)), device="cpu", swath_pixels=1)
    assert list(scene.parent.iterdir()) == [scene]


def test_clear_errors_for_bad_scenes(tmp_path: Path, write_scene: Write) -> None:
    text = tmp_path / "notes.tif"
    text.write_text("no raster")
    cases = [
        (tmp_path / "missing.tif", SourceError, "does not exist"),
        (text, SourceError, "not a raster"),
        (tmp_path, SourceError, "folder"),
        (
            write_scene(blobs(10, 10)[:2], "two.tif"),
            UsageError,
            "has 2 bands; model 'stand_in' needs 3",
        ),
        (write_scene(blobs(10, 10).astype("complex64"), "complex.tif"), SourceError, "complex64"),
        (
            write_scene(np.zeros((3, 70, 70), "uint8"), "empty.tif", nodata=0),
            SourceError,
            "no valid pixel",
        ),
    ]
    for scene, kind, words in cases:
        with pytest.raises(kind, match=words) as caught:
            pfmap.predict(scene, tmp_path / "out", model=stand_in(), device="cpu")
        assert "\n" not in str(caught.value)
        assert scene.name in str(caught.value)
    assert not any((tmp_path / "out").iterdir())
