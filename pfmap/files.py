"""Writing without half-written files: everything gets a temporary name first, then its own."""

import os
from pathlib import Path

from pfmap.errors import TargetError


def publish(staged: Path, final: Path) -> None:
    """Rename a finished file to its final name, replacing what is there.

    Raises:
        TargetError: the name cannot be taken.
    """
    try:
        staged.replace(final)
    except OSError as error:
        raise TargetError(f"{final} cannot be written ({error.strerror})") from error


def settle(folder: Path) -> None:
    """Have the system bring all files of a folder onto the disk, so that even a power cut leaves them whole.

    Raises:
        TargetError: it cannot.
    """
    for path in folder.iterdir():
        try:
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise write_failed(path, error) from error


def write_failed(path: Path, error: Exception) -> TargetError:
    """Say that a file could not be written, why, and what to do."""
    reason = " ".join(str(error.__cause__ or error).split())
    return TargetError(
        f"{path.name} could not be written to {path.parent} ({reason}): is the disk full, or the folder "
        "gone? Free some space and run the same command again, or choose another folder with --output-dir"
    )


def write_text(path: Path, text: str) -> None:
    """Write a small text file as UTF-8, under a temporary name first.

    Raises:
        TargetError: it cannot be written.
    """
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a small file, under a temporary name first.

    Raises:
        TargetError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(content)
    except OSError as error:
        raise write_failed(path, error) from error
    publish(part, path)
