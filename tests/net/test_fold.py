"""Batch norm folded into convolutions: the same function."""

import pytest
import torch
from torch import nn

from pfmap.core.card import Architecture
from pfmap.net.fast import factor_head, fold_batch_norm
from pfmap.net.pfnet import PFNet


def probabilities(network: PFNet, image: torch.Tensor) -> torch.Tensor:
    """Of the classes, and of contact behind them."""
    logits = network(image)
    return torch.cat([torch.softmax(logits[:, :5], dim=1), torch.sigmoid(logits[:, 5:])], dim=1)


@pytest.mark.parametrize("encoder", ["efficientnet_lite0", "resnet50"])
@pytest.mark.parametrize("factored", [False, True])
def test_a_folded_network_computes_the_same(encoder: str, factored: bool) -> None:
    torch.manual_seed(0)
    network = PFNet(Architecture(encoder, 5, width=32, contact=("roof",)))  # type: ignore[arg-type]
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # as after training: anything but 0 and 1
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    network.eval()
    image = torch.randn(2, 3, 96, 128)
    with torch.inference_mode():
        wanted = probabilities(network, image)
        folded = fold_batch_norm(network)
        if factored:
            factor_head(folded)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
        assert torch.equal(probabilities(network, image), wanted)  # it is left alone
        torch.testing.assert_close(probabilities(folded, image), wanted, atol=1e-4, rtol=0)
