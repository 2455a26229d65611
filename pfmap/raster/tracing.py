"""Trace regions of equal class, and gather what their pixels say."""

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
from rasterio import features

from pfmap.regions import Regions


def trace(
    classes: npt.NDArray[np.uint8],
    confidence: npt.NDArray[np.uint8],
    wanted: Collection[int],
    top: int = 0,
) -> Regions:
    """Trace the 4-connected regions of the wanted classes.

    Args:
        classes: ``(h, w)`` class raster.
        confidence: ``(h, w)`` percent.
        wanted: classes that become regions; nodata and all others do not.
        top: row of the scene that the first row is; added to the coordinates.

    Returns:
        The regions, in no particular order.
    """
    chosen = np.isin(classes, list(wanted))
    shapes = list(features.shapes(classes, mask=chosen, connectivity=4)) if chosen.any() else []
    rings: list[npt.NDArray[np.float64]] = []
    rings_per_region = []
    for geometry, _ in shapes:
        rings += [np.asarray(ring, dtype=np.float64) for ring in geometry["coordinates"]]
        rings_per_region.append(len(geometry["coordinates"]))
    coords = np.concatenate(rings).round().astype(np.int64) if rings else np.zeros((0, 2), np.int64)
    coords[:, 1] += top
    pixels, total, least = _gather(classes.shape, shapes, confidence)
    return Regions(
        classes=np.array([int(value) for _, value in shapes], dtype=np.uint8),
        coords=coords,
        ring_offsets=_offsets([len(ring) for ring in rings]),
        region_offsets=_offsets(rings_per_region),
        pixels=pixels,
        confidence_sum=total,
        confidence_min=least,
    )


def _offsets(sizes: list[int]) -> npt.NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)


def _gather(
    shape: tuple[int, ...],
    shapes: list[tuple[dict[str, object], float]],
    confidence: npt.NDArray[np.uint8],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Count pixels, add up and take the least confidence of exactly the regions' pixels."""
    count = len(shapes)
    least = np.full(count, 255, dtype=np.uint8)
    if not shapes:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), least
    numbered = [(geometry, index + 1) for index, (geometry, _) in enumerate(shapes)]
    region = features.rasterize(numbered, out_shape=shape, fill=0, dtype="int32")
    inside = region > 0
    index, values = region[inside] - 1, confidence[inside]
    pixels = np.bincount(index, minlength=count)
    total = np.bincount(index, weights=values, minlength=count).astype(np.int64)
    np.minimum.at(least, index, values)
    return pixels, total, least
