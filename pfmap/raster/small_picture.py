"""Small pictures for people."""

import numpy as np
import numpy.typing as npt
from rasterio.io import MemoryFile

from pfmap.core.quiet import quietly


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Encode ``(height, width, 3)`` uint8 red, green and blue as a PNG file."""
    height, width, bands = pixels.shape
    with quietly(), MemoryFile() as file:
        with file.open(driver="PNG", width=width, height=height, count=bands, dtype="uint8") as dst:
            dst.write(np.moveaxis(pixels, 2, 0))
        return bytes(file.read())
