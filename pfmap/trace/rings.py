"""Join arcs into the rings of regions."""

from typing import NamedTuple

import numpy as np

from pfmap.trace.compiled import compiled
from pfmap.trace.ragged import offsets_of, take_ragged
from pfmap.trace.tile import UNIT
from pfmap.trace.types import Bools, Ints, Longs


class Halves(NamedTuple):
    """Arcs as seen from the regions beside them: walked so that the region lies on the left.

    Attributes:
        region: ``(n,)`` number of the region, ascending.
        arc: ``(n,)`` which arc.
        backward: ``(n,)`` whether the arc is walked from its end.
        loose_start: ``(n,)`` whether only two lines meet where the half begins.
        loose_end: ``(n,)`` the same where it ends.
    """

    region: Longs
    arc: Longs
    backward: Bools
    loose_start: Bools
    loose_end: Bools


class Rings(NamedTuple):
    """Rings of regions, as ragged arrays: of each region the outer ring first, then its holes.

    Attributes:
        coords: ``(points, 2)`` columns and rows, `UNIT` to a pixel; rings are closed.
        ring_offsets: ``(rings + 1,)`` where each ring starts in `coords`.
        region_offsets: ``(regions + 1,)`` where each region starts in the rings.
    """

    coords: Ints
    ring_offsets: Longs
    region_offsets: Longs


def join(
    halves: Halves,
    count: int,
    coords: Ints,
    offsets: Longs,
    closed: Bools,
    *,
    keep_nodes: bool,
) -> Rings:
    """Join arcs into rings.

    Where a region touches itself at a corner its rings do not cross over: they meet there, and each is
    simple. So polygons of them are valid.

    Args:
        halves: all arcs around each region.
        count: number of regions.
        coords: ``(points, 2)`` of the arcs, `UNIT` to a pixel.
        offsets: where each arc starts in `coords`.
        closed: which arcs are rings by themselves.
        keep_nodes: whether a vertex stays where a ring goes straight on but a third line meets it.
    """
    # Arcs start and end at pixel corners.
    starts, ends = (coords[at].astype(np.int64) // UNIT for at in (offsets[:-1], offsets[1:] - 1))
    span = int(coords[:, 0].max(initial=0)) // UNIT + 1
    places = (int(coords[:, 1].max(initial=0)) // UNIT + 1) * span
    begin, stop = starts[:, 1] * span + starts[:, 0], ends[:, 1] * span + ends[:, 0]
    a, b = begin[halves.arc], stop[halves.arc]
    leaving = halves.region * places + np.where(halves.backward, b, a)
    arriving = halves.region * places + np.where(halves.backward, a, b)
    order = np.argsort(leaving, kind="stable")
    points, ring_offsets, region, area = _walk_all(
        halves, arriving, order, leaving[order], coords, offsets, closed, keep_nodes
    )
    # Rows count downwards: with the region on the left, outer rings have a negative area.
    outer_first = np.lexsort((area > 0, region))
    sizes = np.diff(ring_offsets)[outer_first]
    sorted_offsets = offsets_of(sizes)
    if not (outer_first[1:] > outer_first[:-1]).all():
        points = take_ragged(points, ring_offsets, outer_first)
    per_region = np.bincount(region, minlength=count)
    return Rings(points, sorted_offsets, offsets_of(per_region))


@compiled
def _step(coords: Ints, offsets: Longs, halves: Halves, half: int, first: bool) -> tuple[int, int]:
    """Return the direction in which a half leaves its first node, or reaches its last."""
    start, last = offsets[halves.arc[half]], offsets[halves.arc[half] + 1] - 1
    sign = 1
    if halves.backward[half]:
        sign, first = -1, not first
    a, b = (start, start + 1) if first else (last - 1, last)
    return sign * (coords[b, 0] - coords[a, 0]), sign * (coords[b, 1] - coords[a, 1])


@compiled
def _follow(
    halves: Halves, half: int, at: int, order: Longs, leaving: Longs, coords: Ints, offsets: Longs
) -> int:
    """Return the half that follows where two leave: the one farther to the right.

    So a ring goes around the pixel of somebody else, and the region's two pixels that touch at this corner
    are on one ring only if nothing lies between.
    """
    x, y = _step(coords, offsets, halves, half, False)
    back = np.arctan2(-float(y), -float(x))
    chosen, widest = -1, -1.0
    for k in range(at, min(at + 2, len(order))):
        if leaving[k] != leaving[at]:
            break
        u, v = _step(coords, offsets, halves, order[k], True)
        angle = (np.arctan2(float(v), float(u)) - back) % (2 * np.pi)
        if angle > widest:
            chosen, widest = order[k], angle
    return chosen


@compiled
def _straight(a: Ints, b: Ints, c: Ints) -> bool:
    """Whether b lies on the line from a to c."""
    return np.int64(b[0] - a[0]) * (c[1] - b[1]) == np.int64(b[1] - a[1]) * (c[0] - b[0])


@compiled
def _walk_all(
    halves: Halves,
    arriving: Longs,
    order: Longs,
    leaving: Longs,
    coords: Ints,
    offsets: Longs,
    closed: Bools,
    keep_nodes: bool,
) -> tuple[Ints, Longs, Longs, Longs]:
    """Walk all rings: points, where each ring starts, its region, and twice its signed area."""
    size = 0
    for arc in halves.arc:
        size += offsets[arc + 1] - offsets[arc]
    count = len(halves.arc)
    points = np.empty((size, 2), dtype=np.int32)
    loose = np.zeros(size, dtype=np.bool_)  # what may go if the ring goes straight on
    ring_offsets = np.empty(count + 1, dtype=np.int64)
    region = np.empty(count, dtype=np.int64)
    area = np.empty(count, dtype=np.int64)
    walked = np.zeros(count, dtype=np.bool_)
    rings, at = 0, 0
    near, far = 0, 0  # the region's halves, in any order
    for first in range(count):
        if walked[first]:
            continue
        if first >= far:
            near, far = first, first + 1
            while far < count and halves.region[far] == halves.region[first]:
                far += 1
        start, half = at, first
        while True:
            walked[half] = True
            arc = halves.arc[half]
            for k in range(offsets[arc + 1] - offsets[arc] - 1):  # the last point is the next half's first
                points[at] = coords[offsets[arc + 1] - 1 - k if halves.backward[half] else offsets[arc] + k]
                if k:
                    loose[at] = False
                at += 1
            loose_end = halves.loose_end[half]
            if not closed[arc]:
                found = near + np.searchsorted(leaving[near:far], arriving[half])
                half = _follow(halves, half, found, order, leaving, coords, offsets)
            joint = start if half == first else at
            if joint < size:
                loose[joint] = not keep_nodes or loose_end or halves.loose_start[half]
            if half == first:
                break
        at = _without_straight(points, loose, start, at)
        ring_offsets[rings], region[rings] = start, halves.region[first]
        doubled = np.int64(0)
        for k in range(start, at - 1):
            doubled += np.int64(points[k, 0]) * points[k + 1, 1] - np.int64(points[k + 1, 0]) * points[k, 1]
        area[rings] = doubled
        rings += 1
    ring_offsets[rings] = at
    return points[:at].copy(), ring_offsets[: rings + 1].copy(), region[:rings].copy(), area[:rings].copy()


@compiled
def _without_straight(points: Ints, loose: Bools, start: int, stop: int) -> int:
    """Drop the loose points of a ring at which it goes straight on, and close it; return where it ends."""
    size = stop - start
    for k in range(size):
        if loose[start + k]:
            before, after = points[start + (k - 1) % size], points[start + (k + 1) % size]
            loose[start + k] = _straight(before, points[start + k], after)
    at = start
    for k in range(size):
        if not loose[start + k]:
            points[at] = points[start + k]
            at += 1
    points[at] = points[start]
    return at + 1
