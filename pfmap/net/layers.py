"""Small pieces shared by all of PFNet: convolution + batch norm + ReLU, and the one way maps are resized."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_bn_relu(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    bias: bool = False,
) -> nn.Sequential:
    """Build a convolution that keeps the map's size (over its stride), batch norm and ReLU."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=bias),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Switch autocast off on a device, for arithmetic that needs its tensors' own precision."""
    # Networks are also run on the meta device, to count their work; it has no autocast.
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def resize(features: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize ``(B, C, h, w)`` bilinearly to ``(B, C, *size)``, corners aligned, as everywhere in PFNet."""
    return F.interpolate(features, size=list(size), mode="bilinear", align_corners=True)


def average_pool(features: Tensor, bins: int) -> Tensor:
    """Average ``(B, C, h, w)`` over ``bins x bins`` cells: ``(B, C, bins, bins)``."""
    if torch.onnx.is_in_onnx_export():
        return average_by_products(features, bins)
    return F.adaptive_avg_pool2d(features, bins)


def max_pool(features: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Find the largest of ``(B, 1, h, w)`` in each of ``bins x bins`` cells; the first of equals.

    Returns:
        ``(B, 1, bins, bins)`` maxima and their ``(B, bins ** 2)`` flat indices into ``h * w``.
    """
    if torch.onnx.is_in_onnx_export():
        return max_by_gathering(features, bins)
    peaks, at = F.adaptive_max_pool2d(features, bins, return_indices=True)
    return peaks, at.flatten(1)


def average_by_products(features: Tensor, bins: int) -> Tensor:
    """Do as `average_pool`, by two matrix products."""
    batch, channels, height, width = features.shape
    rows = _averages(height, bins, features.device)
    cols = _averages(width, bins, features.device)
    with without_autocast(features.device):
        pixels = features.float().permute(0, 2, 3, 1)
        lines = rows @ pixels.reshape(batch, height, width * channels)
        cells = cols @ lines.view(batch, bins, width, channels)
    return cells.permute(0, 3, 1, 2).to(features.dtype)


def max_by_gathering(features: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Do as `max_pool`, over the pixels of each cell laid side by side."""
    height, width = features.shape[-2:]
    cells = _cells(height, width, bins, features.device)
    values = features.flatten(1)[:, cells]  # (B, bins ** 2, pixels of a cell)
    first = values.argmax(dim=-1, keepdim=True)
    peaks = values.gather(-1, first).view(-1, 1, bins, bins)
    at = cells.expand(len(values), -1, -1).gather(-1, first)
    return peaks, at.squeeze(-1)


def _bounds(size: int, bins: int) -> list[tuple[int, int]]:
    return [(i * size // bins, -(-(i + 1) * size // bins)) for i in range(bins)]


@lru_cache(maxsize=64)
def _averages(size: int, bins: int, device: torch.device) -> Tensor:
    """Build the ``(bins, size)`` matrix that averages over cells of one axis."""
    # Never inside inference mode: the cached matrix has to serve a later training step too.
    with torch.inference_mode(mode=False):
        matrix = torch.zeros(bins, size)
        for index, (start, stop) in enumerate(_bounds(size, bins)):
            matrix[index, start:stop] = 1 / (stop - start)
        return matrix.to(device)


@lru_cache(maxsize=64)
def _cells(height: int, width: int, bins: int, device: torch.device) -> Tensor:
    """List the pixels of every cell: ``(bins ** 2, pixels)`` flat indices; smaller ones repeat the last."""
    with torch.inference_mode(mode=False):
        cells = [
            [row * width + col for row in range(*rows) for col in range(*cols)]
            for rows in _bounds(height, bins)
            for cols in _bounds(width, bins)
        ]
        longest = max(map(len, cells))
        return torch.tensor([cell + cell[-1:] * (longest - len(cell)) for cell in cells]).to(device)


@lru_cache(maxsize=64)
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


def _taps(weight: Tensor) -> Tensor:
    """Lay ``(O, C, 3, 3)`` out as nine 1x1 convolutions of maps with their channels last: ``(9, C, O)``."""
    return weight.permute(2, 3, 1, 0).flatten(0, 1)


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


def conv_of_pyramid(levels: list[Tensor], weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve the concatenation of a pyramid's levels, all but the first resized to the first's size.

    Args:
        levels: fine to coarse, each ``(B, C, h, w)``.
        weight: ``(O, len(levels) * C, 3, 3)`` of a convolution with padding 1.
        bias: ``(O,)``, or None.

    Returns:
        ``(B, O, H, W)`` at the first level's size, channels last in memory.
    """
    finest, *parts = torch.split(weight, [level.shape[1] for level in levels], dim=1)
    return _add_coarse(F.conv2d(levels[0], finest, bias, padding=1), levels[1:], map(_taps, parts))


class PyramidConv(nn.Module):
    """A convolution of a pyramid's levels, for inference; see `conv_of_pyramid`.

    Attributes:
        finest: what convolves the first level.

    Args:
        conv: over the concatenated levels.
        levels: how many there are, of equal width.
    """

    def __init__(self, conv: nn.Conv2d, levels: int) -> None:
        super().__init__()
        finest, *parts = conv.weight.detach().chunk(levels, dim=1)
        self.finest = nn.Conv2d(finest.shape[1], finest.shape[0], 3, padding=1)
        self.finest.weight = nn.Parameter(finest.clone(), requires_grad=False)
        self.finest.bias = conv.bias
        self.coarse = nn.ParameterList(
            nn.Parameter(_taps(part).clone(), requires_grad=False) for part in parts
        )

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Convolve levels, fine to coarse."""
        return _add_coarse(self.finest(levels[0]), levels[1:], self.coarse)


def _add_coarse(out: Tensor, levels: Sequence[Tensor], taps: Iterable[Tensor]) -> Tensor:
    out = out.contiguous(memory_format=torch.channels_last)
    for level, its in zip(levels, taps, strict=True):
        _add_conv_of_upsampled(out.permute(0, 2, 3, 1), level.permute(0, 2, 3, 1), its)
    return out
