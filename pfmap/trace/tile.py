"""Find the regions of one tile of a class raster and the lines between them, and join lines to rings.

Two kinds of thing are found in a tile: *pieces*, the 4-connected sets of pixels of one class, and *arcs*, the
lines between two pieces from one node to the next. A node is a pixel corner where three or more lines meet,
or where a line ends at the tile's side. What the sides themselves separate is left to whoever knows the
neighbouring tiles. Each arc lies between the same two pieces all along, so both get the same line from it,
also when it is simplified; the rings of a region are its arcs, joined end to end.

Lines run along pixel corners. Coordinates are integers, `UNIT` to a pixel, so that what is simplified later
has room between the corners.

On a CPU the classes themselves are chosen here, of probabilities (`choose_classes`).

What all compiled loops share is here too: ragged arrays, tables with holes, and union-find. A ragged array
holds runs of different lengths in one array: run k is ``coords[offsets[k] : offsets[k + 1]]``.
"""

import hashlib
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from numba.core.caching import FunctionCache

from pfmap.core.arrays import Array, Bools, Bytes, Ints, Longs

NOTHING = -1
"""Stands for nodata, and for what lies outside the raster."""

UNIT = 32
"""Steps of a coordinate in a pixel."""

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile a function to machine code on its first call, and keep the code for later processes.

    It runs without Python's lock, so that threads work at once. Left out of it is what numba takes long to
    compile: setting arrays, or parts, to others, and handing on a plain 0 or True, for which it compiles once
    more what takes it. Where neither the package's folder nor the user's cache folder can be written, it is
    compiled once for every process.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
    code: Any = numba.njit(**options)(function)
    with suppress(RuntimeError):  # numba: no locator available
        code._cache = _Kept(function)
    return cast(F, code)


helpers: list["subprocess.Popen[bytes]"] = []
"""Processes that compile for this one: while they are at work, it waits for their code."""

_PATIENCE = 0.05  # seconds between looks at what they have


class _Kept(FunctionCache):
    """A function's machine code of earlier processes, if every file of this folder is as it was then.

    By itself numba asks that of the function's own file alone, though the code holds what it calls of others.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)  # type: ignore[no-untyped-call]
        self._cache_file._source_stamp = self._cache_file._source_stamp, _sources()

    @property
    def known(self) -> bool:
        """Whether there is code of an earlier process."""
        return bool(self._cache_file._load_index())  # type: ignore[no-untyped-call]

    def load_overload(self, *key: Any) -> Any:
        while True:
            busy = any(one.poll() is None for one in helpers)
            code = None
            try:
                code = super().load_overload(*key)  # type: ignore[no-untyped-call]
            except Exception:  # it is damaged, or names what is no longer there: compiled anew
                self.flush()  # type: ignore[no-untyped-call]
            if code is not None or not busy:
                return code
            time.sleep(_PATIENCE)


def keeps() -> bool:
    """Whether what is compiled can be kept for later processes."""
    return isinstance(root._cache, _Kept)  # type: ignore[attr-defined]


def warn_unkept(say: Callable[[str], None]) -> None:
    """Say, where what is compiled cannot be kept, what that costs and what to do about it."""
    if not keeps():
        say(
            f"warning: neither {Path(__file__).parent} nor the user's cache folder can be written, so that "
            "loops are compiled again by every run, which takes it up to a minute: set NUMBA_CACHE_DIR to a "
            "folder that can be written"
        )


@cache
def _sources() -> bytes:
    """Return a hash of the files that compiled functions are in."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).digest()


def offsets_of(sizes: Array) -> Longs:
    """Return the ``(n + 1,)`` offsets of a ragged array whose ``(n,)`` runs have these sizes."""
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def take_ragged(coords: Ints, offsets: Longs, chosen: Longs) -> Ints:
    """Return the ``(k,)`` chosen runs of a ragged array of ``(n, 2)`` coordinates, in the order named."""
    sizes = np.diff(offsets)[chosen]
    before = np.cumsum(sizes) - sizes
    return coords[np.arange(sizes.sum()) + np.repeat(offsets[chosen] - before, sizes)]


@compiled
def doubled(rows: Longs) -> Longs:
    """Return a full ``(n, k)`` table with room for as many rows again, for loops that cannot count ahead."""
    more = np.empty((2 * len(rows), rows.shape[1]), dtype=rows.dtype)
    for k in range(len(rows)):
        for column in range(rows.shape[1]):
            more[k, column] = rows[k, column]
    return more


def look_up(table: Array, index: Array) -> Array:
    """Return ``table[index]``, and `NOTHING` where the index is `NOTHING`; the table may be empty."""
    return np.append(table, NOTHING)[index]


def shifted(numbers: Ints, start: int) -> Longs:
    """Count pieces, numbered from 0, from `start` on; `NOTHING` stays."""
    return np.where(numbers == NOTHING, NOTHING, numbers + np.int64(start))


def no_class(dtype: np.dtype[Any], nodata: int | None) -> int:
    """Return the value that is no class; where there is none, one that no pixel of this type can have."""
    return nodata if nodata is not None else int(np.iinfo(dtype).min) - 1


@compiled
def root(parent: Ints | Longs, index: int) -> int:
    """Return the number that stands for the set of `index`, and shorten the way to it.

    In ``(n,)`` `parent` each points to another of its set, and the one that stands for it to itself.
    """
    while parent[index] != index:
        parent[index] = parent[parent[index]]
        index = parent[index]
    return index


@compiled
def unite(parent: Ints | Longs, a: int, b: int) -> None:
    """Join the sets of two numbers; the lower of their roots stands for both."""
    a, b = root(parent, a), root(parent, b)
    if a < b:
        parent[b] = a
    else:
        parent[a] = b


@compiled
def roots(count: int, pairs: Longs) -> Longs:
    """Return ``(count,)`` the least number in everyone's set, where ``(n, 2)`` pairs belong together."""
    parent = np.arange(count)
    for k in range(len(pairs)):
        unite(parent, pairs[k, 0], pairs[k, 1])
    for k in range(count):  # a parent is lower, and so points to its root already
        parent[k] = parent[parent[k]]
    return parent


class Pieces(NamedTuple):
    """The pieces of a tile, as ``(n,)`` arrays."""

    classes: Ints
    pixels: Longs
    total: Longs
    """Sum of their confidence, percent."""
    least: Bytes
    """Least confidence, percent."""
    first: Longs
    """First pixel in reading order, as row * width of the tile + column."""


class Arcs(NamedTuple):
    """Lines between pieces, as a ragged array. Rows count downwards: north is where they are low."""

    coords: Ints
    """``(points, 2)`` column and row of the corners, `UNIT` to a pixel, both ends included."""
    offsets: Longs
    """``(n + 1,)`` where each arc starts in `coords`."""
    left: Ints
    """``(n,)`` piece on the left as one walks along the arc, or `NOTHING`."""
    right: Ints
    """``(n,)`` piece on the right, or `NOTHING`."""
    closed: Bools
    """``(n,)`` whether it is a ring that meets no node."""


class Halves(NamedTuple):
    """Arcs as seen from the regions beside them, each walked so that the region lies on its left.

    An arc between two regions has two halves. All are ``(n,)`` arrays, ordered by region.
    """

    region: Longs
    """Number of the region, ascending."""
    arc: Longs
    follow: Longs
    """Where, in their order by region and first corner, those begin that may follow it."""
    backward: Bools
    """Whether the arc is walked from its end."""
    loose_start: Bools
    """Whether only two lines meet where the half begins: a node only because tiles end there."""
    loose_end: Bools
    """The same where it ends."""


@compiled
def label(classes: Array, confidence: Bytes, nodata: int) -> tuple[Ints, Pieces]:
    """Find the 4-connected pieces of a tile of ``(h, w)`` classes, and confidence in percent, or ``(0, w)``.

    Runs of equal pixels are found row by row, and united with those above them (union-find). Nodata belongs
    to no piece.

    Returns:
        ``(h, w)`` number of each pixel's piece, or `NOTHING`; and the pieces, in reading order.
    """
    height, width = classes.shape
    starts, row_starts = _runs(classes)
    parent = np.arange(len(starts), dtype=np.int32)
    for y in range(1, height):
        above, stop_above = row_starts[y - 1], row_starts[y]
        for run in range(row_starts[y], row_starts[y + 1]):
            stop = starts[run + 1] if run + 1 < row_starts[y + 1] else width
            value = classes[y, starts[run]]
            while above < stop_above and starts[above] < stop:
                if value != nodata and classes[y - 1, starts[above]] == value:
                    unite(parent, above, run)
                above += 1
            above -= 1  # it may reach over the next run too, unless it ends with this one
            if above + 1 < stop_above and starts[above + 1] == stop:
                above += 1
    number = np.empty(len(starts), dtype=np.int32)
    found: Any = np.int64(0)
    for y in range(height):
        for run in range(row_starts[y], row_starts[y + 1]):
            if classes[y, starts[run]] == nodata:
                number[run] = NOTHING
            elif parent[run] == run:  # a root is the first of its set
                number[run] = found
                found += 1
            else:
                number[run] = number[parent[run]]
    return _gather(classes, confidence, starts, row_starts, number, found)


@compiled
def _runs(classes: Array) -> tuple[Ints, Longs]:
    """Return ``(runs,)`` columns in which runs of equal pixels start, ``(h + 1,)`` where each row's start."""
    height, width = classes.shape
    count = height
    for y in range(height):
        for x in range(1, width):
            count += classes[y, x] != classes[y, x - 1]
    starts = np.empty(count, dtype=np.int32)
    row_starts = np.empty(height + 1, dtype=np.int64)
    at = 0
    for y in range(height):
        row_starts[y] = at
        starts[at] = 0
        at += 1
        for x in range(1, width):
            if classes[y, x] != classes[y, x - 1]:
                starts[at] = x
                at += 1
    row_starts[height] = at
    return starts, row_starts


@compiled
def _gather(
    classes: Array, confidence: Bytes, starts: Ints, row_starts: Longs, number: Ints, found: int
) -> tuple[Ints, Pieces]:
    """Give each pixel the number of its piece, and sum up each piece; `number` is that of each run."""
    height, width = classes.shape
    labels = np.empty((height, width), dtype=np.int32)
    pieces = Pieces(
        np.zeros(found, dtype=np.int32),
        np.zeros(found, dtype=np.int64),
        np.zeros(found, dtype=np.int64),
        np.full(found, 255, dtype=np.uint8),
        np.full(found, -1, dtype=np.int64),
    )
    for y in range(height):
        for run in range(row_starts[y], row_starts[y + 1]):
            start, piece = starts[run], number[run]
            stop = starts[run + 1] if run + 1 < row_starts[y + 1] else width
            labels[y, start:stop] = piece
            if piece == NOTHING:
                continue
            total, least = 0, 255
            for x in range(start, stop if len(confidence) else start):
                total += confidence[y, x]
                least = min(least, confidence[y, x])
            if pieces.first[piece] < 0:
                pieces.first[piece] = y * width + start
                pieces.classes[piece] = classes[y, start]
            pieces.pixels[piece] += stop - start
            pieces.total[piece] += total
            pieces.least[piece] = min(pieces.least[piece], least)
    return labels, pieces


_EAST, _SOUTH, _NEW_EAST, _NEW_SOUTH, _NODE = 1, 2, 4, 8, 16
"""At a pixel corner: a line leads east, south; and has not been walked yet; and it is a node."""


@compiled
def _lines(classes: Array) -> tuple[Bytes, int]:
    """Find the unit lines between pixels of different classes.

    Returns:
        ``(h + 1, w + 1)`` the flags above for each pixel corner, and the number of unit lines. None runs
        along the tile's sides.
    """
    height, width = classes.shape
    lines = np.zeros((height + 1, width + 1), dtype=np.uint8)
    count = 0
    for x in range(1, width):
        lines[0, x] = (classes[0, x - 1] != classes[0, x]) * (_SOUTH | _NEW_SOUTH | _NODE)
        count += classes[0, x - 1] != classes[0, x]
        lines[height, x] = (classes[height - 1, x - 1] != classes[height - 1, x]) * _NODE
    for y in range(1, height):
        lines[y, 0] = (classes[y - 1, 0] != classes[y, 0]) * (_EAST | _NEW_EAST | _NODE)
        count += classes[y - 1, 0] != classes[y, 0]
        lines[y, width] = (classes[y - 1, width - 1] != classes[y, width - 1]) * _NODE
        for x in range(1, width):
            east = np.uint8(classes[y - 1, x] != classes[y, x])
            south = np.uint8(classes[y, x - 1] != classes[y, x])
            west = np.uint8(classes[y - 1, x - 1] != classes[y, x - 1])
            north = np.uint8(classes[y - 1, x - 1] != classes[y - 1, x])
            node = np.uint8(east + south + west + north > 2)
            lines[y, x] = (
                east * np.uint8(_EAST | _NEW_EAST)
                + south * np.uint8(_SOUTH | _NEW_SOUTH)
                + node * np.uint8(_NODE)
            )
            count += east + south
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
def _walk(lines: Bytes, x: int, y: int, heading: int, coords: Ints, at: int) -> int:
    """Follow a line from a corner to the next node, or back to that corner, and mark it as walked.

    Its ends and bends are written to `coords` from `at` on; where they end is returned. Headings are 0 east,
    1 south, 2 west, 3 north. Off the nodes just two lines meet, so there is one way on: ahead, or one turn.
    """
    x0, y0 = x, y
    coords[at, 0], coords[at, 1] = UNIT * x, UNIT * y
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
        if (x == x0 and y == y0) or lines[y, x] & _NODE:
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
            coords[at, 0], coords[at, 1] = UNIT * x, UNIT * y
            at += 1
    coords[at, 0], coords[at, 1] = UNIT * x, UNIT * y
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
def arcs_between(classes: Array, labels: Ints) -> Arcs:
    """Trace the lines inside a tile of ``(h, w)`` classes, from node to node; labels are from `label`.

    Each arc is there once; closed ones start at their first corner in reading order.
    """
    height, width = labels.shape
    lines, count = _lines(classes)
    coords = np.empty((2 * count, 2), dtype=np.int32)
    offsets = np.empty(count + 1, dtype=np.int64)
    left = np.empty(count, dtype=np.int32)
    right = np.empty(count, dtype=np.int32)
    closed = np.zeros(count, dtype=np.bool_)
    arcs = 0
    at: Any = np.int64(0)
    for rings in (False, True):  # what is left when all nodes' lines are walked are rings
        wanted = _NEW_EAST | _NEW_SOUTH if rings else _NODE
        for y in range(height + 1):
            for x in range(width + 1):
                if lines[y, x] & wanted == 0:
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


@compiled
def walk_rings(
    halves: Halves, order: Longs, leaving: Longs, coords: Ints, offsets: Longs, closed: Bools, keep: bool
) -> tuple[Ints, Longs, Longs, Longs]:
    """Join arcs to rings, each from the first of its halves that is not walked yet.

    Where a region touches itself at a corner its rings do not cross over: they meet there, and each is
    simple. So polygons of them are valid. A number for region and corner says where halves begin, in their
    `order` by it (`leaving`). `keep` leaves a vertex where a ring goes straight on but a third line meets it.

    Returns:
        ``(points, 2)`` vertices, ``(rings + 1,)`` where each ring starts, and ``(rings,)`` its region and
        twice its signed area.
    """
    size, count = 0, len(halves.arc)
    for arc in halves.arc:
        size += offsets[arc + 1] - offsets[arc]
    points = np.empty((size, 2), dtype=np.int32)
    loose = np.zeros(size, dtype=np.bool_)
    ring_offsets = np.empty(count + 1, dtype=np.int64)
    region = np.empty(count, dtype=np.int64)
    area = np.zeros(count, dtype=np.int64)
    walked = np.zeros(count, dtype=np.bool_)
    rings = 0
    at: Any = np.int64(0)
    for first in range(count):
        if walked[first]:
            continue
        start, half = at, first
        while True:
            walked[half] = True
            arc, loose_end = halves.arc[half], halves.loose_end[half]
            at = _put(coords, offsets[arc], offsets[arc + 1] - 1, halves.backward[half], points, loose, at)
            if not closed[arc]:
                half = _follow(halves, half, halves.follow[half], order, leaving, coords, offsets)
            joint = start if half == first else at
            if joint < size:
                loose[joint] = not keep or loose_end or halves.loose_start[half]
            if half == first:
                break
        at = _without_straight(points, loose, start, at)
        ring_offsets[rings], region[rings] = start, halves.region[first]
        for k in range(start, at - 1):
            x, y = np.int64(points[k, 0]), np.int64(points[k, 1])
            area[rings] += x * points[k + 1, 1] - points[k + 1, 0] * y
        rings += 1
    ring_offsets[rings] = at
    return points[:at].copy(), ring_offsets[: rings + 1].copy(), region[:rings].copy(), area[:rings].copy()


@compiled
def _put(coords: Ints, start: int, last: int, backward: bool, points: Ints, loose: Bools, at: int) -> int:
    """Write an arc's points but its last, the next arc's first, from `at` on; return where they end."""
    for k in range(last - start):
        here = last - k if backward else start + k
        points[at + k, 0], points[at + k, 1] = coords[here, 0], coords[here, 1]
        loose[at + k] = loose[at + k] and k == 0
    return at + last - start


@compiled
def _step(coords: Ints, offsets: Longs, halves: Halves, half: int, first: bool) -> tuple[int, int]:
    """Return the step in x and y by which a half leaves its first node, or reaches its last."""
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
    """Return the half that goes on from a node: where two leave it, the one farther to the right.

    So a ring goes around the pixel of somebody else, and the region's two pixels that touch at this corner
    are on one ring only if nothing lies between.
    """
    if at + 1 == len(order) or leaving[at + 1] != leaving[at]:
        return order[at]
    x, y = _step(coords, offsets, halves, half, False)
    back = np.arctan2(-float(y), -float(x))
    chosen, widest = order[at], -1.0
    for k in range(at, at + 2):
        u, v = _step(coords, offsets, halves, order[k], True)
        angle = (np.arctan2(float(v), float(u)) - back) % (2 * np.pi)
        if angle > widest:
            chosen, widest = order[k], angle
    return chosen


@compiled
def _without_straight(points: Ints, loose: Bools, start: int, stop: int) -> int:
    """Drop the loose points of a ring at which it goes straight on, and close it; return where it ends.

    Loose are the joints of halves that may go: what only the cut into tiles made a node.
    """
    size = stop - start
    for k in range(size):
        if loose[start + k]:
            a, b, c = points[start + (k - 1) % size], points[start + k], points[start + (k + 1) % size]
            loose[start + k] = np.int64(b[0] - a[0]) * (c[1] - b[1]) == np.int64(b[1] - a[1]) * (c[0] - b[0])
    at = start
    for k in range(size):
        if not loose[start + k]:
            points[at, 0], points[at, 1] = points[start + k, 0], points[start + k, 1]
            at += 1
    points[at, 0], points[at, 1] = points[start, 0], points[start, 1]
    return at + 1


Singles = npt.NDArray[np.float32]
Neighbours = tuple[Longs, Longs, Singles]
"""For each of some rows, or columns, the two of another grid around it, and the weight of the second."""

SAME: Neighbours = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
"""Where there is no other grid."""

_ZERO, _ONE, _HUNDRED = np.float32(0), np.float32(1), np.float32(100)
_LEAST = np.float32(1e-6)


def warm_up_choosing() -> None:
    """Compile these loops, or load what an earlier process compiled."""
    one = np.zeros(1, np.float32)
    shown, out = np.zeros(0, np.int64), np.zeros((2, 1, 1), np.uint8)
    choose_classes(one, (1, 1, 1), SAME, SAME, one[None], shown, out)


@compiled
def choose_classes(
    known: Singles,
    steps: tuple[int, int, int],
    down: Neighbours,
    across: Neighbours,
    thresholds: Singles,
    shown: Longs,
    out: Bytes,
) -> None:
    """Choose the class of each pixel, the first of equals; where the grids are not one, interpolate first.

    One row is taken at a time, of one channel after the other: so the inner loops go along memory, and a
    processor does several pixels at once. For that they read what they need before they write: what is read
    again after that may have changed, for all that the compiler knows.

    Args:
        known: probabilities, the columns of a row beside each other.
        steps: from one channel to the next, and from one row to the next; then the number of channels.
        down: rows around each row, or `SAME`.
        across: columns around each column, or `SAME`.
        thresholds: ``(turns, classes)``: the part of all classes' probability that one has to exceed. A
            further turn is for pixels without a class.
        shown: channels to be shown.
        out: ``(2 + shown, rows, cols)`` gets the class, its probability in percent, and that of the channels.
    """
    layers, height, width = out.shape
    room = width * steps[2] if len(down[2]) else 0
    best, whole, free = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    between, wide = np.empty(room, np.float32), np.empty(2 * room, np.float32)
    index, held = np.empty(width, np.int32), np.empty(2, np.int32)
    held[0] = held[1] = np.int32(-1)
    for x in range(width):
        whole[x] = _ONE
    for y in range(height):
        rows, start, step = known, y * steps[1], steps[0]
        if room:
            for row in (down[0][y], down[1][y]):
                if held[row % 2] != row:
                    held[row % 2] = row
                    at = row % 2 * room
                    _interpolate(known[row * steps[1] :], step, across, wide[at : at + room])
            one, other = down[0][y] % 2 * room, down[1][y] % 2 * room
            classes = thresholds.shape[1]
            _between(wide[one : one + room], wide[other : other + room], down[2][y], classes, whole, between)
            rows, start, step = between, 0, width
        _choose(rows[start:], step, thresholds, whole, free, best, index)
        for x in range(width):
            out[0, y, x] = np.uint8(index[x])
        for layer in range(1, layers):
            at = start + shown[layer - 2] * step if layer > 1 else 0
            _to_percent(rows[at : at + width] if layer > 1 else best, whole, out[layer, y])


@compiled
def _interpolate(known: Singles, step: int, across: Neighbours, out: Singles) -> None:
    """Interpolate a row, of each channel, between its columns."""
    first, second, weight = across
    for k in range(len(out) // len(weight)):
        row, line = known[k * step :], out[k * len(weight) :]
        for x in range(len(weight)):
            one, other = row[first[x]], row[second[x]]
            line[x] = one + weight[x] * (other - one)


@compiled
def _between(
    above: Singles, below: Singles, weight: np.float32, classes: int, whole: Singles, out: Singles
) -> None:
    """Interpolate between two rows, of each channel, and sum up the classes.

    Beside windows that were not computed they do not add up to one.
    """
    width = len(whole)
    for x in range(width):
        whole[x] = _ZERO
    for k in range(len(out) // width):
        at, share = k * width, _ONE if k < classes else _ZERO
        one, other, line = above[at : at + width], below[at : at + width], out[at : at + width]
        for x in range(width):
            value = one[x] + weight * (other[x] - one[x])
            line[x] = value
            whole[x] += share * value
    for x in range(width):
        whole[x] = max(whole[x], _LEAST)


@compiled
def _choose(
    rows: Singles, step: int, thresholds: Singles, whole: Singles, free: Singles, best: Singles, index: Ints
) -> None:
    """Choose the class of each pixel of a row, and note its probability."""
    turns, classes = thresholds.shape
    for x in range(len(best)):
        best[x], index[x], free[x] = -_ONE, np.int32(0), whole[x]
    for turn in range(turns):
        for k in range(classes):
            row, threshold, this = rows[k * step : k * step + len(best)], thresholds[turn, k], np.int32(k)
            for x in range(len(best)):
                value, before = row[x], best[x]
                better = value > max(before, threshold * free[x])
                index[x] = this if better else index[x]
                best[x] = value if better else before
        for x in range(len(best)):
            free[x] = np.float32(np.inf) if best[x] >= _ZERO else -_ONE


@compiled
def _to_percent(row: Singles, whole: Singles, out: Bytes) -> None:
    """Turn a row's probabilities into percent of a whole."""
    for x in range(len(out)):
        out[x] = np.uint8(min(max(np.rint(row[x] / whole[x] * _HUNDRED), _ZERO), _HUNDRED))
