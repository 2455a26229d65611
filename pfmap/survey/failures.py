"""The list of a survey's scenes that could not be mapped, for people and for the next run."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pfmap.core.errors import UsageError
from pfmap.core.files import read_text, remove, write_bytes

NAME = "failures.csv"
_FIELDS = ("scene", "reason")


def failures_folder(sources: Sequence[str | os.PathLike[str]], output_dir: Path | None) -> Path:
    """Return where the list lies: where the outputs go, or else the folder that holds all sources."""
    if output_dir is not None:
        return output_dir
    homes = set()
    for source in sources:
        path = Path(os.path.realpath(os.fspath(source).removeprefix("@")))
        if path.exists():
            homes.add(str(path if path.is_dir() else path.parent))
    return Path(os.path.commonpath(homes)) if homes else Path()


def refuse_foreign_list(folder: Path) -> None:
    """Refuse to replace a file of this name that is another's.

    Raises:
        UsageError: there is one.
    """
    path = folder / NAME
    try:
        lines = read_text(path, "utf-8-sig").splitlines()
    except FileNotFoundError:
        return
    except (OSError, UnicodeError):
        lines = []
    if tuple(next(csv.reader(lines), ())) != _FIELDS:
        raise UsageError(f"{path} is no list that pfmap wrote: rename it, so that pfmap can write its own")


def write_failures(folder: Path, failures: Mapping[str, str]) -> Path | None:
    """Write which scenes failed and why; without any, remove what an earlier run wrote.

    Args:
        folder: where the list lies.
        failures: reasons by scene.

    Returns:
        The list, if there is one.

    Raises:
        TargetError: it cannot be written.
    """
    path = folder / NAME
    if not failures:
        remove(path)
        return None
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_FIELDS)
    writer.writerows(failures.items())
    write_bytes(path, text.getvalue().encode("utf-8-sig"))  # spreadsheets take it for UTF-8 by its mark
    return path


def read_failures(folder: Path) -> dict[str, str]:
    """Read the list of an earlier run.

    Raises:
        UsageError: there is none.
    """
    path = folder / NAME
    try:
        with io.StringIO(read_text(path, "utf-8-sig"), newline="") as file:
            return {row["scene"]: row["reason"] for row in csv.DictReader(file)}
    except FileNotFoundError:
        raise UsageError(
            f"{path} does not exist: no scene failed in an earlier run into this folder"
        ) from None
    except (OSError, UnicodeError, KeyError) as error:
        raise UsageError(f"{path} cannot be read as a list of failures ({error}): delete it") from error
