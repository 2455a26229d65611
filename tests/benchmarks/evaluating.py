"""Evaluate a large class raster against another, and say how fast that is and how much memory it takes.

    python -m tests.benchmarks.evaluating [--width 20000] [--height 20000] [--coarse]

Both rasters are made on the fly: five classes like a land-cover map's, the truth shifted by two pixels. With
`--coarse` the truth has pixels of another size, and is brought onto the prediction's grid.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine

import pfmap
from tests.benchmarks.tracing import class_map

_TILE = 4000


def write(path: Path, tile: np.ndarray, height: int, width: int, gsd: float) -> None:
    wide = np.tile(tile, (1, -(-width // tile.shape[1])))[:, :width]
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=1, dtype="uint8", tiled=True,
        blockxsize=512, blockysize=512, compress="deflate", zlevel=1, nodata=255, crs="EPSG:32645",
        transform=Affine(gsd, 0, 300000, 0, -gsd, 3000000), bigtiff="if_safer",
    ) as dst:  # fmt: skip
        for top in range(0, height, len(wide)):
            rows = wide[: height - top]
            dst.write(rows, 1, window=((top, top + len(rows)), (0, width)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=20_000)
    parser.add_argument("--height", type=int, default=20_000)
    parser.add_argument("--coarse", action="store_true")
    args = parser.parse_args()
    tile = class_map(_TILE) % 5
    with tempfile.TemporaryDirectory() as folder:
        one, two = Path(folder) / "map_classes.tif", Path(folder) / "truth.tif"
        write(one, tile, args.height, args.width, 0.1)
        shifted = np.roll(tile, (2, 1), axis=(0, 1))
        if args.coarse:
            write(two, shifted[::2, ::2], -(-args.height // 2), -(-args.width // 2), 0.2)
        else:
            write(two, shifted, args.height, args.width, 0.1)
        pixels = args.width * args.height / 1e6
        before = peak()
        begun = time.perf_counter()
        result = pfmap.evaluate(one, two, objects=("0", "1"))
        seconds = time.perf_counter() - begun
        print(
            f"{pixels:,.0f} Mpx, mean IoU {result.figures.mean.iou:.4f}: {seconds:.1f} s, "
            f"{pixels / seconds:.1f} Mpx/s, peak {peak():.0f} MB (before: {before:.0f} MB)"
        )


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
