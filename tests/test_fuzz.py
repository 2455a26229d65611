"""Hostile input: mutated files never give a traceback, a hang, or memory beyond the plan."""

import contextlib
import re
import zipfile
from pathlib import Path

import forks
import pytest
import torch
from commands import HANG
from hypothesis import given, settings
from hypothesis import strategies as st

import pfmap
from pfmap.core.errors import ModelError, PfmapError
from pfmap.model.store import check_name, find_model, user_models
from pfmap.model.upstream import import_checkpoint
from pfmap.raster.location import locate

HERE = Path(__file__).parent
COUNTS = {
    "scene": 220,
    "mosaic": 160,
    "container": 120,
    "area": 160,
    "labels": 160,
    "zones": 180,
    "objects": 180,
    "classes": 160,
    "card": 140,
    "weights": 100,
    "checkpoint": 170,
    "config": 120,
    "training": 60,
    "work": 180,
    "report": 100,
}


def test_all_kinds_are_tried_often_enough() -> None:
    assert sum(COUNTS.values()) >= 2000


@pytest.mark.slow
@pytest.mark.parametrize("kind", COUNTS)
def test_mutated_files_are_refused_or_read(kind: str, tmp_path: Path) -> None:
    """In a process of its own, for a crash or a hang to fail too; what else it looks at, it asserts itself.

    No error but pfmap's own, of one line; nothing written outside the outputs' folder, or left half written;
    memory within what the plan may count on; a run that goes on gives what an uninterrupted one gives.
    """
    done = forks.run([HERE / "fuzz.py", kind, 11, COUNTS[kind], tmp_path], 4 * HANG)
    last = done.stdout.strip().splitlines()[-1:]
    assert done.returncode == 0, f"{last}: {done.stderr[-2000:]}"
    answers = re.findall(r"^\d+ (\w+)", done.stdout, flags=re.MULTILINE)
    assert len(answers) == COUNTS[kind]
    assert set(answers) - {"ok"} or kind == "work"  # what is damaged there is made again


@given(st.text(min_size=1, max_size=40))
@settings(max_examples=300, deadline=None)
def test_no_name_leaves_the_model_folder(name: str) -> None:
    try:
        check_name(name)
    except ModelError:
        return
    inside = (user_models() / name).resolve()
    assert inside.parent == user_models().resolve()


@pytest.mark.parametrize("name", ["..", "../x", "/tmp/x", "a/b", "a\\b", ".hidden", "", "a\0b", "con\n"])
def test_names_that_could_leave_are_refused(name: str, tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "c.pth")
    with pytest.raises(PfmapError):
        import_checkpoint(tmp_path / "c.pth", preset="isaid", name=name)
    with pytest.raises(PfmapError):
        find_model(name)
    assert not (user_models().parent / "x").exists()


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_as_a_scene_is_found_or_refused(text: str) -> None:
    with contextlib.suppress(PfmapError):
        assert locate(text).stem


def test_paths_in_archives_stay_there(tmp_path: Path) -> None:
    """GDAL reads archives in place: nothing is unpacked, wherever an entry claims to lie."""
    archive = tmp_path / "evil.zip"
    with zipfile.ZipFile(archive, "w") as content:
        content.writestr("../../escaped.tif", "no raster")
    before = set(tmp_path.parent.iterdir())
    with pytest.raises(PfmapError):
        pfmap.predict(archive, tmp_path / "out", device="cpu")
    assert set(tmp_path.parent.iterdir()) == before
