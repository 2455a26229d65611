"""Map one scene with pfmap, GeoDeep and habitat-mapper: the same weights, windows and threads, in one run.

    python -m examples.compare_peers OUT [--model landcover] [--size 3000x2200] [--runs 3] [--threads 2]

The network is exported to ONNX for the other two; each of them is installed into an environment of its own in
OUT. Programs take turns, each in a fresh process, so that a noisy machine hits all; medians count. With
--model resnet50 it is the published network with random weights: right for time, of no use for the map.

What they do is not the same. GeoDeep cuts windows at the middle of their overlap and writes one raster (its
GeoJSON would take another run); habitat-mapper blends windows that always overlap by half, and writes one
raster; pfmap blends, and writes classes, confidence, polygons, a QGIS project and a report.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
import venv
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import rasterio
import torch

from pfmap.core.card import Architecture
from pfmap.core.classes import ClassSpec
from pfmap.model.export import export_onnx
from pfmap.model.store import Model, load_model, write_model
from pfmap.net.pfnet import PFNet
from pfmap.raster.synthetic import read_pattern, write_scene

SCENE = Path(__file__).parent / "banepa.tif"
GSD = 0.1
OVERLAP = 20  # percent, as in the exported model

_HABITAT = """
import sys
from habitat_mapper.model import ONNXModel
ONNXModel.from_json_config(sys.argv[1]).process(sys.argv[2], sys.argv[3], blur_kernel_size=0, quiet=True)
"""


@dataclass(frozen=True)
class Peer:
    """A program: how it is called, and the class raster that it leaves."""

    name: str
    command: list[str]
    raster: Path


@dataclass(frozen=True)
class Took:
    """What one run took: seconds on the clock, and megabytes of memory at most."""

    seconds: float
    megabytes: float


def resnet50() -> Model:
    """The published network for iSAID, with random weights."""
    torch.manual_seed(0)
    architecture = Architecture("resnet50", 16)
    card = load_model("landcover").card
    card = replace(
        card, name="resnet50", architecture=architecture, accuracy={},
        classes=tuple(ClassSpec(f"class_{i}", f"#{40 + 12 * i:02x}80{220 - 12 * i:02x}") for i in range(16)),
        input=replace(card.input, window=512),
    )  # fmt: skip
    return Model(card, PFNet(architecture).eval(), Path())


def install(folder: Path, *packages: str) -> Path | None:
    """Make an environment with packages, and return its bin folder; None if they do not install."""
    bin_folder = folder / ("Scripts" if os.name == "nt" else "bin")
    if not folder.is_dir():
        venv.create(folder, with_pip=True)
        pip = [bin_folder / "python", "-m", "pip", "install", "--quiet", *packages]
        if subprocess.run(pip, check=False).returncode:
            shutil.rmtree(folder)  # or the next run would take it for installed
            return None
    return bin_folder


def run(peer: Peer, threads: int) -> Took:
    """Run a program in a process of its own, and measure it."""
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    peer.raster.unlink(missing_ok=True)
    begun = time.perf_counter()
    with subprocess.Popen(
        peer.command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{peer.name} failed:\n{said.decode(errors='replace')}")
    return Took(time.perf_counter() - begun, usage.ru_maxrss / 1024)


def peers(out: Path, scene: Path, model_folder: Path, model: Model, onnx: Path, threads: int) -> list[Peer]:
    """Set up the programs; those that do not install are left out."""
    overlap = model.card.input.window * OVERLAP // 100
    found = [
        Peer(
            "pfmap",
            [sys.executable, "-m", "pfmap", "predict", str(scene), "-o", str(out / "pfmap"), "--model",
             str(model_folder), "--overlap", str(overlap), "--device", "cpu", "--overwrite", "--quiet"],
            out / "pfmap" / f"{scene.stem}_classes.tif",
        )
    ]  # fmt: skip
    if geodeep := install(out / "geodeep-env", "geodeep", "onnx"):
        mask = out / "geodeep.tif"
        command = [geodeep / "geodeep", scene, onnx, "-t", "mask", "-o", mask, "--max-threads", threads, "-q"]
        found.append(Peer("GeoDeep", [str(part) for part in command], mask))
    if habitat := install(out / "habitat-env", "habitat-mapper"):
        config = out / "habitat.json"
        config.write_text(
            json.dumps(
                {
                    "name": model.card.name, "revision": "20260101", "dependencies": [str(onnx.resolve())],
                    "model_filename": onnx.name, "activation": None, "normalization": None,
                    "max_pixel_value": 255, "nodata_value": 255,
                }
            )
        )  # fmt: skip
        raster = out / "habitat.tif"
        command = [habitat / "python", "-c", _HABITAT, config, scene, raster]
        found.append(Peer("habitat-mapper", [str(part) for part in command], raster))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="landcover", help="a model, or resnet50 for random weights")
    parser.add_argument("--size", default="3000x2200", help="of the scene: examples/banepa.tif, repeated")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    width, height = map(int, args.size.split("x"))
    scene, folder, onnx = args.out / "scene.tif", args.out / "model", args.out / "model.onnx"
    # Not as JPEG, as most orthophotos are: GeoDeep writes its map with the scene's own profile, and fails.
    write_scene(scene, read_pattern(str(SCENE)), width, height, GSD, "deflate")
    chosen = resnet50() if args.model == "resnet50" else load_model(args.model)
    write_model(folder, chosen.card, chosen.network)
    model = load_model(folder)
    export_onnx(model, onnx, gsd=GSD, overwrite=True)
    programs = peers(args.out, scene, folder, model, onnx, args.threads)
    took: dict[str, list[Took]] = {peer.name: [] for peer in programs}
    for _ in range(args.runs):
        for peer in programs:
            took[peer.name].append(run(peer, args.threads))
            print(f"{peer.name}: {took[peer.name][-1].seconds:.1f} s", file=sys.stderr, flush=True)
    show(programs, took, model.card.name, width * height)


def show(programs: list[Peer], took: dict[str, list[Took]], model: str, pixels: int) -> None:
    """Print a table: medians, and the ratio to pfmap in the same round."""
    ours = rasterio.open(programs[0].raster).read(1)
    print(f"{model}, {pixels / 1e6:.1f} Mpx, {len(took['pfmap'])} runs\n")
    print(f"{'':<16}{'seconds':>9}{'Mpx/s':>8}{'times pfmap':>13}{'MB':>8}{'pixels that differ':>20}")
    for peer in programs:
        runs = took[peer.name]
        seconds = statistics.median(t.seconds for t in runs)
        ratio = statistics.median(t.seconds / p.seconds for t, p in zip(runs, took["pfmap"], strict=True))
        theirs = rasterio.open(peer.raster).read(1)
        share = float(np.mean(theirs != ours)) if theirs.shape == ours.shape else float("nan")
        memory = max(t.megabytes for t in runs)
        rate = pixels / seconds / 1e6
        print(f"{peer.name:<16}{seconds:>9.1f}{rate:>8.2f}{ratio:>13.2f}{memory:>8.0f}{share:>19.1%}")


if __name__ == "__main__":
    main()
