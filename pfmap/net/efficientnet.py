"""EfficientNet-Lite0 encoder: PFNet for machines without a GPU.

Not in the paper, which uses ResNets; the decoder on top of it is the paper's. Lite0 has no
squeeze-and-excitation and uses ReLU6, which keeps it fast on CPUs. Padding is TensorFlow's "same", where the
odd pixel goes to the bottom and right, so that ImageNet weights trained there keep their meaning.

Source: Tan and Le, ICML 2019; the Lite variants, TensorFlow authors, 2020.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pfmap.net.layers import without_autocast

# repeat, kernel, stride of the first, expansion, output channels
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_TAPS = (1, 2, 4, 6)
"""Stages after which the map leaves the encoder: the last one at each stride."""
_BN_EPS = 1e-3


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding for even inputs; no bias."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        total = kernel - stride
        self._pad = (total // 2, total - total // 2) * 2
        symmetric = total // 2 if total % 2 == 0 else 0
        super().__init__(inputs, outputs, kernel, stride, symmetric, groups=groups, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Convolve ``(B, inputs, h, w)`` to ``(B, outputs, h / stride, w / stride)``."""
        if self._pad[0] != self._pad[1]:
            features = F.pad(features, self._pad)
        return super().forward(features)


def _conv_bn(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, *, relu: bool = True
) -> nn.Sequential:
    layers: list[nn.Module] = [
        SameConv2d(inputs, outputs, kernel, stride, groups),
        nn.BatchNorm2d(outputs, eps=_BN_EPS),
    ]
    if relu:
        layers.append(nn.ReLU6(inplace=True))
    return nn.Sequential(*layers)


class MBConv(nn.Module):
    """Expand by 1x1, filter each channel, project by 1x1; added to the input where the shape stays."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = _conv_bn(inputs, hidden, 1) if expansion != 1 else nn.Identity()
        self.depthwise = _conv_bn(hidden, hidden, kernel, stride, groups=hidden)
        self.project = _conv_bn(hidden, outputs, 1, relu=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(B, inputs, h, w)`` to ``(B, outputs, h / stride, w / stride)``."""
        out: Tensor = self.project(self.depthwise(self.expand(features)))
        return out.add_(features) if self.residual else out


class EfficientNetLite0(nn.Module):
    """The encoder: an image in, four maps at strides 4, 8, 16 and 32 out."""

    channels = (24, 40, 112, 320)

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv_bn(3, 32, 3, 2)
        self.stages = nn.ModuleList()
        inputs = 32
        for repeat, kernel, stride, expansion, outputs in _STAGES:
            blocks = []
            for index in range(repeat):
                blocks.append(MBConv(inputs, outputs, kernel, stride if index == 0 else 1, expansion))
                inputs = outputs
            self.stages.append(nn.Sequential(*blocks))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map ``(B, 3, H, W)`` to four maps, fine to coarse, of 24, 40, 112 and 320 channels.

        In float32, whatever surrounds it: in bfloat16 its many narrow layers would change more of a map than
        all of the decoder does, and be hardly faster.
        """
        with without_autocast(image.device):
            features = self.stem(image.to(torch.promote_types(image.dtype, torch.float32)))
            maps = []
            for index, stage in enumerate(self.stages):
                features = stage(features)
                if index in _TAPS:
                    maps.append(features)
        return maps
