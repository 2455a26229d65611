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

    By contact: a wall is a pixel whose contact is at least the threshold. Seeds are the 4-connected sets of
    pixels of one class without a wall, or another class, within `depth` rows and columns. Every other pixel
    goes to the seed pixel to which the way within the class is shortest, in 4-connected steps, and of several
    to the first in reading order. An object is what goes to one seed.

    By shape: the distance to the class's edge, averaged over a square of `depth` to each side twice, is a
    hilly country. Every pixel climbs to its highest neighbour, and from a top on to the highest pixel within
    `apart` rows and columns. An object is what climbs to one top, and is connected.

    What is connected and goes nowhere is an object too.
    """

    classes: frozenset[int]
    """Values whose objects are taken apart."""
    by_shape: bool = False
    """Whether it is done by the shape of regions, because contact is not known."""
    threshold: int = 50
    """Percent of contact from which on a pixel is a wall."""
    depth: int = 4
    """How far from walls and other classes seeds lie; or how smooth the country is."""
    reach: int = 40
    """How long the way may be; or a third of that, and up to where distances count."""
    least: int = 24
    """Pixels that a seed has at least."""
    apart: int = 12
    """How far the top of an object is from any higher pixel, at least."""

    @property
    def halo(self) -> int:
        """How many pixels around a tile have a say in what is apart in it, and along its sides."""
        if self.by_shape:
            return 1 + 4 * self.reach + self.apart + 2 * self.depth
        return 1 + self.reach + self.depth + self.least

    def labels(
        self, classes: npt.NDArray[Any], box: tuple[slice, slice], contact: Bytes | None = None
    ) -> Ints | None:
        """Say which pixels of ``(h, w)`` classes, and contact in percent, belong together.

        The box has the halo around it, but where the raster ends.

        Returns:
            ``(h, w)`` numbers that neighbours of a class share if they are of one object, and `NOTHING` for
            pixels that go nowhere; right in the box and one pixel around it. None where nothing in the box
            is taken apart.
        """
        values = np.array(sorted(self.classes), dtype=np.int64)
        if not _any_of(classes[box], values):
            return None
        kinds = _kinds(classes, values)
        if contact is None or self.by_shape:
            heights = _heights(kinds, 5 * self.reach)
            for axis in (0, 1, 0, 1):
                margin = [(0, 0), (0, 0)]
                margin[axis] = (self.depth + 1, self.depth)
                sums = np.moveaxis(np.cumsum(np.pad(heights, margin), axis=axis), axis, 0)
                size = 2 * self.depth + 1
                heights = np.moveaxis(sums[size:] - sums[:-size], 0, axis)
            return _climb(kinds, np.ascontiguousarray(heights), 3 * self.reach, self.apart)
        seeds = _seeds(kinds, contact, self.threshold, self.depth)
        for axis, part in enumerate(box):  # what lies beyond the halo may be a wall
            along = np.moveaxis(seeds, axis, 0)
            along[: (part.start >= self.halo) * (self.depth + 1)] = 0
            along[len(along) - (len(along) - 2 - part.stop >= self.halo) * (self.depth + 1) :] = 0
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


_STEPS = (0, 1, 5), (1, -1, 7), (1, 0, 5), (1, 1, 7), (1, -2, 11), (1, 2, 11), (2, -1, 11), (2, 1, 11)
"""Rows, columns and length of the steps of which ways are made to measure distances, fifths of a pixel."""


@compiled
def _heights(kinds: Bytes, most: int) -> Ints:
    """Return the distance of pixels to others than their kind, in fifths of a pixel.

    Kinds have a margin that does not count.

    Source: Borgefors, Distance transformations in digital images, 1986.
    """
    height, width = kinds.shape
    out = np.full((height, width), most, dtype=np.int32)
    for down in (1, -1):
        for k in range(1, height - 1):
            y = k if down > 0 else height - 1 - k
            for j in range(1, width - 1):
                x = j if down > 0 else width - 1 - j
                best = out[y, x] if kinds[y, x] else 0
                for v, u, step in _STEPS:
                    b, a = y - down * v, x - down * u
                    if 0 < b < height - 1 and 0 < a < width - 1:
                        best = min(best, step + (out[b, a] if kinds[b, a] == kinds[y, x] else 0))
                out[y, x] = best if kinds[y, x] else 0
    return out[1:-1, 1:-1].copy()


@compiled
def _climb(kinds: Bytes, heights: Longs, reach: int, apart: int) -> Ints:
    """Say to which pixel the way up from each of ``(h, w)`` leads, if it is no longer than that.

    Of equally high pixels the first is the highest.
    """
    height, width = heights.shape
    flat = heights.ravel()
    onward = np.empty(height * width, dtype=np.int32)
    length = np.zeros(height * width, dtype=np.int32)
    for here in range(height * width):
        y, x = here // width, here % width
        kind, best = kinds[y + 1, x + 1], here
        for jump in (False, True):
            if best != here or not kind:
                break
            side = apart if jump else 1
            for v in range(max(0, y - side), min(height, y + side + 1)):
                for u in range(max(0, x - side), min(width, x + side + 1)):
                    there = v * width + u
                    if kinds[v + 1, u + 1] != kind or (not jump and v != y and u != x):
                        continue
                    if flat[there] > flat[best] or (flat[there] == flat[best] and there < best):
                        best = there
            length[here] = side
        onward[here] = best
        if best == here:
            length[here] = 0
    labels = np.full(height * width, NOTHING, dtype=np.int32)
    way = np.empty(height * width, dtype=np.int32)
    done = np.zeros(height * width, dtype=np.bool_)
    for start in range(height * width):
        here, count = start, 0
        while not done[here] and onward[here] != here:
            way[count] = here
            count += 1
            here = onward[here]
        if not done[here]:  # a top
            done[here] = True
            labels[here] = here
        for at in range(count - 1, -1, -1):
            there = way[at]
            done[there] = True
            length[there] += length[here]
            labels[there] = labels[here] if length[there] <= reach else NOTHING
            here = there
    for here in range(height * width):
        if not kinds[here // width + 1, here % width + 1]:
            labels[here] = NOTHING
    return labels.reshape(height, width)
