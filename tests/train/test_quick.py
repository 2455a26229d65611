"""`pfmap train IMAGES --labels`: what users have becomes a configuration, and a model."""

import dataclasses
import tomllib
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine
from commands import forked
from shapely.affinity import affine_transform
from shapely.geometry import box

import pfmap
from pfmap.core.errors import TrainingError
from pfmap.model.store import Model
from pfmap.train.config import parse_config, read_config
from pfmap.train.data import load_data
from pfmap.train.loop import train
from pfmap.train.quick import QuickOptions, quick_config, quick_tables

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

CRS = "EPSG:32645"
TRANSFORM = Affine(0.2, 0, 500_000, 0, -0.2, 3_060_000)


def write(path: Path, array: np.ndarray, placed: bool = True) -> Path:
    path.parent.mkdir(exist_ok=True)
    count, height, width = array.shape
    where = {"crs": CRS, "transform": TRANSFORM} if placed else {}
    driver = "GTiff" if path.suffix == ".tif" else "PNG"
    with rasterio.open(
        path, "w", driver=driver, count=count, height=height, width=width, dtype="uint8", **where
    ) as dst:
        dst.write(array)
    return path


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """Bright squares on dark ground, drawn as polygons."""
    rng = np.random.default_rng(0)
    image = rng.integers(20, 60, (3, 768, 768), dtype=np.uint8)
    roofs = []
    for _ in range(60):
        x, y = rng.integers(0, 720, 2).tolist()
        image[:, y : y + 40, x : x + 40] += 150
        roofs.append(box(x, y, x + 40, y + 40))
    placed = [
        affine_transform(r, [*TRANSFORM[:2], *TRANSFORM[3:5], TRANSFORM[2], TRANSFORM[5]]) for r in roofs
    ]
    gpd.GeoDataFrame({"what": ["building"] * 60}, geometry=placed, crs=CRS).to_file(tmp_path / "roofs.gpkg")
    return write(tmp_path / "scene.tif", image)


@pytest.fixture(scope="module")
def landcover() -> Model:
    return pfmap.load_model("landcover")


def test_polygons_of_one_class_keep_the_models_classes_and_exclude_it_outside(
    scene: Path, landcover: Model
) -> None:
    options = QuickOptions(scene, str(scene.with_name("roofs.gpkg")), field="what")
    tables = quick_tables(options, landcover, "mine")
    assert parse_config(tables, Path("train.toml")).card.classes == landcover.card.classes
    assert landcover.card.learned
    assert "learned" not in tables  # it is of other images
    assert landcover.card.classes[0].min_area == 4
    (source,) = tables["sources"]
    assert source["layers"][0]["rest"] == ["bare_ground", "road", "vegetation", "water"]
    assert tables["architecture"]["encoder"] == "efficientnet_lite0"


def test_a_new_class_alone_is_told_from_everything_else(scene: Path, landcover: Model) -> None:
    options = QuickOptions(scene, str(scene.with_name("roofs.gpkg")), field="what", classes=("building",))
    tables = quick_tables(options, landcover, "mine")
    assert [(c["name"], c["background"]) for c in tables["classes"]] == [("building", False), ("other", True)]
    assert tables["sources"][0]["layers"][0]["rest"] == ["other"]


def test_masks_take_their_names_in_the_order_of_values(tmp_path: Path, landcover: Model) -> None:
    for k in range(3):
        write(tmp_path / "images" / f"{k}.png", np.zeros((3, 64, 64), np.uint8), placed=False)
        write(tmp_path / "masks" / f"{k}.png", np.full((1, 64, 64), (0, 1, 255)[k], np.uint8), placed=False)
    options = QuickOptions(tmp_path / "images", str(tmp_path / "masks"), classes=("ground", "solar_panel"))
    tables = quick_tables(options, landcover, "mine")
    (layer,) = tables["sources"][0]["layers"]
    assert layer["values"] == {"0": "ground", "1": "solar_panel"}
    assert [c["name"] for c in tables["classes"]] == ["ground", "solar_panel"]


def test_folders_may_have_any_name(tmp_path: Path, landcover: Model) -> None:
    folder = tmp_path / "flight [2]* {stem}"
    write(folder / "a.png", np.zeros((3, 64, 64), np.uint8), placed=False)
    mask = np.zeros((1, 64, 64), np.uint8)
    mask[:, 10:30] = 1
    (tmp_path / "masks").mkdir()
    write(tmp_path / "masks" / "a.png", mask, placed=False)
    options = QuickOptions(folder, str(tmp_path / "masks"), classes=("x", "y"), validation=0.0)
    config = quick_config(options, landcover, tmp_path / "model")
    (sample,) = load_data(config, tmp_path).sources[0].train
    assert np.unique(sample.read()[1]).tolist() == [1, 2]


def test_bad_data_is_refused_in_one_line_before_anything_is_written(
    tmp_path: Path, scene: Path, landcover: Model
) -> None:
    def message(**changed: object) -> str:
        options = QuickOptions(**{"images": scene, "labels": str(tmp_path / "roofs.gpkg"), **changed})
        with pytest.raises(pfmap.PfmapError) as caught:
            quick_config(options, landcover, tmp_path / "model")
        assert not (tmp_path / "model").exists()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    (tmp_path / "empty").mkdir()
    assert "does not exist: name a raster, a folder of images, or a configuration" in message(
        images=tmp_path / "gone.tif"
    )
    assert "has no image (.bmp" in message(images=tmp_path / "empty")
    assert "does not exist: name a raster, a folder of masks, or polygons" in message(
        labels=str(tmp_path / "gone.gpkg")
    )
    assert "has no field 'kind'" in message(field="kind")
    assert "has no column class: choose one with field=" in message()
    assert "has classes building, which classes= does not name" in message(
        field="what", classes=("tree", "pond")
    )
    assert "rest= names pond, which is no class" in message(field="what", rest=("pond",))
    write(tmp_path / "images" / "a.png", np.zeros((3, 64, 64), np.uint8), placed=False)
    write(tmp_path / "images" / "b.png", np.zeros((3, 64, 64), np.uint8), placed=False)
    write(tmp_path / "masks" / "a.png", np.full((1, 64, 64), 7, np.uint8), placed=False)
    masks = {"images": tmp_path / "images", "labels": str(tmp_path / "masks")}
    assert "has no mask for 1 of 2 images, such as b" in message(**masks)
    write(tmp_path / "masks" / "b.png", np.zeros((1, 64, 64), np.uint8), placed=False)
    assert "holds the values 7, but there are 5 classes" in message(**masks)
    assert "has no mask" in message(images=tmp_path / "images", labels=str(tmp_path / "empty"))
    write(tmp_path / "images" / "c.tif", np.zeros((3, 64, 64), np.uint8))
    assert "images of several kinds (.png, .tif)" in message(**masks)
    assert "has no mask for 1 of 1 images, such as scene" in message(labels=str(tmp_path / "masks"))


@pytest.mark.slow
def test_the_command_fine_tunes_on_an_orthophoto_and_the_model_maps_it(scene: Path) -> None:
    folder = scene.parent
    done = forked(
        "train", scene, "--labels", folder / "roofs.gpkg", "--field", "what", "--classes", "building,other",
        "--rest", "other", "--steps", 2, "-o", folder / "mine", "--attribution", "Me", "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "building 0." in done.stdout
    model = pfmap.load_model(folder / "mine")
    assert 0 < model.card.accuracy["scene_building_iou"] < 1
    assert model.card.provenance.attribution.endswith("; Me")
    assert model.card.input.gsd == (0.05, 2.0)
    # The configuration beside it is what was run, and can be run again.
    config = read_config(folder / "mine" / "train.toml")
    assert config.training.steps == 2
    assert tomllib.loads((folder / "mine" / "train.toml").read_text())["training"]["start_from"]
    again = forked("train", folder / "mine" / "train.toml", "-o", folder / "again", "--device", "cpu")
    assert again.returncode == 0, again.stderr
    assert (folder / "again" / "weights.safetensors").read_bytes() == (
        folder / "mine" / "weights.safetensors"
    ).read_bytes()
    mapped = forked("predict", scene, "-m", folder / "mine", "-o", folder / "maps", "--no-confidence")
    assert mapped.returncode == 0, mapped.stderr


@pytest.mark.slow
def test_fine_tuning_learns_what_the_polygons_show(scene: Path, landcover: Model, tmp_path: Path) -> None:
    options = QuickOptions(
        scene, str(scene.with_name("roofs.gpkg")), field="what", classes=("building",), steps=45
    )
    config = quick_config(options, landcover, tmp_path / "mine")
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, crop=96))
    seen: list[float] = []
    figures = train(
        config, tmp_path, tmp_path / "mine", start_from=landcover, on_step=lambda p: seen.append(p.loss)
    )
    assert seen[-1] < 0.85 * seen[0]
    assert figures["scene"].iou["building"] > 0.7


def test_options_that_a_configuration_answers_are_refused(scene: Path) -> None:
    config = scene.with_name("train.toml")
    config.write_text("")
    done = forked("train", config, "-o", scene.parent / "m", "--steps", 5, "--train", "head")
    assert done.returncode == 2
    assert "--steps, --train:" in done.stderr
    done = forked("train", scene, "-o", scene.parent / "m")
    assert done.returncode == 2
    assert "needs --labels" in done.stderr
    assert not (scene.parent / "m").exists()


def test_a_class_that_no_polygon_has_is_no_error(scene: Path, landcover: Model) -> None:
    options = QuickOptions(
        scene, str(scene.with_name("roofs.gpkg")), field="what", classes=("building", "pond", "other"),
        rest=("pond", "other"),
    )  # fmt: skip
    tables = quick_tables(options, landcover, "mine")
    assert len(tables["classes"]) == 3
    with pytest.raises(TrainingError, match="rest="):
        quick_tables(
            QuickOptions(scene, options.labels, field="what", classes=("building", "x"), rest=("y",)),
            landcover,
            "m",
        )


def test_masks_that_name_a_value_otherwise_are_refused(tmp_path: Path, landcover: Model) -> None:
    for name, classes in (("a", "road,roof"), ("b", "roof,road")):
        write(tmp_path / "images" / f"{name}.tif", np.zeros((3, 64, 64), np.uint8))
        mask = write(tmp_path / "masks" / f"{name}.tif", np.zeros((1, 64, 64), np.uint8))
        with rasterio.open(mask, "r+") as dst:
            dst.update_tags(PFMAP_CLASSES=classes)
    options = QuickOptions(tmp_path / "images", str(tmp_path / "masks"))
    with pytest.raises(TrainingError, match=r"b\.tif calls 0 roof, others in .*masks road: make it one"):
        quick_tables(options, landcover, "mine")
