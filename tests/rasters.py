"""Rasters and oracles for the tests of tracing."""

import itertools
from typing import Any

import numpy as np
import shapely
from rasterio import features
from scipy import ndimage

from pfmap.core.stages import Regions
from pfmap.trace.tracer import Tracer

NODATA = 255


def traced(
    classes: np.ndarray,
    confidence: np.ndarray,
    cuts: tuple[int, ...] | list[int] = (),
    contact: np.ndarray | None = None,
    **options: Any,
) -> Regions:
    """Trace a raster whose rows arrive in parts."""
    height, width = classes.shape
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < height}), height]
    layers = [classes, confidence, *([] if contact is None else [contact])]
    with Tracer(height, width, nodata=NODATA, **options) as tracer:
        parts = [
            regions
            for start, stop in itertools.pairwise(edges)
            for regions in tracer.add(*(part[start:stop] for part in layers))
        ]
    return Regions.join(parts)


def polygons(regions: Regions) -> np.ndarray:
    if not len(regions):
        return np.zeros(0, dtype=object)
    return shapely.from_ragged_array(
        shapely.GeometryType.POLYGON, regions.coords, (regions.ring_offsets, regions.region_offsets)
    )


def facts(regions: Regions) -> list[tuple[Any, ...]]:
    """Everything that is said of the regions, in a comparable form."""
    shapes = polygons(regions)
    assert shapely.is_valid(shapes).all()
    columns = (regions.classes, regions.pixels, regions.confidence_sum, regions.confidence_min, regions.ids)
    return sorted(
        (shape.wkb, *(int(column[k]) for column in columns), bool(regions.at_edge[k]))
        for k, shape in enumerate(shapely.normalize(shapes))
    )


def whole_raster(classes: np.ndarray, confidence: np.ndarray, wanted: set[int]) -> list[tuple[Any, ...]]:
    """The oracle: GDAL's regions of the whole raster, their pixels counted one region at a time."""
    found = []
    beside = np.pad(classes, 1, constant_values=NODATA)
    edge = np.zeros(classes.shape, dtype=bool)
    for rows, cols in ((slice(0, -2), slice(1, -1)), (slice(2, None), slice(1, -1)),
                       (slice(1, -1), slice(0, -2)), (slice(1, -1), slice(2, None))):  # fmt: skip
        edge |= beside[rows, cols] == NODATA
    chosen = np.isin(classes, list(wanted)) & (classes != NODATA)
    for geometry, value in features.shapes(classes, mask=chosen):
        shape = shapely.geometry.shape(geometry)
        shape = shape if shape.is_valid else shapely.make_valid(shape)
        inside = features.rasterize([geometry], out_shape=classes.shape) == 1
        values = confidence[inside]
        found.append((
            shapely.normalize(shape).wkb, int(value), int(inside.sum()), int(values.sum()), int(values.min()),
            int(np.flatnonzero(inside)[0]), bool(edge[inside].any()),
        ))  # fmt: skip
    return sorted(found)


def spiral(size: int) -> np.ndarray:
    """One region that winds over the whole raster, and the one between its turns."""
    out = np.zeros((size, size), np.uint8)
    row, col, step_row, step_col = 0, 0, 0, 1
    for _ in range(size * size):
        out[row, col] = 1
        ahead = row + 2 * step_row, col + 2 * step_col
        blocked = not (0 <= row + step_row < size and 0 <= col + step_col < size) or (
            0 <= ahead[0] < size and 0 <= ahead[1] < size and out[ahead] == 1
        )
        if blocked:
            step_row, step_col = step_col, -step_row
            if out[row + step_row, col + step_col]:
                break
        row, col = row + step_row, col + step_col
    return out


def blotches(seed: int, height: int, width: int, classes: int, smooth: float) -> np.ndarray:
    """A raster like a class map: smooth regions, some of them nodata."""
    noise = np.random.default_rng(seed).normal(size=(classes, height, width))
    out = ndimage.gaussian_filter(noise, (0, smooth, smooth)).argmax(axis=0).astype(np.uint8)
    out[out == classes - 1] = NODATA
    return out


def percent(classes: np.ndarray) -> np.ndarray:
    """A confidence that differs from pixel to pixel."""
    return (np.arange(classes.size) * 37 % 101).astype(np.uint8).reshape(classes.shape)
