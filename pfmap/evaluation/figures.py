"""The figures of an evaluation: made of counts, and written as JSON and as a table in plain text."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pfmap.core.arrays import Bools
from pfmap.core.classes import ClassSpec
from pfmap.evaluation import metrics
from pfmap.evaluation.comparison import Labels, Tally
from pfmap.evaluation.metrics import BOUNDARY_DISTANCES, MIN_OBJECT, Match, Objects, Scores
from pfmap.trace.compare import IOUS, NO_CODE


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """What is measured of one class."""

    spec: ClassSpec
    truth_pixels: int
    predicted_pixels: int
    """Pixels predicted as it whose label says if that is right."""
    scores: Scores
    boundary: tuple[Match, ...]
    """At each of `BOUNDARY_DISTANCES`; NaN where labels do not say where the class ends."""
    objects: Objects | None
    """None if they were not asked for, or labels do not say where the class ends."""
    in_mean: bool
    """Whether it counts in the means: "other" does not."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How well a prediction agrees with the truth; means leave out "other" and classes that occur nowhere."""

    classes: tuple[ClassFigures, ...]
    """Those that occur."""
    mean: Scores
    accuracy: float
    """Share of right pixels among those labelled with one class."""
    boundary: tuple[Match, ...]
    """Means over the classes, at each of `BOUNDARY_DISTANCES`."""
    calibration: metrics.Calibration | None
    """Of the confidence of the classes; None without confidence."""
    labels: tuple[str, ...]
    """Names of the labels that occur: rows of the confusion matrix."""
    confusion: tuple[tuple[int, ...], ...]
    """``(labels, classes)`` pixels by label and predicted class."""
    allowed: tuple[tuple[bool, ...], ...]
    """``(labels, classes)`` whether the label allows the class."""
    labelled: int
    unmapped: int
    """Labelled pixels without a prediction, which do not count."""
    notes: tuple[str, ...] = ()

    def table(self) -> dict[str, Any]:
        """Return everything as it is written to JSON: figures that do not exist are None.

        Keys: `pixels` (labelled, compared, without_prediction), `overall_accuracy`, `mean` (iou, f1,
        precision, recall), `classes` (class, truth_pixels, predicted_pixels, in_mean, and the same four),
        `confusion` (labels, classes, pixels and allowed: rows are true, columns predicted), `boundary`
        (distances_px, mean, classes: f1, precision, recall at each distance), `objects` (class, precision,
        recall, f1; iou and the same three for each in matches; least_pixels, truth, predicted, matched,
        merged, split), `calibration` (expected_error, bins: from, to, pixels, confidence, accuracy) or null,
        `notes`.
        """
        table = {
            "pixels": {
                "labelled": self.labelled,
                "compared": self.labelled - self.unmapped,
                "without_prediction": self.unmapped,
            },
            "overall_accuracy": self.accuracy,
            "mean": asdict(self.mean),
            "classes": [
                {
                    "class": item.spec.name,
                    "truth_pixels": item.truth_pixels,
                    "predicted_pixels": item.predicted_pixels,
                    "in_mean": item.in_mean,
                    **asdict(item.scores),
                }
                for item in self.classes
            ],
            "confusion": {
                "labels": self.labels,
                "classes": [item.spec.name for item in self.classes],
                "pixels": self.confusion,
                "allowed": self.allowed,
            },
            "boundary": {
                "distances_px": BOUNDARY_DISTANCES,
                "mean": _boundary_table(self.boundary),
                "classes": [
                    {"class": item.spec.name, **_boundary_table(item.boundary)} for item in self.classes
                ],
            },
            "objects": [
                {
                    "class": item.spec.name,
                    **asdict(item.objects.matches[0]),
                    "iou": IOUS,
                    **asdict(item.objects),
                }
                for item in self.classes
                if item.objects is not None
            ],
            "calibration": None if self.calibration is None else _calibration_table(self.calibration),
            "notes": self.notes,
        }
        return {key: _plain(value) for key, value in table.items()}


def figures(
    tally: Tally,
    labels: Labels,
    objects: tuple[int, ...] = (),
    least: int = MIN_OBJECT,
    *,
    certain: Bools | None = None,
    named_only: bool = False,
    notes: tuple[str, ...] = (),
) -> Evaluation:
    """Turn counts into figures; objects of `least` pixels or more were matched of classes with these codes.

    `certain` are the ``(C,)`` classes whose confidence can be judged; None for those that no label leaves
    open. With `named_only` classes that no sure label names have no figures, even if they are predicted: for
    data whose labels do not know all classes.
    """
    classes, rows = len(labels.classes), len(labels.names)
    counts, allowed = tally.counts[:rows, :classes], labels.allowed()[:rows, :classes]
    scores, truth, predicted = metrics.class_scores(counts, allowed)
    hidden: Bools = (truth == 0) & np.full(classes, named_only)
    certain = metrics.settled(counts, allowed) if certain is None else certain
    ends = certain & ~hidden & ends_known(tally, classes)
    codes = np.arange(classes)
    matched = ends & np.isin(codes, objects)
    in_mean = codes < classes - int(labels.other)  # the last is "other"
    found = [
        ClassFigures(
            spec=spec,
            truth_pixels=int(truth[code]),
            predicted_pixels=int(predicted[code]),
            scores=Scores() if hidden[code] else scores[code],
            boundary=_boundary(tally, code, known=bool(ends[code])),
            objects=metrics.object_scores(tally.objects[code], least) if matched[code] else None,
            in_mean=bool(in_mean[code]),
        )
        for code, spec in enumerate(labels.classes)
    ]
    counted = [item for item in found if item.in_mean]
    boundaries = zip(*(item.boundary for item in counted), strict=True)  # by distance
    labelled = np.asarray(counts.any(axis=1))
    occurring, shown = np.flatnonzero(labelled), np.flatnonzero(counts.any(axis=0) | labelled[:classes])
    cells = np.ix_(occurring, shown)
    # Of the classes for which every label says whether they are right.
    levels = tally.levels[:classes][certain & in_mean].sum(axis=0)
    return Evaluation(
        classes=tuple(found[code] for code in shown),
        mean=metrics.mean_of(Scores, [item.scores for item in counted]),
        accuracy=metrics.overall_accuracy(counts, allowed),
        boundary=tuple(metrics.mean_of(Match, matches) for matches in boundaries),
        calibration=metrics.calibration(levels[:, 1], levels[:, 0]) if levels.any() else None,
        labels=tuple(labels.names[code] for code in occurring),
        confusion=tuple(map(tuple, counts[cells].tolist())),
        allowed=tuple(map(tuple, allowed[cells].tolist())),
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


def _boundary(tally: Tally, code: int, *, known: bool) -> tuple[Match, ...]:
    """Return how boundaries of a class match at each distance; NaN where labels do not say where it ends."""
    if not known:
        return (Match(),) * len(BOUNDARY_DISTANCES)
    predicted, true = tally.predicted_lines[code], tally.true_lines[code]
    totals = int(predicted.sum()), int(true.sum())
    within = zip(np.cumsum(predicted)[:-1].tolist(), np.cumsum(true)[:-1].tolist(), strict=True)
    return tuple(metrics.match_scores(some, totals[0], others, totals[1]) for some, others in within)


def _boundary_table(matches: tuple[Match, ...]) -> dict[str, list[float]]:
    return {name: [getattr(match, name) for match in matches] for name in ("f1", "precision", "recall")}


def _calibration_table(found: metrics.Calibration) -> dict[str, Any]:
    columns = {
        "from": found.edges[:-1],
        "to": found.edges[1:],
        "pixels": found.pixels,
        "confidence": found.confidence,
        "accuracy": found.accuracy,
    }
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return {"expected_error": found.error, "bins": [dict(zip(columns, row, strict=True)) for row in rows]}


def _plain(value: Any) -> Any:
    """Make of a value what JSON has: six decimals, and None where there is no figure."""
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 6)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def figure(value: float) -> str:
    """Write a figure from 0 to 1, or a dash where there is none."""
    return "-" if math.isnan(value) else f"{value:.4f}"


def lines_of(found: Evaluation) -> list[str]:
    """Return the figures as a table in plain text."""
    from pfmap.report.html import render  # jinja2 loads here

    distances = [f"F1 {distance}px" for distance in BOUNDARY_DISTANCES]
    values = {"found": found, "figure": figure, "distances": distances, "ious": IOUS}
    return render("evaluation.txt.jinja", **values).splitlines()
