"""Training curves, loss and validation figures over the steps: a CSV for spreadsheets, a PNG for people."""

import importlib.util
import io
from pathlib import Path

from pfmap.core.errors import UsageError, csv_text
from pfmap.core.files import write_bytes, write_text

Row = tuple[int, str, float]
"""Step, series, value."""

LOSS, RATE = "loss", "learning rate"


class Curves:
    """Values by step: loss and learning rate as they go, figures at every validation.

    Raises:
        UsageError: matplotlib, which draws them, is not installed. Said at once, not after hours of training.
    """

    rows: list[Row]
    """All values so far, in order; what a checkpoint has to keep."""

    def __init__(self, rows: list[Row] | None = None) -> None:
        if importlib.util.find_spec("matplotlib") is None:
            raise UsageError(
                "training draws its curves with the package matplotlib, which is not here: pip install "
                "'pfmap[train]'"
            )
        self.rows = rows if rows is not None else []

    def add(self, step: int, series: str, value: float) -> None:
        """Note a value."""
        self.rows.append((step, series, value))

    def write_csv(self, path: Path) -> None:
        """Write step, series and value, a line each."""
        rows = [(step, series, f"{value:.6g}") for step, series, value in self.rows]
        write_text(path, csv_text([("step", "series", "value"), *rows], end="\n"))

    def write_png(self, path: Path) -> None:
        """Draw the loss above the validation figures."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 7), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True)
        top.plot(*self._series(LOSS), color="#1f77b4")
        top.set_ylabel("loss")
        for name in dict.fromkeys(series for _, series, _ in self.rows):
            if name not in (LOSS, RATE):
                bottom.plot(*self._series(name), marker="o", label=name)
        bottom.set(xlabel="step", ylabel="mean IoU, held out", ylim=(0, 1))
        if bottom.has_data():
            bottom.legend()
        for axes in (top, bottom):
            axes.grid(alpha=0.3)
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=110)
        write_bytes(path, content.getvalue())

    def _series(self, name: str) -> tuple[list[int], list[float]]:
        points = [(step, value) for step, series, value in self.rows if series == name]
        return [step for step, _ in points], [value for _, value in points]
