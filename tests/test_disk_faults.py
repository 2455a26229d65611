"""Disks that fail while pfmap reads and writes: as NFS fails, as quotas end, at one call after the other."""

from pathlib import Path

import forks
import pytest
from commands import HANG
from faulty import HERE, built, preloaded

FAULTS = [
    ("read", "EIO"),
    ("read", "ESTALE"),
    ("write", "ENOSPC"),
    ("write", "EDQUOT"),
    ("write", "ESTALE"),
    ("fsync", "EIO"),
    ("close", "EIO"),
    ("rename", "ESTALE"),
    ("mkdir", "EDQUOT"),
    ("open", "ESTALE"),
    ("unlink", "EIO"),
]
TRAINING = [FAULTS[k] for k in (0, 2, 6, 7, 9, 10)]
RASTER = [("write", "ENOSPC"), ("write once", "ENOSPC")]
CASES = [
    *(("raster", *fault) for fault in RASTER),
    *(("map", *fault) for fault in FAULTS),
    *(("train", *fault) for fault in TRAINING),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("library"))


@pytest.mark.slow
@pytest.mark.parametrize(("job", "call", "error"), CASES)
def test_whichever_call_fails_nothing_is_half_written_and_the_same_again_ends_well(
    job: str, call: str, error: str, library: Path, tmp_path: Path
) -> None:
    """The first call of a kind fails, then the second, third, fourth, sixth, ninth and so on.

    Until none is left to fail; of those that write a raster each does. A disk that is full only once, as
    somebody made room on it since, leaves a hole, and fails no more.
    """
    command = [HERE / "faulty.py", job, call, error, tmp_path]
    done = forks.run(command, 4 * HANG, env=preloaded(library), library=library)
    assert done.returncode == 0, f"{done.stdout[-500:]}\n{done.stderr[-2000:]}"
    *attempts, last = done.stdout.splitlines()
    assert last.endswith(" ok")
    assert any("Error" in line for line in attempts)
