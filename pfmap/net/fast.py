"""The network as prediction runs it: the same function, in fewer and cheaper operations."""

import copy
from itertools import pairwise
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pfmap.net.layers import PyramidConv
from pfmap.net.pfnet import PFNet


def for_inference(network: PFNet, device: torch.device, precision: torch.dtype) -> PFNet:
    """Copy a network in evaluation mode and rebuild the copy for speed.

    Batch norms are folded into convolutions, the head reads its coarse levels at their own size
    (`PyramidConv`), weights lie as channels-last arithmetic wants them, and where the device has no
    units for matrix products of its own, wide 3x3 convolutions multiply less (`WinogradConv2d`).

    Args:
        network: left as it is.
        device: where the copy goes.
        precision: type of the heavy arithmetic.
    """
    fast = fold_batch_norm(network)
    convolve = fast.head[0]
    assert isinstance(convolve, nn.Conv2d)
    fast.head[0] = PyramidConv(convolve, levels=4)
    if device.type == "cpu" and precision == torch.float32:
        _replace_convolutions(fast)
    # torch's stubs know .to(device) and .to(memory_format=...), each alone
    fast.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return fast


def _replace_convolutions(network: nn.Module) -> None:
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d) and suits(child):
                setattr(module, name, WinogradConv2d(child))


Net = TypeVar("Net", bound=nn.Module)


def fold_batch_norm(network: Net) -> Net:
    """Copy a network in evaluation mode with every batch norm folded into the convolution before it.

    A batch norm is taken to follow the convolution that is registered right before it in the same module, as
    everywhere in PFNet. In its place stays an `Identity`, so that the modules can be walked as before.
    """
    folded = copy.deepcopy(network)
    for module in list(folded.modules()):
        children = list(module.named_children())
        for (name, before), (norm_name, norm) in pairwise(children):
            if isinstance(before, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(before, norm))
                setattr(module, norm_name, nn.Identity())
    return folded


_TILE = 4  # pixels that a tile gives
_SEEN = 6  # pixels that it sees
_STRIP = 8 << 20  # bytes of transformed tiles in work at a time: they are to stay in a processor's cache

_POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)


def _transforms() -> tuple[Tensor, Tensor, Tensor]:
    """Build the transforms of one axis, float64: outputs ``(4, 6)``, taps ``(6, 3)``, inputs ``(6, 6)``.

    ``outputs @ ((taps @ g) * (inputs @ d))`` is the correlation of six values d with three taps g.
    """
    points = torch.tensor(_POINTS, dtype=torch.float64)
    powers = points[:, None] ** torch.arange(_SEEN)
    taps, inputs = torch.zeros(_SEEN, 3).double(), torch.zeros(_SEEN, _SEEN).double()
    outputs = torch.zeros(_TILE, _SEEN).double()
    for row, point in enumerate(points):
        others = points[torch.arange(len(points)) != row]
        taps[row] = powers[row, :3] / (point - others).prod()
        inputs[row] = _polynomial(others)
        outputs[:, row] = powers[row, :_TILE]
    # the point at infinity
    taps[-1, -1] = 1
    inputs[-1] = _polynomial(points)
    outputs[-1, -1] = 1
    return outputs, taps, inputs


def _polynomial(roots: Tensor) -> Tensor:
    """Return the six coefficients, lowest first, of the monic polynomial with these roots."""
    out = torch.zeros(_SEEN, dtype=torch.float64)
    out[0] = 1
    for root in roots:
        out = out.roll(1) - root * out
    return out


def suits(conv: nn.Conv2d) -> bool:
    """Say whether a convolution can be computed this way, and has the channels to gain by it."""
    return (
        conv.kernel_size == (3, 3)
        and conv.stride == (1, 1)
        and conv.padding == conv.dilation
        and conv.dilation[0] == conv.dilation[1]
        and conv.groups == 1
        and conv.padding_mode == "zeros"
        and min(conv.in_channels, conv.out_channels) >= 64
        and max(conv.in_channels, conv.out_channels) >= 128
    )


class WinogradConv2d(nn.Module):
    """A convolution 3x3 with stride 1 that keeps the map's size, for inference in float32.

    Dilated by d, it is one of d * d maps on its own, each of every d-th row and column.

    Args:
        conv: one that `suits`.
    """

    taps: Tensor
    inputs: Tensor
    outputs: Tensor
    bias: Tensor | None

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        outputs, taps, inputs = _transforms()
        spread = taps @ conv.weight.detach().double() @ taps.T
        self.register_buffer("taps", spread.permute(2, 3, 1, 0).flatten(0, 1).float().contiguous())
        self.register_buffer("inputs", torch.kron(inputs, inputs).float())
        self.register_buffer("outputs", torch.kron(outputs, outputs).float())
        self.register_buffer("bias", None if conv.bias is None else conv.bias.detach().clone())
        self.dilation = conv.dilation[0]

    def forward(self, features: Tensor) -> Tensor:
        """Convolve ``(B, C, H, W)`` to ``(B, O, H, W)``, channels last in memory; best if they came so."""
        batch, _, height, width = features.shape
        images = features.permute(0, 2, 3, 1)
        if (step := self.dilation) == 1:
            return self._convolve(images).permute(0, 3, 1, 2)
        images = F.pad(images, (0, 0, 0, -width % step, 0, -height % step))
        down, across = images.shape[1] // step, images.shape[2] // step
        apart = images.reshape(batch, down, step, across, step, -1).permute(0, 2, 4, 1, 3, 5)
        made = self._convolve(apart.flatten(0, 2)).view(batch, step, step, down, across, -1)
        joined = made.permute(0, 3, 1, 4, 2, 5).reshape(batch, down * step, across * step, -1)
        return joined[:, :height, :width].permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)

    def _convolve(self, images: Tensor) -> Tensor:
        """Convolve ``(N, H, W, C)`` to ``(N, H, W, O)``, in strips that stay in a processor's cache."""
        number, height, width, channels = images.shape
        outputs = self.taps.shape[-1]
        down, across = -(-height // _TILE), -(-width // _TILE)
        out = images.new_empty(number, down * _TILE, across * _TILE, outputs)
        rows = max(1, _STRIP // (4 * _SEEN**2 * across * (channels + outputs)))
        together = max(1, rows // down)
        for first in range(0, number, together):
            some = slice(first, first + together)
            for top in range(0, down, rows):
                self._strip(images[some], top * _TILE, out[some, top * _TILE : (top + rows) * _TILE])
        return out[:, :height, :width].contiguous()

    def _strip(self, images: Tensor, top: int, out: Tensor) -> None:
        """Convolve some rows of some images.

        Args:
            images: ``(n, H, W, C)``.
            top: the first row.
            out: ``(n, rows, cols, O)``, written; both multiples of 4.
        """
        number, height, width, channels = images.shape
        rows, cols = out.shape[1:3]
        seen = images.new_zeros(number, rows + 2, cols + 2, channels)
        start, stop = max(top - 1, 0), min(top + rows + 1, height)
        seen[:, start - top + 1 : stop - top + 1, 1 : width + 1] = images[:, start:stop]
        # (row in the tile, column in the tile, images, tiles down, tiles across, C)
        tiles = seen.unfold(1, _SEEN, _TILE).unfold(2, _SEEN, _TILE).permute(4, 5, 0, 1, 2, 3)
        spread = self.inputs @ tiles.reshape(_SEEN**2, -1)
        products = torch.bmm(spread.view(_SEEN**2, -1, channels), self.taps)
        shape = (_TILE, _TILE, *tiles.shape[2:5], out.shape[-1])
        back = (self.outputs @ products.flatten(1)).view(shape)
        into = out.view(number, rows // _TILE, _TILE, cols // _TILE, _TILE, -1).permute(2, 4, 0, 1, 3, 5)
        if self.bias is None:
            into.copy_(back)
        else:
            torch.add(back, self.bias, out=into)
