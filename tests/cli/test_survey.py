"""Surveys from the command line: whole processes, where more than a refusal is looked at."""

import json
import subprocess
from pathlib import Path

import forks
import geopandas as gpd
import pytest
from affine import Affine
from commands import forked, here, pfmap
from conftest import NORTH_UP, Write, blobs


@pytest.fixture
def survey(write_scene: Write, tmp_path: Path) -> Path:
    """Two sheets of one image side by side, in two folders, and a damaged one."""
    image = blobs(150, 300)
    for name, col in (("west", 0), ("east", 150)):
        (tmp_path / "in" / name).mkdir(parents=True)
        place = NORTH_UP @ Affine.translation(col, 0)
        write_scene(image[:, :, col : col + 150], f"in/{name}/sheet.tif", transform=place)
    (tmp_path / "in/broken.tif").write_bytes(b"nothing")
    return tmp_path / "in"


@pytest.mark.slow
def test_a_survey_becomes_one_map_and_failures_are_told(small: str, survey: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = pfmap("batch", survey, "-o", out, "-m", small)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"1 of 3 scenes could not be mapped; {out / 'failures.csv'} says why" in done.stderr
    assert "2 mapped, 0 mapped already, 1 failed" in done.stdout
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert {
        "failures.csv", "survey_classes.vrt", "survey_confidence.vrt", "survey_objects.gpkg", "survey.qgz",
        "west/sheet_classes.tif", "east/sheet_objects.gpkg",
    } <= names  # fmt: skip
    assert not [name for name in names if "/." in f"/{name}"]
    layer = gpd.read_file(out / "survey_objects.gpkg", layer="objects")
    assert set(layer["scene"]) <= {"west/sheet", "east/sheet"}
    assert len(layer)
    total = forked("summary", out / "survey_objects.gpkg", "--json")
    assert sum(row["objects"] for row in json.loads(total.stdout)) == len(layer)


@pytest.mark.slow
def test_again_nothing_is_done_but_what_failed(
    small: str, survey: Path, tmp_path: Path, write_scene: Write
) -> None:
    out = tmp_path / "out"
    forked("batch", survey, "-o", out, "-m", small)
    report = out / "west" / "sheet_report.json"
    report.rename(out / "kept")
    done = forked("batch", survey, "-o", out, "-m", small, "--retry-failed", "--json")
    reasons = {row["name"]: row["reason"] for row in json.loads(done.stdout)["scenes"]}
    assert reasons["west/sheet"] == "it is not mapped yet: run without --retry-failed"
    (out / "kept").rename(report)
    (survey / "broken.tif").unlink()
    write_scene(blobs(80, 80), "in/broken.tif", transform=NORTH_UP @ Affine.translation(0, 150))
    done = forked("batch", survey, "-o", out, "-m", small, "--retry-failed", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {row["name"]: row["state"] for row in found["scenes"]} == {
        "broken": "done", "east/sheet": "skipped", "west/sheet": "skipped",
    }  # fmt: skip
    assert sum(row["pixels"] for row in found["classes"]) == 150 * 300 + 80 * 80
    assert not (out / "failures.csv").exists()


@pytest.mark.usefixtures("survey")
def test_many_scenes_can_be_predicted_without_a_survey(small: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("in/west\nin/east/sheet.tif\n")
    done = forked("predict", f"@{tmp_path / 'list.txt'}", "-o", tmp_path / "out", "-m", small, "--json")
    assert done.returncode == 0, done.stderr
    assert [row["state"] for row in json.loads(done.stdout)] == ["done", "done"]
    assert not list((tmp_path / "out").glob("survey*"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["in/nothing"], "does not exist"),
        (["in/empty"], "empty has no raster (it has no file at all)"),
        (["in/west", "in/west/sheet.tif"], "is named twice"),
        (["in", "-o", "in/maps"], "lies in"),
        (["in", "--glob", "*.jp2"], "no file that matches '*.jp2'"),
        (["in", "--retry-failed"], "no scene failed in an earlier run"),
        (["in", "--mosaic", "--retry-failed"], "leave one out"),
        (["@in/list.txt"], "the list in/list.txt cannot be read"),
    ],
)
@pytest.mark.usefixtures("survey")
def test_what_is_no_survey_is_refused_in_a_line(
    args: list[str],
    message: str,
    small: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "in/empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    args = [*args, *([] if "-o" in args else ["-o", "out"])]
    done = here(capsys, "batch", *args, "-m", small)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


UNTIL_ONE_IS_DONE = """
import sys, threading, pfmap
def stay(result):
    print("one is done", flush=True)
    threading.Event().wait()
pfmap.batch(sys.argv[1], sys.argv[2], model=sys.argv[3], on_scene=stay)
"""


@pytest.mark.slow
def test_a_killed_survey_goes_on_where_it_was(small: str, write_scene: Write, tmp_path: Path) -> None:
    image = blobs(700, 700, smooth=21)
    (tmp_path / "in").mkdir()
    for number in range(6):
        write_scene(image, f"in/s{number}.tif", transform=NORTH_UP @ Affine.translation(700 * number, 0))
    out = tmp_path / "out"
    begin = ["-c", UNTIL_ONE_IS_DONE, tmp_path / "in", out, small]
    with forks.begin(begin, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "one is done\n"
        process.kill()
    found = sorted(out.glob("*_report.json"))
    assert found
    before = {path: path.read_text() for path in found}
    assert not (out / "survey_objects.gpkg").exists()
    done = forked("batch", tmp_path / "in", "-o", out, "-m", small, "--json")
    assert done.returncode == 0, done.stderr
    states = {row["name"]: row["state"] for row in json.loads(done.stdout)["scenes"]}
    assert {path: path.read_text() for path in found} == before  # not mapped again, also if only just done
    assert len(states) == 6
    assert "done" in states.values()
    assert not list(out.rglob(".*"))
