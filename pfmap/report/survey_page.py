"""The page of a survey: one HTML file that needs no network and no script, for people.

It has to serve a survey of one scene and one of two thousand: totals, failures, map, classes and a table of
all scenes come first; each scene follows folded up, with a picture no larger than it has to be.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from html import escape

from pfmap.report.class_table import class_table, stack, swatches
from pfmap.report.footprint_map import footprint_map
from pfmap.report.html import document, facts
from pfmap.report.page_style import MARKS, STYLE
from pfmap.report.scene_section import scene_section, state_mark
from pfmap.report.survey_figures import SceneFigures, State, SurveyFigures
from pfmap.report.words import (
    STATES,
    AreaUnit,
    duration,
    fact,
    label,
    link,
    moment,
    percent,
    plural,
    printable,
)

_OPEN = 6  # scenes: those of a survey of no more are unfolded, also on paper
_PICTURES = 24_000_000  # bytes of all pictures; what is beyond is left out, and said
_ANCHOR = "scene-{}"
_FIRST = 20  # failures: more are folded up, so that the map is not far below them


def survey_page(figures: SurveyFigures, thumbnails: Mapping[str, bytes]) -> str:
    """Write the page.

    Args:
        figures: of the survey.
        thumbnails: small pictures by the scenes' names, each WebP, PNG or JPEG; empty ones count as none.
    """
    areas = AreaUnit.fitting(mapped_area(figures), figures.unit)
    anchors = [_ANCHOR.format(number) for number in range(1, len(figures.scenes) + 1)]
    kept, left_out = _within_budget(figures, thumbnails)
    parts = [
        ("failures", "Failures", _failures(figures, anchors)),
        ("map", "Map", _map(figures, anchors, areas)),
        ("classes", "Classes", _classes(figures, areas)),
        ("scenes", "All scenes", _scene_table(figures, anchors, areas)),
        ("details", "Scene by scene", _details(figures, anchors, areas, kept, left_out)),
        ("files", "Files of the survey", _files(figures)),
        ("model", "Model and settings", _model(figures)),
    ]
    parts = [part for part in parts if part[2]]
    items = "".join(f'<li><a href="#{anchor}">{name}</a></li>' for anchor, name, _ in parts)
    title = figures.title
    before = (
        '<a class="skip" href="#main">Skip to the report</a>\n'
        f"{MARKS}<header>\n<h1>{escape(title)}</h1>\n<p>Survey report. {escape(_when(figures))}</p>\n"
        f'<nav aria-label="Contents"><ul>{items}</ul></nav>\n</header>\n'
    )
    body = _totals(figures, areas) + _warnings(figures)
    for anchor, name, content in parts:
        kind = ' class="alarm"' if anchor == "failures" else ""
        body += (
            f'<section id="{anchor}" aria-labelledby="{anchor}-title"{kind}>\n'
            f'<h2 id="{anchor}-title">{name}</h2>\n{content}\n</section>\n'
        )
    return printable(document(f"{title}: survey report", body, STYLE, before))


def mapped_area(figures: SurveyFigures) -> float:
    """Return the area that has a class."""
    return sum(item.area for item in figures.classes)


def _within_budget(figures: SurveyFigures, thumbnails: Mapping[str, bytes]) -> tuple[dict[str, bytes], int]:
    """Return the pictures that the page has room for, and how many it has not."""
    kept: dict[str, bytes] = {}
    room, left_out = _PICTURES, 0
    for scene in figures.scenes:
        picture = thumbnails.get(scene.name, b"")
        if not picture or scene.state == "failed":
            continue
        if len(picture) > room:
            left_out += 1
            continue
        kept[scene.name] = picture
        room -= len(picture)
    return kept, left_out


def _when(figures: SurveyFigures) -> str:
    times = f"{moment(figures.started)} to {moment(figures.finished)}"
    return f"Mapped {times} with pfmap {figures.version}."


def _totals(figures: SurveyFigures, areas: AreaUnit) -> str:
    failed = figures.count("failed")
    states: tuple[State, ...] = ("done", "skipped", "failed")
    counts = [f"{figures.count(state):,} {STATES[state]}" for state in states if figures.count(state)]
    area = mapped_area(figures)
    number, unit = areas.write(area).rsplit(" ", 1)
    objects = sum(item.objects for item in figures.classes)
    known = [(s.mean_confidence, s.valid_pixels) for s in figures.scenes if s.mean_confidence is not None]
    pixels = sum(count for _, count in known)
    mean = sum(value * count for value, count in known) / pixels if pixels else None
    cells = [
        ("Scenes", f"{len(figures.scenes):,}", ", ".join(counts), failed > 0),
        ("Mapped area", f"{number} {unit}", "overlaps count once" if len(figures.scenes) > 1 else "", False),
        (
            "Objects",
            f"{objects:,}",
            f"of {len(figures.classes)} classes" if len(figures.classes) != 1 else "of one class",
            False,
        ),
        ("Mean confidence", percent(mean), "over all pixels" if known else "", False),
        ("Time", duration(figures.seconds), _pace(figures, area), False),
    ]
    return (
        '<dl class="totals">'
        + "".join(
            f"<div{' class=bad' if bad else ''}><dt>{name}</dt><dd>{escape(value)}"
            f"{f'<small>{escape(note)}</small>' if note else ''}</dd></div>"
            for name, value, note, bad in cells
        )
        + "</dl>\n"
    )


def _pace(figures: SurveyFigures, area: float) -> str:
    """Say how much was mapped in an hour, where all of it was mapped now."""
    if figures.unit != "m2" or figures.seconds <= 0 or not area or figures.count("skipped"):
        return "on the clock"
    per_hour = area / figures.seconds * 3600
    rough = float(f"{per_hour:.3g}")  # the next survey will not be as fast to the last digit
    unit = AreaUnit.fitting(rough, "m2")
    return f"{replace(unit, digits=0).write(rough) if rough > 100 * unit.size else unit.write(rough)} an hour"


def _warnings(figures: SurveyFigures) -> str:
    if not figures.warnings:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in figures.warnings)
    return (
        '<div class="warn" role="note" aria-label="Warnings"><strong>Warnings</strong>'
        f"<ul>{items}</ul></div>\n"
    )


def _failures(figures: SurveyFigures, anchors: list[str]) -> str:
    found = [
        f'<li><a href="#{anchor}">{escape(scene.name)}</a>: '
        f"{escape(scene.reason or 'no reason is known')}</li>"
        for scene, anchor in zip(figures.scenes, anchors, strict=True)
        if scene.state == "failed"
    ]
    if not found:
        return ""
    more = "".join(found[_FIRST:])
    if more:
        more = f"<details><summary>{len(found) - _FIRST:,} more</summary><ul>{more}</ul></details>"
    return (
        f"<p>{plural(len(found), 'scene')} of {len(figures.scenes):,} could not be mapped.</p>\n"
        f"<ul>{''.join(found[:_FIRST])}</ul>{more}"
    )


def _describe(areas: AreaUnit) -> Callable[[SceneFigures], str]:
    def describe(scene: SceneFigures) -> str:
        said = f"{scene.name}: {STATES[scene.state]}"
        if scene.state == "failed" or not scene.classes:
            return said
        objects = sum(item.objects for item in scene.classes)
        return f"{said}, {areas.write(scene_area(scene))}, {plural(objects, 'object')}"

    return describe


def scene_area(scene: SceneFigures) -> float:
    """Return the area of a scene that has a class."""
    return sum(item.area for item in scene.classes)


def _map(figures: SurveyFigures, anchors: list[str], areas: AreaUnit) -> str:
    drawn = footprint_map(figures.scenes, anchors, _describe(areas))
    if not drawn:
        return ""
    states: tuple[State, ...] = ("done", "skipped", "failed")
    legend = "".join(f"<li>{state_mark(state)}</li>" for state in states if figures.count(state))
    nowhere = [scene.name for scene in figures.scenes if not scene.footprint]
    lost = ""
    if nowhere:
        some = ", ".join(nowhere[:5]) + (", ..." if len(nowhere) > 5 else "")
        lost = f'<p class="note">Not on the map, since their place is not known: {escape(some)}.</p>'
    skip = ""
    if len(figures.scenes) > 20:
        skip = '<a class="skip" href="#classes">Skip the map: the table of all scenes has the same links</a>'
    return f'{skip}<ul class="legend">{legend}</ul>\n{drawn}{lost}'


def _classes(figures: SurveyFigures, areas: AreaUnit) -> str:
    if not figures.classes:
        return ""
    caption = "Area and objects of each class."
    if len(figures.scenes) > 1:
        caption += " Where scenes overlap, each place counts once."
    return stack(figures.classes) + class_table(caption, figures.classes, areas)


def _scene_table(figures: SurveyFigures, anchors: list[str], areas: AreaUnit) -> str:
    if not figures.scenes:
        return "<p>There are none.</p>"
    head = ["scene", "state", f"area, {areas.name}", "objects", "confidence", "classes"]
    head += ["size, px", "GSD, m", "time"]
    columns = "".join(f'<th scope="col">{name}</th>' for name in head)
    rows = "\n".join(
        _scene_row(scene, anchor, areas) for scene, anchor in zip(figures.scenes, anchors, strict=True)
    )
    caption = f"{plural(len(figures.scenes), 'scene')}. Each name leads to what there is of the scene."
    return (
        f'<ul class="legend">{swatches(figures.classes)}</ul>\n'
        '<div class="wide" role="group" aria-label="Table of all scenes" tabindex="0">'
        f'<table class="full long scenes">\n<caption>{caption}</caption>\n<thead><tr>{columns}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


def _scene_row(scene: SceneFigures, anchor: str, areas: AreaUnit) -> str:
    mapped = bool(scene.classes)
    total = scene.seconds.get("total")
    confidence = "" if scene.mean_confidence is None else percent(scene.mean_confidence)
    cells = [
        state_mark(scene.state),
        areas.number(scene_area(scene)) if mapped else "",
        f"{sum(item.objects for item in scene.classes):,}" if mapped else "",
        confidence,
        stack(scene.classes) if mapped else "",
        f"{scene.width:,} × {scene.height:,}" if scene.width else "",
        "" if scene.gsd is None else f"{scene.gsd:.3g}",
        "" if total is None else duration(total),
    ]
    values = "".join(f"<td>{cell}</td>" for cell in cells)
    name = escape(scene.name)
    return f'<tr><th scope="row"><a href="#{anchor}">{name}</a></th>{values}</tr>'


def _details(
    figures: SurveyFigures, anchors: list[str], areas: AreaUnit, kept: Mapping[str, bytes], left_out: int
) -> str:
    if not figures.scenes:
        return ""
    unfolded = len(figures.scenes) <= _OPEN
    note = ""
    if left_out:
        note = (
            f'<p class="note">{plural(left_out, "picture")} left out: with them this page would be too large.'
            "</p>\n"
        )
    return note + "\n".join(
        scene_section(scene, anchor, areas, kept.get(scene.name, b""), unfolded=unfolded)
        for scene, anchor in zip(figures.scenes, anchors, strict=True)
    )


def _files(figures: SurveyFigures) -> str:
    items = "".join(
        f'<li><a href="{escape(link(path))}">{escape(path)}</a> ({escape(label(kind))})</li>'
        for kind, path in figures.outputs.items()
        if kind != "html"
    )
    crs = f"<p>CRS of the survey's own files: {escape(figures.crs)}.</p>" if figures.crs else ""
    return f'{crs}<ul class="files">{items}</ul>' if items else ""


def _model(figures: SurveyFigures) -> str:
    rights = figures.model.get("attribution")
    shown = {key: value for key, value in figures.model.items() if key != "attribution"}
    parts = []
    for name, pairs in (("Model", shown), ("Settings", figures.settings)):
        if pairs:
            listed = [(label(str(key)), fact(value)) for key, value in pairs.items()]
            parts.append(f"<h3>{name}</h3>\n{facts(listed)}")
    if rights:
        parts.append(
            f"<h3>Attribution</h3>\n<p>Whoever publishes these maps has to name: {escape(fact(rights))}.</p>"
        )
    return "\n".join(parts)
