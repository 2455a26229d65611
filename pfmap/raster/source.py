"""Reading a scene: its pixels as 8-bit values, as the network is to see them, and which of them are valid."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from functools import partial
from typing import cast

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import Resampling
from rasterio.windows import Window

from pfmap.core.errors import SourceError, quietly, reason
from pfmap.core.grid import GeoBox, Span
from pfmap.core.resources import times_of
from pfmap.raster.gdal import (
    GDAL_ERRORS,
    Location,
    Steady,
    ask_server,
    gdal_settings,
    refuse_container,
    window_of,
)
from pfmap.raster.parts import Parts, refuse_pointers
from pfmap.raster.scaling import EIGHT_BIT, Sample
from pfmap.raster.scene import RGB, choose_bands, describe, not_opened, read_palette

Bytes = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]
Values = npt.NDArray[np.generic]

_SAMPLE = 768  # pixels of a side of what a scene is thinned to for a sample
_WHOLE = (
    64_000_000  # values that are read to sample a scene without overviews; larger ones are sampled at spots
)
_SPOTS, _FEW = 24, 8  # along an axis; few where each costs a request to a server
_SPOT = 32  # pixels
_THINNED = 512 << 20  # pixels: those of a larger scene are not all read for one small picture


class Source:
    """An opened scene. A context manager; one per thread.

    Args:
        location: where it is.
        names: the bands that the model needs, in its order.
        bands: 1-based band numbers that override the choice by colour interpretation.
        model: the model's name, for messages.
        skip_unreadable: whether blocks that cannot be read count as nodata; they are listed in
            `unreadable` then.

    Attributes:
        info: what the scene is.
        scaling: how values become 8-bit; set it before reading other than 8-bit scenes.
        times: what `times_of` says of its files since it was opened.
        parts: the files behind a virtual raster, once somebody has looked.
        unreadable: (column, row, width, height) of blocks that could not be read, since last emptied.

    Raises:
        SourceError: missing, no raster, not orthorectified, or a data type that cannot be mapped.
        UsageError: too few bands, or bands that do not exist.
    """

    def __init__(
        self,
        location: Location,
        names: tuple[str, ...] = RGB,
        bands: tuple[int, ...] | None = None,
        model: str = "",
        *,
        skip_unreadable: bool = False,
    ) -> None:
        self.scaling = EIGHT_BIT
        self.parts: Parts | None = None
        self.unreadable: set[tuple[int, int, int, int]] = set()
        self.skips = skip_unreadable
        with contextlib.ExitStack() as stack:
            self._signs = ask_server(location)
            self._src = stack.enter_context(_opened(location))
            with _reading_header(location):
                chosen = choose_bands(self._src, location.text, names, bands, model)
                self.info = describe(self._src, location, chosen)
                self.times = times_of(self.info.files)
                self._palette = read_palette(self._src, chosen[0]) if self.info.palette else None
            self._distinct = sorted(set(chosen))
            self._pick = [self._distinct.index(band) for band in chosen]
            self._stack = stack.pop_all()

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, rows: Span, cols: Span) -> tuple[Bytes, Bools]:
        """Read a part of the scene.

        Args:
            rows: pixel rows, within the scene.
            cols: pixel columns, within the scene.

        Returns:
            ``(bands, h, w)`` uint8 in the model's order, and the ``(h, w)`` valid mask.

        Raises:
            SourceError: the pixels cannot be read.
        """
        if self.parts is not None and self.parts.near(rows, cols):
            return self._read_by_blocks(rows, cols)
        try:
            return self._read(rows, cols)
        except GDAL_ERRORS as error:
            if self.skips:
                return self._read_by_blocks(rows, cols)
            raise self._unreadable(f" at column {cols.start}, row {rows.start}", error) from error

    def _unreadable(self, place: str, error: Exception) -> SourceError:
        return SourceError(
            f"{self.info.name} cannot be read{place}: the source is damaged, incomplete or gone "
            f"({reason(error)}); mend or copy it again, or count what cannot be read as nodata with "
            "on_read_error='nodata'"
        )

    def _read(self, rows: Span, cols: Span) -> tuple[Bytes, Bools]:
        window = window_of(rows, cols)
        valid = self._mask(window) if self.info.has_mask else np.ones((rows.size, cols.size), dtype=bool)
        if not valid.any():
            return np.zeros((len(self._pick), rows.size, cols.size), dtype=np.uint8), valid
        return self._shown(self._values(window), valid)

    def _read_by_blocks(self, rows: Span, cols: Span) -> tuple[Bytes, Bools]:
        """Read the file's blocks one by one; what cannot be read, or is gone, is invalid, and noted."""
        pixels = np.zeros((len(self._pick), rows.size, cols.size), dtype=np.uint8)
        valid = np.zeros((rows.size, cols.size), dtype=bool)
        for y, x, block, there in (self.parts or Parts()).pieces(rows, cols, self.info):
            box = y.within(rows), x.within(cols)
            try:
                if there:
                    pixels[:, *box], valid[box] = self._read(y, x)
                    continue
            except GDAL_ERRORS:
                pass
            self.unreadable.add(block)
        return pixels, valid

    def _values(
        self,
        window: Window | None = None,
        shape: tuple[int, int] | None = None,
        resampling: Resampling = Resampling.nearest,
    ) -> Values:
        """Read the bands in use, ``(bands, h, w)`` in the file's own type; the widest where they differ."""
        read = partial(self._src.read, window=window, resampling=resampling)
        if len({self._src.dtypes[band - 1] for band in self._distinct}) == 1:
            values: Values = read(self._distinct, out_shape=shape and (len(self._distinct), *shape))
            return values
        return np.stack([read(band, out_shape=shape) for band in self._distinct]).astype(self.info.dtype)

    def _mask(self, window: Window | None = None, shape: tuple[int, int] | None = None) -> Bools:
        valid: Bools = self._src.dataset_mask(window=window, out_shape=shape) > 0
        return valid

    def _shown(self, values: Values, valid: Bools) -> tuple[Bytes, Bools]:
        """Turn values into 8-bit ones in the model's order; what is no number is invalid."""
        if values.dtype.kind == "f":
            valid &= np.isfinite(values).all(axis=0)
        if self._palette is not None:
            return self._palette[:, values[0]], valid
        pixels = self.scaling.apply(values)
        in_order = self._pick == list(range(len(self._distinct)))
        return pixels if in_order else pixels[self._pick], valid

    def thins_fast(self) -> bool:
        """Say whether `thinned` is quick: the scene has overviews, or is not large and lies here."""
        return self._has_overviews() or self._small_here(_THINNED)

    def _has_overviews(self) -> bool:
        return bool(self._src.overviews(self._distinct[0]))

    def _small_here(self, pixels: int) -> bool:
        box = self.info.geobox
        return not self.info.location.remote and box.width * box.height <= pixels

    def thinned(self, rows: Span, cols: Span, shape: tuple[int, int]) -> tuple[Bytes, Bools]:
        """Read pixel rows and columns of the scene as an array of fewer, from an overview if it has one.

        Returns:
            ``(bands, *shape)`` uint8 in the model's order, and the valid mask. Each pixel is the mean of
            those it stands for; one of them where the scene holds indices into a colour table.

        Raises:
            SourceError: the pixels cannot be read.
        """
        window = window_of(rows, cols)
        kind = Resampling.nearest if self._palette is not None else Resampling.average
        try:
            return self._shown(self._values(window, shape, kind), self._mask(window, shape))
        except GDAL_ERRORS as error:
            raise self._unreadable("", error) from error

    def sample(self, *, values: bool) -> Sample:
        """Read a few pixels from all over the scene: from an overview, the whole of a small scene, or spots.

        Args:
            values: whether the values are needed. If not, and every pixel is valid, nothing is read.

        Raises:
            SourceError: nothing can be read.
        """
        count = len(self._distinct)
        if not (values or self.info.has_mask or np.dtype(self.info.dtype).kind == "f"):
            return Sample(np.zeros((count, 1, 1), dtype=np.uint8), np.ones((1, 1), dtype=bool))
        try:
            if not self.skips and (self._has_overviews() or self._small_here(_WHOLE // count)):
                return self._sample_whole()
            sample = self._sample_spots()
            # What data a mostly empty scene has may lie between the spots.
            return sample if self.skips or sample.valid.any() else self._sample_whole()
        except GDAL_ERRORS as error:
            raise self._unreadable("", error) from error

    def _sample_whole(self) -> Sample:
        """Read the whole scene, thinned out: from an overview if it has one."""
        shape = min(self.info.geobox.height, _SAMPLE), min(self.info.geobox.width, _SAMPLE)
        return self._as_sample(self._values(shape=shape), self._mask(shape=shape))

    def _sample_spots(self) -> Sample:
        box, count = self.info.geobox, _FEW if self.info.location.remote else _SPOTS
        values, masks = [], []
        for rows in spots(box.height, count):
            found = [self._sample_spot(window_of(rows, cols)) for cols in spots(box.width, count)]
            values.append(np.concatenate([pixels for pixels, _ in found], axis=2))
            masks.append(np.concatenate([valid for _, valid in found], axis=1))
        return self._as_sample(np.concatenate(values, axis=1), np.concatenate(masks, axis=0))

    def _sample_spot(self, window: Window) -> tuple[Values, Bools]:
        try:
            return self._values(window), self._mask(window)
        except GDAL_ERRORS:
            if not self.skips:
                raise
            none = np.zeros((len(self._distinct), window.height, window.width), dtype=self.info.dtype)
            return none, np.zeros((window.height, window.width), dtype=bool)

    def _as_sample(self, values: Values, valid: Bools) -> Sample:
        pixels = values if self._palette is None else self._palette[:, values[0].astype(np.intp)]
        return Sample(pixels, valid & np.isfinite(values).all(axis=0))

    def fingerprint(self) -> str:
        """Return a hash that changes when the scene does: its description, its files, some of its pixels.

        Name, size and time of every file of this machine that it consists of, the sheets of a VRT included:
        a survey that moves to another disk stays what it is. For what lies elsewhere what the server says of
        it, and the pixels of a few blocks.
        """
        digest = hashlib.sha256()
        src = self._src
        facts = [src.width, src.height, src.dtypes, src.nodatavals, str(src.crs), list(src.transform)]
        digest.update(json.dumps([*facts, self._signs], default=str).encode())
        for path, (size, changed, _) in self.times.items():
            digest.update(f"{path.name}|{size}|{changed}".encode())
        if not self.info.files:
            rows, cols = spots(src.height, _SPOTS), spots(src.width, _SPOTS)
            for share in (0, 2, 4):
                window = window_of(rows[(len(rows) - 1) * share // 4], cols[(len(cols) - 1) * share // 4])
                with contextlib.suppress(*GDAL_ERRORS):
                    digest.update(self._values(window).tobytes())
        return digest.hexdigest()


def spots(size: int, count: int) -> list[Span]:
    """Lay short runs of pixels evenly along an axis; on a short one, end to end."""
    if size <= count * _SPOT:
        return Span(0, size).cut(_SPOT)
    starts = np.linspace(0, size - _SPOT, count).astype(int)
    return [Span(int(start), int(start) + _SPOT) for start in starts]


def glance(location: Location) -> GeoBox:
    """Look up how large a scene is and where it lies, without a look at its pixels.

    Raises:
        SourceError: it cannot be opened, or is no orthophoto.
    """
    ask_server(location)
    with _opened(location) as src, _reading_header(location):
        return describe(src, location, (1,)).geobox


@contextlib.contextmanager
def _opened(location: Location) -> Iterator[rasterio.DatasetReader]:
    """Open a scene, with GDAL set up in this thread until it is closed."""
    with gdal_settings(remote=location.remote):
        if location.driver:
            refuse_pointers(location)
        try:
            with quietly():
                src = Steady(lambda: rasterio.open(location.gdal, driver=location.driver or None))
        except (*GDAL_ERRORS, ValueError, UnicodeError) as error:
            raise not_opened(location, error) from error
        with contextlib.closing(src):
            opened = cast(rasterio.DatasetReader, src)
            refuse_container(opened, location.text)
            yield opened


@contextlib.contextmanager
def _reading_header(location: Location) -> Iterator[None]:
    try:
        yield
    except GDAL_ERRORS as error:
        raise SourceError(
            f"{location.text} has a header that GDAL cannot make sense of ({reason(error)})"
        ) from error
