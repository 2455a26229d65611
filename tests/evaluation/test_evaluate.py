"""`pfmap evaluate`: figures against scikit-learn and scipy, truth of any kind, and what it refuses."""

import base64
import json
import os
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from click.testing import CliRunner
from conftest import UTM
from rasterio import features
from rasterio.io import MemoryFile
from scipy import ndimage
from sklearn import metrics as sk

import pfmap
from pfmap.cli.main import cli
from pfmap.core.errors import PfmapError, SourceError, UsageError
from pfmap.evaluation import prediction
from pfmap.evaluation.comparison import FALSE_ALARM, MISSED, Comparison, Labels, Tally
from pfmap.evaluation.metrics import BOUNDARY_DISTANCES
from pfmap.raster import classmap

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

NORTH_UP = Affine(0.5, 0, 300000, 0, -0.5, 3000000)
NODATA = 255
NAMES = ("building", "road", "grass")


def write(path: Path, values: np.ndarray, names: tuple[str, ...] = (), **options: Any) -> Path:
    bands = values if values.ndim == 3 else values[None]
    settings: dict[str, Any] = {"driver": "GTiff", "crs": UTM, "transform": NORTH_UP, "nodata": NODATA}
    settings |= options
    path.parent.mkdir(exist_ok=True)
    with rasterio.open(
        path, "w", count=len(bands), height=bands.shape[1], width=bands.shape[2], dtype=bands.dtype,
        **{key: value for key, value in settings.items() if value is not None},
    ) as dst:  # fmt: skip
        dst.write(bands)
        if names:
            dst.update_tags(PFMAP_CLASSES=",".join(names))
    return path


def maps(height: int = 90, width: int = 110, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A prediction and a truth that differ here and there, each with some nodata of its own."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(2, 3, height, width))
    noise[1] = 0.9 * noise[0] + 0.45 * noise[1]
    predicted, truth = ndimage.gaussian_filter(noise, (0, 0, 3, 3)).argmax(axis=1).astype(np.uint8)
    predicted[:9, :20], truth[-12:, -30:] = NODATA, NODATA
    return predicted, truth


def boundary_f1(predicted: np.ndarray, truth: np.ndarray, klass: int, distance: int) -> float:
    """Plain scipy: inner boundaries, and the distance to the other one."""
    gone = (predicted == NODATA) | (truth == NODATA)
    four = ndimage.generate_binary_structure(2, 1)
    lines = [
        (codes == klass) & ~gone & ndimage.binary_dilation((codes != klass) & ~gone, four)
        for codes in (predicted, truth)
    ]
    near = [ndimage.distance_transform_edt(~line) <= distance for line in lines]
    precision, recall = near[1][lines[0]].mean(), near[0][lines[1]].mean()
    return float(2 * precision * recall / (precision + recall))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    predicted, truth = maps()
    return write(tmp_path / "map_classes.tif", predicted, NAMES), write(tmp_path / "truth.tif", truth, NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("rows_at_a_time", [1, 32, 10_000])
def test_all_figures_are_those_of_scikit_learn_and_scipy(
    pair: tuple[Path, Path], rows_at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classmap, "_PIXELS", rows_at_a_time * 110)
    predicted, truth = maps()
    found = pfmap.evaluate(*pair, objects=NAMES, min_object=1).figures
    counted = (predicted != NODATA) & (truth != NODATA)
    one, two = truth[counted], predicted[counted]
    assert [item.spec.name for item in found.classes] == list(NAMES)
    np.testing.assert_array_equal(found.confusion, sk.confusion_matrix(one, two))
    assert found.accuracy == pytest.approx(sk.accuracy_score(one, two))
    options: dict[str, Any] = {"average": None}
    figures = [(c.scores.iou, c.scores.f1, c.scores.precision, c.scores.recall) for c in found.classes]
    theirs = [
        f(one, two, **options) for f in (sk.jaccard_score, sk.f1_score, sk.precision_score, sk.recall_score)
    ]
    np.testing.assert_allclose(figures, np.transpose(theirs))
    assert found.mean.iou == pytest.approx(sk.jaccard_score(one, two, average="macro"))
    for k, item in enumerate(found.classes):
        expected = [boundary_f1(predicted, truth, k, distance) for distance in BOUNDARY_DISTANCES]
        np.testing.assert_allclose([match.f1 for match in item.boundary], expected)
        assert item.objects is not None
        four = ndimage.generate_binary_structure(2, 1)
        assert item.objects.truth == ndimage.label((truth == k) & counted, four)[1]
    assert found.labelled == (truth != NODATA).sum()
    assert found.unmapped == ((truth != NODATA) & (predicted == NODATA)).sum()


def test_only_tells_classes_from_the_rest(tmp_path: Path) -> None:
    predicted, truth = maps()
    one = write(tmp_path / "map.tif", predicted, NAMES)
    labels = np.where(truth == NODATA, 2, truth == 1).astype(np.uint8)  # 1 road, 0 not, 2 unknown
    two = write(tmp_path / "truth.tif", labels, nodata=None)
    found = pfmap.evaluate(one, two, mapping={"1": "road"}, ignore=("2",), only=("road",))
    counted = (predicted != NODATA) & (truth != NODATA)
    expected = sk.jaccard_score(truth[counted] == 1, predicted[counted] == 1)
    assert [item.spec.name for item in found.figures.classes] == ["road", "other"]
    assert found.figures.classes[0].scores.iou == pytest.approx(expected)
    assert found.figures.mean.iou == found.figures.classes[0].scores.iou


def test_truth_of_another_grid_is_taken_at_the_pixels_centres(tmp_path: Path) -> None:
    predicted, _ = maps()
    one = write(tmp_path / "map.tif", predicted, NAMES)
    coarse = np.random.default_rng(1).integers(0, 3, (20, 25)).astype(np.uint8)
    coarse[3:5, 4:9] = NODATA
    two = write(tmp_path / "truth.tif", coarse, NAMES, transform=Affine(1.5, 0, 300004.1, 0, -1.5, 2999993.3))
    x = 300000 + 0.5 * (np.arange(110) + 0.5)
    y = 3000000 - 0.5 * (np.arange(90) + 0.5)
    col, row = np.floor((x - 300004.1) / 1.5).astype(int), np.floor((2999993.3 - y) / 1.5).astype(int)
    inside = ((row >= 0) & (row < 20))[:, None] & ((col >= 0) & (col < 25))
    expected = np.where(inside, coarse[np.clip(row, 0, 19)[:, None], np.clip(col, 0, 24)], NODATA)
    counted = (expected != NODATA) & (predicted != NODATA)
    found = pfmap.evaluate(one, two).figures
    np.testing.assert_array_equal(found.confusion, sk.confusion_matrix(expected[counted], predicted[counted]))


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of rasterio's own arithmetic
def test_truth_of_another_crs_is_warped(pair: tuple[Path, Path], tmp_path: Path) -> None:
    from rasterio.warp import Resampling, calculate_default_transform, reproject

    with rasterio.open(pair[1]) as src:
        transform, width, height = calculate_default_transform(
            src.crs, "EPSG:3857", src.width, src.height, *src.bounds, resolution=0.05
        )
        warped = np.full((height, width), NODATA, dtype=np.uint8)
        reproject(
            rasterio.band(src, 1), warped, dst_transform=transform, dst_crs="EPSG:3857", dst_nodata=NODATA,
            resampling=Resampling.nearest,
        )  # fmt: skip
    there = write(tmp_path / "far.tif", warped, NAMES, crs="EPSG:3857", transform=transform)
    same, other = pfmap.evaluate(*pair).figures, pfmap.evaluate(pair[0], there).figures
    np.testing.assert_allclose(other.confusion, same.confusion, atol=0.01 * same.labelled)
    assert other.mean.iou == pytest.approx(same.mean.iou, abs=0.01)


def shapes_of(truth: np.ndarray) -> gpd.GeoDataFrame:
    found = list(features.shapes(truth, mask=truth != NODATA, transform=NORTH_UP))
    values = [NAMES[int(value)] for _, value in found]
    return gpd.GeoDataFrame(
        {"class": values}, geometry=[shapely.geometry.shape(s) for s, _ in found], crs=UTM
    )


@pytest.mark.parametrize("suffix", ["gpkg", "shp", "fgb", "geojson", "parquet"])
@pytest.mark.parametrize("crs", [None, 3857])
def test_polygons_are_as_good_as_their_raster(
    pair: tuple[Path, Path], tmp_path: Path, suffix: str, crs: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classmap, "_PIXELS", 16 * 110)
    frame = shapes_of(maps()[1])
    path = tmp_path / f"truth.{suffix}"
    frame = frame if crs is None else frame.to_crs(crs)
    if suffix == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_file(path)
    assert pfmap.evaluate(pair[0], path).figures.confusion == pfmap.evaluate(*pair).figures.confusion


def test_what_lies_outside_all_polygons_is_what_rest_says(tmp_path: Path) -> None:
    predicted, truth = maps()
    predicted[predicted == NODATA], truth[truth == NODATA] = 2, 2
    one = write(tmp_path / "map.tif", predicted, NAMES)
    frame = shapes_of(truth)
    frame[frame["class"] == "building"].drop(columns="class").to_file(tmp_path / "feet.gpkg", layer="feet")
    expected = sk.confusion_matrix((truth != 0).ravel(), (predicted != 0).ravel()).tolist()
    for layer in ("", ":feet"):
        found = pfmap.evaluate(one, f"{tmp_path / 'feet.gpkg'}{layer}", only=("building",)).figures
        assert [list(row) for row in found.confusion] == expected
    inside = pfmap.evaluate(one, tmp_path / "feet.gpkg", only=("building",), rest="ignore").figures
    assert inside.labelled == (truth == 0).sum()
    assert any("all building" in note for note in inside.notes)
    frame[frame["class"] != "grass"].to_file(tmp_path / "some.gpkg")
    found = pfmap.evaluate(one, tmp_path / "some.gpkg", rest="grass").figures
    np.testing.assert_array_equal(found.confusion, sk.confusion_matrix(truth.ravel(), predicted.ravel()))
    assert pfmap.evaluate(one, tmp_path / "some.gpkg").figures.labelled == (truth != 2).sum()


def test_odd_polygons_are_mended_left_out_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classmap, "_PIXELS", 16 * 100)  # each reaches several strips
    one = write(tmp_path / "map.tif", np.zeros((100, 100), np.uint8), NAMES)
    bow_tie = shapely.Polygon([(300005, 2999995), (300015, 2999985), (300015, 2999995), (300005, 2999985)])
    line = shapely.LineString([(300005, 2999975), (300015, 2999970)])
    far = shapely.box(400000, 3000000, 400010, 3000010)
    tall = shapely.box(300030, 2999950, 300040, 3000010)
    frame = gpd.GeoDataFrame(
        {"class": ["building", "road", "road", "building", None]},
        geometry=[bow_tie, line, far, tall, shapely.box(300045, 2999960, 300050, 2999970)], crs=UTM,
    )  # fmt: skip
    for name in ("odd.gpkg", "odd.geojson"):
        frame.to_file(tmp_path / name)
        found = pfmap.evaluate(one, tmp_path / name, only=("building",)).figures
        assert "warning: 1 invalid polygons were made valid" in found.notes
        assert "warning: 1 features without an area or a place were left out" in found.notes
        assert "warning: 1 features have no class: they do not count" in found.notes
        assert "1 of 5 features lie outside the scene" in found.notes
        building = found.classes[0]
        assert building.truth_pixels == pytest.approx(20 * 100 + 200, abs=40)
        assert found.labelled == 100 * 100 - 10 * 20


@pytest.mark.parametrize("suffix", ["gpkg", "fgb", "geojson"])
def test_later_polygons_lie_over_earlier_ones(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classmap, "_PIXELS", 16 * 64)
    one = write(tmp_path / "map.tif", np.zeros((64, 64), np.uint8), NAMES)
    rng = np.random.default_rng(0)
    start, size, values = rng.integers(0, 50, (60, 2)), rng.integers(3, 30, (60, 2)), rng.integers(0, 3, 60)
    painted = np.full((64, 64), NODATA, dtype=np.uint8)
    for (row, col), (high, wide), value in zip(start, size, values, strict=True):
        painted[row : row + high, col : col + wide] = value
    (top, left), (bottom, right) = start.T, (start + size).T
    shapes = shapely.box(300000 + left / 2, 3000000 - bottom / 2, 300000 + right / 2, 3000000 - top / 2)
    options = {"SPATIAL_INDEX": "NO"} if suffix == "fgb" else {}  # with one, FlatGeobuf reorders
    path = tmp_path / f"over.{suffix}"
    gpd.GeoDataFrame({"class": np.array(NAMES)[values]}, geometry=shapes, crs=UTM).to_file(path, **options)
    expected = [int((painted == k).sum()) for k in range(3)]
    assert [c.truth_pixels for c in pfmap.evaluate(one, path).figures.classes] == expected


def test_values_stand_for_names_where_one_side_has_none_and_that_is_said(tmp_path: Path) -> None:
    predicted, truth = maps()
    named, other = write(tmp_path / "map.tif", predicted, NAMES), write(tmp_path / "truth.tif", truth)
    expected = pfmap.evaluate(named, write(tmp_path / "named.tif", truth, NAMES)).figures
    for one, two in ((named, other), (write(tmp_path / "plain.tif", predicted), tmp_path / "named.tif")):
        said: list[str] = []
        found = pfmap.evaluate(one, two, on_message=said.append).figures
        assert found.confusion == expected.confusion
        assert found.labels == expected.labels == NAMES
        assert any("names no classes: its values are taken as those of" in line for line in said)
    plain = pfmap.evaluate(tmp_path / "plain.tif", other).figures
    assert plain.labels == ("0", "1", "2")
    assert plain.confusion == expected.confusion
    given = pfmap.evaluate(tmp_path / "plain.tif", tmp_path / "named.tif", names=dict(enumerate(NAMES)))
    assert given.figures.confusion == expected.confusion


def test_large_values_and_other_types_are_classes_too(tmp_path: Path) -> None:
    predicted, truth = maps()
    values = np.array([300, 20, 65535], dtype=np.int32)
    far = [np.where(codes == NODATA, -1, values[np.minimum(codes, 2)]) for codes in (predicted, truth)]
    one = write(tmp_path / "map.tif", far[0].astype(np.int32), nodata=-1)
    two = write(tmp_path / "truth.tif", far[1].astype(np.float32).astype(np.int32), nodata=-1)
    found = pfmap.evaluate(one, two).figures
    assert set(found.labels) == {"300", "20", "65535"}
    counted = (predicted != NODATA) & (truth != NODATA)
    assert found.accuracy == pytest.approx((predicted == truth)[counted].mean())


def test_folders_are_paired_by_name_and_counted_together(tmp_path: Path) -> None:
    total = np.zeros((3, 3), dtype=int)
    for k in range(3):
        predicted, truth = maps(40, 50, seed=k)
        write(tmp_path / "out" / f"chip{k}_classes.tif", predicted, NAMES)
        write(tmp_path / "out" / f"chip{k}_confidence.tif", np.full_like(predicted, 50 + k))
        write(tmp_path / "masks" / f"chip{k}.png", truth, driver="PNG", crs=None, transform=None, nodata=None)
        counted = (predicted != NODATA) & (truth != NODATA)
        total += sk.confusion_matrix(truth[counted], predicted[counted])
    result = pfmap.evaluate(tmp_path / "out", tmp_path / "masks")
    np.testing.assert_array_equal(result.figures.confusion, total)
    assert result.figures.calibration is not None
    assert result.figures.calibration.pixels.sum() == total.sum()
    assert not result.picture


def test_calibration_is_that_of_the_confidence_beside(pair: tuple[Path, Path], tmp_path: Path) -> None:
    predicted, truth = maps()
    percent = np.random.default_rng(2).integers(30, 101, predicted.shape).astype(np.uint8)
    percent[predicted == NODATA] = NODATA
    path = write(tmp_path / "map_confidence.tif", percent)
    result = pfmap.evaluate(*pair)
    assert result.confidence == str(path)
    counted = (predicted != NODATA) & (truth != NODATA)
    confidence, right = percent[counted] / 100, (predicted == truth)[counted]
    number = np.ceil(percent[counted] / 5).astype(int)
    error = sum(
        (number == k).mean() * abs(confidence[number == k].mean() - right[number == k].mean())
        for k in np.unique(number)
    )
    assert result.figures.calibration is not None
    assert result.figures.calibration.error == pytest.approx(error)
    # With --only, the confidence of the others is not that of "other": only the chosen class is measured.
    only = pfmap.evaluate(*pair, only=("road",)).figures.calibration
    assert only is not None
    assert only.pixels.sum() == (counted & (predicted == 1)).sum()


def test_the_map_of_errors_shows_each_kind_and_stays_small(tmp_path: Path) -> None:
    predicted = np.zeros((2, 4), np.uint8)
    truth = np.array([[0, 0, 1, 1], [NODATA, 0, 0, 1]], np.uint8)
    one, two = write(tmp_path / "m.tif", predicted, NAMES), write(tmp_path / "t.tif", truth, NAMES)
    with MemoryFile(pfmap.evaluate(one, two, only=("building",)).picture) as file, file.open() as src:
        pixels = src.read()
    colors = {"#" + bytes(pixels[:, row, col].tolist()).hex() for row, col in ((0, 2), (0, 3), (1, 3))}
    assert colors == {FALSE_ALARM}
    assert pixels[:, 1, 0].tolist() == [255, 255, 255]
    swapped = pfmap.evaluate(two, one, only=("building",)).picture
    with MemoryFile(swapped) as file, file.open() as src:
        assert bytes(src.read()[:, 0, 2].tolist()).hex() == MISSED[1:]
    labels = Labels(())
    comparison = Comparison(7000, 4000, labels, Tally(), (), labels.colors())
    codes = np.zeros((1000, 4000), np.uint8)
    for _ in range(7):
        comparison.add(codes, codes, None)
    assert comparison.picture().shape == (2334, 1334, 3)
    assert (comparison.picture() == labels.colors()[0, 0]).all()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a file that is missing": ({"truth": "nothing.tif"}, "does not exist"),
    "a float raster": ({"prediction": "float.tif"}, "float32 values; classes are whole numbers"),
    "several bands": ({"prediction": "rgb.tif"}, "3 bands; a class raster has one: take one with"),
    "several bands in the truth": ({"truth": "rgb.tif"}, "3 bands; a class raster has one"),
    "another place": ({"truth": "far.tif"}, "do not overlap"),
    "polygons elsewhere": ({"truth": "far.gpkg"}, "do not overlap: none of its features"),
    "another size without a place": ({"truth": "small.png"}, "5 x 4 pixels"),
    "classes outside the list": ({"truth": "more.tif"}, "classes that"),
    "values outside the list": ({"truth": "values.tif"}, "does not have: 7"),
    "polygon classes outside the list": ({"truth": "more.gpkg"}, "does not have: lake"),
    "an unknown class": ({"only": ("house",)}, "class 'house' is unknown"),
    "a class that is no text": ({"only": ("\udce4",)}, "class '\udce4' is unknown"),
    "the rest as a choice": ({"only": ("other",)}, "name the classes themselves"),
    "unknown objects": ({"objects": ("house",)}, "class 'house' is unknown"),
    "nothing labelled": ({"truth": "void.tif"}, "no label"),
    "nothing predicted": ({"prediction": "void.tif", "names": dict(enumerate(NAMES))}, "nodata wherever"),
    "no common class": ({"prediction": "plain.tif", "truth": "tens.tif"}, "0, 1, 2 against 10, 20"),
    "a field that is missing": ({"truth": "more.gpkg", "field": "kind"}, "no field 'kind'"),
    "polygons without a class": ({"truth": "feet.gpkg"}, "has no field class: name the field with field="),
    "a table": ({"truth": "empty.gpkg"}, "has no features"),
    "a field of a raster": ({"field": "class"}, "field= and rest= are for polygons"),
    "the rest of nothing": ({"truth": "more.gpkg", "rest": "other", "ignore": ("lake",)}, "needs only="),
    "confidence of another size": ({"confidence": "small.png"}, "give the confidence of the same map"),
    "confidence that is none": ({"confidence": "loud.tif"}, "has the value 200: percent"),
    "a folder and a file": ({"truth": "empty"}, "give two files, or two folders"),
    "an empty folder": ({"prediction": "full", "truth": "empty"}, "has no raster"),
    "folders that do not match": ({"prediction": "full", "truth": "other"}, "no partner"),
    "a damaged raster": ({"truth": "broken.tif"}, "not a raster that GDAL can open"),
    "a damaged shapefile": ({"truth": "cut.shp"}, "cut.shp cannot be read (.shp file is unreadable"),
    "a web page": ({"truth": "page.gpkg"}, "not a raster that GDAL can open (it is a web page"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_one_line(pair: tuple[Path, Path], tmp_path: Path, case: str) -> None:
    predicted, truth = maps()
    write(tmp_path / "float.tif", predicted.astype(np.float32))
    write(tmp_path / "rgb.tif", np.stack([predicted] * 3))
    write(tmp_path / "far.tif", truth, NAMES, transform=Affine(0.5, 0, 400000, 0, -0.5, 3000000))
    write(tmp_path / "small.png", truth[40:44, 40:45], driver="PNG", crs=None, transform=None, nodata=None)
    write(tmp_path / "more.tif", truth, ("building", "lake", "grass"))
    write(tmp_path / "values.tif", np.where(truth == 1, 7, truth).astype(np.uint8))
    write(tmp_path / "void.tif", np.full_like(truth, NODATA))
    write(tmp_path / "plain.tif", predicted)
    write(tmp_path / "tens.tif", np.where(truth == 1, 10, 20).astype(np.uint8))
    write(tmp_path / "loud.tif", np.full_like(truth, 200))
    frame = shapes_of(truth)
    frame.translate(100_000).to_frame("geometry").assign(**{"class": "road"}).to_file(tmp_path / "far.gpkg")
    frame.replace("road", "lake").to_file(tmp_path / "more.gpkg")
    frame[["geometry"]].to_file(tmp_path / "feet.gpkg")
    frame.to_file(tmp_path / "cut.shp")
    os.truncate(tmp_path / "cut.shp", 60)
    (tmp_path / "page.gpkg").write_text("<!doctype html>")
    frame[:0].to_file(tmp_path / "empty.gpkg")
    (tmp_path / "empty").mkdir()
    write(tmp_path / "full" / "a.tif", predicted)
    write(tmp_path / "other" / "b.tif", predicted)
    write(tmp_path / "broken.tif", truth, NAMES)
    content = (tmp_path / "broken.tif").read_bytes()
    (tmp_path / "broken.tif").write_bytes(content[: len(content) // 2])
    options, message = REFUSED[case]
    options = dict(options)
    paths = {"prediction": pair[0], "truth": pair[1], "confidence": None}
    for name in paths:
        if name in options:
            paths[name] = tmp_path / options.pop(name)
    with pytest.raises((SourceError, UsageError), match=message.replace("(", r"\(")) as caught:
        pfmap.evaluate(paths["prediction"], paths["truth"], confidence=paths["confidence"], **options)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, PfmapError)


def test_a_scene_without_a_place_is_compared_pixel_by_pixel(tmp_path: Path) -> None:
    predicted, truth = maps()
    one = write(tmp_path / "map.tif", predicted, NAMES)
    two = write(tmp_path / "t.png", truth, driver="PNG", crs=None, transform=None, nodata=None)
    said: list[str] = []
    found = pfmap.evaluate(one, two, on_message=said.append).figures
    expected = pfmap.evaluate(one, write(tmp_path / "t.tif", truth)).figures
    assert found.confusion == expected.confusion
    assert any("pixel by pixel" in line for line in said)


def test_truth_in_a_file_geodatabase_is_no_folder_of_rasters(pair: tuple[Path, Path], tmp_path: Path) -> None:
    shapes_of(maps()[1]).to_file(tmp_path / "truth.gdb", driver="OpenFileGDB", layer="labels")
    expected = pfmap.evaluate(*pair).figures.confusion
    assert pfmap.evaluate(pair[0], tmp_path / "truth.gdb").figures.confusion == expected
    with pytest.raises(SourceError, match="has no raster"):
        pfmap.evaluate(tmp_path, tmp_path / "truth.gdb")


def test_truth_that_reaches_over_a_part_says_so(tmp_path: Path) -> None:
    predicted, truth = maps()
    one = write(tmp_path / "map.tif", predicted, NAMES)
    half = NORTH_UP @ Affine.translation(55, 0)
    (note,) = pfmap.evaluate(one, write(tmp_path / "t.tif", truth, NAMES, transform=half)).figures.notes
    assert note.endswith("t.tif reaches over 50% of " + f"{one}: the rest does not count")


def test_a_mask_of_0_and_255_is_warned_of(tmp_path: Path) -> None:
    predicted, truth = maps()
    mask = write(tmp_path / "t.tif", np.where(truth == 1, 255, 0).astype(np.uint8), nodata=None)
    notes = pfmap.evaluate(write(tmp_path / "map.tif", predicted, NAMES), mask).figures.notes
    assert any("its pixels of 255 do not count: mapping= says which class they are" in note for note in notes)


def test_a_page_that_cannot_be_written_is_refused_before_anything_is_compared(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction, "find_pairs", lambda *_: pytest.fail("it began"))
    done = CliRunner().invoke(cli, ["evaluate", *map(str, pair), "--html", str(tmp_path / ("x" * 300))])
    assert (done.exit_code, "could not be written to" in str(done.exception)) == (1, True)
    assert "output_dir" not in str(done.exception)


def test_a_folder_with_a_name_that_is_no_text_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xff")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system has no such names")
    pair[0].rename(folder / "a.tif")
    with pytest.raises(SourceError, match="its name is not utf-8: rename it"):
        pfmap.evaluate(folder, folder)


def test_truth_of_one_class_is_warned_of(tmp_path: Path) -> None:
    predicted, truth = maps()
    one = write(tmp_path / "map.tif", predicted, NAMES)
    said: list[str] = []
    pfmap.evaluate(one, write(tmp_path / "t.tif", np.ones_like(truth), NAMES), on_message=said.append)
    assert any("warning: the truth is all road" in line for line in said)


def test_labels_that_touch_no_other_class_say_nothing_of_boundaries(tmp_path: Path) -> None:
    predicted, _ = maps()
    truth = np.full_like(predicted, NODATA)
    truth[12:30, 5:30], truth[40:60, 40:90], truth[40:60, 90:105] = 0, 1, 2
    one, two = write(tmp_path / "m.tif", predicted, NAMES), write(tmp_path / "t.tif", truth, NAMES)
    found = pfmap.evaluate(one, two, objects=NAMES).figures
    building, road, grass = found.classes
    assert building.objects is None
    assert np.isnan(building.boundary[0].f1)
    assert road.objects is not None
    assert found.boundary[0].recall == pytest.approx(
        np.mean([road.boundary[0].recall, grass.boundary[0].recall])
    )
    assert any("building: labels touch no other class" in note for note in found.notes)


class Page(HTMLParser):
    """Checks that tags are balanced, and gathers what tests look at."""

    VOID = frozenset({"meta", "img", "rect", "line", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID or tag == "rect":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_and_says_what_the_json_says(pair: tuple[Path, Path], tmp_path: Path) -> None:
    write(tmp_path / "map_confidence.tif", np.full((90, 110), 70, np.uint8))
    arguments = [
        "evaluate",
        *map(str, pair),
        "--objects",
        "building,road",
        "--html",
        str(tmp_path / "a & b.html"),
    ]
    done = CliRunner().invoke(cli, [*arguments, "--json", "-q"])
    assert done.exit_code == 0, done.output
    table = json.loads(done.stdout)
    html = (tmp_path / "a & b.html").read_text()
    page = Page()
    page.feed(html)
    assert not page.open
    names = [tag for tag, _ in page.tags]
    assert names.count("table") == names.count("caption") == 4
    assert all(attrs.get("scope") in {"row", "col"} for tag, attrs in page.tags if tag == "th")
    assert not {"script", "link", "iframe"} & set(names)
    assert all("http" not in str(value) for _, attrs in page.tags for value in attrs.values())
    objects, errors = (attrs for tag, attrs in page.tags if tag == "img")
    for image in (objects, errors):
        assert image["alt"]
        kind, _, data = str(image["src"]).partition(",")
        assert kind == "data:image/png;base64"
        with MemoryFile(base64.b64decode(data)) as file, file.open() as src:
            assert (src.width, src.height) == (110, 90)
    svg = next(attrs for tag, attrs in page.tags if tag == "svg")
    assert svg["role"] == "img"
    assert svg["aria-label"]
    for item in table["classes"]:
        assert all(f"{item[key]:.4f}" in page.text for key in ("iou", "f1", "precision", "recall"))
    for row in table["confusion"]["pixels"]:
        assert all(f"{count:,}" in page.text for count in row)
    for item in table["boundary"]["classes"]:
        assert all(f"{value:.4f}" in page.text for value in item["f1"])
    assert [item["class"] for item in table["objects"]] == ["building", "road"]
    assert f"{table['calibration']['expected_error']:.4f}" in page.text


def test_the_command_prints_a_table_and_its_usage_errors(pair: tuple[Path, Path]) -> None:
    done = CliRunner().invoke(
        cli, ["evaluate", *map(str, pair), "--map", "road=grass", "--ignore", "building"]
    )
    assert done.exit_code == 0, done.output
    words = [line.split() for line in done.stdout.splitlines() if line]
    assert words[0][:5] == ["class", "IoU", "F1", "precision", "recall"]
    by_name = {line[0]: line for line in words}
    assert by_name["road"][1:3] == ["0.0000", "0.0000"]
    assert by_name["building"][-1] == "0"
    assert float(by_name["grass"][1]) > 0.2
    for arguments in (
        ["evaluate", str(pair[0])],
        ["evaluate", *map(str, pair), "--model", "landcover", "--data", "x.toml"],
        ["evaluate", "--model", "landcover"],
        ["evaluate", *map(str, pair), "--part", "training"],
        ["evaluate", *map(str, pair), "--map", "road"],
        ["evaluate", *map(str, pair), "--html", "nowhere/page.html"],
    ):
        assert CliRunner().invoke(cli, arguments).exit_code == 2, arguments
