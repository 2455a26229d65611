"""A survey's own files: whose they are, while they are being made and after."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from pfmap.engine.options import PredictOptions
from pfmap.engine.shapes import refuse_to_replace
from pfmap.errors import TargetError

_OWN = re.compile(r"survey(_classes\.vrt|_confidence\.vrt|_objects.*\.\w+|_report\.(html|json|csv)|\.qgz)")


@contextmanager
def alone(folder: Path, options: PredictOptions) -> Iterator[None]:
    """Make a survey's files in a folder, alone; those of an earlier survey are replaced.

    Raises:
        TargetError: another process makes them, they are not an earlier survey's, or the folder cannot be
            written.
    """
    claim = folder / ".survey.pfmap"
    lock = filelock.FileLock(claim / "lock")
    try:
        if folder.is_dir() and not claim.is_dir() and not (folder / "survey_report.json").is_file():
            refuse_to_replace(
                sorted(path for path in folder.iterdir() if _OWN.fullmatch(path.name)),
                overwrite=options.overwrite,
            )
        claim.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise TargetError(
            f"another pfmap maps a survey into {folder} now: wait for it, or choose another folder with "
            "--output-dir"
        ) from error
    except (OSError, NotImplementedError) as error:
        if isinstance(error, TargetError):
            raise
        raise TargetError(
            f"{folder} cannot be written ({getattr(error, 'strerror', error)}): choose another folder with "
            "--output-dir"
        ) from error
    try:
        yield
    finally:
        lock.release()
    shutil.rmtree(claim, ignore_errors=True)
