"""Geometries to pixels."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from affine import Affine
from rasterio import features

from pfmap.core.grid import Span


def burn(
    geometries: Sequence[object], rows: Span, cols: Span, *, touched: bool = False
) -> npt.NDArray[np.bool_]:
    """Say which pixels have their centre in one of the geometries, or are touched by one at all.

    Args:
        geometries: polygons in pixel coordinates, with a GeoJSON-like interface.
        rows: pixel rows.
        cols: pixel columns.
        touched: whether touching is enough.

    Returns:
        ``(rows, cols)``, True inside.
    """
    shape = rows.size, cols.size
    if not geometries:
        return np.zeros(shape, dtype=bool)
    origin = Affine.translation(cols.start, rows.start)
    burnt = features.rasterize(
        geometries, out_shape=shape, transform=origin, fill=0, dtype="uint8", all_touched=touched
    )
    return np.asarray(burnt, dtype=bool)


def burn_values(
    shapes: Sequence[tuple[object, int]], rows: Span, cols: Span, fill: int
) -> npt.NDArray[np.uint8]:
    """Give pixels the value of the geometry that their centre lies in, the last of several.

    Args:
        shapes: polygons in pixel coordinates, with a GeoJSON-like interface, and their values.
        rows: pixel rows.
        cols: pixel columns.
        fill: value outside all of them.

    Returns:
        ``(rows, cols)``.
    """
    out = np.full((rows.size, cols.size), fill, dtype=np.uint8)
    if shapes:
        features.rasterize(shapes, out=out, transform=Affine.translation(cols.start, rows.start))
    return out
