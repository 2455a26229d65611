"""Class rasters of any origin: reading them in rows, with the names and colours of their classes."""

import contextlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import MaskFlags
from rasterio.errors import RasterioError
from rasterio.windows import Window

from pfmap.core.classes import ClassSpec
from pfmap.core.errors import SourceError, quietly
from pfmap.core.grid import GeoBox, Span
from pfmap.raster.gdal import GDAL_ERRORS, Location, gdal_settings, reason
from pfmap.raster.scene import check_place, describe

_PIXELS = 16 << 20  # read at a time
_CHOOSE = "choose it with band=, or map the scene first with pfmap predict"
_NAMES = "PFMAP_CLASSES"
_NAME_USAGE = "2"  # GDAL's number for the column of a raster attribute table that holds names


class ClassMap:
    """An opened class raster. Use it as a context manager.

    Args:
        location: where it is.
        band: 1-based band; None if it has only one.
        advice: what to do about several bands.

    Attributes:
        geobox: its grid.
        nodata: value of pixels without a class in what `rows` gives, or None.
        classes: the classes it names itself, by value.

    Raises:
        SourceError: it cannot be opened, or is no class raster.
    """

    def __init__(self, location: Location, band: int | None, advice: str = _CHOOSE) -> None:
        self._location = location
        self._advice = advice
        try:
            with gdal_settings(remote=location.remote), quietly():
                self._src = rasterio.open(location.gdal)
        except GDAL_ERRORS as error:
            raise SourceError(
                f"{location.text} cannot be opened ({reason(error)}): is it a raster?"
            ) from error
        try:
            self._band = self._choose(band)
            check_place(self._src, location.text)
            self.geobox: GeoBox = describe(self._src, location, (self._band,)).geobox
            self._masked = self._src.mask_flag_enums[self._band - 1] != [MaskFlags.all_valid]
            self._dtype, self.nodata = self._values()
            self.classes = self._named()
        except BaseException:
            self._src.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._src.close()

    def rows(self, within: tuple[Span, Span] | None = None) -> Generator[npt.NDArray[Any], None, None]:
        """Yield all rows from the top, a number at a time: ``(rows, width)`` uint8 or int32.

        Args:
            within: rows and columns of the part that is read; None for all.

        Raises:
            SourceError: they cannot be read, or a class is negative.
        """
        rows, cols = within or (Span(0, self.geobox.height), Span(0, self.geobox.width))
        for strip in self._strips(rows, cols):
            yield self.read(strip, cols)

    def strips(self) -> list[Span]:
        """Cut the raster into rows that are read at a time, in whole blocks of the file."""
        return self._strips(Span(0, self.geobox.height), Span(0, self.geobox.width))

    def _strips(self, rows: Span, cols: Span) -> list[Span]:
        block = max(1, self._src.block_shapes[self._band - 1][0])
        step = max(block, _PIXELS // cols.size // block * block)
        first = rows.start // block * block
        return [
            Span(max(top, rows.start), min(top + step, rows.stop)) for top in range(first, rows.stop, step)
        ]

    def read(self, rows: Span, cols: Span | None = None) -> npt.NDArray[Any]:
        """Read rows, or some columns of them: ``(rows, width)`` uint8 or int32.

        Raises:
            SourceError: they cannot be read, or a class is negative.
        """
        cols = cols or Span(0, self.geobox.width)
        window = Window(cols.start, rows.start, cols.size, rows.size)
        try:
            with gdal_settings(remote=self._location.remote):
                values, mask = self._read(window)
        except GDAL_ERRORS as error:
            raise SourceError(
                f"{self._location.text} cannot be read in rows {rows.start} to {rows.stop} "
                f"({reason(error)}): is the file complete?"
            ) from error
        return self._clean(values, mask)

    def _read(self, window: Window) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8] | None]:
        values = self._src.read(self._band, window=window)
        return values, self._src.read_masks(self._band, window=window) if self._masked else None

    def _clean(self, values: npt.NDArray[Any], mask: npt.NDArray[np.uint8] | None) -> npt.NDArray[Any]:
        """Put nodata where the mask says so, and refuse what is no class."""
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

    def _choose(self, band: int | None) -> int:
        src, name = self._src, self._location.text
        if band is None:
            if src.count != 1:
                raise SourceError(f"{name} has {src.count} bands; a class raster has one: {self._advice}")
            band = 1
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
            if nodata is not None and 0 <= nodata <= 255:
                return np.dtype(np.uint8), int(nodata)
        return np.dtype(np.int32), np.iinfo(np.int32).max if self._masked else None

    def _named(self) -> dict[int, ClassSpec]:
        """Find names and colours: in pfmap's own tags, an attribute table, a colour table."""
        names: dict[int, str] = {}
        if _NAMES in self._src.tags():
            names = dict(enumerate(self._src.tags()[_NAMES].split(",")))
        local = self._location.local
        if not names and local is not None:
            names = _names_beside(local.with_name(f"{local.name}.aux.xml"), self._band)
        colors: dict[int, str] = {}
        with contextlib.suppress(ValueError):  # no colour table
            colors = {value: f"#{r:02x}{g:02x}{b:02x}" for value, (r, g, b, _) in self._table().items()}
        return {
            value: ClassSpec(names[value], colors.get(value, default_color(value)))
            for value in sorted(names)
            if names[value]
        } | {
            value: ClassSpec(str(value), color)
            for value, color in colors.items()
            if value not in names and color != "#000000"
        }

    def _table(self) -> dict[int, tuple[int, int, int, int]]:
        table: dict[int, tuple[int, int, int, int]] = self._src.colormap(self._band)
        return table


_COLORS = [
    "#1f77b4",
    "#ff7f0e",
    "#2ca02c",
    "#d62728",
    "#9467bd",
    "#8c564b",
    "#e377c2",
    "#7f7f7f",
    "#bcbd22",
    "#17becf",
    "#aec7e8",
    "#ffbb78",
    "#98df8a",
    "#ff9896",
    "#c5b0d5",
    "#c49c94",
    "#f7b6d2",
    "#c7c7c7",
    "#dbdb8d",
    "#9edae5",
]


def default_color(value: int) -> str:
    """Return a colour for a class that has none."""
    return _COLORS[value % len(_COLORS)]


def _names_beside(path: Path, band: int) -> dict[int, str]:
    """Read class names from GDAL's sidecar file: its attribute table, else its category names."""
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError):
        return {}
    node = root.find(f"PAMRasterBand[@band='{band}']")
    if node is None:
        return {}
    columns = [field.findtext("Usage") for field in node.findall("GDALRasterAttributeTable/FieldDefn")]
    values = next((k for k, usage in enumerate(columns) if usage in {"0", "5"} and k == 0), None)
    titles = next((k for k, usage in enumerate(columns) if usage == _NAME_USAGE), None)
    names: dict[int, str] = {}
    if values is not None and titles is not None:
        for row in node.findall("GDALRasterAttributeTable/Row"):
            cells = [cell.text or "" for cell in row.findall("F")]
            try:
                names[int(float(cells[values]))] = cells[titles]
            except (ValueError, IndexError):
                continue
    return names or {k: item.text or "" for k, item in enumerate(node.findall("CategoryNames/Category"))}


def image_size(path: Path) -> tuple[int, int]:
    """Return height and width of a raster.

    Raises:
        SourceError: the file cannot be read.
    """
    with _opened(path) as src:
        return src.height, src.width


def read_image(
    path: Path, rows: Span | None = None, cols: Span | None = None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Read an 8-bit raster, or a part of it.

    Args:
        path: any raster that GDAL opens.
        rows: pixel rows; None for all.
        cols: pixel columns; None for all.

    Returns:
        ``(bands, height, width)`` uint8 without the alpha band, and the ``(height, width)`` valid mask.

    Raises:
        SourceError: the file cannot be read, or is not 8-bit.
    """
    with _opened(path) as src:
        if src.dtypes[0] != "uint8":
            raise SourceError(f"{path} holds {src.dtypes[0]} values: 8-bit images are needed")
        colors = [i for i, c in zip(src.indexes, src.colorinterp, strict=True) if c.name != "alpha"]
        y, x = rows or Span(0, src.height), cols or Span(0, src.width)
        window = Window(x.start, y.start, x.size, y.size)
        return src.read(colors, window=window), src.dataset_mask(window=window) > 0


@contextmanager
def _opened(path: Path) -> Iterator[rasterio.DatasetReader]:
    try:
        with quietly(), rasterio.open(path) as src:
            yield src
    except RasterioError as error:
        raise SourceError(f"{path} cannot be read: {error}") from error
