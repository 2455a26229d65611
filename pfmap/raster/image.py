"""8-bit rasters such as label images, whole or in part."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.errors import RasterioError
from rasterio.windows import Window

from pfmap.core.errors import SourceError
from pfmap.core.grid import Span
from pfmap.core.quiet import quietly


def image_size(path: Path) -> tuple[int, int]:
    """Return height and width of a raster.

    Raises:
        SourceError: the file cannot be read.
    """
    with _opened(path) as src:
        return src.height, src.width


def read_image(
    path: Path, rows: Span | None = None, cols: Span | None = None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Read an 8-bit raster, or a part of it.

    Args:
        path: any raster that GDAL opens.
        rows: pixel rows; None for all.
        cols: pixel columns; None for all.

    Returns:
        ``(bands, height, width)`` uint8 without the alpha band, and the ``(height, width)`` valid mask.

    Raises:
        SourceError: the file cannot be read, or is not 8-bit.
    """
    with _opened(path) as src:
        if src.dtypes[0] != "uint8":
            raise SourceError(f"{path} holds {src.dtypes[0]} values: 8-bit images are needed")
        colors = [i for i, c in zip(src.indexes, src.colorinterp, strict=True) if c.name != "alpha"]
        y, x = rows or Span(0, src.height), cols or Span(0, src.width)
        window = Window(x.start, y.start, x.size, y.size)
        return src.read(colors, window=window), src.dataset_mask(window=window) > 0


@contextmanager
def _opened(path: Path) -> Iterator[rasterio.DatasetReader]:
    try:
        with quietly(), rasterio.open(path) as src:
            yield src
    except RasterioError as error:
        raise SourceError(f"{path} cannot be read: {error}") from error
