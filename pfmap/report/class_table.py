"""Classes on a survey's page: areas and objects as bars beside the numbers, a chart and a table in one."""

import re
from collections.abc import Sequence
from html import escape

from pfmap.report.survey_figures import ClassFigures
from pfmap.report.words import AreaUnit

_COLOR = re.compile(r"#[0-9a-fA-F]{6}")


def class_table(caption: str, classes: Sequence[ClassFigures], areas: AreaUnit) -> str:
    """Return classes as a table with a bar beside each number, as long as the number is large."""
    total = sum(item.area for item in classes)
    most_area = max((item.area for item in classes), default=0.0)
    most_objects = max((item.objects for item in classes), default=0)
    rows = "\n".join(
        f'<tr><th scope="row">{_swatch(item)}{escape(_name(item))}</th>'
        f"<td>{areas.number(item.area)}</td><td>{_share(item.area, total)}</td>"
        f'<td class="bar">{_bar(item, item.area, most_area)}</td>'
        f"<td>{item.objects:,}</td>"
        f'<td class="bar second">{_bar(item, item.objects, most_objects)}</td></tr>'
        for item in classes
    )
    objects = sum(item.objects for item in classes)
    foot = (
        f'<tr><th scope="row">all</th><td>{areas.number(total)}</td><td>{_share(total, total)}</td>'
        f'<td class="bar"></td><td>{objects:,}</td><td class="second"></td></tr>'
    )
    said = escape(caption)
    # The bars repeat the cell before them: a header of theirs says so to those who do not see them.
    return (
        f'<div class="wide" role="group" aria-label="{said}" tabindex="0"><table class="full classes">\n'
        f'<caption>{said}</caption>\n<thead><tr><th scope="col">class</th><th scope="col">area, {areas.name}'
        '</th><th scope="col">share</th><td class="bar"></td><th scope="col">objects</th>'
        '<td class="second"></td></tr>'
        f"</thead>\n<tbody>\n{rows}\n</tbody>\n<tfoot>{foot}</tfoot>\n</table></div>"
    )


def stack(classes: Sequence[ClassFigures]) -> str:
    """Return the shares of the classes as one bar, for the eye only: a table has the numbers."""
    total = sum(item.area for item in classes)
    if total <= 0:
        return ""
    parts = "".join(
        f'<i style="width:{100 * item.area / total:.2f}%;background:{_color(item)}" '
        f'title="{escape(_name(item))} {_share(item.area, total)}"></i>'
        for item in classes
        if item.area > 0
    )
    return f'<div class="stack" aria-hidden="true">{parts}</div>'


def swatches(classes: Sequence[ClassFigures]) -> str:
    """Return the items of a legend."""
    return "".join(f"<li>{_swatch(item)}{escape(_name(item))}</li>" for item in classes)


def _name(item: ClassFigures) -> str:
    return item.name.replace("_", " ")


def _color(item: ClassFigures) -> str:
    return item.color if _COLOR.fullmatch(item.color) else "#808080"


def _swatch(item: ClassFigures) -> str:
    return f'<span class="swatch" style="background:{_color(item)}"></span>'


def _bar(item: ClassFigures, value: float, most: float) -> str:
    width = 100 * value / most if most > 0 else 0
    return f'<span style="width:{width:.1f}%;background:{_color(item)}"></span>' if width else ""


def _share(area: float, total: float) -> str:
    return f"{area / total:.1%}".replace("%", " %") if total > 0 else ""
