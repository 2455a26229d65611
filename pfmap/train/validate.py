"""Validation: what the network says of the held-out parts, against full, partial and sparse labels."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pfmap.core.card import Card
from pfmap.evaluate.metrics import calibration, class_scores, overall_accuracy
from pfmap.mapping.swaths import map_array
from pfmap.model.predictor import Predictor
from pfmap.train.data import Sample, Source, TrainingData, spread
from pfmap.train.label_layers import ClassSets, Labels
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


_WINDOWS = 40
_PER_WINDOW = 1000
_TEMPERATURES = np.geomspace(0.25, 4.0, 193)

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Calibration:
    """A fitted temperature.

    Attributes:
        temperature: divides the logits.
        error_before: expected calibration error without it, on windows that were not fitted on.
        error: the same with it.
    """

    temperature: float
    error_before: float
    error: float


@dataclass(frozen=True, slots=True)
class _Pixels:
    """Some labelled pixels of a source: ``(n, classes)`` log probabilities, and which classes each may be."""

    scores: Scores
    allowed: npt.NDArray[np.bool_]


def calibrate(predictor: Predictor, data: TrainingData, card: Card) -> Calibration | None:
    """Fit the temperature on every other held-out window, and keep it if it helps on those between.

    Sources weigh alike, however many pixels they have. A partial label ("not a building") is met by any of
    its classes.

    Args:
        predictor: the trained network.
        data: sources and class sets.
        card: the model to be.

    Returns:
        The fit; None where too little was held out.
    """
    fit_on: list[_Pixels] = []
    measure_on: list[_Pixels] = []
    for source in data.sources:
        windows = list(_windows(predictor, source, data, card))
        if len(windows) > 1:
            fit_on.append(_join(windows[::2]))
            measure_on.append(_join(windows[1::2]))
    if not fit_on:
        return None
    temperature = fit(fit_on)
    before, after = (
        float(np.mean([calibration_error(part, t) for part in measure_on])) for t in (1.0, temperature)
    )
    if after >= before:  # labels that err where the network is sure fit a temperature that nobody needs
        return Calibration(1.0, before, before)
    return Calibration(round(temperature, 3), before, after)


def fit(parts: list[_Pixels]) -> float:
    """Find the temperature under which the labels are most probable."""
    costs = [np.mean([_cost(part, t) for part in parts]) for t in _TEMPERATURES]
    return float(_TEMPERATURES[int(np.argmin(costs))])


def _windows(predictor: Predictor, source: Source, data: TrainingData, card: Card) -> Iterator[_Pixels]:
    """Give labelled pixels of up to `_WINDOWS` held-out windows, spread over the source."""
    rng = np.random.default_rng(0)
    table, known = data.sets.table(), data.sets.weights() > 0
    places = []
    for sample in source.validation:
        side, _ = window_for(sample, card.input.window)
        height, width = sample.shape
        rows = range(0, max(1, height - side + 1), side)
        places += [
            (sample, row, col, side) for row in rows for col in range(0, max(1, width - side + 1), side)
        ]
    chosen = sorted(rng.choice(len(places), min(_WINDOWS, len(places)), replace=False)) if places else []
    for sample, row, col, side in (places[k] for k in chosen):
        if row + side > sample.shape[0] or col + side > sample.shape[1]:
            continue  # smaller than a window
        image, labels = sample.cut(row, col, side, side)
        at = np.flatnonzero(known[labels])
        if not len(at):
            continue
        at = rng.choice(at, min(_PER_WINDOW, len(at)), replace=False)
        valid = np.ones(labels.shape, dtype=bool)
        found = predictor.probabilities([image], [valid])[0].flatten(1)[:, at].T
        yield _Pixels(np.log(found.double().cpu().numpy().clip(1e-12)), table[labels.ravel()[at]])


def _join(parts: list[_Pixels]) -> _Pixels:
    return _Pixels(np.concatenate([p.scores for p in parts]), np.concatenate([p.allowed for p in parts]))


def _probabilities(scores: Scores, temperature: float) -> Scores:
    scaled = scores / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _cost(part: _Pixels, temperature: float) -> float:
    """Return the mean of -log of the probability of what the labels allow."""
    allowed = (_probabilities(part.scores, temperature) * part.allowed).sum(axis=1)
    return float(-np.log(allowed.clip(1e-12)).mean())


def calibration_error(part: _Pixels, temperature: float) -> float:
    """Return the expected calibration error, as `pfmap evaluate` measures it."""
    probabilities = _probabilities(part.scores, temperature)
    percent = np.rint(100 * probabilities.max(axis=1)).astype(np.int64)
    right = part.allowed[np.arange(len(percent)), probabilities.argmax(axis=1)]
    hits, misses = (np.bincount(percent[which], minlength=101) for which in (right, ~right))
    return calibration(hits, misses).error
