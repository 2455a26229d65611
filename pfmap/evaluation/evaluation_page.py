"""The figures of an evaluation as one HTML page that needs nothing else: no network, no script."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from pfmap.evaluation.comparison import FALSE_ALARM, FATES, MISSED, WRONG, Labels
from pfmap.evaluation.figures import Evaluation, figure
from pfmap.evaluation.metrics import BOUNDARY_DISTANCES
from pfmap.report.html import render
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
        distances=[f"{distance} px" for distance in BOUNDARY_DISTANCES],
        ious=IOUS,
        legend=_legend,
        fates=[(color, name) for name, color in FATES.items()],
        base64=base64.b64encode,
    )


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
