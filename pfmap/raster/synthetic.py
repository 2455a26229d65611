"""Made-up orthophotos of any size, to measure with."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
from rasterio.errors import RasterioError
from rasterio.windows import Window

from pfmap.core.arrays import Bytes, Floats
from pfmap.core.errors import SourceError
from pfmap.core.files import writing
from pfmap.raster.gdal import BLOCK, opened
from pfmap.raster.location import locate

Kind = Literal["jpeg", "deflate", "raw", "sparse"]
"""How the pixels are stored: as most orthophotos are, without loss, as they are, or not at all (black)."""

PATTERN = 2048
_STORED: dict[Kind, dict[str, Any]] = {
    "jpeg": {"compress": "jpeg", "photometric": "ycbcr", "jpeg_quality": 85},
    "deflate": {"compress": "deflate", "predictor": 2},
    "raw": {},
    "sparse": {"sparse_ok": True},
}


def make_pattern() -> Bytes:
    """Make up ground: patches of several sizes in several colours, ``(3, PATTERN, PATTERN)``."""
    rng = np.random.default_rng(0)
    height = np.zeros((PATTERN, PATTERN))
    for size in (128, 32, 8):
        height += size * _smooth(rng.standard_normal((PATTERN // size, PATTERN // size)), size)
    order = np.argsort(height, axis=None)
    cover = np.empty(height.size, dtype=np.uint8)
    cover[order] = np.arange(height.size) * 5 // height.size
    colors = np.array(
        [[60, 80, 50], [120, 140, 80], [170, 150, 120], [200, 190, 180], [40, 60, 90]], dtype=np.float32
    )
    grain = rng.normal(0, 8, (PATTERN, PATTERN, 1)).astype(np.float32)
    image = colors[cover.reshape(PATTERN, PATTERN)] + grain
    return np.ascontiguousarray(image.clip(0, 255).astype(np.uint8).transpose(2, 0, 1))


def _smooth(coarse: Floats, factor: int) -> Floats:
    """Enlarge bilinearly; the edges meet each other, so that it can be repeated."""
    for _ in range(2):  # down, then across
        size = len(coarse)
        at = np.arange(size * factor) / factor
        coarse = np.array([np.interp(at, range(size), line, period=size) for line in coarse.T])
    return coarse


def read_pattern(path: str) -> Bytes:
    """Read a ``(3, height, width)`` piece from the middle of an 8-bit scene, or raise a `SourceError`."""
    with opened(locate(path)) as src:
        if src.count < 3 or set(src.dtypes[:3]) != {"uint8"}:
            raise SourceError(
                f"{path} has {src.count} bands of {src.dtypes[0]}; a scene to be repeated needs three 8-bit "
                "bands: leave out size= to measure it as it is"
            )
        width, height = min(src.width, PATTERN), min(src.height, PATTERN)
        left, top = (src.width - width) // 2, (src.height - height) // 2
        return src.read((1, 2, 3), window=Window(left, top, width, height))


def write_scene(path: Path, pattern: Bytes, width: int, height: int, gsd: float, kind: Kind) -> None:
    """Write a ``(3, rows, cols)`` pattern, repeated, as a GeoTIFF of `gsd` metres; or a `TargetError`."""
    profile = {
        "driver": "GTiff", "width": width, "height": height, "count": 3, "dtype": "uint8", "tiled": True,
        "blockxsize": BLOCK, "blockysize": BLOCK, "bigtiff": "if_safer", "interleave": "pixel",
        "crs": "EPSG:32645", "transform": rasterio.Affine(gsd, 0, 300000, 0, -gsd, 3000000),
        **_STORED[kind],
    }  # fmt: skip
    with writing(path, RasterioError), rasterio.open(path, "w", **profile) as dst:
        if kind == "sparse":
            return
        across = -(-width // pattern.shape[2]) + 1
        down = -(-BLOCK // pattern.shape[1]) + 1
        wide = np.tile(pattern, (1, down, across))
        for top in range(0, height, BLOCK):
            rows = min(BLOCK, height - top)
            start = top % pattern.shape[1]
            part = wide[:, start : start + rows, :width]
            dst.write(part, window=Window(0, top, width, rows))
