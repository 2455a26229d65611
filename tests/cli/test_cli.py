"""The command line as a user meets it: in a process of its own."""

import gc
import importlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from commands import HANG, PFMAP, forked, here, interruptible, pfmap, wait_until
from conftest import Write, blobs

from pfmap.cli.main import importing
from pfmap.model.store import user_models


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("predict", "--help")])
def test_help_and_version_load_no_heavy_library(arguments: tuple[str, ...]) -> None:
    code = (
        "import sys; sys.argv = ['pfmap', *sys.argv[1:]]\n"
        "from pfmap.cli.main import run\n"
        "try: run()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'geopandas', 'rasterio', 'numpy', 'shapely', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_what_cannot_be_imported_leaves_the_search_for_garbage_on() -> None:
    frozen = gc.get_freeze_count()
    with pytest.raises(ModuleNotFoundError), importing():
        importlib.import_module("module_of_no_such_name")
    assert gc.isenabled()
    assert gc.get_freeze_count() == frozen


@pytest.mark.parametrize("command", [(), ("evaluate",)])
def test_examples_in_the_help_stay_on_lines_of_their_own(command: tuple[str, ...]) -> None:
    lines = [line.strip() for line in pfmap(*command, "--help").stdout.splitlines()]
    assert not any("\\b" in line or "\b" in line for line in lines)
    assert any(line.startswith("pfmap evaluate ") for line in lines)


@pytest.mark.slow
def test_predict_writes_what_it_promises(small: str, write_scene: Write, tmp_path: Path) -> None:
    scene = write_scene(blobs(130, 150))
    done = pfmap("predict", scene, "-o", tmp_path / "out", "-m", small, "--device", "cpu", "--format", "shp")
    assert done.returncode == 0, done.stderr
    written = {p.name for p in (tmp_path / "out").iterdir()}
    stems = {f"scene_objects.{e}" for e in ("shp", "shx", "dbf", "prj", "cpg", "qml")}
    rasters = {f"scene_{r}.{e}" for r in ("classes", "confidence") for e in ("tif", "qml")}
    assert written == stems | rasters | {"scene_classes.tif.aux.xml", "scene.qgz", "scene_report.json"}
    assert "cpu" in done.stderr
    assert "float32" in done.stderr or "bfloat16" in done.stderr
    for name in ("scene_classes.tif", "scene_objects.shp", "scene_report.json"):
        assert f"wrote {tmp_path / 'out' / name}" in done.stdout


def test_json_goes_to_stdout_alone(small: str, write_scene: Write) -> None:
    scene = write_scene(blobs(70, 70))
    done = forked("predict", scene, "-m", small, "--json", "--no-confidence")
    report = json.loads(done.stdout)
    assert report["model"]["name"] == "stand_in"
    assert "confidence" not in report["outputs"]
    assert not scene.with_name("scene_confidence.tif").exists()


def test_quiet_says_nothing(small: str, write_scene: Write) -> None:
    done = pfmap("predict", write_scene(blobs(70, 70)), "-m", small, "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_usage_errors_exit_with_2_and_others_with_1(
    small: str, write_scene: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each in this process; the first of either kind as a command, too."""
    scene = write_scene(blobs(70, 70))
    two_bands = write_scene(blobs(70, 70)[:2], "two.tif")
    empty = write_scene(np.zeros((3, 70, 70), "uint8"), "empty.tif", nodata=0)
    weightless = user_models() / "weightless"
    weightless.mkdir()
    (weightless / "model.toml").write_bytes((user_models() / "small" / "model.toml").read_bytes())
    cases: list[tuple[int, str, tuple[object, ...]]] = [
        (1, "does not exist", ("missing.tif",)),
        (1, "not a raster", (tmp_path / "models.txt",)),
        (2, "--bands", (two_bands,)),
        (2, "bands 1 to 3", (scene, "--bands", "1,2,4")),
        (2, "no list of numbers", (scene, "--bands", "red")),
        (1, "no valid pixel", (empty,)),
        (1, "is unknown: available are", (scene, "-m", "nothing")),
        (1, "no weights", (scene, "-m", "weightless")),
        (2, "--overlap", (scene, "--overlap", "40")),
        (1, "class 'tree' is unknown", (scene, "--classes", "tree")),
        (1, "class 'tree' is unknown", (scene, "--regularize", "tree")),
        (2, "name it in --classes too", (scene, "--regularize", "class_1", "--classes", "class_2")),
        (1, "cuda", (scene, "--device", "cuda:99")),
        (1, "device 'tpu' is unknown", (scene, "--device", "tpu")),
        (2, "No such option", (scene, "--no-such-option")),
    ]
    (tmp_path / "models.txt").write_text("text")
    for number, (status, words, arguments) in enumerate(cases):
        options = () if "-m" in arguments else ("-m", small)
        command = ("predict", *arguments, *options, "-o", tmp_path / "out")
        for done in (here(capsys, *command), *([forked(*command)] if number in (0, 2) else [])):
            assert done.returncode == status, (arguments, done.stderr)
            error = done.stderr.strip().splitlines()[-1]
            assert error.startswith("Error: "), (arguments, done.stderr)
            assert words in error
            assert "Traceback" not in done.stderr
        assert not any(p for p in (tmp_path / "out").glob("*")), arguments


def test_an_unwritable_folder_is_a_clear_error(small: str, write_scene: Write, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = forked("predict", write_scene(blobs(70, 70)), "-m", small, "-o", tmp_path / "file" / "out")
    assert done.returncode == 1
    assert "cannot be written" in done.stderr.splitlines()[-1]
    assert "--output-dir" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_full_disk_leaves_nothing_under_a_final_name(
    small: str, write_scene: Write, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    noise = np.repeat(rng.integers(0, 256, (1, 400, 400), dtype=np.uint8), 3, axis=0)
    scene = write_scene(noise)
    out = tmp_path / "out"

    def small_files_only() -> None:
        # A process that may write no file beyond this size meets what a full disk gives: a failed write.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))

    done = pfmap("predict", scene, "-m", small, "-o", out, preexec_fn=small_files_only)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "could not be written" in done.stderr.splitlines()[-1]
    assert "disk is full" not in done.stderr.splitlines()[-1]  # it is not
    assert [p for p in out.iterdir() if p.name != ".scene.pfmap"] == []


def test_a_page_never_replaces_what_it_is_about(tmp_path: Path) -> None:
    (tmp_path / "map.tif").write_bytes(b"precious")
    done = pfmap("evaluate", tmp_path / "map.tif", tmp_path / "truth.tif", "--html", tmp_path / "map.tif")
    assert done.returncode == 2
    assert "would replace" in done.stderr
    assert (tmp_path / "map.tif").read_bytes() == b"precious"


@pytest.mark.slow
def test_existing_outputs_are_refused(
    small: str, write_scene: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = write_scene(blobs(70, 70))
    assert forked("predict", scene, "-m", small).returncode == 0
    before = {p: p.read_bytes() for p in scene.parent.glob("scene_*")}
    done = here(capsys, "predict", scene, "-m", small, "--min-area", "2")
    assert done.returncode == 1
    assert "(of other options): replace with --overwrite" in done.stderr
    assert {p: p.read_bytes() for p in scene.parent.glob("scene_*")} == before
    done = here(capsys, "predict", scene, "-m", small)
    assert done.returncode == 0
    assert "is mapped already" in done.stdout
    assert here(capsys, "predict", scene, "-m", small, "--overwrite", "--min-area", "2").returncode == 0


@pytest.mark.slow
def test_ctrl_c_leaves_no_half_file(small: str, write_scene: Write, tmp_path: Path) -> None:
    scene = write_scene(blobs(3000, 3000))
    out = tmp_path / "out"
    command = interruptible(PFMAP, "predict", scene, "-m", small, "-o", out)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: out.is_dir() and any(out.iterdir()), process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=HANG)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert list(out.iterdir()) == []


@pytest.mark.slow
def test_models_list_and_info(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(forked("models", "list", "--json").stdout)
    assert "small" in {row["name"] for row in rows}
    info = here(capsys, "models", "info", small)
    assert "class_1" in info.stdout
    assert "efficientnet_lite0" in info.stdout
    landcover = here(capsys, "models", "info", "landcover").stdout
    assert "#d7301f, objects from 4 m2 on" in landcover
    assert "0.05 to 2 m per pixel, coarser scenes enlarged to 0.22 m\n" in landcover
    assert re.search(r"^learned mean    0\.\d+ to 0\.\d+, ", landcover, flags=re.MULTILINE)
    missing = forked("models", "info", "nothing")
    assert (missing.returncode, missing.stdout) == (1, "")


def test_models_import_reports_what_does_not_fit(tmp_path: Path) -> None:
    torch.save({"state_dict": {"module.x": torch.zeros(1)}}, tmp_path / "c.pth")
    done = forked("models", "import", tmp_path / "c.pth", "--preset", "isaid", "--name", "mine")
    assert done.returncode == 1
    assert "module.x" not in done.stdout
    assert "is missing" in done.stderr
    assert not (user_models() / "mine").exists()


def test_names_with_spaces_and_umlauts_work(small: str, write_scene: Write) -> None:
    scene = write_scene(blobs(70, 70), "Übersicht Süd 1.tif")
    done = pfmap("predict", scene, "-m", small, env={**os.environ, "PYTHONUTF8": "1"})
    assert done.returncode == 0, done.stderr
    with rasterio.open(scene.with_name("Übersicht Süd 1_classes.tif")) as src:
        assert src.shape == (70, 70)
