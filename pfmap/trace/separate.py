"""Take apart the objects of one class that touch: the houses of a row are one region of a class raster.

Whose a pixel is, is decided near it: by the seed pixel to which its way is shortest. So a tile with a halo of
some pixels is enough to know it. Whether two seed pixels far from each other belong to one seed is not known
there: that is left to whoever unites what meets along the sides of tiles.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from pfmap.core.arrays import Array, Bools, Bytes, Ints
from pfmap.core.classes import ClassSpec, listed
from pfmap.trace.tile import NOTHING, compiled, label, shifted


@dataclass(frozen=True, slots=True)
class Separation:
    """Which objects are taken apart, and how; lengths are pixels of the class raster.

    By contact: a wall is a pixel whose contact is at least the threshold. Seeds are the 4-connected sets of
    pixels of one class without a wall, or another class, within `depth` rows and columns. Every other pixel
    goes to the seed pixel to which the way within the class is shortest, in 4-connected steps, and of several
    to the first in reading order. An object is what goes to one seed.

    By shape: the distance to the class's edge, averaged over a square of `smooth` to each side twice, is a
    hilly country. Every pixel climbs to its highest neighbour, and from a top on to the highest pixel within
    `apart` rows and columns. An object is what climbs to one top, and is connected.

    What is connected and goes nowhere is an object too.
    """

    by_contact: frozenset[int]
    """Values whose objects are taken apart by contact."""
    by_shape: frozenset[int] = frozenset()
    """Those of which no contact is known, whose objects are taken apart by the shape of regions."""
    threshold: int = 70
    """Percent of contact from which on a pixel is a wall."""
    depth: int = 5
    """How far from walls and other classes seeds lie."""
    reach: int = 60
    """How long the way may be: what lies farther away is mostly specks, where it is too short."""
    least: int = 24
    """Pixels that a seed has at least."""
    smooth: int = 7
    """How far to each side the country is averaged."""
    high: int = 40
    """How high the country is at most; the way up may be three times as long."""
    apart: int = 10
    """How far the top of an object is from any higher pixel, at least."""
    scale: float = 1.0
    """How many pixels of the class raster, along a side, are one that the network saw."""

    @property
    def classes(self) -> frozenset[int]:
        """Values whose objects are taken apart."""
        return self.by_contact | self.by_shape

    @property
    def halo(self) -> int:
        """How many pixels around a tile have a say in what is apart in it, and along its sides."""
        by_contact = 1 + self.reach + self.depth + self.least
        by_shape = 1 + 4 * self.high + self.apart + 2 * self.smooth
        return max(by_contact * bool(self.by_contact), by_shape * bool(self.by_shape))

    def scaled(self, scale: float) -> "Separation":
        """Take lengths for pixels that the network saw, and return those of a class raster of this scale.

        A scale below 1/4 or above 3 counts as that: what has a say is not to grow without bound.
        """
        scale = min(max(round(scale, 2), 0.25), 3.0)
        lengths = {
            name: round(scale * getattr(self, name)) for name in ("depth", "reach", "smooth", "high", "apart")
        }
        return replace(self, **lengths, least=round(scale**2 * self.least), scale=scale)

    def tags(self, classes: Mapping[int, ClassSpec]) -> dict[str, str]:
        """Return what is said of it in output files, where `ClassMap` finds it again."""
        tags = {
            "PFMAP_SEPARATED": listed(self.by_contact, classes),
            "PFMAP_SEPARATED_BY_SHAPE": listed(self.by_shape, classes),
            "PFMAP_SEPARATED_SCALE": f"{100 * self.scale:.0f}" if self.scale != 1 else "",
        }
        return {name: text for name, text in tags.items() if text}

    def about(self, classes: Mapping[int, ClassSpec]) -> str:
        """Say what is taken apart, and how."""
        told = (
            "where the contact map shows that they touch",
            "by their shape alone, as no contact map is of them: expect wrong cuts, and look at them",
        )
        some = zip((self.by_contact, self.by_shape), told, strict=True)
        return "objects of " + ", and those of ".join(
            f"{listed(values, classes)} are taken apart {how}" for values, how in some if values
        )

    def parts(self, classes: Array, box: tuple[slice, slice], contact: Bytes | None = None) -> Ints | None:
        """Say which pixels of ``(h, w)`` classes, and contact in percent, belong together.

        The box has the halo around it, but where the raster ends.

        Returns:
            ``(h, w)`` numbers that neighbours of a class share if they are of one object, and `NOTHING` for
            pixels that go nowhere; right in the box and one pixel around it. None where nothing in the box
            is taken apart.
        """
        if self.by_contact and self.by_shape:
            shown = replace(self, by_shape=frozenset()).parts(classes, box, contact)
            guessed = replace(self, by_contact=frozenset()).parts(classes, box)
            if shown is None or guessed is None:
                return guessed if shown is None else shown
            return np.where(shown == NOTHING, shifted(guessed, int(shown.max()) + 1), shown).astype(np.int32)
        kinds = np.zeros((classes.shape[0] + 2, classes.shape[1] + 2), dtype=np.uint8)
        inner = kinds[1:-1, 1:-1]  # the rest is a margin
        for kind, value in enumerate(self.classes, 1):
            inner += (classes == value).view(np.uint8) * np.uint8(kind)
        if not inner[box].any():
            return None
        if contact is None or self.by_shape:
            heights = _heights(kinds, 5 * self.high)
            for _ in range(2):
                heights = _around(heights, self.smooth)
            return _climb(kinds, heights, 3 * self.high, self.apart)
        seeds = np.pad(_cores(inner * (contact < self.threshold).view(np.uint8), self.depth), 1)
        inner = seeds[1:-1, 1:-1]
        for axis, part in enumerate(box):  # what lies beyond the halo may be a wall
            along, edge = np.moveaxis(inner, axis, 0), self.depth
            along[: edge * (part.start >= self.halo)] = 0
            along[len(along) - edge * (len(along) - part.stop >= self.halo) :] = 0
        found, pieces = label(seeds, seeds[:0], 0)
        large = pieces.pixels >= self.least
        near = _spread(kinds.ravel(), found.ravel(), kinds.shape[1], large, self.reach)
        return near.reshape(kinds.shape)[1:-1, 1:-1]


def _around(values: Ints, side: int) -> Ints:
    """Sum up ``(h, w)`` values over the square of so many pixels to each side; outside there is nothing."""
    for _ in range(2):
        sums = np.cumsum(np.pad(values, ((side + 1, side), (0, 0))), axis=0, dtype=np.int32)
        values = (sums[2 * side + 1 :] - sums[: -2 * side - 1]).T
    return np.ascontiguousarray(values)


def _cores(kinds: Bytes, depth: int) -> Bytes:
    """Return ``(h, w)`` kinds where no other is within `depth` rows and columns, and 0 elsewhere."""
    for _ in range(2):
        kinds, alike = np.pad(kinds, ((depth, depth), (0, 0)), mode="edge"), 1
        while alike <= 2 * depth:  # rows from each on that are of one kind, or it is 0
            step = min(alike, 2 * depth + 1 - alike)
            kinds[:-step] *= (kinds[:-step] == kinds[step:]).view(np.uint8)
            kinds = kinds[:-step]
            alike += step
        kinds = kinds.T
    return kinds


_OPEN, _CLOSED = -2, -1  # pixels that nothing has come to yet, or ever will


@compiled
def _spread(kind: Bytes, seed: Ints, width: int, large: Bools, reach: int) -> Ints:
    """Give every pixel the seed of the seed pixel to which its way is shortest.

    All pixels at one distance are found before those at the next, and of several seed pixels the first
    counts. Of the seeds only the `large` ones count. Arrays are ``(n,)``, row after row, with a margin.
    """
    # Four times a seed pixel, and the way's length modulo four.
    near = np.empty(len(kind), dtype=np.int32)
    front = np.empty(len(kind), dtype=np.int32)
    start, count = 0, 0
    for here in range(len(kind)):
        near[here] = _OPEN if kind[here] else _CLOSED
        if seed[here] >= 0 and large[seed[here]]:
            near[here] = 4 * here
            front[count] = here
            count += 1
    for step in range(1, reach + 1):
        stop, length = count, step & 3
        for at in range(start, stop):
            here = front[at]
            mine = (near[here] & ~3) | length
            for side in (1, -1, width, -width):
                there = here + side
                known = near[there]
                if known == _OPEN:
                    if kind[there] == kind[here]:
                        near[there] = mine
                        front[count] = there
                        count += 1
                elif known > mine and known & 3 == length and kind[there] == kind[here]:
                    near[there] = mine
        start = stop
    for here in range(len(kind)):
        near[here] = seed[near[here] >> 2] if near[here] >= 0 else NOTHING
    return near


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
def _highest(kinds: Bytes, heights: Ints, here: int, side: int, cross: bool) -> int:
    """Return the highest pixel of a kind around one, and of several the first; a cross has no corners."""
    height, width = heights.shape
    y, x, best = here // width, here % width, here
    for v in range(max(0, y - side), min(height, y + side + 1)):
        for u in range(max(0, x - side), min(width, x + side + 1)):
            if kinds[v + 1, u + 1] != kinds[y + 1, x + 1] or (cross and v != y and u != x):
                continue
            more = heights[v, u] - heights[best // width, best % width]
            if more > 0 or (more == 0 and v * width + u < best):
                best = v * width + u
    return best


@compiled
def _climb(kinds: Bytes, heights: Ints, reach: int, apart: int) -> Ints:
    """Say to which pixel the way up from each of ``(h, w)`` leads, if it is no longer than that."""
    height, width = heights.shape
    labels = np.full(height * width, NOTHING, dtype=np.int32)
    length = np.full(height * width, -1, dtype=np.int32)
    way = np.empty(height * width, dtype=np.int32)
    steps = np.empty(height * width, dtype=np.int32)
    for start in range(height * width):
        if not kinds[start // width + 1, start % width + 1]:
            continue
        here, count = start, 0
        while length[here] < 0:
            there, steps[count] = _highest(kinds, heights, here, 1, True), 1
            if there == here:
                there, steps[count] = _highest(kinds, heights, here, apart, False), apart
            if there == here:  # a top
                length[here], labels[here] = 0, here
                break
            way[count] = here
            here = there
            count += 1
        for at in range(count - 1, -1, -1):
            there = way[at]
            length[there] = length[here] + steps[at]
            labels[there] = labels[here] if length[there] <= reach else NOTHING
            here = there
    return labels.reshape(height, width)
