"""The examples run, and the default model does what its card says on them."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
import torch
from affine import Affine
from chips import make_data, scene
from conftest import shared

import pfmap
from examples import compare_peers, leave_out, self_train, survey_python
from pfmap.model.store import write_model
from pfmap.train.config import read_config
from pfmap.train.loop import train

ROOT = Path(__file__).parents[1]
ENVIRONMENT_BIN = Path(sys.executable).parent


def alone(home: Path) -> dict[str, str]:
    """Say nothing to an example but where programs are, and as many threads as tests beside others get.

    Threads wait for each other in a loop: where tests keep the cores busy, two take much more time than one.
    """
    threads = {name: value for name, value in os.environ.items() if name == "OMP_NUM_THREADS"}
    return {"PATH": f"{ENVIRONMENT_BIN}:/usr/bin:/bin", "HOME": str(home), **threads}


@pytest.fixture
def crop(tmp_path: Path) -> Path:
    """A quarter of the demo orthophoto, to keep the examples short."""
    path = tmp_path / "crop.tif"
    with rasterio.open(ROOT / "examples" / "banepa.tif") as src:
        image = src.read(window=((1024, 2048), (0, 1024)))
        transform = src.transform @ Affine.translation(0, 1024)
        profile = {"driver": "GTiff", "width": 1024, "height": 1024, "count": 3, "dtype": "uint8"}
        with rasterio.open(path, "w", **profile, crs=src.crs, transform=transform) as dst:
            dst.write(image)
    return path


@pytest.mark.slow
def test_the_command_line_example_runs(crop: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = subprocess.run(
        ["bash", "examples/predict_cli.sh", str(crop), str(out)],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env=alone(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    frame = gpd.read_file(out / "crop_objects.gpkg", layer="objects")
    assert set(frame["class"]) == {"building"}
    assert frame["area_m2"].min() >= 10
    assert len(gpd.read_file(out / "crop_objects.shp")) == len(frame)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_places_are_left_out_in_turn_and_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_data(tmp_path)
    more = ["--config", f"{tmp_path}/train.toml", "--places", "partial", "--steps", "2", "--encoder", ""]
    for _ in range(2):  # the second time nothing is trained
        leave_out.main([str(tmp_path), str(tmp_path / "out"), *more])
    printed = capsys.readouterr().out
    assert printed.count("trained") == 2
    assert printed.count("| partial | 0.") == 2
    here, all_ = (pfmap.load_model(tmp_path / "out" / name).card for name in ("partial", "all"))
    assert {key.split("_")[0] for key in here.accuracy if key.endswith("mean_iou")} == {"whole"}
    assert {key.split("_")[0] for key in all_.accuracy if key.endswith("mean_iou")} == {"whole", "partial"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_model_learns_from_itself_what_labels_leave_open(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = make_data(tmp_path) / "train.toml"
    file.write_text(file.read_text().replace("[96, 128]", "[32, 64]"))  # in the midst of what is learned
    config = read_config(file)
    config = replace(config, training=replace(config.training, steps=2))
    train(config, tmp_path, tmp_path / "start")
    model = pfmap.load_model(tmp_path / "start")
    with torch.no_grad():
        model.network.classify.bias[1] += 100  # grass, all of it
    write_model(tmp_path / "start", model.card, model.network)
    start = ["--config", str(file), "--model", f"{tmp_path}/start", "--open", "partial"]
    for _ in range(2):  # the second time nothing is done
        self_train.main([str(tmp_path), str(tmp_path / "out"), *start, "--steps", "2", "--sure", "0"])
    assert capsys.readouterr().out.count("wrote") == 1
    with rasterio.open(tmp_path / "out/labels/partial/scene.png") as src:
        made = src.read(1)
    _, classes = scene(96, 128, 9)
    told = classes == 0
    told[10:14] |= classes[10:14] == 2
    told[:, 32:64] = True  # held out
    np.testing.assert_array_equal(made, np.where(told, 255, 1))
    before, after = (
        pfmap.load_model(tmp_path / name).network.state_dict() for name in ("start", "out/model")
    )
    assert not any(torch.equal(before[name], after[name]) for name in before if name.endswith("running_mean"))


@pytest.mark.slow
def test_the_survey_example_maps_one_map_of_its_sheets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    survey_python.main(str(tmp_path))
    printed = capsys.readouterr().out
    assert "damaged: " in printed
    assert "1 of 5 scenes failed" in printed
    maps = tmp_path / "maps"
    with rasterio.open(maps / "survey_classes.vrt") as src:
        assert src.shape == (3100, 1024)
        assert (src.read(1) != 255).all()
    layer = gpd.read_file(maps / "survey_objects.gpkg", layer="objects")
    # Where sheets meet at row 1100, and 1000 overlaps: some buildings lie on both sides.
    with rasterio.open(ROOT / "examples" / "banepa.tif") as src:
        _, border = src.transform @ (0, 1100)
    across = (layer.bounds["miny"] < border - 1) & (layer.bounds["maxy"] > border + 1)
    assert "building" in set(layer[across]["class"])
    report = json.loads((maps / "survey_report.json").read_text())
    total = layer.groupby("class")["object_id"].count()
    assert {row["class"]: row["objects"] for row in report["classes"] if row["objects"]} == total.to_dict()


@pytest.mark.slow
def test_the_comparison_with_peers_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the peers: they are installed from the network."""
    monkeypatch.setattr(compare_peers, "install", lambda *_args: None)
    monkeypatch.setattr(sys, "argv", ["compare_peers", str(tmp_path), "--size", "500x400", "--runs", "1"])
    compare_peers.main()
    header, row = capsys.readouterr().out.splitlines()[-2:]
    assert "pixels that differ" in header
    assert row.split()[0] == "pfmap"
    assert row.split()[-1] == "0.0%"
    assert (tmp_path / "model.onnx").is_file()


@pytest.mark.slow
def test_the_example_of_a_part_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "examples/map_part.sh", "examples/banepa.tif", str(tmp_path / "out")],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env=alone(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "windows  6 of 6" in done.stdout
    with rasterio.open(tmp_path / "out" / "banepa_classes.tif") as src:
        assert src.shape == (661, 721)
        assert 0.3 < (src.read(1) == 255).mean() < 0.5


@pytest.mark.slow
def test_the_fine_tuning_example_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "examples/finetune.sh", str(tmp_path / "mine"), "1"],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env=alone(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, after = done.stdout.split("\nafter:\n")
    for part in (before, after):
        building = next(line.split() for line in part.splitlines() if line.startswith("building "))
        assert float(building[1]) > 0.4
    assert pfmap.load_model(tmp_path / "mine").card.provenance.attribution.endswith("(ODbL)")


@pytest.mark.slow
def test_the_example_of_a_correction_runs(tmp_path: Path) -> None:
    scene = tmp_path / "part.tif"
    with rasterio.open(ROOT / "examples" / "banepa.tif") as src:
        profile = src.profile | {"width": 512, "height": 512, "transform": src.transform}
        with rasterio.open(scene, "w", **profile) as dst:
            dst.write(src.read(window=((0, 512), (0, 512))))
    done = subprocess.run(
        ["bash", "examples/review.sh", str(scene), str(tmp_path / "out"), "1", "40"],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env=alone(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    listed = gpd.read_file(tmp_path / "out" / "review.gpkg", layer="objects")
    checked = listed["checked"]
    changed = int((checked & (listed["class"] != listed["was"])).sum())
    said = f"looked at {len(listed)} objects, checked {checked.sum()}, changed the class of {changed}"
    assert said in done.stdout
    assert 0 < checked.sum() < len(listed)
    figures = [line.split() for line in done.stdout.splitlines() if line.startswith("building ")]
    all_before, elsewhere_before, all_after, elsewhere_after = (row for row in figures if len(row) == 10)
    for everything, elsewhere in ((all_before, elsewhere_before), (all_after, elsewhere_after)):
        assert float(everything[1]) > 0.4
        assert int(elsewhere[-1].replace(",", "")) < int(everything[-1].replace(",", ""))


@pytest.mark.slow
def test_the_python_example_runs(crop: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.predict_python", str(crop), str(tmp_path / "out")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "sure buildings" in done.stdout
    assert "landcover (1, 6, 256, 256)" in done.stdout


@pytest.mark.slow
@pytest.mark.golden
def test_the_demo_scene_is_mapped_as_well_as_the_card_says(tmp_path: Path) -> None:
    """Measured through the product: JPEG scene in, class raster out, against footprints and sparse labels."""
    result = pfmap.predict(ROOT / "examples" / "banepa.tif", tmp_path, device="cpu", formats=("gpkg",))
    with rasterio.open(result.outputs["classes"]) as src:
        predicted = src.read(1)
    with rasterio.open(shared("data/banepa/labels.tif")) as src:
        building = src.read(1)[:, 2048:]
    with rasterio.open(shared("data/banepa/sparse.tif")) as src:
        sparse = src.read(1)[:, 2048:]
    hit = np.count_nonzero((building == 1) & (predicted == 0))
    union = np.count_nonzero((building == 1) | ((predicted == 0) & (building == 0)))
    assert hit / union >= 0.75
    sure = sparse != 255
    assert (predicted[sure] == sparse[sure]).mean() >= 0.88


def test_the_page_of_the_default_model_says_what_its_card_says() -> None:
    card = pfmap.load_model("landcover").card
    text = (ROOT / "models" / "landcover" / "README.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    head, *held_out = (row for row in rows if len(row) == len(rows[0]))
    assert head[1:6] == [spec.name for spec in card.classes]
    assert [row[0] for row in held_out] == [
        "dubai",
        "banepa",
        "kampala",
        "newzealand",
        "monterey",
        "flair",
        "zanzibar",
        "obx",
    ]
    for source, *figures in held_out:
        keys = [*(f"{spec.name}_iou" for spec in card.classes), "mean_iou", "accuracy"]
        wanted = [card.accuracy.get(f"{source}_{key}") for key in keys]
        assert figures[:7] == ["-" if value is None else f"{value:.3f}" for value in wanted]


@pytest.mark.slow
@pytest.mark.parametrize(("separate", "share"), [(("none",), 0.9), (None, 0.85)])
def test_outlines_of_real_buildings_lose_their_steps_and_nothing_else(
    separate: tuple[str, ...] | None, share: float, tmp_path: Path
) -> None:
    """The default simplification on the demo scene: a quarter of the vertices, and the same shapes."""
    scene = ROOT / "examples" / "banepa.tif"
    steps = pfmap.predict(
        scene, tmp_path / "steps", device="cpu", confidence=False, simplify=0, min_area=0, separate=separate
    )
    smooth = pfmap.vectorize(steps.outputs["classes"], tmp_path / "smooth")
    before, after = (
        gpd.read_file(result.outputs["gpkg"], layer="objects").sort_values("object_id", ignore_index=True)
        for result in (steps, smooth)
    )
    assert before["object_id"].tolist() == after["object_id"].tolist()
    assert after.geometry.is_valid.all()
    areas = [frame.groupby("class")["area_m2"].sum() for frame in (before, after)]
    large = areas[0] > 100  # of water there is next to none
    np.testing.assert_allclose(areas[1][large], areas[0][large], rtol=0.005)
    assert large.sum() == 4
    assert areas[1].sum() == pytest.approx(areas[0].sum(), rel=1e-6)
    building = (before["class"] == "building").to_numpy()
    first, second = (frame.geometry.array[building] for frame in (before, after))
    count = shapely.get_num_coordinates
    assert count(first).sum() >= 4 * count(second).sum()
    with rasterio.open(steps.outputs["classes"]) as src:
        pixel = src.transform.a
    assert shapely.hausdorff_distance(np.asarray(first), np.asarray(second)).max() <= 1.5 * pixel

    square = pfmap.vectorize(steps.outputs["classes"], tmp_path / "square", regularize=("building",))
    squares = gpd.read_file(square.outputs["gpkg"], layer="objects").sort_values(
        "object_id", ignore_index=True
    )
    assert squares["object_id"].tolist() == after["object_id"].tolist()
    assert squares.geometry.is_valid.all()
    whole = building & ~after["touches_edge"] & (after["area_m2"] >= 10)
    old, new = (np.asarray(frame.geometry.array[whole]) for frame in (after, squares))
    common = shapely.area(shapely.intersection(old, new))
    assert (common / (shapely.area(old) + shapely.area(new) - common)).min() >= 0.85 - 1e-6
    squared = ~shapely.equals_exact(old, new, 1e-6)
    assert squared.mean() >= share  # fewer in rows, which are squared together
    assert count(new).sum() <= 0.7 * count(old).sum()
    assert squares[~building].geometry.geom_equals(after[~building].geometry).all()
    shapes = np.asarray(squares.geometry.array[building])
    one, other = shapely.STRtree(shapes).query(shapes, "overlaps")
    assert shapely.area(shapely.intersection(shapes[one], shapes[other])).max(initial=0) < 1e-3
