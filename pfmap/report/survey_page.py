"""The page of a survey: one HTML file that needs no network, no script and no map tiles, for people.

It has to serve a survey of one scene and one of two thousand: totals, failures, map, classes and a table of
all scenes come first; each scene follows folded up, with a picture no larger than it has to be.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from pfmap.core.grid import GeoBox
from pfmap.report.html import render
from pfmap.report.survey_figures import SceneFigures, SurveyFigures
from pfmap.report.thumbnail import scene_alone
from pfmap.report.wording import AreaUnit
from pfmap.vector.footprints import lonlat_ring

_OPEN = 6  # scenes: those of a survey of no more are unfolded, also on paper
_WIDTH, _LOW, _HIGH, _MARGIN = 1000.0, 320.0, 720.0, 40.0  # units of the map's drawing: across, and of height
_METRES = 6_371_008.8 * math.pi / 180
"""Per degree of latitude, on a sphere: good to 0.5 %, as good as a scale bar can be read."""

_SMALL = 12.0  # units: a smaller footprint gets a mark of this size to be seen and hit
_SHARP = 1.5  # pixels per unit of the pictures on the map
_ON_MAP, _EACH = 2_000_000, 8_000  # bytes of all these pictures, and of one
_NAMED = 12  # scenes: the names of more would cover the map


def survey_page(figures: SurveyFigures, thumbnails: Mapping[str, bytes]) -> str:
    """Write the page, with small WebP pictures by the scenes' names."""
    areas = AreaUnit.fitting(figures.area, figures.unit)
    scenes = [
        {"anchor": f"scene-{number}", "figures": scene, "picture": _picture(thumbnails.get(scene.name))}
        for number, scene in enumerate(figures.scenes, 1)
    ]
    failed = [page for page, scene in zip(scenes, figures.scenes, strict=True) if scene.state == "failed"]
    drawing = draw_footprints(figures.scenes, thumbnails)
    files = {kind: path for kind, path in figures.outputs.items() if kind != "html"}
    return render(
        "survey.html.jinja",
        title=f"{figures.title}: survey report",
        figures=figures,
        areas=areas,
        pace=_pace(figures),
        scenes=scenes,
        failed=failed,
        drawing=drawing,
        width=_WIDTH,
        unfolded=len(scenes) <= _OPEN,
        files=files,
        model=figures.model_facts(),
    )


def _picture(content: bytes | None) -> dict[str, object]:
    """Return what an `img` needs: data as base64, width and height; nothing where there is no picture."""
    if not content:
        return {}
    with Image.open(io.BytesIO(content)) as image:
        return {"data": base64.b64encode(content).decode(), "width": image.width, "height": image.height}


def _pace(figures: SurveyFigures) -> str:
    """Say how much was mapped in an hour, where all of it was mapped now."""
    if figures.unit != "m2" or figures.seconds <= 0 or not figures.area or figures.count("skipped"):
        return "on the clock"
    per_hour = figures.area / figures.seconds * 3600
    rough = float(f"{per_hour:.3g}")  # the next survey will not be as fast to the last digit
    unit = AreaUnit.fitting(rough, "m2")
    return f"{replace(unit, digits=0).write(rough) if rough > 100 * unit.size else unit.write(rough)} an hour"


@dataclass(frozen=True, slots=True)
class Outline:
    """A footprint on the drawing, in its units from the upper left."""

    index: int
    """Of the scene among all."""
    points: tuple[tuple[float, float], ...]
    name: str
    """Written below the mark, or ""."""
    middle: tuple[float, float]
    """Where the mark of the scene's state stands."""
    mark: float
    """Side of that mark."""
    picture: str = ""
    """Of the scene from above: WebP as base64, or ""."""
    matrix: tuple[float, ...] = ()
    """Where that lies: SVG's a to f, from a square of one unit."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """The map, north up, equirectangular about its middle."""

    height: float
    outlines: tuple[Outline, ...]
    """Those that are drawn later lie on top."""
    middle: str
    """Latitude and longitude of it, as text."""
    bar: float
    """Percent of the width that the scale bar takes."""
    bar_length: str
    """On the ground, as text."""


def draw_footprints(scenes: Sequence[SceneFigures], thumbnails: Mapping[str, bytes]) -> Drawing | None:
    """Lay out the footprints of those scenes that have a place, and pictures; None if there are none."""
    if not (placed := {k: ring for k, scene in enumerate(scenes) if (ring := _sound(scene.footprint))}):
        return None
    first = next(iter(placed.values()))[0][0]
    rings = {index: [(_near(lon, first), lat) for lon, lat in ring] for index, ring in placed.items()}
    lons, lats = zip(*(point for ring in rings.values() for point in ring), strict=True)
    lon, lat = (min(lons) + max(lons)) / 2, (min(lats) + max(lats)) / 2
    stretch = max(0.01, math.cos(math.radians(lat)))  # of a degree of longitude, beside one of latitude
    wide = max((max(lons) - min(lons)) * stretch, 1e-6)
    tall = max(max(lats) - min(lats), 1e-6)
    room = _WIDTH - 2 * _MARGIN
    height = min(max(tall / wide * room + 2 * _MARGIN, _LOW), _HIGH)
    scale = min(room / wide, (height - 2 * _MARGIN) / tall)  # units of the drawing per degree of latitude

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x = _WIDTH / 2 + (point[0] - lon) * stretch * scale
        return x, height / 2 + (lat - point[1]) * scale

    outlines, crowded = [], len(rings) > _NAMED
    for k in sorted(rings, key=lambda index: scenes[index].state == "failed"):  # failures on top
        points = tuple(map(place, rings[k]))
        xs, ys = zip(*points, strict=True)
        center = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
        across, down, name = max(xs) - min(xs), max(ys) - min(ys), _short(scenes[k].name)
        crowded = crowded or across <= 11 * len(name)
        mark = max(_SMALL, min(34.0, 0.5 * across, 0.5 * down))
        outline = Outline(k, points, name, center, mark)
        if (content := thumbnails.get(scenes[k].name)) and scenes[k].height:
            corners = [place((_near(x, first), y)) for x, y in _corners(rings[k], scenes[k].grid)]
            outline = replace(outline, **_laid(content, scenes[k], corners, _ON_MAP // len(rings)))
        outlines.append(outline)
    if crowded:
        outlines = [replace(one, name="") for one in outlines]
    east = _near(lon, 0.0)
    middle = f"{abs(lat):.4f}° {'SN'[lat >= 0]}, {abs(east):.4f}° {'WE'[east >= 0]}"
    return Drawing(height, tuple(outlines), middle, *_scale_bar(_WIDTH / scale * _METRES))


def _corners(ring: Sequence[tuple[float, float]], grid: GeoBox | None) -> list[tuple[float, float]]:
    """Return the upper left, upper right and lower left corner of a grid, or of a scene with this ring.

    Around a pole that has more points than the sides of the grid, and none of these are returned.
    """
    ring = _sound(lonlat_ring(grid)) if grid else ring
    quarter, rest = divmod(len(ring) - 1, 4)
    if rest or quarter < 1:
        return []
    a, b, _, d, e, _ = grid.transform if grid else (1, 0, 0, 0, -1, 0)
    right, down = (3, 1) if a * e < b * d else (1, 3)  # it runs counter-clockwise on the ground
    return [ring[0], ring[quarter * right], ring[quarter * down]]


def _laid(
    content: bytes, scene: SceneFigures, corners: Sequence[tuple[float, float]], limit: int
) -> dict[str, Any]:
    """Make the picture of a scene on the map, and say where it lies between three corners."""
    if not corners:
        return {}
    (x, y), (right, top), (left, below) = corners
    a, b, c, d = right - x, top - y, left - x, below - y
    side = math.ceil(_SHARP * max(math.hypot(a, b), math.hypot(c, d)))
    box = scene.grid or scene
    picture = scene_alone(content, (box.height, box.width), side, min(limit, _EACH))
    return {"picture": base64.b64encode(picture).decode(), "matrix": (a, b, c, d, x, y)}


def _near(lon: float, middle: float) -> float:
    """Turn a longitude so that scenes on both sides of the antimeridian lie together."""
    return middle + (lon - middle + 180) % 360 - 180


def _sound(ring: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return a ring, or nothing if it is no ring on Earth."""
    points = [(float(lon), float(lat)) for lon, lat in ring]
    fine = all(math.isfinite(lon) and abs(lat) <= 90 for lon, lat in points)
    return points if fine and len(points) >= 4 else []


def _short(name: str) -> str:
    last = name.rsplit("/", 1)[-1]
    return last if len(last) <= 20 else f"{last[:19]}…"


def _scale_bar(across: float) -> tuple[float, str]:
    """Choose a round length for a map of so many metres; return its percent of the width, and its text."""
    power = 10 ** math.floor(math.log10(across / 4))
    length = max(step * power for step in (1, 2, 5, 10) if step * power <= across / 2.5)
    text = f"{length / 1000:,g} km" if length >= 1000 else f"{length:g} m"
    return 100 * length / across, text
