"""Label the regions of a tile and trace the lines between them.

Two kinds of thing are found in one tile of a class raster: *pieces*, the 4-connected sets of pixels of one
class, and *arcs*, the lines between two pieces from one node to the next. A node is a pixel corner where
three or more lines meet, or where a line ends at the tile's side. What the sides themselves separate is left
to whoever knows the neighbouring tiles.

Lines run along pixel corners; coordinates are doubled, so that the middle of a pixel's side is an integer
too.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pfmap.trace.compiled import compiled

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]

NOTHING = -1
"""Stands for nodata, and for what lies outside the raster."""


class Pieces(NamedTuple):
    """The pieces of a tile.

    Attributes:
        classes: ``(n,)`` int32 class.
        pixels: ``(n,)`` number of pixels.
        total: ``(n,)`` sum of their confidence, percent.
        least: ``(n,)`` least confidence, percent.
        first: ``(n,)`` first pixel in reading order, as row * width of the tile + column.
    """

    classes: Ints
    pixels: Longs
    total: Longs
    least: Bytes
    first: Longs


class Arcs(NamedTuple):
    """Lines between pieces, as ragged arrays.

    Attributes:
        coords: ``(points, 2)`` doubled column and row of the corners, both ends included.
        offsets: ``(n + 1,)`` where each arc starts in `coords`.
        left: ``(n,)`` piece on the left as one walks along the arc (rows count downwards), or `NOTHING`.
        right: ``(n,)`` piece on the right, or `NOTHING`.
        closed: ``(n,)`` whether it is a ring that meets no node.
    """

    coords: Ints
    offsets: Longs
    left: Ints
    right: Ints
    closed: npt.NDArray[np.bool_]


@compiled
def label(classes: npt.NDArray[Any], confidence: Bytes, nodata: int) -> tuple[Ints, Pieces]:
    """Find the pieces of a tile.

    Args:
        classes: ``(h, w)`` uint8 or int32.
        confidence: ``(h, w)`` percent.
        nodata: value that belongs to no piece; -1 for none.

    Returns:
        ``(h, w)`` number of each pixel's piece, or `NOTHING`; and the pieces, in reading order.
    """
    height, width = classes.shape
    labels = np.empty((height, width), dtype=np.int32)
    parent = np.empty(height * width, dtype=np.int32)
    count = 0
    for y in range(height):
        x = 0
        while x < width:
            value = classes[y, x]
            stop = x + 1
            while stop < width and classes[y, stop] == value:
                stop += 1
            mine = NOTHING
            if value != nodata:
                if y > 0:
                    before = NOTHING
                    for at in range(x, stop):
                        above = labels[y - 1, at]
                        if above != before:
                            before = above
                            if above != NOTHING and classes[y - 1, at] == value:
                                root = above
                                while parent[root] != root:
                                    parent[root] = parent[parent[root]]
                                    root = parent[root]
                                if mine == NOTHING:
                                    mine = root
                                elif root < mine:
                                    parent[mine] = root
                                    mine = root
                                else:
                                    parent[root] = mine
                if mine == NOTHING:
                    parent[count] = count
                    mine = count
                    count += 1
            for at in range(x, stop):
                labels[y, at] = mine
            x = stop
    number = np.empty(count, dtype=np.int32)
    found = 0
    for index in range(count):  # a root is the first of its set
        if parent[index] == index:
            number[index] = found
            found += 1
        else:
            number[index] = number[parent[index]]
    pieces = Pieces(
        np.zeros(found, dtype=np.int32),
        np.zeros(found, dtype=np.int64),
        np.zeros(found, dtype=np.int64),
        np.full(found, 255, dtype=np.uint8),
        np.full(found, -1, dtype=np.int64),
    )
    for y in range(height):
        x = 0
        while x < width:
            before = labels[y, x]
            stop = x
            if before == NOTHING:
                while stop < width and labels[y, stop] == NOTHING:
                    stop += 1
                x = stop
                continue
            mine = number[before]
            total, least = 0, pieces.least[mine]
            while stop < width and labels[y, stop] == before:
                labels[y, stop] = mine
                percent = confidence[y, stop]
                total += percent
                least = min(least, percent)
                stop += 1
            if pieces.first[mine] < 0:
                pieces.first[mine] = y * width + x
                pieces.classes[mine] = classes[y, x]
            pieces.pixels[mine] += stop - x
            pieces.total[mine] += total
            pieces.least[mine] = least
            x = stop
    return labels, pieces


_EAST, _SOUTH, _NEW_EAST, _NEW_SOUTH = 1, 2, 4, 8
"""At a pixel corner: a line leads east, south; and has not been walked yet."""


@compiled
def _lines(labels: Ints) -> tuple[Bytes, int]:
    """Say for each pixel corner which lines start there, and count the unit lines."""
    height, width = labels.shape
    lines = np.zeros((height + 1, width + 1), dtype=np.uint8)
    count = 0
    for y in range(height):
        for x in range(width):
            bits = 0
            here = labels[y, x]
            if y > 0 and labels[y - 1, x] != here:
                bits = _EAST | _NEW_EAST
                count += 1
            if x > 0 and labels[y, x - 1] != here:
                bits |= _SOUTH | _NEW_SOUTH
                count += 1
            lines[y, x] = bits
    return lines, count


@compiled
def _leads(lines: Bytes, x: int, y: int, bit_east: int, bit_south: int) -> tuple[bool, bool, bool, bool]:
    """Say whether lines lead from a corner to the east, south, west and north."""
    bits = lines[y, x]
    return (
        bits & bit_east != 0,
        bits & bit_south != 0,
        x > 0 and lines[y, x - 1] & bit_east != 0,
        y > 0 and lines[y - 1, x] & bit_south != 0,
    )


@compiled
def _is_node(lines: Bytes, x: int, y: int) -> bool:
    east, south, west, north = _leads(lines, x, y, _EAST, _SOUTH)
    degree = int(east) + int(south) + int(west) + int(north)
    inside = 0 < x < lines.shape[1] - 1 and 0 < y < lines.shape[0] - 1
    return degree > 2 or (degree > 0 and not inside)


@compiled
def _walk(lines: Bytes, x: int, y: int, heading: int, coords: Ints, at: int) -> int:
    """Follow a line from a corner to the next node, or back; write its corners from `at` on.

    Headings are 0 east, 1 south, 2 west, 3 north. Returns where the corners end.
    """
    x0, y0 = x, y
    coords[at, 0], coords[at, 1] = 2 * x, 2 * y
    at += 1
    while True:
        if heading == 0:
            lines[y, x] &= ~_NEW_EAST & 255
            x += 1
        elif heading == 1:
            lines[y, x] &= ~_NEW_SOUTH & 255
            y += 1
        elif heading == 2:
            x -= 1
            lines[y, x] &= ~_NEW_EAST & 255
        else:
            y -= 1
            lines[y, x] &= ~_NEW_SOUTH & 255
        if (x == x0 and y == y0) or _is_node(lines, x, y):
            break
        east, south, west, north = _leads(lines, x, y, _EAST, _SOUTH)
        if heading == 0 or heading == 2:  # noqa: PLR1714 - numba
            ahead = east if heading == 0 else west
            turn = 1 if south else 3
        else:
            ahead = south if heading == 1 else north
            turn = 0 if east else 2
        if not ahead:
            heading = turn
            coords[at, 0], coords[at, 1] = 2 * x, 2 * y
            at += 1
    coords[at, 0], coords[at, 1] = 2 * x, 2 * y
    return at + 1


@compiled
def _sides(labels: Ints, x: int, y: int, heading: int) -> tuple[int, int]:
    """Return the pieces on the left and right of a unit line that leaves a corner."""
    if heading == 0:
        return labels[y - 1, x], labels[y, x]
    if heading == 1:
        return labels[y, x], labels[y, x - 1]
    if heading == 2:
        return labels[y, x - 1], labels[y - 1, x - 1]
    return labels[y - 1, x - 1], labels[y - 1, x]


@compiled
def arcs_between(labels: Ints) -> Arcs:
    """Trace the lines inside a tile.

    Args:
        labels: ``(h, w)`` numbers of pieces as `label` gives them.

    Returns:
        The arcs, each once; rings start at their first corner in reading order.
    """
    height, width = labels.shape
    lines, count = _lines(labels)
    coords = np.empty((2 * count, 2), dtype=np.int32)
    offsets = np.empty(count + 1, dtype=np.int64)
    left = np.empty(count, dtype=np.int32)
    right = np.empty(count, dtype=np.int32)
    closed = np.zeros(count, dtype=np.bool_)
    arcs, at = 0, 0
    for rings in (False, True):  # what no node starts are rings
        for y in range(height + 1):
            for x in range(width + 1):
                # A line to the west or north starts at a corner whose own bits are empty.
                if rings:
                    if lines[y, x] & (_NEW_EAST | _NEW_SOUTH) == 0:
                        continue
                elif not (
                    lines[y, x]
                    | (lines[y, x - 1] & _EAST if x > 0 else 0)
                    | (lines[y - 1, x] & _SOUTH if y > 0 else 0)
                ) or not _is_node(lines, x, y):
                    continue
                for heading in range(4):
                    if _leads(lines, x, y, _NEW_EAST, _NEW_SOUTH)[heading]:
                        offsets[arcs] = at
                        left[arcs], right[arcs] = _sides(labels, x, y, heading)
                        closed[arcs] = rings
                        at = _walk(lines, x, y, heading, coords, at)
                        arcs += 1
    offsets[arcs] = at
    return Arcs(
        coords[:at].copy(),
        offsets[: arcs + 1].copy(),
        left[:arcs].copy(),
        right[:arcs].copy(),
        closed[:arcs].copy(),
    )
