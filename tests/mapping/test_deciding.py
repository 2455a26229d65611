"""What decides on the class of a pixel, against oracles: views of windows, probabilities, thresholds."""

import dataclasses
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import torch
from click.testing import CliRunner
from conftest import NORTH_UP, Write, blobs, stand_in
from runs import stop
from torch import Tensor, nn

import pfmap
from pfmap.cli.main import cli
from pfmap.core.errors import ModelError, SourceError, UsageError
from pfmap.model.lanes import VIEWS
from pfmap.model.predictor import Predictor
from pfmap.raster.target import halve

LEVELS = np.linspace(0, 1, 4)[:, None, None]
SETTINGS: dict[str, Any] = {"device": "cpu", "precision": "float32", "swath_pixels": 8000}


class Lopsided(nn.Module):
    """Sees four classes and a contact, and turns of its window differently."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 5, 5, padding=2))
        self.requires_grad_(requires_grad=False)

    def forward(self, image: Tensor) -> Tensor:
        return 4 * self.layers(image)


def noisy(height: int, width: int) -> np.ndarray:
    grey = blobs(height, width).astype(np.int64)
    return np.clip(grey + np.random.default_rng(1).integers(-90, 90, grey.shape), 0, 255).astype(np.uint8)


def expected(image: np.ndarray) -> np.ndarray:
    """What `Pointwise` says of each pixel: ``(4, height, width)`` probabilities."""
    powers = np.exp(-40 * (image.mean(axis=0)[None] / 255 - LEVELS) ** 2)
    return powers / powers.sum(axis=0)


def chosen(probabilities: np.ndarray, least: dict[str, float]) -> np.ndarray:
    """The best class above its threshold, or the best of all if there is none."""
    above = probabilities > np.array([least.get(f"class_{k}", -1) for k in range(4)])[:, None, None]
    return np.where(
        above.any(axis=0), np.where(above, probabilities, -1).argmax(axis=0), probabilities.argmax(axis=0)
    )


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as src:
        return src.read()


def as_torch_does(image: Tensor, tta: str) -> Tensor:
    """Turn, run, turn back, mean; by `torch.rot90`, and a flip before it."""
    network, found = Lopsided(), []
    turns = {"none": (0,), "flips": (0, 2), "d4": (0, 1, 2, 3)}[tta]
    for turn in turns:
        for flipped in (False, True)[: 1 + (tta != "none")]:
            seen = torch.rot90(image.flip(-1) if flipped else image, turn, (-2, -1))
            logits = network(seen[None])
            made = torch.cat([logits[:, :4].softmax(dim=1), logits[:, 4:].sigmoid()], dim=1)[0]
            made = torch.rot90(made, -turn, (-2, -1))
            found.append(made.flip(-1) if flipped else made)
    assert len(found) == len(VIEWS[tta])
    return torch.stack(found).mean(dim=0)


@pytest.mark.parametrize("tta", ["none", "flips", "d4"])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_views_are_averaged_as_torch_alone_does_it(tta: str, batch_size: int) -> None:
    spec = stand_in(4).card.input
    predictor = Predictor(Lopsided(), spec, batch_size=batch_size, contact=True)
    rng = np.random.default_rng(0)
    windows = [rng.integers(0, 256, (3, 64, 64), dtype=np.uint8) for _ in range(3)]
    found = predictor.probabilities(windows, [np.ones((64, 64), dtype=bool)] * 3, tta)
    for made, window in zip(found, windows, strict=True):
        image = torch.from_numpy(window) / 255
        torch.testing.assert_close(made, as_torch_does(image, tta), atol=2e-6, rtol=0)
        if tta != "none":
            assert (made - as_torch_does(image, "none")).abs().max() > 0.05


@pytest.mark.parametrize("ratio", [1.0, 2.0])
def test_probabilities_and_thresholds_are_those_of_numpy(ratio: float, write_scene: Write) -> None:
    """Also where the network sees a coarser image, and what it says of it is interpolated."""
    image, valid = noisy(150, 200), np.ones((150, 200), dtype=bool)
    if ratio > 1:
        image = np.repeat(np.repeat(noisy(75, 100), 2, axis=1), 2, axis=2)
    valid[40:60, 30:80] = False
    model, least = stand_in(4), {"class_1": 0.7, "class_2": 0.45}
    spec = dataclasses.replace(model.card.input, gsd=(0.5 * ratio, 10.0))
    model = dataclasses.replace(model, card=dataclasses.replace(model.card, input=spec))
    own = {"threshold": least, "probabilities": True, "min_area": 0, "simplify": 0, "separate": ()}
    made = pfmap.predict(write_scene(image, mask=valid), model=model, **SETTINGS | own)
    with rasterio.open(made.outputs["probabilities"]) as src:
        assert src.descriptions == tuple(spec.name for spec in model.card.classes)
        assert (src.nodata, src.tags()["PFMAP_THRESHOLD"]) == (255, "class_1=0.7,class_2=0.45")
        found = src.read()
    classes, confidence = (read(made.outputs[kind])[0] for kind in ("classes", "confidence"))
    assert (found[:, ~valid] == 255).all()
    assert np.abs(found[:, valid].sum(axis=0, dtype=int) - 100).max() <= 2
    if ratio == 1:
        wanted = expected(image)
        assert np.abs(found - 100 * wanted)[:, valid].max() < 0.502
        clear = np.abs(wanted - np.array([-1, 0.7, 0.45, -1])[:, None, None]).min(axis=0) > 1e-3
    else:  # as far as whole percent tell
        wanted = found / 100
        clear = (np.abs(found - np.array([-9, 70, 45, -9])[:, None, None]) > 1).all(axis=0)
        clear &= (np.diff(np.sort(found, axis=0), axis=0) > 0).all(axis=0)
    assert (classes == chosen(wanted, least))[valid & clear].all()
    assert (chosen(wanted, {}) != classes)[valid & clear].sum() > 300
    assert (confidence == np.take_along_axis(found, np.minimum(classes, 3)[None], axis=0)[0])[valid].all()
    layer = gpd.read_file(made.outputs["gpkg"], layer="objects")
    areas = layer.groupby("class_id")["area_m2"].sum() / layer["area_m2"].sum()
    np.testing.assert_allclose(areas, np.bincount(classes[valid]) / valid.sum(), rtol=1e-3)


def test_where_no_class_is_above_its_threshold_the_best_of_all_wins(write_scene: Write) -> None:
    image, least = noisy(90, 90), {"class_0": 0.9, "class_1": 0.8, "class_2": 1.0, "class_3": 0.6}
    made = pfmap.predict(write_scene(image), model=stand_in(4), threshold=least, **SETTINGS)
    wanted = expected(image)
    clear = np.abs(wanted - np.array(list(least.values()))[:, None, None]).min(axis=0) > 1e-3
    found = read(made.outputs["classes"])[0]
    assert (found == chosen(wanted, least))[clear].all()
    assert (found == 2).any()


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_bands_of_probabilities_are_neither_colours_nor_alpha_and_have_overviews(
    classes: int, write_scene: Write
) -> None:
    made = pfmap.predict(
        write_scene(noisy(600, 700)), model=stand_in(classes), probabilities=True, device="cpu"
    )
    path = made.outputs["probabilities"]
    with rasterio.open(path) as src:
        assert src.count == classes
        assert {each.name for each in src.colorinterp} <= {"gray", "undefined"}
        assert src.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert [src.overviews(band) for band in src.indexes] == [[2]] * classes
        whole = src.read()
    with rasterio.open(path, overview_level=0) as src:
        assert all((src.read(k + 1) == halve(whole[k], "average")).all() for k in range(classes))


def test_what_decides_is_said_kept_and_known_again(write_scene: Write, tmp_path: Path) -> None:
    scene, said = write_scene(noisy(400, 130)), list[str]()

    def run(**options: Any) -> Any:
        options = SETTINGS | {"model": stand_in(4), "on_message": said.append, "overwrite": True} | options
        return pfmap.predict(scene, tmp_path / "out", **options)

    with pytest.raises(KeyboardInterrupt):
        run(on_progress=stop)
    options = {"tta": "d4", "threshold": {"class_3": 0.5, "class_1": 0.25}, "probabilities": True}
    assert "probabilities" in run(probabilities=True).outputs
    assert "because an option changed" in "\n".join(said)
    for more in (dict([one]) for one in options.items()):
        plain = run()
        assert not run(**more).skipped
        assert run(**more).skipped
    made = run(**options)
    assert "in 8 views each" in "\n".join(said)
    assert "classes  only above class_1=0.25,class_3=0.5, else the next best" in said
    told = {"tta": "d4", "threshold": "class_1=0.25,class_3=0.5"}
    assert told.items() <= made.report["options"].items()
    assert not told.keys() & plain.report["options"].keys()
    with rasterio.open(made.outputs["confidence"]) as src:
        assert {f"PFMAP_{name.upper()}": text for name, text in told.items()}.items() <= src.tags().items()
    assert told.items() <= pfmap.inspect(scene, model=stand_in(4), device="cpu", **options)["plan"].items()


@pytest.mark.parametrize(
    ("threshold", "error", "words"),
    [
        ({"castle": 0.5}, ModelError, "class 'castle' is unknown: the model has class_0"),
        ({"class_1": 60}, UsageError, "threshold 60 of 'class_1' is not possible: use 0 to 1"),
        ({"class_1": float("nan")}, UsageError, "threshold nan of 'class_1' is not possible"),
    ],
)
def test_thresholds_of_no_class_and_no_probability_are_refused(
    threshold: dict[str, float], error: type[Exception], words: str, write_scene: Write, tmp_path: Path
) -> None:
    scene = write_scene(noisy(70, 70))
    for call in (pfmap.predict, pfmap.batch):
        with pytest.raises(error, match=words):
            call(scene, tmp_path / "out", model=stand_in(4), threshold=threshold, **SETTINGS)
    assert not list(tmp_path.glob("out/[!.]*"))


def test_the_command_takes_thresholds_one_by_one(write_scene: Write, tmp_path: Path, small: str) -> None:
    arguments = ["predict", str(write_scene(noisy(70, 70))), "-o", str(tmp_path / "out"), "-m", small]
    arguments += ["--device", "cpu", "--tta", "flips", "--probabilities", "--json"]
    more = ["--threshold", "class_1=0.4", "--threshold", "class_0 = .5"]
    done = CliRunner().invoke(cli, [*arguments, *more])
    assert done.exit_code == 0, done.output
    assert '"threshold": "class_0=0.5,class_1=0.4"' in done.stdout
    for wrong in ("class_1", "class_1=much", "=0.5="):
        done = CliRunner().invoke(cli, [*arguments, "--threshold", wrong])
        assert done.exit_code == 2
        assert "write CLASS=P, such as building=0.6" in done.output


def test_probabilities_of_scenes_become_one_map_of_the_survey(write_scene: Write, tmp_path: Path) -> None:
    image = noisy(200, 240)
    shifted = NORTH_UP @ NORTH_UP.translation(140, 0)
    sheets = [
        write_scene(image[..., :140], "a.tif"),
        write_scene(image[..., 140:], "b.tif", transform=shifted),
    ]
    options = SETTINGS | {"model": stand_in(4)}
    made = pfmap.batch(sheets, tmp_path / "out", probabilities=True, **options)
    with rasterio.open(made.outputs["probabilities"]) as src:
        assert src.descriptions == ("class_0", "class_1", "class_2", "class_3")
        found = src.read()
    parts = [read(one.result.outputs["probabilities"]) for one in made.scenes if one.result is not None]
    assert (found == np.concatenate(parts, axis=2)).all()
    assert np.abs(found - 100 * expected(image)).max() < 0.502
    assert made.figures.settings["probabilities"] is True
    (tmp_path / "out" / "a_report.json").write_text(
        (tmp_path / "out" / "a_report.json").read_text().replace('"probabilities": "a_', '"other": "a_')
    )
    with pytest.raises(
        SourceError, match=r"a was mapped without probabilities: .* without probabilities=True"
    ):
        pfmap.batch(sheets, tmp_path / "out", probabilities=True, **options)
