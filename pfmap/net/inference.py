"""The network as prediction runs it: the same function, in fewer and cheaper operations."""

import torch
from torch import nn

from pfmap.net.factored import PyramidConv
from pfmap.net.fold import fold_batch_norm
from pfmap.net.pfnet import PFNet
from pfmap.net.winograd import WinogradConv2d, suits


def for_inference(network: PFNet, device: torch.device, precision: torch.dtype) -> PFNet:
    """Copy a network in evaluation mode and rebuild the copy for speed.

    Batch norms are folded into convolutions, the head reads its coarse levels at their own size
    (`PyramidConv`), weights lie as channels-last arithmetic wants them, and where the device has no
    units for matrix products of its own, wide 3x3 convolutions multiply less (`WinogradConv2d`).

    Args:
        network: left as it is.
        device: where the copy goes.
        precision: type of the heavy arithmetic.
    """
    fast = fold_batch_norm(network)
    convolve = fast.head[0]
    assert isinstance(convolve, nn.Conv2d)
    fast.head[0] = PyramidConv(convolve, levels=4)
    if device.type == "cpu" and precision == torch.float32:
        _replace_convolutions(fast)
    # torch's stubs know .to(device) and .to(memory_format=...), each alone
    fast.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return fast


def _replace_convolutions(network: nn.Module) -> None:
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d) and suits(child):
                setattr(module, name, WinogradConv2d(child))
