"""Writing without half-written files, and without following what lies in the way."""

import os
from pathlib import Path

import pytest

from pfmap.core import files
from pfmap.core.errors import TargetError
from pfmap.core.files import clear_drafts, is_sealed, make_folder, private_folder, publish, seal, write_text
from pfmap.core.resources import claimed


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
        make_folder(tmp_path / "parts")
    make_folder(tmp_path / "parts", named=True)


@pytest.mark.parametrize("change", ["content", "name", "more", "less", "link", "pipe", "about", "seal"])
def test_a_seal_is_broken_by_any_change(change: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_text("a")
    (folder / "b").write_text("b")
    seal(folder, "rows 0 to 9")
    assert is_sealed(folder, "rows 0 to 9")
    match change:
        case "content":
            (folder / "a").write_text("A")
        case "name":
            (folder / "a").rename(folder / "c")
        case "more":
            (folder / "a.aux.xml").write_text("")
        case "less":
            (folder / "b").unlink()
        case "link":
            (folder / "a").rename(tmp_path / "a")
            (folder / "a").symlink_to(tmp_path / "a")
        case "pipe":
            (folder / "a").unlink()
            os.mkfifo(folder / "a")
        case "seal":
            (folder / "seal").write_text("")
    assert not is_sealed(folder, "rows 9 to 18" if change == "about" else "rows 0 to 9")


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
    with claimed(path, tmp_path, "maps this scene"):
        assert seen == [False, True]
        assert (path / "lock").is_file()
        with (
            pytest.raises(TargetError, match="another pfmap maps this scene now"),
            claimed(path, tmp_path, "maps this scene"),
        ):
            pass
