"""Class rasters of any origin, read in rows, with the names and colours that they bring along."""

import contextlib
import os
from pathlib import Path
from typing import Any, Self

import numpy as np
from rasterio.windows import Window

from pfmap.core.arrays import Array
from pfmap.core.classes import ClassSpec, default_color
from pfmap.core.errors import SourceError, saying, visible
from pfmap.core.grid import GeoBox, Span
from pfmap.core.resources import free_memory, gigabytes
from pfmap.raster.gdal import (
    BLOCK,
    GDAL_ERRORS,
    Validity,
    alpha_bands,
    color_table,
    gdal_settings,
    geobox_of,
    open_raster,
    reading,
    window_of,
)
from pfmap.raster.layout import class_names
from pfmap.raster.location import Location, locate

_PIXELS = 16 << 20  # read at a time
_STRIP_BYTES = 8  # of memory for a pixel, as it is, as a class, with its mask; or of the tiles in work
_CHOOSE = "choose it with band=, or map the scene first with pfmap predict"
_NAMES = "PFMAP_CLASSES"


class ClassMap:
    """An opened class raster, as a context manager; a `SourceError` if it cannot be opened, or is none.

    Its 1-based band is None if it has only one; `advice` says what to do about several.

    Attributes:
        nodata: value of pixels without a class in what `read` gives, or None.
        classes: the classes it names itself, by value.
    """

    def __init__(self, location: Location, band: int | None, advice: str = _CHOOSE) -> None:
        self._location = location
        with contextlib.ExitStack() as stack:
            self._src = stack.enter_context(open_raster(location))
            stack.enter_context(reading(location))
            self._band = self._choose(band, advice)
            self.geobox: GeoBox = geobox_of(self._src, location)
            self._validity = Validity.of(self._src, [self._band])
            self._masked = self._validity.decides
            self._dtype, self.nodata = self._values()
            self.classes = self._named()
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def separated(self) -> list[str]:
        """Names of the classes whose objects pfmap took apart by it, if it is a contact map."""
        return [name for name in self._src.tags().get("PFMAP_SEPARATED", "").split(",") if name]

    @property
    def scale(self) -> float:
        """How many pixels, along a side, are one that the network saw, where objects were taken apart."""
        percent: str = self._src.tags().get("PFMAP_SEPARATED_SCALE", "")
        return int(percent) / 100 if percent.isdecimal() else 1.0

    @property
    def name(self) -> str:
        """The file, for messages."""
        return self._location.text

    @property
    def stated_nodata(self) -> float | None:
        """The value that the file itself calls nodata."""
        return self._src.nodatavals[self._band - 1]

    def strips(self, rows: Span | None = None, cols: Span | None = None) -> list[Span]:
        """Cut rows, by default all, into whole blocks of the file that are read at a time.

        A `SourceError` says that they are so wide that a strip does not fit into memory.
        """
        rows = rows or Span(0, self.geobox.height)
        width = cols.size if cols is not None else self.geobox.width
        block = max(1, self._src.block_shapes[self._band - 1][0])
        step = max(block, _PIXELS // width // block * block)
        needed = _STRIP_BYTES * min(max(step, BLOCK), rows.size) * width
        if needed > (free := free_memory()):
            raise SourceError(
                f"{self._location.text} is {width:,} pixels wide, in blocks of {block:,} rows: reading takes "
                f"{gigabytes(needed)} of memory, {gigabytes(free)} are free; cut it with gdal_translate "
                "-srcwin, or store it in tiles with -co TILED=YES"
            )
        first = rows.start // block * block
        return [Span(top, top + step).clip(rows) for top in range(first, rows.stop, step)]

    def read(self, rows: Span, cols: Span | None = None) -> Array:
        """Read rows, or some columns of them: ``(rows, width)`` uint8 or int32, or raise a `SourceError`."""
        what = f"{self._location.text} cannot be read in rows {rows.start} to {rows.stop}"
        with (
            saying(what, SourceError, *GDAL_ERRORS, remedy="is the file complete?"),
            gdal_settings(remote=self._location.remote),
        ):
            values, mask = self._read(window_of(rows, cols or Span(0, self.geobox.width)))
        valid = mask != 0 if mask is not None else None
        if values.dtype != np.uint8:
            some = values if valid is None else values[valid]
            low, high = (int(some.min()), int(some.max())) if some.size else (0, 0)
            if low < 0 or high >= np.iinfo(np.int32).max:
                raise SourceError(
                    f"{self._location.text} has the value {low if low < 0 else high}; classes are whole "
                    "numbers from 0 up: state what means nodata with gdal_edit.py -a_nodata"
                )
        values = values.astype(self._dtype)
        if valid is not None and self.nodata is not None:
            values[~valid] = self.nodata
        return values

    def _read(self, window: Window) -> tuple[Array, Array | None]:
        values = self._src.read(self._band, window=window)
        return values, self._validity.read(self._src, window) if self._masked else None

    def _choose(self, band: int | None, advice: str) -> int:
        """Check the band that is to be read, or that there is only one."""
        src, name = self._src, self._location.text
        if band is None:
            bands = sorted({*src.indexes} - {*alpha_bands(src)})
            if len(bands) != 1:
                raise SourceError(f"{name} has {src.count} bands; a class raster has one: {advice}")
            band = bands[0]
        if not 1 <= band <= src.count:
            raise SourceError(f"{name} has bands 1 to {src.count}, not {band}: choose one with band=")
        if np.dtype(src.dtypes[band - 1]).kind not in "ui":
            raise SourceError(
                f"{name} holds {src.dtypes[band - 1]} values; classes are whole numbers: convert it with "
                "gdal_translate -ot Byte, or -ot Int32 for large numbers"
            )
        return band

    def _values(self) -> tuple[np.dtype[Any], int | None]:
        """Choose how values are held: as bytes if one of them is free for nodata."""
        nodata = self._src.nodatavals[self._band - 1]
        if self._src.dtypes[self._band - 1] == "uint8":
            if not self._masked:
                return np.dtype(np.uint8), None
            if nodata is not None and 0 <= nodata <= 255 and self._validity.alpha is None:
                return np.dtype(np.uint8), int(nodata)
        return np.dtype(np.int32), np.iinfo(np.int32).max if self._masked else None

    def _named(self) -> dict[int, ClassSpec]:
        """Find names and colours: in pfmap's own tags, an attribute table, a colour table."""
        names: dict[int, str] = {}
        if _NAMES in self._src.tags():
            names = dict(enumerate(self._src.tags()[_NAMES].split(",")))
        local = self._location.local
        if not names and local is not None:
            names = class_names(local.with_name(f"{local.name}.aux.xml"), self._band)
        table = color_table(self._src, self._band)
        colors = {value: f"#{r:02x}{g:02x}{b:02x}" for value, (r, g, b, _) in table.items()}
        return {
            value: ClassSpec(visible(names[value])[:100], colors.get(value, default_color(value)))
            for value in sorted(names)
            if names[value]
        } | {
            value: ClassSpec(str(value), color)
            for value, color in colors.items()
            if value not in names and color != "#000000"
        }


def percent_beside(location: Location, kind: str = "confidence") -> Path | None:
    """Find `<stem>_<kind>.tif`, in percent, that pfmap wrote beside `<stem>_classes.tif`, or None."""
    stem = location.stem.removesuffix("_classes")
    if location.local is None or stem == location.stem:
        return None
    beside = location.local.with_name(f"{stem}_{kind}.tif")
    return beside if beside.is_file() else None


def open_percent(
    stack: contextlib.ExitStack,
    path: str | os.PathLike[str],
    classes: ClassMap,
    advice: str = _CHOOSE,
    kind: str = "confidence",
) -> ClassMap:
    """Open such a raster, as large as a class raster, or raise a `SourceError`; the stack closes it."""
    found = stack.enter_context(ClassMap(locate(path), None, advice))
    box, wanted = found.geobox, classes.geobox
    if (box.height, box.width) != (wanted.height, wanted.width):
        raise SourceError(
            f"{os.fspath(path)} has {box.width} x {box.height} pixels, {classes.name} has {wanted.width} x "
            f"{wanted.height}: give the {kind} of the same map"
        )
    return found
