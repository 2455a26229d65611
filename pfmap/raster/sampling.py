"""A small sample of a scene: what its values are like, and where it has data."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pfmap.core.grid import Span

_SPOTS, _FEW = 24, 8
_SPOT = 32
_WHOLE = 64_000_000
"""Values that are read to sample a scene without overviews; larger ones are sampled at spots."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Pixels taken evenly from all over a scene.

    Attributes:
        pixels: ``(bands, h, w)`` in the scene's own type.
        valid: ``(h, w)``.
    """

    pixels: npt.NDArray[np.generic]
    valid: npt.NDArray[np.bool_]

    @property
    def valid_share(self) -> float:
        """Share of the scene with data, 0 to 1, estimated."""
        return float(self.valid.mean())

    def percentiles(self, low: float, high: float) -> tuple[float, float] | None:
        """Return two percentiles of the valid values over all bands at once, or None without any."""
        values = self.pixels[:, self.valid].astype(np.float64)
        values = values[np.isfinite(values)]
        if not values.size:
            return None
        first, last = np.percentile(values, [low, high])
        return float(first), float(last)


def spots(size: int, *, few: bool = False) -> list[Span]:
    """Lay short runs of pixels evenly along an axis; few of them where each costs a request to a server."""
    count = _FEW if few else _SPOTS
    if size <= count * _SPOT:
        return [Span(start, min(start + _SPOT, size)) for start in range(0, size, _SPOT)]
    starts = np.linspace(0, size - _SPOT, count).astype(int)
    return [Span(int(start), int(start) + _SPOT) for start in starts]


def small_enough(values: int) -> bool:
    """Whether a scene of so many values is sampled by reading all of it."""
    return values <= _WHOLE
