"""Measuring how fast pfmap is on this machine, and what bounds it."""

import tempfile
import threading
import time
import timeit
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from pfmap.core.arrays import Bools, Bytes
from pfmap.core.errors import TargetError, UsageError, reason
from pfmap.core.files import private_folder
from pfmap.core.resources import resident_memory
from pfmap.core.stages import Clock
from pfmap.mapping.job import Job
from pfmap.mapping.mapper import Mapper, view_of
from pfmap.mapping.options import PredictOptions
from pfmap.mapping.plan import Plan, chosen_classes
from pfmap.mapping.runtime import Runtime, describe
from pfmap.mapping.swaths import chooser_of, read_window
from pfmap.mapping.work import Work
from pfmap.measure.benchmark_table import Benchmark, Run, Stage
from pfmap.measure.cost import cost_of
from pfmap.model.lanes import Window
from pfmap.model.predictor import Predictor
from pfmap.model.store import load_model
from pfmap.raster.location import locate
from pfmap.raster.source import Source
from pfmap.raster.synthetic import Kind, make_pattern, read_pattern, write_scene
from pfmap.trace.tracer import warm_up

_RESIDENT = 16  # windows that are kept in memory
_SECONDS = 3.0  # at least, of the network alone
_SIZE = 4096  # of a scene that is made
STAGES = ("read", "network", "blend", "write rasters", "merge", "trace", "write objects", "assemble COG")
_AFTER = "assemble COG"  # the one stage that starts when all others have ended


class _Free(Predictor):
    """A network of zero cost: every window has the same probabilities, made up once."""

    def _made(
        self,
        windows: Sequence[Bytes],
        valid: Sequence[Bools],  # noqa: ARG002
        tta: str,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        """Return what was made up, for each window."""
        sound = torch.ones(len(windows), dtype=torch.bool, device=self.made_up.device)
        return self.made_up.repeat(len(windows), 1, 1, 1), sound  # the blender changes them

    @classmethod
    def of(cls, plan: Plan) -> "_Free":
        """Make up contact, and probabilities of regions of all sizes, as many as a drone's image has."""
        free = cls(torch.nn.Identity(), plan.card.input, plan.device, batch_size=plan.batch_size)
        window, draw = plan.card.input.window, torch.Generator().manual_seed(0)

        def noise(channels: int, cell: int) -> Tensor:
            coarse = torch.randn((1, channels, window // cell, window // cell), generator=draw)
            return torch.nn.functional.interpolate(coarse, (window, window), mode="bilinear")

        classes = len(plan.card.classes)
        made_up = torch.softmax(3 * noise(classes, 64) + 2 * noise(classes, 16), dim=1)
        if plan.chosen.by_contact:
            shown = made_up[:, sorted(plan.chosen.by_contact)].amax(1, keepdim=True)
            made_up = torch.cat([made_up, shown * torch.exp(-((noise(1, 16) / 0.1) ** 2))], dim=1)
        free.made_up = made_up.to(plan.device)
        return free

    made_up: Tensor


def bench(
    scene: str | None = None,
    *,
    size: tuple[int, int] | None = None,
    kind: Kind = "jpeg",
    model: str = "landcover",
    network: bool = True,
    device: str = "auto",
    precision: str = "auto",
    overlap: int | None = None,
    separate: Sequence[str] | None = None,
    runs: int = 1,
    on_message: Callable[[str], None] = lambda _line: None,
) -> Benchmark:
    """Measure the network alone and a whole `predict`, on the same windows.

    Either of a scene as it is; or, with a `size` in pixels, of one that is made, stored as its `kind` says:
    of made-up ground, or of a piece of the scene, repeated. Without the `network` one of zero cost stands in
    its place: what is left is what the pipeline around it can do. Then objects of the classes in `separate`
    are taken apart in a second measurement, by a contact map that is made up.

    Raises:
        PfmapError: as for `predict`.
    """
    if kind not in get_args(Kind):
        raise UsageError(f"{kind!r} is unknown: use {', '.join(get_args(Kind))}")
    if separate and network:
        raise UsageError("separate= is measured around a network of zero cost: add network=False")
    begun = time.perf_counter()
    loaded = load_model(model)
    load_seconds = time.perf_counter() - begun
    options = PredictOptions(overlap=overlap)
    with _temporary() as folder:
        path: str | Path
        if scene is not None and size is None:
            path, title = scene, scene
        else:
            path, title = folder / "scene.tif", f"{scene or 'made up'}, stored as {kind}"
            width, height = size or (_SIZE, _SIZE)
            on_message(f"making a scene of {width:,} x {height:,} pixels")
            pattern = make_pattern() if scene is None else read_pattern(scene)
            options = replace(options, bands=(*np.resize((1, 2, 3), len(loaded.card.input.bands)).tolist(),))
            write_scene(path, pattern, width, height, max(0.1, loaded.card.input.gsd[0]), kind)
        job = Job(locate(path), Runtime.of(loaded, device, precision, None, on_message), options, on_message)
        with job.planned() as (source, plan):
            begun = time.perf_counter()
            predictor = job.runtime.predictor(plan) if network else _Free.of(plan)
            resident = _resident_windows(source, plan)
            for _ in predictor.batches(iter(resident[: predictor.workers])):
                pass
            apart = _apart(plan, separate) if separate else plan
            warm_up(apart.chosen.separation)
            warm_up_seconds = time.perf_counter() - begun
            idle = resident_memory()
            measured, again = [], []
            for number in range(runs):
                on_message(f"run {number + 1} of {runs}")
                measured.append(_measure(source, plan, predictor, resident, folder / str(number)))
                if separate:
                    there = folder / f"{number} apart"
                    again.append(_measure(source, apart, _Free.of(apart), resident, there))
        name, cost = "none", 0
        if network:
            name, cost = plan.card.name, cost_of(plan.card.architecture, plan.card.input.window).multiply_adds
        return Benchmark(
            scene=title,
            width=plan.geobox.width,
            height=plan.geobox.height,
            model=name,
            device=describe(plan.device, plan.precision),
            window=plan.grid.rows.window,
            overlap=plan.grid.rows.overlap,
            windows=plan.grid.count,
            multiply_adds=cost,
            peak=matrix_peak(plan.device, plan.precision),
            load_seconds=load_seconds,
            warm_up_seconds=warm_up_seconds,
            idle_memory=idle,
            runs=tuple(measured),
            apart=tuple(again),
        )


def _apart(plan: Plan, separate: Sequence[str]) -> Plan:
    """Plan the same of a model with a contact map of these classes."""
    card = plan.card
    card = replace(card, architecture=replace(card.architecture, contact=tuple(separate)))
    return replace(plan, model=replace(plan.model, card=card), chosen=chosen_classes(card, plan.options))


@contextmanager
def _temporary() -> Iterator[Path]:
    """Give a temporary folder, and say of it what the system refuses there."""
    place = Path(tempfile.gettempdir())
    try:
        with private_folder(place) as folder:  # which goes with the next, if this process is killed
            yield folder
    except OSError as error:
        why = reason(error.__cause__ or error)
        raise TargetError(
            f"the folder {place} cannot be written ({why}): free some space, or set TMPDIR to another"
        ) from error


def _measure(source: Source, plan: Plan, predictor: Predictor, resident: list[Window], folder: Path) -> Run:
    """Measure once: half of the network's part before the whole, half after it."""
    before = _network_seconds(predictor, resident, plan.grid.count)
    work = Work(folder, folder)
    work.finals.mkdir(parents=True)
    clock = Clock()
    if plan.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(plan.device)
    with _most_memory() as memory:
        begun = time.perf_counter()
        Mapper(source, plan, "bench", predictor, clock, lambda _done: None).run(work)
        whole = time.perf_counter() - begun
    after = _network_seconds(predictor, resident, plan.grid.count)
    assembling = clock.seconds.get(_AFTER, 0.0)
    stages = []
    for name in STAGES:
        busy = clock.seconds.get(name, 0.0)
        workers = predictor.workers if name == "network" else 1
        span = assembling if name == _AFTER else whole - assembling
        stages.append(Stage(name, workers, busy, max(0.0, workers * span - busy)))
    on_device = torch.cuda.max_memory_allocated(plan.device) if plan.device.type == "cuda" else None
    return Run((before + after) / 2, whole, tuple(stages), memory[0], on_device)


def _resident_windows(source: Source, plan: Plan) -> list[Window]:
    """Read some windows of the scene, spread over it."""
    grid, view, chooser = plan.grid, view_of(source, plan), chooser_of(plan)
    some = np.linspace(0, grid.count - 1, min(grid.count, _RESIDENT)).astype(int).tolist()
    windows = [read_window(view, grid, chooser, *divmod(index, grid.cols.count)) for index in some]
    return [window._replace(seen=np.ones_like(window.seen)) for window in windows]


def _network_seconds(predictor: Predictor, resident: list[Window], count: int) -> float:
    """Say how long the network takes for so many windows, from some of them that lie in memory."""
    done, begun, batch = 0, time.perf_counter(), max(len(resident), predictor.workers * predictor.batch_size)

    def again() -> Iterator[Window]:
        nonlocal done
        while done < count and (done % batch or time.perf_counter() - begun < _SECONDS):
            yield resident[done % len(resident)]
            done += 1

    for computed in predictor.batches(again()):
        made = computed.made
    if made is not None:
        float(made[0][0, 0, 0, 0])  # a GPU has finished only now
    return (time.perf_counter() - begun) / done * count


def matrix_peak(device: torch.device, precision: torch.dtype) -> float:
    """Measure multiply-adds per second of large matrix products: the most that this device does."""
    size = 8192 if device.type == "cuda" else 2048
    one, other = (torch.randn((size, size), device=device).to(precision) for _ in range(2))
    with torch.inference_mode():
        times = timeit.repeat(lambda: float((one @ other)[0, 0]), number=1, repeat=5)
    return float(size**3 / min(times))


@contextmanager
def _most_memory() -> Iterator[list[int]]:
    """Watch the process's resident memory; the most of it is in the list at the end."""
    stop, most = threading.Event(), [0]

    def watch() -> None:
        while not stop.wait(0.02):
            most[0] = max(most[0], resident_memory())

    thread = threading.Thread(target=watch, name="pfmap-memory", daemon=True)
    thread.start()
    try:
        yield most
    finally:
        stop.set()
        thread.join()
