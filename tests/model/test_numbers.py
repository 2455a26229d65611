"""Numbers that are none, wherever they come from, never become a class."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Pointwise, Write, blobs, stand_in
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import pfmap
from pfmap.core.card import InputSpec
from pfmap.core.errors import DeviceError, ModelError
from pfmap.model.predictor import Predictor
from pfmap.model.store import load_weights, write_model
from pfmap.net.pfnet import PFNet

LISTS = r"{} = \[[^\]]*\]"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    card = stand_in().card
    card = dataclasses.replace(
        card, accuracy={"iou": 0.5}, architecture=dataclasses.replace(card.architecture, width=16)
    )
    folder = tmp_path_factory.mktemp("model")
    write_model(folder, card, PFNet(card.architecture), torch.float32)
    return folder


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("mean", "[0.1, nan, 0.1]", "mean is .*finite"),
        ("mean", "[0.1, inf, 0.1]", "mean is .*finite"),
        ("mean", "[0.1, 1e30, 0.1]", "mean is"),
        ("std", "[1.0, nan, 1.0]", "std is .*finite"),
        ("std", "[1.0, 0.0, 1.0]", "std is"),
        ("std", "[1.0, -1.0, 1.0]", "std is"),
        ("std", "[1.0, 1e-300, 1.0]", "std is"),
        ("std", "[1.0, 1e300, 1.0]", "std is"),
        ("scale", "nan", "scale is"),
        ("scale", "-inf", "scale is"),
        ("scale", "0.0", "scale is"),
        ("scale", "1e-310", "scale is"),
        ("scale", "1e300", "scale is"),
        ("bands", '["red", "red", "red"]', "that differ"),
        ("bands", '["nir", "red", "red"]', "that differ"),
        ("gsd", "[0.1, inf]", "gsd is"),
        ("gsd", "[nan, 1.0]", "gsd is"),
        ("temperature", "nan", "temperature is"),
        ("temperature", "inf", "temperature is"),
        ("temperature", "1e-308", "temperature is"),
        ("temperature", "0.0", "temperature is"),
        ("iou", "nan", "accuracy is .*finite"),
        ("window", "1048576", "window 1048576"),
        ("width", "1000000", "width is 1000000"),
        ("embedding", "100000000", "embedding is"),
        ("salient_bins", "100000", "salient_bins is"),
        ("smooth_bins", "100000", "smooth_bins is"),
        ("edge_points", "100000000", "edge_points is"),
    ],
)
def test_a_card_with_an_impossible_number_is_refused_by_its_key(
    written: Path, tmp_path: Path, key: str, value: str, words: str
) -> None:
    text = (written / "model.toml").read_text()
    text, count = re.subn(rf"(?m)^{key} = (\[[^\]]*\]|\S+)", f"{key} = {value}", text)
    assert count == 1
    (tmp_path / "model.toml").write_text(text)
    with pytest.raises(ModelError, match=words) as caught:
        pfmap.load_model(tmp_path)
    assert "model.toml" in str(caught.value)


def test_weights_that_are_no_numbers_are_refused_by_their_name(written: Path, tmp_path: Path) -> None:
    state = load_file(written / "weights.safetensors")
    network = PFNet(dataclasses.replace(stand_in().card.architecture, width=16))
    variance = next(key for key in state if key.endswith("running_var"))
    for key, value, words in (
        ("classify.bias", torch.tensor([0.0, float("nan"), 0.0]), "holds NaN or infinite"),
        ("classify.bias", torch.tensor([0.0, float("-inf"), 0.0]), "holds NaN or infinite"),
        ("classify.bias", torch.tensor([0.0, 1e300, 0.0], dtype=torch.float64), "holds NaN or infinite"),
        ("classify.bias", torch.tensor([0, 1, 2]), "is of int64"),
        (variance, state[variance] - 5, "is a variance below 0"),
        ("classify.weight", torch.zeros_like(state["classify.weight"]), "holds nothing but zeros"),
    ):
        save_file(state | {key: value}, tmp_path / "w.safetensors")
        with pytest.raises(ModelError, match=rf"w\.safetensors.*{re.escape(key)} {words}"):
            load_weights(network, tmp_path / "w.safetensors")
    for kind in (torch.bfloat16, torch.float8_e4m3fn):
        save_file({key: value.to(kind) for key, value in state.items()}, tmp_path / "w.safetensors")
        load_weights(network, tmp_path / "w.safetensors")
        assert network.classify.weight.dtype == torch.float32


def test_no_model_is_written_with_weights_that_are_none(written: Path, tmp_path: Path) -> None:
    card = pfmap.load_model(written).card
    network = PFNet(card.architecture)
    with torch.no_grad():
        network.classify.bias[0] = 1e6  # more than float16 holds
    write_model(tmp_path / "large", card, network)
    assert load_file(tmp_path / "large" / "weights.safetensors")["classify.bias"][0] == 1e6
    with torch.no_grad():
        network.classify.bias[0] = float("inf")
    with pytest.raises(ModelError, match=r"classify\.bias holds NaN or infinite"):
        write_model(tmp_path / "diverged", card, network)
    assert not (tmp_path / "diverged").exists()


class Overflows(nn.Module):
    """One class of one pixel is no number, in windows that are bright there."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.inner, self.value = Pointwise(3), value

    def forward(self, image: Tensor) -> Tensor:
        logits = self.inner(image)
        logits[:, 1, 5, 7] = torch.where(image[:, 0, 5, 7] > 0.99, self.value, logits[:, 1, 5, 7])
        return logits


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_window_whose_logits_are_not_finite_stops_the_run(
    value: float, write_scene: Write, tmp_path: Path
) -> None:
    image = blobs(200, 300)
    image[:, 64 + 5, 128 + 7] = 255
    for precision, remedy in (("float32", "weights are damaged"), ("bfloat16", "precision='float32'")):
        with pytest.raises(DeviceError, match=f"window 2 of window row 1, .*{remedy}"):
            pfmap.predict(
                write_scene(image),
                tmp_path / "out",
                model=stand_in(network=Overflows(value)),
                device="cpu",
                overlap=0,
                batch_size=2,
                precision=precision,
            )
        assert [path for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")] == []
    # The same window alone, as calibration and probes ask for it.
    spec = InputSpec(("red", "green", "blue"), 255.0, (0.0,) * 3, (1.0,) * 3, 64, (0.1, 1.0))
    bright = np.full((3, 64, 64), 255, dtype=np.uint8)
    with pytest.raises(DeviceError, match="a window"):
        Predictor(Overflows(value), spec).probabilities([bright], [np.ones((64, 64), dtype=bool)])
