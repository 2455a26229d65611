"""Processes killed or stopped at bad moments: what is left is whole, and the same again ends well."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import forks
import psutil
import pytest
import rasterio
from chips import make_data
from commands import HANG
from commands import forked as command
from conftest import Write, blobs, stand_in
from runs import TWO_FORMATS, equal_outputs

import pfmap
from pfmap.model.store import load_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
]

HERE = Path(__file__).parent

START = """
import os, sys, threading
from pathlib import Path
sys.path.insert(0, sys.argv[1])
moment = sys.argv[2]
def wait(*_, **__):  # to be killed
    os.write(1, b"now\\n")
    threading.Event().wait()
"""

TRAIN = (
    START
    + """
import dataclasses
from pfmap.core.files import draft
from pfmap.model import store
from pfmap.train import loop
from pfmap.train.config import read_config
folder, out = Path(sys.argv[3]), Path(sys.argv[4])
def half(path, content):
    with draft(path) as part:
        part.write_bytes(content[:1000])
        wait()
def after(step):
    if moment == f"step {step.step}":
        wait()
if moment == "checkpoint":
    loop.write_bytes = half
elif moment == "weights":
    store.draft = lambda path: half(path, b"half of them")
elif moment == "card":
    store.write_text = wait
elif moment == "curves":
    loop.write_curves = wait
config = read_config(folder / "train.toml")
config = dataclasses.replace(config, training=dataclasses.replace(config.training, checkpoint_minutes=0.0))
loop.train(config, folder, out, on_step=after, resume=(out / "checkpoint.pt").exists())
"""
)

EVALUATE = (
    START
    + """
from pfmap.core import files
from pfmap.evaluation import comparison
from pfmap.vector import geodesy
if moment == "counting":
    comparison.Comparison.add = wait
elif moment == "page":
    files.publish = wait
elif moment == "summing":
    geodesy.Measurer.measure = wait
from pfmap.cli.main import run
run(sys.argv[3:])
"""
)


def killed(script: str, *arguments: object) -> None:
    """Run until the script says that it has come to its moment, and kill it there."""
    with forks.begin(["-c", script, HERE, *arguments], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "now\n"
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def train(data: Path, out: Path) -> dict[str, bytes]:
    """Train to the end; return what is written."""
    done = forks.run(["-c", TRAIN, HERE, "", data, out], HANG)
    assert done.returncode == 0, done.stderr
    return contents(out)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a training that nothing stops writes."""
    return train(data, tmp_path_factory.mktemp("whole") / "model")


@pytest.mark.parametrize("moments", [("step 1", "step 4"), ("checkpoint",), ("weights",), ("card", "curves")])
def test_a_training_that_is_killed_goes_on_to_the_same_model(
    moments: tuple[str, ...], data: Path, trained: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "cut" / "model"
    for moment in moments:
        killed(TRAIN, moment, data, out)
        if (out / "model.toml").exists():  # what has a card is whole
            load_model(out)
    made = train(data, out)
    assert made.keys() == trained.keys()
    for name in ("weights.safetensors", "model.toml", "curves.csv"):
        assert made[name] == trained[name]


@pytest.mark.parametrize("moment", ["counting", "page"])
def test_an_evaluation_that_is_killed_leaves_no_half_page(
    moment: str, write_scene: Write, tmp_path: Path
) -> None:
    pfmap.predict(write_scene(blobs(150, 150)), tmp_path / "maps", model=stand_in(), device="cpu")
    made = tmp_path / "maps/scene_classes.tif"
    before = contents(tmp_path / "maps")
    page = tmp_path / "pages/page.html"
    page.parent.mkdir()
    arguments = ["evaluate", made, made, "--html", page]
    killed(EVALUATE, moment, *arguments)
    assert not page.exists()
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
    assert page.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert [path.name for path in page.parent.iterdir()] == ["page.html"]
    assert contents(tmp_path / "maps") == before


def test_a_summary_that_is_killed_leaves_its_objects_alone(write_scene: Write, tmp_path: Path) -> None:
    """SQLite would rather leave side files there."""
    pfmap.predict(write_scene(blobs(150, 150)), tmp_path / "maps", model=stand_in(), device="cpu")
    objects, before = tmp_path / "maps/scene_objects.gpkg", contents(tmp_path / "maps")
    whole = command("summary", objects, "--json")
    killed(EVALUATE, "summing", "summary", objects)
    assert contents(tmp_path / "maps") == before
    assert command("summary", objects, "--json").stdout == whole.stdout != ""


PREDICT = (
    START
    + """
import rasterio
from conftest import Pointwise, stand_in
import pfmap
class Telling(Pointwise):
    passes = 0
    def forward(self, image):
        self.passes += 1
        if self.passes == 5:
            os.write(1, b"now\\n")
        return super().forward(image)
pfmap.predict(sys.argv[3], sys.argv[4], model=stand_in(network=Telling(3)), device="cpu", swath_pixels=12_000,
    formats=("gpkg", "geojson"))
"""
)


def test_a_process_that_is_stopped_and_continued_goes_on(write_scene: Write, tmp_path: Path) -> None:
    scene = write_scene(blobs(900, 170))
    pfmap.predict(scene, tmp_path / "whole", model=stand_in(), **TWO_FORMATS)
    words = [sys.executable, "-c", PREDICT, str(HERE), "", str(scene), str(tmp_path / "out")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n"
        for _ in range(3):
            process.send_signal(signal.SIGSTOP)
            assert os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT) is not None
            assert psutil.Process(process.pid).status() == psutil.STATUS_STOPPED
            process.send_signal(signal.SIGCONT)
        assert process.wait(HANG) == 0
    equal_outputs(tmp_path / "whole", tmp_path / "out")
    with rasterio.open(tmp_path / "out/scene_classes.tif") as src:
        assert src.shape == (900, 170)
