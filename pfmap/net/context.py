"""What tops the encoder: the scene-wide context that the decoder hands down (paper section 3.3, Table 2g).

Each module maps the encoder's last map to the decoder's width at the same size.
"""

import torch
from torch import Tensor, nn

from pfmap.core.architecture import Context
from pfmap.net.layers import conv_bn_relu, resize
from pfmap.net.pooling import average_pool

BINS = (1, 2, 3, 6)
RATES = (3, 6, 9)
"""DeepLabV3's 12, 24 and 36 are for output stride 8; at 32 these reach as far in the image."""


def build_context(kind: Context, inputs: int, width: int) -> nn.Module:
    """Build the context called `kind`: ``(B, inputs, h, w)`` to ``(B, width, h, w)``.

    Without context the last map gets a lateral like those of the finer maps, as in Semantic FPN.
    """
    if kind == "ppm":
        return PyramidPooling(inputs, width)
    if kind == "aspp":
        return AtrousPooling(inputs, width)
    return conv_bn_relu(inputs, width, 1, bias=True)


class PyramidPooling(nn.Module):
    """Average the map over 1, 4, 9 and 36 regions, project, put back beside the map, and fuse.

    The projections have batch norm and no ReLU, as in the published checkpoints.

    Source: Zhao et al., *Pyramid Scene Parsing Network*, CVPR 2017.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.projections = nn.ModuleList(
            nn.Sequential(nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)) for _ in BINS
        )
        self.fuse = conv_bn_relu(inputs + len(BINS) * width, width, 1)
        self.dropout = nn.Dropout2d(0.1)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(B, inputs, h, w)`` to ``(B, width, h, w)``."""
        size = features.shape[-2:]
        pooled = [
            resize(project(average_pool(features, bins)), size)
            for bins, project in zip(BINS, self.projections, strict=True)
        ]
        out: Tensor = self.dropout(self.fuse(torch.cat([*pooled, features], dim=1)))
        return out


class AtrousPooling(nn.Module):
    """Look at every pixel's surroundings with holes of three sizes, at itself, and at the whole map; fuse.

    Dropout is that of the pyramid pooling, so that the two differ in the context alone.

    Source: Chen et al., *Rethinking Atrous Convolution*, arXiv 1706.05587 (DeepLabV3), section 3.3.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                conv_bn_relu(inputs, width, 1),
                *(conv_bn_relu(inputs, width, 3, dilation=rate) for rate in RATES),
            ]
        )
        self.whole = conv_bn_relu(inputs, width, 1)
        self.fuse = conv_bn_relu((len(self.branches) + 1) * width, width, 1)
        self.dropout = nn.Dropout2d(0.1)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(B, inputs, h, w)`` to ``(B, width, h, w)``."""
        whole = self.whole(average_pool(features, 1)).expand(-1, -1, *features.shape[-2:])
        seen = [branch(features) for branch in self.branches]
        out: Tensor = self.dropout(self.fuse(torch.cat([*seen, whole], dim=1)))
        return out
