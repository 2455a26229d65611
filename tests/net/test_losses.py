"""The training objective."""

import torch
import torch.nn.functional as F

from pfmap.net.losses import contours, edge_loss, overlap_loss, set_cross_entropy

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


def test_mining_keeps_the_hard_pixels_and_enough_of_them() -> None:
    logits = torch.randn(1, 3, 8, 8) * 3
    truth = torch.randint(3, (1, 8, 8))
    cost = F.cross_entropy(logits, truth, reduction="none").flatten()
    labels = (truth + 1).byte()
    hard = cost[torch.exp(-cost) < 0.7]
    mined = set_cross_entropy(logits, labels, SETS, WEIGHTS, hard_pixels=1)
    torch.testing.assert_close(mined, hard.mean())
    most = cost.sort(descending=True).values[:60]
    mined = set_cross_entropy(logits, labels, SETS, WEIGHTS, hard_pixels=60)
    torch.testing.assert_close(mined, most.mean())
    unknown = set_cross_entropy(logits, torch.zeros_like(labels), SETS, WEIGHTS, hard_pixels=60)
    assert unknown == 0


def test_the_overlap_loss_is_one_minus_dice_of_each_class_alike() -> None:
    logits = torch.randn(2, 3, 6, 6)
    truth = torch.randint(3, (2, 6, 6))
    p = logits.softmax(1)
    dice = [2 * p[:, c][truth == c].sum() / (p[:, c].sum() + (truth == c).sum()) for c in range(3)]
    loss = overlap_loss(logits, (truth + 1).byte(), SETS, WEIGHTS)
    torch.testing.assert_close(loss, 1 - sum(dice) / 3)


def test_partial_labels_are_negatives_of_what_they_leave_out_and_nothing_else() -> None:
    logits = torch.randn(1, 3, 4, 4)
    labels = torch.full((1, 4, 4), 4, dtype=torch.uint8)  # not class 0
    labels[:, :2] = 1  # class 0
    labels[:, :, 3] = 0  # unknown
    p = logits.softmax(1)[0, 0, :, :3]
    dice = 2 * p[:2].sum() / (p.sum() + 6)
    torch.testing.assert_close(overlap_loss(logits, labels, SETS, WEIGHTS), 1 - dice)


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
