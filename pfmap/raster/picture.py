"""Small pictures for people."""

import warnings

import numpy as np
import numpy.typing as npt
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Encode ``(height, width, 3)`` uint8 red, green and blue as a PNG file."""
    height, width, bands = pixels.shape
    with warnings.catch_warnings(), MemoryFile() as file:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with file.open(driver="PNG", width=width, height=height, count=bands, dtype="uint8") as dst:
            dst.write(np.moveaxis(pixels, 2, 0))
        return bytes(file.read())
