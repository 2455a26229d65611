"""The page that lies beside a trained model: what it knows, how well, from which data, with whose rights."""

import math
from pathlib import Path

from pfmap.core.card import Card
from pfmap.core.files import write_text
from pfmap.train.validate import Calibration, Validation

PAGE_NAME = "README.md"
CURVES_NAME = "curves.png"


def write_page(folder: Path, card: Card, figures: Validation, fitted: Calibration | None) -> None:
    """Write a model's page as Markdown into its folder, beside the training curves."""
    low, high = card.input.gsd
    spec = card.provenance
    lines = [
        f"# {card.name}",
        "",
        f"{card.title}. For {', '.join(card.input.bands)} at {low:g} to {high:g} m per pixel, in windows of "
        f"{card.input.window} pixels.",
        "",
        f"    pfmap predict scene.tif --model {card.name}",
        "",
        "## Figures on what was held out",
        "",
        *_table(card, figures),
        "",
        "IoU per class, their mean, and the share of surely labelled pixels that are right; - where no pixel "
        "is surely labelled so. The kept weights are the best of several validations on these parts, which "
        "makes the figures a little kind.",
        *([card.accuracy_note] if card.accuracy_note else []),
        *_calibration(fitted),
        "",
        f"![Loss and held-out figures over the steps]({CURVES_NAME})",
        "",
        "## Data and rights",
        "",
        f"- Data: {spec.data}",
        f"- Licence: {spec.licence}",
        f"- A map made with it has to name: {spec.attribution}",
        *(["", "## Limits", "", spec.limits] if spec.limits else []),
    ]
    write_text(folder / PAGE_NAME, "\n".join(lines) + "\n")


def _table(card: Card, figures: Validation) -> list[str]:
    names = [spec.name for spec in card.classes]
    head = ["held out", *names, "mean", "right"]
    rows = [
        [source, *(_number(f.iou.get(name)) for name in names), _number(f.mean_iou), _number(f.accuracy)]
        for source, f in figures.items()
    ]
    if not rows:
        return ["Nothing was held out: there are none."]
    return [_row(head), _row(["---"] * len(head)), *(_row(row) for row in rows)]


def _calibration(fitted: Calibration | None) -> list[str]:
    if fitted is None:
        return []
    if fitted.temperature == 1:
        text = f"no temperature made it better; its expected calibration error is {fitted.error:.3f}."
    else:
        text = (
            f"the logits are divided by a temperature of {fitted.temperature:g}, fitted on every other "
            f"held-out window. On the windows between, the expected calibration error is {fitted.error:.3f} "
            f"with it and {fitted.error_before:.3f} without."
        )
    return ["", f"Confidence: {text}"]


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
