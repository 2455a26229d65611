"""How a scene's values become the 8-bit ones that the network sees: stretched between two values.

The user, the scene's own type or the model's card say between which; where none of them does, percentiles of
a sample of the scene.
"""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio

from pfmap.core.arrays import Bools, Bytes, Floats
from pfmap.core.errors import EmptyError, UsageError, worded
from pfmap.core.grid import GeoBox, Span
from pfmap.raster.gdal import GDAL_ERRORS, color_table
from pfmap.raster.scene import SceneInfo

Values = npt.NDArray[np.generic]

Look = Callable[[Span, Span], tuple[Values, Bools]]
"""Reads rows and columns of a scene: ``(bands, h, w)`` in its own type, and the valid mask."""

_LOW, _HIGH = 2.0, 98.0  # percentiles
_SPOT = 32  # pixels
_PLACES = 5  # along an axis, at which overviews are compared with the scene, each in other columns
_PLACE, _LARGEST = 8, 2048  # pixels of a side, in the overview and in the scene
_MANY = 8


@dataclass(frozen=True, slots=True)
class Scaling:
    """How pixel values become 8-bit; one for the whole scene."""

    low: float = field(metadata={"key": "min"})
    """In reports "min": value that becomes 0."""
    high: float = field(metadata={"key": "max"})
    """In reports "max": value that becomes 255, the network's 1."""
    origin: str = field(metadata={"key": "from"})

    @property
    def plain(self) -> bool:
        """Whether 8-bit values stay as they are."""
        return (self.low, self.high) == (0.0, 255.0)

    def apply(self, values: npt.NDArray[np.generic], valid: Bools | None = None) -> Bytes:
        """Turn values of any shape into 8 bits, rounded; what is no number becomes 0 or 255.

        Pixels of ``(bands, h, w)`` values that are no number before or after stretching are struck out of the
        ``(h, w)`` mask `valid`.
        """
        if self.plain and values.dtype == np.uint8:
            return values  # type: ignore[return-value]
        kind = np.float32 if values.dtype.itemsize <= 2 else np.float64
        stretched: npt.NDArray[np.floating[Any]] = values.astype(kind)
        with np.errstate(over="ignore", invalid="ignore"):
            stretched -= self.low
            stretched *= 255 / (self.high - self.low)
        if valid is not None and values.dtype.kind == "f":
            valid &= np.isfinite(stretched).all(axis=0)
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
    valid: Bools
    """``(h, w)``."""
    notes: tuple[str, ...] = ()
    """What the user should know of the pixels."""
    fills: tuple[float, ...] = ()
    """Values that whole areas have in all bands, as they do where there is no data."""
    looked: Values = field(default_factory=lambda: np.zeros((0, 0), np.uint8))
    """``(bands, n)`` valid pixels of a few spots, whole and in the scene's own type."""

    @property
    def valid_share(self) -> float:
        """Share of the scene with data, 0 to 1, estimated."""
        return float(self.valid.mean())


def known_scaling(scene: SceneInfo, scale: float, given: tuple[float, float] | None) -> Scaling | None:
    """Return the scaling the user gave, or a card's, unless it has to be taken from the scene's values."""
    if given is not None:
        found = Scaling(*given, "--scale")
    elif scene.palette:
        return EIGHT_BIT
    elif scene.bits and scale == EIGHT_BIT.high:
        found = Scaling(0.0, 2.0**scene.bits - 1, f"{scene.bits} bits per value")
    elif scene.dtype == "uint8" or scale != EIGHT_BIT.high:
        found = Scaling(0.0, scale, "model card")
    else:
        return None
    return _turned(found, scene)


def sampled_scaling(sample: Sample, scene: SceneInfo) -> Scaling:
    """Stretch between two percentiles of the scene's valid values, over all bands at once.

    An `EmptyError` says that there are none, a `UsageError` that nothing can be stretched between them.
    """
    values = sample.pixels[:, sample.valid].astype(np.float64)
    filled = np.isin(values, sample.fills).all(axis=0)
    values = values if filled.all() else values[:, ~filled]
    if not (values := values[np.isfinite(values)]).size:
        raise EmptyError(no_valid_pixel(scene))
    with np.errstate(over="ignore", invalid="ignore"):
        low, high = map(float, np.percentile(values, [_LOW, _HIGH]))
    high = high if high > low else low + 1
    if not (high > low and 0 < 255 / (high - low) < math.inf):
        stretch = f"({low:g} to {high:g}): state scale="
        raise UsageError(f"{scene.name} has values that cannot be stretched {stretch}")
    return _turned(Scaling(low, high, f"percentiles {_LOW:g} and {_HIGH:g} of the scene"), scene)


def about_scaling(scaling: Scaling, scene: SceneInfo) -> list[str]:
    """Say how the scaling was guessed, if it was: neither the user nor the type of values had it."""
    if not scaling.origin.startswith(("percentiles", f"{scene.bits} bits")):
        return []
    taken = f"{scaling.low:g} and {scaling.high:g} are taken ({scaling.origin})"
    text = f"{scene.name} does not say which of its {scene.dtype} values are dark and bright: {taken}"
    return [worded(f"{text}; if that is wrong, state scale=")]


def _turned(scaling: Scaling, scene: SceneInfo) -> Scaling:
    """Have low values be bright where the scene says so."""
    return replace(scaling, low=scaling.high, high=scaling.low) if scene.white_is_zero else scaling


def no_valid_pixel(scene: SceneInfo) -> str:
    """Say that there is nothing to map."""
    return (
        f"{scene.name} has no valid pixel: everything is nodata, masked or outside the area; check its alpha "
        "band, mask and nodata value with gdalinfo"
    )


def read_palette(src: rasterio.DatasetReader, band: int) -> Bytes:
    """Return a band's colour table as ``(4, values)``: red, green, blue and opacity of each value."""
    table = np.zeros((4, 256 if src.dtypes[band - 1] == "uint8" else 65536), dtype=np.uint8)
    table[3] = 255
    for value, color in color_table(src, band).items():
        if value < table.shape[1]:
            table[:, value] = color
    return table


def spots(size: int, count: int, side: int = _SPOT) -> list[Span]:
    """Lay short runs of pixels evenly along an axis; on a short one, end to end."""
    if size <= count * side:
        return Span(0, size).cut(side)
    return [Span(start, start + side) for start in np.linspace(0, size - side, count).astype(int).tolist()]


def at_spots(box: GeoBox, count: int, look: Look) -> tuple[Values, Bools]:
    """Read spots from all over a scene, `count` along each axis, and lay them side by side."""
    lines = []
    for rows in spots(box.height, count):
        found = zip(*(look(rows, cols) for cols in spots(box.width, count)), strict=True)
        lines.append([np.concatenate(part, axis=-1) for part in found])
    values, valid = (np.concatenate(part, axis=-2) for part in zip(*lines, strict=True))
    return values, valid


def by_pixel(rows: Span, cols: Span, shape: tuple[int, int], look: Look) -> tuple[Values, Bools]:
    """Read a part of a scene in few pixels, each the middle one of those it stands for: no overviews."""
    y, x = (
        (2 * np.arange(count) + 1) * span.size // (2 * count)
        for count, span in zip(shape, (rows, cols), strict=True)
    )
    lines = [look(Span(row, row + 1), cols) for row in (rows.start + y).tolist()]
    values, valid = (np.concatenate(part, axis=-2)[..., x] for part in zip(*lines, strict=True))
    return values, valid


def differs(values: Values, valid: Bools, rows: Span, cols: Span, look: Look, *, tiled: bool = True) -> bool:
    """Say whether few pixels, as overviews give them, show something else than those they stand for.

    Places all over are looked at, all in other columns, and in other rows if that is quick, as in a `tiled`
    scene. One differs where the mean of a band or the share of valid pixels is further off than resampling
    brings it. Overviews that are black, of other values, or of what was there before differ in many of them;
    one or two prove nothing. `values` are ``(bands, h, w)``, `rows` and `cols` those of the scene that they
    stand for.
    """
    (height, width), bands = valid.shape, len(values)
    coarser = max(rows.size / height, cols.size / width)
    side, found = int(min(_PLACE, max(2, _LARGEST / coarser))), []
    many = _PLACES**2
    down, across = spots(height, many if tiled else _PLACES, side), spots(width, many, side)
    places = {
        (down[k * len(down) // many], across[(_PLACES * k % many + k // _PLACES) * len(across) // many]): None
        for k in range(many)
    }
    for y, x in places if coarser > 1 else ():
        box = np.s_[y.start : y.stop, x.start : x.stop]
        with contextlib.suppress(*GDAL_ERRORS):  # said where it is mapped
            full = look(_under(y, height, rows), _under(x, width, cols))
            found.append([_figures(values[:, *box], valid[box]), _figures(*full)])
    pairs = np.array(found).reshape(-1, 2, 2 + 2 * bands)
    share, count, mean = pairs[..., 0], pairs[:, 0, 1:2], pairs[..., 2 : 2 + bands]
    spread = pairs[:, 1, 2 + bands :]
    both = share.all(axis=1)
    whole = np.sqrt(np.mean(spread[both] ** 2, axis=0) + mean[both, 1].var(axis=0)) if both.any() else 0.0
    allowed = 4 * spread / np.sqrt(count) + 0.1 * whole + 0.01 * abs(mean[:, 1])
    off = (abs(mean[:, 0] - mean[:, 1]) > allowed).any(axis=1) & both | (abs(share[:, 0] - share[:, 1]) > 0.5)
    seen = int(share.any(axis=1).sum())
    return int(off.sum()) > min(max(1, seen // 10), max(seen - 1, 0))


def _under(part: Span, size: int, whole: Span) -> Span:
    """Return the pixels of the scene that a part of `size` pixels stands for, which together are `whole`."""
    start, stop = part.start * whole.size // size, -(-part.stop * whole.size // size)
    return Span(whole.start + start, whole.start + stop)


def _figures(values: Values, valid: Bools) -> Floats:
    """Return the share of valid pixels, their number, and mean and deviation of each band."""
    valid = valid & np.isfinite(values).all(axis=0)
    some = values[:, valid].astype(np.float64) if valid.any() else np.zeros((len(values), 1))
    with np.errstate(over="ignore", invalid="ignore"):
        return np.array([valid.mean(), some.shape[1], *some.mean(axis=1), *some.std(axis=1)])


def about_pixels(
    scene: SceneInfo, looks: Sequence[tuple[Values, Bools]], others: Mapping[int, Values], *, misled: bool
) -> tuple[tuple[str, ...], tuple[float, ...], Values]:
    """Say what a user should know of a scene's pixels, which values fill whole areas, and some valid pixels.

    `looks` are ``(bands, h, w)`` values and the valid mask of spots from all over it, `others` are ``(n,)``
    values there of its alpha band, or of bands that could be one, by number. It is `misled` if its overviews
    show something else.
    """
    notes, name, alpha = [], scene.name, scene.validity.alpha
    if misled:
        notes.append(
            f"{name} has overviews that show something else than its pixels: they are not used; make them "
            "anew with gdaladdo"
        )
    even = [values.flat[0] for values, valid in looks if valid.all() and (values == values.flat[0]).all()]
    fills = {float(value): even.count(value) for value in even if _is_usual_fill(value)}
    for value, count in fills.items() if not scene.palette else ():
        remedy = f"correct alpha band {alpha}" if alpha else f"say so with gdal_edit.py -a_nodata {value:.9g}"
        notes.append(
            f"all bands of {name} are {value:.9g} in about {100 * count / len(looks):.0f} % of it, which "
            f"nothing marks as nodata: that is mapped; if there is no data, {remedy}"
        )
    notes += [_about_alpha(name, band, found, called=band == alpha) for band, found in others.items()]
    none = np.zeros((len({*scene.bands}), 0), scene.dtype)
    looked = np.concatenate([none, *(values[:, valid] for values, valid in looks)], axis=1)
    return tuple(filter(None, notes)), tuple(fills), looked


def about_range(file: str, band: str, k: int, own: Scaling, looks: Sequence[tuple[Values, Bools]]) -> str:
    """Say of a band that has a scaling of its own, the k-th of `looks`, that most values lie beyond that."""
    values = np.concatenate([values[k][valid] for values, valid in looks])
    if not values.size:
        return f"{file} has no {band} in any of {len(looks)} places looked at: what has none is nodata"
    room = 0.1 * (own.high - own.low)  # for noise around the ground
    beyond = np.mean((values < own.low - room) | (values > own.high + room))
    return (
        f"{beyond:.0%} of the values of {band} in {file} lie outside {own.low:g} to {own.high:g}, which the "
        "model's card has for it: they count as the nearer of the two; check their unit and origin"
    ) * bool(beyond > 0.5)


def _about_alpha(name: str, band: int, found: Values, *, called: bool) -> str:
    """Say of ``(n,)`` values of a band that it looks like an alpha band, or that one `called` so does not."""
    values, counts = np.unique(found[found != 0], return_counts=True)
    # A mask has one such value, and a few more along its edges.
    if called and len(values) >= _MANY and counts[-1] < 0.75 * counts.sum():
        return (
            f"the alpha band of {name} looks like data, such as near infrared: it has many values. Pixels "
            "where it is 0 are nodata; if it is no alpha band, say so with gdal_edit.py "
            f"-colorinterp_{band} undefined"
        )
    if not called and len(values) == 1 and counts[0] < len(found):
        return (
            f"band {band} of {name} has only 0 and {values[0]:g}, as an alpha band has, but is none: if it "
            f"marks what is valid, say so with gdal_edit.py -colorinterp_{band} alpha"
        )
    return ""


def _is_usual_fill(value: Any) -> bool:
    """Whether programs write this value where there is no data."""
    ends = (np.iinfo(value.dtype).min, np.iinfo(value.dtype).max) if value.dtype.kind in "ui" else ()
    return bool(value in (0, *ends) or value <= -9999 or value >= 1e30)
