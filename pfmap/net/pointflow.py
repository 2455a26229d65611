"""The PointFlow module: semantics flow from a coarse map to a fine one at selected points only.

The paper's contribution (sections 3.1 and 3.2, Figure 3). Aerial images are mostly background with tiny
objects, so most pixels have nothing to hand down; two small sets of points do. *Salient* points carry
the objects' insides, *boundary* points their contours. Read the functions in the order of the equations:
`PointFlow.saliency` (3), `salient_points` (4), `boundary_points` (5), `flow_points` (6).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pfmap.net.layers import conv_bn_relu, resize


def salient_points(saliency: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Pick the most salient pixel of every cell of a ``bins x bins`` grid.

    Args:
        saliency: ``(B, 1, h, w)`` map M.
        bins: side of the grid; cells overlap where the map is smaller, and then points repeat.

    Returns:
        ``(B, bins ** 2)`` flat pixel indices into ``h * w``, and the ``(B, 1, bins, bins)`` maxima.

    Source: Li et al., CVPR 2021, Eq. 4.
    """
    peaks, at = F.adaptive_max_pool2d(saliency, bins, return_indices=True)
    return at.flatten(1), peaks


def boundary_points(edge_logits: Tensor, count: int) -> Tensor:
    """Pick the `count` pixels that look most like a contour (all pixels, where there are fewer).

    Args:
        edge_logits: ``(B, 1, h, w)`` raw output of the edge head.
        count: K, the number of points.

    Returns:
        ``(B, min(count, h * w))`` flat pixel indices into ``h * w``.

    Source: Li et al., CVPR 2021, Eq. 5.
    """
    flat = edge_logits.flatten(1)
    return flat.topk(min(count, flat.shape[1]), dim=1, sorted=False).indices


def flow_points(source: Tensor, target: Tensor) -> Tensor:
    """Add to every fine point what all coarse points of its flow know, weighted by affinity.

    Args:
        source: ``(B, C, P)`` features of the coarse points.
        target: ``(B, C, P)`` features of the fine points.

    Returns:
        ``(B, C, P)``: `target` plus the attention-weighted sum of `source`; no scaling of the affinity.

    Source: Li et al., CVPR 2021, Eq. 6.
    """
    # Without scaling, products over 256 channels pass float16's largest number: at least float32 here.
    wide = torch.promote_types(target.dtype, torch.float32)
    with torch.autocast(target.device.type, enabled=False):
        known, asking = source.to(wide), target.to(wide)
        attention = torch.softmax(asking.transpose(1, 2) @ known, dim=-1)  # (B, P fine, P coarse)
        return (asking + known @ attention.transpose(1, 2)).to(target.dtype)


def to_fine(at: Tensor, coarse: Tensor, fine: Tensor) -> Tensor:
    """Translate flat indices into the coarse map to flat indices into the fine one.

    The ratio is taken from the heights for both axes, as the published checkpoints have it.

    Args:
        at: ``(B, P)`` flat indices into ``h * w``.
        coarse: ``(B, C, h, w)``; only its shape is used.
        fine: ``(B, C, H, W)``; only its shape is used.

    Returns:
        ``(B, P)`` flat indices into ``H * W``.
    """
    ratio = fine.shape[-2] / coarse.shape[-2]
    row = torch.div(at, coarse.shape[-1], rounding_mode="floor")
    col = at % coarse.shape[-1]
    return (row * ratio).long() * fine.shape[-1] + (col * ratio).long()


def _gather(features: Tensor, at: Tensor) -> Tensor:
    """Read ``(B, C, h, w)`` at ``(B, P)`` flat indices: ``(B, C, P)``."""
    flat = features.flatten(2)
    return flat.gather(2, at[:, None].expand(-1, flat.shape[1], -1))


def _scatter(features: Tensor, at: Tensor, values: Tensor) -> Tensor:
    """Replace the pixels of ``(B, C, H, W)`` at ``(B, P)`` flat indices by ``(B, C, P)`` values."""
    index = at[:, None].expand_as(values)
    # Under autocast the two sides may differ in type, and scatter does not convert.
    return features.flatten(2).scatter(2, index, values.to(features.dtype)).view_as(features)


def _sample(features: Tensor, at: Tensor, grid: Tensor) -> Tensor:
    """Read ``(B, C, H, W)`` bilinearly at the centres of the pixels `at` of the map `grid`: ``(B, C, P)``."""
    height, width = grid.shape[-2:]
    row = torch.div(at, width, rounding_mode="floor")
    col = at % width
    # grid_sample wants x, y in -1..1. Coordinates need float32: 8 bits cannot name a pixel of 896.
    where = torch.stack([(2 * col + 1) / width - 1, (2 * row + 1) / height - 1], dim=-1).float()
    with torch.autocast(features.device.type, enabled=False):
        read = F.grid_sample(features.float(), where[:, None], mode="bilinear", align_corners=False)
    return read.squeeze(2).to(features.dtype)


class PointFlow(nn.Module):
    """One PointFlow module (PFM), between two neighbouring levels of the feature pyramid."""

    def __init__(
        self, width: int, embedding: int, salient_bins: int, smooth_bins: int, edge_points: int
    ) -> None:
        super().__init__()
        self.salient_bins = salient_bins
        self.smooth_bins = smooth_bins
        self.edge_points = edge_points
        self.embed_coarse = nn.Conv2d(width, embedding, 1)
        self.embed_fine = nn.Conv2d(width, embedding, 1)
        self.match = nn.Conv2d(2 * embedding, 1, 3, padding=1)
        self.edge = nn.Sequential(
            *conv_bn_relu(width, width, 3), nn.Conv2d(width, 1, 3, padding=1, bias=False)
        )

    def saliency(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Say how much each coarse pixel has to tell the fine map: M, ``(B, 1, h, w)`` in 0..1.

        Source: Li et al., CVPR 2021, Eq. 3.
        """
        fine_embedded = resize(self.embed_fine(fine), coarse.shape[-2:])
        return torch.sigmoid(self.match(torch.cat([self.embed_coarse(coarse), fine_embedded], dim=1)))

    def edge_logits(self, coarse: Tensor, saliency: Tensor) -> Tensor:
        """Sharpen the coarse map by taking its salient bulk away, and look for contours in the rest.

        Returns:
            ``(B, 1, h, w)`` raw logits, also trained as such.

        Source: Li et al., CVPR 2021, Eq. 5 (its argument).
        """
        bulk = resize(F.adaptive_avg_pool2d(saliency, self.smooth_bins), coarse.shape[-2:])
        out: Tensor = self.edge(coarse - coarse * bulk)
        return out

    def forward(self, coarse: Tensor, fine: Tensor) -> tuple[Tensor, Tensor]:
        """Let the coarse map's semantics flow into the fine map.

        Args:
            coarse: ``(B, C, h, w)`` semantically strong features.
            fine: ``(B, C, H, W)`` spatially sharp features.

        Returns:
            ``(B, C, H, W)``: `fine` with its selected points replaced, and the ``(B, 1, h, w)`` edge logits.
        """
        saliency = self.saliency(coarse, fine)

        edge_logits = self.edge_logits(coarse, saliency)
        edge_at = boundary_points(edge_logits, self.edge_points)
        edge_flow = flow_points(_sample(coarse, edge_at, coarse), _sample(fine, edge_at, coarse))

        salient_at, peaks = salient_points(saliency, self.salient_bins)
        boosted = coarse + resize(peaks, coarse.shape[-2:]) * coarse
        fine_at = to_fine(salient_at, coarse, fine)
        salient_flow = flow_points(_gather(boosted, salient_at), _gather(fine, fine_at))

        # Both flows read the untouched fine map; where they meet, the salient point stays.
        flowed = _scatter(fine, to_fine(edge_at, coarse, fine), edge_flow)
        return _scatter(flowed, fine_at, salient_flow), edge_logits
