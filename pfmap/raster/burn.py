"""Geometries to pixels."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from affine import Affine
from rasterio import features

from pfmap.grid import Span


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
