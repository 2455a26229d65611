"""The map of a survey's footprints: outlines placed on a drawing that needs no tiles and no script."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pfmap.report.survey_figures import SceneFigures

WIDTH = 1000.0
"""Units of the drawing across."""
_LOW, _HIGH, _MARGIN = 320.0, 720.0, 40.0
_METRES = 6_371_008.8 * math.pi / 180
"""Per degree of latitude, on a sphere: good to 0.5 %, as good as a scale bar can be read."""

_SMALL = 12.0  # units: a smaller footprint gets a mark of this size to be seen and hit
_NAMED = 12  # scenes: the names of more would cover the map

Ring = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Outline:
    """A footprint on the drawing, in its units from the upper left."""

    index: int
    """Of the scene among all."""
    points: tuple[tuple[float, float], ...]
    name: str
    """Written below the mark, or ""."""

    @property
    def span(self) -> tuple[float, float]:
        """Width and height."""
        xs, ys = zip(*self.points, strict=True)
        return max(xs) - min(xs), max(ys) - min(ys)

    @property
    def middle(self) -> tuple[float, float]:
        """Where the mark of the scene's state stands."""
        xs, ys = zip(*self.points, strict=True)
        return (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2

    @property
    def mark(self) -> float:
        """Side of that mark."""
        return max(_SMALL, min(34.0, 0.5 * min(self.span)))


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


def draw_footprints(scenes: Sequence[SceneFigures]) -> Drawing | None:
    """Lay out the footprints of those scenes that have a place; None if there are none."""
    placed = {index: ring for index, scene in enumerate(scenes) if (ring := _sound(scene.footprint))}
    if not placed:
        return None
    first = next(iter(placed.values()))[0][0]
    rings = {index: [(_near(lon, first), lat) for lon, lat in ring] for index, ring in placed.items()}
    lons, lats = zip(*(point for ring in rings.values() for point in ring), strict=True)
    lon, lat = (min(lons) + max(lons)) / 2, (min(lats) + max(lats)) / 2
    stretch = max(0.01, math.cos(math.radians(lat)))  # of a degree of longitude, beside one of latitude
    wide = max((max(lons) - min(lons)) * stretch, 1e-6)
    tall = max(max(lats) - min(lats), 1e-6)
    room = WIDTH - 2 * _MARGIN
    height = min(max(tall / wide * room + 2 * _MARGIN, _LOW), _HIGH)
    scale = min(room / wide, (height - 2 * _MARGIN) / tall)  # units of the drawing per degree of latitude

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x = WIDTH / 2 + (point[0] - lon) * stretch * scale
        return x, height / 2 + (lat - point[1]) * scale

    order = sorted(rings, key=lambda index: scenes[index].state == "failed")  # failures on top
    outlines = [Outline(k, tuple(map(place, rings[k])), _short(scenes[k].name)) for k in order]
    if len(outlines) > _NAMED or any(one.span[0] <= 11 * len(one.name) for one in outlines):
        outlines = [replace(one, name="") for one in outlines]
    east = _near(lon, 0.0)
    middle = f"{abs(lat):.4f}° {'N' if lat >= 0 else 'S'}, {abs(east):.4f}° {'E' if east >= 0 else 'W'}"
    return Drawing(height, tuple(outlines), middle, *_scale_bar(WIDTH / scale * _METRES))


def _near(lon: float, middle: float) -> float:
    """Turn a longitude so that scenes on both sides of the antimeridian lie together."""
    return middle + (lon - middle + 180) % 360 - 180


def _sound(ring: Ring) -> list[tuple[float, float]]:
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
