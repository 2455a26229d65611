"""A run that breaks off at any moment goes on from its last finished swath, to the same bytes."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forks
import numpy as np
import pytest
import rasterio
import torch
from commands import HANG
from conftest import Pointwise, Write, blobs, houses, stand_in
from runs import TWO_FORMATS, Breaks, PowerError, breaking, equal_outputs
from torch import Tensor, nn

import pfmap
from pfmap.core.errors import TargetError
from pfmap.mapping import plan, work
from pfmap.mapping.swaths import Swath
from pfmap.model.store import Model
from pfmap.net.pfnet import PFNet


class Leaning(nn.Module):
    """Sees more in the last channel towards the lower right of its window: windows that overlap disagree."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, image: Tensor) -> Tensor:
        lean = torch.linspace(-3, 3, image.shape[-1])
        logits: Tensor = self.inner(image)
        logits[:, -1] += lean + lean[:, None]
        return logits


@pytest.mark.parametrize("ratio", [1.0, 2.37, 0.6])
@pytest.mark.parametrize(("overlap", "contact"), [(0, False), (8, False), (8, True), (32, False)])
def test_a_resumed_run_gives_the_same_bytes(
    overlap: int, ratio: float, contact: bool, write_scene: Write, tmp_path: Path
) -> None:
    side = round(230 * min(1.6, max(0.8, ratio)))
    scene = write_scene(houses(side, side)[0] if contact else blobs(side, side, smooth=12))
    model = stand_in(contact=("class_2",) if contact else ())
    model = dataclasses.replace(model, network=Leaning(model.network))
    spec = dataclasses.replace(model.card.input, gsd=(0.5 * ratio, 0.5 * ratio))
    model = dataclasses.replace(model, card=dataclasses.replace(model.card, input=spec))
    options = TWO_FORMATS | {"overlap": overlap, "sieve": "raster" if overlap == 8 else "polygons"}
    if contact:
        options |= {"tta": "d4", "probabilities": True, "threshold": {"class_0": 0.7, "class_2": 0.6}}
    counting = breaking(None, model)
    whole = pfmap.predict(scene, tmp_path / "whole", model=counting, **options)
    for share in (0.3, 0.95):
        out = tmp_path / f"cut {share}"
        at = max(2, int(share * counting.network.passes))
        with pytest.raises(PowerError):
            pfmap.predict(scene, out, model=breaking(at, model), **options)
        resumed = pfmap.predict(scene, out, model=breaking(None, model), **options)
        equal_outputs(tmp_path / "whole", out)
        assert resumed.report["classes"] == whole.report["classes"]
    assert resumed.report["swaths"]["from_earlier_runs"] >= 1


@pytest.mark.parametrize("ratio", [1.0, 2.37])
@pytest.mark.parametrize("overlap", [0, 8, 40])
def test_every_swath_of_a_tall_scene_can_be_computed_alone(
    overlap: int, ratio: float, write_scene: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Swaths end with rows of blocks, in the midst of what a row of windows finishes and blends."""
    model = stand_in(window=96)
    spec = dataclasses.replace(model.card.input, gsd=(0.5 * ratio, 0.5 * ratio))
    network = Leaning(model.network)
    model = Model(dataclasses.replace(model.card, input=spec), network, model.folder)
    scene = write_scene(blobs(1700, 150, smooth=15))
    empty = Swath.empty

    def filled(*of: Any) -> Swath:
        swath = empty(*of)
        for values in swath.layers:
            values[:] = 200  # what nobody fills in is seen
        return swath

    monkeypatch.setattr(Swath, "empty", filled)
    monkeypatch.setattr(plan, "SHARED_SWATH_PIXELS", 1)
    pfmap.predict(scene, tmp_path / "whole", model=model, overlap=overlap, **TWO_FORMATS)
    ready = work.Work.ready
    monkeypatch.setattr(work.Work, "ready", fail)
    with pytest.raises(PowerError):
        pfmap.predict(scene, tmp_path / "cut", model=model, overlap=overlap, **TWO_FORMATS)
    monkeypatch.setattr(work.Work, "ready", ready)
    kept = sorted((tmp_path / "cut" / ".scene.pfmap").glob("*-*"))
    assert [int(path.name.split("-")[0]) for path in kept] == [0, 512, 1024, 1536]
    for path in kept[1::2]:
        shutil.rmtree(path)
    assert run_again(scene, tmp_path / "cut", model, overlap=overlap)[0] == 2
    equal_outputs(tmp_path / "whole", tmp_path / "cut")


def fail(*_: Any) -> None:
    raise PowerError


def test_batches_fall_differently_and_it_does_not_matter(write_scene: Write, tmp_path: Path) -> None:
    """A real PFNet, several windows per pass: a window's result does not depend on its company."""
    card = stand_in().card
    card = dataclasses.replace(
        card, architecture=dataclasses.replace(card.architecture, width=16, embedding=8)
    )
    torch.manual_seed(0)
    model = Model(card, PFNet(card.architecture).eval(), Path("nowhere"))
    scene = write_scene(np.random.default_rng(0).integers(0, 256, (3, 300, 310), dtype=np.uint8))
    options = TWO_FORMATS | {"batch_size": 4}
    pfmap.predict(scene, tmp_path / "whole", model=breaking(None, model), **options)
    for at in (3, 5, 3):
        with pytest.raises(PowerError):
            pfmap.predict(scene, tmp_path / "cut", model=breaking(at, model), **options)
    pfmap.predict(scene, tmp_path / "cut", model=breaking(None, model), **options)
    equal_outputs(tmp_path / "whole", tmp_path / "cut")


def interrupted(scene: Path, out: Path, at: int = 20, **options: Any) -> None:
    with pytest.raises(PowerError):
        pfmap.predict(scene, out, model=breaking(at), **TWO_FORMATS | options)
    assert [p.name for p in out.iterdir()] == [".scene.pfmap"]


def run_again(scene: Path, out: Path, model: Model | None = None, **options: Any) -> tuple[int, str]:
    """Run to the end; how many swaths came from before, and what was said."""
    said: list[str] = []
    result = pfmap.predict(
        scene, out, model=model or breaking(None), on_message=said.append, **TWO_FORMATS | options
    )
    assert not (out / ".scene.pfmap").exists()
    return result.report["swaths"]["from_earlier_runs"], "\n".join(said)


def touch(scene: Path) -> dict[str, Any]:
    os.utime(scene, ns=(1, 1))
    return {}


def new_pixels(scene: Path) -> dict[str, Any]:
    with rasterio.open(scene, "r+") as dst:
        dst.write(np.full((3, 10, 10), 7, np.uint8), window=((0, 10), (0, 10)))
    return {}


def new_model(_scene: Path) -> dict[str, Any]:
    model = stand_in()
    network = Breaks(Pointwise(3))
    network.inner.levels += 0.01
    return {"model": dataclasses.replace(model, network=network)}


def with_options(**options: Any) -> Callable[[Path], dict[str, Any]]:
    return lambda _scene: options


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (touch, "the scene changed"),
        (new_pixels, "the scene changed"),
        (new_model, "the model changed"),
        (with_options(overlap=3), "an option changed"),
        (with_options(scale=(0, 200)), "an option changed"),
        (with_options(bbox=(300000.0, 2999900.0, 300100.0, 3000000.0)), "an option changed"),
    ],
)
def test_what_changes_the_result_makes_it_start_afresh(
    change: Callable[[Path], dict[str, Any]], words: str, write_scene: Write, tmp_path: Path
) -> None:
    scene = write_scene(blobs(300, 300, smooth=20))
    interrupted(scene, tmp_path / "out")
    resumed, said = run_again(scene, tmp_path / "out", **change(scene))
    assert resumed == 0
    assert words in said
    assert "starting afresh" in said


def test_swaths_without_contact_are_of_no_use_where_it_is_needed(write_scene: Write, tmp_path: Path) -> None:
    scene, model = write_scene(houses(230, 230)[0]), stand_in(contact=("class_2",))
    with pytest.raises(PowerError):
        pfmap.predict(scene, tmp_path, model=breaking(12, model), separate=("none",), **TWO_FORMATS)
    resumed, said = run_again(scene, tmp_path, breaking(None, model))
    assert resumed == 0
    assert "an option changed" in said


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"formats": ("shp",)},
        {"min_area": 3.0},
        {"batch_size": 2},
        {"classes": ("class_1",)},
        {"confidence": False},
    ],
)
def test_what_does_not_change_swaths_does_not(
    options: dict[str, Any], write_scene: Write, tmp_path: Path
) -> None:
    scene = write_scene(blobs(300, 300, smooth=20))
    interrupted(scene, tmp_path / "out")
    resumed, said = run_again(scene, tmp_path / "out", **options)
    assert resumed >= 2
    assert f"going on after {resumed} finished swaths" in said


def test_no_resume_starts_afresh(write_scene: Write, tmp_path: Path) -> None:
    scene = write_scene(blobs(300, 300, smooth=20))
    interrupted(scene, tmp_path / "out")
    assert run_again(scene, tmp_path / "out", resume=False)[0] == 0


def test_finished_swaths_are_not_computed_again(write_scene: Write, tmp_path: Path) -> None:
    scene = write_scene(blobs(300, 300, smooth=20))
    whole = breaking(None)
    swaths = pfmap.predict(scene, tmp_path / "whole", model=whole, **TWO_FORMATS).report["swaths"]["all"]
    row = whole.network.passes // swaths  # windows per swath: one window row here
    # Windows are computed side by side: up to two of those before may not be done yet.
    interrupted(scene, tmp_path / "out", at=3 * row + 4)
    rest = breaking(None)
    resumed, _ = run_again(scene, tmp_path / "out", rest)
    assert resumed == 3
    # All that is left, and the one window row above that it is blended with.
    assert rest.network.passes == whole.network.passes - 3 * row + row


def test_a_run_that_failed_before_the_first_swath_leaves_nothing(write_scene: Write, tmp_path: Path) -> None:
    scene = write_scene(blobs(300, 300, smooth=20))
    with pytest.raises(PowerError):
        pfmap.predict(scene, tmp_path / "out", model=breaking(2), **TWO_FORMATS)
    assert list((tmp_path / "out").iterdir()) == []


def test_two_runs_of_a_scene_do_not_meet(write_scene: Write, tmp_path: Path) -> None:
    scene = write_scene(blobs(300, 300, smooth=20))

    def second(_done: int, _total: int) -> None:
        with pytest.raises(TargetError, match="another pfmap maps this scene"):
            pfmap.predict(scene, tmp_path, model=stand_in(), **TWO_FORMATS)

    pfmap.predict(scene, tmp_path, model=stand_in(), on_progress=second, **TWO_FORMATS)


@pytest.mark.parametrize("renamed", range(8))
def test_a_run_that_broke_off_while_naming_its_files_ends_well(
    renamed: int, write_scene: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = write_scene(blobs(300, 300, smooth=20))
    pfmap.predict(scene, tmp_path / "whole", model=stand_in(), **TWO_FORMATS)
    real, count = work.publish, 0

    def publish(staged: Path, final: Path, **how: bool) -> None:
        nonlocal count
        if final.parent == tmp_path / "cut":
            if count == renamed:
                raise PowerError
            count += 1
        real(staged, final, **how)

    monkeypatch.setattr(work, "publish", publish)
    with pytest.raises(PowerError):
        pfmap.predict(scene, tmp_path / "cut", model=stand_in(), **TWO_FORMATS)
    monkeypatch.undo()
    monkeypatch.setattr("pfmap.mapping.mapper.Mapper.run", None)  # nothing is left to be mapped
    pfmap.predict(scene, tmp_path / "cut", model=stand_in(), **TWO_FORMATS)
    equal_outputs(tmp_path / "whole", tmp_path / "cut")
    assert json.loads((tmp_path / "cut" / "scene_report.json").read_text())["swaths"]["all"] > 3


def test_other_formats_after_a_break_while_naming_are_made_anew(
    write_scene: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, out = write_scene(blobs(300, 300, smooth=20)), tmp_path / "out"

    def fail(*_: Any) -> None:
        raise PowerError

    monkeypatch.setattr(work.Work, "finish_publishing", fail)
    with pytest.raises(PowerError):
        pfmap.predict(scene, out, model=stand_in(), **TWO_FORMATS)
    monkeypatch.undo()
    result = pfmap.predict(scene, out, model=stand_in(), **TWO_FORMATS | {"formats": ("shp",)})
    assert result.report["swaths"]["from_earlier_runs"] == result.report["swaths"]["all"]
    assert result.outputs["shp"].exists()
    assert not (out / "scene_objects.gpkg").exists()


KILL = """
import json, os, random, signal, sys, threading, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from conftest import Pointwise, stand_in
import pfmap, pfmap.survey.single
from pfmap.raster import target

scene, out, log = sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])

def reached():  # for whoever waits to kill this process
    (out / "reached").touch()
    threading.Event().wait()

class Stays(Pointwise):
    '''Computes so many windows, and then stays at the next one.'''
    def __init__(self, most):
        super().__init__(3)
        self.most = most
    def forward(self, image):
        with log.open("a") as file:
            file.write("window\\n")
        self.most -= 1
        if self.most < 0:
            reached()
        return super().forward(image)

def attempt(folder, most=10**9, finishes=True):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            real = target._assemble
            def assemble(*arguments):
                real(*arguments)
                if not finishes:
                    reached()
            target._assemble = assemble
            pfmap.predict(scene, folder, model=stand_in(network=Stays(most)), device="cpu", swath_pixels=1)
            status = 0
        finally:
            os._exit(status)
    return pid

def wait(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

assert wait(attempt(out / "whole")) == 0
windows = len(log.read_text().split())
log.write_text("")
chance = random.Random(int(sys.argv[5]))
swaths, kept = {}, []
# Ten moments while windows are computed, at random, and one while the files are finished.
for kill in range(11):
    (out / "reached").unlink(missing_ok=True)
    share = chance.randint(0, windows // 4)
    pid = attempt(out / "cut", share) if kill < 10 else attempt(out / "cut", finishes=False)
    while not (out / "reached").exists():
        assert os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None, "it ended by itself"
        time.sleep(0.01)
    time.sleep(chance.uniform(0, 0.15))  # other threads are at any point
    os.kill(pid, signal.SIGKILL)
    assert wait(pid) == -signal.SIGKILL
    now = {p.name: (p.stat().st_ino, (p / "swath.json").stat().st_mtime_ns)
           for p in (out / "cut" / ".scene.pfmap").glob("*-*") if p.suffix != ".part"}
    for name, facts in swaths.items():
        assert now.get(name) == facts, f"swath {name} was made again"
    swaths = now
    kept.append(len(now))
assert wait(attempt(out / "cut")) == 0
print(json.dumps({"kept": kept, "windows": windows, "all": len(log.read_text().split())}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_ten_kills_at_random_moments_change_nothing(seed: int, write_scene: Write, tmp_path: Path) -> None:
    scene = write_scene(blobs(800, 640, smooth=15))
    here = Path(__file__).parents[1]
    done = forks.run(["-c", KILL, here, scene, tmp_path / "out", tmp_path / "log", seed], 2 * HANG)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    print(figures)
    assert max(figures["kept"]) > 5
    equal_outputs(tmp_path / "out" / "whole", tmp_path / "out" / "cut")
