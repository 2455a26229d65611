"""Trace a class map of 100 million pixels, with pfmap and with rasterio and shapely, in one run.

    python -m tests.benchmarks.tracing [--side 10000] [--runs 3]

Both start from the same array and end with shapely polygons. Each run is a pair, so that a noisy machine
hits both.
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import shapely
from rasterio import features

from pfmap.core.stages import Regions
from pfmap.trace.tracer import TILE, Tracer

NODATA = 255


def class_map(side: int, seed: int = 0) -> np.ndarray:
    """Make a class map: a coarse random field, smooth at the pixel, with about 28,000 regions per 100 Mpx."""
    rng = np.random.default_rng(seed)
    cell = 52
    coarse = rng.normal(size=(6, side // cell + 3, side // cell + 3)).astype(np.float32)
    position = np.arange(side, dtype=np.float32) / cell
    low = position.astype(int)
    share = position - low
    share = share * share * (3 - 2 * share)
    out = np.empty((side, side), np.uint8)
    for top in range(0, side, 500):  # a strip at a time: bilinear between the field's points
        rows = slice(top, top + 500)
        y, f = low[rows], share[rows][:, None]
        strip = coarse[:, y] * (1 - f) + coarse[:, y + 1] * f
        fine = strip[:, :, low] * (1 - share) + strip[:, :, low + 1] * share
        fine += 0.004 * rng.standard_normal(fine.shape[1:], dtype=np.float32)
        out[rows] = fine.argmax(axis=0)
    return out


def ours(classes: np.ndarray, tolerance: float = 0.0, workers: int = 1) -> np.ndarray:
    height, width = classes.shape
    with Tracer(height, width, nodata=NODATA, tolerance=tolerance, workers=workers) as tracer:
        found = Regions.join(list(tracer.add(classes)))
    return shapely.from_ragged_array(
        shapely.GeometryType.POLYGON, found.coords, (found.ring_offsets, found.region_offsets)
    )


def theirs(classes: np.ndarray) -> np.ndarray:
    shapes = features.shapes(classes, mask=classes != NODATA, connectivity=4)
    return np.array([shapely.geometry.shape(geometry) for geometry, _ in shapes], dtype=object)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


def _part(rows: tuple[int, int]) -> int:
    return len(ours(_shared[rows[0] : rows[1]]))


_shared = np.zeros((0, 0), np.uint8)


def in_processes(classes: np.ndarray, count: int) -> float:
    """Trace strips in so many processes at a time, and return the seconds."""
    global _shared  # noqa: PLW0603 - forked processes see it without a copy
    _shared = classes
    strips = [(top, min(top + 2 * TILE, len(classes))) for top in range(0, len(classes), 2 * TILE)]
    with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("fork")) as pool:
        list(pool.map(_part, strips[:count]))  # warm
        return timed(lambda: list(pool.map(_part, strips)))[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    classes = class_map(options.side)
    ours(classes[:64, :64])
    ours(classes[:64, :64], 1.25)
    pixels = classes.size / 1e6
    ratios = []
    for _ in range(options.runs):
        slow, oracle = timed(lambda: theirs(classes))
        fast, found = timed(lambda: ours(classes))
        ratios.append(slow / fast)
        print(f"{pixels:.0f} Mpx, {len(found):,} regions: rasterio + shapely {slow:.2f} s, ", end="")
        print(f"pfmap {fast:.2f} s, {slow / fast:.2f} times faster")
    valid = shapely.is_valid(oracle)
    oracle[~valid] = shapely.make_valid(oracle[~valid])
    same = sorted(shapely.to_wkb(shapely.normalize(oracle))) == sorted(
        shapely.to_wkb(shapely.normalize(found))
    )
    print(f"identical: {same}; median {np.median(ratios):.2f} times faster")
    simplified, _ = timed(lambda: ours(classes, 1.25))
    print(f"simplified too: {simplified:.2f} s")
    for count in sorted({1, 2, multiprocessing.cpu_count()}):
        print(f"{count} processes: {in_processes(classes, count):.2f} s")


if __name__ == "__main__":
    main()
