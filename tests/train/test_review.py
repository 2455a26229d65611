"""`pfmap train --labels review.gpkg`: what a person checked is sure, and all else is unknown."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import torch
from chips import CONFIG, scene
from commands import here
from conftest import NORTH_UP, UTM
from shapely.geometry import box

import pfmap
from pfmap.core.errors import PfmapError
from pfmap.model.store import Model, load_model, write_model
from pfmap.train.config import read_config
from pfmap.train.data import load_data
from pfmap.train.quick import QuickOptions, quick_config
from pfmap.train.start import first_network

SIDE = 256


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """A tiny model that has learned nothing yet, of roofs, which it takes apart, grass and sand."""
    file = tmp_path / "tiny.toml"
    file.write_text(CONFIG)
    config = read_config(file)
    write_model(tmp_path / "tiny", config.card, first_network(config, tmp_path, None).eval())
    return load_model(str(tmp_path / "tiny"))


@pytest.fixture
def review(tmp_path: Path) -> Callable[..., Path]:
    """Write a scene, and a checklist of its 16-pixel squares: every other one checked, the others wrong."""
    image, classes = scene(SIDE, SIDE, 1)
    with rasterio.open(
        tmp_path / "scene.tif", "w", driver="GTiff", width=SIDE, height=SIDE, count=3, dtype="uint8",
        crs=UTM, transform=NORTH_UP,
    ) as dst:  # fmt: skip
        dst.write(image)
    corners = np.argwhere(np.ones((SIDE // 16, SIDE // 16), bool)) * 16
    was = np.array(["roof", "grass", "sand"])[classes[corners[:, 0], corners[:, 1]]]
    checked = np.arange(len(corners)) % 2 == corners[:, 0] // 16 % 2
    shapes = [
        box(*(NORTH_UP @ (col + 2, row + 14)), *(NORTH_UP @ (col + 14, row + 2))) for row, col in corners
    ]
    wrong = np.where(was == "roof", "sand", "roof")
    rank, named = np.arange(len(was)) + 1, np.where(checked, was, wrong)
    fields = {"rank": rank, "class": named, "checked": checked, "was": was}
    drawn = gpd.GeoDataFrame(fields, geometry=shapes, crs=UTM)

    def write(**changed: object) -> Path:
        drawn.assign(**changed).to_file(tmp_path / "review.gpkg", layer="objects")
        return tmp_path / "scene.tif"

    return write


def options(scene: Path, **more: object) -> QuickOptions:
    return QuickOptions(scene, str(scene.with_name("review.gpkg")), **{"validation": 0.0, **more})


def test_only_checked_objects_are_labels_and_all_else_is_unknown(
    review: Callable[..., Path], model: Model, tmp_path: Path
) -> None:
    config = quick_config(options(review()), model, tmp_path / "mine")
    assert read_config(tmp_path / "mine" / "train.toml") == config
    data = load_data(config, tmp_path / "mine")
    (sample,) = data.sources[0].train
    _, classes = scene(SIDE, SIDE, 1)
    wanted = np.full((SIDE, SIDE), -1)
    for number, (row, col) in enumerate(np.argwhere(np.ones((16, 16), bool)) * 16):
        if number % 2 == row // 16 % 2:
            wanted[row + 2 : row + 14, col + 2 : col + 14] = classes[row, col]
    table, weights = data.sets.table(), data.sets.weights()
    labels = sample.scene.read(*sample.scene.box)[1]
    assert (weights[labels] > 0).tolist() == (wanted >= 0).tolist()
    known = wanted >= 0
    assert (table[labels[known]].sum(axis=1) == 1).all()
    assert table[labels[known]].argmax(axis=1).tolist() == wanted[known].tolist()
    assert any("128 of 256 objects are not checked" in note for note in data.notes)
    with pytest.raises(PfmapError, match="need a model to start from: name it with start_from="):
        first_network(config, tmp_path, None)


def test_where_objects_meet_is_unknown_for_others_lie_beside_what_was_checked(
    review: Callable[..., Path], model: Model, tmp_path: Path
) -> None:
    card = replace(model.card, architecture=replace(model.card.architecture, contact=("roof",)))
    config = quick_config(options(review(checked=True)), replace(model, card=card), tmp_path / "mine")
    assert config.card.architecture.contact == ("roof",)
    assert np.isnan(load_data(config, tmp_path).sets.contacts()).all()


def test_a_checklist_that_nobody_worked_on_is_refused(
    review: Callable[..., Path], model: Model, tmp_path: Path
) -> None:
    def refused(scene: Path, **more: object) -> str:
        with pytest.raises(PfmapError) as caught:
            quick_config(options(scene, **more), model, tmp_path / "mine")
        assert not (tmp_path / "mine").exists()
        return str(caught.value)

    said = refused(review(checked=False))
    assert "none of the 256 objects of " in said
    assert "review.gpkg is checked: open it in QGIS" in said
    assert "tick 'checked', and save" in said
    assert "none of the 256 objects" in refused(review(checked=None))
    assert "checked objects of pond, which model 'tiny' does not know: start from the model" in refused(
        review(**{"class": "pond", "checked": True})
    )
    bare = gpd.read_file(tmp_path / "review.gpkg").drop(columns="checked")
    (tmp_path / "review.gpkg").unlink()
    bare.to_file(tmp_path / "review.gpkg", layer="objects")
    said = refused(tmp_path / "scene.tif")
    assert "has no field 'checked' that says which objects a person has checked" in said


def test_training_says_what_the_model_made_of_held_out_objects_before_and_after(
    review: Callable[..., Path], model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick_config(options(review(), validation=0.4, steps=2), model, tmp_path / "mine")
    file = tmp_path / "mine" / "train.toml"
    text = file.read_text().replace("per_batch = 8", "per_batch = 2")
    file.write_text(text.replace("steps = 2", "steps = 2\ncrop = 64"))
    done = here(capsys, "train", file, "-o", tmp_path / "mine", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    before, after, wrote = done.stdout.splitlines()
    assert before.startswith("before: scene  ")
    assert after.startswith("after:  scene  ")
    assert wrote == f"wrote {tmp_path / 'mine'}"
    assert done.stderr.count("step 0 ") == 1
    trained = pfmap.load_model(tmp_path / "mine")
    old, new = (one.network.state_dict() for one in (model, trained))
    still = [name for name in old if torch.equal(old[name], new[name])]
    statistics = [name for name in old if "running_" in name or "num_batches" in name]
    assert set(statistics) <= set(still)  # those of scenes, not of the surroundings of what was checked
    changed = {name.partition(".")[0] for name in set(old) - set(still)}
    assert changed == {"head", "classify"}
