"""IoU, F1, precision, recall, boundary F1 and calibration error, as formulas over counts of pixels.

Truth is a list of *labels*. A label may be one class, or several that a pixel may be ("not a building"). Of L
labels and C classes, `counts` are ``(L, C)`` pixels by label and predicted class, and `allowed`, ``(L, C)``,
says which classes each label allows. With labels of one class each, all formulas are the usual ones of a
confusion matrix. A class is *settled* where no label leaves open whether a pixel is of it.

A class that occurs neither in the truth nor in the prediction has no figures (NaN), and no say in a mean. A
ratio of nothing to nothing in a class that does occur, such as the precision of a class that is never
predicted, is 0, as in scikit-learn.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np

from pfmap.core.arrays import Bools, Floats, Longs

BOUNDARY_DISTANCES = (3, 5, 9, 12)
"""Pixels within which boundaries match. Source: Li et al., CVPR 2021, Table 3."""

MIN_OBJECT = 100
"""Pixels of an object: smaller ones are mostly specks and slivers."""

CALIBRATION_BINS = 20
"""Guo et al. use 15; with 20 the bins end at whole percent, which is how confidence is stored."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Figures of one class, or their means; NaN where there are none."""

    iou: float = math.nan
    """Intersection over union, TP / (TP + FP + FN)."""
    f1: float = math.nan
    """Dice coefficient, 2 TP / (2 TP + FP + FN)."""
    precision: float = math.nan
    """TP / (TP + FP)."""
    recall: float = math.nan
    """TP / (TP + FN)."""


def class_scores(counts: Longs, allowed: Bools) -> tuple[list[Scores], Longs, Longs]:
    """Compute the figures of each class.

    True positives are pixels of the class alone that are predicted as it; false negatives those that are not;
    false positives all pixels predicted as it whose label leaves it out. So "not a building" serves the
    buildings' precision though it names no class.

    Also returns the ``(C,)`` pixels of the class alone, and those predicted as it whose label says if that is
    right.

    Source: Everingham et al., The PASCAL VOC Challenge, IJCV 2010, section 4.2 (IoU).
    """
    sure = allowed.sum(axis=1) == 1
    own = sure[:, None] & allowed
    hit = (counts * own).sum(axis=0)
    truth = (counts.sum(axis=1)[:, None] * own).sum(axis=0)
    false_alarms = (counts * ~allowed).sum(axis=0)
    predicted = hit + false_alarms
    occurs = (truth + predicted) > 0
    pairs = (hit, truth + false_alarms), (2 * hit, truth + predicted), (hit, predicted), (hit, truth)
    # Nothing by nothing is 0 where the class occurs.
    ratios = [np.where(occurs, part / np.maximum(whole, 1), np.nan) for part, whole in pairs]
    return [Scores(*row) for row in np.transpose(ratios).tolist()], truth, predicted


def overall_accuracy(counts: Longs, allowed: Bools) -> float:
    """Return the share of the pixels labelled with one class that are right; NaN without any."""
    sure = allowed.sum(axis=1) == 1
    right, total = int(counts[sure][allowed[sure]].sum()), int(counts[sure].sum())
    return right / total if total else math.nan


def settled(counts: Longs, allowed: Bools) -> Bools:
    """Say which classes no occurring label leaves open: ``(C,)``."""
    open_labels = (allowed.sum(axis=1) > 1) & (counts.sum(axis=1) > 0)
    return np.asarray(~allowed[open_labels].any(axis=0))


@dataclass(frozen=True, slots=True)
class Match:
    """How two sets of things match, boundary pixels or objects; NaN where there are none in either."""

    precision: float = math.nan
    """Share of the predicted ones that match."""
    recall: float = math.nan
    """Share of the true ones that match."""
    f1: float = math.nan
    """Their harmonic mean."""


def match_scores(predicted_matched: int, predicted: int, truth_matched: int, truth: int) -> Match:
    """Compute precision, recall and F1 of matched things.

    For boundaries, a predicted boundary pixel of a class matches where a true one of the class lies within a
    Euclidean distance of t pixels, and the other way round; counts are of the whole data set.

    Source: Perazzi et al., CVPR 2016, section 5.1 (F of contours); Takikawa et al., ICCV 2019, section 4.1
    (per class, at several t). Both average over images; we accumulate, as one scene is one image.
    """
    if not predicted + truth:
        return Match()
    precision, recall = predicted_matched / max(1, predicted), truth_matched / max(1, truth)
    total = precision + recall
    return Match(precision, recall, 2 * precision * recall / total if total else 0.0)


@dataclass(frozen=True, slots=True)
class Objects:
    """Objects of one class that have some pixels or more, as `pfmap.trace.compare.Matcher` counts them."""

    least_pixels: int
    truth: int
    predicted: int
    matched: int
    """True ones that a predicted one has an IoU of at least 0.5 with."""
    merged: int
    """True ones that lie in a predicted one with others, each with more than half of its pixels."""
    split: int
    """True ones of which two or more predicted ones have a fifth each."""
    matches: tuple[Match, ...]
    """At each of `pfmap.trace.compare.IOUS`."""

    def share(self, count: int) -> str:
        """Write how many of the true ones that is."""
        return f"{count / max(1, self.truth):.1%}"


def object_scores(counts: Longs, least: int) -> Objects:
    """Compute the figures of objects from a row of what was counted."""
    truth, found, strict, merged, split, total, *right = counts.tolist()
    pairs = zip(right, (found, strict), strict=True)
    matches = tuple(match_scores(some, total, others, truth) for some, others in pairs)
    return Objects(least, truth, total, found, merged, split, matches)


Means = TypeVar("Means", Scores, Match)


def mean_of(kind: type[Means], items: Sequence[Means]) -> Means:
    """Return the mean of each figure, over those that have it; NaN if none has."""
    values = ([getattr(item, field.name) for item in items] for field in fields(kind))
    known = ([value for value in some if not math.isnan(value)] for some in values)
    return kind(*(float(np.mean(some)) if some else math.nan for some in known))


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far confidence can be taken at its word; one entry per bin of confidence."""

    edges: Floats
    """``(B + 1,)`` bins from 0 to 1; a bin has its upper edge, not its lower one."""
    pixels: Longs
    """``(B,)`` pixels in each."""
    confidence: Floats
    """``(B,)`` their mean confidence; NaN in empty bins."""
    accuracy: Floats
    """``(B,)`` the share of them that is right; NaN in empty bins."""
    error: float
    """Expected calibration error: mean gap of the two, weighted by pixels; NaN without pixels."""


def calibration(right: Longs, wrong: Longs, bins: int = CALIBRATION_BINS) -> Calibration:
    """Compute the reliability curve, in bins of equal width, and the expected calibration error.

    ``right`` and ``wrong`` are ``(101,)`` pixels by confidence in percent.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equations 2 to 5.
    """
    percent = np.arange(101)
    number = np.clip(-(-percent * bins // 100) - 1, 0, bins - 1)
    total = right + wrong
    weights = total, total * percent / 100, right
    pixels, summed, hits = (np.bincount(number, weights=each, minlength=bins) for each in weights)
    some = np.where(pixels > 0, pixels, np.nan)
    gaps = np.abs(summed - hits)  # of the means, times the pixels
    error = float(gaps.sum() / pixels.sum()) if pixels.any() else math.nan
    edges = np.linspace(0, 1, bins + 1)
    return Calibration(edges, pixels.astype(np.int64), summed / some, hits / some, error)
