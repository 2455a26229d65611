"""The PointFlow module's equations, each against a plain loop."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pfmap.core.card import Architecture
from pfmap.net.pointflow import (
    PointFlow,
    _sample,
    flow_points,
    largest_points,
    salient_points,
    to_target,
)


def test_salient_points_are_the_maxima_of_their_cells() -> None:
    saliency = torch.rand(2, 1, 28, 42)
    at, peaks = salient_points(saliency, 14)
    for batch in range(2):
        for cell in range(14 * 14):
            row, col = divmod(cell, 14)
            patch = saliency[batch, 0, row * 2 : row * 2 + 2, col * 3 : col * 3 + 3]
            assert peaks[batch, 0, row, col] == patch.max()
            assert saliency[batch].flatten()[at[batch, cell]] == patch.max()


@pytest.mark.parametrize(("size", "count"), [((20, 20), 128), ((4, 4), 16)])
def test_boundary_points_are_the_largest_logits(size: tuple[int, int], count: int) -> None:
    logits = torch.randn(2, 1, *size)
    at = largest_points(logits, 128)
    assert at.shape == (2, count)
    for batch in range(2):
        chosen = logits[batch].flatten()[at[batch]].sort().values
        assert torch.equal(chosen, logits[batch].flatten().sort().values[-count:])


def test_flow_is_an_unscaled_softmax_over_the_coarse_points() -> None:
    source, target = torch.randn(2, 5, 7), torch.randn(2, 5, 7)
    result = flow_points(source, target)
    for batch in range(2):
        for point in range(7):
            affinity = torch.tensor([float(target[batch, :, point] @ source[batch, :, j]) for j in range(7)])
            weights = affinity.exp() / affinity.exp().sum()
            carried = sum(weights[j] * source[batch, :, j] for j in range(7))
            torch.testing.assert_close(result[batch, :, point], target[batch, :, point] + carried)


def test_large_affinities_do_not_overflow_float16() -> None:
    source = torch.full((1, 256, 4), 30.0, dtype=torch.float16)
    with torch.autocast("cpu", torch.float16):
        result = flow_points(source, source)
    assert result.dtype == torch.float16
    torch.testing.assert_close(result, source * 2)


@given(row=st.integers(0, 11), col=st.integers(0, 19))
@settings(max_examples=50, deadline=None)
def test_coarse_pixels_go_to_their_fine_corner(row: int, col: int) -> None:
    coarse, fine = torch.zeros(1, 1, 12, 20), torch.zeros(1, 1, 24, 40)
    at = to_target(torch.tensor([[row * 20 + col]]), coarse, fine)
    assert divmod(int(at), 40) == (2 * row, 2 * col)


def test_sampling_reads_pixel_centres() -> None:
    coarse, fine = torch.randn(1, 3, 4, 6), torch.randn(1, 3, 8, 12)
    at = torch.arange(24)[None]
    torch.testing.assert_close(_sample(coarse, at, coarse), coarse.flatten(2))
    # A coarse pixel's centre lies in the middle of four fine pixels.
    middle = torch.nn.functional.avg_pool2d(fine, 2).flatten(2)
    torch.testing.assert_close(_sample(fine, at, coarse), middle)


def test_only_selected_points_change_and_salient_ones_win() -> None:
    torch.manual_seed(0)
    settings = Architecture("resnet50", 2, width=8, embedding=4, salient_bins=3, smooth_bins=2, edge_points=5)
    module = PointFlow(settings).eval()
    coarse, fine = torch.randn(1, 8, 6, 6), torch.randn(1, 8, 12, 12)
    with torch.inference_mode():
        out, edges, _ = module(coarse, fine)
        saliency = module.saliency(coarse, fine)
        salient, peaks = salient_points(saliency, 3)
        edge = largest_points(edges, 5)
    changed = {int(i) for i in (out != fine).any(dim=1).flatten().nonzero()}
    salient_at = {int(i) for i in to_target(salient, coarse, fine).flatten()}
    edge_at = {int(i) for i in to_target(edge, coarse, fine).flatten()}
    assert changed == salient_at | edge_at
    boosted = coarse + module_resize(peaks) * coarse
    source = boosted.flatten(2)[..., salient[0]]
    target = fine.flatten(2)[..., to_target(salient, coarse, fine)[0]]
    expected = flow_points(source, target)
    got = out.flatten(2)[..., to_target(salient, coarse, fine)[0]]
    torch.testing.assert_close(got, expected)


def module_resize(peaks: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.interpolate(peaks, size=(6, 6), mode="bilinear", align_corners=True)
