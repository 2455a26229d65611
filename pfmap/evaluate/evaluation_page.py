"""The figures of an evaluation as one HTML page that needs nothing else: no network, no script."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from pfmap.evaluate.comparison import FALSE_ALARM, MISSED, RIGHT_SHARE, WRONG, Labels
from pfmap.evaluate.figures import Evaluation, figure
from pfmap.evaluate.metrics import BOUNDARY_DISTANCES, Calibration
from pfmap.report.html import document, facts, row, table

_STYLE = """
.confusion td { min-width: 5rem; border: 1px solid #fff; }
.confusion small { display: block; }
@media (max-width: 34rem) { .confusion td { min-width: 0; } }
"""

_RIGHT, _OPEN, _WRONG = "29,91,140", "110,110,110", "178,24,43"
"""Red, green and blue of the confusion matrix: right, left open by the label, wrong."""


@dataclass(frozen=True, slots=True)
class Section:
    """One evaluation on the page.

    Attributes:
        title: heading, or "" for none.
        figures: what was measured.
        labels: what the codes mean, for the legend of the map.
        picture: map of errors as a PNG file, or empty.
    """

    title: str
    figures: Evaluation
    labels: Labels
    picture: bytes = b""


def page(title: str, pairs: Sequence[tuple[str, str]], sections: Sequence[Section]) -> str:
    """Write the page.

    Args:
        title: of the page.
        pairs: names and values that say what was compared.
        sections: evaluations, in order.
    """
    body = "\n".join(_section(section) for section in sections)
    return document(title, f"<h1>{escape(title)}</h1>\n{facts(pairs)}\n{body}", _STYLE)


def _section(section: Section) -> str:
    found = section.figures
    parts = [f"<section>\n<h2>{escape(section.title)}</h2>" if section.title else "<section>"]
    parts.append(_summary(found))
    parts += [_classes(found), _confusion(found), _boundaries(found)]
    if any(item.objects is not None for item in found.classes):
        parts.append(_objects(found))
    if found.calibration is not None:
        parts.append(_reliability(found.calibration))
    if section.picture:
        parts.append(_picture(section))
    parts.append("</section>")
    return "\n".join(parts)


def _summary(found: Evaluation) -> str:
    compared = found.labelled - found.unmapped
    lines = [
        f"<p><strong>Mean IoU {figure(found.mean.iou)}</strong>, overall accuracy {figure(found.accuracy)}, "
        f"of {compared:,} compared pixels.</p>"
    ]
    if found.unmapped:
        share = found.unmapped / found.labelled
        lines.append(
            f"<p>{found.unmapped:,} labelled pixels ({share:.2%}) have no prediction and do not count.</p>"
        )
    lines += [f'<p class="note">{escape(note[:1].upper() + note[1:])}.</p>' for note in found.notes]
    return "\n".join(lines)


def _classes(found: Evaluation) -> str:
    rows = [
        row(
            item.spec.name,
            [
                *(
                    figure(v)
                    for v in (item.scores.iou, item.scores.f1, item.scores.precision, item.scores.recall)
                ),
                f"{item.truth_pixels:,}",
                f"{item.predicted_pixels:,}",
            ],
        )
        for item in found.classes
    ]
    mean = found.mean
    foot = row("mean", [*(figure(v) for v in (mean.iou, mean.f1, mean.precision, mean.recall)), "", ""])
    head = ["class", "IoU", "F1", "precision", "recall", "true pixels", "predicted pixels"]
    left_out = "; “other” is left out of the mean" if any(not item.in_mean for item in found.classes) else ""
    return "<h3>Classes</h3>\n" + table(f"Pixel by pixel{left_out}.", head, rows, foot)


def _confusion(found: Evaluation) -> str:
    names = [item.spec.name for item in found.classes]
    rows = []
    for label, counts, allowed in zip(found.labels, found.confusion, found.allowed, strict=True):
        total = sum(counts)
        cells = []
        for name, count, right in zip(names, counts, allowed, strict=True):
            share = count / total if total else 0.0
            color = _RIGHT if name == label else _OPEN if right else _WRONG
            white = ";color:#fff" if share > 0.85 else ""  # 4.5 to 1, and so is black below
            cells.append(
                f'<td style="background:rgba({color},{0.95 * share:.3f}){white}">{share:.1%}'
                f"<small>{count:,}</small></td>"
            )
        rows.append(f'<tr><th scope="row">{escape(label)}</th>{"".join(cells)}</tr>')
    caption = "Rows: what it is. Columns: what was predicted. Percent of the row, and pixels."
    if any(sum(row) > 1 for row in found.allowed):
        caption += " Grey: the label leaves open whether that is right."
    return "<h3>Confusion matrix</h3>\n" + table(caption, ["true class", *names], rows, kind="confusion")


def _boundaries(found: Evaluation) -> str:
    rows = [row(item.spec.name, [figure(m.f1) for m in item.boundary]) for item in found.classes]
    foot = row("mean", [figure(m.f1) for m in found.boundary])
    head = ["class", *(f"{distance} px" for distance in BOUNDARY_DISTANCES)]
    return "<h3>Boundaries</h3>\n" + table(
        "F1 of the pixels on boundaries of a class that lie within so many pixels of the other's boundary.",
        head,
        rows,
        foot,
    )


def _objects(found: Evaluation) -> str:
    rows = []
    for item in found.classes:
        if item.objects is not None:
            match = item.objects.match
            figures = [figure(v) for v in (match.precision, match.recall, match.f1)]
            counts = [f"{n:,}" for n in (item.objects.truth, item.objects.predicted, item.objects.matched)]
            rows.append(row(item.spec.name, [*figures, *counts]))
    head = ["class", "precision", "recall", "F1", "true", "predicted", "matched"]
    return "<h3>Objects</h3>\n" + table(
        "Connected regions, matched one to one where their IoU is 0.5 or more.", head, rows
    )


_SIDE, _MARGIN = 300, 44


def _reliability(found: Calibration) -> str:
    """Draw accuracy over confidence, with a bar for each bin as dark as it is full."""
    most = max(1, int(found.pixels.max()))
    bars = []
    for k, pixels in enumerate(found.pixels.tolist()):
        if not pixels:
            continue
        low, high = float(found.edges[k]), float(found.edges[k + 1])
        height = float(found.accuracy[k]) * _SIDE
        shade = 0.2 + 0.8 * math.sqrt(pixels / most)
        bars.append(
            f'<rect x="{_MARGIN + low * _SIDE + 1:.1f}" y="{10 + _SIDE - height:.1f}" '
            f'width="{(high - low) * _SIDE - 2:.1f}" height="{height:.1f}" fill="#1d5b8c" '
            f'fill-opacity="{shade:.2f}"><title>confidence {found.confidence[k]:.3f}, right '
            f"{found.accuracy[k]:.3f}, {pixels:,} pixels</title></rect>"
        )
    ticks = []
    for k in range(0, 11, 2):
        at = k / 10 * _SIDE
        ticks.append(
            f'<text x="{_MARGIN + at:.0f}" y="{_SIDE + 26}" text-anchor="middle">{k / 10:g}</text>'
            f'<text x="{_MARGIN - 6}" y="{14 + _SIDE - at:.0f}" text-anchor="end">{k / 10:g}</text>'
        )
    width, height = _SIDE + _MARGIN + 16, _SIDE + 48
    alt = f"Reliability curve: share of right pixels over confidence; expected error {figure(found.error)}"
    return (
        "<h3>Confidence</h3>\n"
        f"<p>Expected calibration error {figure(found.error)}: so far apart are confidence and the share of "
        "right pixels, on average. On the line, confidence can be taken at its word; below it, it is too "
        "high.</p>\n"
        f'<svg viewBox="0 0 {width} {height}" font-size="11" fill="#444" role="img" '
        f'aria-label="{escape(alt)}">'
        f'<rect x="{_MARGIN}" y="10" width="{_SIDE}" height="{_SIDE}" fill="#f7f7f7" stroke="#bbb"/>'
        f"{''.join(bars)}"
        f'<line x1="{_MARGIN}" y1="{10 + _SIDE}" x2="{_MARGIN + _SIDE}" y2="10" stroke="#b2182b" '
        'stroke-dasharray="5 4"/>'
        f"{''.join(ticks)}"
        f'<text x="{_MARGIN + _SIDE / 2:.0f}" y="{_SIDE + 42}" text-anchor="middle">confidence</text>'
        f'<text x="12" y="{10 + _SIDE / 2:.0f}" text-anchor="middle" '
        f'transform="rotate(-90 12 {10 + _SIDE / 2:.0f})">share of right pixels</text></svg>\n'
        '<p class="note">Darker bars stand for more pixels.</p>'
    )


def _picture(section: Section) -> str:
    labels = section.labels
    if labels.binary:
        one = labels.classes[0].name
        kinds = [(MISSED, f"{one}, missed"), (FALSE_ALARM, f"predicted as {one}, but is not")]
    else:
        kinds = [(WRONG, "wrong")]
    shown = {item.spec.name for item in section.figures.classes}
    kinds = [
        *((_muted(spec.rgb), f"{spec.name}, right") for spec in labels.classes if spec.name in shown),
        *kinds,
        ("#ffffff", "not compared"),
    ]
    legend = "".join(
        f'<li><span class="swatch" style="background:{color}"></span>{escape(name)}</li>'
        for color, name in kinds
    )
    data = base64.b64encode(section.picture).decode()
    compared = f"mean IoU {figure(section.figures.mean.iou)}"
    return (
        f'<h3>Map of errors</h3>\n<ul class="legend">{legend}</ul>\n<figure><img '
        f'alt="Map of right and wrong pixels, {compared}" src="data:image/png;base64,{data}"></figure>'
    )


def _muted(rgb: tuple[int, int, int]) -> str:
    return "#" + "".join(f"{round(255 - RIGHT_SHARE * (255 - value)):02x}" for value in rgb)
