"""Compile loops over pixels and vertices to machine code."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

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
