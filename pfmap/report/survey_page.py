"""The page of a survey: one HTML file that needs no network and no script, for people.

It has to serve a survey of one scene and one of two thousand: totals, failures, map, classes and a table of
all scenes come first; each scene follows folded up, with a picture no larger than it has to be.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from html import escape

from pfmap.report.footprint_map import footprint_map
from pfmap.report.html import document, facts
from pfmap.report.scene_section import class_table, scene_section, stack, state_mark, swatches
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


STYLE = """
body { max-width: 68rem; }
.skip { position: absolute; left: -99rem; }
.skip:focus { position: static; display: inline-block; padding: .5rem; }
header p { color: #555; max-width: none; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .1rem 1.25rem; padding: .25rem 0; margin: 0;
  border-top: 1px solid #ccc; border-bottom: 1px solid #ccc; }
nav a { display: inline-block; padding: .3rem 0; }
.totals { grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .75rem; margin: 1.25rem 0; }
.totals div { border: 1px solid #ddd; border-top: 4px solid #1d5b8c; padding: .5rem .75rem .6rem; }
.totals div.bad { border-top-color: #b2182b; }
.totals dd { font-size: 1.45rem; font-weight: 600; line-height: 1.2; }
.totals small { display: block; font-size: .85rem; font-weight: 400; color: #555; margin-top: .2rem; }
.state { white-space: nowrap; font-weight: 500; } .state svg { width: 1em; height: 1em; margin-right: .35em;
  vertical-align: -.12em; }
.done { color: #0b6b46; } .skipped { color: #1d5b8c; } .failed { color: #b2182b; }
.alarm { border-left: 4px solid #b2182b; background: #fdf3f4; padding: .1rem 1rem .6rem; }
.alarm h2 { border: 0; margin-top: .6rem; }
.warn { border-left: 4px solid #8a5a00; background: #fdf8ec; padding: .3rem 1rem; margin: .75rem 0; }
.alarm li, .warn li { overflow-wrap: anywhere; }
.map svg { max-width: none; display: block; background: #f3f5f7; border: 1px solid #ccc; }
.map polygon { stroke-width: 1.75; vector-effect: non-scaling-stroke; stroke: currentColor;
  fill: currentColor; fill-opacity: .16; }
.map .failed polygon { stroke-dasharray: 6 3; } .map .skipped polygon { stroke-dasharray: 1.5 3; }
.map polygon[fill^=url] { stroke: none; fill: url(#hatch); fill-opacity: .35; }
.map text { font-size: 20px; text-anchor: middle; fill: #222; paint-order: stroke; stroke: #fff;
  stroke-width: 4px; }
.map a:focus-visible { outline: none; }
.map a:focus-visible polygon, .map a:hover polygon { stroke-width: 5; stroke-dasharray: none; }
.map a:focus-visible polygon { fill-opacity: .5; }
.scale { display: block; margin: .4rem 0 .1rem; }
.scale span { display: block; height: 6px; border: 2px solid #222; border-top: 0; box-sizing: border-box; }
.scale b { font-size: .85rem; font-weight: 500; }
.stack { display: flex; height: 1.6rem; margin: .5rem 0; border: 1px solid #0003; overflow: hidden; }
td .stack { height: .8rem; width: 6rem; margin: 0; }
.bar { min-width: 8rem; }
.bar span { display: inline-block; height: .75em; border: 1px solid #0005; box-sizing: border-box;
  vertical-align: -.05em; }
td.bar { text-align: left; }
.scene .bar { min-width: 5rem; } table.full { width: 100%; }
.classes thead td { border-bottom: 1px solid #888; }
.classes tbody th { white-space: nowrap; }
.scenes tr > :nth-child(2) { text-align: left; }
.scenes caption { position: sticky; left: 0; max-width: calc(100vw - 2.2rem); }
.scenes th[scope=row] { overflow-wrap: anywhere; min-width: 9rem; }
.scenes td { vertical-align: middle; }
details { border-top: 1px solid #ccc; }
summary { padding: .6rem .25rem; cursor: pointer; display: flex; flex-wrap: wrap; align-items: baseline;
  gap: .1rem 1rem; }
summary::before { content: "▸"; color: #555; } details[open] > summary::before { content: "▾"; }
summary::-webkit-details-marker { display: none; }
summary h3 { margin: 0; overflow-wrap: anywhere; }
summary .note { margin-left: auto; }
.scene { padding: 0 0 1.5rem; scroll-margin-top: 3.5rem; display: grid; gap: 0 2rem;
  grid-template-columns: minmax(0, 1fr); }
.scene:focus { outline: none; }
.scene figure img { width: 100%; max-width: 100%; border: 0; background:
  repeating-conic-gradient(#e9ecef 0 25%, #fff 0 50%) 0 0 / 14px 14px; }
.scene figure.tall img { width: auto; max-height: 24rem; }
.files { padding: 0; list-style: none; display: flex; flex-wrap: wrap; gap: .1rem 1.25rem; margin: .25rem 0; }
.files a { overflow-wrap: anywhere; display: inline-block; padding: .15rem 0; }
.scene h4 { margin: .9rem 0 .1rem; font-size: 1rem; } .scene p { overflow-wrap: anywhere; }
.marks { position: absolute; width: 0; height: 0; }
@media (max-width: 60rem) { .scene .second { display: none; } }
@media (min-width: 50rem) { .scene.pictured { grid-template-columns: fit-content(25rem) minmax(0, 1fr); } }
@media (max-width: 34rem) { dl:not(.totals) { grid-template-columns: minmax(5rem, max-content) 1fr; }
  .totals { grid-template-columns: 1fr 1fr; gap: .5rem; }
  .totals div:last-child:nth-child(odd) { grid-column: 1 / -1; } .map text { display: none; }
  .totals dd { font-size: 1.2rem; } .bar, .scene .bar { min-width: 1.5rem; }
  .classes th, .classes td { padding: .2rem .25rem; }
  summary .note { margin-left: 1.1rem; }
  .classes .second { display: none; } td .stack { width: 4rem; } }
@media (max-width: 22rem) { .classes .bar { display: none; }
  .classes th, .classes td { padding: .2rem; font-size: .8rem; } }
@page { margin: 14mm; }
@media print { nav, .skip { display: none; } .long { break-inside: auto; } .long tr { break-inside: avoid; }
  .totals, .alarm li, .scene figure, .stack { break-inside: avoid; } .scenes { font-size: 8pt; }
  .scenes th, .scenes td { padding: .15rem .3rem; } .scenes th[scope=row] { min-width: 6rem; }
  .totals { grid-template-columns: repeat(5, 1fr); } .totals dd { font-size: 1.1rem; }
  .scene.pictured { grid-template-columns: minmax(0, 19rem) minmax(0, 1fr); }
  summary::before, details[open] > summary::before { content: none; } details { break-inside: avoid; }
  .alarm details::details-content { content-visibility: visible; block-size: auto; }
  #details > details:not([open]), #details:not(:has(details[open])) { display: none; }
  a { color: inherit; text-decoration: none; } .alarm, .warn { padding-left: .6rem; }
  #map { break-inside: avoid; } .map { max-width: calc(120mm * var(--aspect)); }
  .scene figure.tall img { max-height: 85mm; } }
"""

MARKS = (
    '<svg class="marks" aria-hidden="true" focusable="false">'
    '<symbol id="mark-done" viewBox="0 0 20 20"><circle cx="10" cy="10" r="9" fill="#0b6b46"/>'
    '<path d="M5.5 10.5l3 3 6-7" fill="none" stroke="#fff" stroke-width="2.2"/></symbol>'
    '<symbol id="mark-skipped" viewBox="0 0 20 20"><rect x="1" y="1" width="18" height="18" fill="#1d5b8c"/>'
    '<path d="M5 7.5h10M5 12.5h10" stroke="#fff" stroke-width="2.2"/></symbol>'
    '<symbol id="mark-failed" viewBox="0 0 20 20"><path d="M10 .5l9.5 9.5-9.5 9.5L.5 10z" fill="#b2182b"/>'
    '<path d="M6.7 6.7l6.6 6.6m0-6.6l-6.6 6.6" stroke="#fff" stroke-width="2.2"/></symbol></svg>\n'
)
"""The marks of a scene's state: round, square and diamond, so that colour does not tell them apart alone."""
