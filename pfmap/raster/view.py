"""The windows of a scene, on the grid that the network sees: area average down, bilinear up.

Invalid pixels have no say in resampled ones. Rows and columns are resampled one after the other. A pixel's
value does not depend on which part of the raster is at hand, so that overlapping windows agree.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pfmap.core.arrays import Bools, Bytes, Longs
from pfmap.core.grid import Frame, Scale, Span
from pfmap.raster.source import Source

Floats = npt.NDArray[np.float32]

Inside = Callable[[Span, Span], Bools]
"""Says for rows and columns of the scene which of their pixels lie in the area of interest."""

_ENOUGH = 1000  # pixels, to say how an image looks
_TAILS = 3, 97  # percentiles
_STRIP_PIXELS = 4 << 20  # of the scene, that are resampled at a time


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
            loaded, has_data = self._load(down, across)
            at = strip.within(rows)
            pixels[:, at], share[at] = resample(
                loaded, has_data, (down.start, across.start), (frame.rows, strip), (frame.cols, cols)
            )
            done = down.clip(block_rows)
            if self.native and done.size > 0:
                valid[done.within(block_rows)] = has_data[done.within(down), block_cols.within(across)]
        if not self.native:
            valid = share[block_rows.within(rows), block_cols.within(cols)] >= 0.5
        return Tile(pixels, share > 0, valid)

    def _load(self, rows: Span, cols: Span) -> tuple[Bytes, Bools]:
        """Read rows and columns of the frame, on the scene's grid."""
        y = Span(rows.start + self.frame.top, rows.stop + self.frame.top)
        x = Span(cols.start + self.frame.left, cols.stop + self.frame.left)
        if self.inside is None:
            return self.source.read(y, x)
        inside = self.inside(y, x)
        if not inside.any():
            return np.zeros((len(self.source.names), rows.size, cols.size), dtype=np.uint8), inside
        pixels, valid = self.source.read(y, x)
        return pixels, valid & inside


def resample(
    pixels: Bytes, valid: Bools, origin: tuple[int, int], rows: tuple[Scale, Span], cols: tuple[Scale, Span]
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


def _along_last(values: Floats, origin: int, scale: Scale, span: Span) -> Floats:
    """Resample the last axis of an array that begins at pixel `origin` of the old grid."""
    if scale.same:
        return values[..., span.start - origin : span.stop - origin]
    if scale.native < scale.size:
        # Between the two nearest centres; beyond the outermost ones nothing changes.
        first, second, weight = neighbours(scale, span)
        return values[..., first - origin] * (1 - weight) + values[..., second - origin] * weight
    return _average(values, origin, scale, span)


def _average(values: Floats, origin: int, scale: Scale, span: Span) -> Floats:
    """Average over the exact extent of each new pixel, parts of pixels included."""
    # Edges of the new pixels: whole old pixels, and the fraction of the one they fall in.
    numerator = np.arange(span.start, span.stop + 1, dtype=np.int64) * scale.native
    whole = numerator // scale.size
    part = ((numerator % scale.size) / scale.size).astype(np.float32)
    sums = np.zeros((*values.shape[:-1], values.shape[-1] + 1))
    np.cumsum(values, axis=-1, dtype=np.float64, out=sums[..., 1:])
    within = np.minimum(whole - origin, values.shape[-1] - 1)
    upto = sums[..., whole - origin] + part * values[..., within]
    return (np.diff(upto, axis=-1) * (scale.size / scale.native)).astype(np.float32)


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
