"""The training objective."""

import torch
import torch.nn.functional as F

from pfmap.net.losses import contours, edge_loss, set_cross_entropy

SETS = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 1]], dtype=torch.bool)
WEIGHTS = torch.tensor([0.0, 1, 1, 1, 1])


def test_sure_labels_give_plain_cross_entropy() -> None:
    logits = torch.randn(2, 3, 5, 7)
    truth = torch.randint(3, (2, 5, 7))
    loss = set_cross_entropy(logits, (truth + 1).byte(), SETS, WEIGHTS)
    torch.testing.assert_close(loss, F.cross_entropy(logits, truth))


def test_a_partial_label_asks_for_the_sum_of_its_classes() -> None:
    logits = torch.randn(1, 3, 4, 4)
    loss = set_cross_entropy(logits, torch.full((1, 4, 4), 4, dtype=torch.uint8), SETS, WEIGHTS)
    expected = -torch.log(1 - logits.softmax(1)[:, 0]).mean()
    torch.testing.assert_close(loss, expected)


def test_unknown_pixels_weigh_nothing() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = set_cross_entropy(logits, torch.zeros(1, 4, 4, dtype=torch.uint8), SETS, WEIGHTS)
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


def test_contours_are_eight_pixels_thick_between_labels_that_exclude_each_other() -> None:
    labels = torch.full((1, 40, 40), 1, dtype=torch.uint8)
    labels[:, :, 20:] = 2
    drawn, known = contours(labels, SETS)
    assert drawn[0, 0, 10].nonzero().flatten().tolist() == list(range(16, 24))
    assert known.all()


def test_no_contour_is_claimed_where_labels_overlap_or_are_unknown() -> None:
    labels = torch.full((1, 40, 40), 2, dtype=torch.uint8)
    labels[:, :, 20:] = 4  # may be the same class
    labels[:, 30:] = 0
    drawn, known = contours(labels, SETS)
    assert not drawn.any()
    assert known[0, 0, 10, :20].all()
    assert not known[0, 0, :, 20:].any()
    assert not known[0, 0, 30:].any()


def test_both_sides_of_the_edge_loss_weigh_the_same() -> None:
    target = torch.zeros(1, 1, 64, 64)
    target[..., :8] = 1
    known = torch.ones_like(target, dtype=torch.bool)
    logits = torch.zeros(1, 1, 8, 8, requires_grad=True)
    edge_loss(logits, target, known).backward()
    assert abs(float(logits.grad.sum())) < 1e-6
