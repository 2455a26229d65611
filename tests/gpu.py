"""All that has to be known of a machine with a CUDA device, in one command and under eight minutes.

    python -m tests.gpu [--json out/gpu.json] [--seconds 460]

First whether it is right: the network against this machine's CPU, the golden tensors in all types, a batch
that does not fit into the device's memory, and the demo scene. Then how fast it is: the network alone,
launched layer by layer, recorded as a graph and compiled, in batches of several sizes; and whole maps of
16,384 and 32,768 pixels a side. Each part prints a line, and all figures are in the JSON file. What does not
fit into the seconds, or wants a library that is not here, is left out, and said to be. Without a CUDA device
it ends with status 2, with status 1 where something is wrong.

`--rehearse` goes the same way in small on the CPU: whether the command works, its figures mean nothing.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pfmap.core.card import Architecture, InputSpec
from pfmap.core.stages import Clock
from pfmap.model.lanes import CudaLane, Window
from pfmap.model.predictor import Lane, Predictor
from pfmap.net.fast import for_inference
from pfmap.net.pfnet import PFNet

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT.parent / "shared" / "golden"
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SPEC = InputSpec(
    ("red", "green", "blue"), 255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 512, (0.1, 1.0)
)
MODELS = {
    "resnet50": (Architecture("resnet50", 16), 512),
    "landcover": (Architecture("efficientnet_lite0", 5, width=128, contact=("building",)), 384),
}
"""Architecture and side of the windows; weights do not matter to how fast they are."""
MAPS = ("rasterio", "shapely", "geopandas", "pyogrio", "pyproj", "numba", "pyarrow")
"""What a whole map needs, besides what the network does."""


class Layers(CudaLane):
    """A device that is told of a network layer by layer."""

    def call(self, network: nn.Module, seen: Tensor) -> Any:
        return network(seen)


class Check:
    """The parts that were done, and the time that is left."""

    def __init__(self, seconds: float, only: str, rehearse: bool) -> None:
        self.device = torch.device("cpu" if rehearse else "cuda:0")
        self.only, self.rehearse, self.end = only, rehearse, time.monotonic() + seconds
        if rehearse:
            torch.set_num_threads(1)
            MODELS["resnet50"] = MODELS["landcover"] = Architecture("efficientnet_lite0", 5, width=16), 64
            del TYPES["bfloat16"], TYPES["float16"]
        self.figures: dict[str, Any] = {}
        self.left_out: dict[str, str] = {}
        self.wrong: dict[str, str] = {}

    def part(self, name: str, function: Callable[[], Any], seconds: float, *needs: str) -> None:
        """Do a part that takes about so long and needs some libraries, if there are."""
        if not name.startswith((self.only, "machine", "matrix peak")):
            return
        left = self.end - time.monotonic()
        missing = [library for library in needs if find_spec(library) is None]
        if missing:
            self.left_out[name] = f"{', '.join(missing)} not installed"
        elif left < seconds and not self.rehearse:
            self.left_out[name] = f"takes about {seconds:.0f} s, {left:.0f} s are left"
        else:
            begun = time.monotonic()
            try:
                found = function()
            except Exception as error:
                traceback.print_exc()
                self.wrong[name] = f"{type(error).__name__}: {error}"
            else:
                self.figures[name] = found
                print(f"{name} ({time.monotonic() - begun:.1f} s): {json.dumps(found)}", flush=True)
        for kind, why in (("left out", self.left_out.get(name)), ("WRONG", self.wrong.get(name))):
            if why:
                print(f"{name}: {kind}: {why}", flush=True)

    def lane(self, kind: type[CudaLane] = CudaLane) -> Any:
        def refuse(line: str) -> None:
            raise AssertionError(line)

        return Lane(self.device) if self.rehearse else kind(self.device, refuse)

    def predictor(
        self, network: PFNet, precision: str, batch: int, lane: Any = None, contact: bool = False
    ) -> Predictor:
        fast = for_inference(network, self.device, TYPES[precision])
        how = {"lane": lane or self.lane(), "contact": contact}
        return Predictor(fast, SPEC, self.device, TYPES[precision], batch, **how)


def network_of(name: str) -> PFNet:
    torch.manual_seed(0)
    return PFNet(MODELS[name][0]).eval().requires_grad_(requires_grad=False)


def windows_of(count: int, side: int) -> list[np.ndarray]:
    """Smooth colours with some noise: something for a network to find."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.standard_normal((count, 3, side // 16, side // 16)).astype(np.float32))
    fine = torch.nn.functional.interpolate(coarse, scale_factor=16, mode="bilinear") * 60 + 128
    return list((fine.numpy() + 8 * rng.standard_normal(fine.shape)).clip(0, 255).astype(np.uint8))


def seen_of(windows: list[np.ndarray]) -> list[np.ndarray]:
    return [np.ones(window.shape[1:], dtype=bool) for window in windows]


def machine(check: Check) -> dict[str, Any]:
    found = {"torch": torch.__version__, "cpu": cpu_name(), "cores": os.cpu_count()}
    if check.device.type == "cuda":
        about = torch.cuda.get_device_properties(check.device)
        capability = f"{about.major}.{about.minor}"
        found |= {"gpu": about.name, "gpu_gb": about.total_memory / 1e9, "capability": capability}
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return found


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def agrees(check: Check, name: str) -> dict[str, float]:
    """The device against the CPU in float32, and what the other types change; recorded or not."""
    network, windows = network_of(name), windows_of(4, MODELS[name][1])
    contact = bool(network.architecture.contact)
    plain = Predictor(network, SPEC, contact=contact).probabilities(windows, seen_of(windows))
    found: dict[str, float] = {}
    for precision in TYPES:
        predictor = check.predictor(network, precision, 3, contact=contact)
        passes = [predictor.probabilities(windows, seen_of(windows)).cpu() for _ in range(4)]
        layers = check.predictor(network, precision, 3, check.lane(Layers), contact)
        by_layers = layers.probabilities(windows, seen_of(windows)).cpu()
        found[f"{precision}: recorded, mean difference"] = float((passes[-1] - by_layers).abs().mean())
        found[f"{precision}: largest difference to the CPU"] = float((passes[-1] - plain).abs().max())
        found[f"{precision}: mean difference to the CPU"] = float((passes[-1] - plain).abs().mean())
        classes = network.architecture.classes
        other = (passes[-1][:, :classes].argmax(1) != plain[:, :classes].argmax(1)).float().mean()
        found[f"{precision}: other classes than the CPU in float32"] = float(other)
        assert found[f"{precision}: recorded, mean difference"] < 1e-3, found
        assert found[f"{precision}: mean difference to the CPU"] < 0.05, found
    assert found["float32: other classes than the CPU in float32"] < 1e-3, found
    assert found["float32: mean difference to the CPU"] < 1e-3, found
    return found


def golden(check: Check) -> dict[str, Any]:
    """In float32 within the bounds of the golden tests; else as near as the CPU comes in the same type."""
    from pfmap.model.upstream import rename
    from tests.golden import golden_state

    wanted = np.load(GOLDEN / "pfnet_r50_16c_256.npz")
    network = PFNet(Architecture("resnet50", 16)).eval()
    network.load_state_dict({rename(key): value for key, value in golden_state(GOLDEN).items()})
    found: dict[str, Any] = {}
    for precision, kind in TYPES.items():
        errors = []
        for device in (torch.device("cpu"), check.device):
            fast = for_inference(network, device, kind)
            image = torch.from_numpy(wanted["image"]).to(device)
            with torch.inference_mode(), torch.autocast(device.type, kind, enabled=precision != "float32"):
                logits = fast.compute(image).logits.float().cpu().numpy()
                classes = fast(image).argmax(1).cpu().numpy()
            error = np.abs(logits - wanted["logits4"])
            right = float((classes == wanted["argmax"]).mean())
            errors.append((float(error.max()), float(error.mean() / np.abs(wanted["logits4"]).mean()), right))
        found[precision] = dict(zip(("CPU", "device"), errors, strict=True))
        largest, mean, right = errors[1]
        if precision == "float32":
            assert largest <= 2e-2, found
            assert right >= 0.9999, found
        else:
            assert mean <= 1.25 * errors[0][1], found
            assert 1 - right <= 1.25 * (1 - errors[0][2]), found
    return found


def runs_out_of_memory(check: Check) -> dict[str, Any]:
    """The allocator has room for few windows: batches are halved until they fit, and the map is the same."""
    name = "landcover"
    network, windows = network_of(name), windows_of(64, MODELS[name][1])
    said: list[str] = []
    wanted = check.predictor(network, "bfloat16", 8, check.lane(Layers), contact=True)
    expected = wanted.probabilities(windows, seen_of(windows)).cpu()
    del wanted
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    eight = check.predictor(network, "bfloat16", 8, check.lane(Layers), contact=True)
    eight.probabilities(windows[:8], seen_of(windows[:8]))
    each = torch.cuda.max_memory_reserved() - before
    del eight
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(check.device).total_memory
    results = 2 * expected.numel() * 4  # of all windows, and while they are put together
    torch.cuda.set_per_process_memory_fraction((before + 3 * each + results) / total, check.device)
    try:
        lane = CudaLane(check.device, said.append)
        fast = for_inference(network, check.device, torch.bfloat16)
        how = {"lane": lane, "contact": True, "on_message": said.append}
        small = Predictor(fast, SPEC, check.device, torch.bfloat16, 64, **how)
        for _ in range(3):  # the last are replayed
            made = small.probabilities(windows, seen_of(windows)).cpu()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, check.device)
        torch.cuda.empty_cache()
    difference = float((made - expected).abs().max())
    found = {"batch": small.batch_size, "said": said, "largest difference": difference}
    assert small.batch_size < 64, found
    assert any("ran out of memory" in line for line in said), found
    assert float((made - expected).abs().mean()) < 1e-2, found
    return found


def demo_scene(check: Check) -> dict[str, float]:
    """The demo scene: on the device in all types against the CPU in float32, and against itself."""
    import rasterio

    import pfmap

    found: dict[str, float] = {}
    scene = ROOT / "examples" / "banepa.tif"
    bbox = {"bbox": part_of(scene, 512)} if check.rehearse else {}
    with tempfile.TemporaryDirectory() as name:
        maps = {}
        ways = [("cpu", "float32", 1), *((str(check.device), kind, 8) for kind in TYPES)]
        for number, (device, precision, batch) in enumerate([*ways, (str(check.device), "float32", 8)]):
            folder = Path(name) / str(number)
            how: dict[str, Any] = {"device": device, "precision": precision, "batch_size": batch} | bbox
            result = pfmap.predict(scene, folder, **how)
            with rasterio.open(result.outputs["classes"]) as src:
                maps[number] = src.read(1)
    for number, precision in enumerate(TYPES, 1):
        found[f"{precision}: other classes"] = float((maps[number] != maps[0]).mean())
        assert found[f"{precision}: other classes"] < (1e-3 if precision == "float32" else 0.01), found
    assert np.array_equal(maps[1], maps[len(maps) - 1]), "twice on one device is not the same"
    return found


def part_of(scene: Path, side: int) -> tuple[float, ...]:
    import rasterio

    with rasterio.open(scene) as src:
        left, top = src.transform @ (0, 0)
        right, bottom = src.transform @ (side, side)
        return (left, bottom, right, top)


def rate(check: Check, predictor: Predictor, side: int, seconds: float) -> dict[str, float]:
    """Windows a second, in the median of several measurements, once all is warm."""
    windows = [Window(0, k, one, np.ones(one.shape[1:], bool), np.ones((), bool))
               for k, one in enumerate(windows_of(16, side))]  # fmt: skip

    def some(count: int) -> Iterator[Window]:
        for k in range(count):
            yield windows[k % len(windows)]

    def measured(count: int) -> float:
        begun, arrive = time.perf_counter(), list[Any]()
        for batch in predictor.batches(some(count), Clock(), "none"):
            assert batch.made is not None
            arrive = [predictor.lane.download(batch.made[1])]
        assert arrive[0]().all()
        return (time.perf_counter() - begun) / count

    measured(4 * predictor.batch_size)
    each = measured(4 * predictor.batch_size)
    rounds = 1 if check.rehearse else 3
    count = max(2 * predictor.batch_size, int(seconds / rounds / each))
    rates = [1 / measured(count) for _ in range(rounds)]
    stride = side - side // 8
    each = statistics.median(rates)
    return {"windows_per_second": each, "megapixels_per_second": each * stride**2 / 1e6}


def network_alone(check: Check, name: str, way: str, batch: int, seconds: float) -> dict[str, float]:
    network, side = network_of(name), MODELS[name][1]
    precision = "float32" if check.rehearse else "bfloat16"
    contact = bool(network.architecture.contact)
    lanes = {"waiting": Lane(check.device), "layers": check.lane(Layers), "compiled": check.lane(Layers)}
    predictor = check.predictor(network, precision, batch, lanes.get(way), contact)
    begun = time.perf_counter()
    if way == "compiled" and not check.rehearse:
        predictor.network = torch.compile(predictor.network)  # type: ignore[assignment]
    windows = windows_of(batch, side)
    predictor.probabilities(windows, seen_of(windows))
    found = {"first_pass_seconds": time.perf_counter() - begun, **rate(check, predictor, side, seconds)}
    if way != "compiled":
        found["share_of_matrix_peak"] = (
            multiply_adds(name) * found["windows_per_second"] / check.figures["matrix peak"]["per_second"]
        )
    if check.device.type == "cuda":
        found["gpu_gb"] = torch.cuda.max_memory_reserved() / 1e9
    return found


def multiply_adds(name: str) -> float:
    """Of one window, of the published network."""
    from torch.utils.flop_counter import FlopCounterMode

    architecture, side = MODELS[name]
    with torch.device("meta"):
        network = PFNet(architecture).eval()
        image = torch.zeros(1, 3, side, side)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(image)
    return counter.get_total_flops() / 2


def matrix_peak(check: Check) -> dict[str, float]:
    size, kind = (256, torch.float32) if check.rehearse else (8192, torch.bfloat16)
    one, other = (torch.randn((size, size), device=check.device).to(kind) for _ in range(2))
    times = []
    for _ in range(20):
        begun = time.perf_counter()
        float((one @ other)[0, 0])
        times.append(time.perf_counter() - begun)
    return {"per_second": size**3 / min(times)}


def compiled(check: Check, name: str, seconds: float) -> dict[str, float]:
    """In a process of its own, which can be ended: how long it compiles, nobody knows."""
    command = [sys.executable, "-m", "tests.gpu", "--compiled", name, *["--rehearse"] * check.rehearse]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    recorded = check.figures[f"network: {name}, recorded, 8"]
    gain = 1 / recorded["megapixels_per_second"] - 1 / found["megapixels_per_second"]
    more = found["first_pass_seconds"] - recorded["first_pass_seconds"]
    found["breaks_even_at_megapixels"] = more / gain if gain > 0 else -1.0  # never
    return found


def whole(check: Check, name: str, side: int) -> dict[str, Any]:
    """A map with polygons, as `pfmap bench` measures it."""
    from pfmap.measure.benchmark import bench
    from pfmap.model.store import load_model, write_model

    size = 600 if check.rehearse else side
    if name == "landcover":
        return bench(size=(size, size), device=str(check.device)).table()
    with tempfile.TemporaryDirectory() as folder:
        card, (architecture, window) = load_model("landcover").card, MODELS[name]
        classes = tuple(replace(card.classes[0], name=f"class_{k}") for k in range(architecture.classes))
        card = replace(card, name=name, architecture=architecture, classes=classes)
        card = replace(card, input=replace(card.input, window=window))
        write_model(Path(folder) / name, card, network_of(name))
        return bench(size=(size, size), device=str(check.device), model=f"{folder}/{name}").table()


def everything(check: Check) -> None:
    """Do all parts in order; the later ones are what can be done without."""
    torch.backends.cudnn.allow_tf32 = False  # float32 is compared as float32
    check.part("machine", lambda: machine(check), 1)
    for name in MODELS:
        check.part(f"agrees: {name}", lambda name=name: agrees(check, name), 20)
    if GOLDEN.is_dir():
        check.part("golden tensors", lambda: golden(check), 25)
    else:
        check.left_out["golden tensors"] = f"{GOLDEN} is not here"
    if not check.rehearse:
        check.part("out of memory", lambda: runs_out_of_memory(check), 15)
    check.part("demo scene", lambda: demo_scene(check), 40, *MAPS)
    torch.backends.cudnn.allow_tf32 = True
    seconds = 0.1 if check.rehearse else 3.0
    check.part("matrix peak", lambda: matrix_peak(check), 2)
    for name in MODELS:
        for way, batch in [("waiting", 8), ("layers", 8), *(("recorded", size) for size in (8, 4, 16, 32))]:
            title = f"network: {name}, {way}, {batch}"
            check.part(title, lambda n=name, w=way, b=batch: network_alone(check, n, w, b, seconds), 8)
    for side, takes in ((16_384, 35.0), (32_768, 110.0))[: 1 if check.rehearse else 2]:
        for name in MODELS:
            check.part(f"whole: {name}, {side}", lambda n=name, s=side: whole(check, n, s), takes, *MAPS)
    for name in MODELS:
        left = max(1.0, check.end - time.monotonic())
        check.part(f"compiled: {name}", lambda n=name, s=left: compiled(check, n, s), 45)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, default=ROOT / "out" / "gpu.json")
    parser.add_argument("--seconds", type=float, default=460.0)
    parser.add_argument("--only", default="", help="parts whose names begin so")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--compiled", choices=MODELS, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if not wanted.rehearse and not torch.cuda.is_available():
        print(
            f"tests.gpu needs a CUDA device, and torch {torch.__version__} finds none here", file=sys.stderr
        )
        return 2
    check = Check(wanted.seconds, wanted.only, wanted.rehearse)
    if wanted.compiled:
        print(json.dumps(network_alone(check, wanted.compiled, "compiled", 8, 4.0)))
        return 0
    everything(check)
    found = {"figures": check.figures, "left_out": check.left_out, "wrong": check.wrong}
    wanted.json.parent.mkdir(parents=True, exist_ok=True)
    wanted.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(
        f"figures: {wanted.json}. "
        + ("Something is WRONG" if check.wrong else "All that was checked is right")
    )
    return 1 if check.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
