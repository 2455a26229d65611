"""Names of array types."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile a function on its first call, without Python's lock, and keep the code for later processes.

    Where neither the package's folder nor the user's cache folder can be written, it is compiled once for
    every process.
    """
    try:
        return cast(F, numba.njit(cache=True, nogil=True, error_model="numpy")(function))
    except RuntimeError:  # numba: no locator available
        return cast(F, numba.njit(nogil=True, error_model="numpy")(function))


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


@compiled
def root(parent: Ints | Longs, index: int) -> int:
    """Return the root of a set, and shorten the way to it."""
    while parent[index] != index:
        parent[index] = parent[parent[index]]
        index = parent[index]
    return index


@compiled
def unite(parent: Ints | Longs, a: int, b: int) -> None:
    """Join two sets; the lower root stays."""
    a, b = root(parent, a), root(parent, b)
    if a < b:
        parent[b] = a
    else:
        parent[a] = b


@compiled
def roots(count: int, pairs: Longs) -> Longs:
    """Return the least number in everyone's set.

    Args:
        count: how many there are.
        pairs: ``(n, 2)`` that are one.
    """
    parent = np.arange(count)
    for k in range(len(pairs)):
        unite(parent, pairs[k, 0], pairs[k, 1])
    for k in range(count):
        parent[k] = parent[parent[k]]
    return parent
