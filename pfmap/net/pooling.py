"""Pooling to a fixed number of cells: torch's own; by hand for exchange formats, which have no such thing.

Cell i of n covers the pixels from floor(i * size / n) to ceil((i + 1) * size / n), as in adaptive pooling of
PyTorch: where n does not divide the size, cells differ in size and share pixels.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from pfmap.net.layers import without_autocast


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
