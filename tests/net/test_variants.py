"""The networks of the paper's ablations: what runs, what exists, and each against an independent writing."""

import dataclasses
import tomllib
from fractions import Fraction
from itertools import pairwise
from math import floor
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
import torch.nn.functional as F
from conftest import stand_in
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pfmap.core.card import Architecture, card_table, parse_card
from pfmap.core.errors import ModelError
from pfmap.core.tables import build
from pfmap.net.fast import factor_head
from pfmap.net.layers import resize
from pfmap.net.pfnet import PFNet
from pfmap.net.pointflow import PointFlow, flow_points, largest_points, to_target, uniform_points

VARIANTS: list[dict[str, Any]] = [
    {},
    {"context": "none"},
    {"context": "aspp"},
    {"context": "aspp", "flow": "none"},
    {"flow": "none"},
    {"flow": "none", "context": "none"},
    {"flow": "salient"},
    {"flow": "boundary"},
    {"flow_levels": (4,)},
    {"flow_levels": (8,)},
    {"flow_levels": (16,)},
    {"flow_levels": (16, 4)},
    {"salient_points": "uniform"},
    {"salient_points": "attention"},
    {"flow": "salient", "salient_points": "uniform"},
    {"edge_features": "addition"},
    {"edge_features": "direct"},
    {"flow": "boundary", "edge_features": "direct"},
    {"direction": "bottom_up"},
    {"direction": "both"},
    {"direction": "both", "flow": "none"},
    {"direction": "bottom_up", "flow": "boundary", "flow_levels": (8,)},
]


def small(**variant: Any) -> Architecture:
    return Architecture("efficientnet_lite0", 3, **{"width": 8, "embedding": 4, **variant})


def network(**variant: Any) -> PFNet:
    torch.manual_seed(0)
    return PFNet(small(**variant))


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_variant_runs_and_training_reaches_every_weight(variant: dict[str, Any]) -> None:
    net = network(**variant).train()
    output = net.compute(torch.randn(2, 3, 96, 160))
    loss = output.logits.square().mean() + sum(e.square().mean() for e in output.edges)
    loss.backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []
    assert output.logits.shape == (2, 3, 24, 40)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_the_factored_head_serves_every_variant(variant: dict[str, Any]) -> None:
    net = network(**variant).eval()
    image = torch.randn(1, 3, 64, 128)
    with torch.inference_mode():
        plain = net(image)
        factor_head(net)
        torch.testing.assert_close(net(image), plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_variant_owns_the_modules_it_uses_and_no_others(variant: dict[str, Any]) -> None:
    architecture = small(**variant)
    flow, direction = architecture.flow, architecture.direction
    parts = set()
    if flow in {"both", "boundary"}:
        parts |= {"edge"}
    if flow in {"both", "salient"} or (flow == "boundary" and architecture.edge_features != "direct"):
        parts |= {"embed_coarse", "embed_fine", "match"}
    lists = {"top_down": ["flows"], "bottom_up": ["flows_up"], "both": ["flows", "flows_up"]}[direction]
    wanted = {
        f"{name}.{index}.{part}"
        for name in lists
        for index, level in enumerate((4, 8, 16))
        for part in parts
        if level in architecture.flow_levels
    }
    net = network(**variant)
    owned = {".".join(key.split(".")[:3]) for key in net.state_dict() if key.startswith("flows")}
    assert owned == wanted
    context = {key.split(".")[1] for key in net.state_dict() if key.startswith("ppm.")}
    assert (
        context
        == {
            "ppm": {"projections", "fuse"},
            "aspp": {"branches", "whole", "fuse"},
            "none": {"0", "1"},
        }[architecture.context]
    )
    with torch.inference_mode():
        output = net.eval().compute(torch.randn(1, 3, 64, 64))
    modules = 0 if flow == "none" else len(architecture.flow_levels) * len(lists)
    assert len(output.flows) == len(output.points) == modules
    assert len(output.edges) == (modules if flow in {"both", "boundary"} else 0)


def _conv(state: dict[str, Tensor], key: str, features: Tensor, padding: int = 0) -> Tensor:
    """Convolution, batch norm with running figures, ReLU: written out, on the weights named `key`."""
    out = F.conv2d(features, state[f"{key}.0.weight"], state.get(f"{key}.0.bias"), padding=padding)
    shape = (1, -1, 1, 1)
    mean, var = state[f"{key}.1.running_mean"].view(shape), state[f"{key}.1.running_var"].view(shape)
    gain, bias = state[f"{key}.1.weight"].view(shape), state[f"{key}.1.bias"].view(shape)
    return ((out - mean) / (var + 1e-5).sqrt() * gain + bias).clamp(min=0)


def semantic_fpn(state: dict[str, Tensor], maps: list[Tensor]) -> Tensor:
    """Semantic FPN after Kirillov et al. 2019, with this project's head, from its weights by name."""
    pyramid = [_conv(state, "ppm", maps[3])]
    for level in (2, 1, 0):
        lateral = _conv(state, f"laterals.{level}", maps[level])
        up = F.interpolate(pyramid[0], size=lateral.shape[-2:], mode="bilinear", align_corners=True)
        pyramid.insert(0, lateral + up)
    outs = [_conv(state, f"smooth.{level}", pyramid[level], padding=1) for level in (0, 1, 2)]
    size = outs[0].shape[-2:]
    up = [F.interpolate(x, size=size, mode="bilinear", align_corners=True) for x in (*outs[1:], pyramid[3])]
    head = _conv(state, "head", torch.cat([outs[0], *up], dim=1), padding=1)
    return F.conv2d(head, state["classify.weight"], state["classify.bias"])


def test_without_flow_and_context_it_is_semantic_fpn() -> None:
    net = network(flow="none", context="none").eval()
    for module in net.modules():  # batch norm that does something
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    with torch.inference_mode():
        image = torch.randn(2, 3, 96, 128)
        expected = semantic_fpn(net.state_dict(), net.encoder(image))
        torch.testing.assert_close(net.compute(image).logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("level", [4, 8, 16])
def test_a_flow_level_is_named_by_the_stride_it_flows_into(level: int) -> None:
    net = network(flow_levels=(level,)).eval()
    with torch.inference_mode():
        output = net.compute(torch.randn(1, 3, 128, 192))
    assert output.flows[0].shape[-2:] == (128 // level, 192 // level)
    assert output.points[0].grid == (64 // level, 96 // level)
    assert output.edges[0].shape[-2:] == output.points[0].grid


@given(height=st.integers(1, 40), width=st.integers(1, 40), bins=st.integers(1, 20), batch=st.integers(1, 2))
@settings(max_examples=50, deadline=None)
def test_uniform_points_are_the_pixels_at_the_centres_of_a_grid(
    height: int, width: int, bins: int, batch: int
) -> None:
    at = uniform_points(torch.rand(batch, 1, height, width), bins)
    assert at.shape == (batch, bins**2)
    middles = [Fraction(2 * i + 1, 2 * bins) for i in range(bins)]
    wanted = [floor(y * height) * width + floor(x * width) for y in middles for x in middles]
    for row in at.tolist():
        assert row == wanted


def test_attention_points_are_the_largest_of_the_whole_map() -> None:
    saliency = torch.rand(2, 1, 20, 30)
    at = largest_points(saliency, 49)
    order = saliency.flatten(1).argsort(dim=1, descending=True)[:, :49]
    assert torch.equal(at.sort(dim=1).values, order.sort(dim=1).values)
    assert largest_points(saliency[..., :2, :3], 49).shape == (2, 6)


@pytest.mark.parametrize("kind", ["max_pool", "uniform", "attention"])
def test_however_salient_points_are_picked_they_are_as_many(kind: str) -> None:
    net = network(flow="salient", salient_points=kind, salient_bins=3).eval()
    with torch.inference_mode():
        output = net.compute(torch.randn(1, 3, 128, 128))
    for points in output.points:
        assert points.salient is not None
        assert points.boundary is None
        assert points.salient.shape == (1, 9)
    rows, cols = output.points[2].salient[0] // 16, output.points[2].salient[0] % 16
    on_grid = set(rows.tolist()) == set(cols.tolist()) == {2, 8, 13}
    assert on_grid == (kind == "uniform")


@pytest.mark.parametrize(("kind", "sign"), [("subtraction", -1), ("addition", 1), ("direct", 0)])
def test_contours_are_looked_for_in_the_map_less_or_plus_its_bulk(kind: str, sign: int) -> None:
    torch.manual_seed(1)
    module = PointFlow(small(edge_features=kind, smooth_bins=3)).eval()
    seen: list[Tensor] = []
    module.edge.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    source, target = torch.randn(1, 8, 6, 9), torch.randn(1, 8, 12, 18)
    with torch.inference_mode():
        module(source, target)
        bulk = resize(F.avg_pool2d(module.saliency(source, target), (2, 3)), (6, 9))
    torch.testing.assert_close(seen[0], source + sign * source * bulk)


@pytest.mark.parametrize("flow", ["salient", "boundary"])
def test_one_flow_alone_is_its_half_of_both(flow: str) -> None:
    torch.manual_seed(2)
    both = PointFlow(small(salient_bins=3, edge_points=5)).eval()
    alone = PointFlow(small(flow=flow, salient_bins=3, edge_points=5)).eval()
    alone.load_state_dict({k: v for k, v in both.state_dict().items() if k in alone.state_dict()})
    source, target = torch.randn(1, 8, 8, 8), torch.randn(1, 8, 16, 16)
    with torch.inference_mode():
        whole, half = both(source, target), alone(source, target)
    at = half.points.salient if flow == "salient" else half.points.boundary
    assert torch.equal(at, whole.points.salient if flow == "salient" else whole.points.boundary)
    mine = to_target(at, source, target)[0]
    changed = (half.features != target).any(dim=1).flatten().nonzero().flatten()
    assert set(changed.tolist()) == set(mine.tolist())
    hidden = set() if flow == "salient" else set(to_target(whole.points.salient, source, target)[0].tolist())
    shown = [i for i in mine.tolist() if i not in hidden]
    assert shown
    got, wanted = half.features.flatten(2)[..., shown], whole.features.flatten(2)[..., shown]
    torch.testing.assert_close(got, wanted)


def test_bottom_up_fine_points_speak_to_the_coarse_pixels_that_hold_them() -> None:
    torch.manual_seed(3)
    module = PointFlow(small(salient_bins=3, edge_points=20)).eval()
    fine, coarse = torch.randn(1, 8, 16, 24), torch.randn(1, 8, 8, 12)
    with torch.inference_mode():
        out = module(fine, coarse)
    assert out.points.grid == (16, 24)
    holders, salient_holders = _holders(out.points.boundary[0]), _holders(out.points.salient[0])
    assert len(set(holders)) < 20, "some points share a pixel, or nothing is tested"
    written = {*holders, *salient_holders}
    changed = (out.features != coarse).any(dim=1).flatten().nonzero().flatten().tolist()
    assert set(changed) == written
    # What a coarse pixel learns depends on its own features and the set of points, so sharers agree.
    asked = torch.stack([coarse[0].flatten(1)[:, i] for i in holders], dim=1)[None]
    values = flow_points(fine.flatten(2)[..., out.points.boundary[0]], asked)[0]
    for i, pixel in enumerate(holders):
        if pixel not in salient_holders:
            torch.testing.assert_close(out.features[0].flatten(1)[:, pixel], values[:, i])


def _holders(at: Tensor) -> list[int]:
    return (at // 24 // 2 * 12 + at % 24 // 2).tolist()


@pytest.mark.parametrize(
    ("direction", "sources"),
    [("top_down", [32, 16, 8]), ("bottom_up", [4, 8, 16]), ("both", [32, 16, 8, 4, 8, 16])],
)
def test_directions_visit_the_levels_in_order(direction: str, sources: list[int]) -> None:
    net = network(direction=direction).eval()
    with torch.inference_mode():
        output = net.compute(torch.randn(1, 3, 128, 128))
    assert [128 // p.grid[0] for p in output.points] == sources
    # Each step reads what the step before it has written.
    assert all(before[1] == after[0] or before[1] == 0 for before, after in pairwise(net.steps()))


def test_bottom_up_the_finest_level_hears_of_nothing() -> None:
    heard = {}
    for direction in ("top_down", "bottom_up", "both"):
        net = network(direction=direction).eval()
        seen: list[Tensor] = []
        net.smooth[0].register_forward_pre_hook(lambda _m, args, seen=seen: seen.append(args[0]))
        with torch.inference_mode():
            image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
            net.compute(image)
            heard[direction] = bool((seen[0] != net.laterals[0](net.encoder(image)[0])).any())
    assert heard == {"top_down": True, "bottom_up": False, "both": True}


def test_a_card_keeps_the_variant() -> None:
    variant = small(
        context="aspp",
        flow="salient",
        flow_levels=(16, 4),
        salient_points="uniform",
        edge_features="direct",
        direction="both",
    )
    card = dataclasses.replace(stand_in().card, architecture=variant)
    text = tomli_w.dumps(card_table(card))
    assert parse_card(tomllib.loads(text), Path("model.toml")) == card


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("context", "psp", "context 'psp' is unknown: use one of ppm, aspp, none"),
        ("flow", "some", "flow 'some' is unknown: use one of both, salient, boundary, none"),
        ("flow", 3, "flow 3 is unknown"),
        ("salient_points", "random", "max_pool, uniform, attention"),
        ("edge_features", "product", "subtraction, addition, direct"),
        ("direction", "sideways", "top_down, bottom_up, both"),
        ("flow_levels", [], "name one or more of the strides 4, 8, 16"),
        ("flow_levels", [32], r"flow_levels is \[32\]"),
        ("flow_levels", [8, 8], "each once"),
        ("flow_levels", [8.0], "whole numbers"),
        ("flow_levels", ["8"], "whole numbers"),
        ("flow_levels", 8, "has to be a list, not 8"),
    ],
)
def test_settings_that_do_not_exist_are_refused(key: str, value: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build(Architecture, {"encoder": "resnet50", "classes": 3, key: value}, "architecture")


@pytest.mark.parametrize("bad", [{"flow": "some"}, {"flow_levels": ()}, {"flow_levels": (4, 4)}])
def test_settings_are_checked_in_python_too(bad: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="flow"):
        Architecture("resnet50", 3, **bad)
