"""Join regions across swath seams, in bounded memory.

Each swath is traced on its own. A region that touches the seam below it waits; where the next swath has a
region of the same class on the other side of the seam, the two are one (union-find). A region is given out
as soon as nothing of it lies on the current seam. The result is the set of polygons that tracing the whole
raster at once would give.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

from pfmap.grid import Span
from pfmap.regions import Regions

Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Objects:
    """Finished objects, still in pixel coordinates.

    Attributes:
        classes: ``(n,)`` uint8.
        geometry: ``(n,)`` shapely polygons; x is the column, y the row of pixel corners.
        pixels: ``(n,)`` number of pixels.
        confidence_mean: ``(n,)`` mean blended probability of the pixels, 0 to 1.
        confidence_min: ``(n,)`` least blended probability, 0 to 1.
    """

    classes: npt.NDArray[np.uint8]
    geometry: npt.NDArray[np.object_]
    pixels: Array
    confidence_mean: npt.NDArray[np.float64]
    confidence_min: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.classes)


@dataclass(slots=True)
class _Open:
    """A region that may go on below the seam."""

    klass: int
    parts: list[shapely.Polygon]
    pixels: int
    total: int
    least: int

    def absorb(self, other: "_Open") -> None:
        self.parts += other.parts
        self.pixels += other.pixels
        self.total += other.total
        self.least = min(self.least, other.least)


@dataclass(slots=True)
class Stitcher:
    """Takes the regions of one swath after the other, top to bottom, and gives finished objects.

    Args:
        height: rows of the scene.
        width: columns of the scene.
    """

    height: int
    width: int
    _seam: Array = field(init=False)
    _open: list[_Open] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Which open region lies above the seam at each column; -1 for none.
        self._seam = np.full(self.width, -1, dtype=np.int64)

    def add(self, regions: Regions, rows: Span) -> Objects:
        """Take the regions of a swath and return all objects that are finished now.

        Args:
            regions: traced within `rows`, coordinates of the whole scene.
            rows: the swath's pixel rows; they follow the ones before without a gap.
        """
        geometry = _polygons(regions)
        last = rows.stop >= self.height
        below = _paint_edge(regions, rows.start, self.width)
        bottom = np.full_like(below, -1) if last else _paint_edge(regions, rows.stop, self.width)
        touching = np.union1d(below[below >= 0], bottom[bottom >= 0])

        groups = self._open + [
            _Open(
                int(regions.classes[i]),
                [geometry[i]],
                int(regions.pixels[i]),
                int(regions.confidence_sum[i]),
                int(regions.confidence_min[i]),
            )
            for i in touching
        ]
        number = np.full(len(regions) + 1, -1, dtype=np.int64)  # entry -1 stays -1
        number[touching] = len(self._open) + np.arange(len(touching))

        root = self._unite(groups, number[below])
        self._seam = np.where(bottom >= 0, root[number[bottom]], -1)
        closed = self._keep_open(groups, root)

        alone = np.ones(len(regions), dtype=bool)
        alone[touching] = False
        return _concatenate(_finished(regions, geometry, alone), _joined(closed))

    def _unite(self, groups: list[_Open], top: Array) -> Array:
        """Join the groups that meet at the seam; return each group's root."""
        parent = np.arange(max(1, len(groups)), dtype=np.int64)

        def find(index: int) -> int:
            while parent[index] != index:
                parent[index] = parent[parent[index]]
                index = int(parent[index])
            return index

        meet = (self._seam >= 0) & (top >= 0)
        for upper, lower in np.unique(np.stack([self._seam[meet], top[meet]]), axis=1).T:
            if groups[upper].klass == groups[lower].klass:
                a, b = sorted((find(int(upper)), find(int(lower))))
                parent[b] = a
        root = np.array([find(i) for i in range(len(parent))], dtype=np.int64)
        for index, group in enumerate(groups):
            if root[index] != index:
                groups[root[index]].absorb(group)
        return root

    def _keep_open(self, groups: list[_Open], root: Array) -> list[_Open]:
        """Keep the groups that lie on the new seam, renumbered; return those that are finished."""
        alive = np.unique(self._seam[self._seam >= 0])
        renumber = np.full(max(1, len(groups)), -1, dtype=np.int64)
        renumber[alive] = np.arange(len(alive))
        self._seam = np.where(self._seam >= 0, renumber[self._seam], -1)
        self._open = [groups[i] for i in alive]
        return [g for i, g in enumerate(groups) if root[i] == i and renumber[i] < 0]


def _polygons(regions: Regions) -> npt.NDArray[np.object_]:
    """Build shapely polygons; a ring that touches itself is cut into rings that do not."""
    if not len(regions):
        return np.zeros(0, dtype=object)
    geometry = shapely.from_ragged_array(
        shapely.GeometryType.POLYGON,
        regions.coords.astype(np.float64),
        (regions.ring_offsets, regions.region_offsets),
    )
    invalid = ~shapely.is_valid(geometry)
    geometry[invalid] = shapely.make_valid(geometry[invalid])
    return np.asarray(geometry, dtype=object)


def _paint_edge(regions: Regions, y: int, width: int) -> Array:
    """Say which region lies along the horizontal line `y`, for each column: -1 for none.

    Within one swath all regions at its top or bottom line lie on the same side of it.
    """
    painted = np.full(width, -1, dtype=np.int64)
    on_line = regions.coords[:, 1] == y
    # A segment of the line; the last point of a ring repeats the first, so no segment crosses rings:
    # a pair of rings that both end and begin on the line has to be kept apart.
    segment = on_line[:-1] & on_line[1:]
    ends = regions.ring_offsets[1:-1] - 1
    segment[ends] = False
    at = np.flatnonzero(segment)
    x = regions.coords[:, 0]
    start, stop = np.minimum(x[at], x[at + 1]), np.maximum(x[at], x[at + 1])
    owner = regions.region_of_point()[at]
    sizes = stop - start
    columns = np.repeat(start - np.concatenate([[0], np.cumsum(sizes)[:-1]]), sizes) + np.arange(sizes.sum())
    painted[columns] = np.repeat(owner, sizes)
    return painted


def _finished(regions: Regions, geometry: npt.NDArray[np.object_], chosen: npt.NDArray[np.bool_]) -> Objects:
    return _objects(
        regions.classes[chosen],
        geometry[chosen],
        regions.pixels[chosen],
        regions.confidence_sum[chosen],
        regions.confidence_min[chosen],
    )


def _joined(groups: list[_Open]) -> Objects:
    geometry = np.empty(len(groups), dtype=object)
    for index, group in enumerate(groups):
        alone = len(group.parts) == 1
        geometry[index] = group.parts[0] if alone else drop_collinear(shapely.union_all(group.parts))
    return _objects(
        np.array([g.klass for g in groups], dtype=np.uint8),
        geometry,
        np.array([g.pixels for g in groups], dtype=np.int64),
        np.array([g.total for g in groups], dtype=np.int64),
        np.array([g.least for g in groups], dtype=np.uint8),
    )


def _objects(
    classes: npt.NDArray[np.uint8],
    geometry: npt.NDArray[np.object_],
    pixels: Array,
    total: Array,
    least: npt.NDArray[np.uint8],
) -> Objects:
    """Turn sums and minima in percent into means and minima of 0 to 1."""
    return Objects(classes, geometry, pixels, total / np.maximum(pixels, 1) / 100, least / 100)


def drop_collinear(polygon: BaseGeometry) -> shapely.Polygon:
    """Remove the vertices at which an axis-parallel outline goes straight on: what a seam leaves behind."""

    def clean(ring: shapely.LinearRing) -> npt.NDArray[np.float64]:
        points = shapely.get_coordinates(ring)[:-1]
        before, after = np.roll(points, 1, axis=0), np.roll(points, -1, axis=0)
        straight = ((before == points) & (points == after)).any(axis=1)
        corners: npt.NDArray[np.float64] = points[~straight]
        return corners

    if not isinstance(polygon, shapely.Polygon):
        raise TypeError(f"parts that meet along edges unite to one polygon, not to {polygon.geom_type}")
    return shapely.Polygon(clean(polygon.exterior), [clean(ring) for ring in polygon.interiors])


def _concatenate(first: Objects, second: Objects) -> Objects:
    return Objects(
        *(np.concatenate([getattr(first, name), getattr(second, name)]) for name in Objects.__slots__)
    )
