"""The figures of an evaluation as one HTML page that needs nothing else: no network, no script."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass

from pfmap.evaluation.comparison import FALSE_ALARM, MISSED, RIGHT_SHARE, WRONG, Labels
from pfmap.evaluation.figures import Evaluation, figure
from pfmap.evaluation.metrics import BOUNDARY_DISTANCES, Calibration
from pfmap.report.html import Table, render

_RIGHT, _OPEN, _WRONG = "29,91,140", "110,110,110", "178,24,43"
"""Red, green and blue of the confusion matrix: right, left open by the label, wrong."""


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


@dataclass(frozen=True, slots=True)
class _Cell:
    """A cell of the confusion matrix."""

    color: str
    share: float
    """Of its row; where the background is nearly full, letters are white: 4.5 to 1, and so is black below."""
    count: int


@dataclass(frozen=True, slots=True)
class _Confusion:
    """The confusion matrix: names of its columns, and its rows with theirs."""

    caption: str
    columns: list[str]
    rows: list[tuple[str, list[_Cell]]]


@dataclass(frozen=True, slots=True)
class _Bar:
    """A bin of the reliability curve that has pixels."""

    low: float
    high: float
    confidence: float
    accuracy: float
    pixels: int
    shade: float
    """How dark it is, by its pixels."""


@dataclass(frozen=True, slots=True)
class _View:
    """A section, and what its template draws of it."""

    section: Section
    classes: Table
    confusion: _Confusion
    boundaries: Table
    objects: Table | None
    bars: list[_Bar]
    """Of the reliability curve; empty where there is none."""
    legend: list[tuple[str, str]]
    """Colours and what they mean on the map of errors."""
    picture: str
    """That map in Base64, or empty."""


def page(title: str, pairs: Sequence[tuple[str, str]], sections: Sequence[Section]) -> str:
    """Write the page.

    Args:
        title: of the page.
        pairs: names and values that say what was compared.
        sections: evaluations, in order.
    """
    views = [_view(section) for section in sections]
    return render("evaluation.html.jinja", title=title, pairs=pairs, views=views, figure=figure)


def _view(section: Section) -> _View:
    found = section.figures
    return _View(
        section=section,
        classes=_classes(found),
        confusion=_confusion(found),
        boundaries=_boundaries(found),
        objects=_objects(found),
        bars=[] if found.calibration is None else _bars(found.calibration),
        legend=_legend(section),
        picture=base64.b64encode(section.picture).decode(),
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


def _confusion(found: Evaluation) -> _Confusion:
    names = [item.spec.name for item in found.classes]
    rows = []
    for label, counts, allowed in zip(found.labels, found.confusion, found.allowed, strict=True):
        total = max(1, sum(counts))
        cells = [
            _Cell(_RIGHT if name == label else _OPEN if right else _WRONG, count / total, count)
            for name, count, right in zip(names, counts, allowed, strict=True)
        ]
        rows.append((label, cells))
    caption = "Rows: what it is. Columns: what was predicted. Percent of the row, and pixels."
    if any(sum(row) > 1 for row in found.allowed):
        caption += " Grey: the label leaves open whether that is right."
    return _Confusion(caption, names, rows)


def _boundaries(found: Evaluation) -> Table:
    return Table(
        "F1 of the pixels on boundaries of a class that lie within so many pixels of the other's boundary.",
        ["class", *(f"{distance} px" for distance in BOUNDARY_DISTANCES)],
        [[item.spec.name, *(figure(m.f1) for m in item.boundary)] for item in found.classes],
        ["mean", *(figure(m.f1) for m in found.boundary)],
    )


def _objects(found: Evaluation) -> Table | None:
    rows = []
    for item in found.classes:
        if item.objects is not None:
            match = item.objects.match
            counts = (item.objects.truth, item.objects.predicted, item.objects.matched)
            figures = map(figure, (match.precision, match.recall, match.f1))
            rows.append([item.spec.name, *figures, *(f"{count:,}" for count in counts)])
    head = ["class", "precision", "recall", "F1", "true", "predicted", "matched"]
    caption = "Connected regions, matched one to one where their IoU is 0.5 or more."
    return Table(caption, head, rows) if rows else None


def _bars(found: Calibration) -> list[_Bar]:
    most = max(1, int(found.pixels.max()))
    return [
        _Bar(
            low=float(found.edges[k]),
            high=float(found.edges[k + 1]),
            confidence=float(found.confidence[k]),
            accuracy=float(found.accuracy[k]),
            pixels=pixels,
            shade=0.2 + 0.8 * math.sqrt(pixels / most),
        )
        for k, pixels in enumerate(found.pixels.tolist())
        if pixels
    ]


def _legend(section: Section) -> list[tuple[str, str]]:
    labels = section.labels
    wrong = [(WRONG, "wrong")]
    if labels.binary:
        one = labels.classes[0].name
        wrong = [(MISSED, f"{one}, missed"), (FALSE_ALARM, f"predicted as {one}, but is not")]
    shown = {item.spec.name for item in section.figures.classes}
    right = [(_muted(spec.rgb), f"{spec.name}, right") for spec in labels.classes if spec.name in shown]
    return [*right, *wrong, ("#ffffff", "not compared")]


def _muted(rgb: tuple[int, int, int]) -> str:
    return "#" + "".join(f"{round(255 - RIGHT_SHARE * (255 - value)):02x}" for value in rgb)
