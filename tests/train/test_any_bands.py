"""Models of one to five bands: trained, mapped with and evaluated, from one file and from several."""

import dataclasses
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tomli_w
import torch
from affine import Affine
from chips import CONFIG, scene
from click.testing import CliRunner
from conftest import UTM, stand_in
from torch import Tensor, nn

import pfmap
from pfmap.cli.main import cli
from pfmap.cluster.handover import ClusterJob, open_source
from pfmap.core.card import InputSpec, card_table, parse_card, read_card
from pfmap.core.errors import ModelError, TrainingError, UsageError
from pfmap.mapping.job import Job
from pfmap.mapping.options import PredictOptions
from pfmap.mapping.run_options import SurveyOptions
from pfmap.mapping.runtime import Runtime
from pfmap.model.store import Model, fit_bands, write_model
from pfmap.net.pfnet import PFNet
from pfmap.raster.location import locate
from pfmap.survey.choice import Choice
from pfmap.train import augment
from pfmap.train.config import parse_config, read_config
from pfmap.train.data import load_data
from pfmap.train.evaluate_model import evaluate_model
from pfmap.train.loop import train
from pfmap.train.quick import QuickOptions, quick_tables
from pfmap.train.start import take_over

SIDE = 96
PLACE = Affine(0.2, 0, 300000, 0, -0.2, 3000000)
FIVE = ("red", "green", "blue", "nir", "dsm")


def write(path: Path, image: np.ndarray, names: Sequence[str] = (), step: int = 1) -> Path:
    path.parent.mkdir(exist_ok=True)
    count, height, width = image.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": image.dtype}
    with rasterio.open(
        path, "w", **profile, crs=UTM, transform=PLACE @ Affine.scale(step), photometric="minisblack"
    ) as dst:
        dst.write(image)
        dst.descriptions = names or [None] * count
    return path


def make_data(folder: Path, bands: tuple[str, ...], dtype: str = "uint8", seed: int = 0) -> Path:
    """Two scenes of squares of three classes, with labels, and the configuration of a model for these bands.

    All bands but heights are in one file, in another order; heights have one of their own, of coarser pixels.
    """
    rng = np.random.default_rng(seed)
    for number in (1, 2):
        rgb, classes = scene(SIDE, SIDE, number)
        values = dict(zip(FIVE, [*rgb, 255 - rgb[0], rgb[1] // 8], strict=True))
        values |= {"grey": rgb[0], "x": rgb[2]}
        names = [name for name in reversed(bands) if name != "dsm"]
        image = np.stack([values[name] for name in names])
        image = image * 16 if dtype == "uint16" else image
        write(folder / f"images/s{number}.tif", image.astype(dtype), names if bands != ("grey",) else ())
        write(folder / f"labels/s{number}.tif", classes[None])
        heights = values["dsm"][::2, ::2][None].astype(np.float32) + rng.random((1, SIDE // 2, SIDE // 2))
        write(folder / f"heights/s{number}.tif", heights.astype(np.float32), step=2)
    count, scale = len(bands), 4080.0 if dtype == "uint16" else 255.0
    tables: dict[str, Any] = tomllib.loads(CONFIG)
    tables["input"] |= {
        "bands": list(bands),
        "scale": scale,
        "scales": {"dsm": 30.0} if "dsm" in bands else {},
        "mean": [0.5] * count,
        "std": [0.25] * count,
    }
    tables["training"] |= {"steps": 2, "validations": 1}
    tables["sources"] = [{
        "name": "all", "images": "images/*.tif", "per_batch": 2, "validation": {"stems": "2$"},
        "layers": [{"path": "labels/{stem}.tif", "values": {"0": "roof", "1": "grass", "2": "sand"}}],
        **({"extra": {"dsm": "heights/{stem}.tif"}} if "dsm" in bands else {}),
    }]  # fmt: skip
    (folder / "train.toml").write_text(tomli_w.dumps(tables))
    return folder / "train.toml"


@pytest.mark.parametrize(
    ("bands", "dtype"),
    [(("grey",), "uint8"), (("red", "dsm"), "uint16"), (FIVE[:4], "uint16"), (FIVE, "uint8")],
)
def test_any_number_of_bands_is_trained_mapped_and_evaluated(
    bands: tuple[str, ...], dtype: str, tmp_path: Path
) -> None:
    path = make_data(tmp_path, bands, dtype)
    train(read_config(path), tmp_path, tmp_path / "model")
    card = read_card(tmp_path / "model/model.toml")
    assert card.input.bands == bands
    extra = {"dsm": str(tmp_path / "heights/{stem}.tif")} if "dsm" in bands else None
    result = pfmap.predict(
        tmp_path / "images/s2.tif", tmp_path / "out", model=tmp_path / "model", device="cpu", extra=extra
    )
    assert result.report["options"]["extra"] == extra
    with rasterio.open(result.outputs["classes"]) as src, rasterio.open(tmp_path / "labels/s2.tif") as labels:
        right = (src.read(1) == labels.read(1)).mean()
    found = evaluate_model(str(tmp_path / "model"), path, device="cpu")
    assert found.together.table()["overall_accuracy"] == pytest.approx(right, abs=0.02)


@pytest.mark.parametrize("looks", ["similar", "any"])
@pytest.mark.parametrize(
    ("bands", "light"),
    [(FIVE, [0, 1, 2]), (("dsm", "nir", "red"), [1, 2]), (("grey",), [0]), (("dsm", "x"), [])],
)
def test_looks_change_bands_of_light_alone(
    bands: tuple[str, ...], light: list[int], looks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_data(tmp_path, bands)
    tables = tomllib.loads(path.read_text())
    tables["training"]["looks"] = looks
    config = parse_config(tables, path)
    for name in ("recolor", "elsewhere"):
        monkeypatch.setattr(augment, name, lambda image, *_: torch.zeros(3, *image.shape[1:]))
    images, *_ = augment.Batches(load_data(config, tmp_path), config)[0]
    even = images.amax(dim=(0, 2, 3)) == images.amin(dim=(0, 2, 3))
    assert even.nonzero().flatten().tolist() == light


def test_training_sees_what_the_files_hold_pixel_by_pixel(tmp_path: Path) -> None:
    config = read_config(make_data(tmp_path, FIVE, "uint16"))
    (sample,) = load_data(config, tmp_path).sources[0].train
    image, _ = sample.read()
    with rasterio.open(tmp_path / "images/s1.tif") as src:
        colors = src.read()[::-1] / 4080
    with rasterio.open(tmp_path / "heights/s1.tif") as src:
        heights = src.read(1)
    assert np.abs(image[:4] - np.floor(255 * colors + 0.5)).max() <= 1
    for row, col in np.random.default_rng(0).integers(2, SIDE - 2, (200, 2)).tolist():
        y, x = (row + 0.5) / 2 - 0.5, (col + 0.5) / 2 - 0.5
        (top, down), (left, right) = divmod(y, 1), divmod(x, 1)
        at = heights[int(top) : int(top) + 2, int(left) : int(left) + 2]
        value = [1 - down, down] @ at @ [1 - right, right]
        assert abs(image[4, row, col] - 255 * value / 30) <= 1


class High(nn.Module):
    """A network that sees the last band alone: class 1 where it is above a half."""

    def forward(self, image: Tensor) -> Tensor:
        high = 40 * (image[:, -1:] - 0.5)
        return torch.cat([-high, high], dim=1)


def sees_heights() -> Model:
    """A model of five bands, which sees the last of them."""
    card = stand_in(classes=2).card
    spec = InputSpec(FIVE, 255.0, (0.0,) * 5, (1.0,) * 5, 64, (0.01, 10.0), {"dsm": 30.0})
    architecture = dataclasses.replace(card.architecture, bands=5)
    return Model(dataclasses.replace(card, input=spec, architecture=architecture), High(), Path("nowhere"))


def test_every_command_that_reads_images_takes_bands_from_files(tmp_path: Path) -> None:
    path, folder = make_data(tmp_path, FIVE), str(tmp_path)
    card, tables = read_config(path).card, tomllib.loads(path.read_text())
    write_model(tmp_path / "m", card, PFNet(card.architecture).eval())
    heights, out = f"{folder}/heights/{{stem}}.tif", f"{folder}/out"

    def run(command: str, *words: str, start: str = "-m") -> str:
        text = [command, *words, start, f"{folder}/m", "--extra", f"dsm={heights}", "--device", "cpu"]
        done = CliRunner().invoke(cli, text)
        assert done.exit_code == 0, done.output
        return done.output

    scene = f"{folder}/images/s1.tif"
    assert json.loads(run("info", scene, "--json"))["scene"]["extra"] == {"dsm": heights}
    assert f"band     dsm from {heights}" in run("predict", scene, "-o", out)
    assert "roof" in run(
        "points", scene, "--window", "0,0", "--foreground", "roof", "-o", f"{out}/points.png"
    )
    del tables["sources"][0]["extra"]
    path.write_text(tomli_w.dumps(tables))
    assert "overall accuracy" in run("evaluate", "--data", str(path))
    labels = ("--labels", f"{folder}/labels", "--classes", "roof,grass,sand")
    run(
        "train",
        f"{folder}/images",
        *labels,
        "--steps",
        "1",
        "--validation",
        "0",
        "-o",
        f"{folder}/more",
        start="--from",
    )
    assert read_card(tmp_path / "more/model.toml").input.scales == {"dsm": 30.0}


def test_workers_in_another_folder_find_the_files_of_bands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = read_config(make_data(tmp_path, FIVE)).card
    write_model(tmp_path / "m", card, PFNet(card.architecture).eval())
    monkeypatch.chdir(tmp_path)
    runtime = Runtime.of("./m", "cpu", "float32", 1, lambda _text: None)
    options = PredictOptions(extra={"dsm": "heights/s1.tif"})
    with Job(locate("images/s1.tif"), runtime, options, lambda _text: None).planned() as (_, plan):
        sent = ClusterJob.of(plan, "s1")
    monkeypatch.chdir("/")
    with open_source(sent.plan) as source:
        assert source.fingerprint() == sent.scene


@pytest.mark.parametrize("wrong", ["dsm", "dsm=", "=a.tif"])
def test_the_command_refuses_a_band_without_a_file(wrong: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["predict", str(tmp_path), "--extra", wrong])
    assert done.exit_code == 2
    assert "write NAME=FILE, such as dsm=heights.tif" in done.output


def test_a_survey_takes_heights_beside_each_scene_for_no_scenes(tmp_path: Path) -> None:
    make_data(tmp_path, FIVE)
    for number in (1, 2):
        (tmp_path / f"heights/s{number}.tif").rename(tmp_path / f"images/s{number}_dsm.tif")
    how: dict[str, Any] = {"model": sees_heights(), "device": "cpu", "extra": {"dsm": "{stem}_dsm.tif"}}
    result = pfmap.batch(tmp_path / "images", tmp_path / "out", **how)
    assert [(scene.sheet.name, scene.reason) for scene in result.scenes] == [("s1", ""), ("s2", "")]
    for number in (1, 2):
        with rasterio.open(tmp_path / f"out/s{number}_classes.tif") as src:
            classes = src.read(1)
        with rasterio.open(tmp_path / f"images/s{number}_dsm.tif") as src:
            heights = src.read(1).repeat(2, 0).repeat(2, 1)
        sure = np.abs(heights - 15) > 1
        assert (classes == (heights > 15))[sure].mean() > 0.9
    assert pfmap.predict(tmp_path / "images/s1.tif", tmp_path / "out", **how).skipped
    with pytest.raises(
        UsageError, match=r"extra= with \{stem\} names a file for each scene, and mosaic=True"
    ):
        pfmap.batch(tmp_path / "images", tmp_path / "one", mosaic=True, **how)
    with pytest.raises(UsageError, match=r"s1_dsm\.tif is a file for extra=, and no scene"):
        pfmap.batch(tmp_path / "images/s1_dsm.tif", tmp_path / "one", **how)
    watched = SurveyOptions(watch=True)
    assert Choice([tmp_path / "images/s1_dsm.tif"], None, watched, extra=["{stem}_dsm.tif"]).find() == []
    whole = {**how, "extra": {"dsm": str(tmp_path / "images/s1_dsm.tif")}}
    made = pfmap.batch([tmp_path / "images/s1.tif"], tmp_path / "one", mosaic=True, **whole)
    with rasterio.open(made.outputs["classes"]) as src, rasterio.open(tmp_path / "out/s1_classes.tif") as one:
        assert np.array_equal(src.read(1), one.read(1))


@pytest.mark.parametrize("encoder", ["efficientnet_lite0", "resnet50"])
def test_a_network_of_other_bands_keeps_those_of_the_same_name(encoder: str) -> None:
    tables = tomllib.loads(CONFIG)
    tables = {key: value for key, value in tables.items() if key not in ("training", "sources")}
    tables["architecture"] |= {"encoder": encoder, "contact": ["roof"]}
    card = parse_card(tables, Path("a"))
    tables["input"] |= {"bands": ["nir", "blue", "red", "dsm"], "scales": {"dsm": 30.0}}
    tables["input"] |= {"mean": [0.1, 0.5, 0.5, 0.2], "std": [0.5] * 4}
    other = parse_card(tables, Path("b"))
    torch.manual_seed(0)
    old, new = PFNet(card.architecture).eval(), PFNet(other.architecture).eval()
    take_over(new, other, Model(card, old, Path()))
    firsts = [key for key, value in new.state_dict().items() if value.ndim == 4 and value.shape[1] == 4]
    assert len([key for key in firsts if ".stem.0." in key or ".lines.0." in key]) == 2
    for key in firsts:
        before, after = old.state_dict()[key], new.state_dict()[key]
        if before.shape[1] == 3:
            wanted = torch.stack([before.mean(1), before[:, 2], before[:, 0], before.mean(1)], dim=1)
            assert torch.allclose(after, wanted, atol=1e-6), key
    tables["input"]["std"] = [0.5, 0.4, 0.5, 0.5]
    with pytest.raises(TrainingError, match=r"scales its input blue by scale 255, mean 0.5, std 0.5"):
        take_over(new, parse_card(tables, Path("b")), Model(card, old, Path()))


def test_a_band_that_nobody_knows_begins_as_the_mean_of_what_is_known() -> None:
    key, weight = "stem.0.weight", torch.rand(8, 2, 3, 3)
    assert torch.equal(fit_bands({key: weight}, ("nir", "dsm"), ("grey",))[key][:, 0], weight.mean(1))
    assert torch.equal(fit_bands({key: weight}, ("red", "dsm"), ("grey", "dsm"))[key], weight)


def test_a_quick_configuration_has_the_models_bands_and_those_that_are_named(tmp_path: Path) -> None:
    make_data(tmp_path, FIVE)
    model = pfmap.load_model("landcover")
    known = model.card.input.statistics["red"]
    labels = str(tmp_path / "labels")
    extra = {"dsm": str(tmp_path / "heights/{stem}.tif")}
    some = QuickOptions(tmp_path / "images", labels, classes=("a", "b", "c"), validation=0, extra=extra)
    tables = quick_tables(dataclasses.replace(some, inputs=("nir", "red", "dsm")), model, "mine")
    assert tables["input"]["bands"] == ["nir", "red", "dsm"]
    assert (tables["input"]["scale"], tables["input"]["scales"]) == (known[0], {"dsm": 30.0})
    assert (tables["input"]["mean"][1], tables["input"]["std"][1]) == known[1:]
    assert tables["sources"][0]["extra"] == extra
    config = parse_config(tomllib.loads(tomli_w.dumps(tables)), tmp_path / "train.toml")
    assert load_data(config, tmp_path).sources[0].train[0].read()[0].shape[0] == 3
    assert quick_tables(some, model, "mine")["input"]["bands"] == [*FIVE[:3], "dsm"]
    for enlarge, kept in ((0.0, None), (0.1, 0.2), (1.0, 1.0)):  # the images have 0.2 m
        seen = dataclasses.replace(model.card.input, enlarge=enlarge)
        wants = dataclasses.replace(model, card=dataclasses.replace(model.card, input=seen))
        found = quick_tables(some, wants, "mine")["input"].get("enlarge")
        assert found == (kept and pytest.approx(kept, rel=0.01))
    with pytest.raises(UsageError, match="extra= names dsm; model 'landcover' sees red, nir, of which"):
        quick_tables(dataclasses.replace(some, inputs=("red", "nir")), model, "mine")
    with pytest.raises(
        UsageError, match=r"does not say which of its 4 bands are red, swir.*extra=\{'swir': 'FILE'\}"
    ):
        quick_tables(dataclasses.replace(some, inputs=("red", "dsm", "swir")), model, "mine")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bands": [], "mean": [], "std": []}, "bands is 0: it has to be 1 to 16"),
        ({"bands": [f"b{k}" for k in range(17)], "mean": [0.0] * 17, "std": [1.0] * 17}, "bands is 17"),
        ({"mean": [0.5]}, "bands, mean and std have an entry each, of bands that differ"),
        ({"scales": {"red": 0.0}}, "scale is"),
        ({"scales": {"dsm": 30.0}}, "scales names dsm: the bands are red, green, blue"),
        ({"scale": "255"}, "input.scale has to be float"),
        ({"scales": {"red": "x"}}, "input.scales.red has to be float"),
    ],
)
def test_a_card_whose_bands_do_not_fit_is_refused(changes: dict[str, Any], words: str) -> None:
    tables = card_table(stand_in().card)
    tables["input"] |= changes
    with pytest.raises(ModelError, match=words):
        parse_card(tables, Path("model.toml"))


def test_a_card_says_the_scale_of_all_bands_and_of_single_ones() -> None:
    tables = card_table(stand_in().card)
    assert "scales" not in tables["input"]
    assert "bands" not in tables["architecture"]
    tables["input"]["scales"] = {"blue": 30}
    card = parse_card(tables, Path("model.toml"))
    assert [scale for scale, *_ in card.input.statistics.values()] == [255.0, 255.0, 30.0]
    assert parse_card(card_table(card), Path("model.toml")) == card


def test_what_is_about_colours_needs_red_green_and_blue(tmp_path: Path) -> None:
    path = make_data(tmp_path, ("red", "dsm"))
    tables = tomllib.loads(path.read_text())
    tables["sources"][0]["green"] = {"name": "grass", "above": 0.1}
    with pytest.raises(TrainingError, match=r"green or paint, and .input. not red, green and blue"):
        parse_config(tables, path)
