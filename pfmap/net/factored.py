"""The head's first convolution without its redundant arithmetic; the same numbers to 1e-6.

Not in the paper. Three of the four maps that the head concatenates are bilinear upsamplings, and a
convolution of an upsampled map is linear in the small map: apply the nine 1x1 taps at the coarse
resolution, then the taps' shifts together with the interpolation as two banded matrix products, rows first,
columns second. Zero padding is part of the matrices. At 512 x 512 the ResNet-50 layer takes 15.8 G
multiply-adds instead of 38.6 G.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from pfmap.net.layers import without_autocast


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


def _conv_of_upsampled(features: Tensor, weight: Tensor, size: tuple[int, ...]) -> Tensor:
    """Convolve, 3x3 with padding 1, the map that `features` would be after resizing to `size`.

    Args:
        features: ``(B, C, h, w)``.
        weight: ``(O, C, 3, 3)``.
        size: (H, W) of the upsampled map.

    Returns:
        ``(B, O, H, W)``.
    """
    height, width = features.shape[-2:]
    outputs, inputs = weight.shape[:2]
    taps = weight.permute(2, 3, 0, 1).reshape(9 * outputs, inputs, 1, 1)
    tapped = F.conv2d(features, taps).reshape(-1, 3, 3 * outputs, height, width)
    rows = _shifted_resize(height, size[0], tapped.dtype, features.device)
    cols = _shifted_resize(width, size[1], tapped.dtype, features.device)
    tall = torch.einsum("tHh,btkhw->bkHw", rows, tapped).reshape(-1, 3, outputs, size[0], width)
    return torch.einsum("tWw,btoHw->boHW", cols, tall)


def conv_of_pyramid(levels: list[Tensor], weight: Tensor) -> Tensor:
    """Convolve the concatenation of a pyramid's levels, all but the first resized to the first's size.

    Args:
        levels: fine to coarse, each ``(B, C, h, w)``.
        weight: ``(O, len(levels) * C, 3, 3)`` of a convolution with padding 1 and no bias.

    Returns:
        ``(B, O, H, W)`` at the first level's size.
    """
    size = levels[0].shape[-2:]
    finest, *parts = torch.split(weight, [level.shape[1] for level in levels], dim=1)
    out = F.conv2d(levels[0], finest, padding=1)
    for level, part in zip(levels[1:], parts, strict=True):
        out = out + _conv_of_upsampled(level, part, size)
    return out
