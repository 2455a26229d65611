"""`pfmap evaluate --model`: a model on the sources of a training configuration."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from chips import COLORS, CONFIG, data, scene, write
from click.testing import CliRunner
from sklearn import metrics as sk
from torch import Tensor, nn

import pfmap
from pfmap.cli.main import cli
from pfmap.core.errors import ModelError, SourceError, TrainingError, UsageError
from pfmap.mapping.swaths import map_array
from pfmap.model.predictor import Predictor
from pfmap.model.store import Model, write_model
from pfmap.net.pfnet import PFNet
from pfmap.train import evaluate_model
from pfmap.train.config import read_config
from pfmap.train.data import load_data
from pfmap.train.validate import measure

__all__ = ["data"]  # the fixture

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


class ByColor(nn.Module):
    """Takes each pixel for the class whose colour is nearest, and a tenth of them, by place, for the next."""

    def forward(self, image: Tensor) -> Tensor:
        seen = (image * 0.5 + 0.5) * 255
        colors = torch.from_numpy(COLORS).float().view(1, 3, 3, 1, 1)
        logits = -((seen[:, None] - colors) ** 2).sum(dim=2) / 2000
        logits[..., ::10, :] = logits[..., ::10, :].roll(1, dims=1)
        return logits


@pytest.fixture
def model(data: Path) -> Model:
    return Model(read_config(data / "train.toml").card, ByColor(), Path("nowhere"))


def predicted(model: Model, image: np.ndarray, overlap: int = 8) -> np.ndarray:
    return map_array(Predictor(model.network, model.card.input), image, 3, 64, overlap)[0]


def test_full_labels_give_the_figures_of_scikit_learn(data: Path, model: Model) -> None:
    found = pfmap.evaluate_model(model, data / "train.toml", objects=("roof",), device="cpu")
    whole, partial = found.sources
    image, classes = scene(96, 96, 3)
    one, two = classes.ravel(), predicted(model, image).ravel()
    np.testing.assert_array_equal(whole.figures.confusion, sk.confusion_matrix(one, two))
    assert whole.figures.mean.iou == pytest.approx(sk.jaccard_score(one, two, average="macro"))
    assert whole.figures.classes[0].objects is not None
    assert whole.figures.calibration is not None
    assert whole.figures.calibration.pixels.sum() == one.size
    assert not any(np.isnan(match.f1) for match in whole.figures.boundary)
    assert whole.picture
    assert (whole.name, whole.images, partial.name, partial.images) == ("whole", 1, "partial", 1)


def test_views_of_windows_are_averaged_as_a_scenes_are(data: Path, model: Model) -> None:
    found = pfmap.evaluate_model(model, data / "train.toml", device="cpu", tta="d4").sources[0]
    image, classes = scene(96, 96, 3)
    averaged = map_array(Predictor(model.network, model.card.input), image, 3, 64, 8, "d4")[0]
    expected = sk.confusion_matrix(classes.ravel(), averaged.ravel())
    np.testing.assert_array_equal(found.figures.confusion, expected)
    assert (averaged != predicted(model, image)).any()
    with pytest.raises(UsageError, match="tta 'd8' is unknown: use none, flips or d4"):
        pfmap.evaluate_model(model, data / "train.toml", device="cpu", tta="d8")
    done = CliRunner().invoke(cli, ["evaluate", "a.tif", "b.tif", "--tta", "d4"])
    assert "--tta: of use with --model only" in done.output


def test_partial_labels_give_what_they_can(data: Path, model: Model) -> None:
    _, partial = pfmap.evaluate_model(
        model, data / "train.toml", objects=("roof", "sand"), device="cpu"
    ).sources
    by_name = {item.spec.name: item for item in partial.figures.classes}
    image, classes = scene(96, 128, 9)
    image, classes = image[..., 96:], classes[:, 96:]
    roof = by_name["roof"]
    truth, found = (classes == 0).ravel(), (predicted(model, image, overlap=0) == 0).ravel()
    assert roof.scores.iou == pytest.approx(sk.jaccard_score(truth, found))
    assert roof.scores.precision == pytest.approx(sk.precision_score(truth, found))
    assert roof.objects is not None
    assert not np.isnan(roof.boundary[0].f1)
    # Where sand ends is not known, and grass is never named.
    assert by_name["sand"].objects is None
    assert np.isnan(by_name["sand"].boundary[0].f1)
    row = partial.figures.labels.index("grass or sand")
    assert partial.figures.allowed[row] == (False, True, True)
    assert np.isnan(by_name["grass"].scores.iou)
    assert partial.figures.calibration is not None
    assert partial.figures.calibration.pixels.sum() == found.sum()


def test_the_figures_are_those_of_validation(data: Path, model: Model) -> None:
    config = read_config(data / "train.toml")
    expected = measure(model.network, load_data(config, data), model.card, torch.device("cpu"))
    found = pfmap.evaluate_model(model, data / "train.toml", device="cpu")
    for source in found.sources:
        iou = {c.spec.name: c.scores.iou for c in source.figures.classes if not np.isnan(c.scores.iou)}
        assert iou == pytest.approx(expected[source.name].iou)
        assert source.figures.accuracy == pytest.approx(expected[source.name].accuracy)
        assert source.figures.mean.iou == pytest.approx(expected[source.name].mean_iou)


def test_all_sources_together_are_their_sum(data: Path, model: Model) -> None:
    found = pfmap.evaluate_model(model, data / "train.toml", part="training", objects=("roof",), device="cpu")
    total = sum(source.figures.labelled for source in found.sources)
    assert found.together.labelled == total
    assert found.sources[0].images == 3
    roofs = [s.figures.classes[0].objects for s in found.sources]
    together = found.together.classes[0].objects
    assert together is not None
    assert together.truth == sum(o.truth for o in roofs if o is not None)
    # Boundaries of grass are judged where they are known: in the first source.
    grass = next(c for c in found.together.classes if c.spec.name == "grass")
    alone = next(c for c in found.sources[0].figures.classes if c.spec.name == "grass")
    assert grass.boundary == alone.boundary


class Walled(nn.Module):
    """Takes each pixel for the class whose colour is nearest, and sees a wall in those of its own colour."""

    def forward(self, image: Tensor) -> Tensor:
        seen = (image * 0.5 + 0.5) * 255
        colors = torch.from_numpy(np.concatenate([COLORS, WALL])).float().view(1, 4, 3, 1, 1)
        near = -((seen[:, None] - colors) ** 2).sum(dim=2) / 100
        return torch.cat([near[:, :3], near[:, 3:] + 8], dim=1)


WALL = np.array([[200, 40, 120]], dtype=np.uint8)


@pytest.mark.parametrize(("contact", "count"), [(("roof",), 3), ((), 1)])
@pytest.mark.parametrize("pixels", [1000, 1 << 20])
def test_objects_of_a_model_are_those_that_it_maps(
    contact: tuple[str, ...],
    count: int,
    pixels: int,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluate_model, "_PIXELS", pixels)
    classes = np.ones((96, 96), np.uint8)
    classes[20:80, 8:88] = 0
    image = COLORS[classes].transpose(2, 0, 1).copy()
    image[:, 50, 8:88], image[:, 20:50, 40] = WALL.T, WALL.T
    write(data / "whole/chip3.png", image)
    write(data / "labels/chip3.png", classes)
    card = read_config(data / "train.toml").card
    card = dataclasses.replace(card, architecture=dataclasses.replace(card.architecture, contact=contact))
    network = Walled() if contact else nn.Sequential(Walled(), First())
    model = Model(card, network, Path("nowhere"))
    source = pfmap.evaluate_model(model, data / "train.toml", objects=("roof",), device="cpu").sources[0]
    objects = source.figures.classes[0].objects
    assert objects is not None
    mapped = pfmap.predict(data / "whole/chip3.png", tmp_path / "out", model=model, device="cpu")
    assert objects.predicted == mapped.report["classes"][0]["objects"] == count


class First(nn.Module):
    """Leaves the wall out."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits[:, :3]


def test_classes_in_another_order_are_matched_by_name(data: Path, model: Model) -> None:
    swapped = {'name = "roof"': 'name = "sand"', 'name = "sand"': 'name = "roof"'}
    text = re.sub("|".join(swapped), lambda found: swapped[found[0]], CONFIG)
    (data / "other.toml").write_text(text)
    one = pfmap.evaluate_model(model, data / "train.toml", device="cpu").sources[0].figures
    two = pfmap.evaluate_model(model, data / "other.toml", device="cpu").sources[0].figures
    assert {c.spec.name: c.scores for c in one.classes} == {c.spec.name: c.scores for c in two.classes}


def test_the_command_prints_json_and_a_page(data: Path, tmp_path: Path) -> None:
    card = read_config(data / "train.toml").card
    torch.manual_seed(0)
    write_model(tmp_path / "tiny", card, PFNet(card.architecture))
    arguments = ["evaluate", "--model", str(tmp_path / "tiny"), "--data", str(data / "train.toml")]
    arguments += ["--device", "cpu"]
    done = CliRunner().invoke(cli, [*arguments, "--json", "--html", str(tmp_path / "page.html")])
    assert done.exit_code == 0, done.output
    table = json.loads(done.stdout)
    assert [source["source"] for source in table["sources"]] == ["whole", "partial"]
    assert table["together"]["pixels"]["labelled"] == 96 * 96 + 96 * 32
    page = (tmp_path / "page.html").read_text()
    assert page.count("<h2>") == 3
    assert page.count("<img") == 2
    done = CliRunner().invoke(cli, arguments)
    assert "together" in done.stdout


def test_what_does_not_fit_is_refused_in_one_line(data: Path, model: Model) -> None:
    def refused(kind: type[Exception], message: str, text: str, part: str = "validation") -> None:
        (data / "bad.toml").write_text(text)
        with pytest.raises(kind, match=message) as caught:
            pfmap.evaluate_model(model, data / "bad.toml", part=part, device="cpu")
        assert "\n" not in str(caught.value)

    refused(TrainingError, "matches no file", CONFIG.replace("whole/*.png", "nothing/*.png"))
    refused(TrainingError, "does not know: sand", CONFIG.replace('"sand"', '"beach"'))
    plain = CONFIG.replace('validation.stems = "3$"', "").replace("validation.columns = [96, 128]", "")
    refused(TrainingError, "holds nothing out for validation", plain)
    write(data / "labels/chip0.png", np.zeros((50, 60), np.uint8))
    refused(SourceError, "60 x 50 pixels, .* 96 x 96", CONFIG)
    with pytest.raises(ModelError, match="class 'house' is unknown"):
        pfmap.evaluate_model(model, data / "train.toml", objects=("house",), device="cpu")
