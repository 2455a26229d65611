"""Folders and files of a survey that are out of reach are named as failures: none is left out silently."""

import csv
import os
from pathlib import Path
from typing import Any

import pytest
from conftest import Write, blobs, stand_in

import pfmap
from pfmap.core.errors import SourceError
from pfmap.survey.find import find_sheets


def faults(folder: Path, out: Path | None = None, **options: Any) -> dict[str, str]:
    return {sheet.name: sheet.fault for sheet in find_sheets([folder], out, **options) if sheet.fault}


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Folders that the system refuses to list; root is refused nothing by itself."""
    names: set[str] = set()
    real = os.scandir

    def scandir(path: Any) -> Any:
        if str(path) in names:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    return names


def test_a_locked_folder_is_a_failure_and_the_rest_is_mapped(
    write_scene: Write, tmp_path: Path, locked: set[str]
) -> None:
    for name in ("a.tif", "north/b.tif", "north/c.tif"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        write_scene(blobs(70, 70), f"in/{name}")
    locked.add(f"{tmp_path}/in/north")
    out = tmp_path / "out"
    made = pfmap.batch(tmp_path / "in", out, model=stand_in(), device="cpu")
    assert [(one.sheet.name, bool(one.reason)) for one in made.scenes] == [("a", False), ("north/", True)]
    (row,) = csv.DictReader((out / "failures.csv").read_text("utf-8-sig").splitlines())
    assert row["scene"] == f"{tmp_path}/in/north"
    assert "cannot be searched for scenes (Permission denied)" in row["reason"]
    assert "Permission denied" in (out / "survey_report.html").read_text()
    assert "Permission denied" in (out / "survey_report.json").read_text()
    # Once it is open again, the same command maps what was in it.
    locked.clear()
    again = pfmap.batch(tmp_path / "in", out, model=stand_in(), device="cpu")
    assert [one.sheet.name for one in again.scenes] == ["a", "north/b", "north/c"]
    assert not (out / "failures.csv").exists()


def test_a_folder_that_is_named_and_locked_is_refused(tmp_path: Path, locked: set[str]) -> None:
    locked.add(str(tmp_path))
    with pytest.raises(SourceError, match="cannot be searched for scenes"):
        find_sheets([tmp_path])


def test_a_locked_folder_takes_no_name_from_a_scene(tmp_path: Path, locked: set[str]) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a.tif").touch()
    locked.add(f"{tmp_path}/a")
    assert [(s.location.stem, s.name) for s in find_sheets([tmp_path])] == [
        ("a", f"{tmp_path}/a"), ("a", "a/")
    ]  # fmt: skip


def test_linked_folders_are_said_and_loops_are_none(tmp_path: Path) -> None:
    inside, other = tmp_path / "in", tmp_path / "other"
    (inside / "north").mkdir(parents=True)
    other.mkdir()
    (inside / "a.tif").touch()
    (other / "b.tif").touch()
    (inside / "north" / "loop").symlink_to("..")
    (inside / "again").symlink_to(inside / "north")
    (inside / "maps").symlink_to(tmp_path / "out")
    (tmp_path / "out").mkdir()
    assert faults(inside, tmp_path / "out") == {}
    (inside / "east").symlink_to(other)
    (inside / ".hidden").symlink_to(other)
    found = faults(inside, tmp_path / "out")
    assert list(found) == ["east/"]
    assert f"is a link to {other}, which is not searched: name that folder too" in found["east/"]
    named = find_sheets([inside, other], tmp_path / "out")
    assert [sheet.name for sheet in named if sheet.fault] == []
    assert len(named) == 2


def test_files_that_are_out_of_reach_are_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.tif").touch()
    (tmp_path / "gone.tif").symlink_to("nowhere.tif")
    (tmp_path / "round.tif").symlink_to("round.tif")
    (tmp_path / "gone.txt").symlink_to("nowhere.txt")
    os.mkfifo(tmp_path / "pipe.tif")
    found = faults(tmp_path)
    assert list(found) == ["gone.tif/", "round.tif/"]
    assert "does not exist" in found["gone.tif/"]
    # A server that has gone says of nothing what it is.
    real = os.stat

    def stale(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        if str(path).endswith("a.tif"):
            raise OSError(116, "Stale file handle", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", stale)
    assert "Stale file handle" in faults(tmp_path)["a.tif/"]


def test_folders_of_outputs_have_names_that_every_file_can_hold(tmp_path: Path) -> None:
    odd = tmp_path / "in" / "a\x1b[31m\nb"
    odd.mkdir(parents=True)
    (odd / "c\x07.tif").touch()
    (sheet,) = find_sheets([tmp_path / "in"], tmp_path / "out")
    assert (sheet.folder.name, sheet.location.stem, sheet.name) == ("a_[31m_b", "c_", "a_[31m_b/c_")


def test_a_name_that_is_no_text_is_a_failure_and_the_rest_is_mapped(
    write_scene: Write, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    scene = write_scene(blobs(70, 70), "in/a.tif")
    (scene.parent / os.fsdecode(b"caf\xe9.tif")).write_bytes(scene.read_bytes())
    made = pfmap.batch(scene.parent, tmp_path / "out", model=stand_in(), device="cpu")
    assert [bool(one.reason) for one in made.scenes] == [False, True]
    assert (
        r"caf\xe9.tif cannot be opened (its name is not utf-8" in (tmp_path / "out/failures.csv").read_text()
    )
