"""How pixel values become what the network sees."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Scaling:
    """How pixel values become 0..1: `low` is 0, `high` is 1; one for the whole scene.

    Attributes:
        low: value that becomes 0.
        high: value that becomes 1.
        origin: where it comes from, for the report.
    """

    low: float
    high: float
    origin: str

    @property
    def plain(self) -> bool:
        """Whether 8-bit values stay as they are."""
        return (self.low, self.high) == (0.0, 255.0)

    def apply(self, values: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
        """Turn values into 8 bits: 0..1 becomes 0..255, rounded."""
        if self.plain and values.dtype == np.uint8:
            return values  # type: ignore[return-value]
        stretched: npt.NDArray[np.floating[Any]] = values.astype(
            np.float32 if values.dtype.itemsize <= 2 else np.float64
        )
        stretched -= self.low
        stretched *= 255 / (self.high - self.low)
        np.nan_to_num(stretched, copy=False, nan=0.0, posinf=255.0, neginf=0.0)
        np.clip(stretched, 0, 255, out=stretched)
        stretched += 0.5
        return stretched.astype(np.uint8)


EIGHT_BIT = Scaling(0.0, 255.0, "8-bit values")
