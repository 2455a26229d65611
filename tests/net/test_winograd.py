"""3x3 convolutions by minimal filtering: the same numbers as direct ones."""

import pytest
import torch
from torch import nn

from pfmap.net import fast as winograd
from pfmap.net.fast import WinogradConv2d, suits


@pytest.mark.parametrize("size", [(4, 4), (6, 6), (13, 30), (64, 96)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_it_is_the_direct_convolution(size: tuple[int, int], bias: bool, dilation: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(64, 128, 3, padding=dilation, dilation=dilation, bias=bias)
    image = torch.randn(2, 64, *size)
    with torch.inference_mode():
        wanted = conv.double()(image.double())
        found = WinogradConv2d(conv.float())(image)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), wanted, atol=2e-5, rtol=0)


def test_many_strips_and_images_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    conv, images = WinogradConv2d(nn.Conv2d(64, 128, 3, padding=1)), torch.randn(5, 64, 23, 18)
    whole = conv(images)
    for strip in (1, 300_000, 2_000_000):
        monkeypatch.setattr(winograd, "_STRIP", strip)
        torch.testing.assert_close(conv(images), whole, atol=1e-5, rtol=0)


def test_its_error_is_that_of_float32() -> None:
    """In units of float32's last place: what a plain convolution loses depends on the processor."""
    torch.manual_seed(0)
    conv = nn.Conv2d(256, 256, 3, padding=1)
    image = torch.relu(torch.randn(1, 256, 32, 32))
    with torch.inference_mode():
        found = WinogradConv2d(conv)(image)
        exact = conv.double()(image.double())
    error = (found - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert error < 16 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize(
    "changed",
    [{"stride": 2}, {"padding": 0}, {"dilation": 2}, {"groups": 128}, {"kernel_size": 1}],
)
def test_other_convolutions_are_left_alone(changed: dict[str, int]) -> None:
    assert suits(nn.Conv2d(128, 128, 3, padding=1))
    settings = {"in_channels": 128, "out_channels": 128, "kernel_size": 3, "padding": 1}
    assert not suits(nn.Conv2d(**settings | changed))
    assert not suits(nn.Conv2d(32, 128, 3, padding=1))
