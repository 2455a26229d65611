import csv
import dataclasses
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import torch
from affine import Affine
from commands import HANG
from conftest import NORTH_UP, Pointwise, Write, blobs, stand_in
from torch import Tensor, nn

import pfmap
from pfmap.core.card import UNLIKE
from pfmap.core.errors import ModelError, SourceError, UsageError
from pfmap.survey.run import SheetResult
from pfmap.survey.scenes import predict_all


@pytest.fixture
def survey(write_scene: Write, tmp_path: Path) -> Path:
    """Four sheets of one image in two folders, one of them damaged."""
    image = blobs(200, 200)
    for folder in ("in", "in/south"):
        (tmp_path / folder).mkdir()
    for index, (row, col) in enumerate(((0, 0), (0, 100), (100, 0), (100, 100))):
        name = f"in/{'south/' * (row > 0)}sheet{index}.tif"
        part = image[:, row : row + 100, col : col + 100]
        write_scene(part, name, transform=NORTH_UP @ Affine.translation(col, row))
    damaged = tmp_path / "in/south/sheet3.tif"
    damaged.write_bytes(damaged.read_bytes()[:6])
    return tmp_path / "in"


def run(sources, out, **settings) -> list[SheetResult]:
    return predict_all(sources, out, **{"model": stand_in(), "device": "cpu"} | settings)


def classes(path: Path) -> npt.NDArray[np.uint8]:
    with rasterio.open(path) as src:
        return src.read(1)


def test_each_scene_is_mapped_as_if_it_were_alone(survey: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    results = run(survey, out)
    assert [result.sheet.name for result in results] == ["sheet0", "sheet1", "south/sheet2", "south/sheet3"]
    for result in results[:3]:
        alone = pfmap.predict(result.sheet.location.text, tmp_path / "alone", model=stand_in(), device="cpu")
        assert result.result is not None
        for kind, path in alone.outputs.items():
            together = out / f"{result.sheet.name}".replace(result.sheet.location.stem, "") / path.name
            assert result.result.outputs[kind] == together
            if kind in ("classes", "confidence"):
                assert together.read_bytes() == path.read_bytes()


def test_one_that_fails_is_listed_with_its_reason_and_the_others_are_mapped(
    survey: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    results = run(survey, out)
    assert [result.result is None for result in results] == [False, False, False, True]
    with (out / "failures.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [{"scene": results[3].sheet.location.text, "reason": results[3].reason}]
    assert "sheet3.tif" in rows[0]["reason"]


def test_only_what_failed_is_tried_again_and_then_nothing_is_listed(
    survey: Path, tmp_path: Path, write_scene: Write
) -> None:
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="no scene failed in an earlier run"):
        run(survey, out, retry_failed=True)
    run(survey, out)
    listed = (out / "failures.csv").read_bytes()
    for others in (survey / "sheet0.tif", [survey / "sheet0.tif", survey / "sheet1.tif"]):
        with pytest.raises(UsageError, match=r"lists .*sheet3\.tif, which is none of the scenes found"):
            run(others, out, retry_failed=True)
    assert (out / "failures.csv").read_bytes() == listed
    (survey / "south/sheet3.tif").unlink()
    write_scene(blobs(100, 100), "in/south/sheet3.tif")
    results = run(survey, out, retry_failed=True)
    assert [(result.sheet.name, result.reason) for result in results] == [("south/sheet3", "")]
    assert not (out / "failures.csv").exists()


def test_done_scenes_are_skipped_until_they_change(survey: Path, tmp_path: Path, write_scene: Write) -> None:
    out = tmp_path / "out"
    run(survey, out)
    write_scene(blobs(100, 100, seed=9), "in/sheet1.tif")
    states = [(r.result.skipped if r.result else None, r.reason) for r in run(survey, out)]
    assert states[0] == states[2] == (True, "")
    assert states[1][0] is None
    assert "of the scene before it changed" in states[1][1]
    results = run(survey, out, overwrite=True)
    assert [r.result.skipped for r in results[:3] if r.result] == [True, False, True]


def test_the_network_is_loaded_once_and_sees_one_scene_at_a_time(survey: Path, tmp_path: Path) -> None:
    class Watching(nn.Module):
        """Notes the scenes, by their brightness, in the order in which it sees their windows."""

        def __init__(self) -> None:
            super().__init__()
            self.inner, self.moved, self.busy = Pointwise(3), 0, threading.Lock()
            self.seen: list[float] = []

        def to(self, *args, **kwargs):
            self.moved += 1
            return super().to(*args, **kwargs)

        def forward(self, image: Tensor) -> Tensor:
            with self.busy:
                self.seen.append(float(image[image > 0].max()))
            return self.inner(image)

    for index, level in enumerate((40, 80, 160)):
        path = survey / ("south/sheet2.tif" if index == 2 else f"sheet{index}.tif")
        with rasterio.open(path, "r+") as dst:
            dst.write(np.full((3, 100, 100), level, dtype=np.uint8))
    network = Watching()
    run(survey, tmp_path / "out", model=stand_in(network=network))
    assert network.moved == 1
    assert len(network.seen) == 3 * 4
    changes = [a != b for a, b in zip(network.seen, network.seen[1:], strict=False)]
    assert sum(changes) == 2


def test_while_one_scene_has_the_network_two_others_are_prepared(tmp_path: Path, write_scene: Write) -> None:
    """Each scene lacks a CRS, and says so as soon as it is read; none is finished before all have."""
    names = {f"sheet{index}" for index in range(3)}
    (tmp_path / "in").mkdir()
    for name in names:
        write_scene(blobs(100, 100), f"in/{name}.tif", crs=None)
    read: set[str] = set()
    together: list[set[str]] = []
    all_read = threading.Event()

    class Waits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Pointwise(3)

        def forward(self, image: Tensor) -> Tensor:
            if not together:
                all_read.wait(60)  # against a hang: nothing is waited for where all works
                together.append(set(read))
            return self.inner(image)

    def hear(line: str) -> None:
        read.update(name for name in names if f"{name}.tif: has no CRS" in line)
        if read == names:
            all_read.set()

    run(tmp_path / "in", tmp_path / "out", model=stand_in(network=Waits()), on_message=hear)
    assert together[0] == names


def test_a_bug_in_one_scene_does_not_end_a_night_of_work(survey: Path, tmp_path: Path) -> None:
    class Stumbles(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.calls = Pointwise(3), 0

        def forward(self, image: Tensor) -> Tensor:
            self.calls += 1
            if self.calls == 1:
                raise ZeroDivisionError("a bug")
            return self.inner(image)

    results = run(survey, tmp_path / "out", model=stand_in(network=Stumbles()))
    reasons = [result.reason for result in results[:3] if result.reason]
    assert len(reasons) == 1
    assert reasons[0].startswith("unexpected ZeroDivisionError: a bug (")
    assert sum(result.result is not None for result in results) == 2


def test_progress_counts_all_scenes_and_what_it_raises_ends_the_run(survey: Path, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    finished: list[str] = []
    run(
        survey,
        tmp_path / "out",
        on_progress=lambda done, total: steps.append((done, total)),
        on_scene=lambda result: finished.append(result.sheet.name),
    )
    assert steps[-1] == (30_000, 30_000)
    assert all(done <= total for done, total in steps)
    assert sorted(finished) == ["sheet0", "sheet1", "south/sheet2", "south/sheet3"]

    class EnoughError(Exception):
        pass

    def stop(done: int, _total: int) -> None:
        if done > 5000:
            raise EnoughError

    with pytest.raises(EnoughError):
        run(survey, tmp_path / "other", on_progress=stop)
    assert not list((tmp_path / "other").rglob("*_report.json"))


def test_what_concerns_all_scenes_is_refused_before_any_is_mapped(survey: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="unknown"):
        run(survey, tmp_path / "out", model="no such model")
    with pytest.raises(UsageError, match="gsd -1"):
        run(survey, tmp_path / "out", gsd=-1.0)
    assert not (tmp_path / "out").exists()


def test_warnings_say_which_scene_they_are_about(survey: Path, tmp_path: Path, write_scene: Write) -> None:
    write_scene(blobs(100, 100), "in/sheet0.tif", crs=None)
    said: list[str] = []
    run([survey / "sheet0.tif", survey / "sheet1.tif"], tmp_path / "out", on_message=said.append)
    name = survey / "sheet0.tif"
    assert said == [
        "mapping",
        f"warning: {name}: has no CRS: areas and lengths are in pixels",
        f"warning: {name}: does not say how large its pixels are; model 'stand_in' knows 0.01 to 10 m: "
        "state it with gsd=METRES",
    ]
    assert torch.get_num_threads() >= 1


def test_that_scenes_look_unlike_what_was_learned_is_said_once(survey: Path, tmp_path: Path) -> None:
    model = stand_in()
    card = dataclasses.replace(model.card, learned={"gsd": ((0.1, 0.2),)})
    said: list[str] = []
    results = run(
        survey, tmp_path / "out", model=dataclasses.replace(model, card=card), on_message=said.append
    )
    (text,) = [text for text in said if UNLIKE in text]
    assert text.startswith(f"warning: {survey}")
    assert ".tif: looks unlike all" in text
    reports = [one.result.facts for one in results if one.result is not None]
    assert [sum(UNLIKE in text for text in report.warnings) for report in reports] == [1, 1, 1]


def test_scenes_outside_the_area_of_interest_are_left_out(survey: Path, tmp_path: Path) -> None:
    (survey / "south/sheet3.tif").unlink()
    west, top = NORTH_UP @ (10, 10)
    east, bottom = NORTH_UP @ (60, 150)
    results = run(survey, tmp_path / "out", bbox=(west, bottom, east, top))
    assert [(one.sheet.name, one.left_out) for one in results] == [
        ("sheet0", ""), ("sheet1", "outside"), ("south/sheet2", ""),
    ]  # fmt: skip
    assert not any(one.reason for one in results)
    with pytest.raises(UsageError, match="touches none of the 3 scenes"):
        run(survey, tmp_path / "other", bbox=(0.0, 0.0, 10.0, 10.0))


def test_scenes_without_a_valid_pixel_are_left_out(survey: Path, tmp_path: Path, write_scene: Write) -> None:
    """The corners of a grid of sheets are no failures."""
    (survey / "south/sheet3.tif").unlink()
    empty = np.zeros((3, 50, 50), np.uint8)
    write_scene(empty, "in/empty.tif", nodata=0, transform=NORTH_UP @ Affine.translation(200, 0))
    made = pfmap.batch(survey, tmp_path / "out", model=stand_in(), device="cpu")
    assert [one.sheet.name for one in made.scenes] == ["sheet0", "sheet1", "south/sheet2"]
    assert made.figures.warnings == ("1 scene without a valid pixel left out: empty",)
    assert not (tmp_path / "out/failures.csv").exists()
    for name in ("sheet0.tif", "sheet1.tif", "south/sheet2.tif"):
        (survey / name).unlink()
    with pytest.raises(SourceError, match="none of the 1 scenes has a valid pixel"):
        run(survey, tmp_path / "other")
    assert not (tmp_path / "other/failures.csv").exists()


def test_what_is_wrong_for_every_scene_is_said_once(survey: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="class 'tree' is unknown"):
        run(survey, tmp_path / "out", classes=["tree"])
    with pytest.raises(SourceError, match=r"area nowhere\.gpkg does not exist"):
        run(survey, tmp_path / "out", aoi="nowhere.gpkg")
    assert not (tmp_path / "out").exists()


def test_the_list_of_failures_lies_with_the_survey_and_replaces_nothing_else(
    survey: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "failures.csv").write_text("mine\n")
    run(survey, None)
    assert "sheet3.tif" in (survey / "failures.csv").read_text()
    assert (tmp_path / "failures.csv").read_text() == "mine\n"
    results = run(survey, None, retry_failed=True)
    assert [one.sheet.location.stem for one in results] == ["sheet3"]
    assert "sheet3.tif" in (survey / "failures.csv").read_text()
    with pytest.raises(UsageError, match="is no list that pfmap wrote: rename it"):
        run(survey, tmp_path)


def test_a_second_survey_has_as_many_threads_as_the_first(survey: Path, tmp_path: Path) -> None:
    """Torch tells a new thread what any other thread last set."""

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.threads, self.both = Pointwise(3), set[int](), threading.Event()

        def forward(self, image: Tensor) -> Tensor:
            self.threads.add(threading.get_ident())
            if len(self.threads) < 2:
                self.both.wait(HANG)
            else:
                self.both.set()
            return self.inner(image)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for turn in range(3):
            network = Counting()
            run(survey / "sheet0.tif", tmp_path / f"{turn}", model=stand_in(network=network))
            assert len(network.threads) == 2
            run(survey, tmp_path / f"all{turn}")
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
