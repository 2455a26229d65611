"""Programs can follow a command, and stop it."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import HANG, PFMAP, forked, here, pfmap, wait_until
from conftest import Write, blobs

ROOT = Path(__file__).parents[2]
ROWS = re.findall(r"^\| (`.*?) \| (.*?) \| .* \|$", (ROOT / "docs/programs.md").read_text(), re.MULTILINE)
FIELDS = {
    event: set(re.findall(r"`(\w+)`", fields))
    for names, fields in ROWS
    for event in re.findall(r"`(\w+)`", names)
}

ENDED = "standard input ended: stopping (a container needs -i for it to be open)"

# The command line, with a command in place of the others that does what is put in here.
COMMAND = """
import os, sys, time
import click
from pfmap.cli import main
from pfmap.cli.common import Command
from pfmap.cli.progress import run_with_progress
from pfmap.core.errors import SourceError

@click.command(cls=Command)
@click.option("-q", "--quiet", is_flag=True)
def own(quiet):
    os.write(2, b"from C, https://h/a.tif?sig=abcdefgh\\n")
    def work(on_progress, on_message):
        {body}
    run_with_progress(work, quiet=quiet)

main.LazyGroup.get_command = lambda *_: own
main.run(["own", *sys.argv[1:]])
"""


def own(body: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", COMMAND.format(body=body), "--progress", "json", *arguments]


def events(text: str) -> list[dict[str, Any]]:
    """All lines of standard error: each has to be what docs/programs.md says."""
    read = [json.loads(line) for line in text.splitlines()]
    for one in read:
        assert set(one) - {"event"} <= FIELDS[one["event"]], one
        if one["event"] != "result":
            assert set(one) - {"event"} == FIELDS[one["event"]], one
    assert (read[0]["event"], read[0]["format"]) == ("start", 1)
    return read


def ran(body: str, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    done = subprocess.run(own(body, *arguments), capture_output=True, text=True, check=False, cwd=ROOT)
    return done.returncode, events(done.stderr)


def test_the_page_names_the_events() -> None:
    assert {"start", "stage", "plan", "progress", "scene", "warning", "message", "result", "error"} <= set(
        FIELDS
    )


def test_a_scene_is_followed_from_plan_to_files(small: str, write_scene: Write, tmp_path: Path) -> None:
    scene = write_scene(blobs(300, 400))
    done = forked("predict", scene, "-m", small, "-o", tmp_path / "out", "--progress", "json", "--gsd", "0.5")
    told = events(done.stderr)
    assert done.returncode == 0, done.stderr
    assert [one["stage"] for one in told if one["event"] == "stage"] == ["plan", "map", "finish"]
    (plan,) = (one for one in told if one["event"] == "plan")
    assert (plan["scene"]["width"], plan["plan"]["output_height"]) == (400, 300)
    assert [one["text"] for one in told if one["event"] == "warning"] == plan["warnings"]
    progress = [one for one in told if one["event"] == "progress"]
    assert (progress[-1]["done"], progress[-1]["total"], progress[-1]["unit"]) == (120_000, 120_000, "px")
    assert told[-1]["event"] == "result"
    assert set(told[-1]["outputs"]) >= {"classes", "confidence", "gpkg", "project", "report"}
    assert all(Path(path).is_file() for path in told[-1]["outputs"].values())


def test_a_survey_tells_of_each_scene_and_of_failure(small: str, write_scene: Write, tmp_path: Path) -> None:
    (tmp_path / "survey").mkdir()
    scene = write_scene(blobs(100, 120), "survey/scene.tif")
    scene.with_name("broken.tif").write_text("no raster")
    done = forked("batch", scene.parent, "-m", small, "-o", tmp_path / "out", "--progress", "json")
    told = events(done.stderr)
    scenes = {one["name"]: one for one in told if one["event"] == "scene"}
    assert {name: one["state"] for name, one in scenes.items()} == {scene.stem: "done", "broken": "failed"}
    assert scenes["broken"]["reason"]
    assert [one["event"] for one in told][-2:] == ["result", "error"]
    assert done.returncode == told[-1]["status"] == 1
    assert Path(told[-2]["outputs"]["gpkg"]).is_file()
    assert [one["stage"] for one in told if one["event"] == "stage"] == ["map", "join"]


def test_bad_input_is_told_with_its_status(small: str, tmp_path: Path) -> None:
    missing = tmp_path / "none.tif"
    told = events(pfmap("predict", missing, "-m", small, "--progress=json").stderr)
    assert told[1:-1] in ([], [{"event": "stage", "stage": "plan", "text": "planning"}])
    assert told[-1] == {"event": "error", "text": f"{missing} does not exist: check the path", "status": 1}


@pytest.mark.parametrize("wrong", [["--no-such"], ["--batch-size", "x"]])
def test_usage_is_told_too(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    done = here(capsys, "predict", "a.tif", "--progress", "json", *wrong)
    told = events(done.stderr)
    assert (told[-1]["event"], told[-1]["status"], done.returncode) == ("error", 2, 2)
    assert wrong[0] in told[-1]["text"]
    assert "json" not in here(capsys, "predict", "a.tif", *wrong).stderr  # a next command is as ever


def test_work_is_told_while_it_goes_on_with_the_time_that_is_left() -> None:
    body = "[(on_progress(k, 40), time.sleep(0.05)) for k in range(41)]; on_message('warning: of a\\nand b')"
    status, told = ran(body)
    progress = [one for one in told if one["event"] == "progress"]
    assert status == 0
    assert 3 <= len(progress) <= 8
    assert [one["done"] for one in progress] == sorted({one["done"] for one in progress})
    assert progress[-1]["done"] == 40
    assert all(0 <= one["seconds_left"] < HANG for one in progress if one["done"])
    assert progress[1]["seconds_left"] > progress[-1]["seconds_left"] == 0


def test_quiet_leaves_the_ends() -> None:
    status, told = ran("on_progress(1, 2); on_message('hm'); raise SourceError('lost')", "--quiet")
    assert (status, [one["event"] for one in told]) == (1, ["start", "error"])


def test_secrets_and_control_codes_are_told_to_programs_no_more_than_to_people() -> None:
    _, told = ran("on_message('at https://h/a?sig=abcdefgh \\x1b[31m \\xff')", "-v")
    texts = {one["event"]: one["text"] for one in told if "text" in one}
    assert texts["message"].startswith("at https://h/a?<redacted>")
    assert texts["library"] == "from C, https://h/a.tif?<redacted>"


def test_a_crash_passes_on_what_libraries_said_as_json() -> None:
    status, told = ran("1 / 0")
    kinds = [one["event"] for one in told]
    assert (status, [kind for kind in kinds if kind != "library"][-1]) == (1, "error")
    assert any("ZeroDivisionError" in one["text"] for one in told if one["event"] == "message")
    assert "library" in kinds


@pytest.mark.parametrize(("given", "why"), [(b"stop\n", []), (b"", [ENDED])])
def test_a_line_on_standard_input_or_its_end_stops_the_work(given: bytes, why: list[str]) -> None:
    body = "[(on_progress(k, 10**9), time.sleep(0.01)) for k in range(10**9)]"
    with subprocess.Popen(
        own(body, "--stop-on-input"), stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as process:
        first = process.stderr.readline() + process.stderr.readline()
        assert b"progress" in first or b"library" in first or b"start" in first
        rest, error = process.communicate(given, timeout=HANG)
        told = events((first + error).decode())
    assert (process.returncode, rest) == (130, None)
    assert (told[-1]["event"], told[-1]["status"]) == ("error", 130)
    assert [one["text"] for one in told if one["event"] == "message"] == why


@pytest.mark.slow
def test_a_run_that_a_line_stopped_goes_on(small: str, write_scene: Write, tmp_path: Path) -> None:
    scene = write_scene(blobs(1600, 1600))
    command = [PFMAP, "predict", scene, "-m", small, "-o", tmp_path, "--progress", "json", "--stop-on-input"]
    log = tmp_path / "log"
    with log.open("wb") as err:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=err, stdout=err)
        wait_until(lambda: b'"progress"' in log.read_bytes(), process)
        process.communicate(b"stop\n", timeout=HANG)
    assert process.returncode == 130
    assert not list(tmp_path.glob("scene_*"))
    assert pfmap("predict", scene, "-m", small, "-o", tmp_path).returncode == 0


def test_without_a_bar_messages_stay_text(
    capsys: pytest.CaptureFixture[str], write_scene: Write, tmp_path: Path
) -> None:
    raster = write_scene(np.eye(64, dtype=np.uint8)[None], crs=None)
    done = here(capsys, "vectorize", raster, "-o", tmp_path, "--progress", "none", "--names", "0=a,1=b")
    assert done.returncode == 0, done.stderr
    assert f"warning: {raster} has no CRS" in done.stderr
    assert '"event"' not in done.stderr
