"""Reading a scene: its pixels as 8-bit values, as the network is to see them, and which of them are valid."""

import contextlib
import hashlib
import json
import math
from collections.abc import Mapping
from functools import cached_property, partial
from itertools import product
from typing import cast

import numpy as np
import rasterio
from rasterio.enums import ColorInterp, Resampling
from rasterio.windows import Window

from pfmap.core.arrays import Bools, Bytes
from pfmap.core.classes import RGB
from pfmap.core.errors import SourceError, reason
from pfmap.core.grid import Span
from pfmap.core.resources import times_of
from pfmap.raster.gdal import GDAL_ERRORS, Steady, gdal_settings, reading, window_of
from pfmap.raster.layout import Places, unwritten_places
from pfmap.raster.location import Location, ask_server
from pfmap.raster.parts import Parts, refuse_pointers
from pfmap.raster.scaling import (
    EIGHT_BIT,
    Sample,
    Scaling,
    Values,
    about_pixels,
    about_range,
    at_spots,
    by_pixel,
    differs,
    read_palette,
    spots,
)
from pfmap.raster.scene import choose_bands, describe

_SAMPLE = 768  # pixels of a side of what a scene is thinned to for a sample
_WHOLE = 64_000_000  # values that are read to sample a scene without overviews; of more, only spots
_SPOTS, _FEW = 24, 8  # along an axis; few where each costs a request to a server
_OTHERS = 4  # bands that could be an alpha band, and are looked at
_QUICK = 64 << 20  # bytes of a block that is read only to look at it


class Source:
    """An opened scene. A context manager; one per thread.

    `names` are the bands that the model needs of it, in their order; `bands` 1-based numbers that override
    the choice by colour interpretation. Values of those in `scales` become 1 where these say; the others
    have one `scaling`. With `skip_unreadable` blocks that cannot be read count as nodata. `how` it is opened
    goes to rasterio.

    Attributes:
        names: of all bands that are read, in the model's order; some may come from others, see `add`.
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
        scales: Mapping[str, float] | None = None,
        skip_unreadable: bool = False,
        **how: int,
    ) -> None:
        self.names, self.scaling = names, EIGHT_BIT
        self.extra: list[Source] = []
        self.parts: Parts | None = None
        self.unreadable: set[tuple[int, int, int, int]] = set()
        self.skips = skip_unreadable
        with contextlib.ExitStack() as stack:
            self.signs = ask_server(location)
            stack.enter_context(gdal_settings(remote=location.remote))
            if location.driver:
                refuse_pointers(location)
            src = stack.enter_context(contextlib.closing(Steady(location, **how)))
            stack.enter_context(reading(location))
            self._src = cast(rasterio.DatasetReader, src)
            chosen, guesses = choose_bands(self._src, location.text, names, bands, model)
            self.info = describe(self._src, location, chosen, guesses)
            self.times = times_of(self.info.files)
            self._palette = read_palette(self._src, chosen[0]) if self.info.palette else None
            self._misled = False
            clear = self._palette is not None and not self._palette[3].all()
            self._partial = any((self.info.validity.decides, clear, np.dtype(self.info.dtype).kind == "f"))
            self._distinct = sorted(set(chosen))
            own = {name: Scaling(0.0, scale, "model card") for name, scale in (scales or {}).items()}
            pick = [self._distinct.index(band) for band in chosen]
            self._each = [(name, k, own.get(name)) for name, k in zip(names, pick, strict=True)]
            self._own = [each for each in self._each if each[2] is not None]
            self._pick = slice(None) if pick == [*range(len(pick))] else pick
            self._alike = sorted({k for _, k, own in self._each if own is None}) or slice(None)
            self._stack = stack.pop_all()

    @cached_property
    def empty(self) -> Places:
        """Its places that show nothing; of a virtual raster once somebody has looked."""
        return unwritten_places(self._src, self.info.bands)

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, other: "Source") -> None:
        """Take the band of a raster that is read on this one's grid, too, and close that with this one."""
        self.extra.append(self._stack.enter_context(other))
        self.times |= other.times

    def overview(self, factor: int) -> "Source":
        """Open its overview of a factor, as a scene that is closed with this one."""
        info, level = self.info, self._src.overviews(self._distinct[0]).index(factor)
        return self._stack.enter_context(Source(info.location, self.names, info.bands, overview_level=level))

    def read(self, rows: Span, cols: Span) -> tuple[Bytes, Bools]:
        """Read pixel rows and columns, all within the scene, or raise a `SourceError`.

        They are ``(bands, h, w)`` uint8 in the model's order, with the ``(h, w)`` valid mask.
        """
        if self.parts is not None and self.parts.near(rows, cols):
            return self._read_by_blocks(rows, cols)
        try:
            return self._read(rows, cols)
        except (*GDAL_ERRORS, SourceError) as error:
            if self.skips:
                return self._read_by_blocks(rows, cols)
            if isinstance(error, SourceError):  # of another that a band comes from
                raise
            raise self._unreadable(f" at column {cols.start}, row {rows.start}", error) from error

    def _unreadable(self, place: str, error: Exception) -> SourceError:
        remedy = "give the same command again later" if "service" in self.signs else "mend or copy it again"
        return SourceError(
            f"{self.info.name} cannot be read{place}: the source is damaged, incomplete or gone "
            f"({reason(error)}); {remedy}, or count what cannot be read as nodata with on_read_error='nodata'"
        )

    def _read(self, rows: Span, cols: Span) -> tuple[Bytes, Bools]:
        valid = self.mask(rows, cols)
        if not valid.any():
            return np.zeros((len(self.names), rows.size, cols.size), dtype=np.uint8), valid
        pixels, valid = self.shown(self._values(window_of(rows, cols)), valid)
        if not self.extra:
            return pixels, valid
        layers = {name: layer for (name, *_), layer in zip(self._each, pixels, strict=True)}
        for one in self.extra:
            one.scaling = self.scaling
            (layers[one.names[0]],), known = one.read(rows, cols)
            valid &= known
        return np.stack([layers[name] for name in self.names]), valid

    def _read_by_blocks(self, rows: Span, cols: Span) -> tuple[Bytes, Bools]:
        """Read the file's blocks one by one; what cannot be read, or is gone, is invalid, and noted."""
        pixels = np.zeros((len(self.names), rows.size, cols.size), dtype=np.uint8)
        valid = np.zeros((rows.size, cols.size), dtype=bool)
        for y, x, block, there in (self.parts or Parts()).pieces(rows, cols, self.info):
            box = y.within(rows), x.within(cols)
            try:
                if there:
                    pixels[:, *box], valid[box] = self._read(y, x)
                    continue
            except (*GDAL_ERRORS, SourceError):
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
            return read(self._distinct, out_shape=shape and (len(self._distinct), *shape))
        return np.stack([read(band, out_shape=shape) for band in self._distinct]).astype(self.info.dtype)

    def mask(self, rows: Span, cols: Span, shape: tuple[int, int] | None = None) -> Bools:
        """Read which pixels of rows and columns are valid, ``(h, w)``; raises what GDAL does."""
        window = window_of(rows, cols)
        valid = self.info.validity.read(self._src, window, shape)
        for _, k, _ in self._own:  # what is no colour, such as heights, may be unknown alone
            valid &= self._src.read_masks(self._distinct[k], window=window, out_shape=shape) > 0
        low, high = self.empty[:, ::2], self.empty[:, 1::2]
        near = (low < [rows.stop, cols.stop]).all(axis=1) & (high > [rows.start, cols.start]).all(axis=1)
        places = self.empty[near] - [rows.start, rows.start, cols.start, cols.start]
        places = places * np.divide(valid.shape, [rows.size, cols.size]).repeat(2)
        for top, bottom, left, right in places.round().astype(int).clip(0):
            valid[top:bottom, left:right] = False
        return valid

    def shown(self, values: Values, valid: Bools) -> tuple[Bytes, Bools]:
        """Turn the file's values into 8-bit ones in the model's order; no number, or colour, is invalid."""
        if self._palette is not None:
            known = np.isfinite(values[0])
            index = np.where(known, values[0], 0).astype(np.intp)
            shown = np.take(self._palette, index, axis=1, mode="clip")
            return shown[:3], valid & known & (shown[3] > 0)
        if not self._own:
            return self.scaling.apply(values, valid)[self._pick], valid
        each = [(own or self.scaling).apply(values[k : k + 1], valid) for _, k, own in self._each]
        return np.concatenate(each), valid

    def thinned(
        self, rows: Span, cols: Span, shape: tuple[int, int], most: float, *, smooth: bool = False
    ) -> tuple[Values, Bools] | None:
        """Read pixel rows and columns of the scene in fewer pixels, from an overview if it has a true one.

        Without one `most` pixels may be read for it, of a scene on a server none. Each is one of those it
        stands for; where that is quick their mean, if `smooth`. They are ``(bands, *shape)`` in the file's
        own type, with the valid mask; None where it took more. A `SourceError` if they cannot be read.
        """
        has_overviews = bool(self._src.overviews(self._distinct[0]))
        small = rows.size * cols.size <= most and (most == math.inf or not self.info.location.remote)
        if not (small or has_overviews):
            return None
        kind = Resampling.average if smooth and self._palette is None else Resampling.nearest
        try:
            thin = self._values(window_of(rows, cols), shape, kind), self.mask(rows, cols, shape)
            tiled = self.info.block[1] < self.info.geobox.width
            # The files under a VRT may have overviews where it has none itself.
            if (has_overviews or self.info.driver == "VRT") and differs(
                *thin, rows, cols, self._look, tiled=tiled
            ):
                self._misled = True
                return by_pixel(rows, cols, shape, self._look) if small else None
        except GDAL_ERRORS as error:
            raise self._unreadable("", error) from error
        return thin

    def _look(self, rows: Span, cols: Span) -> tuple[Values, Bools]:
        """Read values and mask, pixel by pixel."""
        try:
            return self._values(window_of(rows, cols)), self.mask(rows, cols)
        except GDAL_ERRORS:
            if not self.skips:
                raise
            none = np.zeros((len(self._distinct), rows.size, cols.size), dtype=self.info.dtype)
            return none, np.zeros((rows.size, cols.size), dtype=bool)

    def sample(self, *, values: bool) -> Sample:
        """Read a few pixels from all over the scene: from an overview, the whole of a small scene, or spots.

        Where no `values` are needed, and every pixel is valid, little is read. A `SourceError` says that
        nothing can be.
        """
        box, remote, count = self.info.geobox, self.info.location.remote, len(self._distinct)
        needed = values or self._partial or len(self.empty)
        if not needed and (self.skips or remote or not self._src.overviews(self._distinct[0])):
            return Sample(np.zeros((count, 1, 1), np.uint8), np.ones((1, 1), dtype=bool), *self.about())
        part = Span(0, box.height), Span(0, box.width), (min(box.height, _SAMPLE), min(box.width, _SAMPLE))
        found = None if self.skips else self.thinned(*part, _WHOLE // count)
        try:
            if found is None:
                found = at_spots(box, _FEW if remote else _SPOTS, self._look)
        except GDAL_ERRORS as error:
            raise self._unreadable("", error) from error
        if not (self.skips or found[1].any()):
            # What data a mostly empty scene has may lie between the spots.
            found = self.thinned(*part, math.inf) or found
        pixels, valid = found if self._palette is None else self.shown(*found)
        return Sample(pixels[self._alike], valid & np.isfinite(found[0]).all(axis=0), *self.about())

    def about(self) -> tuple[tuple[str, ...], tuple[float, ...], Values]:
        """Look at spots from all over the scene for what a user should know, as `about_pixels` says it."""
        info, box, src = self.info, self.info.geobox, self._src
        count = _FEW // 2 if info.location.remote else _FEW
        colors = dict(zip(src.indexes, src.colorinterp, strict=True))
        bands = [n for n in src.indexes if colors[n] == ColorInterp.undefined and n not in info.bands]
        bands = bands[:_OTHERS] if info.validity.alpha is None else [info.validity.alpha]
        count *= info.block_bytes <= _QUICK  # else whether it can be read at all has to be found out first
        looks, others = [], {band: [np.zeros(0)] for band in bands}
        for rows, cols in product(spots(box.height, count), spots(box.width, count)):
            with contextlib.suppress(*GDAL_ERRORS):  # said where it is mapped
                looks.append(self._look(rows, cols))
                for band, found in others.items():
                    found.append(src.read(band, window=window_of(rows, cols)).ravel())
        values = {band: np.concatenate(found) for band, found in others.items()}
        notes, fills, looked = about_pixels(info, looks, values, misled=self._misled)
        ranges = [about_range(info.name, name, k, own, looks) for name, k, own in self._own if own and looks]
        further = [note for one in self.extra for note in (*one.info.guesses, *one.about()[0])]
        return (*notes, *filter(None, ranges), *further), fills, looked

    def fingerprint(self) -> str:
        """Return a hash that changes when the scene does: its description, its files, some of its pixels.

        Name, size and time of every file of this machine that it consists of, the sheets of a VRT included:
        a survey that moves to another disk stays what it is. For what lies elsewhere what the server says of
        it, and the pixels of a few blocks.
        """
        digest, src = hashlib.sha256(), self._src
        facts = [src.width, src.height, src.dtypes, src.nodatavals, str(src.crs), list(src.transform)]
        facts += [(one.names, one.fingerprint()) for one in self.extra]
        digest.update(json.dumps([*facts, self.signs], default=str).encode())
        for path, (size, changed, _) in self.times.items():
            digest.update(f"{path.name}|{size}|{changed}".encode())
        if not (self.info.files or "service" in self.signs):
            rows, cols = spots(src.height, _SPOTS), spots(src.width, _SPOTS)
            for share in (0, 2, 4):
                window = window_of(rows[(len(rows) - 1) * share // 4], cols[(len(cols) - 1) * share // 4])
                with contextlib.suppress(*GDAL_ERRORS):
                    digest.update(self._values(window).tobytes())
        return digest.hexdigest()
