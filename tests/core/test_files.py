"""Writing without half-written files, and without following what lies in the way."""

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pfmap.core import files
from pfmap.core.errors import TargetError
from pfmap.core.files import (
    clear_drafts,
    make_folder,
    private_folder,
    publish,
    read_text,
    write_failed,
    write_text,
)
from pfmap.core.resources import claimed, clear_beside, moment_of, refuse_open


def test_publishing_replaces_at_once(tmp_path: Path) -> None:
    (tmp_path / "final").write_text("old")
    (tmp_path / "new").write_text("new")
    publish(tmp_path / "new", tmp_path / "final")
    assert (tmp_path / "final").read_text() == "new"
    with pytest.raises(TargetError, match="missing"):
        publish(tmp_path / "nothing", tmp_path / "missing" / "final")


def test_a_pipe_is_neither_replaced_nor_waited_for(tmp_path: Path) -> None:
    """Nor is a device, such as /dev/null, which root could replace."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TargetError, match="is a pipe or a device"):
        write_text(tmp_path / "pipe", "text")
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(OSError, match="no plain file"):
        read_text(tmp_path / "pipe")


def test_text_is_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "Übersicht")
    assert (tmp_path / "a.txt").read_bytes() == "Übersicht".encode()
    assert len(list(tmp_path.iterdir())) == 1


def test_what_belongs_to_a_replaced_file_goes_and_nothing_else(tmp_path: Path) -> None:
    stale = [
        "a.gpkg-wal", "a.gpkg-shm", "a.gpkg-journal", "b.shp", "b.qix", "b.sbn", "b.sbx", "b.cpg",
        "b_part2.shp", "b_part2.dbf", "b_part2.qix", "c.tif.ovr", "c.tif.msk", "c.tif.aux.xml", "c.tfw",
        "d.vrt.ovr",
    ]  # fmt: skip
    kept = [
        "a.gpkg", "b.dbf", "b.qml", "c.tif", "d.vrt", "bb.qix", "b_part2.gpkg", "b_parts.shp", "cc.tif.ovr",
        "a.gpkg-notes", "c.qmd", "d.tif.ovr", "e_part2.shp",
    ]  # fmt: skip
    for name in (*stale, *kept):
        (tmp_path / name).touch()
    (tmp_path / "c.tif.msk").unlink()
    (tmp_path / "c.tif.msk").symlink_to(tmp_path / "not yet")
    clear_beside(tmp_path, ["a.gpkg", "b.dbf", "b.shp", "c.tif", "d.vrt"])
    # The files themselves are replaced later; a main file of which nothing is there yet is none.
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "b.shp"}
    clear_beside(tmp_path / "none", ["a.gpkg"])


@contextmanager
def held(path: Path, mode: str) -> Iterator[None]:
    """Another process has a database open: in WAL mode, or in mid-transaction."""
    begin = "PRAGMA journal_mode=WAL" if mode == "wal" else "BEGIN IMMEDIATE"
    code = f"""
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute({begin!r}); db.execute("SELECT * FROM t").fetchall()
print("open", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        yield
        other.kill()


@pytest.mark.parametrize("mode", ["wal", "transaction"])
def test_a_geopackage_that_is_open_elsewhere_is_not_replaced(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "a.gpkg"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE t (x)")
    db.commit()
    db.close()
    before = path.read_bytes()
    refuse_open(path)
    with held(path, mode):
        for refuse in (lambda: refuse_open(path), lambda: clear_beside(tmp_path, ["a.gpkg"])):
            with pytest.raises(TargetError, match=r"a\.gpkg is open in another program"):
                refuse()
        assert (tmp_path / "a.gpkg-wal").exists() == (mode == "wal")
    refuse_open(path)  # killed, and its log left behind
    assert mode == "wal" or path.read_bytes() == before
    (tmp_path / "link.gpkg").symlink_to(path)
    refuse_open(tmp_path / "link.gpkg")
    refuse_open(tmp_path / "none.gpkg")


def test_the_cause_of_a_failure_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(path: Path, error: Exception) -> str:
        return str(write_failed(path, error))

    plain = said(tmp_path / "a.tif", RuntimeError("some reason"))
    assert plain.startswith(f"a.tif could not be written to {tmp_path} (some reason): mend that")
    assert "full" not in plain
    assert "gone" not in plain
    assert "(the folder is gone; some" in said(tmp_path / "none" / "a.tif", RuntimeError("some reason"))
    assert "(the disk is full; " in said(tmp_path / "a.tif", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert "by ulimit -f" in said(tmp_path / "a.tif", OSError(errno.EFBIG, os.strerror(errno.EFBIG)))
    wrapped = RuntimeError("library")
    wrapped.__cause__ = OSError(errno.EDQUOT, "quota")
    assert "(the disk is full; quota" in said(tmp_path / "a.tif", wrapped).replace("[Errno 122] ", "")
    assert "mend that" in said(tmp_path / "a.tif", OSError(errno.EACCES, "no"))
    with monkeypatch.context() as limited:
        limited.setattr(files.limits, "getrlimit", lambda _kind: (40_960, -1))
        for error in (OSError(errno.EFBIG, "File too large"), RuntimeError("no such table")):
            assert "(no file may be that large here, by ulimit -f" in said(tmp_path / "a.tif", error)
    full = shutil._ntuple_diskusage(1 << 30, 1 << 30, 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: full)
    assert "(the disk is full; some reason): free some space" in said(
        tmp_path / "a.tif", OSError("some reason")
    )

    nothing = shutil._ntuple_diskusage(0, 0, 0)  # of /proc
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: nothing)
    assert "full" not in said(tmp_path / "a.tif", RuntimeError("some reason"))

    def gone(_path: Path) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(shutil, "disk_usage", gone)
    assert "(some reason): mend that" in said(tmp_path / "a.tif", RuntimeError("some reason"))


def test_what_is_made_of_files_has_their_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    for name, seconds in (("a.tif", 1_700_000_000), ("b.tif", 1_600_000_000), ("a.vrt", 1_800_000_000)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, seconds + 0.7))
    assert moment_of(tmp_path.iterdir()) == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert moment_of([]) == moment_of([tmp_path / "none"]) == datetime(1980, 1, 1, tzinfo=UTC)
    for odd, year in ((-(1 << 40), 1980), (1 << 33, 2106)):  # a shapefile's table has a byte for the year
        os.utime(tmp_path / "b.tif", (0, odd))
        assert moment_of([tmp_path / "b.tif"]).year == year
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1500000000")
    assert moment_of(tmp_path.iterdir()) == datetime(2017, 7, 14, 2, 40, tzinfo=UTC)


@pytest.mark.parametrize("lies_at", ["a.txt", ".a.txt.part", ".a.txt.pfmap", ".pfmap-"])
def test_a_link_is_replaced_and_not_followed(lies_at: str, tmp_path: Path) -> None:
    precious, out = tmp_path / "precious", tmp_path / "out"
    precious.write_text("precious")
    out.mkdir()
    (out / lies_at).symlink_to(precious)
    write_text(out / "a.txt", "mine")
    assert precious.read_text() == "precious"
    assert (out / "a.txt").read_text() == "mine"
    assert not (out / "a.txt").is_symlink()


def test_a_hard_link_keeps_what_it_has_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "a.txt").hardlink_to(tmp_path / "precious")
    write_text(tmp_path / "a.txt", "mine")
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize("kind", ["folder", "missing"])
def test_what_cannot_be_written_is_said_and_leaves_nothing(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt" if kind == "folder" else tmp_path / "gone" / "a.txt"
    if kind == "folder":
        (path / "inside").mkdir(parents=True)
    with pytest.raises(TargetError, match=r"a\.txt"):
        write_text(path, "mine")
    assert [one.name for one in tmp_path.iterdir()] == ["a.txt"] * (kind == "folder")


def test_nobody_else_may_enter_where_files_are_made(tmp_path: Path) -> None:
    with private_folder(tmp_path) as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()


def test_what_a_killed_process_left_goes_and_nothing_else_does(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("precious")
    out = tmp_path / "out"
    left = out / ".pfmap-abcd_123"
    left.mkdir(parents=True)
    (left / "half").write_text("half")
    (left / "link").symlink_to(outside)
    (out / ".pfmap-abcd1234").symlink_to(outside)
    (out / ".pfmap-abcd5678").write_text("a file")
    (out / ".pfmap-of-mine").mkdir()
    os.mkfifo(out / ".pfmap-abcdefgh")
    kept = sorted(path.name for path in out.iterdir() if path != left)
    with private_folder(out) as alive:
        clear_drafts(out)
        assert alive.is_dir()
    assert sorted(path.name for path in out.iterdir()) == kept
    assert (outside / "precious").read_text() == "precious"


def test_a_folder_of_pfmaps_own_is_not_made_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "parts").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TargetError, match="is a link"):
        make_folder(tmp_path / "parts" / "north", tmp_path)
    make_folder(tmp_path / "parts")


def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file, then its name, then the folder that has the name: a power cut in between loses neither."""
    done: list[object] = []
    real_sync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(files.os, "fsync", lambda fd: (done.append(os.fstat(fd).st_ino), real_sync(fd)))
    monkeypatch.setattr(files.os, "replace", lambda a, b: (done.append("name"), real_replace(a, b)))
    write_text(tmp_path / "a.txt", "mine")
    assert done == [(tmp_path / "a.txt").stat().st_ino, "name", tmp_path.stat().st_ino]


def test_a_lock_is_not_taken_in_a_folder_that_is_just_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever opened the lock of a folder that its owner then removes begins in a new one."""
    path, real = tmp_path / ".scene.pfmap", files.os.path.samestat
    seen: list[bool] = []

    def given_up(one: os.stat_result, other: os.stat_result) -> bool:
        if not seen:  # its owner renames it between the lock and this look
            path.rename(tmp_path / "away")
            path.mkdir()
            other = path.lstat()
        seen.append(real(one, other))
        return seen[-1]

    monkeypatch.setattr("pfmap.core.resources.os.path.samestat", given_up)
    with claimed(path, tmp_path, "this scene"):
        assert seen == [False, True]
        assert (path / "lock").is_file()
        with (
            pytest.raises(TargetError, match="another pfmap maps this scene into "),
            claimed(path, tmp_path, "this scene"),
        ):
            pass


def test_a_folder_that_is_given_up_has_lost_its_name_before_its_lock(tmp_path: Path) -> None:
    """So whoever comes next begins in a new one, never in one that is just being deleted."""
    path = tmp_path / "out" / ".scene.pfmap"
    with claimed(path, path.parent, "this scene") as give_up:
        (path / "swath").write_text("swath")
        give_up()
        assert not path.exists()
        (away,) = path.parent.iterdir()
        assert {one.name for one in away.iterdir()} == {"lock", "swath"}
        with claimed(path, path.parent, "this scene"):
            (path / "another").write_text("another's")
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    assert (path / "another").read_text() == "another's"
