"""The list of a survey's scenes that could not be mapped, for people and for the next run."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from pfmap.errors import UsageError
from pfmap.files import write_bytes

NAME = "failures.csv"
_FIELDS = ("scene", "reason")


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
        path.unlink(missing_ok=True)
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
        with path.open(encoding="utf-8-sig", newline="") as file:
            return {row["scene"]: row["reason"] for row in csv.DictReader(file)}
    except FileNotFoundError:
        raise UsageError(
            f"{path} does not exist: no scene failed in an earlier run into this folder"
        ) from None
    except (OSError, UnicodeError, KeyError) as error:
        raise UsageError(f"{path} cannot be read as a list of failures ({error}): delete it") from error
