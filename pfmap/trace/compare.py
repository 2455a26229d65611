"""Compare two class rasters, rows after rows: pixels, boundaries, and objects one to one.

Rasters hold *codes*, uint8: 0 to 254 for classes, and for truth also for labels that leave several classes
open; `NO_CODE` for pixels that do not count. An object is a 4-connected region of one class, as the tracer
makes them. Only objects that reach the lowest row so far, or overlap with one that does, are remembered.
"""

from typing import Any

import numpy as np

from pfmap.trace.tile import (
    NOTHING,
    Bools,
    Bytes,
    Ints,
    Longs,
    compiled,
    doubled,
    label,
    look_up,
    roots,
    shifted,
)

NO_CODE = 255
CODES = 256


@compiled
def count_pixels(
    truth: Bytes, predicted: Bytes, confidence: Bytes, allowed: Bools, counts: Longs, levels: Longs
) -> None:
    """Count pixels by true label, predicted class and confidence.

    A pixel that does not count in one raster gets `NO_CODE` in both.

    Args:
        truth: ``(h, w)`` codes, as `predicted`; changed.
        predicted: changed.
        confidence: ``(h, w)`` percent; above 100 is unknown. Or ``(0, 0)``.
        allowed: ``(256, 256)`` whether a label allows a class.
        counts: ``(256, 256)`` by label and predicted class, that of `NO_CODE` included; added to.
        levels: ``(256, 101, 2)`` by predicted class, confidence, and whether right; added to.
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


@compiled
def inner_boundary(codes: Bytes, margin: int) -> Bytes:
    """Keep the ``(h, w)`` codes of pixels beside another class, and put `NO_CODE` everywhere else.

    A pixel is on its class's boundary if one of its four neighbours counts and is of another class: neither
    the raster's edge nor what does not count makes a boundary. A margin of `NO_CODE` is added on every side.
    """
    height, width = codes.shape
    out = np.full((height + 2 * margin, width + 2 * margin), NO_CODE, dtype=np.uint8)
    for y in range(height):
        for x in range(width):
            here = codes[y, x]
            if here == NO_CODE:
                continue
            if x + 1 < width and codes[y, x + 1] != here and codes[y, x + 1] != NO_CODE:
                out[y + margin, x + margin] = here
                out[y + margin, x + 1 + margin] = codes[y, x + 1]
            if y + 1 < height and codes[y + 1, x] != here and codes[y + 1, x] != NO_CODE:
                out[y + margin, x + margin] = here
                out[y + 1 + margin, x + margin] = codes[y + 1, x]
    return out


@compiled
def _nearest_counts(
    lines: Bytes, others: Bytes, rows: tuple[int, int], offsets: Ints, level: Ints, found: Longs
) -> None:
    """Count boundary pixels by how near the other boundary of their class is.

    Args:
        lines: ``(h, w)`` boundary pixels whose partners are looked for, with a margin as wide as the farthest
            offset: so the partner's place is in the array without a check.
        others: ``(h, w)`` boundary pixels among which they are looked for.
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

    A row waits until enough rows below it are known, so that the result is that of the whole raster.

    Args:
        height: rows of the rasters.
        distances: rising distances in pixels.
        predicted: ``(256, distances + 1)`` predicted boundary pixels by class and by the first distance that
            reaches a true one; the last column is for those that none reaches. Added to.
        truth: the same the other way round. Added to.
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


class _Side:
    """The objects of one raster that are not forgotten yet."""

    def __init__(self, width: int) -> None:
        self.klass = np.zeros(0, dtype=np.int64)
        """``(n,)`` code."""
        self.pixels = np.zeros(0, dtype=np.int64)
        """``(n,)`` number of pixels so far."""
        self.open: Bools = np.zeros(0, dtype=np.bool_)
        """``(n,)`` whether it lies on the lowest row so far, and so may go on below."""
        self.complete = np.zeros(CODES, dtype=np.int64)
        """``(256,)`` number of complete objects by class."""
        self._seam = np.full(width, NOTHING, dtype=np.int64)  # object on the lowest row, in each column

    def add(self, codes: Bytes, *, last: bool) -> tuple[Ints, Longs, Longs]:
        """Take the next rows of codes; objects get new numbers.

        Returns:
            ``(h, w)`` pieces of the rows, ``(n,)`` new numbers of the objects so far, and ``(pieces,)``
            those of the pieces.
        """
        known = len(self.klass)
        labels, pieces = label(codes, np.zeros(codes.shape, dtype=np.uint8), NO_CODE)
        count = len(pieces.classes)
        first_row, last_row = shifted(labels[0], known), shifted(labels[-1], known)
        touch = np.stack([self._seam, first_row], axis=1)
        touch = np.unique(touch[(touch >= 0).all(axis=1)], axis=0)
        klass = np.concatenate([self.klass, pieces.classes.astype(np.int64)])
        pairs = touch[klass[touch[:, 0]] == klass[touch[:, 1]]]
        _, first, number = np.unique(roots(known + count, pairs), return_index=True, return_inverse=True)
        pixels = np.zeros(len(first), dtype=np.int64)
        np.add.at(pixels, number, np.concatenate([self.pixels, pieces.pixels]))
        self.klass, self.pixels = klass[first], pixels
        was_open = np.ones(len(first), dtype=np.bool_)  # new ones, and those the seam knows
        was_open[number[:known][~self.open]] = False
        self._seam = look_up(number, last_row)
        self.open = np.zeros(len(first), dtype=np.bool_)
        if not last:
            self.open[self._seam[self._seam >= 0]] = True
        closed = was_open & ~self.open
        self.complete += np.bincount(self.klass[closed], minlength=CODES)
        return labels, number[:known], number[known:]

    def keep(self, needed: Bools) -> Longs:
        """Forget all objects but the open and the ``(n,)`` needed ones; return ``(n,)`` new numbers."""
        kept = self.open | needed
        number = np.cumsum(kept) - 1
        self.klass, self.pixels, self.open = self.klass[kept], self.pixels[kept], self.open[kept]
        self._seam = look_up(number, self._seam)
        return number


class Matcher:
    """Counts objects, and those that match: of the same class, with an IoU of one half or more, one to one.

    The partner is unique without a choice: two objects that both have an IoU of one half or more with a third
    would have to be its two halves, and those touch and are one object.
    """

    def __init__(self, height: int, width: int) -> None:
        self._height, self._row = height, 0
        self._true, self._found = _Side(width), _Side(width)
        self._pairs = np.zeros((0, 3), dtype=np.int64)  # true object, predicted object, pixels they share
        self.matched = np.zeros(CODES, dtype=np.int64)
        """``(256,)`` matches by class, complete at the last row."""

    @property
    def truth(self) -> Longs:
        """``(256,)`` true objects by class that are complete."""
        return self._true.complete

    @property
    def predicted(self) -> Longs:
        """``(256,)`` predicted objects by class that are complete."""
        return self._found.complete

    def add(self, truth: Bytes, predicted: Bytes) -> None:
        """Take the next rows of codes, `NO_CODE` where there is no object of a class that is asked for."""
        self._row += len(truth)
        last = self._row == self._height
        labels_true, old_true, new_true = self._true.add(truth, last=last)
        labels_found, old_found, new_found = self._found.add(predicted, last=last)
        runs = _shared_runs(labels_true, labels_found)
        pending = self._pairs
        before = np.column_stack([old_true[pending[:, 0]], old_found[pending[:, 1]], pending[:, 2]])
        new = np.column_stack([new_true[runs[:, 0]], new_found[runs[:, 1]], runs[:, 2]])
        pairs = np.concatenate([before, new])
        pairs = pairs[self._true.klass[pairs[:, 0]] == self._found.klass[pairs[:, 1]]]
        count = max(1, len(self._found.klass))
        keys, number = np.unique(pairs[:, 0] * count + pairs[:, 1], return_inverse=True)
        shared = np.zeros(len(keys), dtype=np.int64)
        np.add.at(shared, number, pairs[:, 2])
        self._decide(keys // count, keys % count, shared)

    def _decide(self, one: Longs, two: Longs, shared: Longs) -> None:
        """Match the pairs of which both objects are complete, and forget what is not needed any more."""
        true, found = self._true, self._found
        pending = true.open[one] | found.open[two]
        union = true.pixels[one] + found.pixels[two] - shared
        good = ~pending & (2 * shared >= union)
        self.matched += np.bincount(true.klass[one[good]], minlength=CODES)
        one, two, shared = one[pending], two[pending], shared[pending]
        needed = [np.zeros(len(side.klass), dtype=np.bool_) for side in (true, found)]
        needed[0][one], needed[1][two] = True, True
        one, two = true.keep(needed[0])[one], found.keep(needed[1])[two]
        self._pairs = np.column_stack([one, two, shared])


@compiled
def _shared_runs(first: Ints, second: Ints) -> Longs:
    """Find the ``(n, 3)`` runs along rows in which two pieces overlap: both pieces, and the run's length."""
    runs = np.empty((1024, 3), dtype=np.int64)
    count = 0
    height, width = first.shape
    for y in range(height):
        start = 0
        for x in range(1, width + 1):
            a, b = first[y, start], second[y, start]
            if x < width and first[y, x] == a and second[y, x] == b:
                continue
            if a != NOTHING and b != NOTHING:  # noqa: PLR1714 - numba
                if count == len(runs):
                    runs = doubled(runs)
                runs[count, 0], runs[count, 1], runs[count, 2] = a, b, x - start
                count += 1
            start = x
    return runs[:count].copy()
