"""The encoders, and what all of PFNet shares: convolution + batch norm + ReLU, resizing, pooling to cells.

Cell i of n covers the pixels from floor(i * size / n) to ceil((i + 1) * size / n), as in PyTorch's adaptive
pooling: where n does not divide the size, cells differ in size and share pixels. Exchange formats do not have
it: an exported network pools by matrix products and gathering.
"""

import sys
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_bn_relu(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, dilation: int = 1, bias: bool = False
) -> nn.Sequential:
    """Build a convolution that keeps the map's size (over its stride), batch norm and ReLU."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=bias),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Switch autocast off on a device, for arithmetic that needs its tensors' own precision."""
    # Networks are also run on the meta device, to count their work; it has no autocast.
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def resize(features: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize ``(B, C, h, w)`` bilinearly to ``(B, C, *size)``, corners aligned, as everywhere in PFNet."""
    return F.interpolate(features, size=list(size), mode="bilinear", align_corners=True)


def exporting() -> bool:
    """Whether the network is being written as ONNX; torch.onnx, which takes long to load, is there then."""
    return "torch.onnx" in sys.modules and torch.onnx.is_in_onnx_export()


def average_pool(features: Tensor, bins: int) -> Tensor:
    """Average ``(B, C, h, w)`` over ``bins x bins`` cells: ``(B, C, bins, bins)``."""
    if exporting():
        return average_by_products(features, bins)
    return F.adaptive_avg_pool2d(features, bins)


def average_by_products(features: Tensor, bins: int) -> Tensor:
    """Do as `average_pool`, by two matrix products."""
    batch, channels, height, width = features.shape
    rows = _averages(height, bins, features.device)
    cols = _averages(width, bins, features.device)
    with without_autocast(features.device):
        pixels = features.float().permute(0, 2, 3, 1)
        lines = rows @ pixels.reshape(batch, height, width * channels)
        cells = cols @ lines.view(batch, bins, width, channels)
    return cells.permute(0, 3, 1, 2).to(features.dtype)


def max_by_gathering(features: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Do as `pointflow.salient_points`, over the pixels of each cell laid side by side."""
    height, width = features.shape[-2:]
    cells = _cells(height, width, bins, features.device)
    values = features.flatten(1)[:, cells]  # (B, bins ** 2, pixels of a cell)
    first = values.argmax(dim=-1, keepdim=True)
    peaks = values.gather(-1, first).view(-1, 1, bins, bins)
    at = cells.expand(len(values), -1, -1).gather(-1, first)
    return at.squeeze(-1), peaks


def _bounds(size: int, bins: int) -> list[tuple[int, int]]:
    """Return the first pixel of each cell along one axis, and the one after its last."""
    return [(i * size // bins, -(-(i + 1) * size // bins)) for i in range(bins)]


@lru_cache(maxsize=64)
def _averages(size: int, bins: int, device: torch.device) -> Tensor:
    """Build the ``(bins, size)`` matrix that averages over cells of one axis."""
    # Never inside inference mode: the cached matrix has to serve a later training step too.
    with torch.inference_mode(mode=False):
        matrix = torch.zeros(bins, size)
        for index, (start, stop) in enumerate(_bounds(size, bins)):
            matrix[index, start:stop] = 1 / (stop - start)
        return matrix.to(device)


@lru_cache(maxsize=64)
def _cells(height: int, width: int, bins: int, device: torch.device) -> Tensor:
    """List the pixels of every cell: ``(bins ** 2, pixels)`` flat indices; smaller ones repeat the last."""
    with torch.inference_mode(mode=False):
        cells = [
            [row * width + col for row in range(*rows) for col in range(*cols)]
            for rows in _bounds(height, bins)
            for cols in _bounds(width, bins)
        ]
        longest = max(map(len, cells))
        return torch.tensor([cell + cell[-1:] * (longest - len(cell)) for cell in cells]).to(device)


BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
_EXPANSION = 4


def build_encoder(name: str, bands: int = 3) -> "ResNet | EfficientNetLite0":
    """Build the encoder called `name` for images of so many bands, with random weights."""
    return EfficientNetLite0(bands) if name == "efficientnet_lite0" else ResNet(BLOCKS[name], bands)


class Bottleneck(nn.Module):
    """1x1 reduce, 3x3, 1x1 expand, added to the input (projected where the shape changes)."""

    def __init__(self, inputs: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        outputs = width * _EXPANSION
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(B, inputs, h, w)`` to ``(B, 4 * width, h / stride, w / stride)``."""
        out = self.relu(self.bn1(self.conv1(features)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        joined: Tensor = self.relu(out.add_(self.downsample(features)))
        return joined


class ResNet(nn.Module):
    """The paper's encoder (section 3.3, "network architecture").

    Bottleneck blocks with the stride in the 3x3 convolution, a deep stem of three 3x3 convolutions, and, as
    in the published checkpoints, dilated 3x3 convolutions in stages 3 and 4 while the strides stay: output
    stride 32 with a wider view. `blocks` says how many there are in each of the four stages.

    Source: He et al., CVPR 2016 (residual blocks); He et al., CVPR 2019 (deep stem).
    """

    channels = (256, 512, 1024, 2048)

    def __init__(self, blocks: tuple[int, int, int, int], bands: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            conv_bn_relu(bands, 64, 3, stride=2),
            conv_bn_relu(64, 64, 3),
            conv_bn_relu(64, 128, 3),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.stages = nn.ModuleList()
        inputs = 128
        shapes = ((64, 1, 1), (128, 2, 1), (256, 2, 2), (512, 2, 4))
        for count, (width, stride, dilation) in zip(blocks, shapes, strict=True):
            stage = [Bottleneck(inputs, width, stride, dilation)]
            inputs = width * _EXPANSION
            stage += [Bottleneck(inputs, width, 1, dilation) for _ in range(count - 1)]
            self.stages.append(nn.Sequential(*stage))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map ``(B, bands, H, W)`` to four maps, fine to coarse, of 256, 512, 1024 and 2048 channels."""
        features = self.stem(image)
        maps = []
        for stage in self.stages:
            features = stage(features)
            maps.append(features)
        return maps


_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Blocks, kernel, stride of the first block, expansion, output channels."""
_TAPS = (1, 2, 4, 6)
"""Stages after which the map leaves the encoder: the last one at each stride."""


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


def _conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolve = SameConv2d(inputs, outputs, kernel, stride, groups)
    return nn.Sequential(convolve, nn.BatchNorm2d(outputs, eps=1e-3), nn.ReLU6(inplace=True))


class MBConv(nn.Module):
    """Expand by 1x1, filter each channel, project by 1x1; added to the input where the shape stays."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = _conv_bn(inputs, hidden, 1) if expansion != 1 else nn.Identity()
        self.depthwise = _conv_bn(hidden, hidden, kernel, stride, groups=hidden)
        self.project = _conv_bn(hidden, outputs, 1)[:2]  # no ReLU
        self.residual = stride == 1 and inputs == outputs

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(B, inputs, h, w)`` to ``(B, outputs, h / stride, w / stride)``."""
        out: Tensor = self.project(self.depthwise(self.expand(features)))
        return out.add_(features) if self.residual else out


class EfficientNetLite0(nn.Module):
    """An encoder that is fast on CPUs: no squeeze-and-excitation, and ReLU6.

    Not in the paper; the decoder on top of it is the paper's. Padding is TensorFlow's "same", where the odd
    pixel goes to the bottom and right, so that ImageNet weights trained there keep their meaning.

    Source: Tan and Le, ICML 2019; the Lite variants, TensorFlow authors, 2020.
    """

    channels = (24, 40, 112, 320)

    def __init__(self, bands: int = 3) -> None:
        super().__init__()
        self.stem = _conv_bn(bands, 32, 3, 2)
        self.stages = nn.ModuleList()
        inputs = 32
        for repeat, kernel, stride, expansion, outputs in _STAGES:
            stage = [MBConv(inputs, outputs, kernel, stride, expansion)]
            inputs = outputs
            stage += [MBConv(inputs, outputs, kernel, 1, expansion) for _ in range(repeat - 1)]
            self.stages.append(nn.Sequential(*stage))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map ``(B, bands, H, W)`` to four maps, fine to coarse, of 24, 40, 112 and 320 channels.

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
