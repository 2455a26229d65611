"""How a scene's values become the 8-bit ones that the network sees: stretched between two values.

The user, the scene's own type or the model's card say between which; where none of them does, percentiles of
a sample of the scene.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pfmap.core.card import Card
from pfmap.core.errors import EmptyError
from pfmap.raster.scene import SceneInfo

_LOW, _HIGH = 2.0, 98.0  # percentiles


@dataclass(frozen=True, slots=True)
class Scaling:
    """How pixel values become 8-bit; one for the whole scene."""

    low: float = field(metadata={"key": "min"})
    """In reports "min": value that becomes 0."""
    high: float = field(metadata={"key": "max"})
    """In reports "max": value that becomes 255, the network's 1."""
    origin: str = field(metadata={"key": "from"})
    """In reports "from": where it comes from."""

    @property
    def plain(self) -> bool:
        """Whether 8-bit values stay as they are."""
        return (self.low, self.high) == (0.0, 255.0)

    def apply(self, values: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
        """Turn values of any shape into 8 bits, rounded; what is no number becomes 0."""
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


@dataclass(frozen=True, slots=True)
class Sample:
    """Pixels taken evenly from all over a scene."""

    pixels: npt.NDArray[np.generic]
    """``(bands, h, w)`` in the scene's own type."""
    valid: npt.NDArray[np.bool_]
    """``(h, w)``."""

    @property
    def valid_share(self) -> float:
        """Share of the scene with data, 0 to 1, estimated."""
        return float(self.valid.mean())


def known_scaling(scene: SceneInfo, card: Card, given: tuple[float, float] | None) -> Scaling | None:
    """Return the scaling the user gave, or the model's, unless it has to be taken from the scene's values."""
    if given is not None:
        return Scaling(*given, "--scale")
    if scene.palette:
        return EIGHT_BIT
    if scene.dtype == "uint8" or card.input.scale != 255:
        return Scaling(0.0, card.input.scale, "model card")
    return None


def sampled_scaling(sample: Sample, scene: SceneInfo) -> Scaling:
    """Stretch between two percentiles of the scene's valid values, over all bands at once.

    Raises:
        EmptyError: the scene has no valid pixel.
    """
    values = sample.pixels[:, sample.valid].astype(np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        raise EmptyError(no_valid_pixel(scene))
    low, high = map(float, np.percentile(values, [_LOW, _HIGH]))
    return Scaling(low, high if high > low else low + 1, f"percentiles {_LOW:g} and {_HIGH:g} of the scene")


def no_valid_pixel(scene: SceneInfo) -> str:
    """Say that there is nothing to map."""
    return (
        f"{scene.name} has no valid pixel: everything is nodata, masked or outside the area; check its alpha "
        "band, mask and nodata value with gdalinfo"
    )
