"""Layers that all of PFNet shares: convolution + batch norm + ReLU, resizing, and pooling to fixed cells.

Cell i of n covers the pixels from floor(i * size / n) to ceil((i + 1) * size / n), as in PyTorch's adaptive
pooling: where n does not divide the size, cells differ in size and share pixels. Exchange formats do not have
it: an exported network pools by matrix products and gathering.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_bn_relu(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, dilation: int = 1, bias: bool = False
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
    """Do as `pointflow.salient_points`, over the pixels of each cell laid side by side."""
    height, width = features.shape[-2:]
    cells = _cells(height, width, bins, features.device)
    values = features.flatten(1)[:, cells]  # (B, bins ** 2, pixels of a cell)
    first = values.argmax(dim=-1, keepdim=True)
    peaks = values.gather(-1, first).view(-1, 1, bins, bins)
    at = cells.expand(len(values), -1, -1).gather(-1, first)
    return at.squeeze(-1), peaks


def _bounds(size: int, bins: int) -> list[tuple[int, int]]:
    """Return the first pixel of each cell along one axis, and the one after its last."""
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
