"""The figures of an evaluation: from counts to what is shown, written and returned."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from pfmap.core.classes import ClassSpec
from pfmap.evaluate.comparison import Labels, Tally
from pfmap.evaluate.metrics import (
    BOUNDARY_DISTANCES,
    Bools,
    Calibration,
    calibration,
    class_scores,
    match_scores,
    mean,
    overall_accuracy,
    settled,
)
from pfmap.trace.compare import NO_CODE


@dataclass(frozen=True, slots=True)
class Scores:
    """Figures of one class, or their means: NaN where there are none."""

    iou: float
    f1: float
    precision: float
    recall: float


@dataclass(frozen=True, slots=True)
class Match:
    """How boundary pixels, or objects, match: NaN where there are none."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, slots=True)
class Objects:
    """Objects of one class: how many there are, and how many match one to one at an IoU of 0.5 or more."""

    truth: int
    predicted: int
    matched: int
    match: Match


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """What is measured of one class.

    Attributes:
        spec: name and colour.
        truth_pixels: pixels that are it.
        predicted_pixels: pixels predicted as it whose label says if that is right.
        scores: pixel by pixel.
        boundary: at each of `BOUNDARY_DISTANCES`; NaN where labels do not say where the class ends.
        objects: None if they were not asked for, or labels do not say where the class ends.
        in_mean: whether it counts in the means: "other" does not.
    """

    spec: ClassSpec
    truth_pixels: int
    predicted_pixels: int
    scores: Scores
    boundary: tuple[Match, ...]
    objects: Objects | None
    in_mean: bool


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How well a prediction agrees with the truth. Means leave out classes that occur nowhere, and "other".

    Attributes:
        classes: those that occur.
        mean: of the classes.
        accuracy: share of right pixels among those labelled with one class.
        boundary: means over the classes of F1, precision and recall at each of `BOUNDARY_DISTANCES`.
        calibration: of the confidence of the classes, or None without confidence.
        labels: names of the labels that occur: rows of the confusion matrix.
        confusion: ``(labels, classes)`` pixels by label and predicted class.
        allowed: ``(labels, classes)`` whether the label allows the class.
        labelled: pixels with a label.
        unmapped: those of them without a prediction, which do not count.
        notes: what is to be known about it.
    """

    classes: tuple[ClassFigures, ...]
    mean: Scores
    accuracy: float
    boundary: tuple[Match, ...]
    calibration: Calibration | None
    labels: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    allowed: tuple[tuple[bool, ...], ...]
    labelled: int
    unmapped: int
    notes: tuple[str, ...] = ()

    def table(self) -> dict[str, Any]:
        """Return everything as it is written to JSON: figures that do not exist are None.

        Keys: `pixels` (labelled, compared, without_prediction), `overall_accuracy`, `mean` (iou, f1,
        precision, recall), `classes` (class, truth_pixels, predicted_pixels, in_mean, and the same four),
        `confusion` (labels, classes, pixels and allowed: rows are true, columns predicted), `boundary`
        (distances_px, mean, classes: f1, precision, recall at each distance), `objects` (class, truth,
        predicted, matched, precision, recall, f1), `calibration` (expected_error, bins: from, to, pixels,
        confidence, accuracy) or null, `notes`.
        """
        return {
            "pixels": {
                "labelled": self.labelled,
                "compared": self.labelled - self.unmapped,
                "without_prediction": self.unmapped,
            },
            "overall_accuracy": _number(self.accuracy),
            "mean": _scores_table(self.mean),
            "classes": [
                {
                    "class": item.spec.name,
                    "truth_pixels": item.truth_pixels,
                    "predicted_pixels": item.predicted_pixels,
                    "in_mean": item.in_mean,
                    **_scores_table(item.scores),
                }
                for item in self.classes
            ],
            "confusion": {
                "labels": list(self.labels),
                "classes": [item.spec.name for item in self.classes],
                "pixels": [list(row) for row in self.confusion],
                "allowed": [list(row) for row in self.allowed],
            },
            "boundary": {
                "distances_px": list(BOUNDARY_DISTANCES),
                "mean": _boundary_table(self.boundary),
                "classes": [
                    {"class": item.spec.name, **_boundary_table(item.boundary)} for item in self.classes
                ],
            },
            "objects": [
                {
                    "class": item.spec.name,
                    "truth": item.objects.truth,
                    "predicted": item.objects.predicted,
                    "matched": item.objects.matched,
                    **_match_table(item.objects.match),
                }
                for item in self.classes
                if item.objects is not None
            ],
            "calibration": None if self.calibration is None else _calibration_table(self.calibration),
            "notes": list(self.notes),
        }


def figures(
    tally: Tally,
    labels: Labels,
    *,
    objects: tuple[int, ...] = (),
    certain: Bools | None = None,
    named_only: bool = False,
    notes: tuple[str, ...] = (),
) -> Evaluation:
    """Turn counts into figures.

    Args:
        tally: what was counted.
        labels: what the codes mean.
        objects: codes of the classes whose objects were matched.
        certain: ``(C,)`` classes whose confidence can be judged; None for those that no label leaves open.
        named_only: whether classes that no sure label names have no figures, even if they are predicted:
            for data whose labels do not know all classes.
        notes: what is to be known about it.
    """
    classes, rows = len(labels.classes), len(labels.names)
    counts = tally.counts[:rows, :classes]
    allowed = labels.allowed()[:rows, :classes]
    scores = class_scores(counts, allowed)
    hidden = (scores.truth == 0) if named_only else np.zeros(classes, dtype=bool)
    certain = settled(counts, allowed) if certain is None else certain
    ends = certain & ~hidden & ends_known(tally, classes)
    in_mean = [code < classes - 1 or not labels.other for code in range(classes)]
    found = [
        ClassFigures(
            spec=spec,
            truth_pixels=int(scores.truth[code]),
            predicted_pixels=int(scores.predicted[code]),
            scores=_NOTHING if hidden[code] else _scores(scores, code),
            boundary=_boundary(tally, code, known=bool(ends[code])),
            objects=_objects(tally, code) if code in objects and ends[code] else None,
            in_mean=in_mean[code],
        )
        for code, spec in enumerate(labels.classes)
    ]
    shown = [k for k in range(classes) if counts[:, k].any() or (counts * allowed)[:, k].any() or
             (k < rows and counts[k].any())]  # fmt: skip
    occurring = [k for k in range(rows) if counts[k].any()]
    chosen = [item for item in found if item.in_mean]
    return Evaluation(
        classes=tuple(found[k] for k in shown),
        mean=Scores(*(mean([getattr(c.scores, name) for c in chosen]) for name in Scores.__slots__)),
        accuracy=overall_accuracy(counts, allowed),
        boundary=tuple(
            Match(*(mean([getattr(c.boundary[k], name) for c in chosen]) for name in Match.__slots__))
            for k in range(len(BOUNDARY_DISTANCES))
        ),
        calibration=_calibration(tally, [k for k in range(classes) if in_mean[k] and certain[k]]),
        labels=tuple(labels.names[k] for k in occurring),
        confusion=tuple(tuple(int(counts[row, col]) for col in shown) for row in occurring),
        allowed=tuple(tuple(bool(allowed[row, col]) for col in shown) for row in occurring),
        labelled=int(tally.counts[:rows].sum()),
        unmapped=int(tally.counts[:rows, NO_CODE].sum()),
        notes=notes,
    )


def ends_known(tally: Tally, classes: int) -> Bools:
    """Say of which classes the truth shows where they end: ``(C,)``.

    Sparse labels may lie inside their objects and never touch those of another class: then every predicted
    boundary would be wrong, and every object a fragment. A class that is only predicted has no true end.
    """
    pixels = tally.counts[:classes, :classes].sum(axis=1)
    return np.asarray((tally.true_lines[:classes].sum(axis=1) > 0) | (pixels == 0))


_NOTHING = Scores(*[math.nan] * 4)
_NO_MATCH = Match(*[math.nan] * 3)


def _scores(scores: Any, code: int) -> Scores:
    return Scores(*(float(getattr(scores, name)[code]) for name in Scores.__slots__))


def _boundary(tally: Tally, code: int, *, known: bool) -> tuple[Match, ...]:
    if not known:
        return (_NO_MATCH,) * len(BOUNDARY_DISTANCES)
    predicted, true = tally.predicted_lines[code], tally.true_lines[code]
    found = match_scores(
        np.cumsum(predicted)[:-1], np.array(predicted.sum()), np.cumsum(true)[:-1], np.array(true.sum())
    )
    return tuple(
        Match(float(found.precision[k]), float(found.recall[k]), float(found.f1[k]))
        for k in range(len(BOUNDARY_DISTANCES))
    )


def _objects(tally: Tally, code: int) -> Objects:
    truth, predicted, matched = (np.array([n]) for n in tally.objects[code].tolist())
    found = match_scores(matched, predicted, matched, truth)
    match = Match(float(found.precision[0]), float(found.recall[0]), float(found.f1[0]))
    return Objects(int(truth[0]), int(predicted[0]), int(matched[0]), match)


def _calibration(tally: Tally, codes: list[int]) -> Calibration | None:
    """Measure the confidence of classes for which every label says whether they are right."""
    levels = tally.levels[codes].sum(axis=0)
    return calibration(levels[:, 1], levels[:, 0]) if levels.any() else None


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 6)


def _scores_table(scores: Scores) -> dict[str, float | None]:
    return {name: _number(getattr(scores, name)) for name in ("iou", "f1", "precision", "recall")}


def _match_table(match: Match) -> dict[str, float | None]:
    return {name: _number(getattr(match, name)) for name in ("precision", "recall", "f1")}


def _boundary_table(matches: tuple[Match, ...]) -> dict[str, list[float | None]]:
    return {name: [_number(getattr(m, name)) for m in matches] for name in ("f1", "precision", "recall")}


def _calibration_table(found: Calibration) -> dict[str, Any]:
    return {
        "expected_error": _number(found.error),
        "bins": [
            {
                "from": round(float(found.edges[k]), 6),
                "to": round(float(found.edges[k + 1]), 6),
                "pixels": int(found.pixels[k]),
                "confidence": _number(found.confidence[k]),
                "accuracy": _number(found.accuracy[k]),
            }
            for k in range(len(found.pixels))
        ],
    }


def figure(value: float) -> str:
    """Write a figure from 0 to 1, or a dash where there is none."""
    return "-" if math.isnan(value) else f"{value:.4f}"


def lines_of(found: Evaluation) -> list[str]:
    """Return the figures as a table in plain text."""
    distances = [f"F1 {d}px" for d in BOUNDARY_DISTANCES]
    out = [_row("class", ["IoU", "F1", "precision", "recall", *distances, "truth px"])]
    out += [
        _row(item.spec.name, [*_cells(item.scores, item.boundary), f"{item.truth_pixels:,}"])
        for item in found.classes
    ]
    out.append(_row("mean", [*_cells(found.mean, found.boundary), ""]).rstrip())
    out.append("")
    compared = found.labelled - found.unmapped
    out.append(f"overall accuracy {figure(found.accuracy)} of {compared:,} pixels")
    if found.unmapped:
        out.append(
            f"{found.unmapped:,} labelled pixels ({found.unmapped / found.labelled:.2%}) have no prediction "
            "and do not count"
        )
    for item in found.classes:
        if item.objects is not None:
            some, match = item.objects, item.objects.match
            out.append(
                f"objects of {item.spec.name} at IoU 0.5: precision {figure(match.precision)}, recall "
                f"{figure(match.recall)}, F1 {figure(match.f1)} ({some.matched:,} matched of "
                f"{some.predicted:,} predicted and {some.truth:,} true)"
            )
    if found.calibration is not None:
        out.append(f"expected calibration error {figure(found.calibration.error)}")
    return out


def _cells(scores: Scores, boundary: tuple[Match, ...]) -> list[str]:
    values = [scores.iou, scores.f1, scores.precision, scores.recall, *(m.f1 for m in boundary)]
    return [figure(value) for value in values]


def _row(name: str, cells: list[str]) -> str:
    widths = (7, 7, 10, 7, *(8,) * len(BOUNDARY_DISTANCES), 15)
    return f"{name:<20} " + " ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
