"""What makes PFNet fast: the same function, in fewer and cheaper operations. None of it is in the paper.

`for_inference` makes the network that prediction runs, `factor_head` changes the one that is trained. Each
step below says what it saves: batch norms folded into convolutions, a head that reads small maps at their own
size, and 3x3 convolutions with a quarter of the multiplications.
"""

import copy
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.polynomial.polynomial import polyfromroots
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pfmap.net.layers import without_autocast
from pfmap.net.pfnet import LevelsConv, PFNet


def for_inference(network: PFNet, device: torch.device, precision: torch.dtype) -> PFNet:
    """Copy a network in evaluation mode and rebuild the copy for speed.

    Batch norms are folded into convolutions, the head reads its coarse levels at their own size
    (`PyramidConv`), weights lie as channels-last arithmetic wants them, and where the device has no
    units for matrix products of its own, wide 3x3 convolutions multiply less (`WinogradConv2d`).
    """
    fast = fold_batch_norm(network)
    fast.head[0] = PyramidConv(_head_conv(fast))
    if device.type == "cpu" and precision == torch.float32:
        for module in list(fast.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Conv2d) and suits(child):
                    setattr(module, name, WinogradConv2d(child))
    # torch's stubs know .to(device) and .to(memory_format=...), each alone
    fast.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return fast


def factor_head(network: PFNet) -> None:
    """Have a network compute its head with less than half the work, from now on and in training too."""
    network.head[0] = FactoredConv(_head_conv(network))


def _head_conv(network: PFNet) -> LevelsConv:
    convolve = network.head[0]
    assert isinstance(convolve, LevelsConv)
    return convolve


Net = TypeVar("Net", bound=nn.Module)


def fold_batch_norm(network: Net) -> Net:
    """Copy a network in evaluation mode with every batch norm folded into the convolution before it.

    In evaluation mode batch norm multiplies and shifts each channel by constants, which the convolution's own
    weights and bias can do as well. The convolution is taken to be the one that is registered right before it
    in the same module, as everywhere in PFNet; an `Identity` stays in the batch norm's place.

    Source: Ioffe and Szegedy, ICML 2015, section 3.1 (inference with fixed statistics).
    """
    folded = copy.deepcopy(network)
    for module in list(folded.modules()):
        children = list(module.named_children())
        for (name, before), (norm_name, norm) in pairwise(children):
            if isinstance(before, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(before, norm))
                setattr(module, norm_name, nn.Identity())
    return folded


class FactoredConv(LevelsConv):
    """The head's first convolution without its redundant arithmetic: the same numbers to 1e-6.

    All levels but the first are resized bilinearly, and a convolution of a resized map is linear in the small
    map: apply the nine 1x1 taps at the coarse resolution, then the taps' shifts together with the
    interpolation as two banded matrix products, rows first, columns second. Zero padding is part of the
    matrices. At 512 x 512 the ResNet-50 layer takes 15.8 G multiply-adds instead of 38.6 G.

    All maps are taken with their channels last in memory, so that each step is a plain batch of matrix
    products and the sums are made in place. The weights are those of the convolution that it replaces.
    """

    def __init__(self, plain: LevelsConv) -> None:
        levels = plain.in_channels // plain.out_channels
        super().__init__(levels, plain.out_channels, device=torch.device("meta"))  # draws no random numbers
        self.weight, self.bias = plain.weight, plain.bias

    def forward(self, levels: list[Tensor]) -> Tensor:  # type: ignore[override]
        """Do as `LevelsConv`; the result has its channels last in memory."""
        finest, *parts = self.weight.chunk(len(levels), dim=1)
        out = F.conv2d(levels[0], finest, self.bias, padding=1)
        return _add_coarse(out, levels[1:], map(_taps, parts))


class PyramidConv(nn.Module):
    """`FactoredConv` with its weights laid out once and for all, for inference."""

    def __init__(self, conv: LevelsConv) -> None:
        super().__init__()
        finest, *parts = torch.split(conv.weight.detach(), conv.out_channels, dim=1)
        self.finest = nn.Conv2d(finest.shape[1], finest.shape[0], 3, padding=1)
        self.finest.weight = nn.Parameter(finest.clone(), requires_grad=False)
        self.finest.bias = conv.bias
        self.coarse = nn.ParameterList(
            nn.Parameter(_taps(part).clone(), requires_grad=False) for part in parts
        )

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Do as `FactoredConv`."""
        return _add_coarse(self.finest(levels[0]), levels[1:], self.coarse)


def _taps(weight: Tensor) -> Tensor:
    """Lay ``(O, C, 3, 3)`` out as nine 1x1 convolutions of maps with their channels last: ``(9, C, O)``."""
    return weight.permute(2, 3, 1, 0).flatten(0, 1)


def _add_coarse(out: Tensor, levels: Sequence[Tensor], taps: Iterable[Tensor]) -> Tensor:
    """Add to ``(B, O, H, W)`` what the coarse levels' convolutions give, and return it with channels last."""
    out = out.contiguous(memory_format=torch.channels_last)
    for level, its in zip(levels, taps, strict=True):
        _add_conv_of_upsampled(out.permute(0, 2, 3, 1), level.permute(0, 2, 3, 1), its)
    return out


def _add_conv_of_upsampled(out: Tensor, features: Tensor, taps: Tensor) -> None:
    """Add to maps what a 3x3 convolution with padding 1 makes of `features` resized to their size.

    Args:
        out: ``(B, H, W, O)``, changed in place.
        features: ``(B, h, w, C)``.
        taps: ``(9, C, O)``.
    """
    (batch, fine_rows, fine_cols, outputs), (_, height, width, inputs) = out.shape, features.shape
    # (tap of the row, tap of the column * B, h, w * O)
    tapped = (features.reshape(1, -1, inputs) @ taps).view(3, 3 * batch, height, width * outputs)
    rows = _shifted_resize(height, fine_rows, tapped.dtype, tapped.device)
    cols = _shifted_resize(width, fine_cols, tapped.dtype, tapped.device)
    tall = rows[0] @ tapped[0]  # (tap of the column * B, H, w * O)
    for tap in (1, 2):
        tall = tall.baddbmm_(rows[tap].expand(3 * batch, -1, -1), tapped[tap])
    lines = out.view(batch * fine_rows, fine_cols, outputs)
    for tap, shifted in enumerate(tall.view(3, batch * fine_rows, width, outputs)):
        lines.baddbmm_(cols[tap].expand(batch * fine_rows, -1, -1), shifted)


@cache  # for good: a recorded pass goes on to read it
def _shifted_resize(coarse: int, fine: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Build ``(3, fine, coarse)``: resizing with aligned corners, seen by taps -1, 0 and +1."""
    # Never inside inference mode: the cached matrix has to serve a later training step too.
    with torch.inference_mode(mode=False), without_autocast(device):
        eye = torch.eye(coarse, dtype=torch.float32, device=device)[None]
        resize = F.interpolate(eye, size=fine, mode="linear", align_corners=True)[0].T
        outside = torch.zeros(1, coarse, dtype=torch.float32, device=device)
        before = torch.cat([outside, resize[:-1]])
        after = torch.cat([resize[1:], outside])
        return torch.stack([before, resize, after]).to(dtype)


_TILE = 4  # pixels that a tile gives
_SEEN = 6  # pixels that it sees
_STRIP = 8 << 20  # bytes of transformed tiles in work at a time: they are to stay in a processor's cache
_POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)


def suits(conv: nn.Conv2d) -> bool:
    """Say whether a convolution can be computed by `WinogradConv2d`, and has the channels to gain by it."""
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
    """A 3x3 convolution with a quarter of the multiplications, for processors without tensor units.

    Minimal filtering F(4x4, 3x3): tiles of 6x6 pixels and the taps are transformed, multiplied element by
    element, which over all channels is 36 matrix products, and transformed back to 4x4 pixels: 36
    multiplications per channel pair instead of 144. The transforms interpolate at 0, +-3/4, +-3/2 and
    infinity; with these points the error in float32 is that of direct convolution (root mean square 6e-7
    against 4e-7 for 256 channels), a third of what the usual points 0, +-1, +-2 leave.

    Dilated by d, it is one of d * d maps on its own, each of every d-th row and column. It is made of a
    convolution that `suits`.

    Source: Lavin and Gray, CVPR 2016, section 4; on the points: Barabasz et al., ACM TOMS 46(4), 2020.
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


def _transforms() -> tuple[Tensor, Tensor, Tensor]:
    """Build the transforms of one axis, float64: outputs ``(4, 6)``, taps ``(6, 3)``, inputs ``(6, 6)``.

    ``outputs @ ((taps @ g) * (inputs @ d))`` is the correlation of six values d with three taps g.
    """
    points = np.array(_POINTS)
    powers = np.vander(points, increasing=True)
    taps, inputs, outputs = np.zeros((_SEEN, 3)), np.zeros((_SEEN, _SEEN)), np.zeros((_TILE, _SEEN))
    for row, point in enumerate(points):
        others = np.delete(points, row)
        taps[row] = powers[row, :3] / (point - others).prod()
        inputs[row, :-1] = polyfromroots(others)
        outputs[:, row] = powers[row, :_TILE]
    # the point at infinity
    taps[-1, -1] = 1
    inputs[-1] = polyfromroots(points)
    outputs[-1, -1] = 1
    return torch.from_numpy(outputs), torch.from_numpy(taps), torch.from_numpy(inputs)
