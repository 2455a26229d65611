"""Take apart the objects of one class that touch: the houses of a row are one region of a class raster.

Whose a pixel is, is decided near it: by the seed pixel to which its way is shortest. So a tile with a halo of
some pixels is enough to know it. Whether two seed pixels far from each other belong to one seed is not known
there: that is left to whoever unites what meets along the sides of tiles.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pfmap.trace.tile import NOTHING, Bytes, Ints, Longs, compiled, label


@dataclass(frozen=True, slots=True)
class Separation:
    """Which objects are taken apart, and how; lengths are pixels of the class raster.

    A wall is a pixel whose contact is at least the threshold. Seeds are the 4-connected sets of pixels of one
    class without a wall, or another class, within `depth` rows and columns. Every other pixel of the class
    goes to the seed pixel to which the way within the class is shortest, in 4-connected steps, and of several
    to the first in reading order. An object is what goes to one seed, or is connected and goes to none.
    """

    classes: frozenset[int]
    """Values whose objects are taken apart."""
    by_shape: bool = False
    """Whether seeds are found by the shape of regions, because contact is not known."""
    threshold: int = 50
    """Percent of contact from which on a pixel is a wall."""
    depth: int = 4
    """How far from walls and other classes seeds lie."""
    reach: int = 40
    """How long the way to a seed may be."""
    least: int = 24
    """Pixels that a seed has at least."""

    @property
    def halo(self) -> int:
        """How many pixels around a tile, and one beyond its sides, have a say in it."""
        return 1 + self.reach + self.depth + self.least

    def labels(self, classes: npt.NDArray[Any], box: tuple[slice, slice], contact: Bytes) -> Ints | None:
        """Say which pixels of ``(h, w)`` classes and contact, in percent, belong together.

        Returns:
            ``(h, w)`` numbers, equal where neighbours of a class are of one object, and `NOTHING` for pixels
            that go to no seed. They hold in the box and one pixel around it if the halo is there. None where
            nothing in the box is taken apart.
        """
        values = np.array(sorted(self.classes), dtype=np.int64)
        if not _any_of(classes[box], values):
            return None
        kinds = _kinds(classes, values)
        seeds = _seeds(kinds, contact, self.threshold, self.depth)
        found, pieces = label(seeds, seeds, 0)
        return _spread(kinds, found, pieces.pixels, self.reach, self.least)


@compiled
def _any_of(classes: npt.NDArray[Any], values: Longs) -> bool:
    """Whether any pixel has one of these values."""
    for row in classes:
        for here in row:
            for value in values:
                if here == value:
                    return True
    return False


@compiled
def _kinds(classes: npt.NDArray[Any], values: Longs) -> Bytes:
    """Return ``(h + 2, w + 2)`` which of the values each of ``(h, w)`` pixels has, from 1 on; 0 for none."""
    height, width = classes.shape
    kinds = np.zeros((height + 2, width + 2), dtype=np.uint8)
    for y in range(height):
        for x in range(width):
            for k in range(len(values)):
                if classes[y, x] == values[k]:
                    kinds[y + 1, x + 1] = k + 1
    return kinds


@compiled
def _seeds(kinds: Bytes, contact: Bytes, threshold: int, depth: int) -> Bytes:
    """Keep the kinds of pixels around which all, within `depth`, are of their kind and no wall.

    What lies outside of the array does not count. Runs along rows are as long as that or not, then down.
    """
    height, width = contact.shape
    size = 2 * depth + 1
    seeds = np.zeros_like(kinds)
    down = np.zeros(width, dtype=np.int32)  # rows so far of pixels that are good along their row
    last = np.zeros(width, dtype=np.uint8)
    good = np.zeros(width, dtype=np.uint8)
    for y in range(height + depth):
        if y < height:
            good[:] = 0
            run, before = 0, 0
            for x in range(width + depth):
                if x < width:
                    here = kinds[y + 1, x + 1] if contact[y, x] < threshold else 0
                    run = run + 1 if here == before and x else size if x == 0 else 1
                    before = here
                else:
                    run += 1
                if x >= depth and run >= size:
                    good[x - depth] = before
        for x in range(width):
            if y < height:
                down[x] = size if y == 0 else down[x] + 1 if good[x] == last[x] else 1
                last[x] = good[x]
            else:
                down[x] += 1
            if y >= depth and down[x] >= size:
                seeds[y - depth + 1, x + 1] = last[x]
    return seeds


@compiled
def _spread(kinds: Bytes, found: Ints, sizes: Longs, reach: int, least: int) -> Ints:
    """Give every pixel the seed of the seed pixel to which its way is shortest; all arrays have a margin.

    All pixels at one distance are found before those at the next, and of several seed pixels the first
    counts.
    """
    height, width = kinds.shape
    kind, seed = kinds.ravel(), found.ravel()
    near = np.full(height * width, NOTHING, dtype=np.int32)
    level = np.zeros(height * width, dtype=np.uint8)  # of the last ones found, modulo 256
    front = np.empty(height * width, dtype=np.int32)
    sides = np.array([1, -1, width, -width])
    for here in range(height * width):
        if seed[here] != NOTHING and sizes[seed[here]] >= least:
            near[here] = here
    start, count = 0, 0
    for here in range(height * width):
        if near[here] != NOTHING:
            for side in sides:
                if near[here + side] == NOTHING and kind[here + side] == kind[here]:
                    front[count] = here
                    count += 1
                    break
    for step in range(1, reach + 1):
        stop = count
        for at in range(start, stop):
            here = front[at]
            for side in sides:
                there = here + side
                if kind[there] != kind[here]:
                    continue
                if near[there] == NOTHING:
                    near[there], level[there] = near[here], np.uint8(step)
                    front[count] = there
                    count += 1
                elif level[there] == np.uint8(step):
                    near[there] = min(near[there], near[here])
        start = stop
    labels = np.full((height - 2, width - 2), NOTHING, dtype=np.int32)
    for y in range(height - 2):
        for x in range(width - 2):
            here = near[(y + 1) * width + x + 1]
            if here != NOTHING:
                labels[y, x] = seed[here]
    return labels
