"""Pyramid pooling: the scene-wide context that tops the encoder (paper section 3.3).

Source: Zhao et al., *Pyramid Scene Parsing Network*, CVPR 2017.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pfmap.net.layers import conv_bn_relu, resize

BINS = (1, 2, 3, 6)


class PyramidPooling(nn.Module):
    """Average the map over 1, 4, 9 and 36 regions, project, put back beside the map, and fuse.

    The projections have batch norm and no ReLU, as in the published checkpoints.
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
            resize(project(F.adaptive_avg_pool2d(features, bins)), size)
            for bins, project in zip(BINS, self.projections, strict=True)
        ]
        out: Tensor = self.dropout(self.fuse(torch.cat([*pooled, features], dim=1)))
        return out
