"""Simplify the arcs of a tile without touching what they separate.

Each arc becomes the polyline with the fewest vertices that stays within the tolerance of it (Imai and Iri,
"Polygonal approximations of a curve", 1988), chosen among its corners and the middles of its lines: a
staircase along a slanted edge becomes the edge itself, because the middles of its steps lie on it. Of the
polylines with equally many vertices the one that is nearest in the sense of least squares is taken.

Its vertices are then moved a little, by a fifth of a pixel at most, so that as much lies on either side of it
as before.

Then all arcs of the tile are looked at together. Where two segments cross or touch, or one would jump over a
node or a small ring, those are drawn again with half the tolerance, in the end as they were. Nodes stay where
they are. So every piece keeps its neighbours and none is lost. That check is exact: it is made on integers.
"""

import numpy as np

from pfmap.trace.arrays import NOTHING, Bools, Bytes, Floats, Ints, Longs, compiled
from pfmap.trace.tile import UNIT, Arcs, Pieces

_LEVELS = 3
"""How often the tolerance is halved; at the last level an arc is what it was."""

_CELL = 8 * UNIT
"""Side of a cell of the search grid."""

_MOST = 0.2 * UNIT
"""How far vertices are moved at most to keep areas."""

_SHARE = 0.75
"""The tolerance is at most this share of the mean width of the pieces beside: small ones keep their form."""

_BALANCE = 2.0
"""Weight of the area that a segment adds to one side, against the squared distances of its points."""


@compiled
def simplify(arcs: Arcs, pieces: Pieces, height: int, width: int, tolerance: float) -> Arcs:
    """Simplify the arcs of a tile.

    Lines beside nodata stay as they are: what is valid stays the same set of pixels.

    Args:
        arcs: of one tile.
        pieces: of that tile.
        height: rows of the tile.
        width: its columns.
        tolerance: how far the new lines may be from the old ones, pixels.

    Returns:
        The same arcs with fewer, other vertices. Rings may start elsewhere.

    Source: Imai and Iri 1988 for the polylines.
    """
    points, offsets = _with_middles(arcs)
    keep = np.zeros(len(points), dtype=np.uint8)
    level = np.zeros(len(points), dtype=np.uint8)
    longest = 0
    for arc in range(len(arcs.left)):
        longest = max(longest, offsets[arc + 1] - offsets[arc])
    hops = np.empty(longest, dtype=np.int32)
    error = np.empty(longest, dtype=np.float64)
    back = np.empty(longest, dtype=np.int32)
    reach = _reach(arcs, pieces, tolerance)
    exact = points.copy()
    for arc in range(len(arcs.left)):
        start, last = offsets[arc], offsets[arc + 1] - 1
        keep[start] = 1
        if reach[arc] == 0.0 or last - start <= 2:
            _keep_corners(start, last, start, keep, level)
        else:
            _fewest(points, start, last, start, reach[arc], keep, hops, error, back)
            _balance(points, start, last, keep, UNIT * height, UNIT * width)
    _mend(
        points,
        exact,
        offsets,
        arcs.closed,
        reach,
        UNIT * height,
        UNIT * width,
        keep,
        level,
        hops,
        error,
        back,
    )
    return _kept(arcs, points, offsets, keep)


@compiled
def _with_middles(arcs: Arcs) -> tuple[Ints, Longs]:
    """Put the middle of each line between its corners, and start rings at a corner that looks real.

    Returns:
        ``(points, 2)`` corners at even, middles at odd places of each arc; and where the arcs start.
    """
    count = len(arcs.left)
    offsets = np.empty(count + 1, dtype=np.int64)
    points = np.empty((2 * len(arcs.coords), 2), dtype=np.int32)
    at = 0
    for arc in range(count):
        start, corners = arcs.offsets[arc], arcs.offsets[arc + 1] - arcs.offsets[arc]
        turn = _best_start(arcs.coords, start, corners) if arcs.closed[arc] else 0
        offsets[arc] = at
        for k in range(corners):
            here = start + k
            if arcs.closed[arc]:  # the last corner repeats the first
                here = start + (k + turn) % (corners - 1)
            for axis in range(2):
                points[at, axis] = arcs.coords[here, axis]
                if k:
                    points[at - 1, axis] = (points[at - 2, axis] + points[at, axis]) // 2
            at += 2
        at -= 1
    offsets[count] = at
    return points[:at].copy(), offsets


@compiled
def _best_start(coords: Ints, start: int, corners: int) -> int:
    """Return which corner of a ring lies between the longest lines."""
    best, longest = 0, -1
    for k in range(corners - 1):
        here, after = start + k, start + k + 1
        before = start + k - 1 if k else start + corners - 2
        shorter = min(
            abs(coords[here, 0] - coords[before, 0]) + abs(coords[here, 1] - coords[before, 1]),
            abs(coords[here, 0] - coords[after, 0]) + abs(coords[here, 1] - coords[after, 1]),
        )
        if shorter > longest:
            best, longest = k, shorter
    return best


@compiled
def _reach(arcs: Arcs, pieces: Pieces, tolerance: float) -> Floats:
    """Return the tolerance of each arc in steps of the coordinates: 0 for those that stay as they are."""
    outline = np.zeros(len(pieces.pixels), dtype=np.int64)
    for arc in range(len(arcs.left)):
        length = 0
        for k in range(arcs.offsets[arc] + 1, arcs.offsets[arc + 1]):
            length += abs(arcs.coords[k, 0] - arcs.coords[k - 1, 0])
            length += abs(arcs.coords[k, 1] - arcs.coords[k - 1, 1])
        for side in (arcs.left[arc], arcs.right[arc]):
            if side != NOTHING:
                outline[side] += length // UNIT
    reach = np.empty(len(arcs.left), dtype=np.float64)
    for arc in range(len(arcs.left)):
        reach[arc] = UNIT * tolerance
        for side in (arcs.left[arc], arcs.right[arc]):
            if side == NOTHING:
                reach[arc] = 0.0
            else:
                mean_width = 2.0 * pieces.pixels[side] / outline[side]
                reach[arc] = min(reach[arc], UNIT * _SHARE * mean_width)
    return reach


@compiled
def _keep_corners(start: int, last: int, origin: int, keep: Bytes, level: Bytes) -> None:
    """Keep a run as it was: its ends and all corners between."""
    keep[last] = 1
    level[start] = _LEVELS
    for k in range(start + 1, last):
        if (k - origin) % 2 == 0:
            keep[k] = 1
            level[k] = _LEVELS


@compiled
def _fewest(
    points: Ints,
    start: int,
    last: int,
    origin: int,
    tolerance: float,
    keep: Bytes,
    hops: Ints,
    error: Floats,
    back: Ints,
) -> None:
    """Choose which of the points from `start` to `last` are kept; `start` itself is not marked.

    From each point on, the directions are known under which the corners since then lie within the tolerance:
    a cone that narrows until it is empty.

    Args:
        points: ``(n, 2)`` of all arcs.
        start: first point of the run.
        last: last point of the run.
        origin: first point of the arc: corners are an even number of points from it.
        tolerance: steps of the coordinates.
        keep: ``(n,)`` set to one at the points that are kept.
        hops: room for the run, as have `error` and `back`.
        error: see `hops`.
        back: see `hops`.
    """
    size = last - start
    for k in range(size + 1):
        hops[k] = 1 << 30
    hops[0], error[0] = 0, 0.0
    xs, ys = np.empty(size + 1), np.empty(size + 1)
    for k in range(size + 1):
        xs[k], ys[k] = points[start + k]
    square = tolerance * tolerance
    for i in range(size):
        if hops[i] >= hops[size]:
            continue  # the end is reached sooner without this point
        lx = ly = rx = ry = 0.0  # unit vectors along the cone's left and right side
        narrowed = False
        farthest = 0.0
        sxx = sxy = syy = 0.0
        swept = before_x = before_y = 0.0
        for j in range(i + 1, size + 1):
            x, y = xs[j] - xs[i], ys[j] - ys[i]
            d2 = x * x + y * y
            swept += before_x * y - before_y * x
            before_x, before_y = x, y
            if (
                hops[i] < hops[j]
                and farthest <= d2
                and d2 > 0
                and (not narrowed or (lx * y - ly * x <= 0 and rx * y - ry * x >= 0))
            ):
                far = sxx * y * y - 2 * sxy * x * y + syy * x * x
                off = error[i] + (far + _BALANCE * (j - i) * swept * swept) / d2
                if hops[i] + 1 < hops[j] or off < error[j]:
                    hops[j], error[j], back[j] = hops[i] + 1, off, i
            sxx += x * x
            sxy += x * y
            syy += y * y
            if d2 <= square or (start + j - origin) % 2:
                continue  # so near that any direction will do; or between two corners, which say it all
            if narrowed and (lx + rx) * x + (ly + ry) * y <= 0:
                break  # the line turns back
            tangent = np.sqrt(d2 - square)
            ax, ay = (x * tangent - y * tolerance) / d2, (y * tangent + x * tolerance) / d2
            bx, by = (x * tangent + y * tolerance) / d2, (y * tangent - x * tolerance) / d2
            if not narrowed or lx * ay - ly * ax < 0:
                lx, ly = ax, ay
            if not narrowed or rx * by - ry * bx > 0:
                rx, ry = bx, by
            if narrowed and rx * ly - ry * lx <= 0:
                break
            narrowed = True
            short = np.sqrt(d2) - tolerance / 2  # a segment must not end long before what it stands for
            farthest = max(farthest, short * short)
    k = size
    while k > 0:
        keep[start + k] = 1
        k = back[k]


@compiled
def _balance(points: Ints, start: int, last: int, keep: Bytes, height: int, width: int) -> None:
    """Move the vertices of a simplified arc sideways, so that as much lies on either side as before.

    The ends stay. A vertex moves along the gradient of the enclosed area, which is perpendicular to the line
    between its neighbours and half as long.
    """
    wanted, weight = 0.0, 0.0
    before = start
    for k in range(start + 1, last + 1):
        wanted += float(points[k - 1, 0]) * points[k, 1] - float(points[k, 0]) * points[k - 1, 1]
        if keep[k]:
            wanted -= float(points[before, 0]) * points[k, 1] - float(points[k, 0]) * points[before, 1]
            before = k
    first, middle = start, -1
    for k in range(start + 1, last + 1):
        if keep[k]:
            if middle >= 0:
                weight += np.hypot(points[k, 0] - points[first, 0], points[k, 1] - points[first, 1]) / 2
                first = middle
            middle = k
    if weight == 0.0:
        return
    far = min(max(wanted / 2 / weight, -_MOST), _MOST)
    # Neighbours count where they were: x0, y0 is where the one before was.
    first, middle = start, -1
    x0, y0 = points[start, 0], points[start, 1]
    for k in range(start + 1, last + 1):
        if not keep[k]:
            continue
        if middle >= 0:
            x1, y1 = points[middle, 0], points[middle, 1]
            gx, gy = float(points[k, 1] - y0), float(x0 - points[k, 0])
            size = np.hypot(gx, gy)
            if size > 0:
                x, y = round(x1 + far * gx / size), round(y1 + far * gy / size)
                if 0 < x < width and 0 < y < height:
                    points[middle, 0], points[middle, 1] = x, y
            x0, y0 = x1, y1
        middle = k


@compiled
def _mend(
    points: Ints,
    exact: Ints,
    offsets: Longs,
    closed: Bools,
    reach: Floats,
    height: int,
    width: int,
    keep: Bytes,
    level: Bytes,
    hops: Ints,
    error: Floats,
    back: Ints,
) -> None:
    """Draw segments again, more finely and without moving them, until none meets another."""
    rows, cols = height // _CELL + 1, width // _CELL + 1
    arc_of = np.empty(len(points), dtype=np.int32)
    is_end = np.zeros(len(points), dtype=np.bool_)
    for arc in range(len(reach)):
        arc_of[offsets[arc] : offsets[arc + 1]] = arc
        is_end[offsets[arc]] = is_end[offsets[arc + 1] - 1] = True
    posts, post_start = _posts(points, offsets, closed, rows, cols, height, width)
    fresh = keep.copy()  # segments, by their first point, that have not been checked
    again = np.zeros(len(points), dtype=np.uint8)
    while True:
        begin, end = _segments(offsets, keep)
        member, cell_start = _by_cell(points, begin, end, rows, cols)
        clashes = False
        for cell in range(rows * cols):
            for k in range(cell_start[cell], cell_start[cell + 1]):
                a = member[k]
                for other in range(cell_start[cell], k):
                    b = member[other]
                    if (fresh[begin[a]] or fresh[begin[b]]) and _meet(
                        points, is_end, begin[a], end[a], begin[b], end[b]
                    ):
                        again[begin[a]] = again[begin[b]] = 1
                        clashes = True
        for s in range(len(begin)):
            if fresh[begin[s]] and level[begin[s]] < _LEVELS:
                arc = arc_of[begin[s]]
                if _on_side(points, begin[s], end[s], height, width) or _jumps(
                    points, begin[s], end[s], arc, posts, post_start, cols, arc_of, closed
                ):
                    again[begin[s]] = 1
                    clashes = True
        if not clashes:
            return
        progress = False
        for s in range(len(begin)):
            fresh[begin[s]] = 0
        for s in range(len(begin)):
            a, b = begin[s], end[s]
            if not again[a]:
                continue
            again[a] = 0
            for k in (a, b):  # vertices go back to where they were
                if not _at(points, k, exact[k, 0], exact[k, 1]):
                    points[k] = exact[k]
                    progress = True
                    fresh[k] = 1
                    if k == a:  # the segment before ends here
                        fresh[begin[s - 1]] = 1
            if level[a] >= _LEVELS:
                continue
            progress = True
            arc = arc_of[a]
            finer = level[a] + 1
            if finer == _LEVELS:
                _keep_corners(a, b, offsets[arc], keep, level)
            else:
                _fewest(points, a, b, offsets[arc], reach[arc] / 2**finer, keep, hops, error, back)
            for k in range(a, b):
                if keep[k]:
                    level[k] = finer
                    fresh[k] = 1
        if not progress:
            return  # never: lines as they were do not meet


@compiled
def _segments(offsets: Longs, keep: Bytes) -> tuple[Ints, Ints]:
    """List the segments between kept points."""
    count = 0
    for k in range(len(keep)):
        count += keep[k]
    count -= len(offsets) - 1
    begin = np.empty(count, dtype=np.int32)
    end = np.empty(count, dtype=np.int32)
    at = 0
    for arc in range(len(offsets) - 1):
        previous = offsets[arc]
        for k in range(offsets[arc] + 1, offsets[arc + 1]):
            if keep[k]:
                begin[at], end[at] = previous, k
                previous = k
                at += 1
    return begin, end


@compiled
def _rows_at(points: Ints, a: int, b: int, column: int) -> tuple[int, int]:
    """Return the cells' rows, first and last, that a segment passes in a column of cells."""
    x0, y0, x1, y1 = points[a, 0], points[a, 1], points[b, 0], points[b, 1]
    if x0 > x1:
        x0, y0, x1, y1 = x1, y1, x0, y0
    low, high = float(y0), float(y1)
    if x1 > x0:
        slope = (y1 - y0) / (x1 - x0)
        low = y0 + slope * (max(x0, column * _CELL) - x0)
        high = y0 + slope * (min(x1, (column + 1) * _CELL) - x0)
    if low > high:
        low, high = high, low
    return int(max(0.0, low - 1e-6)) // _CELL, int(high + 1e-6) // _CELL


@compiled
def _by_cell(points: Ints, begin: Ints, end: Ints, rows: int, cols: int) -> tuple[Ints, Longs]:
    """Sort segments into the cells they pass: members, and where each cell's start."""
    cell_start = np.zeros(rows * cols + 1, dtype=np.int64)
    member = np.empty(0, dtype=np.int32)
    for filling in (False, True):
        for s in range(len(begin)):
            a, b = begin[s], end[s]
            west, east = points[a, 0], points[b, 0]
            if west > east:
                west, east = east, west
            for column in range(west // _CELL, east // _CELL + 1):
                top, bottom = _rows_at(points, a, b, column)
                for row in range(top, bottom + 1):
                    cell = row * cols + column
                    if filling:
                        cell_start[cell] -= 1
                        member[cell_start[cell]] = s
                    else:
                        cell_start[cell] += 1
        if not filling:
            for cell in range(rows * cols):
                cell_start[cell + 1] += cell_start[cell]
            member = np.empty(cell_start[rows * cols], dtype=np.int32)
    return member, cell_start


@compiled
def _turn(points: Ints, a: int, b: int, c: int) -> int:
    """Return on which side of the line from a to b point c lies: 1, 0 on it, -1."""
    ax, ay = np.int64(points[a, 0]), np.int64(points[a, 1])
    cross = (points[b, 0] - ax) * (points[c, 1] - ay) - (points[b, 1] - ay) * (points[c, 0] - ax)
    return 1 if cross > 0 else (-1 if cross < 0 else 0)


@compiled
def _same(points: Ints, a: int, b: int) -> bool:
    return bool(points[a, 0] == points[b, 0] and points[a, 1] == points[b, 1])


@compiled
def _at(points: Ints, a: int, x: int, y: int) -> bool:
    return points[a, 0] == x and points[a, 1] == y


@compiled
def _linked(points: Ints, is_end: Bools, a: int, b: int) -> bool:
    """Whether two points are one by right, not by chance: the same, or the ends of arcs at a node."""
    return a == b or (is_end[a] and is_end[b] and _same(points, a, b))


@compiled
def _between(points: Ints, a: int, b: int, c: int) -> bool:
    """Whether c, which lies on the line through a and b, lies from a to b."""
    return min(points[a, 0], points[b, 0]) <= points[c, 0] <= max(points[a, 0], points[b, 0]) and min(
        points[a, 1], points[b, 1]
    ) <= points[c, 1] <= max(points[a, 1], points[b, 1])


@compiled
def _meet(points: Ints, is_end: Bools, a: int, b: int, c: int, d: int) -> bool:
    """Whether segments a-b and c-d have more in common than one end of each."""
    if max(points[a, 0], points[b, 0]) < min(points[c, 0], points[d, 0]):
        return False
    if max(points[c, 0], points[d, 0]) < min(points[a, 0], points[b, 0]):
        return False
    if max(points[a, 1], points[b, 1]) < min(points[c, 1], points[d, 1]):
        return False
    if max(points[c, 1], points[d, 1]) < min(points[a, 1], points[b, 1]):
        return False
    if _linked(points, is_end, b, c) or _linked(points, is_end, b, d):
        a, b = b, a
    if _linked(points, is_end, a, d):
        c, d = d, c
    if _linked(points, is_end, a, c):
        if _turn(points, a, b, d) != 0:
            return False
        # Along one line: do they lead the same way?
        dot = np.int64(points[b, 0] - points[a, 0]) * (points[d, 0] - points[a, 0])
        dot += np.int64(points[b, 1] - points[a, 1]) * (points[d, 1] - points[a, 1])
        return dot > 0
    c_side, d_side = _turn(points, a, b, c), _turn(points, a, b, d)
    a_side, b_side = _turn(points, c, d, a), _turn(points, c, d, b)
    if c_side * d_side < 0 and a_side * b_side < 0:
        return True
    return (
        (c_side == 0 and _between(points, a, b, c))
        or (d_side == 0 and _between(points, a, b, d))
        or (a_side == 0 and _between(points, c, d, a))
        or (b_side == 0 and _between(points, c, d, b))
    )


@compiled
def _on_side(points: Ints, a: int, b: int, height: int, width: int) -> bool:
    """Whether a segment lies on a side of the tile, where arcs never run."""
    x0, y0, x1, y1 = points[a, 0], points[a, 1], points[b, 0], points[b, 1]
    return (x0 == x1 and (x0 == 0 or x0 == width)) or (y0 == y1 and (y0 == 0 or y0 == height))  # noqa: PLR1714


@compiled
def _posts(
    points: Ints,
    offsets: Longs,
    closed: Bools,
    rows: int,
    cols: int,
    height: int,
    width: int,
) -> tuple[Ints, Longs]:
    """List by cell what no segment may jump over: nodes inside the tile, one point of each ring."""
    cell_start = np.zeros(rows * cols + 1, dtype=np.int64)
    posts = np.empty(0, dtype=np.int32)
    for filling in (False, True):
        for arc in range(len(offsets) - 1):
            for end in range(1 if closed[arc] else 2):
                point = offsets[arc + 1] - 1 if end else offsets[arc]
                x, y = points[point, 0], points[point, 1]
                if 0 < x < width and 0 < y < height:
                    cell = y // _CELL * cols + x // _CELL
                    if filling:
                        cell_start[cell] -= 1
                        posts[cell_start[cell]] = point
                    else:
                        cell_start[cell] += 1
        if not filling:
            for cell in range(rows * cols):
                cell_start[cell + 1] += cell_start[cell]
            posts = np.empty(cell_start[rows * cols], dtype=np.int32)
    return posts, cell_start


@compiled
def _jumps(
    points: Ints,
    a: int,
    b: int,
    arc: int,
    posts: Ints,
    post_start: Longs,
    cols: int,
    arc_of: Ints,
    closed: Bools,
) -> bool:
    """Whether a post lies between a segment and the run of points that it stands for."""
    west = east = points[a, 0]
    north = south = points[a, 1]
    for k in range(a + 1, b + 1):
        west, east = min(west, points[k, 0]), max(east, points[k, 0])
        north, south = min(north, points[k, 1]), max(south, points[k, 1])
    for row in range(north // _CELL, south // _CELL + 1):
        for column in range(west // _CELL, east // _CELL + 1):
            cell = row * cols + column
            for k in range(post_start[cell], post_start[cell + 1]):
                post = posts[k]
                if _same(points, post, a) or _same(points, post, b) or (closed[arc] and arc_of[post] == arc):
                    continue
                if _inside(points, a, b, post):
                    return True
    return False


@compiled
def _inside(points: Ints, a: int, b: int, post: int) -> bool:
    """Whether a point lies in the polygon of the points from a to b."""
    x, y = points[post, 0], points[post, 1]
    inside = False
    before = b
    for k in range(a, b + 1):
        above, below = points[k, 1] > y, points[before, 1] > y
        if above != below:
            # Is the crossing with the horizontal through the point right of it?
            run, rise = points[before, 0] - points[k, 0], points[before, 1] - points[k, 1]
            side = np.int64(x - points[k, 0]) * rise - np.int64(run) * (y - points[k, 1])
            if (side < 0) == (rise > 0):
                inside = not inside
        before = k
    return inside


@compiled
def _kept(arcs: Arcs, points: Ints, offsets: Longs, keep: Bytes) -> Arcs:
    """Return the arcs with only the kept points."""
    count = 0
    for k in range(len(keep)):
        count += keep[k]
    coords = np.empty((count, 2), dtype=np.int32)
    starts = np.empty(len(offsets), dtype=np.int64)
    at = 0
    for arc in range(len(offsets) - 1):
        starts[arc] = at
        for k in range(offsets[arc], offsets[arc + 1]):
            if keep[k]:
                coords[at, 0], coords[at, 1] = points[k, 0], points[k, 1]
                at += 1
    starts[len(offsets) - 1] = at
    return Arcs(coords, starts, arcs.left, arcs.right, arcs.closed)
