import threading
import time
from pathlib import Path

import pytest
from conftest import Write, blobs, stand_in

from pfmap.core.errors import UsageError
from pfmap.survey import choice as watch
from pfmap.survey.run import SheetResult
from pfmap.survey.scenes import batch, predict_all


class EnoughError(Exception):
    pass


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "CALM", 0.6)


def until(finished: list[SheetResult], count: int):
    """Stop once so many scenes are finished, or after half a minute."""
    end = time.monotonic() + 30

    def on_progress(_done: int, _total: int) -> None:
        if len(finished) >= count or time.monotonic() > end:
            raise EnoughError

    return on_progress


def test_what_appears_is_mapped_once_it_is_complete(write_scene: Write, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    content = write_scene(blobs(300, 300), "elsewhere.tif").read_bytes()
    finished: list[SheetResult] = []
    times = {}

    def copy() -> None:
        (folder / "first.tif").write_bytes(content)
        with (folder / "slow.tif").open("wb") as file:
            for start in range(0, len(content), len(content) // 8):
                file.write(content[start : start + len(content) // 8])
                file.flush()
                time.sleep(0.25)
        times["written"] = time.monotonic()

    def on_scene(result: SheetResult) -> None:
        times[result.sheet.name] = time.monotonic()
        finished.append(result)

    thread = threading.Thread(target=copy)
    thread.start()
    with pytest.raises(EnoughError):
        predict_all(
            folder, out, model=stand_in(), device="cpu", watch=True, on_scene=on_scene,
            on_progress=until(finished, 2),
        )  # fmt: skip
    thread.join()
    assert [(result.sheet.name, result.reason) for result in finished] == [("first", ""), ("slow", "")]
    assert times["first"] < times["written"] < times["slow"]


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
    end = time.monotonic() + 30

    def on_progress(_done: int, _total: int) -> None:
        whole = out / "survey_objects.gpkg"
        if len(finished) == 1 and whole.is_file() and not seen:
            seen.append(True)
            write_scene(blobs(80, 80), "in/b.tif")
        text = (out / "survey_classes.vrt").read_text() if seen else ""
        if "b_classes.tif" in text or time.monotonic() > end:
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
    with pytest.raises(UsageError, match="leave out retry_failed=True"):
        predict_all(tmp_path / "in", tmp_path / "out", model=stand_in(), watch=True, retry_failed=True)
    with pytest.raises(UsageError, match="mosaic=True all as one: leave one out"):
        batch(tmp_path / "in", tmp_path / "out", model=stand_in(), watch=True, mosaic=True)
