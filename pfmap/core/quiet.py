"""Warnings of libraries that mean nothing here, kept from users: from any number of threads at once."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_EXPECTED = (
    "Dataset has no geotransform",  # said better, once, by pfmap itself
    "'crs' was not provided",
    "'crs' argument is required",
    "More than one layer found",
)

_lock = threading.Lock()
_inside = 0
_filters = warnings.catch_warnings()


@contextmanager
def quietly() -> Iterator[None]:
    """Leave out what libraries warn of though it is allowed.

    Python keeps one list of filters for all threads: whoever comes first changes it, whoever leaves last
    restores it. `warnings.catch_warnings` would restore what another thread is still in need of.
    """
    global _inside, _filters  # noqa: PLW0603 - so is Python's list
    with _lock:
        if not _inside:
            _filters = warnings.catch_warnings()
            _filters.__enter__()
            for message in _EXPECTED:
                warnings.filterwarnings("ignore", message=message)
            warnings.filterwarnings("ignore", module="pyogrio", category=RuntimeWarning)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _filters.__exit__(None, None, None)
