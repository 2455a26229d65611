"""PFNet: encoder, pyramid pooling, and an FPN decoder with PointFlow between its levels.

The whole network of Li et al., CVPR 2021 (section 3.3, Figure 2): context enters at the top through pyramid
pooling and flows down three levels, at points only; the head reads all four levels at once. The variants of
the paper's ablations differ in the context (`build_context`), in the module between two levels (`PointFlow`
with fewer flows, or a plain `Resized`) and in the order of the steps (`PFNet.steps`).
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pfmap.core.card import FLOW_LEVELS, Architecture, Context, check_window
from pfmap.net.layers import average_pool, build_encoder, conv_bn_relu, resize
from pfmap.net.pointflow import Flowed, FlowPoints, PointFlow


class PFNetOutput(NamedTuple):
    """What one pass computes, before the logits are resized to the window.

    Lists are in the order in which the PointFlow modules run; sizes are those where nothing is varied.
    """

    logits: Tensor
    """``(B, classes, H / 4, W / 4)``."""
    contact: Tensor | None
    """``(B, 1, H, W)`` logits of the contact map, where the architecture has one."""
    edges: list[Tensor]
    """Edge logits of the modules with boundary flow, at their source's size: strides 32, 16, 8."""
    flows: list[Tensor]
    """``(B, C, h, w)``: the target maps with their selected points replaced, at strides 16, 8, 4."""
    points: list[FlowPoints]


class PFNet(nn.Module):
    """The network: normalised ``(B, bands, H, W)`` in, logits ``(B, classes, H, W)`` out.

    With `contact` in the architecture there is one more channel, the last: the logit that a pixel lies in or
    by the common wall of two objects. It is our addition (`ContactHead`), and changes nothing before it.

    H and W are multiples of 32, 64 or more; they need not be equal. Pooling and point counts are per window,
    so a trained model belongs to the window size in its card.

    This is the published network operation by operation. Training computes its head in less than half the
    work (`fast.factor_head`), and prediction runs what `fast.for_inference` makes of it.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        width = architecture.width
        self.encoder = build_encoder(architecture.encoder, architecture.bands)
        *fine_channels, top_channels = self.encoder.channels
        # Its weights are called ppm in every model file, whichever context it is.
        self.ppm = build_context(architecture.context, top_channels, width)
        # Lists are indexed fine to coarse: strides 4, 8, 16.
        self.laterals = nn.ModuleList(conv_bn_relu(c, width, 1, bias=True) for c in fine_channels)
        down, up = architecture.direction != "bottom_up", architecture.direction != "top_down"
        self.flows = self._flow_modules() if down else nn.ModuleList()
        self.flows_up = self._flow_modules() if up else nn.ModuleList()
        self.smooth = nn.ModuleList(conv_bn_relu(width, width, 3) for _ in fine_channels)
        self.head = nn.Sequential(LevelsConv(4, width), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.classify = nn.Conv2d(width, architecture.classes, 1)
        self.contact = ContactHead(width, architecture.bands) if architecture.contact else None

    def _flow_modules(self) -> nn.ModuleList:
        """Build what lies between neighbouring levels, fine to coarse."""
        architecture = self.architecture
        flowing = architecture.flow_levels if architecture.flow != "none" else ()
        modules = (PointFlow(architecture) if level in flowing else Resized() for level in FLOW_LEVELS)
        return nn.ModuleList(modules)

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
        """Run the network up to the logits at stride 4, and keep what training and `pfmap points` look at.

        Args:
            image: ``(B, bands, H, W)``, normalised.

        Raises:
            ModelError: H or W is below 64 or no multiple of 32.
        """
        check_window(*image.shape[-2:])
        *fine_maps, top = self.encoder(image)
        maps = [*(lateral(x) for lateral, x in zip(self.laterals, fine_maps, strict=True)), self.ppm(top)]
        flows: list[Flowed] = []
        for source, target, module in self.steps():
            step = module(maps[source], maps[target])
            if isinstance(step, Flowed):
                flows.append(step)
                step = step.features
            maps[target] = maps[target] + step
        # The top level goes to the head as it is, whatever flowed into it.
        levels = [*(smooth(x) for smooth, x in zip(self.smooth, maps[:-1], strict=True)), maps[-1]]
        features = self.head(levels)
        return PFNetOutput(
            logits=self.classify(features),
            contact=self.contact(image, levels[0], features) if self.contact else None,
            edges=[flow.edges for flow in flows if flow.edges is not None],
            flows=[flow.features for flow in flows],
            points=[flow.points for flow in flows],
        )

    def forward(self, image: Tensor) -> Tensor:
        """Map normalised ``(B, bands, H, W)`` to logits ``(B, classes, H, W)``, and the contact's behind."""
        output = self.compute(image)
        # Class by class from here on, as the softmax wants it: cheaper to turn before than after.
        logits = resize(output.logits.contiguous(), image.shape[-2:])
        return logits if output.contact is None else torch.cat([logits, output.contact], dim=1)


class ContactHead(nn.Module):
    """Show the common walls of objects: a small U-Net on features at stride 4 that also sees the image.

    What divides two roofs is often a line thinner than the features' pixels, so the image comes in at strides
    1 and 2, and the map goes out at stride 1. Whether such a line is a wall or a ridge shows in what lies
    around it, so it is looked at from strides 8 and 16 too.

    Source: Ronneberger et al., *U-Net*, MICCAI 2015; Shi et al., CVPR 2016, for the shuffle.
    """

    def __init__(self, width: int, bands: int) -> None:
        super().__init__()
        own = 64  # channels of its convolutions
        self.lines = nn.Sequential(
            *conv_bn_relu(bands, 16, 3, stride=2),
            *conv_bn_relu(16, 16, 3),
            *conv_bn_relu(16, 32, 3, stride=2),
        )
        self.join = conv_bn_relu(2 * width + 32, own, 1)
        self.around = nn.Sequential(nn.AvgPool2d(2), *conv_bn_relu(own, own, 3), *conv_bn_relu(own, own, 3))
        self.far = nn.Sequential(
            nn.AvgPool2d(2),
            *(part for rate in (1, 2, 4) for part in conv_bn_relu(own, own, 3, dilation=rate)),
        )
        self.back = conv_bn_relu(own, own, 3)
        self.draw = nn.Sequential(*conv_bn_relu(own, own, 3), nn.Conv2d(own, 16, 1), nn.PixelShuffle(4))

    def forward(self, image: Tensor, level: Tensor, features: Tensor) -> Tensor:
        """Map ``(B, bands, H, W)`` and two ``(B, C, H / 4, W / 4)`` to logits ``(B, 1, H, W)``."""
        here = self.join(torch.cat([level, features, self.lines(image)], dim=1))
        around = self.around(here)
        around = self.back(around + resize(self.far(around), around.shape[-2:]))
        drawn: Tensor = self.draw(here + resize(around, here.shape[-2:]))
        return drawn


class LevelsConv(nn.Conv2d):
    """The head's 3x3 convolution: over all levels of the pyramid at once, at the finest one's size."""

    def __init__(self, levels: int, width: int, *, device: torch.device | None = None) -> None:
        super().__init__(levels * width, width, 3, padding=1, bias=False, device=device)

    def forward(self, levels: list[Tensor]) -> Tensor:  # type: ignore[override]
        """Map levels, fine to coarse, each ``(B, C, h, w)``, to ``(B, C, H, W)`` at the first one's size."""
        size = levels[0].shape[-2:]
        return super().forward(torch.cat([levels[0], *(resize(x, size) for x in levels[1:])], dim=1))


class Resized(nn.Module):
    """A level without PointFlow: the neighbouring map, resized to be added, as in Semantic FPN."""

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Resize ``(B, C, h, w)`` to the size of `target`."""
        return resize(source, target.shape[-2:])


BINS = (1, 2, 3, 6)
"""Cells along a side of each level of the pyramid pooling."""
RATES = (3, 6, 9)
"""DeepLabV3's 12, 24 and 36 are for output stride 8; at 32 these reach as far in the image."""


def build_context(kind: Context, inputs: int, width: int) -> nn.Module:
    """Build what tops the encoder, the scene-wide context that the decoder hands down (Table 2g).

    All kinds map the encoder's last map ``(B, inputs, h, w)`` to the decoder's ``(B, width, h, w)``. Without
    context it gets a lateral like those of the finer maps, as in Semantic FPN.
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
        pixel = conv_bn_relu(inputs, width, 1)
        around = (conv_bn_relu(inputs, width, 3, dilation=rate) for rate in RATES)
        self.branches = nn.ModuleList([pixel, *around])
        self.whole = conv_bn_relu(inputs, width, 1)
        self.fuse = conv_bn_relu((len(self.branches) + 1) * width, width, 1)
        self.dropout = nn.Dropout2d(0.1)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(B, inputs, h, w)`` to ``(B, width, h, w)``."""
        whole = self.whole(average_pool(features, 1)).expand(-1, -1, *features.shape[-2:])
        seen = [branch(features) for branch in self.branches]
        out: Tensor = self.dropout(self.fuse(torch.cat([*seen, whole], dim=1)))
        return out
