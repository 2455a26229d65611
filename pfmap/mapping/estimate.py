"""What mapping a scene will take - time, memory, disk - and whether it can end well."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt
from pathlib import Path

import numpy as np
import torch

from pfmap.core.arrays import Longs
from pfmap.core.errors import SourceError, TargetError
from pfmap.core.files import private_folder
from pfmap.core.grid import Axis, Span
from pfmap.core.resources import folder_size, free_disk, free_memory, gigabytes, peak_memory
from pfmap.core.stages import Clock
from pfmap.mapping.mapper import Mapper
from pfmap.mapping.plan import Plan
from pfmap.mapping.runtime import Probe
from pfmap.mapping.work import Work
from pfmap.model.predictor import MOST_WORKERS, Predictor
from pfmap.raster.align import burn
from pfmap.raster.source import Source
from pfmap.trace.tracer import TILE, warm_up

_PROBE_SECONDS = 3.0
_PROBE_SIDE = 4
_MOST_WINDOWS = 20_000_000
# Bytes per pixel of the outputs that no raster can exceed: once as swaths, and once with overviews.
_DISK_BOUND = 2.5
_EMPTY = 110_000  # bytes of a GeoPackage without objects
_RUNTIME = 700 << 20
_USUAL_PASSES = 256 << 20  # of which that is a part


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will take."""

    windows: int
    compute: int
    """Windows that have data and are computed, estimated."""
    seconds: float | None
    """Of the whole run; None without a probe."""
    memory: int
    """Peak memory of the process, bytes."""
    temporary: int
    """Bytes on disk while it runs, outputs included."""
    final: int
    """Bytes of the outputs."""
    free_memory: int
    """Bytes this process may still take."""
    free_disk: int
    """Bytes free where the outputs go."""


def estimate(plan: Plan, output_dir: Path, held: int, probe: Probe | None) -> Estimate:
    """Estimate a run, of which an interrupted one `held` bytes of the disk already.

    Without a probe time is unknown and disk is an upper bound.
    """
    pixels = plan.geobox.width * plan.geobox.height
    compute = windows_with_data(plan)
    memory = _RUNTIME + memory_of(plan)
    bound = _DISK_BOUND * _planes(plan)
    seconds, temporary, final = None, bound + (plan.options.sieve == "raster"), bound / 2
    if probe is not None:
        busy = compute / max(plan.grid.count, 1)
        seconds = compute * probe.window_seconds + pixels * busy * probe.pixel_seconds
        memory = probe.memory + max(0, memory_of(plan) - probe.planned)
        temporary, final = (probe.temporary + probe.final) * busy, probe.final * busy
    return Estimate(
        windows=plan.grid.count,
        compute=compute,
        seconds=seconds,
        memory=memory,
        temporary=int(temporary * pixels) + (1 << 20),
        final=int(final * pixels) + (1 << 20),
        free_memory=free_memory(),
        free_disk=free_disk(output_dir) + held,
    )


def refuse_without_memory(plan: Plan, estimated: Estimate) -> None:
    """Refuse a scene that does not fit into memory, with a `SourceError`, before anything is computed."""
    if estimated.memory > estimated.free_memory:
        box, block, side = plan.scene.geobox, plan.scene.block, plan.grid.rows.window
        remedy = (
            "map a narrower part with bbox=, store the scene in tiles with gdal_translate -co TILED=YES, or "
            "raise the limit of this process, if it has one"
        )
        if 2 * (passes := memory_of_passes(plan)) > estimated.memory:
            remedy = (
                f"windows of {side} x {side} pixels alone take {gigabytes(passes)}; choose a model with "
                "smaller ones, or compute one at a time with batch_size=1 and OMP_NUM_THREADS=1"
            )
        raise SourceError(
            f"{plan.scene.name} ({box.width:,} x {box.height:,} pixels in blocks of {block[1]:,} x "
            f"{block[0]:,}) needs about {gigabytes(estimated.memory)} of memory, "
            f"{gigabytes(estimated.free_memory)} are free: {remedy}"
        )


def refuse_without_disk(plan: Plan, estimated: Estimate, output_dir: Path) -> None:
    """Refuse a run that would fill the disk, with a `TargetError`, before anything is computed."""
    if estimated.temporary > estimated.free_disk:
        raise TargetError(
            f"{plan.scene.name} needs up to {gigabytes(estimated.temporary)} of disk in {output_dir}, "
            f"{gigabytes(estimated.free_disk)} are free: free some space, choose another folder with "
            "output_dir=, or leave out the confidence with confidence=False"
        )


def windows_with_data(plan: Plan) -> int:
    """Estimate how many windows have a valid pixel, from the scene's sample and the area of interest."""
    grid, frame = plan.grid, plan.frame
    if grid.count > _MOST_WINDOWS:
        return grid.count
    valid, box = plan.sample.valid, plan.scene.geobox
    sums = np.zeros((valid.shape[0] + 1, valid.shape[1] + 1), dtype=np.int64)
    sums[1:, 1:] = valid.cumsum(axis=0).cumsum(axis=1)
    y0, y1 = _in_sample(grid.rows, frame.rows.factor, frame.top, box.height, valid.shape[0])
    x0, x1 = _in_sample(grid.cols, frame.cols.factor, frame.left, box.width, valid.shape[1])
    seen = (sums[np.ix_(y1, x1)] - sums[np.ix_(y0, x1)] - sums[np.ix_(y1, x0)] + sums[np.ix_(y0, x0)]) > 0
    if plan.area is not None and not plan.area.rectangle:
        stride = grid.rows.stride * frame.rows.factor, grid.cols.stride * frame.cols.factor
        cells = plan.area.scaled(frame.top, frame.left, *stride)
        seen &= burn(cells, Span(0, grid.rows.count), Span(0, grid.cols.count), touched=True)
    return int(np.count_nonzero(seen))


def _in_sample(axis: Axis, factor: float, first: int, native: int, size: int) -> tuple[Longs, Longs]:
    """Return where the windows along an axis start and stop in the scene's sample."""
    begin = np.arange(axis.count, dtype=np.float64) * axis.stride
    start = np.clip(((begin * factor + first) * size / native).astype(np.int64), 0, size - 1)
    end = ((begin + axis.window) * factor + first) * size / native
    return start, np.clip(np.ceil(end).astype(np.int64), start + 1, size)


def memory_of(plan: Plan) -> int:
    """Return what grows with a scene's width, blocks and classes, and with a model's windows, bytes."""
    scene, grid, frame = plan.scene, plan.grid, plan.frame
    itemsize = np.dtype(scene.dtype).itemsize
    decoded = frame.rows.native * scene.geobox.width * scene.count * itemsize
    cache = min(plan.cache_bytes, decoded + 2 * scene.block_bytes)
    contact = "contact" in plan.layers
    channels = len(plan.card.classes) + contact
    # Packed rows of the overlap, and two of floats on the way to another grid.
    carried = channels * (2 * grid.rows.overlap + 8) * frame.cols.size
    # Cut at rows of blocks, with what its last row of windows has of the next.
    height = plan.swath_height * grid.rows.stride * plan.geobox.height / frame.rows.size + plan.swath_step
    swath_pixels = min(height, plan.geobox.height) * plan.geobox.width
    halo = plan.chosen.separation.halo if plan.chosen.separation else 0
    tiles = (2 + contact) * min(TILE + 2 * halo, plan.geobox.height) * plan.geobox.width
    large = max(0, memory_of_passes(plan) - _USUAL_PASSES)
    # Of a swath, its layers twice, and what tracing and compressing take beside them.
    return int(cache + carried + (4 + 2 * _planes(plan)) * swath_pixels + tiles + scene.block_bytes + large)


def _planes(plan: Plan) -> int:
    """Return how many bytes the layers have of each pixel."""
    return len(plan.layers) + (len(plan.card.classes) - 1) * plan.options.probabilities


def memory_of_passes(plan: Plan) -> int:
    """Return what the network's layers hold of all windows that this machine computes at once, bytes.

    Measured on encoders and decoders of all kinds: 240 bytes per pixel of the window with a decoder of 64
    channels, 480 to 680 with 256, 4 more per class, and 8 per further band.
    """
    if plan.device.type != "cpu":
        return 0
    each = plan.batch_size * plan.grid.rows.window**2
    passes = min(torch.get_num_threads(), MOST_WORKERS)
    bands, classes = len(plan.card.input.bands), len(plan.card.classes)
    return passes * each * (180 + 2 * plan.card.architecture.width + 8 * classes + 8 * (bands - 3))


def probe(
    source: Source,
    plan: Plan,
    predictor: Predictor,
    on_step: Callable[[], None],
    budget: float = _PROBE_SECONDS,
) -> Probe:
    """Map a few windows where the scene has data, into a temporary folder, and measure.

    It takes about `budget` seconds at most; `on_step` is called after each window and may raise to stop.
    """
    grid = plan.grid
    warm_up(plan.chosen.separation)
    window, batch = grid.rows.window, predictor.batch_size
    pixels = [np.zeros((len(source.names), window, window), dtype=np.uint8)] * batch
    for _ in ("to be warm", "to be timed"):
        begun = time.perf_counter()
        seen = [np.ones((window, window), dtype=bool)] * batch
        found = predictor.probabilities(pixels, seen, plan.options.tta)
        float(found[0, 0, 0, 0])
    seconds = max(1e-4, (time.perf_counter() - begun) / batch)
    side = max(1, min(_PROBE_SIDE, isqrt(int(budget / seconds))))
    length = side * grid.rows.stride + grid.rows.overlap
    rows, cols = _busiest(plan, length)
    piece = plan.part(rows, cols)
    clock = Clock()
    with private_folder(Path(tempfile.gettempdir())) as folder:
        work = Work(folder, folder)
        work.finals.mkdir()
        Mapper(source, piece, "probe", predictor, clock, lambda _done: on_step()).run(work)
        final, whole = folder_size(work.finals), folder_size(work.path)
        empty = _EMPTY * ("gpkg" in plan.options.shapes.formats)  # which does not grow with the scene
        whole, final = max(0, whole - empty), max(0, final - empty)
    count = piece.geobox.width * piece.geobox.height
    stages = "write rasters", "merge", "trace", "write objects", "assemble COG"
    busy = clock.seconds["network"] / predictor.workers + clock.seconds["blend"]
    return Probe(
        window_seconds=busy / piece.grid.count,
        pixel_seconds=sum(clock.seconds.get(stage, 0.0) for stage in stages) / count,
        temporary=(whole - final) / count,
        final=final / count,
        memory=peak_memory(),
        planned=memory_of(piece),
    )


def _busiest(plan: Plan, length: int) -> tuple[Span, Span]:
    """Choose a square of the network's grid that has data, nearest the middle of the frame."""
    valid, box = plan.sample.valid, plan.scene.geobox
    best, where = -1.0, (0.5, 0.5)
    for y in (0.5, 0.3, 0.7, 0.1, 0.9):
        for x in (0.5, 0.3, 0.7, 0.1, 0.9):
            row = (plan.frame.top + y * plan.frame.rows.native) * valid.shape[0] / box.height
            col = (plan.frame.left + x * plan.frame.cols.native) * valid.shape[1] / box.width
            near = valid[max(0, int(row) - 8) : int(row) + 8, max(0, int(col) - 8) : int(col) + 8]
            share = float(near.mean()) if near.size else 0.0
            if share > best + 0.05:
                best, where = share, (y, x)
    return _around(where[0], plan.frame.rows.size, length), _around(where[1], plan.frame.cols.size, length)


def _around(share: float, size: int, length: int) -> Span:
    length = min(length, size)
    start = min(max(0, int(share * size) - length // 2), size - length)
    return Span(start, start + length)
