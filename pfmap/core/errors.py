"""Every error that pfmap raises on purpose.

A message names the file, what was found, what is needed, and the remedy, in one line. Anything that is
not a `PfmapError` is a bug and keeps its traceback.
"""


class PfmapError(Exception):
    """Base of all expected errors; the command line prints its text and exits with `exit_code`."""

    exit_code = 1


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
