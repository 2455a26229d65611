"""Accuracy from a confusion matrix."""

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]


def confusion(truth: npt.NDArray[np.uint8], predicted: npt.NDArray[np.uint8], classes: int) -> Counts:
    """Count pixels by true class (rows) and predicted class (columns).

    Args:
        truth: any shape; values of `classes` or more are not counted.
        predicted: the same shape; values of `classes` or more are not counted.
        classes: number of classes.

    Returns:
        ``(classes, classes)`` int64.
    """
    counted = (truth < classes) & (predicted < classes)
    pairs = truth[counted].astype(np.int64) * classes + predicted[counted]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def iou(matrix: Counts) -> npt.NDArray[np.float64]:
    """Compute intersection over union per class: ``(classes,)`` float64, NaN for a class seen nowhere."""
    hit = np.diag(matrix).astype(np.float64)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - np.diag(matrix)
    shares = np.full(len(hit), np.nan)
    np.divide(hit, union, out=shares, where=union > 0)
    return shares


def accuracy(matrix: Counts) -> float:
    """Compute the share of counted pixels that are right; NaN where none was counted."""
    total = int(matrix.sum())
    return float(np.trace(matrix)) / total if total else float("nan")
