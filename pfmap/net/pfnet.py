"""PFNet: encoder, pyramid pooling, and an FPN decoder with PointFlow between its levels.

The whole network of Li et al., CVPR 2021 (section 3.3, Figure 2): context enters at the top through pyramid
pooling and flows down three levels, at points only; the head reads all four levels at once. The variants of
the paper's ablations differ in the context (`context.build_context`), in the module between two levels
(`PointFlow` with fewer flows, or a plain `Resized`) and in the order of the steps (`PFNet.steps`).
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pfmap.core.card import FLOW_LEVELS, Architecture, Context, check_window
from pfmap.net.encoders import BLOCKS, EfficientNetLite0, ResNet
from pfmap.net.layers import PyramidConv, average_pool, conv_bn_relu, conv_of_pyramid, resize
from pfmap.net.pointflow import Flowed, FlowPoints, PointFlow


class PFNetOutput(NamedTuple):
    """What one pass computes, before the logits are resized to the window.

    Attributes:
        logits: ``(B, classes, H / 4, W / 4)``.
        edges: edge logits of the PointFlow modules that have boundary flow, in the order in which they run,
            at their source's size: ``(B, 1, H / s, W / s)`` for s = 32, 16, 8 if nothing is varied.
        context: ``(B, C, H / 32, W / 32)``: what tops the encoder.
        flows: outputs of the PointFlow modules in that order, if nothing is varied at strides 16, 8, 4.
        points: the points of the PointFlow modules in that order.
    """

    logits: Tensor
    edges: list[Tensor]
    context: Tensor
    flows: list[Tensor]
    points: list[FlowPoints]


class Resized(nn.Module):
    """A level without PointFlow: the neighbouring map, resized to be added, as in Semantic FPN."""

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Resize ``(B, C, h, w)`` to the size of `target`."""
        return resize(source, target.shape[-2:])


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
            operation; training switches it on, and prediction runs what `inference.for_inference` makes.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.factored = False
        width = architecture.width
        self.encoder = build_encoder(architecture.encoder)
        *fine_channels, top_channels = self.encoder.channels
        # Its weights are called ppm in every model file, whichever context it is.
        self.ppm = build_context(architecture.context, top_channels, width)
        # Lists are indexed fine to coarse: strides 4, 8, 16.
        self.laterals = nn.ModuleList(conv_bn_relu(c, width, 1, bias=True) for c in fine_channels)
        down, up = architecture.direction != "bottom_up", architecture.direction != "top_down"
        self.flows = self._flow_modules() if down else nn.ModuleList()
        self.flows_up = self._flow_modules() if up else nn.ModuleList()
        self.smooth = nn.ModuleList(conv_bn_relu(width, width, 3) for _ in fine_channels)
        self.head = conv_bn_relu(4 * width, width, 3)
        self.classify = nn.Conv2d(width, architecture.classes, 1)

    def _flow_modules(self) -> nn.ModuleList:
        """Build what lies between neighbouring levels, fine to coarse."""
        architecture = self.architecture
        return nn.ModuleList(
            PointFlow(architecture) if architecture.flows_at(level) else Resized() for level in FLOW_LEVELS
        )

    def steps(self) -> Iterator[tuple[int, int, nn.Module]]:
        """Name the steps of the decoder in order: indices of source and target map, and what flows between.

        Both directions go down first, so that what goes up has met the context.
        """
        for level, module in reversed(list(enumerate(self.flows))):
            yield level + 1, level, module
        for level, module in enumerate(self.flows_up):
            yield level, level + 1, module

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
        context = self.ppm(top)
        maps = [*(lateral(x) for lateral, x in zip(self.laterals, fine_maps, strict=True)), context]
        flows: list[Flowed] = []
        for source, target, module in self.steps():
            step = module(maps[source], maps[target])
            if isinstance(step, Flowed):
                flows.append(step)
                step = step.features
            maps[target] = maps[target] + step
        # The top level goes to the head as it is, whatever flowed into it.
        levels = [*(smooth(x) for smooth, x in zip(self.smooth, maps[:-1], strict=True)), maps[-1]]
        return PFNetOutput(
            logits=self.classify(self._fuse(levels)),
            edges=[flow.edges for flow in flows if flow.edges is not None],
            context=context,
            flows=[flow.features for flow in flows],
            points=[flow.points for flow in flows],
        )

    def _fuse(self, levels: list[Tensor]) -> Tensor:
        """Read all levels, fine to coarse, at the finest one's size: ``(B, C, H / 4, W / 4)``."""
        convolve, normalise, relu = self.head
        if isinstance(convolve, PyramidConv):  # as prediction runs it
            fused: Tensor = convolve(levels)
        elif self.factored:
            assert isinstance(convolve, nn.Conv2d)
            fused = conv_of_pyramid(levels, convolve.weight, convolve.bias)
        else:
            size = levels[0].shape[-2:]
            fused = convolve(torch.cat([levels[0], *(resize(x, size) for x in levels[1:])], dim=1))
        out: Tensor = relu(normalise(fused))
        return out

    def forward(self, image: Tensor) -> Tensor:
        """Map normalised ``(B, 3, H, W)`` to logits ``(B, classes, H, W)``."""
        # Class by class from here on, as the softmax wants it: cheaper to turn before than after.
        return resize(self.compute(image).logits.contiguous(), image.shape[-2:])


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
