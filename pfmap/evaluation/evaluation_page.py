"""The figures of an evaluation as one HTML page that needs nothing else: no network, no script."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from pfmap.evaluation.comparison import FALSE_ALARM, FATES, MISSED, WRONG, Labels
from pfmap.evaluation.figures import Evaluation, figure
from pfmap.evaluation.metrics import BOUNDARY_DISTANCES
from pfmap.report.html import Table, render
from pfmap.trace.compare import IOUS


@dataclass(frozen=True, slots=True)
class Section:
    """One evaluation."""

    title: str
    """Heading, or "" for none."""
    figures: Evaluation
    labels: Labels
    """What the codes mean, for the legend of the map."""
    picture: bytes = b""
    """Map of errors as a PNG file, or empty."""
    object_map: bytes = b""
    """Map of objects, the same."""


def page(title: str, pairs: Sequence[tuple[str, str]], sections: Sequence[Section]) -> str:
    """Write the page; pairs are names and values that say what was compared."""
    return render(
        "evaluation.html.jinja",
        title=title,
        pairs=pairs,
        sections=sections,
        figure=figure,
        classes=_classes,
        boundaries=_boundaries,
        objects=_objects,
        legend=_legend,
        fates=[(color, name) for name, color in FATES.items()],
        base64=base64.b64encode,
    )


def _classes(found: Evaluation) -> Table:
    rows = [
        [
            item.spec.name,
            *map(figure, (item.scores.iou, item.scores.f1, item.scores.precision, item.scores.recall)),
            f"{item.truth_pixels:,}",
            f"{item.predicted_pixels:,}",
        ]
        for item in found.classes
    ]
    mean = found.mean
    left_out = "; “other” is left out of the mean" if any(not item.in_mean for item in found.classes) else ""
    return Table(
        f"Pixel by pixel{left_out}.",
        ["class", "IoU", "F1", "precision", "recall", "true pixels", "predicted pixels"],
        rows,
        ["mean", *map(figure, (mean.iou, mean.f1, mean.precision, mean.recall)), "", ""],
    )


def _boundaries(found: Evaluation) -> Table:
    return Table(
        "F1 of the pixels on boundaries of a class that lie within so many pixels of the other's boundary.",
        ["class", *(f"{distance} px" for distance in BOUNDARY_DISTANCES)],
        [[item.spec.name, *(figure(m.f1) for m in item.boundary)] for item in found.classes],
        ["mean", *(figure(m.f1) for m in found.boundary)],
    )


def _objects(found: Evaluation) -> Table | None:
    rows, least = [], 0
    for item in found.classes:
        if item.objects is not None:
            some, least = item.objects, item.objects.least_pixels
            first, last = some.matches[0], some.matches[-1]
            shares = some.share(some.merged), some.share(some.split)
            match = map(figure, (first.precision, first.recall, first.f1, last.f1))
            rows.append([item.spec.name, *match, *shares, f"{some.truth:,}", f"{some.predicted:,}"])
    strict = f"F1 at IoU {IOUS[-1]}"
    head = ["class", "precision", "recall", "F1", strict, "merged", "split", "true", "predicted"]
    caption = (
        f"Objects of {least:,} pixels or more, which match where their IoU is {IOUS[0]} or more. Merged: the "
        "greater part lies in a predicted object that has the greater part of another one, too. Split: two "
        "or more predicted objects have a fifth each."
    )
    return Table(caption, head, rows) if rows else None


def _legend(section: Section) -> list[tuple[str, str]]:
    """Return colours and what they mean on the map of errors."""
    labels = section.labels
    wrong = [(WRONG, "wrong")]
    if labels.binary:
        one = labels.classes[0].name
        wrong = [(MISSED, f"{one}, missed"), (FALSE_ALARM, f"predicted as {one}, but is not")]
    shown, colors = {item.spec.name for item in section.figures.classes}, labels.colors()
    right = [
        (f"#{colors[code, code].tobytes().hex()}", f"{spec.name}, right")
        for code, spec in enumerate(labels.classes)
        if spec.name in shown
    ]
    return [*right, *wrong, ("#ffffff", "not compared")]
