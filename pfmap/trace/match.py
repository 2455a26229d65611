"""Match the objects of two class rasters one to one, rows after rows.

An object is a 4-connected region of one class, as the tracer makes them. Only objects that reach the lowest
row so far, or overlap with one that does, are remembered.
"""

import numpy as np

from pfmap.trace.compare import CODES, NO_CODE
from pfmap.trace.compiled import compiled
from pfmap.trace.ragged import NOTHING, look_up
from pfmap.trace.sets import roots
from pfmap.trace.tile import label
from pfmap.trace.types import Bools, Bytes, Ints, Longs


@compiled
def _shared_runs(first: Ints, second: Ints) -> Longs:
    """Return ``(n, 3)``: along each row, the runs in which the same two pieces overlap, and their lengths."""
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
                    more = np.empty((2 * count, 3), dtype=np.int64)
                    more[:count] = runs
                    runs = more
                runs[count, 0], runs[count, 1], runs[count, 2] = a, b, x - start
                count += 1
            start = x
    return runs[:count].copy()


class _Side:
    """The objects of one raster that are not forgotten yet.

    Attributes:
        klass: ``(n,)`` code.
        pixels: ``(n,)`` so far.
        open: ``(n,)`` whether it lies on the lowest row so far.
        complete: ``(256,)`` complete objects by class.
    """

    def __init__(self, width: int) -> None:
        self.klass = np.zeros(0, dtype=np.int64)
        self.pixels = np.zeros(0, dtype=np.int64)
        self.open: Bools = np.zeros(0, dtype=np.bool_)
        self.complete = np.zeros(CODES, dtype=np.int64)
        self._seam = np.full(width, NOTHING, dtype=np.int64)

    def add(self, codes: Bytes, *, last: bool) -> tuple[Ints, Longs, Longs]:
        """Take rows: the labels of their pieces, and what the pieces and the objects so far are now."""
        known = len(self.klass)
        labels, pieces = label(codes, np.zeros(codes.shape, dtype=np.uint8), NO_CODE)
        count = len(pieces.classes)
        first_row, last_row = (
            np.where(row == NOTHING, NOTHING, row.astype(np.int64) + known) for row in (labels[0], labels[-1])
        )
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
        """Forget all objects but the open and the needed ones; return the new numbers."""
        kept = self.open | needed
        number = np.cumsum(kept) - 1
        self.klass, self.pixels, self.open = self.klass[kept], self.pixels[kept], self.open[kept]
        self._seam = look_up(number, self._seam)
        return number


class Matcher:
    """Counts objects, and those that match: of the same class, with an IoU of one half or more, one to one.

    The partner is unique without a choice: two objects that both have an IoU of one half or more with a third
    would have to be its two halves, and those touch and are one object.

    Args:
        height: rows of the rasters.
        width: columns of the rasters.

    Attributes:
        truth: ``(256,)`` true objects by class, complete at the last row.
        predicted: ``(256,)`` predicted objects by class.
        matched: ``(256,)`` matches by class.
    """

    def __init__(self, height: int, width: int) -> None:
        self._height, self._row = height, 0
        self._true, self._found = _Side(width), _Side(width)
        self._pairs = np.zeros((0, 3), dtype=np.int64)  # true object, predicted object, pixels they share
        self.matched = np.zeros(CODES, dtype=np.int64)

    @property
    def truth(self) -> Longs:
        """True objects by class that are complete."""
        return self._true.complete

    @property
    def predicted(self) -> Longs:
        """Predicted objects by class that are complete."""
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
