"""Merge small regions of a class raster into their neighbours, rows after rows.

What becomes of a region depends on its neighbours only, and the smallest comes first: it takes the class with
which it shares the longest border, and is one region with its neighbours of that class from then on. So the
result is the same in whatever order rows arrive, and rows can leave as soon as all regions on them are either
large or merged.

Holes are filled by the same means: a hole is all that one region encloses, be it one region or several, with
what lies inside them; of holes in holes the outermost that is small enough is filled.
"""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pfmap.trace.arrays import (
    NOTHING,
    Bools,
    Bytes,
    Floats,
    Ints,
    Longs,
    compiled,
    look_up,
    no_class,
    root,
    roots,
)
from pfmap.trace.tile import label

_CHUNK_PIXELS = 8 << 20


class _Nodes(NamedTuple):
    """Regions that are not forgotten yet.

    Attributes:
        klass: ``(n,)`` class, also after merging.
        area: ``(n,)`` so far.
        first: ``(n,)`` first pixel in reading order.
        growing: ``(n,)`` whether it lies on the lowest row so far.
        at_edge: ``(n,)`` whether it touches nodata or the raster's edge.
        final: ``(n,)`` whether it is complete, and stays as it is.
    """

    klass: Longs
    area: Floats
    first: Longs
    growing: Bools
    at_edge: Bools
    final: Bools


@dataclass(slots=True)
class _Chunk:
    """Rows that wait; `node` is the region of each of their pieces."""

    classes: npt.NDArray[Any]
    confidence: Bytes
    labels: Ints
    node: Longs


class Sieve:
    """Takes rows of a class raster, top to bottom, and gives them back without small regions.

    Args:
        height: rows of the raster.
        width: columns of the raster.
        nodata: value that is no class; None for none. It never changes, and nothing becomes it.
        limit: regions, or holes, of a smaller area are merged; a region without neighbours stays.
        holes_only: whether only holes are merged, into the region around them.
        pixel_area: area of a pixel in a row, given the row.
    """

    def __init__(
        self,
        height: int,
        width: int,
        *,
        nodata: int | None,
        limit: float,
        holes_only: bool,
        pixel_area: Callable[[float], float],
    ) -> None:
        self._height, self._width, self._nodata = height, width, nodata
        self._limit, self._holes_only, self._pixel_area = limit, holes_only, pixel_area
        self._rows = min(1024, max(64, _CHUNK_PIXELS // width))
        self._waiting: list[tuple[npt.NDArray[Any], Bytes]] = []
        self._top = 0
        self._chunks: list[_Chunk] = []
        none, no = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.bool_)
        self._nodes = _Nodes(none, np.zeros(0), none, no, no, no)
        self._unsettled = no
        self._edges = np.zeros((0, 3), dtype=np.int64)  # two nodes and the length of their border
        self._seam = np.full(width, NOTHING, dtype=np.int64)  # node above each column

    def add(self, classes: npt.NDArray[Any], confidence: Bytes) -> Iterator[tuple[npt.NDArray[Any], Bytes]]:
        """Take the next rows, and give those that are decided, with their confidence."""
        have = sum(len(rows) for rows, _ in self._waiting)
        at = 0
        while at < len(classes):
            stop = min(len(classes), at + self._rows - have)
            self._waiting.append((classes[at:stop], confidence[at:stop]))
            have += stop - at
            at = stop
            if have == self._rows or self._top + have == self._height:
                rows = [np.concatenate(part) for part in zip(*self._waiting, strict=True)]
                self._waiting, have = [], 0
                self._take(rows[0], rows[1])
                yield from self._release()

    def _take(self, classes: npt.NDArray[Any], confidence: Bytes) -> None:
        """Add rows to what waits, and decide what can be decided."""
        last = self._top + len(classes) == self._height
        nothing = no_class(classes.dtype, self._nodata)
        labels, pieces = label(np.ascontiguousarray(classes), np.ascontiguousarray(confidence), nothing)
        known, count = len(self._nodes.klass), len(pieces.classes)
        numbers = np.where(labels == NOTHING, NOTHING, labels + known).astype(np.int64)
        pixel = self._pixel_area(self._top + len(classes) / 2)
        growing = np.zeros(known + count, dtype=np.bool_)
        if not last:
            growing[numbers[-1][numbers[-1] >= 0]] = True
        nodes = _Nodes(
            np.concatenate([self._nodes.klass, pieces.classes]),
            np.concatenate([self._nodes.area, pieces.pixels * pixel]),
            np.concatenate([self._nodes.first, self._top * self._width + pieces.first]),
            growing,
            np.concatenate([self._nodes.at_edge, np.zeros(count, dtype=np.bool_)]),
            np.concatenate([self._nodes.final, np.zeros(count, dtype=np.bool_)]),
        )
        self._chunks.append(_Chunk(classes, confidence, labels, known + np.arange(count)))

        seam = np.stack([self._seam, numbers[0]], axis=1)
        if self._top == 0:
            nodes.at_edge[numbers[0][numbers[0] >= 0]] = True
        else:
            _mark(nodes.at_edge, seam)
        _mark(nodes.at_edge, np.stack([numbers[:, 0], np.full(len(classes), NOTHING)], axis=1))
        _mark(nodes.at_edge, np.stack([numbers[:, -1], np.full(len(classes), NOTHING)], axis=1))
        if last:
            nodes.at_edge[numbers[-1][numbers[-1] >= 0]] = True
        seam = seam[(seam >= 0).all(axis=1)]
        alike = nodes.klass[seam[:, 0]] == nodes.klass[seam[:, 1]]
        nodes, number = _united(nodes, np.unique(seam[alike], axis=0))
        inner = _borders(labels, number[known:], nodes.area < self._limit, nodes.at_edge)
        across = number[seam[~alike]]
        self._edges = _summed(
            np.concatenate([
                np.column_stack([number[self._edges[:, :2]], self._edges[:, 2]]),
                np.column_stack([across, np.ones(len(across), dtype=np.int64)]),
                np.column_stack([inner, np.ones(len(inner), dtype=np.int64)]),
            ]),
            len(nodes.klass),
        )  # fmt: skip
        for chunk in self._chunks:
            chunk.node = number[chunk.node]
        self._seam = look_up(number, numbers[-1])
        self._top += len(classes)
        self._decide(nodes)

    def _decide(self, nodes: _Nodes) -> None:
        """Merge what can be merged, and forget what is not needed any more."""
        merge = _fill_holes if self._holes_only else _merge_small
        parent, waits = merge(nodes, self._edges, self._limit)
        open_now = (nodes.growing & (nodes.area < self._limit)) | waits
        unsettled = open_now[parent]
        for chunk in self._chunks:
            chunk.node = parent[chunk.node]
        self._seam = look_up(parent, self._seam)
        edges = np.column_stack([parent[self._edges[:, :2]], self._edges[:, 2]])
        edges = edges[(edges[:, 0] != edges[:, 1]) & unsettled[edges[:, :2]].any(axis=1)]
        self._edges, self._nodes, self._unsettled = edges, nodes, unsettled

    def _release(self) -> Iterator[tuple[npt.NDArray[Any], Bytes]]:
        """Give the rows that are decided, from the top."""
        while self._chunks and not self._unsettled[self._chunks[0].node].any():
            chunk = self._chunks.pop(0)
            table = np.append(self._nodes.klass[chunk.node], 0).astype(chunk.classes.dtype)
            yield np.where(chunk.labels == NOTHING, chunk.classes, table[chunk.labels]), chunk.confidence
        keep = np.zeros(len(self._nodes.klass), dtype=np.bool_)
        keep[self._seam[self._seam >= 0]] = True
        keep[self._edges[:, :2]] = True
        for chunk in self._chunks:
            keep[chunk.node] = True
        number = np.cumsum(keep) - 1
        for chunk in self._chunks:
            chunk.node = number[chunk.node]
        self._seam = look_up(number, self._seam)
        self._edges = np.column_stack([number[self._edges[:, :2]], self._edges[:, 2]])
        columns: list[Any] = [column[keep] for column in self._nodes]
        self._nodes = _Nodes(*columns)
        self._unsettled = self._unsettled[keep]


def _mark(at_edge: Bools, pairs: Longs) -> None:
    """Note who of each pair has nothing beside it."""
    for side in (0, 1):
        alone = (pairs[:, side] >= 0) & (pairs[:, 1 - side] == NOTHING)
        at_edge[pairs[alone, side]] = True


def _united(nodes: _Nodes, pairs: Longs) -> tuple[_Nodes, Longs]:
    """Unite pairs of nodes: the new nodes, and the new number of each old one."""
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
    return _Nodes(nodes.klass[first], area, start, *flags), number


def _summed(edges: Longs, count: int) -> Longs:
    """Add up the lengths of equal edges."""
    low, high = edges[:, :2].min(axis=1), edges[:, :2].max(axis=1)
    keys, number = np.unique(low * count + high, return_inverse=True)
    length = np.bincount(number, weights=edges[:, 2], minlength=len(keys)).astype(np.int64)
    return np.column_stack([keys // max(count, 1), keys % max(count, 1), length])


@compiled
def _borders(labels: Ints, node: Longs, small: Bools, at_edge: Bools) -> Longs:
    """List the pairs of nodes along unit borders of small ones, and note who lies beside nodata.

    Returns:
        ``(n, 2)``, one pair for each unit of border.
    """
    height, width = labels.shape
    pairs = np.empty((1024, 2), dtype=np.int64)
    count = 0
    for y in range(height):
        for x in range(width):
            here = labels[y, x]
            for k in range(2):
                if (k == 0 and x + 1 == width) or (k == 1 and y + 1 == height):
                    continue
                there = labels[y, x + 1] if k == 0 else labels[y + 1, x]
                if here == there:
                    continue
                if here == NOTHING:
                    at_edge[node[there]] = True
                elif there == NOTHING:
                    at_edge[node[here]] = True
                elif small[node[here]] or small[node[there]]:
                    if count == len(pairs):
                        more = np.empty((2 * count, 2), dtype=np.int64)
                        more[:count] = pairs
                        pairs = more
                    pairs[count, 0], pairs[count, 1] = node[here], node[there]
                    count += 1
    return pairs[:count].copy()


@compiled
def _merge_small(nodes: _Nodes, edges: Longs, limit: float) -> tuple[Longs, Bools]:
    """Merge small regions, the smallest first; `nodes` is changed in place.

    Returns:
        Whom everyone belongs to now; and who has to wait, because what comes first is not complete.
    """
    count = len(nodes.klass)
    parent = np.arange(count)
    waits = np.zeros(count, dtype=np.bool_)
    head, tail, following = _edge_lists(edges, count)  # merged nodes' lists are joined
    queue: list[Any] = [(np.inf, np.int64(0), np.int64(0))]
    for node in range(count):
        if nodes.area[node] < limit and not nodes.growing[node] and not nodes.final[node]:
            heapq.heappush(queue, (nodes.area[node], nodes.first[node], node))
    while True:
        area, first, node = heapq.heappop(queue)
        if area == np.inf:
            break
        if parent[node] != node or nodes.area[node] != area:
            continue
        neighbours: list[Any] = [np.int64(0)]
        borders: list[Any] = [np.int64(0)]
        neighbours.pop()
        borders.pop()
        edge = head[node]
        while edge >= 0:
            there = root(parent, edges[edge // 2, 1 - edge % 2])
            if there != node:
                neighbours.append(there)
                borders.append(edges[edge // 2, 2])
            edge = following[edge]
        blocked = False
        for there in neighbours:
            earlier = (nodes.area[there], nodes.first[there]) < (area, first)
            if earlier and (nodes.growing[there] or waits[there]):
                blocked = True
        if blocked:
            waits[node] = True
            continue
        target = _target(nodes, neighbours, borders)
        if target < 0:
            nodes.final[node] = True
            continue
        nodes.klass[node] = nodes.klass[target]
        for there in neighbours:
            other = root(parent, there)
            if other == node or nodes.klass[other] != nodes.klass[node]:
                continue
            parent[other] = node
            nodes.area[node] += nodes.area[other]
            nodes.first[node] = min(nodes.first[node], nodes.first[other])
            nodes.growing[node] |= nodes.growing[other]
            nodes.at_edge[node] |= nodes.at_edge[other]
            nodes.final[node] = False
            if head[other] >= 0:
                if head[node] < 0:
                    head[node] = head[other]
                else:
                    following[tail[node]] = head[other]
                tail[node] = tail[other]
        if nodes.area[node] < limit and not nodes.growing[node]:
            heapq.heappush(queue, (nodes.area[node], nodes.first[node], node))
    for node in range(count):
        parent[node] = root(parent, node)
    return parent, waits


@compiled
def _edge_lists(edges: Longs, count: int) -> tuple[Longs, Longs, Longs]:
    """List the edges of each node: its first, its last, and which follows each; -1 for none.

    Edge k // 2 seen from its end k % 2 is k.
    """
    head = np.full(count, -1, dtype=np.int64)
    tail = np.full(count, -1, dtype=np.int64)
    following = np.full(2 * len(edges), -1, dtype=np.int64)
    for k in range(2 * len(edges)):
        at = edges[k // 2, k % 2]
        if head[at] < 0:
            head[at] = k
        else:
            following[tail[at]] = k
        tail[at] = k
    return head, tail, following


@compiled
def _target(nodes: _Nodes, neighbours: list[Any], borders: list[Any]) -> int:
    """Return a neighbour of the class that a small region takes, or -1 if it has none."""
    best, longest = -1, -1
    for k in range(len(neighbours)):
        length = 0
        for other in range(len(neighbours)):
            if nodes.klass[neighbours[other]] == nodes.klass[neighbours[k]]:
                length += borders[other]
        if length > longest or (length == longest and nodes.klass[neighbours[k]] < nodes.klass[best]):
            best, longest = neighbours[k], length
    return best


@compiled
def _fill_holes(nodes: _Nodes, edges: Longs, limit: float) -> tuple[Longs, Bools]:
    """Fill small holes; `nodes` is changed in place.

    Complete small regions that are neighbours form a group. What lies around it are its gates: complete large
    regions, ones that go on below, and the edge. A group with one gate is a hole in it.

    Returns:
        Whom everyone belongs to now; and who has to wait, because a gate may still become another's part, or
        a part of the group.
    """
    count = len(nodes.klass)
    parent = np.arange(count)
    waits = np.zeros(count, dtype=np.bool_)
    head, _, following = _edge_lists(edges, count)
    free = (nodes.area < limit) & ~nodes.growing & ~nodes.final
    seen = np.zeros(count, dtype=np.bool_)
    place = np.zeros(count, dtype=np.int64)
    into = np.full(count, -1, dtype=np.int64)
    for start in range(count):
        if seen[start] or not free[start]:
            continue
        group: list[Any] = [np.int64(start)]
        seen[start] = True
        total, complete, going, at = 0.0, -1, -1, 0
        fixed, mixed, growing_small = False, False, False
        while at < len(group):
            node = group[at]
            at += 1
            total += nodes.area[node]
            fixed |= bool(nodes.at_edge[node])
            k = head[node]
            while k >= 0:
                there = int(edges[k // 2, 1 - k % 2])
                k = following[k]
                if free[there]:
                    if not seen[there]:
                        seen[there] = True
                        group.append(np.int64(there))
                elif not nodes.growing[there]:
                    fixed |= complete >= 0 and there != complete
                    complete = there
                elif nodes.area[there] < limit:
                    growing_small = True
                elif going < 0:
                    going = there
                elif there != going:
                    mixed = True  # they may turn out to be one
                    fixed |= bool(nodes.klass[there] != nodes.klass[going])
        fixed |= complete >= 0 and going >= 0
        if not fixed and (growing_small or mixed):
            for node in group:
                waits[node] = True
            continue
        gate = max(complete, going)
        if not fixed and gate >= 0 and total < limit:
            for node in group:
                into[node] = gate
        else:
            _find_inner_holes(nodes, edges, head, following, free, group, limit, place, into)
        for node in group:
            nodes.final[node] = True
            if into[node] >= 0:
                parent[node] = into[node]
                nodes.area[into[node]] += nodes.area[node]
                nodes.first[into[node]] = min(nodes.first[into[node]], nodes.first[node])
    return parent, waits


@compiled
def _find_inner_holes(
    nodes: _Nodes,
    edges: Longs,
    head: Longs,
    following: Longs,
    free: Bools,
    group: list[Any],
    limit: float,
    place: Longs,
    into: Longs,
) -> None:
    """Note in `into` which members of a group lie in a small hole of another member.

    Such a member alone connects them with the group's gates: Tarjan's articulation points, found by going
    into depth from the gates. Source: Hopcroft and Tarjan, Algorithm 447, 1973.

    Args:
        nodes: the regions.
        edges: between them.
        head: first edge of each.
        following: edge after each.
        free: who may be a member.
        group: the members.
        limit: holes below this area are small.
        place: ``(n,)`` zeros for the members; when each was met, afterwards.
        into: ``(n,)`` -1 for the members.
    """
    order: list[Any] = [np.int64(0)]
    order.pop()
    above = {np.int64(-1): np.int64(-1)}
    least = {np.int64(-1): np.int64(0)}
    inside = {np.int64(-1): 0.0}
    gates = np.int64(0)
    for first in group:
        if place[first] or not _has_gate(nodes, edges, head, following, free, first):
            continue
        path = [first]
        todo = [head[first]]
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
            todo[-1] = following[k]
            there = edges[k // 2, 1 - k % 2]
            if not free[there]:
                continue
            if place[there]:
                least[node] = min(least[node], place[there])
                continue
            order.append(there)
            place[there] = len(order)
            above[there] = node
            out = _has_gate(nodes, edges, head, following, free, there)
            least[there] = gates if out else place[there]
            inside[there] = nodes.area[there]
            path.append(there)
            todo.append(head[there])
    for node in order:
        up = above[node]
        if up < 0:
            continue
        if into[up] >= 0:
            into[node] = into[up]
        elif least[node] >= place[up] and inside[node] < limit:
            into[node] = up


@compiled
def _has_gate(nodes: _Nodes, edges: Longs, head: Longs, following: Longs, free: Bools, node: int) -> bool:
    """Whether a member lies at the edge, or beside a region that is not free."""
    if nodes.at_edge[node]:
        return True
    k = head[node]
    while k >= 0:
        if not free[edges[k // 2, 1 - k % 2]]:
            return True
        k = following[k]
    return False
