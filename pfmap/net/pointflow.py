"""The PointFlow module: semantics flow from a coarse map to a fine one at selected points only.

The paper's contribution (sections 3.1 and 3.2, Figure 3). Aerial images are mostly background with tiny
objects, so most pixels have nothing to hand down; two small sets of points do. *Salient* points carry
the objects' insides, *boundary* points their contours. Read the functions in the order of the equations:
`PointFlow.saliency` (3), `salient_points` (4), `largest_points` (5), `flow_points` (6).

Semantics flow from a *source* map to a *target* map: the coarser and the finer one of two neighbours, or,
where the paper's ablation turns the direction, the finer and the coarser one. Points are always
chosen on the source, where the semantics are.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pfmap.core.card import Architecture
from pfmap.net.layers import average_pool, conv_bn_relu, exporting, max_by_gathering, resize, without_autocast


def salient_points(saliency: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Pick the most salient pixel of every cell of a ``bins x bins`` grid over ``(B, 1, h, w)`` saliency.

    Cells overlap where the map is smaller, and then points repeat. Returned are ``(B, bins ** 2)`` flat pixel
    indices into ``h * w``, and the ``(B, 1, bins, bins)`` maxima.

    Source: Li et al., CVPR 2021, Eq. 4.
    """
    if exporting():
        return max_by_gathering(saliency, bins)
    peaks, at = F.adaptive_max_pool2d(saliency, bins, return_indices=True)
    return at.flatten(1), peaks


def uniform_points(saliency: Tensor, bins: int) -> Tensor:
    """Take the pixels at the centres of a ``bins x bins`` grid, whatever their saliency.

    They are ``(B, bins ** 2)`` flat indices into ``h * w``, and repeat where the map is smaller.

    Source: Li et al., CVPR 2021, Table 2 ("uniform sampling").
    """
    height, width = saliency.shape[-2:]
    # The centre of cell i is (i + 1/2) / bins of the side; integers, so that no rounding moves it.
    centre = 2 * torch.arange(bins, device=saliency.device) + 1
    rows, cols = centre * height // (2 * bins), centre * width // (2 * bins)
    return (rows[:, None] * width + cols).flatten().expand(len(saliency), -1)


def largest_points(score: Tensor, count: int) -> Tensor:
    """Pick the `count` pixels with the highest score (all pixels, where there are fewer).

    Of the edge head's raw output they are the boundary points, those that look most like a contour; of the
    saliency they are what the ablation calls "attention". They are ``(B, min(count, h * w))`` flat indices
    into the ``h * w`` of ``(B, 1, h, w)`` scores.

    Source: Li et al., CVPR 2021, Eq. 5; Table 2.
    """
    flat = score.flatten(1)
    return flat.topk(min(count, flat.shape[1]), dim=1, sorted=False).indices


def flow_points(source: Tensor, target: Tensor) -> Tensor:
    """Add to every target point what all source points of its flow know, weighted by affinity.

    Both are ``(B, C, P)``, as is what is returned: `target` plus the attention-weighted sum of `source`,
    without scaling of the affinity.

    Source: Li et al., CVPR 2021, Eq. 6.
    """
    # Without scaling, products over 256 channels pass float16's largest number: at least float32 here.
    wide = torch.promote_types(target.dtype, torch.float32)
    with without_autocast(target.device):
        known, asking = source.to(wide), target.to(wide)
        attention = torch.softmax(asking.transpose(1, 2) @ known, dim=-1)  # (B, P target, P source)
        return (asking + known @ attention.transpose(1, 2)).to(target.dtype)


def to_target(at: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Translate ``(B, P)`` flat indices into the source map to flat indices into the target map.

    A coarse pixel goes to the first of the fine pixels in it, a fine pixel to the coarse pixel that holds it.
    The ratio is taken from the heights for both axes, as the published checkpoints have it. Of the maps only
    the shapes are used.
    """
    ratio = target.shape[-2] / source.shape[-2]
    row, col = torch.div(at, source.shape[-1], rounding_mode="floor"), at % source.shape[-1]
    return (row * ratio).long() * target.shape[-1] + (col * ratio).long()


def _sigmoid(logits: Tensor) -> Tensor:
    """Take the sigmoid, in an exported network by the formula that torch computes it by.

    Trained saliency comes to exactly 1 at many pixels, and of those the first in its cell is a point: a
    runtime whose own sigmoid is wrong in its last digit picks others.
    """
    return 1 / (1 + torch.exp(-logits)) if exporting() else torch.sigmoid(logits)


def _gather(features: Tensor, at: Tensor) -> Tensor:
    """Read ``(B, C, h, w)`` at ``(B, P)`` flat indices: ``(B, C, P)``."""
    flat = features.flatten(2)
    return flat.gather(2, at[:, None].expand(-1, flat.shape[1], -1))


def _scatter(features: Tensor, at: Tensor, values: Tensor) -> Tensor:
    """Replace the pixels of ``(B, C, H, W)`` at ``(B, P)`` flat indices by ``(B, C, P)`` values."""
    # Pixel by pixel, so that a map with its channels last in memory stays so.
    pixels, values = features.permute(0, 2, 3, 1), values.transpose(1, 2)
    index = at[..., None].expand_as(values)
    # Under autocast the two sides may differ in type, and scatter does not convert.
    replaced = pixels.flatten(1, 2).scatter(1, index, values.to(features.dtype))
    return replaced.view_as(pixels).permute(0, 3, 1, 2)


def _sample(features: Tensor, at: Tensor, grid: Tensor) -> Tensor:
    """Read ``(B, C, H, W)`` bilinearly at the centres of the pixels `at` of the map `grid`: ``(B, C, P)``."""
    height, width = grid.shape[-2:]
    row, col = torch.div(at, width, rounding_mode="floor"), at % width
    # grid_sample wants x, y in -1..1. Coordinates need float32: 8 bits cannot name a pixel of 896.
    where = torch.stack([(2 * col + 1) / width - 1, (2 * row + 1) / height - 1], dim=-1).float()
    with without_autocast(features.device):
        read = F.grid_sample(features.float(), where[:, None], mode="bilinear", align_corners=False)
    return read.squeeze(2).to(features.dtype)


class FlowPoints(NamedTuple):
    """The points that one PointFlow module chose, as flat indices into its source map."""

    grid: tuple[int, int]
    """(h, w) of the source map."""
    salient: Tensor | None
    """``(B, P)``, or None where the module has no salient flow."""
    boundary: Tensor | None
    """``(B, P)``, or None where it has no boundary flow."""


class Flowed(NamedTuple):
    """What one PointFlow module computes."""

    features: Tensor
    """``(B, C, H, W)``: the target map with its selected points replaced."""
    edges: Tensor | None
    """``(B, 1, h, w)`` edge logits, or None where the module has no boundary flow."""
    points: FlowPoints


class PointFlow(nn.Module):
    """One PointFlow module (PFM), between two neighbouring levels of the feature pyramid.

    Only those parameters exist that its flows need: without boundary flow no edge head, and no saliency
    where boundary flow alone looks at the plain map.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        width, embedding = architecture.width, architecture.embedding
        self.has_salient = architecture.flow in {"both", "salient"}
        self.has_boundary = architecture.flow in {"both", "boundary"}
        self.has_saliency = self.has_salient or architecture.edge_features != "direct"
        if self.has_saliency:
            # Named for the published direction: the source is the coarse map there.
            self.embed_coarse = nn.Conv2d(width, embedding, 1)
            self.embed_fine = nn.Conv2d(width, embedding, 1)
            self.match = nn.Conv2d(2 * embedding, 1, 3, padding=1)
        if self.has_boundary:
            self.edge = nn.Sequential(
                *conv_bn_relu(width, width, 3), nn.Conv2d(width, 1, 3, padding=1, bias=False)
            )

    def saliency(self, source: Tensor, target: Tensor) -> Tensor:
        """Say how much each source pixel has to tell the target map: M, ``(B, 1, h, w)`` in 0..1.

        At least in float32: in 8 bits most of the peaks that become points are equal.

        Source: Li et al., CVPR 2021, Eq. 3.
        """
        wide = torch.promote_types(source.dtype, torch.float32)
        with without_autocast(source.device):
            target_embedded = resize(self.embed_fine(target.to(wide)), source.shape[-2:])
            source_embedded = self.embed_coarse(source.to(wide))
            return _sigmoid(self.match(torch.cat([source_embedded, target_embedded], dim=1)))

    def edge_logits(self, source: Tensor, saliency: Tensor | None) -> Tensor:
        """Sharpen the source map by taking its salient bulk away, and look for contours in the rest.

        Saliency, ``(B, 1, h, w)``, is not used where `edge_features` is "direct". Returned are ``(B, 1, h,
        w)`` raw logits, also trained as such.

        Source: Li et al., CVPR 2021, Eq. 5 (its argument); addition and direct prediction: Table 2.
        """
        kind = self.architecture.edge_features
        if kind != "direct":
            assert saliency is not None
            blurred = average_pool(saliency, self.architecture.smooth_bins)
            bulk = source * resize(blurred, source.shape[-2:])
            source = source - bulk if kind == "subtraction" else source + bulk
        out: Tensor = self.edge(source)
        return out

    def forward(self, source: Tensor, target: Tensor) -> Flowed:
        """Let the semantics of the source, ``(B, C, h, w)``, flow into the sharp target, ``(B, C, H, W)``.

        Both flows read the untouched target map; where they meet, the salient point stays.
        """
        saliency = self.saliency(source, target) if self.has_saliency else None
        features, edges, salient_at, boundary_at = target, None, None, None
        if self.has_boundary:
            edges = self.edge_logits(source, saliency)
            boundary_at = largest_points(edges, self.architecture.edge_points)
            at = to_target(boundary_at, source, target)
            features = _scatter(features, at, self._boundary_flow(source, target, boundary_at))
        if self.has_salient:
            assert saliency is not None
            salient_at, peaks = self._salient_points(saliency)
            boosted = source + resize(peaks, source.shape[-2:]) * source
            at = to_target(salient_at, source, target)
            flow = flow_points(_gather(boosted, salient_at), _gather(target, at))
            features = _scatter(features, at, flow)
        grid = (source.shape[-2], source.shape[-1])
        return Flowed(features, edges, FlowPoints(grid, salient_at, boundary_at))

    def _boundary_flow(self, source: Tensor, target: Tensor, at: Tensor) -> Tensor:
        """Read both maps at the boundary points, and let the points flow: ``(B, C, P)``."""
        if target.shape[-2] < source.shape[-2]:
            # Several fine points share a coarse pixel: reading the pixel itself, they agree on its new value.
            asking = _gather(target, to_target(at, source, target))
        else:
            asking = _sample(target, at, source)
        return flow_points(_sample(source, at, source), asking)

    def _salient_points(self, saliency: Tensor) -> tuple[Tensor, Tensor]:
        """Pick the salient points, and the maxima that boost the source (Eq. 4), however points are picked.

        The boost is also what trains the saliency.
        """
        bins = self.architecture.salient_bins
        at, peaks = salient_points(saliency, bins)
        if self.architecture.salient_points == "uniform":
            at = uniform_points(saliency, bins)
        elif self.architecture.salient_points == "attention":
            at = largest_points(saliency, bins**2)
        return at, peaks
