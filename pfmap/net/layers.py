"""Small pieces shared by all of PFNet: convolution + batch norm + ReLU, and the one way maps are resized."""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_bn_relu(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    bias: bool = False,
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
