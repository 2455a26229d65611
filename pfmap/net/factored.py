"""The head's first convolution without its redundant arithmetic; the same numbers to 1e-6.

Not in the paper. Three of the four maps that the head concatenates are bilinear upsamplings, and a
convolution of an upsampled map is linear in the small map: apply the nine 1x1 taps at the coarse
resolution, then the taps' shifts together with the interpolation as two banded matrix products, rows first,
columns second. Zero padding is part of the matrices. At 512 x 512 the ResNet-50 layer takes 15.8 G
multiply-adds instead of 38.6 G.

All maps are taken with their channels last in memory, so that each step is a plain batch of matrix products
and the sums are made in place.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
