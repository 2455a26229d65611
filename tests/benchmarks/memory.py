"""Make polygons of a class raster of 20,000 x 100,000 pixels, and say how much memory that takes.

    python -m tests.benchmarks.memory [--width 20000] [--height 100000]

The raster is made on the fly, 1,024 rows at a time: small objects on one background, which is open from the
first row to the last and becomes polygons too. Everything runs as in `pfmap vectorize`, to the GeoPackage.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyproj

from pfmap.core.classes import ClassSpec
from pfmap.core.grid import GeoBox
from pfmap.mapping.objects import Chosen, Shaper
from pfmap.mapping.options import ShapeOptions

ROWS = 1024
GSD = 0.1
TABLE = {
    0: ClassSpec("ground", "#808080"),
    1: ClassSpec("building", "#d7301f"),
    2: ClassSpec("tree", "#4daf4a"),
}


def rows(width: int, height: int) -> Iterator[np.ndarray]:
    """Yield the raster: discs of 4 to 14 pixels that do not touch, other ones in each band of rows."""
    y, x = np.mgrid[:64, :64]
    tiles = np.zeros((8, 64, 64), np.uint8)
    for number, tile in enumerate(tiles):
        for k, (row, col) in enumerate(((16, 16), (16, 47), (47, 32))):
            radius = 4 + (5 * number + 3 * k) % 11
            tile[(y - row) ** 2 + (x - col) ** 2 <= radius**2] = 1 + (number + k) % 2
    rng = np.random.default_rng(0)
    for top in range(0, height, ROWS):
        pick = rng.integers(0, len(tiles), (ROWS // 64, -(-width // 64)))
        band = tiles[pick].transpose(0, 2, 1, 3).reshape(ROWS, -1)[:, :width]
        yield np.ascontiguousarray(band[: height - top])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=20_000)
    parser.add_argument("--height", type=int, default=100_000)
    parser.add_argument("--regularize", action="store_true", help="square the buildings too")
    args = parser.parse_args()
    wkt = str(pyproj.CRS(32645).to_wkt())
    geobox = GeoBox(args.width, args.height, wkt, (GSD, 0, 300000, 0, -GSD, 3000000))
    chosen = Chosen(None, frozenset({1} if args.regularize else ()), frozenset(), None)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        shaper = Shaper(
            Path(folder), "objects", geobox, TABLE, chosen, nodata=255, options=ShapeOptions(), scene="scene",
            metadata={}, has_confidence=False,
        )  # fmt: skip
        done = 0
        with shaper:
            for part in rows(args.width, args.height):
                for merged in shaper.merge(part):
                    for regions in shaper.trace(*merged):
                        shaper.writer.add(regions)
                done += len(part)
                if done % (16 * ROWS) == 0 or done == args.height:
                    print(
                        f"{done:9,} rows  {time.perf_counter() - begun:6.1f} s  peak {peak():6.0f} MB",
                        flush=True,
                    )
            (path,) = shaper.writer.finish()["gpkg"]
        objects = sum(shaper.writer.counts.values())
        print(
            f"{args.width * args.height / 1e6:,.0f} Mpx, {objects:,} objects, "
            f"{path.stat().st_size / 1e6:,.0f} MB: {time.perf_counter() - begun:.1f} s, peak {peak():.0f} MB"
        )


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
