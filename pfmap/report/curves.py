"""Training curves, loss and validation figures over the steps: a CSV for spreadsheets, a PNG for people."""

from collections.abc import Sequence
from pathlib import Path

from pfmap.core.errors import csv_text
from pfmap.core.files import draft, write_text

Row = tuple[int, str, float]
"""Step, series, value."""

LOSS, RATE = "loss", "learning rate"


def write_curves(rows: Sequence[Row], folder: Path) -> None:
    """Write step, series and value, a line each, and draw the loss above the validation figures."""
    from matplotlib.figure import Figure

    lines = [(step, series, f"{value:.6g}") for step, series, value in rows]
    write_text(folder / "curves.csv", csv_text([("step", "series", "value"), *lines], end="\n"))
    figure = Figure(figsize=(9, 7), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    for name in dict.fromkeys(series for _, series, _ in rows):
        points = zip(*((step, value) for step, series, value in rows if series == name), strict=True)
        if name == LOSS:
            top.plot(*points, color="#1f77b4")
        elif name != RATE:
            bottom.plot(*points, marker="o", label=name)
    top.set_ylabel("loss")
    bottom.set(xlabel="step", ylabel="mean IoU, held out", ylim=(0, 1))
    if bottom.has_data():
        bottom.legend()
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
    with draft(folder / "curves.png") as part:
        figure.savefig(part, dpi=110)
