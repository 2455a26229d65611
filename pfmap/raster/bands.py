"""Which bands of a scene the network sees."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio

from pfmap.core.card import Card
from pfmap.core.errors import EmptyError, UsageError
from pfmap.core.grid import Span
from pfmap.raster.scene import SceneInfo

RGB = ("red", "green", "blue")
_NAMES = {
    "near infrared": "nir",
    "near-infrared": "nir",
    "infrared": "nir",
    "r": "red",
    "g": "green",
    "b": "blue",
}


def choose_bands(
    src: rasterio.DatasetReader,
    scene: str,
    names: tuple[str, ...],
    bands: Sequence[int] | None,
    model: str,
) -> tuple[int, ...]:
    """Choose bands by number, or by what the file says they are: colour interpretation, then descriptions.

    A grey scene serves a model for red, green and blue with the same band three times; a palette has one
    band, whose colours are expanded when it is read.

    Args:
        src: the opened scene.
        scene: its name, for messages.
        names: what the model needs, in its order.
        bands: 1-based numbers given by the user, or None.
        model: the model's name, for messages.

    Returns:
        1-based band numbers, as many as `names`.

    Raises:
        UsageError: too few bands, bands that do not exist, or a band that only the user can name.
    """
    wanted = f"model {model!r} needs {len(names)} ({', '.join(names)})"
    if bands is not None:
        if len(bands) != len(names):
            raise UsageError(f"bands= names {len(bands)} bands; {wanted}")
        absent = [str(b) for b in bands if not 1 <= b <= src.count]
        if absent:
            raise UsageError(f"{scene} has bands 1 to {src.count}, not {', '.join(absent)}: correct bands=")
        return tuple(bands)
    for labels in ([c.name for c in src.colorinterp], [_plain(text) for text in src.descriptions]):
        if all(labels.count(name) == 1 for name in names):
            return tuple(labels.index(name) + 1 for name in names)
    kinds = [color.name for color in src.colorinterp]
    colors = [i + 1 for i, kind in enumerate(kinds) if kind != "alpha"]
    if names == RGB and len(colors) == 1 and kinds[colors[0] - 1] in ("gray", "palette"):
        return (colors[0],) * 3
    if len(colors) < len(names):
        raise UsageError(
            f"{scene} has {len(colors)} band{'s' * (len(colors) != 1)}; {wanted}: choose them with bands="
        )
    if names != RGB:
        raise UsageError(
            f"{scene} does not say which of its {len(colors)} bands are {', '.join(names)}, as model "
            f"{model!r} needs them: name them with bands=, such as bands=(1, 2, 3) for this order"
        )
    return tuple(colors[: len(names)])


def _plain(description: str | None) -> str:
    """Reduce a band's description to a name of the model's language: "Near Infrared (B8)" to nir."""
    text = re.sub(r"\(.*?\)|[\d_]", " ", description or "").strip().lower()
    text = re.sub(r"\s+band$|^band\s+", "", " ".join(text.split()))
    return _NAMES.get(text, text)


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


_LOW, _HIGH = 2.0, 98.0


def known_scaling(scene: SceneInfo, card: Card, given: tuple[float, float] | None) -> Scaling | None:
    """Return the scaling, unless it has to be taken from the scene's own values.

    Args:
        scene: what the scene is.
        card: of the model.
        given: by the user.
    """
    if given is not None:
        return Scaling(*given, "--scale")
    if scene.palette:
        return EIGHT_BIT
    if scene.dtype == "uint8" or card.input.scale != 255:
        return Scaling(0.0, card.input.scale, "model card")
    return None


def sampled_scaling(sample: Sample, scene: SceneInfo) -> Scaling:
    """Stretch between two percentiles of the scene's values.

    Raises:
        EmptyError: the scene has no valid pixel.
    """
    ends = sample.percentiles(_LOW, _HIGH)
    if ends is None:
        raise EmptyError(no_valid_pixel(scene))
    low, high = ends
    return Scaling(low, high if high > low else low + 1, f"percentiles {_LOW:g} and {_HIGH:g} of the scene")


def no_valid_pixel(scene: SceneInfo) -> str:
    """Say that there is nothing to map."""
    return (
        f"{scene.name} has no valid pixel: everything is nodata, masked or outside the area; check its alpha "
        "band, mask and nodata value with gdalinfo"
    )
