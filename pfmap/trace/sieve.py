"""Merge small regions of a class raster into their neighbours, rows after rows.

What becomes of a region depends on its neighbours only, and the smallest comes first: it takes the class with
which it shares the longest border, and is one region with its neighbours of that class from then on. So the
result is the same in whatever order rows arrive, and rows can leave as soon as all regions on them are either
large or merged.

Holes are filled by the same means: a hole is all that one region encloses, be it one region or several, with
what lies inside them; of holes in holes the outermost that is small enough is filled.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pfmap.core.arrays import Array, Bools, Bytes, Floats, Ints, Longs
from pfmap.trace.tile import (
    NOTHING,
    Pieces,
    compiled,
    doubled,
    label,
    look_up,
    no_class,
    root,
    roots,
    shifted,
)

_CHUNK_PIXELS = 6 << 20

Rows = tuple[Array, ...]
"""Rows of classes, of any integer type; of confidence and, where it is known, of contact, both in percent."""


class Nodes(NamedTuple):
    """Regions that are not forgotten yet, as ``(n,)`` arrays."""

    klass: Longs
    """Class, also after merging."""
    area: Floats
    """So far, in the unit of the limits."""
    limit: Floats
    """Of its class: a smaller region is merged."""
    first: Longs
    """First pixel in reading order."""
    growing: Bools
    """Whether it lies on the lowest row so far."""
    at_edge: Bools
    """Whether it touches nodata or the raster's edge."""
    final: Bools
    """Whether it is complete, and stays as it is."""


class _Graph(NamedTuple):
    """Which regions are neighbours.

    Each edge has two ends; end k is that of edge ``k // 2`` at its node ``k % 2``. The ends at a node form a
    linked list, so that the lists of two nodes are joined in one step.
    """

    edges: Longs
    """``(m, 3)`` two nodes and the length of their border in pixels."""
    head: Longs
    """``(n,)`` first end at each node; -1 for none."""
    tail: Longs
    """``(n,)`` last end at each node."""
    following: Longs
    """``(2 m,)`` end after each end; -1 for none."""


@dataclass(slots=True)
class _Chunk:
    """Rows that wait until all regions on them are decided."""

    kind: np.dtype[Any]
    """Type of their classes."""
    percent: tuple[Bytes, ...]
    """Confidence, and what came with it, ``(rows, width)``."""
    labels: Ints
    """``(rows, width)`` piece of each pixel, or `NOTHING`."""
    pieces: Pieces
    node: Longs
    """``(pieces,)`` region of each piece."""


class Sieve:
    """Merges small regions, or fills small holes, of a class raster that comes in rows, top to bottom.

    Regions, or with `holes_only` holes, of an area below `limits` are merged, in the unit in which
    `pixel_area` says that of a row's pixels: one limit for all, or one for each class by its value. A region
    without neighbours stays. Nodata never changes, and nothing becomes it.
    """

    def __init__(
        self,
        height: int,
        width: int,
        *,
        nodata: int | None,
        limits: Sequence[float],
        holes_only: bool,
        pixel_area: Callable[[float], float],
    ) -> None:
        self._height, self._width, self._nodata = height, width, nodata
        self._limits, self._holes_only, self._pixel_area = limits, holes_only, pixel_area
        self.merged: Counter[tuple[str, int]] = Counter()
        """How many "regions" of each class became another's so far, and how many "pixels"."""
        self._rows = min(1024, max(64, _CHUNK_PIXELS // width))
        self._waiting: list[Rows] = []
        self._top = 0
        self._chunks: list[_Chunk] = []
        none, no = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.bool_)
        self._nodes = Nodes(none, np.zeros(0), np.zeros(0), none, no, no, no)
        self._unsettled = no
        self._edges = np.zeros((0, 3), dtype=np.int64)  # two nodes and the length of their border
        self._seam = np.full(width, NOTHING, dtype=np.int64)  # node above each column

    def add(self, classes: Array, *percent: Bytes) -> Iterator[Rows]:
        """Take the next ``(rows, width)`` of `Rows`, and give those that are decided.

        They are as they were but for the merged regions' classes. All rows have been given when the last one
        has been taken.
        """
        layers = classes, *percent
        have = sum(len(rows) for rows, *_ in self._waiting)
        at = 0
        while at < len(classes):
            stop = min(len(classes), at + self._rows - have)
            self._waiting.append(tuple(layer[at:stop] for layer in layers))
            have += stop - at
            at = stop
            if have == self._rows or self._top + have == self._height:
                rows = [np.concatenate(part) for part in zip(*self._waiting, strict=True)]
                self._waiting, have = [], 0
                self._take(rows[0], *rows[1:])
                del rows
                yield from self._release()
        # A view would keep all of the classes; those before are copies.
        self._waiting[-1:] = [tuple(map(np.copy, last)) for last in self._waiting[-1:]]

    def _take(self, classes: Array, *percent: Bytes) -> None:
        """Add rows to what waits, and decide what can be decided.

        Their pieces become nodes, numbered after the known ones; those that meet one of their own class above
        are united with it, and all others that meet get an edge.
        """
        last = self._top + len(classes) == self._height
        nothing = no_class(classes.dtype, self._nodata)
        labels, pieces = label(np.ascontiguousarray(classes), np.ascontiguousarray(percent[0][:0]), nothing)
        known, count = len(self._nodes.klass), len(pieces.classes)
        sides = labels[0], labels[-1], labels[:, 0], labels[:, -1]
        top, bottom, west, east = (shifted(side, known) for side in sides)
        pixel = self._pixel_area(self._top + len(classes) / 2)
        growing = np.zeros(known + count, dtype=np.bool_)
        if not last:
            growing[bottom[bottom >= 0]] = True
        no = np.zeros(count, dtype=np.bool_)
        first = self._top * self._width + pieces.first
        limit = np.take(self._limits, pieces.classes, mode="clip")  # a single one is everybody's
        area = pieces.pixels * pixel
        fresh: tuple[Array, ...] = (pieces.classes, area, limit, first, no, no, no)
        columns: list[Any] = [np.concatenate(pair) for pair in zip(self._nodes, fresh, strict=True)]
        nodes = Nodes(*columns)._replace(growing=growing)
        self._chunks.append(_Chunk(classes.dtype, percent, labels, pieces, known + np.arange(count)))

        seam = np.stack([self._seam, top], axis=1)  # above the first row there is nothing
        alone = seam.max(axis=1)[(seam == NOTHING).any(axis=1)]
        for beside in (alone, west, east, bottom if last else alone):
            nodes.at_edge[beside[beside >= 0]] = True
        seam = seam[(seam >= 0).all(axis=1)]
        alike = nodes.klass[seam[:, 0]] == nodes.klass[seam[:, 1]]
        nodes, number = _united(nodes, np.unique(seam[alike], axis=0))
        self._seam = bottom
        self._renumber(number)
        inner = _borders(labels, number[known:], nodes.area < nodes.limit, nodes.at_edge)
        above = np.insert(number[seam[~alike]], 2, 1, axis=1)
        self._edges = summed(np.concatenate([self._edges, above, inner]), len(nodes.klass))
        self._top += len(classes)
        self._decide(nodes)

    def _decide(self, nodes: Nodes) -> None:
        """Merge what can be merged, and forget what is not needed any more."""
        before = nodes.klass.copy()
        parent, unsettled, edges = settled(nodes, self._edges, holes_only=self._holes_only)
        self._count("regions", before[nodes.klass[parent] != before])
        self._edges, self._nodes, self._unsettled = edges, nodes, unsettled
        self._renumber(parent)

    def _count(self, what: str, classes: Longs | Ints, each: Longs | None = None) -> None:
        """Add to what became another's, given its classes, and the number of each if that is not one."""
        values, index = np.unique(classes, return_inverse=True)
        counts = np.bincount(index, each).astype(int).tolist()
        self.merged.update({(what, klass): n for klass, n in zip(values.tolist(), counts, strict=True)})

    def _renumber(self, number: Longs) -> None:
        """Give the nodes other numbers, wherever one stands: ``(nodes,)`` by the old ones."""
        for chunk in self._chunks:
            chunk.node = number[chunk.node]
        self._seam = look_up(number, self._seam)
        self._edges = np.column_stack([number[self._edges[:, :2]], self._edges[:, 2]])

    def _release(self) -> Iterator[Rows]:
        """Give the rows that are decided, from the top."""
        while self._chunks and not self._unsettled[self._chunks[0].node].any():
            chunk = self._chunks.pop(0)
            classes = self._nodes.klass[chunk.node]
            changed = classes != chunk.pieces.classes
            self._count("pixels", chunk.pieces.classes[changed], chunk.pieces.pixels[changed])
            table = np.append(classes, self._nodata or 0).astype(chunk.kind)
            given = _painted(chunk.labels, table), *chunk.percent
            del chunk  # its labels are four times as large
            yield given
            del given
        keep = np.zeros(len(self._nodes.klass), dtype=np.bool_)
        keep[self._seam[self._seam >= 0]] = True
        keep[self._edges[:, :2]] = True
        for chunk in self._chunks:
            keep[chunk.node] = True
        number = np.cumsum(keep) - 1
        self._renumber(number)
        columns: list[Any] = [column[keep] for column in self._nodes]
        self._nodes = Nodes(*columns)
        self._unsettled = self._unsettled[keep]


def settled(
    nodes: Nodes, edges: Longs, *, holes_only: bool = False, apart: bool = False
) -> tuple[Longs, Bools, Longs]:
    """Merge the nodes of ``(m, 3)`` edges that can be merged; they are changed.

    `apart` nodes have a class each, and are known once they are complete: growing ones may still become one.

    Returns:
        ``(n,)`` whom everyone belongs to now, and whether that may still change; and the edges that matter.
    """
    graph = _graph(edges, len(nodes.klass))
    parent, waits = _fill_holes(nodes, graph) if holes_only else _merge_small(nodes, graph, apart)
    unsettled = ((nodes.growing & (nodes.area < nodes.limit)) | waits)[parent]
    ends = parent[edges[:, :2]]
    return parent, unsettled, edges[(ends[:, 0] != ends[:, 1]) & unsettled[ends].any(axis=1)]


def _united(nodes: Nodes, pairs: Longs) -> tuple[Nodes, Longs]:
    """Unite ``(n, 2)`` pairs of nodes: the new nodes, and ``(nodes,)`` the new number of each old one."""
    least = roots(len(nodes.klass), pairs)
    _, first, number = np.unique(least, return_index=True, return_inverse=True)
    count = len(first)
    area = np.zeros(count)
    np.add.at(area, number, nodes.area)
    start = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(start, number, nodes.first)
    flags = np.zeros((3, count), dtype=np.bool_)
    for flag, old in zip(flags, (nodes.growing, nodes.at_edge, nodes.final), strict=True):
        flag[number[old]] = True
    return Nodes(nodes.klass[first], area, nodes.limit[first], start, *flags), number


def summed(edges: Longs, count: int) -> Longs:
    """Add up the lengths of equal ``(m, 3)`` edges between `count` nodes; the lower node comes first."""
    low, high = edges[:, :2].min(axis=1), edges[:, :2].max(axis=1)
    keys, number = np.unique(low * count + high, return_inverse=True)
    length = np.bincount(number, weights=edges[:, 2], minlength=len(keys)).astype(np.int64)
    return np.column_stack([keys // max(count, 1), keys % max(count, 1), length])


@compiled
def _painted(labels: Ints, table: Array) -> Array:
    """Give every pixel what stands in the table for its piece, and at last for `NOTHING`."""
    painted = np.empty(labels.shape, dtype=table.dtype)
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            painted[y, x] = table[labels[y, x]]
    return painted


@compiled
def _borders(labels: Ints, node: Longs, small: Bools, at_edge: Bools) -> Longs:
    """List ``(n, 3)`` edges of small nodes, several between some, and note who lies beside nodata.

    Whom a node met to its east, or south, it mostly meets again next: that makes one edge longer.
    """
    height, width = labels.shape
    edges = np.empty((1024, 3), dtype=np.int64)
    count = 1
    edges[0, 0] = edges[0, 1] = NOTHING
    latest = np.zeros((2, len(small)), dtype=np.int64)  # edge of each node to the east and south
    for y in range(height):
        row, below = labels[y], labels[min(y + 1, height - 1)]
        for x in range(width):
            here, east = row[x], row[min(x + 1, width - 1)]
            if here == east and here == below[x]:
                continue
            for k in range(2):
                there = east if k == 0 else below[x]
                if here == there:
                    continue
                if here == NOTHING:
                    at_edge[node[there]] = True
                elif there == NOTHING:
                    at_edge[node[here]] = True
                elif small[node[here]] or small[node[there]]:
                    edge = latest[k, node[here]]
                    if edges[edge, 0] != node[here] or edges[edge, 1] != node[there]:
                        if count == len(edges):
                            edges = doubled(edges)
                        edge = count
                        edges[edge, 0], edges[edge, 1], edges[edge, 2] = node[here], node[there], 0
                        count += 1
                    edges[edge, 2] += 1
                    latest[k, node[here]] = edge
    return edges[1:count].copy()


@compiled
def _graph(edges: Longs, count: int) -> _Graph:
    """List the ends of ``(m, 3)`` edges at each of `count` nodes."""
    head = np.full(count, -1, dtype=np.int64)
    tail = np.full(count, -1, dtype=np.int64)
    following = np.full(2 * len(edges), -1, dtype=np.int64)
    graph = _Graph(edges, head, tail, following)
    for k in range(2 * len(edges)):
        _append(graph, edges[k // 2, k % 2], k, k)
    return graph


@compiled
def _append(graph: _Graph, node: int, first: int, last: int) -> None:
    """Append a list of ends to those at a node."""
    if graph.head[node] < 0:
        graph.head[node] = first
    else:
        graph.following[graph.tail[node]] = first
    graph.tail[node] = last


@compiled
def _absorb(nodes: Nodes, parent: Longs, node: int, other: int) -> None:
    """Make a region a part of another."""
    parent[other] = node
    nodes.area[node] += nodes.area[other]
    nodes.first[node] = min(nodes.first[node], nodes.first[other])
    nodes.growing[node] |= nodes.growing[other]
    nodes.at_edge[node] |= nodes.at_edge[other]


@compiled
def _merge_small(nodes: Nodes, graph: _Graph, apart: bool) -> tuple[Longs, Bools]:
    """Merge small complete regions into neighbours, the smallest first.

    They wait in a queue by area and first pixel; one that grows by merging and is still small is put there
    again, and its older entry is passed over. One has to wait for more rows while a neighbour that would come
    before it is not decided itself. `nodes` and `graph` are changed; ``(n,)`` whom everyone belongs to now,
    and who has to wait, is returned.
    """
    count = len(nodes.klass)
    parent = np.arange(count)
    waits = np.zeros(count, dtype=np.bool_)
    queue: list[Any] = [(np.inf, np.int64(0), np.int64(0))]
    for node in range(count):
        if nodes.area[node] < nodes.limit[node] and not nodes.growing[node] and not nodes.final[node]:
            heapq.heappush(queue, (nodes.area[node], nodes.first[node], node))
    while queue[0][0] < np.inf:
        area, first, node = heapq.heappop(queue)
        if parent[node] != node or nodes.area[node] != area:
            continue
        neighbours = _neighbours(graph, parent, node)
        if _has_to_wait(nodes, waits, neighbours, area, first, apart):
            waits[node] = True
            continue
        target = _target(nodes, neighbours)
        if target < 0:
            nodes.final[node] = True
            continue
        nodes.klass[node], nodes.limit[node] = nodes.klass[target], nodes.limit[target]
        _absorb_alike(nodes, graph, parent, neighbours, node)
        if nodes.area[node] < nodes.limit[node] and not nodes.growing[node]:
            heapq.heappush(queue, (nodes.area[node], nodes.first[node], node))
    for node in range(count):
        parent[node] = root(parent, node)
    return parent, waits


@compiled
def _neighbours(graph: _Graph, parent: Longs, node: int) -> Longs:
    """Return ``(n, 2)`` the regions beside one, as they are merged now, and the lengths of their borders."""
    found = np.empty((8, 2), dtype=np.int64)
    count = 0
    k = graph.head[node]
    while k >= 0:
        there = root(parent, graph.edges[k // 2, 1 - k % 2])
        if there != node:
            if count == len(found):
                found = doubled(found)
            found[count, 0], found[count, 1] = there, graph.edges[k // 2, 2]
            count += 1
        k = graph.following[k]
    return found[:count]


@compiled
def _has_to_wait(nodes: Nodes, waits: Bools, neighbours: Longs, area: float, first: int, apart: bool) -> bool:
    """Whether a neighbour that comes before a region of this area and first pixel is not decided yet."""
    for k in range(len(neighbours)):
        there = neighbours[k, 0]
        earlier = (nodes.area[there], nodes.first[there]) < (area, first)
        if nodes.growing[there] and (earlier or apart):
            return True
        if earlier and waits[there]:
            return True
    return False


@compiled
def _absorb_alike(nodes: Nodes, graph: _Graph, parent: Longs, neighbours: Longs, node: int) -> None:
    """Make the neighbours that are of a region's class a part of it, with their borders."""
    for k in range(len(neighbours)):
        other = root(parent, neighbours[k, 0])  # one with it already, if it came before
        if other != node and nodes.klass[other] == nodes.klass[node]:
            _absorb(nodes, parent, node, other)
            if graph.head[other] >= 0:
                _append(graph, node, graph.head[other], graph.tail[other])


@compiled
def _target(nodes: Nodes, neighbours: Longs) -> int:
    """Return a neighbour of the class with the longest border, the lowest of equals; -1 for none."""
    best, longest = -1, -1
    for k in range(len(neighbours)):
        length = 0
        for other in range(len(neighbours)):
            if nodes.klass[neighbours[other, 0]] == nodes.klass[neighbours[k, 0]]:
                length += neighbours[other, 1]
        if length > longest or (length == longest and nodes.klass[neighbours[k, 0]] < nodes.klass[best]):
            best, longest = neighbours[k, 0], length
    return best


@compiled
def _fill_holes(nodes: Nodes, graph: _Graph) -> tuple[Longs, Bools]:
    """Fill small holes.

    Complete small regions that are neighbours form a group. What lies around it are its gates: complete large
    regions, ones that go on below, and the edge. A group with one gate is a hole in it. Who has to wait does
    so because a gate may still become another's part, or a part of the group. As `_merge_small` otherwise.
    """
    count = len(nodes.klass)
    parent = np.arange(count)
    waits = np.zeros(count, dtype=np.bool_)
    free = (nodes.area < nodes.limit) & ~nodes.growing & ~nodes.final
    seen = np.zeros(count, dtype=np.bool_)
    place = np.zeros(count, dtype=np.int64)
    into = np.full(count, -1, dtype=np.int64)
    for start in range(count):
        if seen[start] or not free[start]:
            continue
        group = _group(graph, free, seen, start)
        total = 0.0
        for node in group:
            total += nodes.area[node]
        limit = nodes.limit[start]  # that of all
        gate, undecided = _gate(nodes, graph, free, group, limit)
        if undecided:
            for node in group:
                waits[node] = True
            continue
        if gate >= 0 and total < limit:
            for node in group:
                into[node] = gate
        else:
            _find_inner_holes(nodes, graph, free, group, limit, place, into)
        for node in group:
            nodes.final[node] = True
            if into[node] >= 0:
                _absorb(nodes, parent, into[node], node)
    return parent, waits


@compiled
def _group(graph: _Graph, free: Bools, seen: Bools, start: int) -> list[Any]:
    """Return the free regions that hang together with one, and mark them as seen."""
    group: list[Any] = [np.int64(start)]
    seen[start] = True
    for node in group:  # which grows meanwhile
        k = graph.head[node]
        while k >= 0:
            there = graph.edges[k // 2, 1 - k % 2]
            if free[there] and not seen[there]:
                seen[there] = True
                group.append(there)
            k = graph.following[k]
    return group


@compiled
def _gate(nodes: Nodes, graph: _Graph, free: Bools, group: list[Any], limit: float) -> tuple[int, bool]:
    """Find the one region around a group.

    Two complete regions, a complete one and one that goes on, two of different classes that go on, or the
    edge stay different gates for ever. Two of one class that go on may turn out to be one, and a small one
    that goes on may end, and belong to the group. Returned are the region, or -1 if there are several gates
    or none; and whether that is still undecided.
    """
    complete, going = -1, -1
    several, undecided = False, False
    for node in group:
        several |= bool(nodes.at_edge[node])
        k = graph.head[node]
        while k >= 0:
            there = int(graph.edges[k // 2, 1 - k % 2])
            k = graph.following[k]
            if free[there]:
                continue
            if not nodes.growing[there]:
                several |= complete >= 0 and there != complete
                complete = there
            elif nodes.area[there] < limit:
                undecided = True
            elif going >= 0 and there != going:
                undecided = True
                several |= bool(nodes.klass[there] != nodes.klass[going])
            else:
                going = there
    several |= complete >= 0 and going >= 0
    return (-1 if several else max(complete, going)), undecided and not several


@compiled
def _find_inner_holes(
    nodes: Nodes, graph: _Graph, free: Bools, group: list[Any], limit: float, place: Longs, into: Longs
) -> None:
    """Note in `into` which members of a group lie in a small hole of another member.

    Such a member alone connects them with the group's gates: Tarjan's articulation points, found by going
    into depth from the gates. Source: Hopcroft and Tarjan, Algorithm 447, 1973.

    It is one loop because numba compiles no recursion that is as fast: `path` and `todo` are the call stack,
    the regions on the way from a gate and the next edge of each to look at. A region's `least` is the place
    of the earliest region, 0 for a gate, that it and what was found behind it are neighbours of. Whoever was
    found behind a region and reaches nothing before it lies in a hole of it; `inside` is that hole's area.
    `place` says when each member was met, 0 before that.
    """
    order: list[Any] = [np.int64(0) for _ in range(0)]
    above = {np.int64(-1): np.int64(-1)}
    least = {np.int64(-1): np.int64(0)}
    inside = {np.int64(-1): 0.0}
    gates = np.int64(0)
    for first in group:
        if place[first] or not _has_gate(nodes, graph, free, first):
            continue
        path = [first]
        todo = [graph.head[first]]
        above[first] = np.int64(-1)
        order.append(first)
        place[first] = len(order)
        least[first], inside[first] = gates, nodes.area[first]
        while path:
            node, k = path[-1], todo[-1]
            if k < 0:
                path.pop()
                todo.pop()
                if path:
                    up = path[-1]
                    least[up] = min(least[up], least[node])
                    inside[up] += inside[node]
                continue
            todo[-1] = graph.following[k]
            there = graph.edges[k // 2, 1 - k % 2]
            if not free[there]:
                continue
            if place[there]:
                least[node] = min(least[node], place[there])
                continue
            order.append(there)
            place[there] = len(order)
            above[there] = node
            least[there] = gates if _has_gate(nodes, graph, free, there) else place[there]
            inside[there] = nodes.area[there]
            path.append(there)
            todo.append(graph.head[there])
    for node in order:
        up = above[node]
        if up < 0:
            continue
        if into[up] >= 0:
            into[node] = into[up]
        elif least[node] >= place[up] and inside[node] < limit:
            into[node] = up


@compiled
def _has_gate(nodes: Nodes, graph: _Graph, free: Bools, node: int) -> bool:
    """Whether a member lies at the edge, or beside a region that is not free."""
    if nodes.at_edge[node]:
        return True
    k = graph.head[node]
    while k >= 0:
        if not free[graph.edges[k // 2, 1 - k % 2]]:
            return True
        k = graph.following[k]
    return False
