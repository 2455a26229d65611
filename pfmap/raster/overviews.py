"""Smaller copies of a class or confidence raster, each half the one before.

GDAL's own took 6 to 14 times the processor time on class and confidence rasters of 8,192 x 8,192 pixels: here
two by two pixels are looked at, and most are equal.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.windows import Window

from pfmap.core.classes import NODATA

Halving = Literal["mode", "average"]
"""How four pixels become one: by the most frequent value, the first of equals; or by their mean."""

BLOCK = 512
"""Side of the tiles of all rasters that are written."""

SOMEWHERE = rasterio.Affine.translation(1, 0)
"""Where rasters lie that nobody but pfmap reads."""

_ACROSS = 16 * BLOCK  # columns in work at a time, of the smaller raster
Bytes = npt.NDArray[np.uint8]


def staged(height: int, width: int) -> dict[str, Any]:
    """Describe a raster on its way to the final one, which only a VRT reads."""
    return {
        "driver": "GTiff", "width": width, "height": height, "count": 1, "dtype": "uint8",
        # The VRT knows better: rasterio warns of files without a place, and warnings cannot be silenced in
        # one thread alone.
        "transform": SOMEWHERE,
        "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK,
        # Half the size of deflate's lowest level on class rasters, at a fifth of its time.
        "compress": "zstd", "zstd_level": 1,
        "bigtiff": "if_safer",
    }  # fmt: skip


def halve(values: Bytes, halving: Halving) -> Bytes:
    """Make ``(ceil(h / 2), ceil(w / 2))`` of ``(h, w)`` uint8; nodata has no say beside other pixels."""
    height, width = values.shape
    if height % 2 or width % 2:
        values = np.pad(values, ((0, height % 2), (0, width % 2)), constant_values=NODATA)
    four = [values[row::2, col::2] for row in (0, 1) for col in (0, 1)]
    return (_mode if halving == "mode" else _average)(four)


def _mode(four: list[Bytes]) -> Bytes:
    out = four[0].copy()
    at = np.nonzero((four[1] != out) | (four[2] != out) | (four[3] != out))
    mixed = np.stack([part[at] for part in four])
    votes = np.stack([(mixed == one).sum(axis=0) for one in mixed])
    votes[mixed == NODATA] = 0
    out[at] = np.take_along_axis(mixed, votes.argmax(axis=0)[None], axis=0)[0]
    return out


def _average(four: list[Bytes]) -> Bytes:
    total = sum((part.astype(np.uint16) for part in four[1:]), four[0].astype(np.uint16))
    out: Bytes = ((total + 2) >> 2).astype(np.uint8)
    at = np.nonzero(np.maximum.reduce(four) == NODATA)
    some = np.stack([part[at] for part in four])
    valid = some != NODATA
    count = valid.sum(axis=0)
    mean = (np.where(valid, some, 0).sum(axis=0) + count // 2) // np.maximum(count, 1)
    out[at] = np.where(count, mean, NODATA)
    return out


def write_overviews(source: Path, folder: Path, halving: Halving) -> list[Path]:
    """Write a raster's overviews, largest first, until one block holds the smallest.

    Args:
        source: a single-band uint8 raster with nodata 255.
        folder: where they go, as `<source's stem>.1.tif` and so on.
        halving: how four pixels become one.

    Raises:
        RasterioError: the disk is full or not writable.
    """
    paths: list[Path] = []
    while True:
        with rasterio.open(source) as src:
            if max(src.shape) <= BLOCK:
                return paths
            path = folder / f"{source.stem.removesuffix(f'.{len(paths)}')}.{len(paths) + 1}.tif"
            height, width = -(-src.height // 2), -(-src.width // 2)
            with rasterio.open(path, "w", **staged(height, width)) as dst:
                for window in _windows(height, width):
                    left, top = 2 * window.col_off, 2 * window.row_off
                    right = min(left + 2 * window.width, src.width)
                    bottom = min(top + 2 * window.height, src.height)
                    values = src.read(1, window=Window(left, top, right - left, bottom - top))
                    dst.write(halve(values, halving), 1, window=window)
        paths.append(path)
        source = path


def _windows(height: int, width: int) -> Iterator[Window]:
    for top in range(0, height, BLOCK):
        for left in range(0, width, _ACROSS):
            yield Window(left, top, min(_ACROSS, width - left), min(BLOCK, height - top))
