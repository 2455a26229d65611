"""Validation: what the network says of the held-out parts, against full, partial and sparse labels."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pfmap.core.card import Card
from pfmap.evaluate.metrics import class_scores, overall_accuracy
from pfmap.model.predictor import Predictor, map_array
from pfmap.train.class_sets import ClassSets, Labels
from pfmap.train.data import Sample, TrainingData, spread
from pfmap.train.labelled_image import Image

_LIMIT = 32_000_000  # pixels of a source


@dataclass(frozen=True, slots=True)
class Figures:
    """Validation figures of one source.

    Attributes:
        iou: intersection over union per class name; classes that occur nowhere are left out.
        accuracy: share of the pixels labelled with one sure class that are right.
    """

    iou: dict[str, float]
    accuracy: float

    @property
    def mean_iou(self) -> float:
        """Mean over the classes that occur."""
        return float(np.mean(list(self.iou.values()))) if self.iou else float("nan")


Validation = dict[str, Figures]
"""Figures by name of the source; sources without validation data are left out."""


def measure(network: nn.Module, data: TrainingData, card: Card, device: torch.device) -> Validation:
    """Map what is held out with the model's windows, as a scene would be, and compare.

    Of a source with more than 32 million pixels, parts from all over it: `pfmap evaluate` measures all.

    Args:
        network: in evaluation mode.
        data: sources and class sets.
        card: the model to be: window, input settings, classes.
        device: where the network runs.
    """
    predictor = Predictor(network, card.input, device)
    classes, labels = len(card.classes), len(data.sets)
    figures: Validation = {}
    for source in data.sources:
        counts = np.zeros((labels, classes), dtype=np.int64)
        for true, predicted, _ in mapped(predictor, spread(source.validation, _LIMIT), classes):
            pairs = true.astype(np.int64).ravel() * classes + predicted.ravel()
            counts += np.bincount(pairs, minlength=labels * classes).reshape(labels, classes)
        if source.validation:
            figures[source.spec.name] = figures_of(counts, data.sets)
    return figures


def figures_of(counts: npt.NDArray[np.int64], sets: ClassSets) -> Figures:
    """Turn counts into figures.

    A class's IoU counts sure pixels of it, and as false alarms all labelled pixels whose set leaves it out:
    so "not building" serves the building's IoU though it names no class.

    Args:
        counts: ``(S, classes)`` pixels by label set and predicted class.
        sets: the table of label sets.
    """
    known = sets.weights() > 0
    counts, allowed = counts[known], sets.table()[known]
    scores = class_scores(counts, allowed)
    iou = {name: float(scores.iou[k]) for k, name in enumerate(sets.classes) if scores.truth[k]}
    return Figures(iou, overall_accuracy(counts, allowed))


def mapped(
    predictor: Predictor, samples: Iterable[Sample], classes: int
) -> Iterator[tuple[Labels, Image, Image]]:
    """Map images with the model's windows, as a scene would be.

    Args:
        predictor: the network and its device.
        samples: the images.
        classes: number of classes.

    Yields:
        Each image's label sets, its classes, and their confidence in percent, all ``(height, width)`` uint8.
    """
    for sample in samples:
        window, overlap = window_for(sample, predictor.spec.window)
        image, labels = sample.cut(0, 0, *sample.shape)  # read once: it may lie on disk
        yield labels, *map_array(predictor, image, classes, window, overlap)


def accuracy_table(figures: Validation) -> Mapping[str, float]:
    """Flatten figures for a model's card."""
    table = {}
    for name, figure in figures.items():
        table[f"{name}_mean_iou"] = round(figure.mean_iou, 4)
        table |= {f"{name}_{klass}_iou": round(value, 4) for klass, value in figure.iou.items()}
        table[f"{name}_accuracy"] = round(figure.accuracy, 4)
    return table


def window_for(sample: Sample, window: int) -> tuple[int, int]:
    """Choose window and overlap: the model's, or for a chip smaller than that, the chip itself."""
    side = min(sample.shape)
    if side >= window:
        return window, window // 8
    return max(64, side // 32 * 32), 0
