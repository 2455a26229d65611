"""Every error that pfmap raises on purpose, and the warnings of libraries that it keeps from users.

A message names the file, what was found, what is needed, and the remedy, in one line. It names options as
Python has them: ``min_area=``, ``device='cpu'``, ``resample=False``, ``gsd=METRES``; the command line shows
them as its flags, by `worded_by`. Anything that is not a `PfmapError` is a bug and keeps its traceback. The
warnings are of what is allowed, or said better by pfmap itself.
"""

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

_LONGEST = 400  # letters of a library's own word

_wording: Callable[[str], str] = str


@contextmanager
def worded_by(wording: Callable[[str], str]) -> Iterator[None]:
    """Have all texts name options as `wording` does, in all threads: the whole process is one command."""
    global _wording  # noqa: PLW0603 - threads of the work do not inherit a context variable
    before, _wording = _wording, wording
    try:
        yield
    finally:
        _wording = before


def worded(text: str) -> str:
    """Name options in a text as its reader knows them."""
    return _wording(text)


class PfmapError(Exception):
    """Base of all expected errors; the command line prints its text and exits with `exit_code`."""

    exit_code = 1

    def __str__(self) -> str:
        return worded(super().__str__())


class UsageError(PfmapError, ValueError):
    """The options contradict each other or the scene."""

    exit_code = 2


class OutsideError(UsageError):
    """The area of interest does not touch the scene."""


class SourceError(PfmapError):
    """A scene cannot be opened, read or used."""


class EmptyError(SourceError):
    """A scene has no valid pixel, or none in the area of interest."""


class TargetError(PfmapError, OSError):
    """An output cannot be written, or exists already."""

    @property
    def strerror(self) -> str:  # type: ignore[override]
        """Its text, for whoever says why a file could not be written."""
        return super().__str__()


class ModelError(PfmapError):
    """A model is unknown, incomplete or does not fit its card."""


class CheckpointError(ModelError):
    """A checkpoint is not what its preset needs; nothing was imported."""


class DeviceError(PfmapError):
    """The device or precision asked for is not to be had on this machine."""


class ClusterError(PfmapError):
    """A cluster cannot be reached, or its workers cannot do what is asked of them."""


class TrainingError(PfmapError):
    """Training data or settings do not fit."""


def reason(error: Exception) -> str:
    """Return a library's own word on one line, cut if it is long; rasterio keeps GDAL's as the cause."""
    text = " ".join(str(error.__cause__ or error).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


_EXPECTED = (
    "Dataset has no geotransform",  # said better, once, by pfmap itself
    "'crs' was not provided",
    "'crs' argument is required",
    "More than one layer found",
)

_lock = threading.Lock()
_inside = 0  # callers of `quietly`, in all threads
_filters = ExitStack()


@contextmanager
def quietly() -> Iterator[None]:
    """Leave out what libraries warn of though it is allowed; from any number of threads at once.

    Python keeps one list of filters for all threads: whoever comes first changes it, whoever leaves last
    restores it. `warnings.catch_warnings` would restore what another thread is still in need of.
    """
    global _inside  # noqa: PLW0603 - so is Python's list
    with _lock:
        if not _inside:
            _filters.enter_context(warnings.catch_warnings())
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
                _filters.close()
