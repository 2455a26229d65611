"""One scene on a survey's page: how it went, what it shows, where its files are."""

import base64
from collections.abc import Mapping
from html import escape

from pfmap.core.errors import TargetError
from pfmap.report.class_table import class_table
from pfmap.report.html import facts
from pfmap.report.picture import picture_facts
from pfmap.report.survey_figures import SceneFigures, State
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
