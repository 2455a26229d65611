"""The page that lies beside a trained model: what it knows, how well, from which data, with whose rights."""

import math
from pathlib import Path

from pfmap.core.card import Card
from pfmap.core.files import write_text
from pfmap.report.html import render
from pfmap.train.validate import Calibration, Validation

PAGE_NAME = "README.md"
CURVES_NAME = "curves.png"


def write_page(folder: Path, card: Card, figures: Validation, fitted: Calibration | None) -> None:
    """Write a model's page as Markdown into its folder, beside the training curves."""
    rows = _table(card, figures) if figures else []
    page = render("model.md.jinja", card=card, rows=rows, fitted=fitted, curves=CURVES_NAME)
    write_text(folder / PAGE_NAME, page)


def _table(card: Card, figures: Validation) -> list[list[str]]:
    names = [spec.name for spec in card.classes]
    head = ["held out", *names, "mean", "right"]
    rows = [
        [source, *(_number(f.iou.get(name)) for name in names), _number(f.mean_iou), _number(f.accuracy)]
        for source, f in figures.items()
    ]
    return [head, ["---"] * len(head), *rows]


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"
