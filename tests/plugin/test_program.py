"""QGIS's toolbox finds pfmap, follows it, stops it, and says what is wrong; here, and on a server."""

import ast
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest
from commands import PFMAP

from pfmap.cli.main import cli
from pfmap.plugin import program
from pfmap.plugin.program import Ended, Place, Program, ProgramError, Stopped

SOURCE = Path(program.__file__).parent

# A program that says what it is, then does what is put in here with the words that it was given.
STAND_IN = """#!{python}
import json, os, sys, time
words = sys.argv[1:]
if words == ["--version"]:
    print({version!r})
    sys.exit()
def tell(event, **facts):
    print(json.dumps(dict(event=event, **facts)), file=sys.stderr, flush=True)
{body}
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> Any:
    def make(body: str, version: str = "pfmap 0.2.0", name: str = "pfmap") -> str:
        path = tmp_path / "a folder" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(STAND_IN.format(python=sys.executable, body=body, version=version))
        path.chmod(0o755)
        return str(path)

    return make


def run(
    command: str, *words: str, paths: str = "", cancel_at: str = ""
) -> tuple[Ended, list[dict[str, Any]]]:
    told: list[dict[str, Any]] = []
    canceled = lambda: any(event["event"] == cancel_at for event in told)  # noqa: E731
    return Program.of(command, paths).run(list(words), told.append, canceled), told


def test_it_is_told_what_happens_and_what_comes_of_it(stand_in: Any) -> None:
    body = "tell('progress', done=1, total=2); tell('result', outputs={'gpkg': '/x'}, words=words)"
    ended, told = run(stand_in(body), "predict", "a b.tif")
    assert ended.result["outputs"] == {"gpkg": "/x"}
    assert ended.result["words"] == ["predict", "a b.tif", "--progress", "json", "--stop-on-input"]
    assert [event["event"] for event in told] == ["progress"]


def test_the_real_one_understands_what_it_is_asked(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match=r"none\.tif does not exist: check the path"):
        run(PFMAP, "vectorize", str(tmp_path / "none.tif"))
    assert "landcover" in Program.of(PFMAP, "").models()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("tell('error', text='no such scene', status=1); sys.exit(1)", "^no such scene$"),
        (
            "print('Traceback', file=sys.stderr); print('Boom', file=sys.stderr); sys.exit(1)",
            "Traceback\nBoom",
        ),
        ("os.kill(os.getpid(), 9)", "ended with status -9, and did not say why"),
        ("pass", "ended without a result"),
        ("print('x' * 10_000_000, file=sys.stderr); sys.exit(3)", "^x+$"),
    ],
)
def test_a_failure_is_said_in_its_own_words(stand_in: Any, body: str, reason: str) -> None:
    with pytest.raises(ProgramError, match=reason):
        run(stand_in(body), "predict")


def test_what_failed_in_part_keeps_its_result(stand_in: Any) -> None:
    body = "tell('result', outputs={}); tell('error', text='1 of 2 failed', status=1); sys.exit(1)"
    assert run(stand_in(body), "batch")[0].error == "1 of 2 failed"


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("pfmap 0.1.9", "pfmap 0.1.9 is too old, 0.2 is needed: pip install --upgrade pfmap"),
        ("something else", "is not pfmap: it says 'something else'; see Settings"),
    ],
)
def test_an_old_one_and_another_program_are_refused(stand_in: Any, version: str, reason: str) -> None:
    with pytest.raises(ProgramError, match=reason):
        run(stand_in("tell('result', outputs={})", version), "predict")


def test_none_at_all_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(program, "_USUAL", ())
    for command in ("", "no/such/pfmap"):
        with pytest.raises(ProgramError, match=r"install it .* or name it in Settings"):
            run(command, "predict")
        with pytest.raises(ProgramError, match="install it"):  # what asks before a short command
            Program.of(command, "").refuse_old()


def test_it_is_found_where_it_was_installed_from_then_on_the_path(
    stand_in: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command = stand_in("pass")
    monkeypatch.setenv("PATH", str(Path(command).parent))
    monkeypatch.setattr(program, "INSTALLED", tmp_path / "program.json")
    assert Program.of("", "").words == (command,)
    (tmp_path / "program.json").write_text(json.dumps([sys.executable, "-m", "pfmap"]))
    assert Program.of("", "").words == (sys.executable, "-m", "pfmap")
    (tmp_path / "program.json").write_text(json.dumps([str(tmp_path / "gone")]))
    assert Program.of("", "").words == (command,)


def test_canceling_is_a_line_that_lets_it_tidy_up(stand_in: Any) -> None:
    body = "tell('stage', text='a'); tell('error', text='heard ' + sys.stdin.readline()); sys.exit(130)"
    with pytest.raises(Stopped, match="heard stop"):
        run(stand_in(body), "predict", cancel_at="stage")


def test_what_does_not_heed_that_is_ended(
    stand_in: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(program, "_PATIENCE", 0.5)
    pid = tmp_path / "pid"
    body = f"open({str(pid)!r}, 'w').write(str(os.getpid())); tell('stage', text='a'); time.sleep(600)"
    begun = time.monotonic()
    with pytest.raises(Stopped):
        run(stand_in(body), "predict", cancel_at="stage")
    assert time.monotonic() - begun < 60
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_what_it_leaves_running_keeps_nobody_waiting(stand_in: Any) -> None:
    """As a helper that has its standard error open."""
    body = "os.fork() or (time.sleep(60), os._exit(0)); tell('result', outputs={})"
    begun = time.monotonic()
    run(stand_in(body), "predict")
    assert time.monotonic() - begun < 50


def test_its_libraries_are_not_those_of_qgis(stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONHOME", "PYTHONPATH", "GDAL_DATA", "PROJ_LIB", "QT_PLUGIN_PATH"):
        monkeypatch.setenv(name, "/qgis")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    ended, _ = run(stand_in("tell('result', outputs={}, env=dict(os.environ))"), "predict")
    assert "/qgis" not in ended.result["env"].values()
    assert ended.result["env"]["CUDA_VISIBLE_DEVICES"] == "1"


def test_behind_ssh_words_are_quoted_and_paths_have_their_names_there(
    stand_in: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for ssh: it has a shell take apart what it is given, as a server does."""
    stand_in("tell('result', outputs={'gpkg': '/srv/out/it is_objects.gpkg'}, words=words)")
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\nshift\nexec sh -c "$*"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{tmp_path / 'a folder'}:/usr/bin:/bin")
    words = [
        "predict",
        Place("/home/me/data/it is.tif"),
        "-o",
        Place("/home/me/out", "a'b"),
        "--classes",
        "$HOME",
    ]
    ended, _ = run("ssh server pfmap", *words, paths="/home/me=/srv; /home/me/data=/data/")
    assert ended.result["words"][:6] == [
        "predict",
        "/data/it is.tif",
        "-o",
        "/srv/out:a'b",
        "--classes",
        "$HOME",
    ]
    assert ended.result["outputs"] == {"gpkg": "/home/me/out/it is_objects.gpkg"}


def test_paths_that_have_no_name_there_are_refused(stand_in: Any) -> None:
    command = stand_in("tell('result', outputs={}, words=words)")
    with pytest.raises(
        ProgramError, match=r"/tmp/a\.tif has no name where pfmap runs: it is in none of /home/me"
    ):
        run(command, Place("/tmp/a.tif"), paths="/home/me=/srv")
    with pytest.raises(ProgramError, match="none of /home/me"):
        run(command, Place("/home/meyer/a.tif"), paths="/home/me=/srv")
    url = "https://host/a.tif"
    assert run(command, Place(url), paths="/home/me=/srv")[0].result["words"][0] == url
    with pytest.raises(ProgramError, match="'/home/me' is no pair of paths"):
        run(command, paths="/home/me")


def test_paths_of_windows_are_named_too() -> None:
    there = Program(("pfmap",), (("D:\\data", "/data"),))
    assert there.there("D:\\data\\a\\b.tif") == "/data/a/b.tif"
    assert there.here("/data/b.gpkg") == f"D:\\data{os.sep}b.gpkg"
    assert Program(("pfmap",), (("/data", "E:\\x"),)).there("/data/a/b") == "E:\\x\\a\\b"


def test_the_plugin_imports_nothing_of_pfmap_and_is_python_3_9() -> None:
    for path in SOURCE.glob("*.py"):
        tree = ast.parse(path.read_text(), feature_version=(3, 9))
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level < 2
                names = [node.module or ""] if not node.level else []
            assert not [name for name in names if name.split(".")[0] == "pfmap"], path
            assert not isinstance(node, ast.Match), path
    assert "from __future__ import annotations" in Path(program.__file__).read_text()  # str | None, in 3.9


def commands_of_the_toolbox() -> list[tuple[str, set[str]]]:
    """Each command that an algorithm runs, and the flags that its class and those it is made of write."""
    classes = {
        node.name: node
        for path in ("algorithm.py", "algorithms.py")
        for node in ast.parse((SOURCE / path).read_text()).body
        if isinstance(node, ast.ClassDef)
    }

    def flags(node: ast.ClassDef) -> set[str]:
        texts = [
            one.value
            for one in ast.walk(node)
            if isinstance(one, ast.Constant) and isinstance(one.value, str)
        ]
        bases = [classes[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in classes]
        own = {flag for text in texts for flag in re.findall(r"^(--?[a-z][a-z-]*)=?$", text)}
        return own.union(*map(flags, bases))

    return [
        (ast.literal_eval(one.value)[2], flags(node))
        for node in classes.values()
        for one in node.body
        if isinstance(one, ast.Assign) and isinstance(one.value, ast.Tuple)
    ]


def test_every_flag_of_the_toolbox_is_one_of_its_command() -> None:
    """Else nobody would know before QGIS is tried: a flag that is gone here breaks the toolbox."""
    told = commands_of_the_toolbox()
    assert {name for name, _ in told} == {
        "predict",
        "batch",
        "vectorize",
        "summary",
        "evaluate",
        "review",
        "train",
    }
    shared = {"-o", "-m", "--overwrite"}  # written in what all are made of, and not used by each
    for name, flags in told:
        command = cli.get_command(click.Context(cli), name)
        known = {flag for param in command.params for flag in param.opts}
        assert flags - shared <= known, name
        if name not in ("summary", "review"):
            assert {"--progress", "--stop-on-input"} <= known, name
