"""What a training step changes, by how much, and after which schedule."""

import math

import torch
from torch import nn

from pfmap.net.pfnet import PFNet
from pfmap.train.config import TrainingSettings

_POWER = 0.9
_MOMENTUM = 0.9


def freeze(network: PFNet, trained: str) -> list[nn.Module]:
    """Take the gradient from all parts that are not trained.

    Args:
        network: the network.
        trained: "all", "decoder" (all but the encoder) or "head" (what comes after the pyramid).

    Returns:
        The frozen parts; they belong in evaluation mode, or batch norm would move after all.
    """
    parts = dict(network.named_children())
    kept = {"all": set(parts), "decoder": set(parts) - {"encoder"}, "head": {"head", "classify"}}[trained]
    frozen = [part for name, part in parts.items() if name not in kept]
    for part in frozen:
        part.requires_grad_(requires_grad=False)
    return frozen


def make_optimizer(network: PFNet, settings: TrainingSettings) -> torch.optim.Optimizer:
    """Make the optimiser: the encoder's parameters with their own rate, which each group keeps as `peak`."""
    encoder = [p for p in network.encoder.parameters() if p.requires_grad]
    rest = [
        p for name, p in network.named_parameters() if not name.startswith("encoder.") and p.requires_grad
    ]
    groups = [
        {"params": parameters, "lr": rate, "peak": rate}
        for parameters, rate in ((encoder, settings.encoder_rate), (rest, settings.decoder_rate))
        if parameters
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=settings.decoder_rate, momentum=_MOMENTUM, weight_decay=settings.weight_decay
        )
    return torch.optim.AdamW(groups, weight_decay=settings.weight_decay)


def learning_rate(step: int, settings: TrainingSettings) -> float:
    """Return the share of the peak learning rate: linear warm-up, then half a cosine or a polynomial.

    Source: the polynomial with power 0.9 is the paper's recipe (section 4.1); Loshchilov and Hutter, ICLR
    2017, Eq. 5, for the cosine.
    """
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    done = min(1.0, (step - settings.warmup) / max(1, settings.steps - settings.warmup))
    if settings.schedule == "poly":
        return float(max(1e-4, (1 - done) ** _POWER))
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))
