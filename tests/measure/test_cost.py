"""What networks cost: the published figures, and hand counts."""

import json

import pytest
import torch
from click.testing import CliRunner, Result

from pfmap.cli.main import cli
from pfmap.core.card import Architecture
from pfmap.core.errors import ModelError, UsageError
from pfmap.measure.cost import Cost, cost_of, find_architecture
from pfmap.net.pfnet import PFNet


@pytest.fixture(scope="module")
def published() -> Cost:
    return cost_of(Architecture("resnet50", 19), 512)


def test_the_papers_network_has_the_published_size(published: Cost) -> None:
    # Li et al., Table 6: 33.0 M and 85.8 G.
    assert f"{published.parameters / 1e6:.1f}" == "33.0"
    assert published.parameters == 32_994_774
    assert published.multiply_adds == pytest.approx(85.8e9, rel=2e-3)
    assert cost_of(Architecture("resnet101", 19), 512).parameters == pytest.approx(51.99e6, rel=1e-4)


def test_the_published_baseline_has_the_edge_heads_parameters() -> None:
    """Table 6 gives the baseline 32.9 M: that is Semantic FPN with PPM plus the three edge heads."""
    baseline = cost_of(Architecture("resnet50", 19, flow="none"), 512)
    edge_head = 9 * 256 * 256 + 2 * 256 + 9 * 256
    assert baseline.parameters == 31_114_707
    assert f"{(baseline.parameters + 3 * edge_head) / 1e6:.1f}" == "32.9"
    assert baseline.multiply_adds == pytest.approx(81.96e9, rel=1e-3)


def _conv(pixels: int, kernel: int, inputs: int, outputs: int) -> int:
    return pixels * kernel**2 * inputs * outputs


def test_the_decoder_is_counted_as_by_hand(published: Cost) -> None:
    side = {4: 128**2, 8: 64**2, 16: 32**2, 32: 16**2}
    counts = {part.name: part.multiply_adds for part in published.parts}
    assert counts["head"] == _conv(side[4], 3, 4 * 256, 256)
    assert counts["classify"] == _conv(side[4], 1, 256, 19)
    assert counts["smooth"] == sum(_conv(side[s], 3, 256, 256) for s in (4, 8, 16))
    assert counts["laterals"] == sum(_conv(side[s], 1, 64 * s, 256) for s in (4, 8, 16))
    pooled = sum(_conv(bins**2, 1, 2048, 256) for bins in (1, 2, 3, 6))
    assert counts["context"] == pooled + _conv(side[32], 1, 2048 + 4 * 256, 256)
    flows = 0
    for coarse, fine in ((32, 16), (16, 8), (8, 4)):
        flows += _conv(side[coarse], 1, 256, 64) + _conv(side[fine], 1, 256, 64)
        flows += _conv(side[coarse], 3, 128, 1)
        flows += _conv(side[coarse], 3, 256, 256) + _conv(side[coarse], 3, 256, 1)
        flows += 2 * 256 * (128**2 + 196**2)  # affinity and weighted sum of K and of 14 x 14 points
    assert counts["flow modules"] == flows


def test_the_factored_head_is_what_pfmap_saves(published: Cost) -> None:
    plain = next(part.multiply_adds for part in published.parts if part.name == "head")
    finest, taps = _conv(128**2, 3, 256, 256), sum(_conv(h**2, 3, 256, 256) for h in (64, 32, 16))
    rows = sum(3 * h * 128 * (3 * 256 * h) for h in (64, 32, 16))
    cols = sum(3 * h * 128 * (256 * 128) for h in (64, 32, 16))
    assert published.multiply_adds - published.factored == plain - (finest + taps + rows + cols)


@pytest.mark.parametrize(
    "variant", [{}, {"flow": "none"}, {"context": "aspp"}, {"direction": "both", "flow": "boundary"}]
)
def test_every_parameter_and_multiply_add_belongs_to_a_part(variant: dict[str, str]) -> None:
    architecture = Architecture("efficientnet_lite0", 3, width=16, embedding=8, **variant)
    cost = cost_of(architecture, 128)
    network = PFNet(architecture).eval()
    assert cost.parameters == sum(p.numel() for p in network.parameters())
    flows = next(part for part in cost.parts if part.name == "flow modules")
    assert bool(flows.parameters) == bool(flows.multiply_adds) == (variant.get("flow") != "none")
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, 3, 128, 128))
    assert cost.multiply_adds == counter.get_total_flops() // 2


def describe(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["models", "describe", *arguments])


def test_the_command_shows_a_table_and_json() -> None:
    table = describe("resnet50", "--set", "classes=19")
    assert table.exit_code == 0
    assert "whole                      32,994,774       85.672 G" in table.stdout
    parts = [line.split("  ")[0] for line in table.stdout.splitlines()[2:-2]]
    assert parts == ["encoder", "context", "laterals", "flow modules", "smooth", "head", "classify"]
    data = json.loads(describe("resnet50", "--size", "256", "--set", "flow_levels=4,16", "--json").stdout)
    assert data["architecture"]["flow_levels"] == [4, 16]
    assert data["architecture"]["classes"] == 16
    assert data["size"] == 256
    assert data["parameters"] == sum(part["parameters"] for part in data["parts"])


def test_models_are_described_by_name() -> None:
    data = json.loads(describe("landcover", "--json").stdout)
    assert data["architecture"]["encoder"] == "efficientnet_lite0"
    assert data["architecture"]["classes"] == 5


def test_settings_are_changed_by_name() -> None:
    changed = find_architecture("resnet101", ["flow=salient", "flow_levels=8", "width=128"])
    assert changed == Architecture("resnet101", 16, flow="salient", flow_levels=(8,), width=128)


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (("vgg16",), ModelError, "'vgg16' is unknown.*resnet50, resnet101, efficientnet_lite0"),
        (("resnet50", "--size", "500"), ModelError, "multiples of 32"),
        (("resnet50", "--set", "flow"), UsageError, "KEY=VALUE"),
        (("resnet50", "--set", "colour=red"), ModelError, "unknown keys: colour"),
        (("resnet50", "--set", "flow=all"), ModelError, "flow 'all' is unknown"),
        (("resnet50", "--set", "width=wide"), ModelError, "width has to be int"),
        (("resnet50", "--set", "flow_levels=4,6"), ModelError, "flow_levels"),
    ],
)
def test_what_cannot_be_described_is_one_clear_error(
    arguments: tuple[str, ...], kind: type[Exception], words: str
) -> None:
    done = describe(*arguments)
    assert isinstance(done.exception, kind)
    with pytest.raises(kind, match=words):
        raise done.exception
