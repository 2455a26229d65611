"""Trace the regions of a class raster of any height, rows after rows, in memory that only open regions take.

The raster is cut into tiles on a fixed grid, however many rows come at a time. A tile is traced, and its arcs
are simplified, on its own. Along the sides of the tiles, pieces of equal class are one region (union-find),
and pieces of different classes have an arc between them. A region is closed when no piece of it lies on the
lowest row so far: then its arcs are joined to rings, and it is given out. The result is that of tracing the
whole raster at once, and does not depend on how its rows arrive.

Where objects of a class are taken apart, they are what is traced, and a second union-find says which of them
touch and so are one region; they are given out when that is closed, because then its name is known.

An object of very many vertices is given out as its pieces. They, and closed objects of an open region, are
put aside on disk, so that even a region which spans the whole raster takes no memory.
"""

import atexit
import itertools
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pfmap.core.arrays import Array, Bools, Bytes, Ints, Longs
from pfmap.core.stages import Regions
from pfmap.trace.separate import Separation
from pfmap.trace.sieve import Nodes, Sieve, settled, summed
from pfmap.trace.simplify import simplify
from pfmap.trace.tile import (
    NOTHING,
    UNIT,
    Arcs,
    Halves,
    Pieces,
    arcs_between,
    helpers,
    keeps,
    label,
    look_up,
    no_class,
    offsets_of,
    roots,
    shifted,
    take_ragged,
    walk_rings,
    warm_up_choosing,
)

TILE = 512
"""Rows and columns of a tile; large objects are cut along these."""

_ABREAST = 4  # tiles beside each other, at most, that see what lies around them once

_MANY = 1 << 16
"""Points of what was put aside that are given at a time."""

_REGION = np.dtype(
    [
        ("classes", np.int32),
        ("pixels", np.int64),
        ("total", np.int64),
        ("least", np.uint8),
        ("first", np.int64),
        ("vertices", np.int64),
        ("row", np.int64),
        ("region", np.int64),
    ],
    align=True,
)
"""What is known of an open object: that of `Pieces`, the row of tiles in which it began, and its region.

Where objects are taken apart, regions have entries too; else an object is its own region.
"""

_UNITED = {"pixels": np.add, "total": np.add, "vertices": np.add} | dict.fromkeys(
    ("least", "first", "row"), np.minimum
)
"""How that of two becomes that of both."""


class Tile(NamedTuple):
    """A traced tile, its pieces' first pixels and its coordinates those of the whole raster."""

    pieces: Pieces
    arcs: Arcs
    """The lines between them."""
    sides: tuple[Ints, Ints, Ints, Ints]
    """The pieces along its top, bottom, left and right row of pixels, or `NOTHING`."""
    same: tuple[Bools, Bools]
    """Whether pixels along its top and left are of one object with those before, if they have one class."""


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
    region: Longs
    """``(n, 2)`` open object that needs the arc, or `NOTHING`."""

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


class _Shelf:
    """Keeps closed objects, and pieces of large ones, on disk until what they are parts of is closed too."""

    def __init__(self, folder: Path | None, resources: ExitStack) -> None:
        self._folder, self._resources = folder, resources
        self._file: Any = None
        self.places: dict[int, list[tuple[int, int]]] = {}
        """For an open object or region: the names of their objects, or `NOTHING`, and places in the file."""

    def put(self, owner: int, regions: Regions, *, ahead: bool = False) -> None:
        """Keep these for an open object or region, ahead of others or behind."""
        if self._file is None:
            file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed with the resources
            self._file = self._resources.enter_context(file)
        places = self.places.setdefault(owner, [])
        places.insert(0 if ahead else len(places), (NOTHING, self._file.seek(0, os.SEEK_END)))
        pickle.dump(regions, self._file)

    def move(self, before: int, now: int, name: int = NOTHING) -> None:
        """Keep for somebody else what was kept for one; a closed object has a name."""
        if before in self.places:
            places = [(own if name == NOTHING else name, place) for own, place in self.places.pop(before)]
            self.places.setdefault(now, []).extend(places)

    def take(self, region: int, name: int) -> Iterator[Regions]:
        """Give what is kept for a region, a bit at a time: a background goes over the whole raster."""
        for own, place in self.places.pop(region):
            self._file.seek(place)
            part = pickle.load(self._file)
            objects = part.object_ids if own == NOTHING else np.full(len(part), own)
            yield replace(part, object_ids=objects, region_ids=np.full(len(part), name))
        if not self.places:
            self._file.truncate(0)


def warm_up(separation: Separation | None, tolerance: float = 1.0) -> None:
    """Compile the loops that a run needs, or load what an earlier process compiled: half a minute once."""
    warm_up_choosing()
    rows = np.eye(4, dtype=np.uint8)
    if separation is not None:
        both = separation.by_contact and frozenset({0}), separation.by_shape and frozenset({1})
        separation = replace(separation, by_contact=both[0], by_shape=both[1])
    curves, limits = {0: True}, (1.0,)
    with Tracer(
        4, 4, nodata=255, tolerance=tolerance, tile=2, curves=curves, separation=separation, limits=limits
    ) as tracer:
        for _ in tracer.add(rows, rows, rows):
            pass


def compile_ahead() -> None:
    """Have two other processes compile what most runs need, if no earlier run did, while this one gets ready.

    What they are not done with when it is needed is waited for. They end with this process.
    """
    if not keeps() or (os.cpu_count() or 1) == 1 or simplify._cache.known:  # type: ignore[attr-defined]
        return
    for part in (_compile_lines, _compile_objects):
        start = f"import gc, sys; gc.disable(); sys.path[:] = {sys.path!r}"  # a tenth is looking for garbage
        program = f"{start}; import {__name__} as m; m.{part.__name__}()"
        nothing = subprocess.DEVNULL
        command = [sys.executable, "-c", program]
        helpers.append(subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing))
        atexit.register(helpers[-1].terminate)


def _compile_lines() -> None:
    """Compile the simplifying of lines: about half of all."""
    one, two = np.zeros(1, dtype=np.int32), np.array([0, 2])
    arcs = Arcs(np.zeros((2, 2), dtype=np.int32), two, one, one, one > 0)
    pieces = Pieces(one, two[:1], two[:1], np.zeros(1, dtype=np.uint8), two[:1])
    simplify(arcs, pieces, 1, 1, 1.0, one > 0)


def _compile_objects() -> None:
    """Compile the rest, in the order in which a run needs it."""
    warm_up_choosing()
    rows = np.eye(4, dtype=np.uint8)
    sieve = Sieve(4, 4, nodata=255, limits=(1.0,), holes_only=False, pixel_area=lambda _row: 1.0)
    for _ in sieve.add(rows, rows):
        pass
    warm_up(Separation(frozenset({0}), frozenset()), tolerance=0.0)


class Tracer:
    """Traces the regions of a class raster that comes in rows, top to bottom, and gives them as they close.

    Use it as a context manager: it has threads and perhaps a temporary folder.

    Args:
        nodata: value that becomes no region; None for none.
        wanted: classes that become regions; None for all. The others only bound them.
        tolerance: by how many pixels borders may be moved to simplify them; 0 leaves them.
        split: regions of more vertices are given as pieces, cut along the tiles; 0 never cuts.
        spool: folder for pieces of large open regions; None for the system's.
        curves: classes whose borders become curves (True), or never do; those of others as their neighbours.
        separation: how objects that touch are taken apart; None leaves them regions.
        limits: parts of fewer pixels join a neighbour of their region, as in `Sieve`.
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
        curves: Mapping[int, bool] | None = None,
        separation: Separation | None = None,
        limits: Sequence[float] = (0.0,),
    ) -> None:
        self._height, self._width, self._side = height, width, tile
        self._nodata, self._tolerance, self._split = nodata, tolerance, split
        self._curved = [value for value, curved in (curves or {}).items() if curved]
        self._straight = [NOTHING, *(value for value, curved in (curves or {}).items() if not curved)]
        self._wanted = None if wanted is None else np.array(sorted(wanted), dtype=np.int64)
        self._resources = ExitStack()
        self._map: Any = map
        if workers > 1:
            self._map = self._resources.enter_context(ThreadPoolExecutor(workers)).map
        if separation is not None:
            both = separation.by_contact - {nodata}, separation.by_shape - {nodata}
            separation = replace(separation, by_contact=both[0], by_shape=both[1])
        self._separation, self._limits = separation, limits if separation else ()
        self._walls = np.zeros((0, 3), dtype=np.int64)  # objects that touch, and how long their wall is
        self._halo = separation.halo if separation else 0
        abreast = min(_ABREAST, -(-width // (tile * workers))) if separation else 1
        self._lefts = range(0, width, abreast * tile)  # of the tiles that a thread traces together
        # Rows that the next row of tiles needs: the first, how many there are, and their layers.
        self._first = self._have = 0
        layers = 3 if separation and separation.by_contact else 2
        rows = np.zeros((layers, min(tile + 2 * self._halo, height), width), dtype=np.uint8)
        self._layers: list[Array] = list(rows)
        self._top = 0  # of the next row of tiles
        self._row = 0  # which one that is
        self._sheets: list[_Sheet] = []
        self.piece_count = 0
        """Pieces found so far, wanted or not."""
        self._above = np.full((4, width), NOTHING, dtype=np.int64)  # piece, class, object, region
        self._hanging = np.zeros(0, dtype=np.int64)  # corners below the last row at which lines end
        self._regions = np.zeros(64, dtype=_REGION)
        self._parent = np.arange(64, dtype=np.int64)  # regions that turned out to be one: the least of them
        self._free = list(range(63, -1, -1))
        self._shelf = _Shelf(spool, self._resources)

    def __enter__(self) -> "Tracer":
        return self

    def __exit__(self, *error: object) -> None:
        self._resources.close()

    def add(
        self, classes: Array, confidence: Bytes | None = None, contact: Bytes | None = None
    ) -> Iterator[Regions]:
        """Take the next rows and give the regions that are closed then.

        Args:
            classes: ``(rows, width)`` uint8 or int32.
            confidence: ``(rows, width)`` percent; None where it is not known.
            contact: the same; needed where objects are taken apart by it.

        Yields:
            Regions of the whole raster, in pixels; all have been given when the last row has been taken.

        Raises:
            ValueError: more rows than the raster has, or rows of another width, or no contact.
        """
        if confidence is None:
            confidence = np.broadcast_to(np.uint8(0), classes.shape)
        known = self._first + self._have
        if classes.shape[1] != self._width or known + len(classes) > self._height:
            raise ValueError(
                f"rows of {classes.shape} do not fit a raster of {self._height} x {self._width} after "
                f"{known} rows"
            )
        layers: list[Any] = [classes, confidence, contact][: len(self._layers)]
        if layers[-1] is None:
            raise ValueError("objects are taken apart by contact, and none came with the classes")
        self._layers[0] = self._layers[0].astype(classes.dtype, copy=False)
        at = 0
        while at < len(classes):
            step = min(len(classes) - at, len(self._layers[0]) - self._have)
            for kept, rows in zip(self._layers, layers, strict=True):
                kept[self._have : self._have + step] = rows[at : at + step]
            at += step
            self._have += step
            while self._top < self._height:
                bottom = min(self._top + self._side, self._height)
                if self._first + self._have < min(bottom + self._halo, self._height):
                    break
                closing = self._add_row(bottom - self._top)
                gone = max(0, bottom - self._halo) - self._first
                for kept in self._layers:
                    kept[: self._have - gone] = kept[gone : self._have]
                self._first, self._have = self._first + gone, self._have - gone
                if not self._have:  # other rows, which take no memory until they come
                    self._layers = [np.empty_like(kept) for kept in self._layers]
                yield from self._close(*closing)

    def _trace(self, x: int, height: int) -> list[Tile]:
        """Trace the tiles beside each other from column `x` on, of so many rows."""
        row, first = self._top - self._first, max(0, x - self._halo)
        stop = min(x + self._lefts.step, self._width)
        view = slice(min(row + height + self._halo, self._have)), slice(first, stop + self._halo)
        classes, confidence, *contact = (layer[view] for layer in self._layers)
        nothing = no_class(classes.dtype, self._nodata)
        rows, parts, tiles = slice(row, row + height), None, []
        if self._separation is not None:
            parts = self._separation.parts(classes, (rows, slice(x - first, stop - first)), *contact)
        for left in range(x, stop, self._side):
            col = left - first
            box = rows, slice(col, min(col + self._side, stop - first))
            pixels: Any = np.ascontiguousarray(classes[box])
            top, before = (np.ones(size, dtype=np.bool_) for size in pixels.shape[::-1])
            given = pixels.ravel()
            if parts is not None:  # their numbers are beyond all classes, in int32 whatever these are
                pixels = parts[box] + np.int32(1 + max(int(pixels.max()), nothing))
                np.copyto(pixels, classes[box], where=parts[box] == NOTHING)
                top = parts[row, box[1]] == parts[max(row - 1, 0), box[1]]
                before = parts[rows, col] == parts[rows, max(col - 1, 0)]
            labels, pieces = label(pixels, np.ascontiguousarray(confidence[box]), nothing)
            y, x_in = np.divmod(pieces.first, labels.shape[1])
            place = (self._top + y) * self._width + left + x_in
            pieces = pieces._replace(classes=given[pieces.first].astype(np.int32), first=place)
            arcs = arcs_between(labels if self._separation else pixels, labels)  # either shows where
            if self._tolerance > 0:
                curved: Any = np.zeros(len(arcs.left), dtype=np.bool_)
                if self._curved:
                    beside = np.stack([look_up(pieces.classes, side) for side in (arcs.left, arcs.right)])
                    curved = np.isin(beside, self._curved).any(axis=0)
                    curved &= ~np.isin(beside, self._straight).any(axis=0)
                arcs = simplify(arcs, pieces, height, labels.shape[1], float(self._tolerance), curved)
            sides = labels[0].copy(), labels[-1].copy(), labels[:, 0].copy(), labels[:, -1].copy()
            coords = arcs.coords + np.array([UNIT * left, UNIT * self._top], dtype=np.int32)
            tiles.append(Tile(pieces, arcs._replace(coords=coords), sides, (top, before)))
        return tiles

    def _add_row(self, height: int) -> tuple[Longs, Longs]:
        """Trace a row of tiles, and return the objects and the regions that are closed by it."""
        tiles = list(itertools.chain(*self._map(lambda x: self._trace(x, height), self._lefts)))
        starts = offsets_of(np.array([len(tile.pieces.classes) for tile in tiles]))
        pieces = Pieces(*map(np.concatenate, zip(*(tile.pieces for tile in tiles), strict=True)))
        count = len(pieces.classes)

        # Everyone who has a part in this row: its pieces, then those above it.
        above, column = np.unique(self._above[0], return_index=True)
        column = column[above >= 0]
        piece = np.concatenate([self.piece_count + np.arange(count), self._above[0][column]])
        klass = np.concatenate([pieces.classes, self._above[1][column]]).astype(np.int32)
        known = np.concatenate([np.full((2, count), NOTHING), self._above[2:, column]], axis=1)
        index_above = np.where(
            self._above[0] >= 0, count + np.searchsorted(self._above[0][column], self._above[0]), NOTHING
        )

        ends, beside, united = self._sides(tiles, starts, index_above, klass, height)
        coords, offsets, left, right, closed = zip(*(tile.arcs for tile in tiles), strict=True)
        pairs = [np.stack(both, axis=1) for both in zip(left, right, strict=True)]
        inside = np.concatenate([shifted(*both) for both in zip(pairs, starts[:-1], strict=True)])
        sides = np.concatenate([inside, beside])
        wanted = np.ones(len(klass), dtype=np.bool_)
        if self._wanted is not None:
            wanted = np.isin(klass, self._wanted)
        objects = region = self._unite(pieces, klass, wanted, known[0], beside[united])
        if self._separation is not None:
            apart = wanted & np.isin(klass, list(self._separation.classes))
            touching = sides[(sides >= 0).all(axis=1) & (klass[sides[:, 0]] == klass[sides[:, 1]])]
            known[1, ~apart] = NOTHING
            region = np.where(apart, self._unite(pieces, klass, apart, known[1], touching), objects)
        self._regions["region"][objects[wanted]] = region[wanted]

        points = np.concatenate([*coords, ends.reshape(-1, 2)])
        at = offsets_of(np.concatenate([*map(np.diff, offsets), np.full(len(ends), 2)]))
        rings = np.concatenate([*closed, np.zeros(len(ends), dtype=np.bool_)])
        self._top += height
        loose = self._loose(self._ends(points, at), np.concatenate([~rings[: len(inside)], ~united]))
        lines = _Lines(points, at, rings, loose, look_up(piece, sides), look_up(objects, sides))
        sizes = np.diff(at) - 1
        for owner in lines.region.T:
            bounds = (lines.region[:, 0] != lines.region[:, 1]) & (owner >= 0)
            np.add.at(self._regions["vertices"], owner[bounds], sizes[bounds])
        lines = lines.take((lines.region >= 0).any(axis=1))
        self._sheets.append(_Sheet(self._row, self.piece_count, pieces, lines))

        bottom = _along(tiles, starts, 1)
        if self._top == self._height:
            bottom = np.full_like(bottom, NOTHING)
        self._above = np.stack([look_up(table, bottom) for table in (piece, klass, objects, region)])
        self.piece_count += count
        self._row += 1
        ended = (
            np.setdiff1d(numbers, np.append(going_on, NOTHING))
            for numbers, going_on in zip((objects, region), self._above[2:], strict=True)
        )
        return self._settled(next(ended), lines), next(ended)

    def _settled(self, ended: Longs, lines: _Lines) -> Longs:
        """Have small parts join neighbours, and return the complete objects that stay as they are.

        The others wait: they are small, or have a neighbour that is, and that may become a part of them. What
        parts were joined by keeps its name.
        """
        if not any(self._limits):
            return ended
        one = self._regions["region"][lines.region]
        at = (lines.region >= 0).all(axis=1) & (one[:, 0] == one[:, 1])
        lines = lines.take(at)
        way = np.abs(np.diff(lines.coords, axis=0, prepend=0)).sum(axis=1).cumsum()
        lengths = way[lines.offsets[1:] - 1] - way[lines.offsets[:-1]]
        walls = np.concatenate([self._walls, np.column_stack([lines.region, lengths])])
        numbers, ends = np.unique(self._parent[walls[:, :2]], return_inverse=True)
        edges = np.column_stack([ends.reshape(-1, 2), walls[:, 2]])
        edges = summed(edges[edges[:, 0] != edges[:, 1]], len(numbers))
        known, growing = self._regions[numbers], np.isin(numbers, self._above[2])
        first, area = known["first"].copy(), known["pixels"].astype(np.float64)
        limit = np.take(np.asarray(self._limits, dtype=np.float64), known["classes"], mode="clip")
        nodes = Nodes(first, area, limit, first, growing, *np.zeros((2, len(numbers)), dtype=np.bool_))
        parent, _, edges = settled(nodes, edges, apart=True)
        self._regions["first"][numbers] = first[parent]
        self._merge(numbers, numbers[parent])
        self._walls = np.column_stack([numbers[parent[edges[:, :2]]], edges[:, 2]])
        return np.setdiff1d(self._parent[np.append(ended, numbers[~growing])], self._walls[:, :2])

    def _sides(
        self, tiles: list[Tile], starts: Longs, above: Longs, klass: Ints, height: int
    ) -> tuple[Ints, Longs, Bools]:
        """Find the lines along the tiles' sides, given everyone's class.

        Returns:
            ``(n, 2, 2)`` ends, ``(n, 2)`` who is beside, and ``(n,)`` whether these are of one object.
        """
        ends, beside, united = [], [], []

        def along(left: Longs, right: Longs, x: int, y: int, same: Bools, *, down: bool) -> None:
            start = np.flatnonzero((np.diff(left, prepend=-2) != 0) | (np.diff(right, prepend=-2) != 0))
            runs = np.stack([start, np.append(start[1:], len(left))], axis=1)
            sides = np.stack([left[start], right[start]], axis=1)
            one, other = look_up(klass, sides).T
            met = (sides >= 0).all(axis=1) & (one == other) & np.logical_or.reduceat(same, start)
            some = (sides >= 0).any(axis=1)
            line = np.empty((np.count_nonzero(some), 2, 2), dtype=np.int32)
            line[:, :, 0], line[:, :, 1] = UNIT * x, UNIT * y
            line[:, :, int(down)] += UNIT * runs[some].astype(np.int32)
            ends.append(line)
            beside.append(sides[some])
            united.append(met[some])

        outside = np.full(height, NOTHING, dtype=np.int64)
        west = outside
        for j, tile in enumerate(tiles):
            # Downwards, the left hand is in the east.
            along(shifted(tile.sides[2], starts[j]), west, j * self._side, self._top, tile.same[1], down=True)
            west = shifted(tile.sides[3], starts[j])
        along(outside, west, self._width, self._top, outside >= 0, down=True)
        same = np.concatenate([tile.same[0] for tile in tiles])
        along(above, _along(tiles, starts, 0), 0, self._top, same, down=False)
        if self._top + height == self._height:
            bottom = _along(tiles, starts, 1)
            along(bottom, np.full_like(bottom, NOTHING), 0, self._height, same, down=False)
        return np.concatenate(ends), np.concatenate(beside), np.concatenate(united)

    def _ends(self, coords: Ints, offsets: Longs) -> Longs:
        """Return ``(n, 2)`` where arcs start and end: at corner column + row * (width + 1)."""
        corners = coords[np.stack([offsets[:-1], offsets[1:] - 1], axis=1)].astype(np.int64) // UNIT
        return np.asarray(corners[..., 1] * (self._width + 1) + corners[..., 0])

    def _loose(self, ends: Longs, real: Bools) -> Bools:
        """Say at which ``(n, 2)`` corners, where arcs start and end, only two lines meet.

        They are nodes only because tiles end there. Of ``(n,)`` arcs those count that part two objects. What
        lies below the lowest row is not known yet: the arcs there will say it.
        """
        place = ends.ravel()
        counted = np.repeat(real, 2)
        _, number = np.unique(np.concatenate([place, self._hanging]), return_inverse=True)
        meeting = np.bincount(number[np.append(counted, self._hanging >= 0)], minlength=len(number))
        self._hanging = place[counted & (place >= self._top * (self._width + 1))]
        return np.asarray(meeting[number[: len(place)]] == 2).reshape(-1, 2)

    def _unite(self, pieces: Pieces, klass: Ints, wanted: Bools, known: Longs, pairs: Longs) -> Longs:
        """Unite ``(m, 2)`` pairs, and say which open object, or region, everyone is of.

        Everyone, ``(n,)``, is the row's pieces, then those above, of which it is known.

        Returns:
            ``(n,)`` numbers of open objects, or `NOTHING` for those who are not wanted.
        """
        count = len(pieces.classes)
        # Pieces above that belong to one already.
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
        pairs = np.unique(np.stack([known[old], region[old]], axis=1), axis=0)
        self._merge(*pairs.T)
        mine = region[:count] >= 0
        for name in _UNITED.keys() & Pieces._fields:
            _UNITED[name].at(self._regions[name], region[:count][mine], getattr(pieces, name)[mine])
        return region

    def _merge(self, before: Longs, now: Longs) -> None:
        """Make each of some open objects, or regions, a part of another, or leave it as it is."""
        before, now = before[before != now], now[before != now]
        for name, unite in _UNITED.items():
            unite.at(self._regions[name], now, self._regions[name][before])
        stands_for = np.arange(len(self._parent))
        stands_for[before] = now
        self._parent = stands_for[self._parent]
        for pair in zip(before.tolist(), now.tolist(), strict=True):
            self._shelf.move(*pair)

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
        self._regions[fresh] = np.array(
            (0, 0, 0, 255, np.iinfo(np.int64).max, 0, self._row, 0), dtype=_REGION
        )
        return fresh

    def _close(self, closing: Longs, regions: Longs) -> Iterator[Regions]:
        """Build the polygons of ``(n,)`` objects that are closed, and keep only what open ones still need.

        Those of open regions are put aside, and what was put aside for ``(m,)`` closed regions is given. Of
        large open objects the pieces that are complete are built and put aside too.
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
        del found, all_lines, columns
        yield self._as_regions(lines, root, use & (kind == whole), regions)
        if self._split:
            self._as_pieces(lines, root, use & (kind != whole), set(closing.tolist()))
        some: list[Regions] = []
        for region in sorted(self._shelf.places.keys() & set(regions.tolist())):
            for part in self._shelf.take(region, self._regions["first"][region]):
                some.append(part)
                if sum(len(one.coords) for one in some) > _MANY:
                    yield Regions.join(some)
                    some = []
        yield Regions.join(some)
        # Sheets that nobody needs go; the last one's pieces may be asked for.
        self._sheets = [s for s in self._sheets if len(s.lines.closed) or s is self._sheets[-1]]
        back = np.flatnonzero(np.isin(self._parent, np.concatenate([closing, regions])))
        self._free += back.tolist()
        self._parent[back] = back

    def _as_regions(self, lines: _Lines, root: Longs, use: Bools, regions: Longs) -> Regions:
        """Build whole objects; give those whose regions are closed, and nothing is put aside for, at once."""
        late = np.ones(len(self._regions), dtype=np.bool_)
        late[regions] = False
        late[list(self._shelf.places)] = True
        region = self._parent[self._regions["region"]]
        late = late[region]
        order = np.lexsort((np.arange(len(region)), region, late))
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        owner, rings = self._join(lines, rank[root], use)
        owner = order[owner]
        region, late, table = region[owner], late[owner], self._regions[owner]
        pieces = Pieces(*(table[name] for name in Pieces._fields))
        found = _regions(rings, pieces, self._regions["first"][region], whole=True)
        starts = np.flatnonzero(late & (np.diff(region, prepend=NOTHING) != 0)).tolist()
        starts.append(len(found))
        for start, stop in itertools.pairwise(starts):
            self._shelf.put(int(region[start]), found.part(start, stop))
        return found.part(0, starts[0])

    def _as_pieces(self, lines: _Lines, root: Longs, use: Bools, closing: set[int]) -> None:
        """Build pieces of large objects, and put them aside."""
        region = self._parent[self._regions["region"]]
        for one in sorted({*root[use].tolist(), *(closing & self._shelf.places.keys())}):
            self._shelf.put(one, self._pieces_of(lines, use & (root == one)), ahead=one in closing)
            if one in closing:
                self._shelf.move(one, int(region[one]), self._regions["first"][one])

    def _pieces_of(self, lines: _Lines, use: Bools) -> Regions:
        """Build the pieces that these arcs bound."""
        piece, rings = self._join(lines, lines.piece, use)
        bases = np.array([sheet.base for sheet in self._sheets])
        which = np.searchsorted(bases, piece, side="right") - 1
        tables = []
        for k in np.unique(which).tolist():
            of_sheet = piece[which == k] - bases[k]
            tables.append([array[of_sheet] for array in self._sheets[k].pieces])
        if not tables:
            return Regions.none()
        pieces = Pieces(*map(np.concatenate, zip(*tables, strict=True)))
        return _regions(rings, pieces, pieces.first, whole=False)

    def _join(self, lines: _Lines, owner: Longs, use: Bools) -> tuple[Longs, dict[str, Any]]:
        """Join ``n`` arcs to rings: ``(n, 2)`` who is left and right of them, and whether they bound it.

        Returns:
            ``(k,)`` owners, ascending; and what `Regions` say of their rings, and of the raster's edge.
        """
        side, arc = np.nonzero(use.T)
        owners, number = np.unique(owner[arc, side], return_inverse=True)
        order = np.argsort(number, kind="stable")
        number, arc, side = number[order], arc[order], side[order]
        # Region and corner in one number say where halves meet; rings by themselves meet no others.
        nowhere = (self._height + 1) * (self._width + 1)
        ends = np.where(lines.closed[:, None], nowhere, self._ends(lines.coords, lines.offsets))
        leaving, arriving = (number * (nowhere + 1) + ends[arc, column] for column in (side, 1 - side))
        order = np.argsort(leaving, kind="stable")
        leaving = leaving[order]
        follow = np.searchsorted(leaving, arriving)
        halves = Halves(number, arc, follow, side == 1, lines.loose[arc, side], lines.loose[arc, 1 - side])
        # Walls are common vertex for vertex where objects that touch are to be squared.
        keep = self._tolerance > 0 or (self._separation is not None and len(self._straight) > 1)
        points, offsets, region, area = walk_rings(halves, order, leaving, *lines[:3], keep)
        # Rows count downwards: with the region on the left, outer rings have a negative area.
        outer_first = np.lexsort((area > 0, region))
        if not (outer_first[1:] > outer_first[:-1]).all():
            points = take_ragged(points, offsets, outer_first)
        at_edge = np.zeros(len(owners), dtype=np.bool_)
        at_edge[number[lines.piece[arc, 1 - side] == NOTHING]] = True
        return owners, {
            "coords": points / UNIT,
            "ring_offsets": offsets_of(np.diff(offsets)[outer_first]),
            "region_offsets": offsets_of(np.bincount(region, minlength=len(owners))),
            "at_edge": at_edge,
        }


def _regions(rings: dict[str, Any], pieces: Pieces, region: Longs, *, whole: bool) -> Regions:
    """Put together what is known of objects, or of pieces of them, and the name of their region."""
    return Regions(
        **rings,
        classes=pieces.classes,
        ids=pieces.first,
        object_ids=pieces.first,
        region_ids=region,
        whole=np.full(len(region), whole),
        pixels=pieces.pixels,
        confidence_sum=pieces.total,
        confidence_min=pieces.least,
    )


def _along(tiles: list[Tile], starts: Longs, side: int) -> Longs:
    """Return the ``(width,)`` pieces along the top (0) or bottom (1) of a row of tiles."""
    return np.concatenate(
        [shifted(tile.sides[side], start) for tile, start in zip(tiles, starts[:-1], strict=True)]
    )
