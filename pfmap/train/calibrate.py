"""Temperature scaling: one number that makes the confidence mean what it says.

A temperature T divides all logits. It changes no class, only how sure the network is. Trained networks are
mostly too sure; T is fitted on held-out windows, and its effect measured on others.

Source: Guo et al., ICML 2017, section 4.2 (temperature scaling) and Eq. 3 (expected calibration error).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pfmap.core.card import Card
from pfmap.evaluate.metrics import calibration
from pfmap.model.predictor import Predictor
from pfmap.train.data import Source, TrainingData
from pfmap.train.validate import window_for

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
