from pathlib import Path

import pytest
from conftest import Write, blobs, stand_in

from pfmap.errors import UsageError
from pfmap.survey import watch
from pfmap.survey.batch import batch, predict_all
from pfmap.survey.run import SheetResult


class EnoughError(Exception):
    pass


class Clock:
    """Time that passes only while the folder is being watched, and takes none."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    own = Clock()
    monkeypatch.setattr(watch, "time", own)
    return own


def until(finished: list[SheetResult], count: int):
    """Stop once so many scenes are finished."""

    def on_progress(_done: int, _total: int) -> None:
        if len(finished) >= count:
            raise EnoughError

    return on_progress


def test_what_appears_is_mapped_once_it_is_complete(write_scene: Write, tmp_path: Path, clock: Clock) -> None:
    """Two files come, one of them slowly: part after part, never calm for as long as a file has to be."""
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    content = write_scene(blobs(300, 300), "elsewhere.tif").read_bytes()
    size = len(content) // 8 + 1
    parts = [content[start : start + size] for start in range(0, len(content), size)]
    (folder / "first.tif").write_bytes(content)
    (folder / "slow.tif").touch()
    events: list[str] = []
    due = 0.0

    def on_progress(_done: int, _total: int) -> None:
        nonlocal due
        if parts and clock.now >= due:
            with (folder / "slow.tif").open("ab") as file:
                file.write(parts.pop(0))
            due = clock.now + 0.8 * watch.CALM
            if not parts:
                events.append("written")
        if "slow" in events:
            raise EnoughError

    with pytest.raises(EnoughError):
        predict_all(
            folder, out, model=stand_in(), device="cpu", watch=True, on_progress=on_progress,
            on_scene=lambda result: events.append(result.sheet.name + result.reason),
        )  # fmt: skip
    assert events == ["first", "written", "slow"]


def test_what_failed_is_tried_again_when_it_changes(write_scene: Write, tmp_path: Path) -> None:
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
            on_progress=until(finished, 2),
        )  # fmt: skip
    assert [bool(result.reason) for result in finished] == [True, False]


def test_the_one_map_grows_with_what_appears(write_scene: Write, tmp_path: Path) -> None:
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
        if "b_classes.tif" in text:
            raise EnoughError

    with pytest.raises(EnoughError):
        batch(
            tmp_path / "in", out, model=stand_in(), device="cpu", watch=True, on_scene=finished.append,
            on_progress=on_progress,
        )  # fmt: skip
    assert [result.sheet.name for result in finished] == ["a", "b"]
    assert "b_classes.tif" in (out / "survey_classes.vrt").read_text()


def test_an_empty_folder_can_be_watched_but_not_retried(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(EnoughError):
        predict_all(tmp_path / "in", tmp_path / "out", model=stand_in(), watch=True, on_progress=until([], 0))
    with pytest.raises(UsageError, match="leave out --retry-failed"):
        predict_all(tmp_path / "in", tmp_path / "out", model=stand_in(), watch=True, retry_failed=True)
    with pytest.raises(UsageError, match="--mosaic all as one: leave one out"):
        batch(tmp_path / "in", tmp_path / "out", model=stand_in(), watch=True, mosaic=True)
