"""Regions of one class as ragged arrays: how the raster side hands geometry to the vector side."""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Regions:
    """4-connected regions of equal class, in pixel coordinates of the scene.

    Attributes:
        classes: ``(n,)`` uint8 class of each region.
        coords: ``(points, 2)`` int64 columns and rows (x, y) of pixel corners; rings are closed.
        ring_offsets: ``(rings + 1,)`` int64: where each ring starts in `coords`.
        region_offsets: ``(n + 1,)`` int64: where each region starts in the rings; the first ring is the
            outer one.
        pixels: ``(n,)`` int64 number of pixels.
        confidence_sum: ``(n,)`` int64 sum of the pixels' confidence in percent.
        confidence_min: ``(n,)`` uint8 least confidence in percent.
    """

    classes: npt.NDArray[np.uint8]
    coords: npt.NDArray[np.int64]
    ring_offsets: npt.NDArray[np.int64]
    region_offsets: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.int64]
    confidence_sum: npt.NDArray[np.int64]
    confidence_min: npt.NDArray[np.uint8]

    def save(self, path: Path) -> None:
        """Write all arrays to a numpy archive."""
        np.savez(path, **{item.name: getattr(self, item.name) for item in fields(self)})

    @classmethod
    def load(cls, path: Path) -> "Regions":
        """Read what `save` wrote; nothing in the file is executed."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{item.name: arrays[item.name] for item in fields(cls)})

    def __len__(self) -> int:
        return len(self.classes)

    def region_of_point(self) -> npt.NDArray[np.int64]:
        """Say which region each point belongs to: ``(points,)``."""
        points = np.diff(self.ring_offsets[self.region_offsets])
        return np.repeat(np.arange(len(self), dtype=np.int64), points)
