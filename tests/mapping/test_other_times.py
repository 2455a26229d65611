"""Work folders of other versions of pfmap, and clocks that are wrong: never misread, never another map."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import HANG
from conftest import Write, blobs, stand_in
from faulty import HERE, built, preloaded
from runs import TWO_FORMATS, PowerError, breaking, equal_outputs

import pfmap
from pfmap.version import __version__


def older(run: dict[str, Any], _work: Path) -> object:
    """Say that an older version wrote it."""
    return run | {"pfmap": "0.0.1"}


def newer(run: dict[str, Any], work: Path) -> object:
    """Say that a newer one did, which knows of more and has its swaths in another way."""
    for swath in work.glob("0*-*"):
        (swath / "swath.json").write_text(json.dumps({"format": 9, "rows": "0-56"}))
    return run | {"pfmap": "9.9.9", "format": 9}


def decoder(run: dict[str, Any], _work: Path) -> object:
    """Have begun under another GDAL, which may decode JPEG otherwise."""
    return run | {"pfmap": run["pfmap"].replace("GDAL ", "GDAL 9.")}


def more(run: dict[str, Any], _work: Path) -> object:
    """Know of more, under the same version, as a branch would."""
    return run | {"surroundings": "others"}


def fewer(run: dict[str, Any], _work: Path) -> object:
    """Lack what this version goes by."""
    return {key: value for key, value in run.items() if key != "options"}


def another_kind(run: dict[str, Any], _work: Path) -> object:
    """Be JSON, and no run's."""
    return list(run)


@pytest.mark.parametrize("change", [older, newer, decoder, more, fewer, another_kind])
def test_a_work_folder_of_another_version_is_thrown_away(
    change: Callable[[dict[str, Any], Path], object], write_scene: Write, tmp_path: Path
) -> None:
    scene, out = write_scene(blobs(300, 170)), tmp_path / "out"
    pfmap.predict(scene, tmp_path / "whole", model=breaking(None), **TWO_FORMATS)
    with pytest.raises(PowerError):
        pfmap.predict(scene, out, model=breaking(12), **TWO_FORMATS)
    work = out / ".scene.pfmap"
    run = work / "run.json"
    run.write_text(json.dumps(change(json.loads(run.read_text(encoding="utf-8")), work)))
    said: list[str] = []
    result = pfmap.predict(scene, out, model=breaking(None), on_message=said.append, **TWO_FORMATS)
    assert result.report["swaths"]["from_earlier_runs"] == 0
    equal_outputs(tmp_path / "whole", out)
    if change in (older, newer, decoder):
        why = "pfmap, torch or GDAL changed"
        assert any(why in line and "starting afresh" in line for line in said), said


def test_a_report_of_another_version_is_of_other_outputs(write_scene: Write, tmp_path: Path) -> None:
    scene = write_scene(blobs(100, 100))
    path = pfmap.predict(scene, tmp_path / "out", model=stand_in(), device="cpu").outputs["report"]
    report = json.loads(path.read_text(encoding="utf-8"))
    assert report["pfmap"] == __version__
    for other in (report | {"format": 9}, {key: report[key] for key in report if key != "map"}, [report]):
        path.write_text(json.dumps(other), encoding="utf-8")
        with pytest.raises(pfmap.PfmapError, match="exist already"):
            pfmap.predict(scene, tmp_path / "out", model=stand_in(), device="cpu")


@pytest.mark.parametrize("moment", [0, -86_400 * 365, 4_102_444_800, 2**31 + 5])
def test_a_scene_of_any_time_is_mapped_and_left_alone_afterwards(
    moment: int, write_scene: Write, tmp_path: Path
) -> None:
    """Of 1970 and before, and of a time to come: the time says whether it changed, and nothing else."""
    scene = write_scene(blobs(300, 170))
    os.utime(scene, (moment, moment))
    with pytest.raises(PowerError):
        pfmap.predict(scene, tmp_path / "out", model=breaking(12), **TWO_FORMATS)
    result = pfmap.predict(scene, tmp_path / "out", model=breaking(None), **TWO_FORMATS)
    assert result.report["swaths"]["from_earlier_runs"] > 0
    assert pfmap.predict(scene, tmp_path / "out", model=breaking(None), **TWO_FORMATS).skipped
    os.utime(scene, (moment + 1, moment + 1))
    with pytest.raises(pfmap.PfmapError, match="of the scene before it changed"):
        pfmap.predict(scene, tmp_path / "out", model=breaking(None), **TWO_FORMATS)


CLOCK = """
import os, sys, time
from pathlib import Path
from faulty import loaded
from runs import TWO_FORMATS, PowerError, breaking, equal_outputs
import pfmap
scene, folder = Path(sys.argv[1]), Path(sys.argv[2])
disk, now = loaded(), time.time()
def clock(seconds, zone):
    disk.pfmap_shift(int(seconds))
    os.environ["TZ"] = zone
    time.tzset()
pfmap.predict(scene, folder / "whole", model=breaking(None), **TWO_FORMATS)
year = 365 * 86400
moments = [(3 * year, 0), (0, -year), (1000 - now, 30 * year), (0, 1000 - now)]
for number, (first, second) in enumerate(moments):
    out = folder / str(number)
    clock(first, "Pacific/Kiritimati")
    assert abs(time.time() - now - first) < 3600
    try:
        pfmap.predict(scene, out, model=breaking(12), **TWO_FORMATS)
    except PowerError:
        pass
    clock(second, "America/Los_Angeles")
    result = pfmap.predict(scene, out, model=breaking(None), **TWO_FORMATS)
    assert result.report["swaths"]["from_earlier_runs"] > 0
    assert result.report["finished"].endswith("+00:00")
    assert pfmap.predict(scene, out, model=breaking(None), **TWO_FORMATS).skipped
    survey = pfmap.batch([scene], folder / f"survey {number}", model=breaking(None), device="cpu")
    assert not survey.scenes[0].reason
    clock(0, "UTC")
    equal_outputs(folder / "whole", out)
    print("equal", flush=True)
"""


@pytest.mark.slow
def test_a_clock_that_is_wrong_changes_nothing(write_scene: Write, tmp_path: Path) -> None:
    """Ahead by years and set back before the run goes on, or at the start of all time; in other zones too."""
    scene = write_scene(blobs(300, 170))
    environment = preloaded(built(tmp_path))
    command = [sys.executable, "-c", CLOCK, str(scene), str(tmp_path)]
    done = subprocess.run(
        command, env=environment, cwd=HERE, capture_output=True, text=True, check=False, timeout=2 * HANG
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["equal"] * 4
