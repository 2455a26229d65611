"""Writing without half-written files: everything gets a temporary name first, then its own."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pfmap.errors import TargetError


@contextmanager
def staging(directory: Path, label: str) -> Iterator[Path]:
    """Open a hidden temporary folder inside `directory`; it is gone at the end, whatever happens.

    It lies in the same folder as the final names, so that renaming into place is atomic and the disk that
    fills is the one that was checked.

    Raises:
        TargetError: the folder cannot be made or written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(prefix=f".{label}.", suffix=".part", dir=directory))
    except OSError as error:
        raise TargetError(
            f"{directory} cannot be written ({error.strerror}): choose another folder with --output-dir"
        ) from error
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def publish(staged: Path, final: Path) -> None:
    """Rename a finished file to its final name, replacing what is there.

    Raises:
        TargetError: the name cannot be taken.
    """
    try:
        staged.replace(final)
    except OSError as error:
        raise TargetError(f"{final} cannot be written ({error.strerror})") from error


def write_failed(path: Path, error: Exception) -> TargetError:
    """Say that a file in a staging folder could not be written, why, and what to do."""
    reason = " ".join(str(error.__cause__ or error).split())
    return TargetError(
        f"{path.name} could not be written to {path.parent.parent} ({reason}): is the disk full? "
        "Free some space or choose another folder with --output-dir"
    )


def write_text(path: Path, text: str) -> None:
    """Write a small text file as UTF-8, under a temporary name first."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    publish(part, path)
