"""The training objective: segmentation from full and partial labels, and contours for each PointFlow module.

The paper trains with cross-entropy plus one binary cross-entropy per edge map (section 3.3). Land-cover
labels are often partial ("not a building"), so cross-entropy is generalised to *sets* of classes: the loss
of a pixel is ``-log`` of the probability that its class is in the set. A set of one is plain cross-entropy;
the set of all classes is no information and weighs nothing.

Throughout, labels are ``(B, H, W)`` indices into `sets`, ``(S, classes)`` bool, which says what classes each
label allows; a pixel with a label weighs `weights`, ``(S,)``, and 0 ignores it. Logits are ``(B, classes, H,
W)``, and a loss is a scalar.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pfmap.net.layers import resize

EDGE_THICKNESS = 8
"""Contours are drawn this many pixels thick, as in the published training."""


def set_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    sets: Tensor,
    weights: Tensor,
    hard_pixels: int = 0,
    hard_probability: float = 0.7,
) -> Tensor:
    """Mean of ``-log p(class in set)`` over the labelled pixels, or over the hard ones among them; 0 if none.

    Online hard example mining: at least `hard_pixels` pixels count, the least probable ones, and all below
    `hard_probability`; with 0 all pixels do.

    Source: Shrivastava et al., CVPR 2016 (mining), over pixels as in the published training.
    """
    score = F.log_softmax(logits.float(), dim=1)
    forbidden = ~sets[labels.long()].permute(0, 3, 1, 2)
    inside = score.masked_fill(forbidden, -torch.inf).logsumexp(dim=1)
    weight = weights[labels.long()]
    if hard_pixels:
        probability = inside.detach().exp().masked_fill(weight == 0, torch.inf).flatten()
        least = probability.kthvalue(min(hard_pixels, probability.numel())).values
        weight = weight * (probability <= least.clamp(min=hard_probability)).view_as(weight)
    return -(inside * weight).sum() / weight.sum().clamp(min=1)


def overlap_loss(logits: Tensor, labels: Tensor, sets: Tensor, weights: Tensor) -> Tensor:
    """Mean over the classes of one minus the soft Dice coefficient of prediction and labels in the batch.

    Cross-entropy counts pixels, the IoU counts classes; this term brings rare classes up to their share. A
    pixel whose set holds a class among others says nothing about that class; one whose set leaves it out
    is a negative. Classes without a sure pixel in the batch are left out.

    Source: Milletari et al., 3DV 2016, Eq. 3, without the squares.
    """
    probabilities = torch.softmax(logits.float(), dim=1)
    labelled = (weights > 0)[:, None]
    own = sets & (sets.sum(dim=1, keepdim=True) == 1) & labelled
    known = own | (~sets & labelled)
    number = labels.long()
    truth = own.float()[number].permute(0, 3, 1, 2)
    seen = probabilities * known.float()[number].permute(0, 3, 1, 2)
    hit = (seen * truth).sum(dim=(0, 2, 3))
    total = truth.sum(dim=(0, 2, 3))
    dice = 2 * hit / (seen.sum(dim=(0, 2, 3)) + total).clamp(min=1)
    present = total > 0
    return ((1 - dice) * present).sum() / present.sum().clamp(min=1)


def keep_loss(logits: Tensor, before: Tensor, where: Tensor) -> Tensor:
    """Mean, over the pixels of a mask, of how far probabilities went from earlier ones; 0 if they did not.

    The Kullback-Leibler divergence from those of `before`, whose logits may be smaller in height and width.

    Source: Li and Hoiem, ECCV 2016 (learning without forgetting).
    """
    kept = torch.softmax(resize(before, (logits.shape[-2], logits.shape[-1])), dim=1)
    apart = F.kl_div(F.log_softmax(logits, dim=1), kept, reduction="none").sum(dim=1)
    return (apart * where).sum() / where.sum().clamp(min=1)


def contours(labels: Tensor, sets: Tensor) -> tuple[Tensor, Tensor]:
    """Draw the contours between labels that exclude each other.

    Returns:
        ``(B, 1, H, W)`` float, 1 on contours; and ``(B, 1, H, W)`` bool, True where that is known: on
        contours, and off them where the class is certain.
    """
    number = labels.long()
    # classes as numbers, shared ones as a product > 0
    table = sets.float()
    disjoint = (table @ table.T) == 0
    right = disjoint[number[:, :, :-1], number[:, :, 1:]]
    down = disjoint[number[:, :-1], number[:, 1:]]
    step = F.pad(right, (0, 1)) | F.pad(right, (1, 0)) | F.pad(down, (0, 0, 0, 1)) | F.pad(down, (0, 0, 1, 0))
    # A step marks one pixel on both sides already, so 7 more make 8.
    thick = F.max_pool2d(step[:, None].float(), EDGE_THICKNESS - 1, 1, EDGE_THICKNESS // 2 - 1)
    certain = (sets.sum(dim=1) == 1)[number][:, None]
    return thick, certain | (thick > 0)


def contact_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of the contact map, plus one minus its soft Dice coefficient; 0 if nothing is known.

    Walls are few pixels of many: what finds none is almost always right, and has a Dice coefficient of 0. On
    the other hand a wall weighs no more than another pixel, so that 0.5 means what it says.

    Args:
        logits: ``(B, 1, H, W)``.
        target: ``(B, H, W)`` float: 1 where objects meet, 0 where none do, NaN where that is unknown.
    """
    known = ~target.isnan()
    if not known.any():
        return logits.sum() * 0
    found, true = logits.float()[:, 0][known], target[known]
    shown = torch.sigmoid(found)
    dice = 2 * (shown * true).sum() / (shown.sum() + true.sum()).clamp(min=1)
    return F.binary_cross_entropy_with_logits(found, true) + 1 - dice


def edge_loss(edge_logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Binary cross-entropy of one edge map at the window's size, each side weighted by the other's share.

    Args:
        edge_logits: ``(B, 1, h, w)``.
        target: what `contours` draws.
        known: where it knows them; other pixels do not count.
    """
    logits = resize(edge_logits.float(), (target.shape[-2], target.shape[-1]))
    total = known.sum().clamp(min=1)
    positive = (target * known).sum() / total
    weight = torch.where(target > 0, 1 - positive, positive) * known
    loss = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum")
    return loss / total
