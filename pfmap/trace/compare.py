"""Compare two class rasters, rows after rows: pixels, boundaries, and objects.

Rasters hold *codes*, uint8: 0 to 254 for classes, and for truth also for labels that leave several classes
open; `NO_CODE` for pixels that do not count. An object is a 4-connected region of one class, as the tracer
makes them, or what has one number (`Marks`). Of connected ones only those are remembered that reach the
lowest row so far, and those near them; of numbered ones all.
"""

from typing import Any, NamedTuple, cast

import numpy as np

from pfmap.core.arrays import Array, Bools, Bytes, Ints, Longs
from pfmap.trace.tile import NOTHING, compiled, label, look_up, roots, shifted

NO_CODE = 255
CODES = 256

IOUS = (0.5, 0.75)
"""From which IoU on two objects match."""

ALONE, MISSED, FOUND, SPLIT, MERGED = 1, 2, 3, 4, 5
"""Whose a pixel is: of a predicted object alone, or of a true one: the last that is true of that."""


@compiled
def count_pixels(
    truth: Bytes, predicted: Bytes, confidence: Bytes, allowed: Bools, counts: Longs, levels: Longs
) -> None:
    """Count the pixels of two rasters of ``(h, w)`` codes by true label, predicted class and confidence.

    A pixel that does not count in one raster gets `NO_CODE` in both. Confidence, ``(h, w)`` or ``(0, 0)``, is
    percent, above 100 unknown; `allowed`, ``(256, 256)``, says whether a label allows a class. Added to are
    `counts`, ``(256, 256)`` by label and predicted class, that of `NO_CODE` included, and `levels`, ``(256,
    101, 2)`` by predicted class, confidence, and whether right.
    """
    height, width = truth.shape
    known = confidence.size > 0
    for y in range(height):
        for x in range(width):
            t, p = truth[y, x], predicted[y, x]
            counts[t, p] += 1
            if t == NO_CODE or p == NO_CODE:  # noqa: PLR1714 - numba
                truth[y, x] = NO_CODE
                predicted[y, x] = NO_CODE
            elif known and confidence[y, x] <= 100:
                if t == p:
                    levels[p, confidence[y, x], 1] += 1
                elif not allowed[t, p]:
                    levels[p, confidence[y, x], 0] += 1


@compiled
def paint(truth: Bytes, predicted: Bytes, top: int, sums: Longs, colors: Bytes, step: int) -> None:
    """Add rows of two rasters, ``(h, w)`` codes from row `top` on, to a small picture of where they differ.

    Its cells, of `step` rows and columns, are ``(rows, cols, 3)`` sums of red, green and blue; `colors`,
    ``(256, 256, 3)``, go by true and predicted code.
    """
    height, width = truth.shape
    for y in range(height):
        row = (top + y) // step
        for x in range(width):
            col = x // step
            t, p = truth[y, x], predicted[y, x]
            for k in range(3):
                sums[row, col, k] += colors[t, p, k]


def inner_boundary(codes: Bytes, margin: int) -> Bytes:
    """Keep the ``(h, w)`` codes of pixels beside another class, and put `NO_CODE` everywhere else.

    A pixel is on its class's boundary if one of its four neighbours counts and is of another class: neither
    the raster's edge nor what does not count makes a boundary. A margin of `NO_CODE` is added on every side.
    """
    height, width = codes.shape
    out = np.full((height + 2 * margin, width + 2 * margin), NO_CODE, dtype=np.uint8)
    inner = out[margin : margin + height, margin : margin + width]
    for one, other in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        apart = (codes[one] != codes[other]) & (codes[one] != NO_CODE) & (codes[other] != NO_CODE)
        for side in (one, other):
            np.copyto(inner[side], codes[side], where=apart)
    return out


@compiled
def _nearest_counts(
    lines: Bytes, others: Bytes, rows: tuple[int, int], offsets: Ints, level: Ints, found: Longs
) -> None:
    """Count boundary pixels by how near the other boundary of their class is.

    Args:
        lines: ``(h, w)`` boundary pixels, with a margin as wide as the farthest offset: no check is needed.
        others: ``(h, w)`` boundary pixels among which their partners are looked for.
        rows: first row whose pixels are looked at, and the row after the last.
        offsets: ``(n, 2)`` rows and columns to look at, the nearest first.
        level: ``(n,)`` in which column of `found` each of them counts.
        found: ``(256, levels + 1)`` pixels by class and level; the last is for those without a partner.
    """
    width = lines.shape[1]
    flat = others.ravel()
    steps = np.empty(len(offsets), dtype=np.int64)
    for k in range(len(offsets)):
        steps[k] = np.int64(offsets[k, 0]) * width + offsets[k, 1]
    for y in range(rows[0], rows[1]):
        for x in range(width):
            code = lines[y, x]
            if code == NO_CODE:
                continue
            place, at = np.int64(y) * width + x, found.shape[1] - 1
            for k in range(len(steps)):
                if flat[place + steps[k]] == code:
                    at = level[k]
                    break
            found[code, at] += 1


class Boundaries:
    """Measures how near the boundaries of two class rasters lie, rows after rows.

    A row waits until enough rows below it are known, so that the result is that of the whole raster. Of
    `distances`, in pixels and rising, predicted boundary pixels count under the first that reaches a true
    one: they are added to `predicted`, ``(256, distances + 1)`` by class, in the last column where none does.
    `truth` is the same the other way round.
    """

    def __init__(self, height: int, distances: tuple[int, ...], predicted: Longs, truth: Longs) -> None:
        self._height, self._reach = height, max(distances)
        self._predicted, self._truth = predicted, truth
        side = np.arange(-self._reach, self._reach + 1, dtype=np.int32)
        rows, cols = (axis.ravel() for axis in np.meshgrid(side, side, indexing="ij"))
        squares = rows.astype(np.int64) ** 2 + cols.astype(np.int64) ** 2
        near = np.argsort(squares, kind="stable")[: np.count_nonzero(squares <= self._reach**2)]
        self._offsets = np.stack([rows[near], cols[near]], axis=1)
        self._level = np.searchsorted(np.array(distances) ** 2, squares[near]).astype(np.int32)
        self._top = 0  # row of the raster at which the kept rows begin
        self._done = 0  # rows that were measured
        self._kept: list[Any] = []  # truth and prediction

    def add(self, truth: Bytes, predicted: Bytes) -> None:
        """Take the next rows of codes; both have `NO_CODE` where either has."""
        if self._kept:
            truth = np.concatenate([self._kept[0], truth])
            predicted = np.concatenate([self._kept[1], predicted])
        stop = self._top + len(truth)
        # A row's boundary needs the row below it, and its matches `reach` rows of boundary.
        ready = stop if stop == self._height else max(self._done, stop - self._reach - 1)
        if ready > self._done:
            lines = inner_boundary(predicted, self._reach), inner_boundary(truth, self._reach)
            rows = self._done - self._top + self._reach, ready - self._top + self._reach
            _nearest_counts(*lines, rows, self._offsets, self._level, self._predicted)
            _nearest_counts(*lines[::-1], rows, self._offsets, self._level, self._truth)
            self._done = ready
        first = max(self._top, self._done - self._reach - 1)
        self._kept = [codes[first - self._top :].copy() for codes in (truth, predicted)]
        self._top = first


_OBJECT = np.dtype(
    [
        *((name, np.int64) for name in ("klass", "value", "pixels", "holds")),
        ("open", bool),
        ("right", bool, 2),
    ]
)
"""What is known of an object: code and value of its first pixel, pixels so far, whether it may go on below.

Of a predicted one also how many true ones lie mostly inside it, -1 while that is open, and whether one
matches it at each of `IOUS`.
"""


class Marks(NamedTuple):
    """What tells objects of a class apart: pixels of equal values are one object."""

    values: Array
    """``(h, w)``; below 1 for no object."""
    above: Array | None = None
    """``(w,)`` those of the row above, where values hold for 4-connected pixels of these rows only; None
    where they hold everywhere."""


class _Side:
    """The objects of one raster that are not counted yet."""

    def __init__(self, width: int) -> None:
        self.objects = np.zeros(0, dtype=_OBJECT)
        self._seam = np.full(width, NOTHING, dtype=np.int64)  # object on the lowest row, in each column
        self._last: Array = np.full(width, NO_CODE, dtype=np.uint8)  # codes of the lowest row

    def add(self, codes: Bytes, marks: Marks | None, *, last: bool) -> tuple[Ints, Longs, Longs]:
        """Take the next rows of codes; without marks connected pixels are one object. All get new numbers.

        Returned are the ``(h, w)`` pieces, and new numbers of the objects so far and of the pieces.
        """
        known = len(self.objects)
        values, none, above = codes, NO_CODE, cast("Any", self._last)
        if marks is not None:
            values, none = np.where((codes == NO_CODE) | (marks.values < 1), NOTHING, marks.values), NOTHING
            above = marks.above
        labels, pieces = label(values, np.zeros(codes.shape, dtype=np.uint8), none)
        first_row, last_row = shifted(labels[0], known), shifted(labels[-1], known)
        new = np.zeros(len(pieces.first), dtype=_OBJECT)
        new["klass"], new["value"] = codes.ravel()[pieces.first], values.ravel()[pieces.first]
        new["pixels"], new["holds"] = pieces.pixels, -1
        objects = np.concatenate([self.objects, new])
        group = objects["value"]
        if above is not None:
            touch = np.stack([self._seam, first_row], axis=1)[above == values[0]]
            group = roots(len(objects), np.unique(touch[(touch >= 0).all(axis=1)], axis=0))
        _, first, number = np.unique(group, return_index=True, return_inverse=True)
        self.objects = objects[first]
        self.objects["pixels"] = np.bincount(number, objects["pixels"], len(first))
        self._seam, self._last = look_up(number, last_row), codes[-1].copy()
        self.objects["open"] = above is None and not last
        if not last:
            self.objects["open"][self._seam[self._seam >= 0]] = True
        return labels, number[:known], number[known:]

    def keep(self, kept: Bools) -> Longs:
        """Forget all objects but the ``(n,)`` kept ones; return ``(n,)`` new numbers."""
        number = np.cumsum(kept) - 1
        self.objects, self._seam = self.objects[kept], look_up(number, self._seam)
        return number


class Matcher:
    """Counts objects and how they match, rows after rows: those of one class, of `least` pixels or more.

    A true object is found, and a predicted one right, if one of the other side has an IoU of at least one of
    `IOUS` with it. True objects are merged if more than half of each lies in one and the same predicted
    object, and split if two or more predicted ones have a fifth of it each.

    Attributes:
        counts: ``(256, 8)`` by class: true objects, those found at each of `IOUS`, merged ones and split
            ones; then predicted objects, and those right at each of `IOUS`. Complete at the last row.
        picture: ``(h, w)`` whose every `step`-th pixel of every `step`-th row is, `ALONE` to `MERGED`, or 0
            for none; empty with a step of 0.
    """

    def __init__(self, height: int, width: int, least: int = 1, step: int = 0) -> None:
        self._height, self._row, self._least, self._step = height, 0, least, step
        self._true, self._found = _Side(width), _Side(width)
        self._pairs = np.zeros((0, 3), dtype=np.int64)  # true object, predicted object, pixels they share
        self._cells = np.zeros((0, 2), dtype=np.int64)  # of the picture, not drawn yet: true object, place
        self.counts = np.zeros((CODES, 8), dtype=np.int64)
        shape = (-(-height // step), -(-width // step)) if step else (0, 0)
        self.picture: Bytes = np.zeros(shape, dtype=np.uint8)

    def add(
        self, truth: Bytes, predicted: Bytes, of_true: Marks | None = None, of_found: Marks | None = None
    ) -> None:
        """Take the next rows of codes, `NO_CODE` where there is no object of a class that is asked for."""
        top, self._row = self._row, self._row + len(truth)
        last = self._row == self._height
        labels_true, old_true, new_true = self._true.add(truth, of_true, last=last)
        labels_found, old_found, new_found = self._found.add(predicted, of_found, last=last)
        runs, (one, two, shared) = _shared_runs(labels_true, labels_found), self._pairs.T
        one = np.concatenate([old_true[one], new_true[runs[:, 0]]])
        two = np.concatenate([old_found[two], new_found[runs[:, 1]]])
        same = self._true.objects["klass"][one] == self._found.objects["klass"][two]
        count = max(1, len(self._found.objects))
        keys, number = np.unique((one * count + two)[same], return_inverse=True)
        pixels = np.bincount(number, np.concatenate([shared, runs[:, 2]])[same], len(keys)).astype(np.int64)
        self._cells[:, 0] = old_true[self._cells[:, 0]]
        if self._step:
            skip = -top % self._step
            some, other = (side[skip :: self._step, :: self._step] for side in (labels_true, labels_found))
            rows, cols = np.nonzero(some != NOTHING)
            first = (top + skip) // self._step
            self.picture[first : first + len(some)] = np.where(other != NOTHING, ALONE, 0)
            place = (first + rows) * self.picture.shape[1] + cols
            cells = np.column_stack([new_true[some[rows, cols]], place])
            self._cells = np.concatenate([self._cells, cells])
        self._decide(keys // count, keys % count, pixels)

    def _decide(self, one: Longs, two: Longs, shared: Longs) -> None:
        """Count objects that no row below can change any more, and forget them.

        How many true objects a predicted one holds is known once it and all that overlap it are complete, and
        what becomes of a true one, once that is known of all that overlap it.
        """
        true, found = self._true.objects, self._found.objects
        real = (true["pixels"][one] >= self._least) & (found["pixels"][two] >= self._least)
        inside = real & (2 * shared > true["pixels"][one])
        known = ~found["open"] & (found["holds"] < 0)
        known[two[true["open"][one]]] = False
        found["holds"][known] = np.bincount(two[inside], minlength=len(known))[known]
        done = ~true["open"]
        done[one[found["holds"][two] < 0]] = False

        now = done[one]
        merged = np.zeros(len(done), dtype=np.bool_)
        merged[one[inside & (found["holds"][two] > 1)]] = True
        split = np.bincount(one[real & (5 * shared >= true["pixels"][one])], minlength=len(done)) > 1
        hit = np.zeros((len(done), len(IOUS)), dtype=np.bool_)
        for level, least in enumerate(IOUS):
            good = now & real & (shared >= least * (true["pixels"][one] + found["pixels"][two] - shared))
            hit[one[good], level] = found["right"][two[good], level] = True
        gone = found["holds"] >= 0
        gone[two[~now]] = False
        for table, side, over, columns in (
            (self.counts[:, :5], true, done, [hit, merged, split]),
            (self.counts[:, 5:], found, gone, [found["right"]]),
        ):
            big = over & (side["pixels"] >= self._least)
            rows = np.column_stack([big.astype(np.int64), *columns])
            np.add.at(table, side["klass"][big], rows[big])

        fate = np.select([merged, split, hit[:, 0]], [MERGED, SPLIT, FOUND], MISSED)
        owner, place = self._cells.T
        seen = done[owner] & (true["pixels"][owner] >= self._least)
        self.picture.flat[place[seen]] = fate[owner[seen]]
        number, other = self._true.keep(~done), self._found.keep(~gone)
        self._cells = np.column_stack([number[owner], place])[~done[owner]]
        self._pairs = np.column_stack([number[one[~now]], other[two[~now]], shared[~now]])


def _shared_runs(first: Ints, second: Ints) -> Longs:
    """Find the ``(n, 3)`` runs along rows in which two pieces overlap: both pieces, and the run's length."""
    new = np.ones(first.shape, dtype=np.bool_)
    new[:, 1:] = (first[:, 1:] != first[:, :-1]) | (second[:, 1:] != second[:, :-1])
    at = np.flatnonzero(new)
    runs = np.column_stack([first.ravel()[at], second.ravel()[at], np.diff(at, append=first.size)])
    return runs[(runs[:, :2] != NOTHING).all(axis=1)]
