"""Make walls straight: lines that run along one direction and across it by turns.

A line is known by one coordinate, and every corner, where two meet, is right by construction. The line whose
loss changes the least area goes first: its two neighbours become one, in the place that is best for both.
That ends where the next one would change more than the square of the shortest wall that is still believed.

Walls of touching buildings end at nodes, where three or more meet. What runs through a node is one line, so
a row of houses has one front, and a common wall is there once.
"""

import heapq
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import shapely

from pfmap.core.arrays import Floats, Objects

CLEARANCE = 0.01  # metres, or pixels, that walls keep from one another
_SPREAD = math.radians(4.0)  # how much the directions of the edges of one wall differ
_APART = math.radians(15.0)  # how much a second direction, to be tried too, has to differ from the first
_ANGLES = (np.arange(90) + 0.5) * math.radians(1)


@dataclass(slots=True, eq=False)
class _Line:
    place: float
    """y where it runs along x, x where it runs along y."""
    weight: float
    """Length of the edges that it stands for; infinite where it has to stay."""
    shared: bool = False
    """Whether walls of several paths may be on it."""
    same: "_Line | None" = None
    """What it has become a part of."""
    walls: list["_Wall"] = field(default_factory=list)  # those on it, once they are taken out

    def root(self) -> "_Line":
        line = self
        while line.same is not None:
            line = line.same
        return line


@dataclass(slots=True, eq=False)
class _Wall:
    number: int
    line: _Line
    along_y: int
    path: int
    before: Any = None
    """The wall before it; nothing at the ends of a path: walls there are not drawn, but say where it ends."""
    after: Any = None
    version: int = 0
    """-1 if it is gone."""


@dataclass(frozen=True, slots=True)
class Node:
    """Where walls end: what runs through it along x and along y, and whether it has to stay."""

    lines: tuple[_Line, _Line]
    fixed: bool

    @staticmethod
    def at(point: complex, *, fixed: bool) -> "Node":
        """Make a node at a point."""
        weight = math.inf if fixed else 0.0
        return Node((_Line(point.imag, weight, True), _Line(point.real, weight, True)), fixed)


class Walls:
    """Paths of walls, closed ones or from node to node."""

    def __init__(self) -> None:
        self._paths: list[list[_Wall]] = []
        self._may_go: list[float] = []  # walls that are left in each closed path, above four
        self._count = itertools.count()

    def add(self, corners: list[list[float]], ends: tuple[Node, Node] | None = None) -> None:
        """Add a path of corners, x and y each, most of whose edges roughly run along the axes."""
        runs = [int(abs(v - y) > abs(u - x)) for (x, y), (u, v) in itertools.pairwise(corners)]
        lines = []
        after = [*runs[1:], None if ends else runs[0]]
        for here, there, run, following in zip(corners[:-1], corners[1:], runs, after, strict=True):
            lines.append(_Line((here[1 - run] + there[1 - run]) / 2, abs(there[run] - here[run])))
            if run == following:
                lines.append(_Line(there[run], 0.0))  # a line of no length across keeps the turns
        first = runs[0]
        if ends:
            start, stop = _end(ends[0], lines[0], first), _end(ends[1], lines[-1], runs[-1])
            first ^= len(start) % 2
            lines = [*start, *lines, *reversed(stop)]
        number = len(self._paths)
        path = [_Wall(next(self._count), line, first ^ k % 2, number) for k, line in enumerate(lines)]
        for one, other in itertools.pairwise(path if ends else [*path, path[0]]):
            one.after, other.before = other, one
        self._paths.append(path)
        self._may_go.append(math.inf if ends else len(path) - 4)

    def simplify(self, least: Sequence[float]) -> None:
        """Take walls out until the next of each path would change a larger area than its `least`.

        Of a closed path at least four are left; paths may cross in the end.
        """

        def noted(walls: Iterable[_Wall]) -> list[tuple[float, int, int, _Wall]]:
            return [
                (cost, wall.number, wall.version, wall)
                for wall in walls
                if self._may_go[wall.path] > 0 and (cost := _cost(wall)) < least[wall.path]
            ]

        walls = [wall for path in self._paths for wall in path]
        for wall in walls:
            wall.line = wall.line.root()
            wall.line.walls.append(wall)
        while heap := noted(wall for wall in walls if wall.version >= 0):
            heapq.heapify(heap)
            while heap:
                cost, _, version, wall = heapq.heappop(heap)
                if version != wall.version or self._may_go[wall.path] <= 0:
                    continue
                again = [wall]
                if _cost(wall) <= cost:  # else a line has moved elsewhere
                    self._may_go[wall.path] -= 2
                    again = _take_out(wall)
                for entry in noted(again):
                    heapq.heappush(heap, entry)

    def path(self, number: int) -> list[complex]:
        """Return the corners of a path that are left, the ends or the first again included."""
        corners = []
        left = [wall for wall in self._paths[number] if wall.version >= 0]
        for wall in left:
            if wall.after is not None:
                pair = wall.after.line.place, wall.line.place
                corners.append(complex(*(pair[::-1] if wall.along_y else pair)))
        return corners if left[0].before is None else [*corners, corners[0]]


def _end(node: Node, line: _Line, run: int) -> list[_Line]:
    """Return what a path has before its first line, which is not drawn: it says where the path ends."""
    if node.fixed:
        return [node.lines[run], node.lines[1 - run]]  # the first line may lie beside the node
    _unite(node.lines[run], line, mean=True)
    return [node.lines[1 - run]]


def _levers(wall: _Wall) -> tuple[float, float]:
    """Return how far the neighbours of a wall run from it, of equal sign at a step; all of a shared line."""
    one, other, here = wall.before, wall.after, wall.line.place
    first, last = one.before, other.after
    before = -(first.line.place - here) if first else -0.0
    if one.line.shared and one.line.weight > abs(before):
        before = math.copysign(one.line.weight, before)
    after = last.line.place - here if last else 0.0
    if other.line.shared and other.line.weight > abs(after):
        after = math.copysign(other.line.weight, after)
    return before, after if first and last else math.copysign(after, before)


def _cost(wall: _Wall) -> float:
    """Return the area that changes when a wall is taken out."""
    if wall.before is None or wall.after is None:
        return math.inf
    one, other = _levers(wall)
    # At a step both move to their common middle; a bay or a spur is cut off.
    lever = min(abs(one), abs(other))
    if one * other > 0 and math.isfinite(one + other):
        lever = one * other / (one + other)
    return abs((wall.after.line.place - wall.before.line.place) * lever) if lever < math.inf else lever


def _unite(kept: _Line, other: _Line, *, mean: bool) -> None:
    """Make one line of two: in their middle, or in the place of the one that is kept."""
    kept, other = kept.root(), other.root()
    if kept is other:
        return
    if mean:
        both = kept.weight + other.weight
        if 0 < both < math.inf:
            kept.place = (kept.place * kept.weight + other.place * other.weight) / both
        elif other.weight > kept.weight:
            kept.place = other.place
        kept.weight = both
    kept.shared |= other.shared
    other.same = kept
    for wall in other.walls:
        wall.line = kept
    kept.walls += other.walls


def _take_out(wall: _Wall) -> list[_Wall]:
    """Take a wall out; its neighbours become one. Returns at most seven walls that cost anew."""
    one, other = wall.before, wall.after
    before, after = _levers(wall)
    kept, lost = one.line, other.line
    if before * after <= 0 and abs(after) > abs(before):
        kept, lost = lost, kept
    _unite(kept, lost, mean=before * after > 0)
    if one.before is None:  # a path ends there: the wall is its end now, and not drawn
        wall.before, one.version = None, -1
    elif other.after is None:
        wall.after, other.version = None, -1
    else:
        wall.version = other.version = -1
        one.after = other.after
        other.after.before = wall = one
    for _ in range(3):
        wall = wall.before or wall
    near = [wall]
    while len(near) < 7 and near[-1].after not in (None, wall):
        near.append(near[-1].after)
    for each in near:
        each.version += 1
    return near


@dataclass(frozen=True, slots=True)
class Square:
    """A squared polygon."""

    polygon: shapely.Polygon  # as it lies on the ground
    angle: float  # of its walls to the x axis, radians
    agrees: float  # IoU with the outline

    def without(self, others: Objects) -> shapely.Polygon | None:
        """Return the polygon with what others take cut out in right angles; None if nothing good is left."""
        taken = shapely.get_parts(shapely.intersection(self.polygon, others))
        taken = taken[shapely.area(taken) > 0]
        if not len(taken):
            return self.polygon
        bounds = shapely.bounds(turned(taken, -self.angle))
        boxes = shapely.union_all(shapely.box(*bounds.T))
        rest = largest(shapely.difference(turned(self.polygon, -self.angle), boxes))
        return sound(rest, self.angle)


def directions(step: Floats) -> list[float]:
    """Return the one or two angles to the x axis along or across which ``(n, 2)`` edges mostly run.

    They are radians from 0 to a quarter turn, the better first: peaks of the edges' angles, where longer ones
    count more than their length.
    """
    share, off = spectrum(step)
    peaks = share.sum(axis=1)
    found = []
    for _ in range(2):
        best = int(peaks.argmax())
        if peaks[best] <= 0:
            break
        found.append(float(_ANGLES[best] + (share[best] * off[best]).sum() / share[best].sum()))
        peaks[np.abs(_beside(_ANGLES - _ANGLES[best])) < _APART] = 0
    return found


def spectrum(step: Floats) -> tuple[Floats, Floats]:
    """Return ``(90, n)`` how much edges count for each of `_ANGLES`, and how far they are from it."""
    weight = np.hypot(*step.T) ** 1.5
    off = _beside(np.arctan2(step[:, 1], step[:, 0]) - _ANGLES[:, None])
    return np.exp(-((off / _SPREAD) ** 2) / 2) * weight, off


def iou(a: shapely.Polygon, b: shapely.Polygon) -> float:
    """Return intersection over union of two polygons."""
    common = shapely.area(shapely.intersection(a, b))
    return float(common / (shapely.area(a) + shapely.area(b) - common))


def largest(shape: shapely.Geometry) -> shapely.Polygon | None:
    """Return the largest polygon in a shape that may be in parts, or cross itself."""
    if not shapely.is_valid(shape):
        shape = shapely.make_valid(shape, method="structure")
    parts = [shape] if isinstance(shape, shapely.Polygon) else shapely.get_parts(shape)
    parts = [part for part in parts if isinstance(part, shapely.Polygon) and part.area > 0]
    return max(parts, key=shapely.area, default=None)


def sound(polygon: shapely.Polygon | None, angle: float) -> shapely.Polygon | None:
    """Turn a polygon into its place if its walls are clear of one another: else rounding could break it."""
    if polygon is not None and shapely.minimum_clearance(polygon) <= CLEARANCE:
        for distance in (-CLEARANCE, CLEARANCE):
            polygon = shapely.buffer(polygon, distance, join_style="mitre")
        polygon = largest(polygon)
    if polygon is None or shapely.minimum_clearance(polygon) <= CLEARANCE:
        return None
    return turned(polygon, angle)  # type: ignore[no-any-return]


def turn(angle: float) -> Floats:
    """Return the matrix that turns points, given as rows, by an angle."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, sin], [-sin, cos]])


def turned(shape: Any, angle: float) -> Any:
    """Turn one polygon, or an array of them."""
    return shapely.transform(shape, lambda xy: xy @ turn(angle))


def _beside(angle: Floats) -> Floats:
    """Return angles as distance from the nearest multiple of a quarter turn."""
    quarter = math.pi / 2
    return (angle + quarter / 2) % quarter - quarter / 2
