"""What a training step makes smaller: the paper's loss, written out."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch.distributions import Bernoulli, Categorical, kl_divergence

from pfmap.core.card import Architecture
from pfmap.net.pfnet import PFNet
from pfmap.train.config import TrainingSettings
from pfmap.train.optimise import Objective

CLASSES = 3


def at_window_size(logits: torch.Tensor) -> torch.Tensor:
    return F.interpolate(logits, (64, 96), mode="bilinear", align_corners=True)


def near_a_border(classes: np.ndarray) -> np.ndarray:
    """A line eight pixels wide along the border of two classes."""
    beside = ndimage.generate_binary_structure(2, 1)
    steps = ndimage.maximum_filter(classes, footprint=beside) != ndimage.minimum_filter(
        classes, footprint=beside
    )
    return ndimage.binary_dilation(steps, np.ones((7, 7)))


@pytest.mark.parametrize("edge_weight", [0.0, 1.0, 2.5])
def test_the_loss_is_that_of_the_classes_and_one_for_each_edge_map(edge_weight: float) -> None:
    torch.manual_seed(0)
    network = PFNet(Architecture("efficientnet_lite0", CLASSES, width=16, embedding=8)).eval()
    settings = TrainingSettings(steps=1, edge_weight=edge_weight)
    sets, weights = torch.eye(CLASSES, dtype=torch.bool), torch.ones(CLASSES)
    images = torch.randn(2, 3, 64, 96)
    labels = torch.zeros(2, 64, 96, dtype=torch.uint8)
    labels[:, 20:, :40] = 1
    labels[1, 30:, 60:] = 2
    output = network.compute(images)
    assert len(output.edges) == 3  # one for each PointFlow module

    expected = F.cross_entropy(at_window_size(output.logits), labels.long())
    border = torch.from_numpy(np.stack([near_a_border(one.numpy()) for one in labels]))
    for edges in output.edges:
        logits = at_window_size(edges)[:, 0]
        share = border.double().mean()
        on, off = -F.logsigmoid(logits)[border].sum(), -F.logsigmoid(-logits)[~border].sum()
        expected = expected + edge_weight * ((1 - share) * on + share * off) / border.numel()

    loss = Objective(network, sets, weights, torch.full((CLASSES,), torch.nan), settings)(
        images, labels, labels
    )
    torch.testing.assert_close(loss.double(), expected.double(), rtol=1e-5, atol=1e-6)


def test_what_has_no_label_is_held_to_what_the_network_said_before() -> None:
    torch.manual_seed(0)
    card = Architecture("efficientnet_lite0", CLASSES, width=16, embedding=8, contact=("roof",))
    network = PFNet(card).eval()
    sets = torch.cat([torch.ones(1, CLASSES), torch.eye(CLASSES)]).bool()
    weights, contacts = torch.tensor([0.0, *[1.0] * CLASSES]), torch.tensor([torch.nan, *[0.0] * CLASSES])
    images = torch.randn(2, 3, 64, 96)
    labels = torch.zeros(2, 64, 96, dtype=torch.uint8)
    labels[:, 20:, :40] = 1
    free, kept = (
        Objective(network, sets, weights, contacts, TrainingSettings(steps=1, keep_weight=weight))
        for weight in (0.0, 2.0)
    )
    torch.testing.assert_close(kept(images, labels, labels), free(images, labels, labels))
    before = network.compute(images)
    with torch.no_grad():
        network.classify.bias += torch.randn(CLASSES)
        network.contact.draw[3].bias += 1
    after = network.compute(images)
    open_ = labels == 0
    classes, classes_now = (at_window_size(one.logits).movedim(1, -1)[open_] for one in (before, after))
    contact, contact_now = (one.contact[:, 0][open_] for one in (before, after))
    apart = kl_divergence(Categorical(logits=classes), Categorical(logits=classes_now)).mean()
    apart += kl_divergence(Bernoulli(logits=contact), Bernoulli(logits=contact_now)).mean()
    expected = free(images, labels, labels) + 2 * apart
    torch.testing.assert_close(kept(images, labels, labels), expected, rtol=1e-4, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in kept.kept.parameters())
    kept.train()(images, labels, labels)
    assert not kept.kept.training
