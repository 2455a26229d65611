"""The map of a survey's scenes: their footprints as a drawing that needs no tiles and no script."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from pfmap.report.survey_figures import SceneFigures

_WIDTH, _LOW, _HIGH, _MARGIN = 1000.0, 320.0, 720.0, 40.0
_METRES = 6_371_008.8 * math.pi / 180
"""Per degree of latitude, on a sphere: good to 0.5 %, as good as a scale bar can be read."""

_SMALL = 12.0  # units: a smaller footprint gets a mark of this size to be seen and hit
_NAMED = 12  # scenes: the names of more would cover the map

Ring = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class _Frame:
    """The local map: equirectangular about its middle, north up.

    Attributes:
        west: longitude of the drawing's left edge.
        north: latitude of its upper edge.
        stretch: cosine of the latitude of the middle.
        scale: units of the drawing per degree of latitude.
        height: of the drawing.
    """

    west: float
    north: float
    stretch: float
    scale: float
    height: float

    def place(self, lon: float, lat: float) -> tuple[float, float]:
        return (lon - self.west) * self.stretch * self.scale, (self.north - lat) * self.scale


def footprint_map(
    scenes: Sequence[SceneFigures], anchors: Sequence[str], describe: Callable[[SceneFigures], str]
) -> str:
    """Draw the scenes that have a place.

    Args:
        scenes: all of them.
        anchors: where each is described on the page, an id.
        describe: says in words what a scene is and how it went.

    Returns:
        A figure in HTML, or "" if no scene has a place.
    """
    placed = [
        (scene, anchor, ring)
        for scene, anchor in zip(scenes, anchors, strict=True)
        if (ring := _sound(scene.footprint))
    ]
    if not placed:
        return ""
    middle = placed[0][2][0][0]
    rings = [[(_near(lon, middle), lat) for lon, lat in ring] for _, _, ring in placed]
    frame = _frame(rings)
    order = sorted(range(len(placed)), key=lambda k: placed[k][0].state == "failed")  # failures on top
    named = len(placed) <= _NAMED and all(
        _across(ring, frame) > 11 * len(_short(scene))
        for (scene, _, _), ring in zip(placed, rings, strict=True)
    )
    drawn = [_scene(placed[k][0], placed[k][1], rings[k], frame, describe, named=named) for k in order]
    label = f"Map of {len(placed)} footprints, north up"
    lon, lat = middle_of(rings)
    where = f"{abs(lat):.4f}° {'N' if lat >= 0 else 'S'}, {abs(lon):.4f}° {'E' if lon >= 0 else 'W'}"
    return (
        f'<figure class="map" style="--aspect:{_WIDTH / frame.height:.3f}">\n'
        f'<svg viewBox="0 0 {_WIDTH:.0f} {frame.height:.0f}" role="group" '
        f'aria-label="{label}">\n<defs><pattern id="hatch" width="9" height="9" '
        'patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><path d="M0 0V9" stroke="#b2182b" '
        'stroke-width="3"/></pattern></defs>\n'
        f"{''.join(drawn)}</svg>\n{_scale_bar(frame)}\n"
        f'<figcaption class="note">North is up. The middle is at {where}.</figcaption></figure>'
    )


def middle_of(rings: Sequence[Ring]) -> tuple[float, float]:
    """Return longitude (-180 to 180) and latitude of the middle of all."""
    lons = [lon for ring in rings for lon, _ in ring]
    lats = [lat for ring in rings for _, lat in ring]
    lon = (min(lons) + max(lons)) / 2
    return (lon + 180) % 360 - 180, (min(lats) + max(lats)) / 2


def _sound(ring: Ring) -> list[tuple[float, float]]:
    """Return a ring, or nothing if it is no ring on Earth."""
    points = [(float(lon), float(lat)) for lon, lat in ring]
    fine = all(math.isfinite(lon) and abs(lat) <= 90 for lon, lat in points)
    return points if fine and len(points) >= 4 else []


def _near(lon: float, middle: float) -> float:
    """Turn a longitude so that scenes on both sides of the antimeridian lie together."""
    return middle + (lon - middle + 180) % 360 - 180


def _frame(rings: Sequence[Ring]) -> _Frame:
    lons = [lon for ring in rings for lon, _ in ring]
    lats = [lat for ring in rings for _, lat in ring]
    stretch = max(0.01, math.cos(math.radians((min(lats) + max(lats)) / 2)))
    wide = max((max(lons) - min(lons)) * stretch, 1e-6)
    tall = max(max(lats) - min(lats), 1e-6)
    room = _WIDTH - 2 * _MARGIN
    height = min(max(tall / wide * room + 2 * _MARGIN, _LOW), _HIGH)
    scale = min(room / wide, (height - 2 * _MARGIN) / tall)
    west = (min(lons) + max(lons)) / 2 - _WIDTH / 2 / scale / stretch
    north = (min(lats) + max(lats)) / 2 + height / 2 / scale
    return _Frame(west, north, stretch, scale, height)


def _scene(
    scene: SceneFigures,
    anchor: str,
    ring: Ring,
    frame: _Frame,
    describe: Callable[[SceneFigures], str],
    *,
    named: bool,
) -> str:
    points = [frame.place(lon, lat) for lon, lat in ring]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    wide, tall = max(xs) - min(xs), max(ys) - min(ys)
    x, y = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
    said = escape(describe(scene))
    path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
    hatch = f'<polygon points="{path}" fill="url(#hatch)" fill-opacity=".35"/>' * (scene.state == "failed")
    side = max(_SMALL, min(34.0, 0.5 * min(wide, tall)))
    mark = (
        f'<use href="#mark-{scene.state}" x="{x - side / 2:.1f}" y="{y - side / 2:.1f}" '
        f'width="{side:.1f}" height="{side:.1f}"/>'
    )
    text = ""
    if named:
        short = escape(_short(scene))
        text = f'<text x="{x:.1f}" y="{y + side / 2 + 26:.1f}" aria-hidden="true">{short}</text>'
    return (
        f'<a href="#{anchor}" aria-label="{said}" class="{scene.state}"><title>{said}</title>'
        f'<polygon points="{path}"/>{hatch}{mark}{text}</a>\n'
    )


def _short(scene: SceneFigures) -> str:
    name = scene.name.rsplit("/", 1)[-1]
    return name if len(name) <= 20 else f"{name[:19]}…"


def _across(ring: Ring, frame: _Frame) -> float:
    xs = [frame.place(lon, lat)[0] for lon, lat in ring]
    return max(xs) - min(xs)


def _scale_bar(frame: _Frame) -> str:
    """Draw a round length; as HTML, whose letters stay legible when the map shrinks."""
    across = _WIDTH / frame.scale * _METRES
    power = 10 ** math.floor(math.log10(across / 4))
    length = max(step * power for step in (1, 2, 5, 10) if step * power <= across / 2.5)
    text = f"{length / 1000:,g} km" if length >= 1000 else f"{length:g} m"
    return f'<div class="scale"><span style="width:{100 * length / across:.2f}%"></span><b>{text}</b></div>'
