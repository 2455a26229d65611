"""Whole small images in memory, for training and tests; scenes are streamed by `source` instead."""

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from pfmap.errors import SourceError


def read_image(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Read all of an 8-bit raster.

    Args:
        path: any raster that GDAL opens.

    Returns:
        ``(bands, height, width)`` uint8 without the alpha band, and the ``(height, width)`` valid mask.

    Raises:
        SourceError: the file cannot be read, or is not 8-bit.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as src:
                if src.dtypes[0] != "uint8":
                    raise SourceError(f"{path} holds {src.dtypes[0]} values: 8-bit images are needed")
                colors = [i for i, c in zip(src.indexes, src.colorinterp, strict=True) if c.name != "alpha"]
                return src.read(colors), src.dataset_mask() > 0
    except RasterioError as error:
        raise SourceError(f"{path} cannot be read: {error}") from error
