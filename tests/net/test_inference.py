"""The network that prediction runs computes what the published one does."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from torch import nn

import pfmap
from pfmap.core.card import Architecture
from pfmap.model.store import Model
from pfmap.net.fast import WinogradConv2d, for_inference
from pfmap.net.pfnet import PFNet


@pytest.mark.parametrize("encoder", ["efficientnet_lite0", "resnet50"])
def test_the_fast_network_computes_the_same(encoder: str) -> None:
    torch.manual_seed(0)
    network = PFNet(Architecture(encoder, 5, width=128, contact=("roof",))).eval()  # type: ignore[arg-type]
    image = torch.randn(2, 3, 96, 128)
    with torch.inference_mode():
        wanted = torch.sigmoid(network(image))
        fast = for_inference(network, torch.device("cpu"), torch.float32)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
        assert sum(isinstance(module, WinogradConv2d) for module in fast.modules()) >= 7
        torch.testing.assert_close(torch.sigmoid(fast(image)), wanted, atol=1e-4, rtol=0)
        assert torch.equal(torch.sigmoid(network(image)), wanted)  # it is left alone


def test_in_low_precision_convolutions_stay_direct() -> None:
    fast = for_inference(PFNet(Architecture("resnet50", 5)).eval(), torch.device("cpu"), torch.bfloat16)
    assert not any(isinstance(module, WinogradConv2d) for module in fast.modules())


def changed_by_bfloat16(network: PFNet, image: torch.Tensor) -> float:
    """The share of pixels that get another class."""
    maps = []
    for precision in (torch.float32, torch.bfloat16):
        fast = for_inference(network, torch.device("cpu"), precision)
        with torch.inference_mode(), torch.autocast("cpu", precision, enabled=precision != torch.float32):
            maps.append(fast(image)[:, : network.architecture.classes].argmax(dim=1))
    assert len(maps[0].unique()) >= 2
    return float((maps[0] != maps[1]).float().mean())


def banepa(model: Model, side: int) -> torch.Tensor:
    """A piece of the example, as the network is to see it."""
    spec = model.card.input
    with rasterio.open(Path(__file__).parents[2] / "examples" / "banepa.tif") as src:
        pixels = src.read(window=((1024, 1024 + side), (300, 300 + side)))
    mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (spec.mean, spec.std))
    return torch.from_numpy((pixels.astype(np.float32) / spec.scale - mean) / std)[None]


def test_bfloat16_changes_few_classes() -> None:
    model = pfmap.load_model("landcover")
    assert isinstance(model.network, PFNet)
    assert changed_by_bfloat16(model.network, banepa(model, 384)) < 0.003
    torch.manual_seed(0)
    assert changed_by_bfloat16(PFNet(Architecture("resnet50", 16)).eval(), banepa(model, 256)) < 0.01
