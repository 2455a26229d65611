"""Bring pixels from one grid to another: area average down, bilinear up, invalid pixels left out.

Rows and columns are resampled one after the other. A pixel's value does not depend on which part of the
raster is at hand, so that overlapping windows agree.
"""

import numpy as np
import numpy.typing as npt

from pfmap.core.grid import Scale, Span

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]


def resample(
    pixels: Bytes, valid: Bools, origin: tuple[int, int], rows: tuple[Scale, Span], cols: tuple[Scale, Span]
) -> tuple[Bytes, Floats]:
    """Resample part of a raster.

    Args:
        pixels: ``(bands, h, w)``: at least the pixels that the wanted ones are made of.
        valid: ``(h, w)``; invalid pixels have no say.
        origin: row and column of the raster at which the arrays begin.
        rows: the two grids, and the wanted rows of the new one.
        cols: the same for columns.

    Returns:
        ``(bands, rows, cols)`` uint8, and the ``(rows, cols)`` share of each new pixel that is valid, 0 to 1.
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
    out: Bytes = np.clip(values + np.float32(0.5 + 1e-4), 0, 255).astype(np.uint8)
    return out


def _along_last(values: Floats, origin: int, scale: Scale, span: Span) -> Floats:
    if scale.same:
        return values[..., span.start - origin : span.stop - origin]
    if scale.native < scale.size:
        return _interpolate(values, origin, scale, span)
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
    means: Floats = (np.diff(upto, axis=-1) * (scale.size / scale.native)).astype(np.float32)
    return means


def _interpolate(values: Floats, origin: int, scale: Scale, span: Span) -> Floats:
    """Interpolate between the two nearest centres; beyond the outermost ones nothing changes."""
    first, second, weight = neighbours(scale, span)
    mixed: Floats = values[..., first - origin] * (1 - weight) + values[..., second - origin] * weight
    return mixed


def neighbours(
    scale: Scale, span: Span
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the two old pixels around the centre of each new one, and the weight of the second, 0 to 1."""
    numerator = (2 * np.arange(span.start, span.stop, dtype=np.int64) + 1) * scale.native - scale.size
    below = numerator // (2 * scale.size)
    weight = ((numerator % (2 * scale.size)) / (2 * scale.size)).astype(np.float32)
    return np.clip(below, 0, scale.native - 1), np.clip(below + 1, 0, scale.native - 1), weight
