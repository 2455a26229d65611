"""One scene on a survey's page: how it went, what it shows, where its files are."""

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape

from pfmap.core.errors import TargetError
from pfmap.report.html import facts
from pfmap.report.picture import picture_facts
from pfmap.report.survey_figures import ClassFigures, SceneFigures, State
from pfmap.report.words import (
    STATES,
    AreaUnit,
    duration,
    label,
    link,
    moment,
    percent,
    plural,
)


def scene_section(
    scene: SceneFigures, anchor: str, areas: AreaUnit, picture: bytes, *, unfolded: bool
) -> str:
    """Write a scene, folded up or not.

    Its anchor lies inside what is folded: a browser that is sent there unfolds it.

    Args:
        scene: its figures.
        anchor: its id on the page.
        areas: the unit of areas.
        picture: small picture, or empty.
        unfolded: whether it starts unfolded.
    """
    shown = _picture(scene, picture)
    parts = [_reason(scene), _warnings(scene)]
    if scene.classes:
        parts.append(class_table(f"Classes of {scene.name}.", scene.classes, areas))
    parts += [facts(_facts(scene)), _files(scene)]
    body = "\n".join(part for part in parts if part)
    kind = "scene pictured" if shown else "scene"
    return (
        f"<details{' open' if unfolded else ''}>\n<summary><h3>{escape(scene.name)}</h3>"
        f'{state_mark(scene.state)}<span class="note">{escape(_brief(scene, areas))}</span></summary>\n'
        f'<div class="{kind}" id="{anchor}" tabindex="-1">\n{shown}<div>\n{body}\n</div></div>\n</details>'
    )


def state_mark(state: State) -> str:
    """Return a scene's state as a mark with its word."""
    return (
        f'<span class="state {state}"><svg aria-hidden="true" focusable="false">'
        f'<use href="#mark-{state}"/></svg>{STATES[state]}</span>'
    )


def _brief(scene: SceneFigures, areas: AreaUnit) -> str:
    if not scene.classes:
        return ""
    objects = sum(item.objects for item in scene.classes)
    return f"{areas.write(sum(item.area for item in scene.classes))}, {plural(objects, 'object')}"


def _picture(scene: SceneFigures, picture: bytes) -> str:
    if not picture:
        return ""
    try:
        kind, width, height = picture_facts(picture)
    except TargetError:
        return ""
    total = sum(item.area for item in scene.classes)
    shares = [
        f"{item.name.replace('_', ' ')} {item.area / total:.0%}"
        for item in sorted(scene.classes, key=lambda item: -item.area)[:3]
        if total > 0 and item.area > 0
    ]
    said = f"{scene.name} from above, and with its classes laid over: {', '.join(shares)}"
    data = base64.b64encode(picture).decode()
    tall = ' class="tall"' if height > 0.8 * width else ""
    return (
        f'<figure{tall}><img alt="{escape(said)}" width="{width}" height="{height}" decoding="async" '
        f'src="data:{kind};base64,{data}">'
        '<figcaption class="note">The scene, and the same with its classes laid over.</figcaption>'
        "</figure>\n"
    )


def _reason(scene: SceneFigures) -> str:
    if scene.state != "failed":
        return ""
    reason = scene.reason or "no reason is known"
    return f'<p class="failed"><strong>Not mapped:</strong> {escape(reason)}</p>'


def _warnings(scene: SceneFigures) -> str:
    if not scene.warnings:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in scene.warnings)
    return f'<div class="warn"><h4>Warnings</h4><ul>{items}</ul></div>'


def _facts(scene: SceneFigures) -> list[tuple[str, str]]:
    found = [("source", scene.scene)]
    if scene.width:
        gsd = "" if scene.gsd is None else f" of {scene.gsd:.3g} m"
        found.append(("size", f"{scene.width:,} × {scene.height:,} pixels{gsd}"))
    if scene.crs:
        found.append(("CRS", scene.crs))
    if scene.mean_confidence is not None:
        found.append(("confidence", f"{percent(scene.mean_confidence)} on average"))
    if scene.seconds:
        found.append(("time", _time(scene.seconds)))
    found += [
        (name, moment(when)) for name, when in (("taken", scene.taken), ("mapped", scene.finished)) if when
    ]
    return found


def _time(seconds: Mapping[str, float]) -> str:
    """Say how long a scene took, and its stages that took a noticeable part, longest first."""
    total = seconds.get("total", sum(seconds.values()))
    stages = sorted(((value, name) for name, value in seconds.items() if name != "total"), reverse=True)
    shown = [f"{name} {duration(value)}" for value, name in stages if value >= 0.02 * total]
    work = f", with work for {', '.join(shown)}; stages run at once" if shown else ""
    return f"{duration(total)}{work}"


def _files(scene: SceneFigures) -> str:
    if not scene.outputs:
        return ""
    items = "".join(
        f'<li><a href="{escape(link(path))}">{escape(label(kind))}</a></li>'
        for kind, path in scene.outputs.items()
    )
    return f'<h4>Files</h4><ul class="files">{items}</ul>'


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
