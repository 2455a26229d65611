"""Sheets of a survey, cut out of one image."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from affine import Affine
from conftest import NORTH_UP, Write

Box = tuple[int, int, int, int]
"""Row, column, height and width."""

QUARTERS = [(0, 0, 100, 100), (0, 100, 100, 100), (100, 0, 100, 100), (100, 100, 100, 100)]
OVERLAPPING = [(0, 0, 120, 130), (0, 110, 130, 90), (90, 0, 110, 120), (110, 100, 90, 100)]


def sheets(write: Write, image: npt.NDArray[np.uint8], boxes: Sequence[Box], **profile: object) -> list[Path]:
    """Cut (row, col, height, width) out of an image, each as a scene at its place."""
    return [
        write(
            image[:, row : row + height, col : col + width],
            f"sheet{number}.tif",
            transform=NORTH_UP @ Affine.translation(col, row),
            **profile,
        )
        for number, (row, col, height, width) in enumerate(boxes)
    ]
