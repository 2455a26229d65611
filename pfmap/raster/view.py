"""The windows of a scene, on the grid that the network sees: area average down, bilinear up.

Invalid pixels have no say in resampled ones. Rows and columns are resampled one after the other. A pixel's
value does not depend on which part of the raster is at hand, so that overlapping windows agree; where one
is read from an overview and the other has nodata, they do so closely.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product

import numpy as np
import numpy.typing as npt

from pfmap.core.arrays import Bools, Bytes, Longs
from pfmap.core.errors import SourceError
from pfmap.core.grid import Frame, Scale, Span
from pfmap.raster.gdal import GDAL_ERRORS
from pfmap.raster.scaling import spots
from pfmap.raster.source import Source

Floats = npt.NDArray[np.float32]

Inside = Callable[[Span, Span], Bools]
"""Says for rows and columns of the scene which of their pixels lie in the area of interest."""

_ENOUGH = 1000  # pixels, to say how an image looks
_TAILS = 3, 97  # percentiles
_STRIP_PIXELS = 4 << 20  # of the scene, that are resampled at a time
_FINER, _NOISY_FINER = 3, 6  # pixels of an overview along one that the network sees
_SPOTS, _SPOT, _LEAST = 8, 64, 4  # along an axis, half of a server's; their side; how many have to be valid
_QUICK = 64 << 20  # bytes of an overview's blocks
_LOSSLESS = {"none", "deflate", "lzw", "zstd", "lzma", "packbits"}


@dataclass(frozen=True, slots=True)
class Tile:
    """What a window sees, and where its finished block has data."""

    pixels: Bytes
    """``(bands, h, w)`` on the network's grid."""
    seen: Bools
    """``(h, w)``: which of them have data at all."""
    valid: Bools
    """``(rows, cols)`` of the block, on the grid of the outputs."""


@dataclass(frozen=True, slots=True)
class View:
    """Reads a frame of a scene, or what of it lies `inside`, resampled where its two grids differ.

    `native` outputs lie on the scene's grid, others on the network's.
    """

    source: Source
    frame: Frame
    inside: Inside | None
    native: bool
    overview: Source | None = None
    """Of the scene, made of averages: read in its place wherever all of it is valid."""

    def read(self, rows: Span, cols: Span, block_rows: Span, block_cols: Span) -> Tile:
        """Read a window, clipped to the frame, or raise a `SourceError`; its block is of the outputs."""
        frame = self.frame
        rows, cols = rows.clip(Span(0, frame.rows.size)), cols.clip(Span(0, frame.cols.size))
        if not frame.resampled:
            pixels, seen = self._load(rows, cols)
            return Tile(pixels, seen, seen[block_rows.within(rows), block_cols.within(cols)])
        pixels = np.empty((len(self.source.names), rows.size, cols.size), dtype=np.uint8)
        share = np.empty((rows.size, cols.size), dtype=np.float32)
        valid = np.zeros((block_rows.size, block_cols.size), dtype=bool)
        across = frame.cols.cover(cols)
        if self.native:
            across = Span.hull([across, block_cols])
        # Cut so that the scene's pixels under each piece stay few.
        height = max(1, int(_STRIP_PIXELS / max(across.size, 1) / max(frame.rows.factor, 1)))
        for strip in rows.cut(height):
            down = frame.rows.cover(strip)
            if self.native:  # the outermost strips also load what the block has beyond the window
                first = block_rows.start if strip.start == rows.start else down.start
                last = block_rows.stop if strip.stop == rows.stop else down.stop
                down = Span.hull([down, Span(first, last)])
            at = strip.within(rows)
            pixels[:, at], share[at], has_data = self._seen(down, across, strip, cols)
            done = down.clip(block_rows)
            if self.native and done.size > 0:
                valid[done.within(block_rows)] = has_data[done.within(down), block_cols.within(across)]
        if not self.native:
            valid = share[block_rows.within(rows), block_cols.within(cols)] >= 0.5
        return Tile(pixels, share > 0, valid)

    def _seen(self, down: Span, across: Span, rows: Span, cols: Span) -> tuple[Bytes, Floats, Bools]:
        """Resample what lies below rows and columns; from the overview if all of that is valid there.

        Returns them, their share of valid pixels, and which of those below are valid.
        """
        frame, box = self.frame, self.source.info.geobox
        y, x = down.moved(frame.top), across.moved(frame.left)
        if self.overview is not None:
            small, near, origin, grids = self.overview.info.geobox, [], [], []
            for below, new, scale, first, whole, few in (
                (y, rows, frame.rows, frame.top, box.height, small.height),
                (x, cols, frame.cols, frame.left, box.width, small.width),
            ):
                near.append(Span(below.start * few // whole, -(-below.stop * few // whole)))
                origin.append(near[-1].start - Fraction(first * few, whole))
                grids.append((Scale(scale.native * few, scale.size * whole), new))
            with contextlib.suppress(SourceError, *GDAL_ERRORS):  # said where it is read in full
                valid = self.source.mask(y, x) & (self.inside is None or self.inside(y, x))
                if valid.all():
                    pixels = self.overview.read(*near)[0]
                    return *resample(pixels, np.ones(pixels.shape[1:], dtype=bool), origin, *grids), valid
        pixels, valid = self._load(down, across)
        at = down.start, across.start
        return *resample(pixels, valid, at, (frame.rows, rows), (frame.cols, cols)), valid

    def _load(self, rows: Span, cols: Span) -> tuple[Bytes, Bools]:
        """Read rows and columns of the frame, on the scene's grid."""
        y, x = rows.moved(self.frame.top), cols.moved(self.frame.left)
        if self.inside is None:
            return self.source.read(y, x)
        inside = self.inside(y, x)
        if not inside.any():
            return np.zeros((len(self.source.names), rows.size, cols.size), dtype=np.uint8), inside
        pixels, valid = self.source.read(y, x)
        return pixels, valid & inside


def resample(
    pixels: Bytes,
    valid: Bools,
    origin: Sequence[Fraction | int],
    rows: tuple[Scale, Span],
    cols: tuple[Scale, Span],
) -> tuple[Bytes, Floats]:
    """Resample part of a raster: to some rows and columns, given with the two grids along their axis.

    It takes at least the ``(bands, h, w)`` pixels that these are made of, and which of them are `valid`,
    ``(h, w)``; both begin at a row and column of the raster, their `origin`. Returns ``(bands, rows, cols)``
    uint8, and the ``(rows, cols)`` share of each new pixel that is valid, 0 to 1.
    """

    def both(values: Floats) -> Floats:
        down = _along_last(values.swapaxes(-1, -2), origin[0], *rows)
        return _along_last(down.swapaxes(-1, -2), origin[1], *cols)

    if valid.all():
        out = both(pixels.astype(np.float32))
        return _to_bytes(out), np.ones(out.shape[1:], dtype=np.float32)
    share = both(valid.astype(np.float32))
    total = both(np.where(valid, pixels, np.uint8(0)).astype(np.float32))
    mean = (total / np.maximum(share, 1e-6)).astype(np.float32)
    return _to_bytes(mean), share


def _to_bytes(values: Floats) -> Bytes:
    # A hair upwards, so that a half is rounded the same way whatever the last bit of the sum says.
    return np.clip(values + np.float32(0.5 + 1e-4), 0, 255).astype(np.uint8)


def _along_last(values: Floats, origin: Fraction | int, scale: Scale, span: Span) -> Floats:
    """Resample the last axis of an array that begins at pixel `origin` of the old grid."""
    if scale.native > scale.size:
        return _average(values, int(origin * scale.size), scale, span)
    start = int(origin)
    if scale.same:
        return values[..., span.start - start : span.stop - start]
    # Between the two nearest centres; beyond the outermost ones nothing changes.
    first, second, weight = neighbours(scale, span)
    return values[..., first - start] * (1 - weight) + values[..., second - start] * weight


def _average(values: Floats, start: int, scale: Scale, span: Span) -> Floats:
    """Average over the exact extent of each new pixel, parts of pixels included; old ones are `size` long."""
    # Edges of the new pixels: whole old pixels, and the fraction of the one they fall in.
    numerator = np.arange(span.start, span.stop + 1, dtype=np.int64) * scale.native - start
    whole = numerator // scale.size
    part = ((numerator % scale.size) / scale.size).astype(np.float32)
    sums = np.zeros((*values.shape[:-1], values.shape[-1] + 1))
    np.cumsum(values, axis=-1, dtype=np.float64, out=sums[..., 1:])
    upto = sums[..., whole] + part * values[..., np.minimum(whole, values.shape[-1] - 1)]
    return (np.diff(upto, axis=-1) * (scale.size / scale.native)).astype(np.float32)


def overview_of(source: Source, frame: Frame) -> int:
    """Say how many times as coarse the overview is that a frame is read from where all is valid; 0 is none.

    It is the coarsest of averages that is several times as fine as what the network sees.
    """
    info, finer = source.info, _FINER if source.info.compression in _LOSSLESS else _NOISY_FINER
    exact = source.scaling.plain and not (info.palette or source.extra or source.skips)
    with contextlib.suppress(SourceError):  # said where it is mapped
        for factor in sorted(info.overviews, reverse=True) if exact else ():
            fine = factor * finer <= min(frame.rows.factor, frame.cols.factor)
            overview = source.overview(factor) if fine else None
            if overview and overview.info.block_bytes <= _QUICK and is_average(source, overview):
                return factor
    return 0


def is_average(source: Source, overview: Source) -> bool:
    """Say whether an overview's pixels are averages of the scene's, in spots all over it where it has data.

    Their errors, also by lossy compression, are small beside the deviation of what they stand for, as those
    of single pixels are not. Where all is even nothing is proven.
    """
    count, found = _SPOTS // 2 if source.info.location.remote else _SPOTS, []
    box, small = source.info.geobox, overview.info.geobox
    down, across = Scale(box.height, small.height), Scale(box.width, small.width)
    side = max(2, round(_SPOT / max(down.factor, across.factor)))
    for y, x in product(spots(small.height, count, side), spots(small.width, count, side)):
        rows, cols = down.cover(y), across.cover(x)
        pixels, valid = source.read(rows, cols)
        if valid.all():
            mean = resample(pixels, valid, (rows.start, cols.start), (down, y), (across, x))[0]
            error = np.mean((overview.read(y, x)[0] - mean.astype(np.float64)) ** 2)
            found.append([error, np.mean(pixels.var(axis=(1, 2)) - mean.var(axis=(1, 2)))])
    errors, spreads = np.array(found).reshape(-1, 2).T
    if len(found) < _LEAST or len(overview.empty):
        return False
    allowed = spreads / 40 + 0.5 if source.info.compression in _LOSSLESS else spreads / 3 + 4
    error = errors.mean()
    return bool((errors <= 4 * allowed).all() and error < min(allowed.mean(), spreads.mean() / 3))


def neighbours(scale: Scale, span: Span) -> tuple[Longs, Longs, Floats]:
    """Return the two old pixels around the centre of each new one, and the weight of the second, 0 to 1."""
    numerator = (2 * np.arange(span.start, span.stop, dtype=np.int64) + 1) * scale.native - scale.size
    below = numerator // (2 * scale.size)
    weight = ((numerator % (2 * scale.size)) / (2 * scale.size)).astype(np.float32)
    return np.clip(below, 0, scale.native - 1), np.clip(below + 1, 0, scale.native - 1), weight


def pad_to(pixels: Bytes, valid: Bools, height: int, width: int) -> tuple[Bytes, Bools]:
    """Pad a window at the bottom and right by reflection, as often as needed.

    ``(bands, h, w)`` pixels become ``(bands, height, width)``, the ``(h, w)`` mask ``(height, width)``.
    """
    pad = ((0, height - valid.shape[0]), (0, width - valid.shape[1]))
    if pad == ((0, 0), (0, 0)):
        return pixels, valid
    return np.pad(pixels, ((0, 0), *pad), mode="reflect"), np.pad(valid, pad, mode="reflect")


def figures_of(pixels: Bytes) -> dict[str, npt.NDArray[np.float64]]:
    """Return how ``(bands, n)`` pixels look, as `Card.learned` has it; {} of hardly any.

    Where all bands are 0, or all 255, there may be no data: these do not count.
    """
    shown = pixels[:, ~((pixels == 0).all(axis=0) | (pixels == 255).all(axis=0))] / 255.0
    if shown.shape[1] < _ENOUGH:
        return {}
    apart = shown - shown.mean(axis=0)
    tint = np.percentile(apart, _TAILS, axis=1).sum(axis=0)
    return {"mean": shown.mean(axis=1), "std": shown.std(axis=1), "chroma": apart.std(axis=1), "tint": tint}
