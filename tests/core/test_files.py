"""Writing without half-written files."""

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

from pfmap.core.errors import TargetError
from pfmap.core.files import clear_beside, moment_of, publish, refuse_open, write_failed, write_text


def test_publishing_replaces_at_once(tmp_path: Path) -> None:
    (tmp_path / "final").write_text("old")
    (tmp_path / "new").write_text("new")
    publish(tmp_path / "new", tmp_path / "final")
    assert (tmp_path / "final").read_text() == "new"
    with pytest.raises(TargetError, match="missing"):
        publish(tmp_path / "nothing", tmp_path / "missing" / "final")


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
    wrapped = RuntimeError("library")
    wrapped.__cause__ = OSError(errno.EDQUOT, "quota")
    assert "(the disk is full; quota" in said(tmp_path / "a.tif", wrapped).replace("[Errno 122] ", "")
    full = shutil._ntuple_diskusage(1 << 30, 1 << 30, 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: full)
    assert "(the disk is full; some reason): free some space" in said(
        tmp_path / "a.tif", OSError("some reason")
    )


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
