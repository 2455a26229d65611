"""Ragged arrays and tables with holes."""

from typing import Any

import numpy as np
import numpy.typing as npt

from pfmap.trace.compiled import compiled
from pfmap.trace.types import Ints, Longs

NOTHING = -1
"""Stands for nodata, and for what lies outside the raster."""


def offsets_of(sizes: npt.NDArray[Any]) -> Longs:
    """Return where runs of these sizes start, and where the last ends."""
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def look_up(table: npt.NDArray[Any], index: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Look up, with `NOTHING` for nothing: the table may be empty."""
    return np.append(table, NOTHING)[index]


def no_class(dtype: np.dtype[Any], nodata: int | None) -> int:
    """Return the value that is no class; where there is none, one that no pixel can have."""
    return nodata if nodata is not None else int(np.iinfo(dtype).min) - 1


@compiled
def take_ragged(coords: Ints, offsets: Longs, chosen: Longs) -> Ints:
    """Return the coordinates of the chosen runs, one after the other."""
    size = 0
    for k in chosen:
        size += offsets[k + 1] - offsets[k]
    out = np.empty((size, 2), dtype=coords.dtype)
    at = 0
    for k in chosen:
        length = offsets[k + 1] - offsets[k]
        out[at : at + length] = coords[offsets[k] : offsets[k + 1]]
        at += length
    return out
