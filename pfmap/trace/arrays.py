"""What the compiled loops share: array types, ragged arrays, tables with holes, and union-find.

A ragged array holds runs of different lengths in one array: run k is ``coords[offsets[k] : offsets[k + 1]]``.
"""

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

NOTHING = -1
"""Stands for nodata, and for what lies outside the raster."""

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile a function to machine code on its first call, and keep the code for later processes.

    It runs without Python's lock, so that threads work at once. Where neither the package's folder nor the
    user's cache folder can be written, it is compiled once for every process.
    """
    try:
        return cast(F, numba.njit(cache=True, nogil=True, error_model="numpy")(function))
    except RuntimeError:  # numba: no locator available
        return cast(F, numba.njit(nogil=True, error_model="numpy")(function))


def offsets_of(sizes: npt.NDArray[Any]) -> Longs:
    """Return the ``(n + 1,)`` offsets of a ragged array whose ``(n,)`` runs have these sizes."""
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


@compiled
def take_ragged(coords: Ints, offsets: Longs, chosen: Longs) -> Ints:
    """Return the ``(k,)`` chosen runs of a ragged array of ``(n, 2)`` coordinates, in the order named."""
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
def doubled(rows: Longs) -> Longs:
    """Return a full ``(n, k)`` table with room for as many rows again, for loops that cannot count ahead."""
    more = np.empty((2 * len(rows), rows.shape[1]), dtype=rows.dtype)
    more[: len(rows)] = rows
    return more


def look_up(table: npt.NDArray[Any], index: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return ``table[index]``, and `NOTHING` where the index is `NOTHING`; the table may be empty."""
    return np.append(table, NOTHING)[index]


def shifted(numbers: Ints, start: int) -> Longs:
    """Count pieces, numbered from 0, from `start` on; `NOTHING` stays."""
    return np.where(numbers == NOTHING, NOTHING, numbers + np.int64(start))


def no_class(dtype: np.dtype[Any], nodata: int | None) -> int:
    """Return the value that is no class; where there is none, one that no pixel of this type can have."""
    return nodata if nodata is not None else int(np.iinfo(dtype).min) - 1


@compiled
def root(parent: Ints | Longs, index: int) -> int:
    """Return the number that stands for the set of `index`, and shorten the way to it.

    In ``(n,)`` `parent` each points to another of its set, and the one that stands for it to itself.
    """
    while parent[index] != index:
        parent[index] = parent[parent[index]]
        index = parent[index]
    return index


@compiled
def unite(parent: Ints | Longs, a: int, b: int) -> None:
    """Join the sets of two numbers; the lower of their roots stands for both."""
    a, b = root(parent, a), root(parent, b)
    if a < b:
        parent[b] = a
    else:
        parent[a] = b


@compiled
def roots(count: int, pairs: Longs) -> Longs:
    """Return ``(count,)`` the least number in everyone's set, where ``(n, 2)`` pairs belong together."""
    parent = np.arange(count)
    for k in range(len(pairs)):
        unite(parent, pairs[k, 0], pairs[k, 1])
    for k in range(count):  # a parent is lower, and so points to its root already
        parent[k] = parent[parent[k]]
    return parent
