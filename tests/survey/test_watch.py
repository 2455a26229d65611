"""Folders that are watched, with a clock that goes on only while nothing happens: no test waits for it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Write, blobs, stand_in

from pfmap.core.errors import UsageError
from pfmap.survey import choice
from pfmap.survey.run import SheetResult
from pfmap.survey.scenes import batch, predict_all


class EnoughError(Exception):
    pass


class Clock:
    """What `choice` takes for the module `time`; `on_sleep` is called whenever time has passed."""

    def __init__(self) -> None:
        self.now = 0.0
        self.on_sleep: Callable[[], None] = lambda: None

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.on_sleep()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(choice, "time", clock)
    return clock


def until(finished: list[SheetResult], count: int, clock: Clock):
    """Stop once so many scenes are finished, or when a minute has passed in vain."""

    def on_progress(_done: int, _total: int) -> None:
        if len(finished) >= count or clock.now > 60:
            raise EnoughError

    return on_progress


def test_what_appears_is_mapped_once_it_is_complete(write_scene: Write, tmp_path: Path, clock: Clock) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    content = write_scene(blobs(300, 300), "elsewhere.tif").read_bytes()
    (folder / "first.tif").write_bytes(content)
    slow = folder / "slow.tif"
    slow.write_bytes(b"")
    finished: list[SheetResult] = []
    events: list[str] = []

    def go_on() -> None:
        """Write an eighth of the file in each half of the time for which it has to stay as it is."""
        have = slow.stat().st_size
        if have < min(len(content), clock.now / (choice.CALM / 2) * len(content) / 8):
            with slow.open("ab") as file:
                file.write(content[have : have + len(content) // 8 + 1])
            if slow.stat().st_size == len(content):
                events.append("written")

    def on_scene(result: SheetResult) -> None:
        events.append(result.sheet.name)
        finished.append(result)

    clock.on_sleep = go_on
    with pytest.raises(EnoughError):
        predict_all(
            folder, out, model=stand_in(), device="cpu", watch=True, on_scene=on_scene,
            on_progress=until(finished, 2, clock),
        )  # fmt: skip
    assert [(result.sheet.name, result.reason) for result in finished] == [("first", ""), ("slow", "")]
    assert events == ["first", "written", "slow"]


def test_what_failed_is_tried_again_when_it_changes(write_scene: Write, tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "in").mkdir()
    broken = tmp_path / "in/scene.tif"
    broken.write_bytes(b"nothing")
    finished: list[SheetResult] = []

    def on_scene(result: SheetResult) -> None:
        finished.append(result)
        if len(finished) == 1:
            broken.unlink()
            write_scene(blobs(80, 80), "in/scene.tif")

    with pytest.raises(EnoughError):
        batch(
            tmp_path / "in", tmp_path / "out", model=stand_in(), device="cpu", watch=True, on_scene=on_scene,
            on_progress=until(finished, 2, clock),
        )  # fmt: skip
    assert [bool(result.reason) for result in finished] == [True, False]


def test_the_one_map_grows_with_what_appears(write_scene: Write, tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "in").mkdir()
    write_scene(blobs(80, 80), "in/a.tif")
    out = tmp_path / "out"
    finished: list[SheetResult] = []
    seen: list[bool] = []

    def on_progress(_done: int, _total: int) -> None:
        whole = out / "survey_objects.gpkg"
        if len(finished) == 1 and whole.is_file() and not seen:
            seen.append(True)
            write_scene(blobs(80, 80), "in/b.tif")
        text = (out / "survey_classes.vrt").read_text() if seen else ""
        if "b_classes.tif" in text or clock.now > 60:
            raise EnoughError

    with pytest.raises(EnoughError):
        batch(
            tmp_path / "in", out, model=stand_in(), device="cpu", watch=True, on_scene=finished.append,
            on_progress=on_progress,
        )  # fmt: skip
    assert [result.sheet.name for result in finished] == ["a", "b"]
    assert "b_classes.tif" in (out / "survey_classes.vrt").read_text()


def test_an_empty_folder_can_be_watched_but_not_retried(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(EnoughError):
        predict_all(
            tmp_path / "in", tmp_path / "out", model=stand_in(), watch=True, on_progress=until([], 0, clock)
        )
    with pytest.raises(UsageError, match="leave out retry_failed=True"):
        predict_all(tmp_path / "in", tmp_path / "out", model=stand_in(), watch=True, retry_failed=True)
    with pytest.raises(UsageError, match="mosaic=True all as one: leave one out"):
        batch(tmp_path / "in", tmp_path / "out", model=stand_in(), watch=True, mosaic=True)
