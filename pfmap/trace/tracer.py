"""Trace the regions of a class raster of any height, rows after rows, in memory that only open regions take.

The raster is cut into tiles on a fixed grid, however many rows come at a time. A tile is traced, and its arcs
are simplified, on its own. Along the sides of the tiles, pieces of equal class are one region (union-find),
and pieces of different classes have an arc between them. A region is closed when no piece of it lies on the
lowest row so far: then its arcs are joined to rings, and it is given out. The result is that of tracing the
whole raster at once, and does not depend on how its rows arrive.

A region of very many vertices is given out as its pieces. They are put aside on disk while it is open, so
that even a region which spans the whole raster takes no memory.
"""

import tempfile
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pfmap.core.stages import Regions
from pfmap.trace.separate import Separation
from pfmap.trace.simplify import simplify
from pfmap.trace.tile import (
    NOTHING,
    UNIT,
    Arcs,
    Bools,
    Bytes,
    Halves,
    Ints,
    Longs,
    Pieces,
    Rings,
    arcs_between,
    compiled,
    join,
    label,
    look_up,
    no_class,
    offsets_of,
    roots,
    shifted,
    take_ragged,
)

TILE = 512
"""Rows and columns of a tile; large regions are cut along these."""

_REGION = np.dtype(
    [
        ("classes", np.int32),
        ("pixels", np.int64),
        ("total", np.int64),
        ("least", np.uint8),
        ("first", np.int64),
        ("vertices", np.int64),
        ("row", np.int64),
    ]
)
"""What is known of an open region: that of `Pieces`, and `row`, the row of tiles in which it began."""


class Tile(NamedTuple):
    """A traced tile, in coordinates of its own."""

    pieces: Pieces
    arcs: Arcs
    """The lines between them."""
    sides: tuple[Ints, Ints, Ints, Ints]
    """The pieces along its top, bottom, left and right row of pixels, or `NOTHING`."""


def trace_tile(classes: Bytes | Ints, confidence: Bytes, nodata: int | None, tolerance: float) -> Tile:
    """Trace a tile of ``(h, w)`` classes, uint8 or int32, and confidence in percent, as `Tracer` has them."""
    pixels: Any = np.ascontiguousarray(classes)
    labels, pieces = label(pixels, np.ascontiguousarray(confidence), no_class(classes.dtype, nodata))
    arcs = arcs_between(pixels, labels)
    if tolerance > 0:
        height, width = labels.shape
        arcs = simplify(arcs, pieces, height, width, float(tolerance))
    top, bottom, left, right = (side.copy() for side in (labels[0], labels[-1], labels[:, 0], labels[:, -1]))
    return Tile(pieces, arcs, (top, bottom, left, right))


class _Lines(NamedTuple):
    """Arcs, and who lies beside them: on the left side in column 0, on the right in column 1."""

    coords: Ints
    """``(points, 2)`` of the whole raster, `UNIT` to a pixel."""
    offsets: Longs
    """``(n + 1,)`` where each arc starts in `coords`."""
    closed: Bools
    """``(n,)`` whether an arc is a ring by itself."""
    loose: Bools
    """``(n, 2)`` whether its start, its end, is no node but for the tiles: only two lines meet there."""
    piece: Longs
    """``(n, 2)`` number of the piece, or `NOTHING`."""
    klass: Ints
    """``(n, 2)`` class, or `NOTHING`."""
    region: Longs
    """``(n, 2)`` open region that needs the arc, or `NOTHING`."""

    def take(self, chosen: Any) -> "_Lines":
        """Return the ``(n,)`` chosen arcs."""
        at = np.flatnonzero(chosen)
        columns: list[Any] = [column[at] for column in self[2:]]
        sizes = np.diff(self.offsets)[at]
        return _Lines(take_ragged(self.coords, self.offsets, at), offsets_of(sizes), *columns)

    @staticmethod
    def join(parts: Iterable["_Lines"]) -> "_Lines":
        """Put several into one."""
        coords, offsets, *columns = zip(*parts, strict=True)
        sizes = np.concatenate([np.diff(part) for part in offsets])
        return _Lines(np.concatenate(coords), offsets_of(sizes), *map(np.concatenate, columns))


@dataclass(slots=True)
class _Sheet:
    """A row of tiles: its pieces, numbered from `base`, and the arcs that open regions still need."""

    row: int
    base: int
    pieces: Pieces
    lines: _Lines


def warm_up() -> None:
    """Compile all loops, or load what an earlier process compiled: half a minute the first time only."""
    with Tracer(4, 4, nodata=255, tolerance=1.0, tile=2) as tracer:
        for _ in tracer.add(np.eye(4, dtype=np.uint8)):
            pass


class Tracer:
    """Traces the regions of a class raster that comes in rows, top to bottom, and gives them as they close.

    Use it as a context manager: it has threads and perhaps a temporary folder.

    Args:
        height: rows of the raster.
        width: columns of the raster.
        nodata: value that becomes no region; None for none.
        wanted: classes that become regions; None for all. The others only bound them.
        tolerance: by how many pixels borders may be moved to simplify them; 0 leaves them.
        split: regions of more vertices are given as pieces, cut along the tiles; 0 never cuts.
        workers: threads.
        spool: folder for pieces of large open regions; None for the system's.
        tile: rows and columns of a tile.
        separation: how objects that touch are taken apart; None leaves them regions.
    """

    def __init__(
        self,
        height: int,
        width: int,
        *,
        nodata: int | None,
        wanted: Collection[int] | None = None,
        tolerance: float = 0.0,
        split: int = 0,
        workers: int = 1,
        spool: Path | None = None,
        tile: int = TILE,
        separation: Separation | None = None,  # noqa: ARG002 - the next step
    ) -> None:
        self._height, self._width, self._side = height, width, tile
        self._nodata, self._tolerance, self._split = nodata, tolerance, split
        self._wanted = None if wanted is None else np.array(sorted(wanted), dtype=np.int64)
        self._resources = ExitStack()
        self._map: Any = map
        if workers > 1:
            self._map = self._resources.enter_context(ThreadPoolExecutor(workers)).map
        self._spool_in = spool
        self._spool: Path | None = None
        # Rows of an unfinished row of tiles: how many there are, and their pixels.
        self._have = 0
        self._classes: npt.NDArray[Any] = np.zeros((0, width), dtype=np.uint8)
        self._confidence = np.zeros((min(tile, height), width), dtype=np.uint8)
        self._top = 0  # first of them
        self._row = 0  # which row of tiles
        self._sheets: list[_Sheet] = []
        self.piece_count = 0
        """Pieces found so far, wanted or not."""
        self._above = np.full((3, width), NOTHING, dtype=np.int64)  # piece, class, region above each column
        self._regions = np.zeros(64, dtype=_REGION)
        self._parent = np.arange(64, dtype=np.int64)  # regions that turned out to be one: the least of them
        self._free = list(range(63, -1, -1))
        self._aside: dict[int, list[Path]] = {}

    def __enter__(self) -> "Tracer":
        return self

    def __exit__(self, *error: object) -> None:
        self._resources.close()

    def add(
        self,
        classes: npt.NDArray[Any],
        confidence: Bytes | None = None,
        contact: Bytes | None = None,  # noqa: ARG002
    ) -> Iterator[Regions]:
        """Take the next rows and give the regions that are closed then.

        Args:
            classes: ``(rows, width)`` uint8 or int32.
            confidence: ``(rows, width)`` percent; None where it is not known.
            contact: the same; used where objects are taken apart by it.

        Yields:
            Regions of the whole raster, in pixels; all have been given when the last row has been taken.

        Raises:
            ValueError: more rows than the raster has, or rows of another width.
        """
        if confidence is None:
            confidence = np.broadcast_to(np.uint8(0), classes.shape)
        if classes.shape[1] != self._width or self._top + self._have + len(classes) > self._height:
            raise ValueError(
                f"rows of {classes.shape} do not fit a raster of {self._height} x {self._width} after "
                f"{self._top + self._have} rows"
            )
        if self._classes.dtype != classes.dtype or not len(self._classes):
            self._classes = np.zeros(self._confidence.shape, dtype=classes.dtype)
        at = 0
        while at < len(classes):
            step = min(len(classes) - at, len(self._classes) - self._have)
            self._classes[self._have : self._have + step] = classes[at : at + step]
            self._confidence[self._have : self._have + step] = confidence[at : at + step]
            at += step
            self._have += step
            if self._have == len(self._classes) or self._top + self._have == self._height:
                rows, self._have = self._have, 0
                closing = self._add_row(self._classes[:rows], self._confidence[:rows])
                yield from self._close(closing)

    def _add_row(self, classes: npt.NDArray[Any], confidence: Bytes) -> Longs:
        """Trace a row of tiles, and return the regions that are closed by it."""
        lefts = range(0, self._width, self._side)

        def trace(x: int) -> Tile:
            box = np.s_[:, x : x + self._side]
            return trace_tile(classes[box], confidence[box], self._nodata, self._tolerance)

        tiles = list(self._map(trace, lefts))
        starts = offsets_of(np.array([len(tile.pieces.classes) for tile in tiles]))
        pieces = self._all_pieces(tiles, lefts)
        count = len(pieces.classes)

        # Everyone who has a part in this row: its pieces, then those above it.
        above, column = np.unique(self._above[0], return_index=True)
        column = column[above >= 0]
        piece = np.concatenate([self.piece_count + np.arange(count), self._above[0][column]])
        klass = np.concatenate([pieces.classes, self._above[1][column]]).astype(np.int32)
        known = np.concatenate([np.full(count, NOTHING), self._above[2][column]])
        index_above = np.where(
            self._above[0] >= 0, count + np.searchsorted(self._above[0][column], self._above[0]), NOTHING
        )

        ends, beside = self._sides(tiles, starts, index_above, len(classes))
        region = self._unite(pieces, klass, known, beside)
        coords, sizes, closed, inside = _inner_lines(tiles, starts, lefts, self._top)
        coords = np.concatenate([coords, ends.reshape(-1, 2)])
        offsets = offsets_of(np.concatenate([sizes, np.full(len(ends), 2)]))
        closed = np.concatenate([closed, np.zeros(len(ends), dtype=np.bool_)])
        corners = np.stack([coords[offsets[:-1]], coords[offsets[1:] - 1]], axis=1) // UNIT
        loose = self._loose(tiles, corners, len(classes))
        sides = np.concatenate([inside, beside])
        of_sides = look_up(piece, sides), look_up(klass, sides).astype(np.int32), look_up(region, sides)
        lines = _Lines(coords, offsets, closed, loose, *of_sides)
        _count_vertices(self._regions, lines.region, lines.klass, lines.offsets)
        lines = lines.take((lines.region >= 0).any(axis=1))
        self._sheets.append(_Sheet(self._row, self.piece_count, pieces, lines))

        self._top += len(classes)
        bottom = _along(tiles, starts, 1)
        if self._top == self._height:
            bottom = np.full_like(bottom, NOTHING)
        self._above = np.stack([look_up(table, bottom) for table in (piece, klass, region)])
        current = np.unique(region[region >= 0])
        self.piece_count += count
        self._row += 1
        return current[~np.isin(current, self._above[2])]

    def _all_pieces(self, tiles: list[Tile], lefts: range) -> Pieces:
        """Put the pieces of a row of tiles together, their first pixels counted in the whole raster."""
        first = []
        for tile, x in zip(tiles, lefts, strict=True):
            row, col = np.divmod(tile.pieces.first, len(tile.sides[0]))
            first.append((self._top + row) * self._width + x + col)
        arrays = [np.concatenate(parts) for parts in zip(*(tile.pieces for tile in tiles), strict=True)]
        return Pieces(*arrays)._replace(first=np.concatenate(first))

    def _sides(self, tiles: list[Tile], starts: Longs, above: Longs, height: int) -> tuple[Ints, Longs]:
        """Return the lines along the tiles' sides: ``(n, 2, 2)`` ends, ``(n, 2)`` who is beside."""
        outside = np.full(height, NOTHING, dtype=np.int64)
        ends, beside = [], []

        def along(left: Longs, right: Longs, x: int, y: int, *, down: bool) -> None:
            runs = _runs(left, right)
            line = np.empty((len(runs), 2, 2), dtype=np.int32)
            line[:, :, 0], line[:, :, 1] = UNIT * x, UNIT * y
            line[:, :, int(down)] += UNIT * runs.astype(np.int32)
            ends.append(line)
            beside.append(np.stack([left[runs[:, 0]], right[runs[:, 0]]], axis=1))

        west = outside
        for j, tile in enumerate(tiles):
            # Downwards, the left hand is in the east.
            along(shifted(tile.sides[2], starts[j]), west, j * self._side, self._top, down=True)
            west = shifted(tile.sides[3], starts[j])
        along(outside, west, self._width, self._top, down=True)
        along(above, _along(tiles, starts, 0), 0, self._top, down=False)
        if self._top + height == self._height:
            bottom = _along(tiles, starts, 1)
            along(bottom, np.full_like(bottom, NOTHING), 0, self._height, down=False)
        return np.concatenate(ends), np.concatenate(beside)

    def _loose(self, tiles: list[Tile], corners: Ints, height: int) -> Bools:
        """Say at which ``(n, 2, 2)`` corners, where arcs start and end, only two lines meet.

        They are nodes only because tiles end there. What lies below the lowest row is not known yet: the arcs
        there will say it.
        """
        classes = [[look_up(tile.pieces.classes, side) for side in tile.sides] for tile in tiles]
        top, bottom, west, east = zip(*classes, strict=True)
        outside = np.full(max(height, self._width), NOTHING)
        across = _two_lines(self._above[1], np.concatenate(top))
        below = np.zeros_like(across)
        if self._top + height == self._height:
            below = _two_lines(np.concatenate(bottom), outside[: self._width])
        outside = outside[:height]
        down = np.stack([_two_lines(a, b) for a, b in zip([outside, *east], [*west, outside], strict=True)])
        x, y = corners[..., 0], corners[..., 1] - self._top
        on_line = (x % self._side == 0) | (x == self._width)
        loose = on_line & down[np.where(on_line, -(-x // self._side), 0), y]
        loose = np.where(y == 0, across[x], loose)
        return np.where(y == height, below[x], loose)

    def _unite(self, pieces: Pieces, klass: Ints, known: Longs, beside: Longs) -> Longs:
        """Unite ``(m, 2)`` who meet along the tiles' sides in one class, and say which region everyone is of.

        Everyone, ``(n,)``, is the row's pieces, then those above, whose region is known.

        Returns:
            ``(n,)`` open regions, or `NOTHING` where the class is not wanted.
        """
        count = len(pieces.classes)
        wanted = np.ones(len(klass), dtype=np.bool_)
        if self._wanted is not None:
            wanted = np.isin(klass, self._wanted)
        pairs = beside[(beside >= 0).all(axis=1)]
        pairs = pairs[klass[pairs[:, 0]] == klass[pairs[:, 1]]]
        # Pieces above that belong to one region already.
        _, first, again = np.unique(known[count:], return_index=True, return_inverse=True)
        same = np.stack([count + first[again], count + np.arange(len(klass) - count)], axis=1)
        group = roots(len(klass), np.concatenate([pairs, same[known[same[:, 1]] >= 0]]))

        nobody = np.iinfo(np.int64).max
        region = np.full(len(klass), nobody)
        old = known >= 0
        np.minimum.at(region, group[old], known[old])
        fresh = np.unique(group[wanted & (region[group] == nobody)])
        region[fresh] = self._new_regions(len(fresh))
        region = np.where(wanted, region[group], NOTHING)
        self._regions["classes"][region[wanted]] = klass[wanted]
        for before, now in np.unique(np.stack([known[old], region[old]], axis=1), axis=0):
            if before != now:
                self._merge(int(before), int(now))
        _add_pieces(self._regions, region, pieces)
        return region

    def _new_regions(self, count: int) -> Longs:
        """Take so many numbers of regions that are free."""
        while len(self._free) < count:
            size = len(self._regions)
            self._regions = np.concatenate([self._regions, np.zeros(size, dtype=_REGION)])
            self._parent = np.concatenate([self._parent, np.arange(size, 2 * size)])
            self._free += range(2 * size - 1, size - 1, -1)
        kept = len(self._free) - count
        fresh = np.array(self._free[kept:], dtype=np.int64)[::-1]
        del self._free[kept:]
        self._regions[fresh] = np.array((0, 0, 0, 255, np.iinfo(np.int64).max, 0, self._row), dtype=_REGION)
        return fresh

    def _merge(self, before: int, now: int) -> None:
        """Make one open region a part of another."""
        table = self._regions
        for name in ("pixels", "total", "vertices"):
            table[name][now] += table[name][before]
        for name in ("least", "first", "row"):
            table[name][now] = min(table[name][now], table[name][before])
        self._parent[self._parent == before] = now
        if before in self._aside:
            self._aside.setdefault(now, []).extend(self._aside.pop(before))

    def _close(self, closing: Longs) -> Iterator[Regions]:
        """Build the polygons of ``(n,)`` regions that are closed, and keep only what open ones still need.

        Of large open regions the pieces that are complete are built too, and stored on disk.
        """
        whole, parts, growing = 1, 2, 3
        state = np.zeros(len(self._regions) + 1, dtype=np.uint8)  # the last stands for nobody
        state[closing] = whole
        if self._split:
            large = self._regions["vertices"] > self._split
            state[closing[large[closing]]] = parts
            going_on = np.unique(self._above[2][self._above[2] >= 0])
            state[going_on[large[going_on]]] = growing
        concerned = np.flatnonzero(state)
        if not len(concerned):
            return
        since = self._regions["row"][concerned].min()
        found = []
        for sheet in self._sheets:
            if sheet.row < since:
                continue
            root = np.where(sheet.lines.region >= 0, self._parent[sheet.lines.region], NOTHING)
            kind = state[root]
            # Pieces on the lowest row are not complete: who lies below them is not known.
            ready = (kind == parts) | ((kind == growing) & (sheet.lines.piece < self._sheets[-1].base))
            use = ready | ((kind == whole) & (root[:, :1] != root[:, 1:]))
            chosen = use.any(axis=1)
            found.append((sheet.lines.take(chosen), root[chosen], kind[chosen], use[chosen]))
            sheet.lines.region[ready | (kind == whole)] = NOTHING
            sheet.lines = sheet.lines.take((sheet.lines.region >= 0).any(axis=1))
        all_lines, *columns = zip(*found, strict=True)
        lines = _Lines.join(all_lines)
        root, kind, use = map(np.concatenate, columns)
        yield self._as_regions(lines, root, use & (kind == whole))
        if self._split:
            yield from self._as_pieces(lines, root, use & (kind != whole), set(closing.tolist()))
        # Sheets that nobody needs go; the last one's pieces may be asked for.
        self._sheets = [s for s in self._sheets if len(s.lines.closed) or s is self._sheets[-1]]
        back = np.flatnonzero(np.isin(self._parent, closing))
        self._free += back.tolist()
        self._parent[back] = back

    def _as_regions(self, lines: _Lines, root: Longs, use: Bools) -> Regions:
        """Build whole regions."""
        owner, rings, at_edge = self._join(lines, root, use)
        table = self._regions[owner]
        return _regions(rings, Pieces(*(table[name] for name in Pieces._fields)), at_edge, whole=True)

    def _as_pieces(self, lines: _Lines, root: Longs, use: Bools, closing: set[int]) -> Iterator[Regions]:
        """Build pieces of large regions: give out those of closed ones, and store those of open ones.

        What was stored comes back one file at a time: a background goes over the whole raster.
        """
        for region in sorted({*root[use].tolist(), *(closing & self._aside.keys())}):
            pieces = self._pieces_of(lines, use & (root == region))
            if region in closing:
                name = self._regions["first"][region]
                names = np.full(len(pieces), name)
                yield replace(pieces, object_ids=names, region_ids=names)
                for path in self._aside.pop(region, []):
                    part = Regions.load(path)
                    path.unlink()
                    names = np.full(len(part), name)
                    yield replace(part, object_ids=names, region_ids=names)
            else:
                if self._spool is None:
                    folder = tempfile.TemporaryDirectory(dir=self._spool_in, prefix="pieces.")
                    self._spool = Path(self._resources.enter_context(folder))
                path = self._spool / f"{self._row}.{region}.npz"
                pieces.save(path)
                self._aside.setdefault(region, []).append(path)

    def _pieces_of(self, lines: _Lines, use: Bools) -> Regions:
        """Build the pieces that these arcs bound."""
        piece, rings, at_edge = self._join(lines, lines.piece, use)
        bases = np.array([sheet.base for sheet in self._sheets])
        which = np.searchsorted(bases, piece, side="right") - 1
        tables = []
        for k in np.unique(which).tolist():
            of_sheet = piece[which == k] - bases[k]
            tables.append([array[of_sheet] for array in self._sheets[k].pieces])
        if not tables:
            return Regions.none()
        return _regions(rings, Pieces(*map(np.concatenate, zip(*tables, strict=True))), at_edge, whole=False)

    def _join(self, lines: _Lines, owner: Longs, use: Bools) -> tuple[Longs, Rings, Bools]:
        """Join ``n`` arcs to rings: ``(n, 2)`` who is left and right of them, and whether they bound it.

        Returns:
            ``(k,)`` owners, ascending; their rings; and ``(k,)`` which of them touch the raster's edge.
        """
        arcs = np.arange(len(use))
        arc = np.concatenate([arcs[use[:, 0]], arcs[use[:, 1]]])
        backward = np.arange(len(arc)) >= np.count_nonzero(use[:, 0])
        mine = np.concatenate([owner[use[:, 0], 0], owner[use[:, 1], 1]])
        owners, number = np.unique(mine, return_inverse=True)
        order = np.argsort(number, kind="stable")
        number, arc, backward = number[order], arc[order], backward[order]
        start = backward.astype(np.int64)  # also the column of this side
        halves = Halves(number, arc, backward, lines.loose[arc, start], lines.loose[arc, 1 - start])
        rings = join(
            halves, len(owners), lines.coords, lines.offsets, lines.closed, keep_nodes=self._tolerance > 0
        )
        at_edge = np.zeros(len(owners), dtype=np.bool_)
        at_edge[number[lines.piece[arc, 1 - start] == NOTHING]] = True
        return owners, rings, at_edge


def _regions(rings: Rings, pieces: Pieces, at_edge: Bools, *, whole: bool) -> Regions:
    """Put together what is known of regions, or of pieces of them."""
    return Regions(
        classes=pieces.classes,
        coords=rings.coords / UNIT,
        ring_offsets=rings.ring_offsets,
        region_offsets=rings.region_offsets,
        ids=pieces.first,
        object_ids=pieces.first,
        region_ids=pieces.first,
        whole=np.full(len(at_edge), whole),
        pixels=pieces.pixels,
        confidence_sum=pieces.total,
        confidence_min=pieces.least,
        at_edge=at_edge,
    )


def _inner_lines(
    tiles: list[Tile], starts: Longs, lefts: range, top: int
) -> tuple[Ints, Longs, Bools, Longs]:
    """Return the arcs of a row of tiles in coordinates of the raster, their sizes, and who is beside them."""
    coords, sizes, closed, beside = [], [], [], []
    for tile, start, x in zip(tiles, starts[:-1], lefts, strict=True):
        coords.append(tile.arcs.coords + np.array([UNIT * x, UNIT * top], dtype=np.int32))
        sizes.append(np.diff(tile.arcs.offsets))
        closed.append(tile.arcs.closed)
        beside.append(shifted(np.stack([tile.arcs.left, tile.arcs.right], axis=1), start))
    return np.concatenate(coords), np.concatenate(sizes), np.concatenate(closed), np.concatenate(beside)


def _along(tiles: list[Tile], starts: Longs, side: int) -> Longs:
    """Return the ``(width,)`` pieces along the top (0) or bottom (1) of a row of tiles."""
    return np.concatenate(
        [shifted(tile.sides[side], start) for tile, start in zip(tiles, starts[:-1], strict=True)]
    )


def _two_lines(before: Longs, after: Longs) -> Bools:
    """Say where between two rows of classes just two lines meet, at each corner from end to end."""
    a, b = (np.concatenate([[NOTHING], row, [NOTHING]]) for row in (before, after))
    first = (a[:-1] != a[1:]).astype(np.int8) + (b[:-1] != b[1:])
    return np.asarray(first + (a[:-1] != b[:-1]) + (a[1:] != b[1:]) == 2)


@compiled
def _add_pieces(regions: npt.NDArray[np.void], region: Longs, pieces: Pieces) -> None:
    """Add what is known of pieces to the regions they belong to."""
    for k in range(len(pieces.classes)):
        if region[k] != NOTHING:
            one = regions[region[k]]
            one.pixels += pieces.pixels[k]
            one.total += pieces.total[k]
            one.least = min(one.least, pieces.least[k])
            one.first = min(one.first, pieces.first[k])


@compiled
def _count_vertices(regions: npt.NDArray[np.void], region: Longs, klass: Ints, offsets: Longs) -> None:
    """Count the vertices of arcs for the regions on either side."""
    for k in range(len(klass)):
        if klass[k, 0] != klass[k, 1]:
            for side in range(2):
                if region[k, side] != NOTHING:
                    regions[region[k, side]].vertices += offsets[k + 1] - offsets[k] - 1


@compiled
def _runs(a: Longs, b: Longs) -> Longs:
    """Return ``(n, 2)`` where runs of equal pairs start and stop, those of two `NOTHING` left out."""
    runs = np.empty((len(a), 2), dtype=np.int64)
    count, start = 0, 0
    for k in range(1, len(a) + 1):
        if k == len(a) or a[k] != a[start] or b[k] != b[start]:
            if a[start] != NOTHING or b[start] != NOTHING:
                runs[count, 0], runs[count, 1] = start, k
                count += 1
            start = k
    return runs[:count]
