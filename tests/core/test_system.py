"""Other systems than Linux: what they lack is used in one module, and does without elsewhere."""

import ast
import ntpath
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePath
from types import SimpleNamespace

import mypy
import pytest
from commands import HANG, here
from conftest import Write, blobs

from pfmap.core import system
from pfmap.core.errors import TargetError
from pfmap.core.files import publish, read_plain, read_text
from pfmap.raster.location import locate
from pfmap.report.project import place_beside

ROOT = Path(__file__).parents[2]
STUBS = Path(mypy.__file__).parent / "typeshed" / "stdlib"
ALONE = ROOT / "pfmap" / "core" / "system.py"
NEVER = {"multiprocessing", "select", "sys.platform", "os.name", "platform.system", "ctypes.CDLL", "dir_fd="}
"""What exists on Windows and means something else there (no fork), or leads to code for one system."""


@cache
def offered(module: str, platform: str) -> frozenset[str]:
    """The names that a module of the standard library has on a system, by typeshed."""
    places = (STUBS / module.replace(".", "/")).with_suffix(".pyi"), STUBS / module / "__init__.pyi"
    stub = next((place for place in places if place.is_file()), None)
    return frozenset() if stub is None else frozenset(defined(ast.parse(stub.read_text()).body, platform))


def defined(body: list[ast.stmt], platform: str) -> Iterator[str]:
    there = {"sys": SimpleNamespace(platform=platform, version_info=sys.version_info)}
    for node in body:
        if isinstance(node, ast.If):
            true = eval(compile(ast.Expression(node.test), "stub", "eval"), there)
            yield from defined(node.body if true else node.orelse, platform)
        elif isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            yield node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname.strip("_") for alias in node.names if alias.asname)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def lacking(source: str, platform: str) -> list[str]:
    """What code uses of the standard library that a system does not have, or has in another sense."""
    found = []
    for node in ast.walk(ast.parse(source)):
        used: list[str] = []
        if isinstance(node, ast.Import):
            used = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            used = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used = [f"{node.value.id}.{node.attr}"]
        elif isinstance(node, ast.keyword):
            used = [f"{node.arg}="]
        for name in used:
            module, _, attribute = name.partition(".")
            here, there = offered(module, "linux"), offered(module, platform)
            if name in NEVER or attribute in here - there or (here and not there and not attribute):
                found.append(name)
    return found


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_what_a_system_lacks_is_used_in_one_module(platform: str) -> None:
    """But for QGIS's plugin, which imports nothing of pfmap, and asks how quotes are read."""
    sources = {path: path.read_text(encoding="utf-8") for path in (ROOT / "pfmap").rglob("*.py")}
    found = {path: names for path, text in sources.items() if (names := lacking(text, platform))}
    assert found.pop(ALONE)
    assert found.pop(ROOT / "pfmap" / "plugin" / "program.py", ["os.name"]) == ["os.name"]
    assert found == {}


@pytest.mark.parametrize(
    "line",
    [
        "import fcntl", "import resource", "from pwd import getpwuid", "os.fork()", "os.geteuid()",
        "os.O_NOFOLLOW", "os.open(name, 0, dir_fd=folder)", "os.statvfs(path)", "signal.SIGHUP",
        "signal.SIGKILL", "os.killpg(1, 2)", "import select", "from multiprocessing import Pool",
        "sys.platform", "os.sysconf('SC_PAGE_SIZE')", "os.mkfifo(path)",
    ],
)  # fmt: skip
def test_the_walk_sees_what_windows_lacks(line: str) -> None:
    assert lacking(line, "win32")
    assert not lacking(
        "import os, signal; os.replace(a, b); signal.SIGTERM; os.O_RDONLY; os.path.join", "win32"
    )


@pytest.mark.slow
def test_a_scene_is_mapped_without_what_windows_lacks(
    write_scene: Write, small: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor is a file renamed or deleted while it is open; and the console shows Western letters alone."""
    scene = write_scene(blobs(90, 70), name="住宅.tif")
    options = ["predict", scene, "-m", small, "--device", "cpu"]
    shutil.copy(ROOT / "tests" / "windows.py", tmp_path / "sitecustomize.py")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "pfmap", *map(str, options), "-o", str(tmp_path / "there")],
        env=os.environ | {"PYTHONPATH": path, "PYTHONIOENCODING": "cp1252"},
        capture_output=True, timeout=HANG, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode("cp1252")
    assert rb"\u4f4f\u5b85_classes.tif" in done.stdout
    assert here(capsys, *options, "-o", tmp_path / "here").returncode == 0
    names = [{file.name for file in (tmp_path / folder).iterdir()} for folder in ("here", "there")]
    assert names[0] == names[1]  # nothing is left over
    for name in ("住宅_classes.tif", "住宅_objects.gpkg", "住宅_confidence.tif"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()


def test_a_file_that_a_guard_looks_into_gets_its_name_a_moment_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals, waits = [2], []

    def busy(self: Path, target: Path) -> Path:
        refusals[0] -= 1
        if refusals[0] >= 0:
            raise PermissionError(13, "in use")
        return self.rename(target)

    monkeypatch.setattr(Path, "replace", busy)
    monkeypatch.setattr("time.sleep", waits.append)
    monkeypatch.setattr("pfmap.core.files.replace", system._replace_closed)
    (tmp_path / "staged").write_text("new")
    publish(tmp_path / "staged", tmp_path / "final")
    assert (tmp_path / "final").read_text() == "new"
    assert len(waits) == 2

    refusals[0] = 99  # a program has it open
    (tmp_path / "staged").write_text("newer")
    with pytest.raises(
        TargetError, match=r"final cannot be written \(.* is open in another program, .*: close it"
    ):
        publish(tmp_path / "staged", tmp_path / "final")
    assert (tmp_path / "final").read_text() == "new"


def test_a_link_is_no_plain_file_where_no_flag_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pfmap.core.files.NO_LINK", 0)
    (tmp_path / "file").write_text("text")
    (tmp_path / "link").symlink_to("file")
    assert read_plain(tmp_path / "file") == b"text"
    assert read_text(tmp_path / "link") == "text"
    with pytest.raises(OSError, match="no plain file"):
        read_plain(tmp_path / "link")


def test_what_stands_in_for_limits_and_locks_limits_and_locks_nothing() -> None:
    now, most = system._NoLimits.getrlimit(system._NoLimits.RLIMIT_NOFILE)
    assert now == most == system._NoLimits.RLIM_INFINITY > 1 << 40
    used = system._NoLimits.getrusage(system._NoLimits.RUSAGE_SELF).ru_maxrss * system.RSS_UNIT
    most_held = system.limits.getrusage(0).ru_maxrss * system.RSS_UNIT
    assert 1 << 20 < used <= most_held + (16 << 20)  # Linux counts some pages of each thread later
    with pytest.raises(OSError, match="no such locks here"):
        system._NoLocks.flock(0, 0)


def test_what_lies_on_another_drive_has_its_whole_name(
    write_scene: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = write_scene(blobs(8, 8))
    location = locate(scene)
    assert place_beside(location, scene.parent / "maps") == "../scene.tif"
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(PurePath, "drive", property(lambda path: path.name))
        assert place_beside(location, scene.parent / "maps") == str(scene)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(os.path, "commonpath", ntpath.commonpath)
        found = system.common_folder(["C:/north/a", "C:/north/b"]), system.common_folder(["C:/a", "D:/a"])
    assert found == ("C:\\north", "")


def test_workers_are_processes_begun_afresh() -> None:
    """As they have to be where nothing forks."""
    import dask
    import distributed  # noqa: F401 - whose settings they are

    assert dask.config.get("distributed.worker.multiprocessing-method") == "spawn"
