"""The work folder: what has the name of a finished swath is whole, whoever else is at work in it."""

import random
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from commands import HANG

from pfmap.core.errors import TargetError
from pfmap.core.grid import Span
from pfmap.mapping.work import Work, opened

RUN = {"scene": "a", "model": "b", "options": "c", "pfmap": "d"}
FILES = 150


@pytest.mark.parametrize("resume", [True, False])
def test_what_a_left_over_worker_finishes_while_a_run_begins_is_whole_or_not_there(
    resume: bool, tmp_path: Path
) -> None:
    """A worker whose run was stopped may still write: neither its files nor its folder get lost by halves."""
    folder = tmp_path / ".scene.pfmap"
    folder.mkdir()
    stop, written = threading.Event(), threading.Semaphore(0)

    def left_over() -> None:
        row = 0
        while not stop.is_set():
            with suppress(TargetError, OSError), Work(folder, tmp_path).writing(Span(row, row + 1)) as part:
                for number in range(FILES):
                    (part / f"{number}").write_bytes(b"x")
                    written.release()
            row += 1

    thread = threading.Thread(target=left_over)
    thread.start()
    pauses, seen = random.Random(0), 0
    try:
        for _ in range(60):
            for _ in range(pauses.randint(0, 3 * FILES)):
                assert written.acquire(timeout=HANG)
            with suppress(KeyboardInterrupt), opened(tmp_path, "scene", RUN, resume=resume, say=str) as work:
                (work.path / "0-0").mkdir(exist_ok=True)  # so that the folder stays
                raise KeyboardInterrupt
            for swath in folder.glob("*-*"):
                if swath.suffix != ".part" and swath.name != "0-0":
                    assert sum(1 for path in swath.iterdir() if path.name != "seal") == FILES
                    seen += 1
    finally:
        stop.set()
        thread.join()
    assert seen or not resume
    assert not (folder / "bin").exists()
