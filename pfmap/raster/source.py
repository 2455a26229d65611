"""A scene on disk: what it is, and its pixels, as the network is to see them: 8-bit, and which are valid."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import Resampling
from rasterio.windows import Window

from pfmap.core.errors import SourceError, quietly
from pfmap.core.grid import GeoBox, Span
from pfmap.raster.bands import EIGHT_BIT, RGB, Sample, choose_bands, small_enough, spots
from pfmap.raster.gdal import GDAL_ERRORS, Location, ask_server, gdal_settings, reason
from pfmap.raster.scene import check_place, describe, read_palette

_SAMPLE = 768
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
        self.unreadable: set[tuple[int, int, int, int]] = set()
        self._skip = skip_unreadable
        with contextlib.ExitStack() as stack:
            self._signs = ask_server(location)
            stack.enter_context(gdal_settings(remote=location.remote))
            self._src = stack.enter_context(_open(location))
            try:
                chosen = choose_bands(self._src, location.text, names, bands, model)
                self.info = describe(self._src, location, chosen)
                check_place(self._src, location.text)
                self._palette = read_palette(self._src, chosen[0]) if self.info.palette else None
            except GDAL_ERRORS as error:
                raise SourceError(
                    f"{location.text} has a header that GDAL cannot make sense of ({reason(error)})"
                ) from error
            self._distinct = sorted(set(chosen))
            self._pick = [self._distinct.index(band) for band in chosen]
            self._stack = stack.pop_all()

    def __enter__(self) -> "Source":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def read(self, rows: Span, cols: Span) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Read a part of the scene.

        Args:
            rows: pixel rows, within the scene.
            cols: pixel columns, within the scene.

        Returns:
            ``(bands, h, w)`` uint8 in the model's order, and the ``(h, w)`` valid mask.

        Raises:
            SourceError: the pixels cannot be read.
        """
        try:
            return self._read(rows, cols)
        except GDAL_ERRORS as error:
            if self._skip:
                return self._read_by_blocks(rows, cols)
            raise self._unreadable(f" at column {cols.start}, row {rows.start}", error) from error

    def _unreadable(self, place: str, error: Exception) -> SourceError:
        return SourceError(
            f"{self.info.name} cannot be read{place}: the source is damaged, incomplete or gone "
            f"({reason(error)}); mend or copy it again, or count what cannot be read as nodata with "
            "on_read_error='nodata'"
        )

    def _read(self, rows: Span, cols: Span) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        window = Window(cols.start, rows.start, cols.size, rows.size)
        if self.info.has_mask:
            valid = self._src.dataset_mask(window=window) > 0
            if not valid.any():
                return np.zeros((len(self._pick), rows.size, cols.size), dtype=np.uint8), valid
        else:
            valid = np.ones((rows.size, cols.size), dtype=bool)
        values = self._values(window=window)
        if values.dtype.kind == "f":
            valid &= np.isfinite(values).all(axis=0)
        if self._palette is not None:
            pixels = self._palette[:, values[0]]
        else:
            pixels = self.scaling.apply(values)
            if len(self._distinct) != len(self._pick) or self._pick != list(range(len(self._pick))):
                pixels = pixels[self._pick]
        return pixels, valid

    def _values(self, **options: Any) -> npt.NDArray[np.generic]:
        """Read the bands in use, in the file's own type; the widest where they differ."""
        if len({self._src.dtypes[band - 1] for band in self._distinct}) == 1:
            if "out_shape" in options:
                options["out_shape"] = (len(self._distinct), *options["out_shape"])
            values: npt.NDArray[np.generic] = self._src.read(self._distinct, **options)
            return values
        return np.stack([self._src.read(band, **options) for band in self._distinct]).astype(self.info.dtype)

    def _read_by_blocks(self, rows: Span, cols: Span) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Read the file's blocks one by one; those that cannot be read are invalid, and noted."""
        pixels = np.zeros((len(self._pick), rows.size, cols.size), dtype=np.uint8)
        valid = np.zeros((rows.size, cols.size), dtype=bool)
        high, wide = self.info.block
        for top in range(rows.start // high * high, rows.stop, high):
            for left in range(cols.start // wide * wide, cols.stop, wide):
                y = Span(max(top, rows.start), min(top + high, rows.stop))
                x = Span(max(left, cols.start), min(left + wide, cols.stop))
                box = np.s_[
                    y.start - rows.start : y.stop - rows.start, x.start - cols.start : x.stop - cols.start
                ]
                try:
                    pixels[:, *box], valid[box] = self._read(y, x)
                except GDAL_ERRORS:
                    size = self.info.geobox
                    self.unreadable.add(
                        (left, top, min(wide, size.width - left), min(high, size.height - top))
                    )
        return pixels, valid

    def thins_fast(self) -> bool:
        """Say whether `thinned` is quick: the scene has overviews, or is not large and lies here."""
        box = self.info.geobox
        if self._src.overviews(self._distinct[0]):
            return True
        return not self.info.location.remote and box.width * box.height <= _THINNED

    def thinned(
        self, rows: Span, cols: Span, shape: tuple[int, int]
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Read a part of the scene in fewer pixels, from an overview if it has one.

        Args:
            rows: pixel rows, within the scene.
            cols: pixel columns, within the scene.
            shape: height and width of what is wanted.

        Returns:
            ``(bands, *shape)`` uint8 in the model's order, and the valid mask. Each pixel is the mean of
            those it stands for; one of them where the scene holds indices into a colour table.

        Raises:
            SourceError: the pixels cannot be read.
        """
        window = Window(cols.start, rows.start, cols.size, rows.size)
        kind = Resampling.nearest if self._palette is not None else Resampling.average
        try:
            valid = self._src.dataset_mask(window=window, out_shape=shape) > 0
            values = self._values(window=window, out_shape=shape, resampling=kind)
        except GDAL_ERRORS as error:
            raise self._unreadable("", error) from error
        if values.dtype.kind == "f":
            valid &= np.isfinite(values).all(axis=0)
        if self._palette is not None:
            return self._palette[:, values[0]], valid
        return self.scaling.apply(values)[self._pick], valid

    def sample(self, *, values: bool) -> Sample:
        """Read a few pixels from all over the scene: from an overview, the whole of a small scene, or spots.

        Args:
            values: whether the values are needed. If not, and every pixel is valid, nothing is read.

        Raises:
            SourceError: nothing can be read.
        """
        box, count = self.info.geobox, len(self._distinct)
        if not (values or self.info.has_mask or np.dtype(self.info.dtype).kind == "f"):
            return Sample(np.zeros((count, 1, 1), dtype=np.uint8), np.ones((1, 1), dtype=bool))
        whole = small_enough(box.width * box.height * count) and not self.info.location.remote
        try:
            if not self._skip and (self._src.overviews(self._distinct[0]) or whole):
                return self._sample_whole()
            sample = self._sample_spots()
            # What data a mostly empty scene has may lie between the spots.
            return sample if self._skip or sample.valid.any() else self._sample_whole()
        except GDAL_ERRORS as error:
            raise self._unreadable("", error) from error

    def _sample_whole(self) -> Sample:
        """Read the whole scene, thinned out: from an overview if it has one."""
        shape = min(self.info.geobox.height, _SAMPLE), min(self.info.geobox.width, _SAMPLE)
        pixels = self._values(out_shape=shape)
        valid = self._src.dataset_mask(out_shape=shape) > 0
        return Sample(self._expand(pixels), valid & np.isfinite(pixels).all(axis=0))

    def _sample_spots(self) -> Sample:
        box, remote = self.info.geobox, self.info.location.remote
        values, masks = [], []
        for y in spots(box.height, few=remote):
            windows = [Window(x.start, y.start, x.size, y.size) for x in spots(box.width, few=remote)]
            row = [self._sample_spot(window) for window in windows]
            values.append(np.concatenate([pixels for pixels, _ in row], axis=2))
            masks.append(np.concatenate([valid for _, valid in row], axis=1))
        pixels, valid = np.concatenate(values, axis=1), np.concatenate(masks, axis=0)
        return Sample(self._expand(pixels), valid & np.isfinite(pixels).all(axis=0))

    def _sample_spot(self, window: Window) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.bool_]]:
        try:
            return self._values(window=window), self._src.dataset_mask(window=window) > 0
        except GDAL_ERRORS:
            if not self._skip:
                raise
            none = np.zeros((len(self._distinct), window.height, window.width), dtype=self.info.dtype)
            return none, np.zeros((window.height, window.width), dtype=bool)

    def _expand(self, values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        return values if self._palette is None else self._palette[:, values[0].astype(np.intp)]

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
        for path in self.info.files:
            stat = path.stat()
            digest.update(f"{path.name}|{stat.st_size}|{stat.st_mtime_ns}".encode())
        if not self.info.files:
            rows, cols = spots(src.height), spots(src.width)
            for share in (0, 2, 4):
                y, x = rows[(len(rows) - 1) * share // 4], cols[(len(cols) - 1) * share // 4]
                window = Window(x.start, y.start, min(x.size, 32), min(y.size, 32))
                with contextlib.suppress(*GDAL_ERRORS):
                    digest.update(self._values(window=window).tobytes())
        return digest.hexdigest()


def glance(location: Location) -> GeoBox:
    """Look up how large a scene is and where it lies, without a look at its pixels.

    Raises:
        SourceError: it cannot be opened, or is no orthophoto.
    """
    ask_server(location)
    with gdal_settings(remote=location.remote), _open(location) as src:
        try:
            check_place(src, location.text)
            return describe(src, location, (1,)).geobox
        except GDAL_ERRORS as error:
            raise SourceError(
                f"{location.text} has a header that GDAL cannot make sense of ({reason(error)})"
            ) from error


@contextlib.contextmanager
def _open(location: Location) -> Iterator[rasterio.DatasetReader]:
    try:
        with quietly():
            src = rasterio.open(location.gdal)
    except (*GDAL_ERRORS, ValueError, UnicodeError) as error:
        kind = "cannot be opened" if location.remote else "is not a raster that GDAL can open"
        raise SourceError(f"{location.text} {kind} ({reason(error)})") from error
    with src:
        yield src
