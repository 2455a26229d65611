"""The figures of an evaluation as a table in plain text."""

from pfmap.evaluate.figures import Evaluation, Match, Scores, figure
from pfmap.evaluate.metrics import BOUNDARY_DISTANCES


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
