"""What the pictures of a survey show."""

import io

import numpy as np
from PIL import Image

GAP = 8


def panels(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Left and right half of a picture, (h, w, 4) each."""
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "WEBP"
        pixels = np.asarray(image.convert("RGBA")).astype(int)
    wide = (pixels.shape[1] - GAP) // 2
    return pixels[:, :wide], pixels[:, -wide:]
