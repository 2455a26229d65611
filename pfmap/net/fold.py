"""Batch norm folded into the convolution before it: the same function with fewer operations.

In evaluation mode batch norm multiplies and shifts each channel by constants, which the convolution's own
weights and bias can do as well.

Source: Ioffe and Szegedy, ICML 2015, section 3.1 (inference with fixed statistics).
"""

import copy
from itertools import pairwise
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Net = TypeVar("Net", bound=nn.Module)


def fold_batch_norm(network: Net) -> Net:
    """Copy a network in evaluation mode with every batch norm folded into the convolution before it.

    A batch norm is taken to follow the convolution that is registered right before it in the same module, as
    everywhere in PFNet. In its place stays an `Identity`, so that the modules can be walked as before.
    """
    folded = copy.deepcopy(network)
    for module in list(folded.modules()):
        children = list(module.named_children())
        for (name, before), (norm_name, norm) in pairwise(children):
            if isinstance(before, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(before, norm))
                setattr(module, norm_name, nn.Identity())
    return folded
