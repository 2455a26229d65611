"""What a training step minimises, what it changes, and by how much."""

import copy
import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pfmap.core.errors import TrainingError
from pfmap.net.layers import resize
from pfmap.net.losses import contact_loss, contours, edge_loss, keep_loss, overlap_loss, set_cross_entropy
from pfmap.net.pfnet import PFNet
from pfmap.train.config import Trained, TrainingSettings


class Objective(nn.Module):
    """The network together with its loss: what one training step differentiates.

    The loss is that of the segmentation, one of contours per PointFlow module (paper section 3.3), and that
    of the contact map. All is one module, so that several devices can share a step through torch's own data
    parallelism. Label sets and their weights are as in `pfmap.net.losses`, which compute in float32 whatever
    the network does; `contacts`, ``(S,)``, says for each set whether objects meet (1) or not (0, or NaN).
    With `keep_weight` pixels without a label are held to what the network says of them when this is made.
    """

    def __init__(
        self, network: PFNet, sets: Tensor, weights: Tensor, contacts: Tensor, settings: TrainingSettings
    ) -> None:
        super().__init__()
        self.network = network
        self.kept = copy.deepcopy(network).requires_grad_(False) if settings.keep_weight else None
        self.settings = settings
        # Constants, not state: a checkpoint has no use for them.
        self.register_buffer("sets", sets, persistent=False)
        self.register_buffer("weights", weights, persistent=False)
        self.register_buffer("contacts", contacts, persistent=False)

    def forward(self, images: Tensor, labels: Tensor, annotated: Tensor) -> Tensor:
        """Return the loss of a batch, as `augment.Batches` gives it."""
        settings = self.settings
        kind = images.device.type
        low = settings.precision == "bfloat16" or (settings.precision == "auto" and kind == "cuda")
        with torch.autocast(kind, torch.bfloat16, enabled=low):
            output = self.network.compute(images)
        contact, meet = output.logits.new_zeros(()), None
        if output.contact is not None:
            meet = self.get_buffer("contacts")[annotated.long()]
            contact = settings.contact_weight * contact_loss(output.contact, meet)
        if settings.trained == "contact":
            return contact
        sets, weights = self.get_buffer("sets"), self.get_buffer("weights")
        logits = resize(output.logits.float(), images.shape[-2:])
        hard = settings.hard_pixels, settings.hard_probability
        loss = set_cross_entropy(logits, labels, sets, weights, *hard)
        if settings.overlap_weight:
            loss = loss + settings.overlap_weight * overlap_loss(logits, labels, sets, weights)
        if output.edges:
            target, known = contours(annotated, sets)
            if meet is not None:
                walls = (meet > 0)[:, None]
                target, known = target.masked_fill(walls, 1), known | walls
            for edges in output.edges:
                loss = loss + settings.edge_weight * edge_loss(edges, target, known)
        if self.kept is not None:
            self.kept.eval()
            with torch.no_grad(), torch.autocast(kind, torch.bfloat16, enabled=low):
                before = self.kept.compute(images)
            unknown = weights[labels.long()] == 0
            loss = loss + settings.keep_weight * keep_loss(logits, before.logits.float(), unknown)
            if output.contact is not None and before.contact is not None and meet is not None:
                now, then = (F.pad(one, (0, 0, 0, 0, 0, 1)) for one in (output.contact, before.contact))
                contact = contact + settings.keep_weight * keep_loss(now.float(), then.float(), meet.isnan())
        return loss + contact


def freeze(network: PFNet, trained: Trained, *, norms: bool = False) -> list[nn.Module]:
    """Take the gradient from all parts that are not trained, and return these, and all batch norms if asked.

    They belong in evaluation mode, or batch norm would move after all.
    """
    parts = dict(network.named_children())
    head = {"head", "classify", "contact"}
    kept = {"all": set(parts), "decoder": set(parts) - {"encoder"}, "head": head, "contact": {"contact"}}
    frozen = [part for name, part in parts.items() if name not in kept[trained]]
    for part in frozen:
        part.requires_grad_(requires_grad=False)
    return frozen + [part for part in network.modules() if norms and isinstance(part, nn.BatchNorm2d)]


def make_optimizer(network: PFNet, settings: TrainingSettings) -> torch.optim.Optimizer:
    """Make the optimiser: the encoder's parameters with their own rate, which each group keeps as `peak`."""
    learned = [(name, one) for name, one in network.named_parameters() if one.requires_grad]
    encoder = [one for name, one in learned if name.startswith("encoder.")]
    rest = [one for name, one in learned if not name.startswith("encoder.")]
    rates = (encoder, settings.encoder_rate), (rest, settings.decoder_rate)
    groups = [{"params": some, "lr": rate, "peak": rate} for some, rate in rates if some]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, weight_decay=settings.weight_decay)
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
        return float(max(1e-4, (1 - done) ** 0.9))
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))


def refuse_diverged(average: nn.Module, step: int, checkpoint: Path) -> None:
    """Keep the last checkpoint and the best weights from being replaced by NaN, with a `TrainingError`."""
    for key, value in average.state_dict().items():
        if not value.isfinite().all():
            kept = f"; {checkpoint} was good" if checkpoint.is_file() else ""
            raise TrainingError(
                f"training diverged: {key} is not finite at step {step}{kept}: lower the rates"
            )
