"""What lies in a work folder may have been put there, or be damaged: nothing is followed or believed."""

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import rasterio
from conftest import blobs
from runs import PowerError, breaking

import pfmap
from pfmap.core.errors import PfmapError, TargetError
from pfmap.core.grid import Span
from pfmap.core.resources import claimed
from pfmap.mapping.work import Work, _prepare, opened

OPTIONS: dict[str, Any] = {"device": "cpu", "swath_pixels": 6000, "formats": ("geojson",)}
WORK, SWATH = ".scene.pfmap", "0000000000-0000000056"


def contents(folder: Path) -> dict[str, bytes]:
    """All files, without what the project, which leads to the scene, and the report, with its times, say."""
    written = {path.name: path for path in folder.iterdir()}
    return {
        name: b"" if name in ("scene.qgz", "scene_report.json") else path.read_bytes()
        for name, path in written.items()
        if path.is_file() and (path.stat().st_size or name.endswith(".aux.xml"))
    }


def run(scene: Path, out: Path, **options: Any) -> str:
    said: list[str] = []
    pfmap.predict(scene, out, model=breaking(None), on_message=said.append, **OPTIONS | options)
    return "\n".join(line for line in said if "warning" in line)


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes], Path]:
    """A scene, what mapping it gives, and the outputs' folder of a run that broke off near the end."""
    folder = tmp_path_factory.mktemp("mapped")
    image = blobs(130, 100, smooth=12)
    scene = folder / "scene.tif"
    with rasterio.open(
        scene, "w", driver="GTiff", width=100, height=130, count=3, dtype="uint8", crs="EPSG:32645",
        transform=rasterio.Affine(0.5, 0, 300000, 0, -0.5, 3000000),
    ) as dst:  # fmt: skip
        dst.write(image)
    run(scene, folder / "whole")
    counting = breaking(None)
    pfmap.predict(scene, folder / "count", model=counting, **OPTIONS)
    with pytest.raises(PowerError):
        pfmap.predict(scene, folder / "cut", model=breaking(counting.network.passes), **OPTIONS)
    assert len(swaths(folder / "cut" / WORK)) >= 2
    return scene, contents(folder / "whole"), folder / "cut"


def swaths(work: Path) -> list[Path]:
    return sorted(path for path in work.iterdir() if path.is_dir() and path.name[0] == "0")


def swap(work: Path) -> None:
    one, two = swaths(work)[:2]
    one.rename(work / "x")
    two.rename(one)
    (work / "x").rename(two)


def swap_classes(work: Path) -> None:
    one, two = (path / "scene_classes.tif" for path in swaths(work)[:2])
    one.rename(work / "x")
    two.rename(one)
    (work / "x").rename(two)


def other_classes(work: Path) -> None:
    with rasterio.open(swaths(work)[0] / "scene_classes.tif", "r+") as dst:
        dst.write(dst.read(1) * 0 + 2, 1)


def link_inside(work: Path) -> None:
    path = swaths(work)[0] / "scene_classes.tif"
    path.rename(work / "kept")
    path.symlink_to(work / "kept")


def side_file(work: Path) -> None:
    (swaths(work)[0] / "scene_classes.tif.aux.xml").write_text("<PAMDataset/>")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "raster cut": lambda work: os.truncate(swaths(work)[0] / "scene_classes.tif", 300),
    "raster empty": lambda work: os.truncate(swaths(work)[0] / "scene_confidence.tif", 0),
    "raster gone": lambda work: (swaths(work)[0] / "scene_classes.tif").unlink(),
    "facts empty": lambda work: os.truncate(swaths(work)[0] / "swath.json", 0),
    "facts a list": lambda work: (swaths(work)[0] / "swath.json").write_text("[]"),
    "seal empty": lambda work: os.truncate(swaths(work)[0] / "seal", 0),
    "seal gone": lambda work: (swaths(work)[0] / "seal").unlink(),
    "swapped": swap,
    "rasters swapped": swap_classes,
    "other classes": other_classes,
    "a link inside": link_inside,
    "a side file": side_file,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_swath_is_computed_again_and_said(
    damage: str, mapped: tuple[Path, dict[str, bytes], Path], tmp_path: Path
) -> None:
    scene, whole, cut = mapped
    shutil.copytree(cut, tmp_path / "out")
    DAMAGES[damage](tmp_path / "out" / WORK)
    assert "are damaged" in run(scene, tmp_path / "out")
    assert contents(tmp_path / "out") == whole


@pytest.mark.parametrize("change", ["content", "name", "more", "less", "link", "pipe", "rows", "run", "seal"])
def test_a_seal_is_broken_by_any_change(change: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    work = Work(tmp_path, tmp_path, "run")
    (folder / "a").write_text("a")
    (folder / "b").write_text("b")
    work.seal(folder, Span(0, 9))
    assert work.is_sealed(folder, Span(0, 9))
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
        case "run":
            work.run = "another"
    assert not work.is_sealed(folder, Span(9, 18) if change == "rows" else Span(0, 9))


RECORDS: dict[str, Callable[[Path], object]] = {
    "nothing": lambda _work: None,
    "run empty": lambda work: (work / "run.json").write_text(""),
    "run too deep": lambda work: (work / "run.json").write_text("[" * 100_000),
    "publish too deep": lambda work: (work / "publish.json").write_text("[" * 100_000),
    "run a list": lambda work: (work / "run.json").write_text("[1]"),
    "run no text": lambda work: (work / "run.json").write_bytes(b"\xff\xfe"),
    "run a folder": lambda work: ((work / "run.json").unlink(), (work / "run.json").mkdir()),
    "publish empty": lambda work: (work / "publish.json").write_text(""),
    "publish a list": lambda work: (work / "publish.json").write_text("[]"),
    "publish a number": lambda work: (work / "publish.json").write_text('{"files": 3, "run": 1}'),
    "publish a folder": lambda work: (work / "publish.json").mkdir(),
    "final a file": lambda work: (work / "final").write_text("x"),
    "swath a file": lambda work: (
        shutil.rmtree(swaths(work)[0]),
        (work / "0000000000-0000000056").write_text(""),
    ),
}


@pytest.mark.parametrize("damage", RECORDS)
def test_damaged_records_end_in_the_same_outputs(
    damage: str, mapped: tuple[Path, dict[str, bytes], Path], tmp_path: Path
) -> None:
    scene, whole, cut = mapped
    shutil.copytree(cut, tmp_path / "out")
    RECORDS[damage](tmp_path / "out" / WORK)
    run(scene, tmp_path / "out")
    assert contents(tmp_path / "out") == whole


@pytest.mark.parametrize(
    ("name", "believed"),
    [
        ("good.txt", True),
        ("../good.txt", False),
        ("..", False),
        ("", False),
        ("final/good.txt", False),
        ("a\0b", False),
        ("\ud800", False),
    ],
)
def test_names_of_finished_files_lead_nowhere(name: str, believed: bool, tmp_path: Path) -> None:
    """Whoever may write into a work folder knows the checksums of what lies there, too."""
    work = Work(tmp_path / WORK, tmp_path, "run")
    (work.finals / "final").mkdir(parents=True)
    for place in (work.path, work.finals, work.finals / "final"):
        (place / "good.txt").write_text("good")
    work.ready(["good.txt"], "wanted")
    record = work.path / "publish.json"
    order = json.loads(record.read_text())
    order["files"] = dict.fromkeys([name], order["files"]["good.txt"])
    record.write_text(json.dumps(order))
    if not believed:
        with pytest.raises(TargetError, match="is damaged"):
            work.finish_publishing()
    assert work.is_ready("wanted") is believed
    assert record.exists() is believed


@pytest.mark.parametrize("damage", ["nothing", "a list", "a link"])
def test_only_plain_files_are_ready(damage: str, tmp_path: Path) -> None:
    work = Work(tmp_path / WORK, tmp_path, "run")
    work.finals.mkdir(parents=True)
    for folder in (work.finals, tmp_path):
        (folder / "map.tif").write_text("map")
    work.ready(["map.tif"], "wanted")
    record = work.path / "publish.json"
    order = json.loads(record.read_text())
    if damage == "a list":
        record.write_text(json.dumps(order | {"files": ["map.tif"]}))
    elif damage == "a link":
        (work.finals / "map.tif").unlink()
        (work.finals / "map.tif").symlink_to("/etc/passwd")
    assert work.is_ready("wanted") is (damage == "nothing")


def test_what_a_disk_does_not_delete_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweeping a work folder ends all the same, and nothing in it is taken for a swath."""
    with opened(tmp_path, "scene", {"scene": "a"}, resume=True, say=print) as work:
        (work.path / "litter").mkdir()
        (work.path / "litter" / "file").write_text("litter")
        tries = iter(range(9))
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", lambda *_args, **_how: next(tries))
            _prepare(work, {"scene": "a"}, resume=True)
        assert not (work.path / "litter").exists()
        assert work.finished_swaths == 0
    assert list(tmp_path.iterdir()) == []


def links(work: Path, victim: Path) -> dict[str, Callable[[], object]]:
    def inside(name: str, target: Path) -> None:
        work.mkdir()
        (work / name).symlink_to(target)

    def hard(name: str) -> None:
        work.mkdir()
        (work / name).hardlink_to(victim / "precious")

    def pipe() -> None:
        work.mkdir()
        os.mkfifo(work / "lock")

    return {
        "the folder": lambda: work.symlink_to(victim),
        "the folder, to nothing": lambda: work.symlink_to(victim / "new"),
        "a file in its place": lambda: work.write_text(""),
        "lock": lambda: inside("lock", victim / "precious"),
        "lock, hard": lambda: hard("lock"),
        "lock, a pipe": pipe,
        "run.json": lambda: inside("run.json", victim / "precious"),
        "run.json, hard": lambda: hard("run.json"),
        ".run.json.part": lambda: inside(".run.json.part", victim / "precious"),
        "publish.json": lambda: inside("publish.json", victim / "precious"),
        "final": lambda: inside("final", victim),
        "bin": lambda: inside("bin", victim),
        "a swath": lambda: inside(SWATH, victim),
        "an unfinished swath": lambda: inside(f"{SWATH}.12345678.part", victim),
    }


REFUSED = {
    "the folder",
    "the folder, to nothing",
    "a file in its place",
    "lock",
    "lock, hard",
    "lock, a pipe",
}


@pytest.mark.parametrize("kind", links(Path(), Path()))
def test_what_is_behind_a_link_is_never_touched(
    kind: str, mapped: tuple[Path, dict[str, bytes], Path], tmp_path: Path
) -> None:
    scene, whole, _ = mapped
    out, victim = tmp_path / "out", tmp_path / "victim"
    out.mkdir()
    (victim / "photos").mkdir(parents=True)
    (victim / "precious").write_text("precious")
    (victim / "photos" / "p.jpg").write_text("precious")
    links(out / WORK, victim)[kind]()
    if kind in REFUSED:
        with pytest.raises(TargetError, match="no folder that pfmap made"):
            run(scene, out)
        assert [path.name for path in out.iterdir()] == [WORK]
    else:
        run(scene, out)
        assert contents(out) == whole
        assert not (out / WORK).exists()
    assert {str(path.relative_to(victim)) for path in victim.rglob("*")} == {
        "photos",
        "photos/p.jpg",
        "precious",
    }
    assert (victim / "precious").read_text() == (victim / "photos" / "p.jpg").read_text() == "precious"


def test_another_users_work_folder_is_refused(
    mapped: tuple[Path, dict[str, bytes], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / WORK).mkdir()
    owner = (tmp_path / WORK).stat().st_uid
    monkeypatch.setattr("pfmap.core.resources.user", lambda: owner + 1)
    monkeypatch.setattr("pfmap.core.resources._owner_of_new", lambda _folder: owner + 1)
    with pytest.raises(TargetError, match="belongs to another user"):
        run(mapped[0], tmp_path)
    monkeypatch.setattr("pfmap.core.resources._owner_of_new", lambda _folder: owner)  # as on some shares
    run(mapped[0], tmp_path)


def test_a_second_run_does_not_begin_in_what_the_first_one_removes(
    mapped: tuple[Path, dict[str, bytes], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, whole, _ = mapped
    refused: list[str] = []

    def meanwhile(give_up: Callable[[], None]) -> None:
        def second() -> None:
            try:
                run(scene, tmp_path, overwrite=True, min_area=5.0)
            except PfmapError as error:
                refused.append(str(error))

        if not refused:
            other = threading.Thread(target=second)
            other.start()
            other.join()
        give_up()

    @contextmanager
    def watched(*arguments: Any) -> Iterator[Callable[[], None]]:
        with claimed(*arguments) as give_up:
            yield partial(meanwhile, give_up)

    monkeypatch.setattr("pfmap.mapping.work.claimed", watched)
    run(scene, tmp_path)
    assert "another pfmap maps this scene" in refused[0]
    assert contents(tmp_path) == whole
    assert not list(tmp_path.glob(".*"))


class Cut(BaseException):
    """The power is gone."""


def power_cut(at: int, out: Path, monkeypatch: pytest.MonkeyPatch, *, torn: bool) -> Callable[[], int]:
    """Cut the power at a rename: after it, what was not brought onto the disk is empty, or what it named is.

    Returns:
        What counts the renames.
    """
    count, synced = [0], set[tuple[int, int]]()
    real, sync = os.replace, os.fsync

    def note(fd: int) -> None:
        sync(fd)
        synced.add((os.fstat(fd).st_ino, os.fstat(fd).st_size))

    def replace(source: Path, target: Path) -> None:
        real(source, target)
        count[0] += 1
        if count[0] == at:
            lost = [target, *Path(target).rglob("*")] if torn else list(out.rglob("*"))
            for path in map(Path, lost):
                stat = path.stat()
                if (
                    path.is_file()
                    and (torn or (stat.st_ino, stat.st_size) not in synced)
                    and path.name != "lock"
                ):
                    os.truncate(path, 0)
            raise Cut

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(os, "fsync", note)
    return lambda: count[0]


def survives(at: int, torn: bool, mapped: tuple[Path, dict[str, bytes], Path], out: Path) -> bool:
    """Cut the power at a rename, and run again; False if there was no such rename."""
    scene, whole, _ = mapped
    with pytest.MonkeyPatch.context() as patched:
        renames = power_cut(at, out, patched, torn=torn)
        try:
            run(scene, out)
        except Cut:
            pass
        else:
            assert renames() < at
            return False
    run(scene, out)
    assert contents(out) == whole
    assert not (out / WORK).exists()
    return True


@pytest.mark.parametrize(("at", "torn"), [(1, True), (3, True), (8, True), (10, False), (13, True)])
def test_a_power_cut_is_survived(
    at: int, torn: bool, mapped: tuple[Path, dict[str, bytes], Path], tmp_path: Path
) -> None:
    assert survives(at, torn, mapped, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("torn", [False, True])
def test_a_power_cut_is_survived_at_every_rename(
    torn: bool, mapped: tuple[Path, dict[str, bytes], Path], tmp_path: Path
) -> None:
    at = 1
    while survives(at, torn, mapped, tmp_path / str(at)):
        at += 1
    assert at > 12
