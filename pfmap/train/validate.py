"""Validation: figures of what was held out, and the temperature that makes the confidence mean what it says.

A temperature T divides all logits. It changes no class, only how sure the network is. Trained networks are
mostly too sure; T is fitted on held-out windows, and its effect measured on others.

Source: Guo et al., ICML 2017, section 4.2 (temperature scaling) and Eq. 3 (expected calibration error).
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from pfmap.core.arrays import Bools, Floats, Longs
from pfmap.core.card import Card
from pfmap.evaluation.metrics import calibration, class_scores, overall_accuracy
from pfmap.mapping.swaths import map_array
from pfmap.model.predictor import Predictor
from pfmap.train.data import Source, TrainingData, spread
from pfmap.train.label_layers import ClassSets, Labels
from pfmap.train.labelled_image import Image, Sample

_LIMIT = 32_000_000  # pixels of a source
_WINDOWS = 40  # of a source, that the temperature is fitted and measured on
_PER_WINDOW = 1000  # pixels
_WALL = 50  # percent of contact
_TEMPERATURES = np.geomspace(0.25, 4.0, 193)


@dataclass(frozen=True, slots=True)
class Figures:
    """Validation figures of one source."""

    iou: dict[str, float]
    """Intersection over union per class name; classes that occur nowhere are left out."""
    accuracy: float
    """Share of the pixels labelled with one sure class that are right."""
    contact: float | None = None
    """Intersection over union of the contact map from 50 percent on; None where there is none to be found."""

    @property
    def mean_iou(self) -> float:
        """Mean over the classes that occur."""
        return float(np.mean(list(self.iou.values()))) if self.iou else float("nan")


Validation = dict[str, Figures]
"""Figures by name of the source; sources without validation data are left out."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """A fitted temperature."""

    temperature: float
    error_before: float
    """Expected calibration error without it, on windows that were not fitted on."""
    error: float
    """The same with it."""


def measure(network: nn.Module, data: TrainingData, card: Card, device: torch.device) -> Validation:
    """Map what is held out with the model's windows, as a scene would be, and compare.

    Of a source with more than 32 million pixels, parts from all over it: `pfmap evaluate` measures all.
    """
    predictor = predictor_of(network, card, device)
    classes, labels, meet = len(card.classes), len(data.sets.entries), data.sets.contacts()
    figures: Validation = {}
    for source in data.sources:
        counts = np.zeros((labels, classes), dtype=np.int64)
        real = both = false = 0
        for true, predicted, _, contact in mapped(predictor, spread(source.validation, _LIMIT), classes):
            pairs = true.astype(np.int64).ravel() * classes + predicted.ravel()
            counts += np.bincount(pairs, minlength=labels * classes).reshape(labels, classes)
            if contact is not None:
                shown, walls = contact >= _WALL, meet[true]
                real += int(np.count_nonzero(walls == 1))
                both += int(np.count_nonzero(shown & (walls == 1)))
                false += int(np.count_nonzero(shown & (walls == 0)))
        if source.validation:
            found = figures_of(counts, data.sets)
            figures[source.spec.name] = replace(found, contact=both / (real + false) if real else None)
    return figures


def predictor_of(network: nn.Module, card: Card, device: torch.device) -> Predictor:
    """Let a network that is still changing, or is only measured, compute as it is."""
    return Predictor(network, card.input, device, contact=bool(card.architecture.contact))


def mapped(
    predictor: Predictor, samples: Iterable[Sample], classes: int, tta: str = "none"
) -> Iterator[tuple[Labels, Image, Image, Image | None]]:
    """Map images with the model's windows, as a scene would be.

    Each gives ``(height, width)`` uint8: label sets, classes, and as `map_array` confidence and contact.
    """
    for sample in samples:
        window, overlap = window_for(sample, predictor.spec.window)
        image, labels = sample.read()  # once: it may lie on disk
        yield labels, *map_array(predictor, image, classes, window, overlap, tta)


def window_for(sample: Sample, window: int) -> tuple[int, int]:
    """Choose window and overlap: the model's, or for a chip smaller than that, the chip itself."""
    if (side := min(sample.shape)) >= window:
        return window, window // 8
    return max(64, side // 32 * 32), 0


def figures_of(counts: Longs, sets: ClassSets) -> Figures:
    """Turn counts into figures.

    A class's IoU counts sure pixels of it, and as false alarms all labelled pixels whose set leaves it out:
    so "not building" serves the building's IoU though it names no class. `counts` is ``(S, classes)``: pixels
    by label set and predicted class.
    """
    known = sets.weights() > 0
    counts, allowed = counts[known], sets.table()[known]
    scores, truth, _ = class_scores(counts, allowed)
    iou = {name: scores[k].iou for k, name in enumerate(sets.classes) if truth[k]}
    return Figures(iou, overall_accuracy(counts, allowed))


def accuracy_table(figures: Validation, fitted: Calibration | None) -> dict[str, float]:
    """Write figures as a model's card has them."""
    table = {}
    for name, figure in figures.items():
        table[f"{name}_mean_iou"] = round(figure.mean_iou, 4)
        table |= {f"{name}_{klass}_iou": round(value, 4) for klass, value in figure.iou.items()}
        table[f"{name}_accuracy"] = round(figure.accuracy, 4)
        if figure.contact is not None:
            table[f"{name}_contact_iou"] = round(figure.contact, 4)
    table = {name: value for name, value in table.items() if math.isfinite(value)}  # nothing sure to measure
    if fitted is not None:
        table["calibration_error_before"] = fitted.error_before
        table["calibration_error"] = fitted.error
    return table


@dataclass(frozen=True, slots=True)
class Pixels:
    """Some labelled pixels of a source."""

    scores: Floats
    """``(n, classes)`` log probabilities."""
    allowed: Bools
    """``(n, classes)``: which classes each pixel may be."""

    @classmethod
    def join(cls, parts: Sequence["Pixels"]) -> "Pixels":
        """Put several into one."""
        return cls(np.concatenate([p.scores for p in parts]), np.concatenate([p.allowed for p in parts]))

    def probabilities(self, temperature: float) -> Floats:
        """Return ``(n, classes)`` probabilities under a temperature."""
        return torch.softmax(torch.from_numpy(self.scores / temperature), dim=1).numpy()

    def cost(self, temperature: float) -> float:
        """Return the mean of -log of the probability of what the labels allow."""
        allowed = (self.probabilities(temperature) * self.allowed).sum(axis=1)
        return float(-np.log(allowed.clip(1e-12)).mean())

    def error(self, temperature: float) -> float:
        """Return the expected calibration error, as `pfmap evaluate` measures it."""
        probabilities = self.probabilities(temperature)
        percent = np.rint(100 * probabilities.max(axis=1)).astype(np.int64)
        right = self.allowed[np.arange(len(percent)), probabilities.argmax(axis=1)]
        hits, misses = (np.bincount(percent[which], minlength=101) for which in (right, ~right))
        return calibration(hits, misses).error


def calibrate(predictor: Predictor, data: TrainingData) -> Calibration | None:
    """Fit the temperature on every other held-out window, and keep it if it helps on those between.

    Sources weigh alike, however many pixels they have. A partial label ("not a building") is met by any of
    its classes. None where too little was held out.
    """
    every = [list(_windows(predictor, source, data.sets)) for source in data.sources]
    if not (windows := [some for some in every if len(some) > 1]):
        return None
    temperature = fit([Pixels.join(some[::2]) for some in windows])
    between = [Pixels.join(some[1::2]) for some in windows]
    before, after = (float(np.mean([part.error(t) for part in between])) for t in (1.0, temperature))
    if after >= before:  # labels that err where the network is sure fit a temperature that nobody needs
        temperature, after = 1.0, before
    # Rounded here, so that the card and the page beside it say the same.
    return Calibration(round(temperature, 3), round(before, 4), round(after, 4))


def fit(parts: Sequence[Pixels]) -> float:
    """Find the temperature under which the labels are most probable."""
    costs = [np.mean([part.cost(t) for part in parts]) for t in _TEMPERATURES]
    return float(_TEMPERATURES[int(np.argmin(costs))])


def _windows(predictor: Predictor, source: Source, sets: ClassSets) -> Iterator[Pixels]:
    """Give labelled pixels of up to `_WINDOWS` held-out windows, spread over the source."""
    rng = np.random.default_rng(0)
    table, known = sets.table(), sets.weights() > 0
    windows = []
    for sample in source.validation:
        side, _ = window_for(sample, predictor.spec.window)
        windows += [piece for piece in sample.pieces(side) if piece.shape == (side, side)]
    count = min(_WINDOWS, len(windows))
    for k in sorted(rng.choice(len(windows), count, replace=False).tolist()) if windows else ():
        image, labels = windows[k].read()
        at = np.flatnonzero(known[labels])
        if not len(at):
            continue
        at = rng.choice(at, min(_PER_WINDOW, len(at)), replace=False)
        made = predictor.probabilities([image], [np.ones(labels.shape, dtype=bool)])[0]
        found = made[: len(sets.classes)].flatten(1)[:, at].T
        yield Pixels(np.log(found.double().cpu().numpy().clip(1e-12)), table[labels.ravel()[at]])
