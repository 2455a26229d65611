"""ResNet-50 and ResNet-101 encoders of PFNet (paper section 3.3, "network architecture").

Bottleneck blocks with the stride in the 3x3 convolution, a deep stem of three 3x3 convolutions, and, as in
the published checkpoints, dilated 3x3 convolutions in stages 3 and 4 while the strides stay: output
stride 32 with a wider view.

Source: He et al., CVPR 2016 (residual blocks); He et al., CVPR 2019 (deep stem).
"""

from torch import Tensor, nn

from pfmap.net.layers import conv_bn_relu

BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
_STRIDES = (1, 2, 2, 2)
_DILATIONS = (1, 1, 2, 4)
_WIDTHS = (64, 128, 256, 512)
_EXPANSION = 4


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
    """The encoder: an image in, four maps at strides 4, 8, 16 and 32 out."""

    channels = (256, 512, 1024, 2048)

    def __init__(self, blocks: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            conv_bn_relu(3, 64, 3, stride=2),
            conv_bn_relu(64, 64, 3),
            conv_bn_relu(64, 128, 3),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.stages = nn.ModuleList()
        inputs = 128
        for count, width, stride, dilation in zip(blocks, _WIDTHS, _STRIDES, _DILATIONS, strict=True):
            stage = [Bottleneck(inputs, width, stride, dilation)]
            inputs = width * _EXPANSION
            stage += [Bottleneck(inputs, width, 1, dilation) for _ in range(count - 1)]
            self.stages.append(nn.Sequential(*stage))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map ``(B, 3, H, W)`` to four maps, fine to coarse, of 256, 512, 1024 and 2048 channels."""
        features = self.stem(image)
        maps = []
        for stage in self.stages:
            features = stage(features)
            maps.append(features)
        return maps
