"""The page of a survey: one HTML file that needs no network and no script, for people.

It has to serve a survey of one scene and one of two thousand: totals, failures, map, classes and a table of
all scenes come first; each scene follows folded up, with a picture no larger than it has to be.
"""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace

from PIL import Image

from pfmap.report.footprint_map import WIDTH, draw_footprints
from pfmap.report.html import render
from pfmap.report.survey_figures import SceneFigures, SurveyFigures
from pfmap.report.wording import STATES, AreaUnit, duration, moment, percent, plural

_OPEN = 6  # scenes: those of a survey of no more are unfolded, also on paper

_SECTIONS = {
    "failures": "Failures",
    "map": "Map",
    "classes": "Classes",
    "scenes": "All scenes",
    "details": "Scene by scene",
    "files": "Files of the survey",
    "model": "Model and settings",
}


@dataclass(frozen=True, slots=True)
class _Picture:
    """A small picture as a page holds it."""

    data: str
    """WebP in base64."""
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class _Scene:
    """A scene on the page."""

    anchor: str
    """Its id there."""
    figures: SceneFigures
    picture: _Picture | None

    def describe(self, areas: AreaUnit) -> str:
        """Say in a line what it is and how it went."""
        said = f"{self.figures.name}: {STATES[self.figures.state]}"
        if self.figures.state == "failed" or not self.figures.classes:
            return said
        return f"{said}, {areas.write(self.figures.area)}, {plural(self.figures.objects, 'object')}"

    def shown(self) -> str:
        """Say which three classes have the largest part of it, for those who do not see the picture."""
        total = self.figures.area
        most = sorted(self.figures.classes, key=lambda item: -item.area)[:3]
        return ", ".join(
            f"{item.name.replace('_', ' ')} {item.area / total:.0%}"
            for item in most
            if total > 0 and item.area > 0
        )

    def facts(self) -> list[tuple[str, str]]:
        """Return what is known of it besides its classes."""
        scene = self.figures
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
        times = (("taken", scene.taken), ("mapped", scene.finished))
        return found + [(name, moment(when)) for name, when in times if when]


def survey_page(figures: SurveyFigures, thumbnails: Mapping[str, bytes]) -> str:
    """Write the page, with small WebP pictures by the scenes' names."""
    areas = AreaUnit.fitting(figures.area, figures.unit)
    scenes = [
        _Scene(f"scene-{number}", scene, _picture(thumbnails.get(scene.name, b"")))
        for number, scene in enumerate(figures.scenes, 1)
    ]
    failed = [scene for scene in scenes if scene.figures.state == "failed"]
    drawing = draw_footprints(figures.scenes)
    files = {kind: path for kind, path in figures.outputs.items() if kind != "html"}
    filled: dict[str, object] = {"failures": failed, "map": drawing, "classes": figures.classes}
    filled |= {"details": scenes, "files": files}
    return render(
        "survey.html.jinja",
        title=f"{figures.title}: survey report",
        figures=figures,
        areas=areas,
        sections={anchor: name for anchor, name in _SECTIONS.items() if filled.get(anchor, True)},
        pace=_pace(figures),
        scenes=scenes,
        failed=failed,
        drawing=drawing,
        width=WIDTH,
        unfolded=len(scenes) <= _OPEN,
        files=files,
        model=figures.model_facts(),
    )


def _picture(content: bytes) -> _Picture | None:
    """Return what an `img` needs; None where there is no picture."""
    if not content:
        return None
    with Image.open(io.BytesIO(content)) as image:
        return _Picture(base64.b64encode(content).decode(), *image.size)


def _pace(figures: SurveyFigures) -> str:
    """Say how much was mapped in an hour, where all of it was mapped now."""
    if figures.unit != "m2" or figures.seconds <= 0 or not figures.area or figures.count("skipped"):
        return "on the clock"
    per_hour = figures.area / figures.seconds * 3600
    rough = float(f"{per_hour:.3g}")  # the next survey will not be as fast to the last digit
    unit = AreaUnit.fitting(rough, "m2")
    return f"{replace(unit, digits=0).write(rough) if rough > 100 * unit.size else unit.write(rough)} an hour"


def _time(seconds: Mapping[str, float]) -> str:
    """Say how long a scene took, and its stages that took a noticeable part, longest first."""
    total = seconds.get("total", sum(seconds.values()))
    stages = sorted(((value, name) for name, value in seconds.items() if name != "total"), reverse=True)
    shown = [f"{name} {duration(value)}" for value, name in stages if value >= 0.02 * total]
    work = f", with work for {', '.join(shown)}; stages run at once" if shown else ""
    return f"{duration(total)}{work}"
