"""PFNet: encoder, pyramid pooling, and an FPN decoder with PointFlow between its levels.

The whole network of Li et al., CVPR 2021 (section 3.3, Figure 2): context enters at the top through pyramid
pooling and flows down three levels, at points only; the head reads all four levels at once.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from pfmap.architecture import Architecture, check_window
from pfmap.net.efficientnet import EfficientNetLite0
from pfmap.net.factored import conv_of_pyramid
from pfmap.net.layers import conv_bn_relu, resize
from pfmap.net.pointflow import PointFlow
from pfmap.net.ppm import PyramidPooling
from pfmap.net.resnet import BLOCKS, ResNet


class PFNetOutput(NamedTuple):
    """What one pass computes, before the logits are resized to the window.

    Attributes:
        logits: ``(B, classes, H / 4, W / 4)``.
        edges: edge logits of the three PointFlow modules, coarse to fine, ``(B, 1, H / s, W / s)`` for the
            strides s = 32, 16, 8.
        context: ``(B, C, H / 32, W / 32)`` output of the pyramid pooling.
        flows: outputs of the PointFlow modules, coarse to fine, at strides 16, 8, 4.
    """

    logits: Tensor
    edges: list[Tensor]
    context: Tensor
    flows: list[Tensor]


def build_encoder(name: str) -> ResNet | EfficientNetLite0:
    """Build the encoder called `name` with random weights."""
    return EfficientNetLite0() if name == "efficientnet_lite0" else ResNet(BLOCKS[name])


class PFNet(nn.Module):
    """The network: normalised ``(B, 3, H, W)`` in, logits ``(B, classes, H, W)`` out.

    H and W are multiples of 32, 64 or more; they need not be equal. Pooling and point counts are per window,
    so a trained model belongs to the window size in its card.

    Attributes:
        factored: compute the head's first convolution by `factored.conv_of_pyramid`: the same numbers for
            less than half the work. Off at first, so that the network is the published one operation by
            operation; prediction and training switch it on.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.factored = False
        width = architecture.width
        self.encoder = build_encoder(architecture.encoder)
        *fine_channels, top_channels = self.encoder.channels
        self.ppm = PyramidPooling(top_channels, width)
        # Lists are indexed fine to coarse: strides 4, 8, 16.
        self.laterals = nn.ModuleList(conv_bn_relu(c, width, 1, bias=True) for c in fine_channels)
        self.flows = nn.ModuleList(
            PointFlow(
                width,
                architecture.embedding,
                architecture.salient_bins,
                architecture.smooth_bins,
                architecture.edge_points,
            )
            for _ in fine_channels
        )
        self.smooth = nn.ModuleList(conv_bn_relu(width, width, 3) for _ in fine_channels)
        self.head = conv_bn_relu(4 * width, width, 3)
        self.classify = nn.Conv2d(width, architecture.classes, 1)

    def cool(self, temperature: float) -> None:
        """Divide all logits by a temperature from now on; costs nothing, as the classifier is linear.

        Source: Guo et al., ICML 2017, Eq. 9.
        """
        with torch.no_grad():
            for parameter in self.classify.parameters():
                parameter.div_(temperature)

    def compute(self, image: Tensor) -> PFNetOutput:
        """Run the network up to the logits at stride 4, and keep what training and tests look at.

        Args:
            image: ``(B, 3, H, W)``, normalised.

        Raises:
            ModelError: H or W is below 64 or no multiple of 32.
        """
        check_window(*image.shape[-2:])
        *fine_maps, top = self.encoder(image)
        context = features = self.ppm(top)
        levels: list[Tensor] = [context]
        edges: list[Tensor] = []
        flows: list[Tensor] = []
        for level in (2, 1, 0):
            lateral = self.laterals[level](fine_maps[level])
            flowed, edge_logits = self.flows[level](features, lateral)
            features = lateral + flowed
            levels.insert(0, self.smooth[level](features))
            flows.append(flowed)
            edges.append(edge_logits)
        return PFNetOutput(self.classify(self._fuse(levels)), edges, context, flows)

    def _fuse(self, levels: list[Tensor]) -> Tensor:
        """Read all levels, fine to coarse, at the finest one's size: ``(B, C, H / 4, W / 4)``."""
        convolve, normalise, relu = self.head
        if self.factored:
            fused: Tensor = conv_of_pyramid(levels, self.head[0].get_parameter("weight"))
        else:
            size = levels[0].shape[-2:]
            fused = convolve(torch.cat([levels[0], *(resize(x, size) for x in levels[1:])], dim=1))
        out: Tensor = relu(normalise(fused))
        return out

    def forward(self, image: Tensor) -> Tensor:
        """Map normalised ``(B, 3, H, W)`` to logits ``(B, classes, H, W)``."""
        return resize(self.compute(image).logits, image.shape[-2:])
