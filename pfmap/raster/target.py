"""Output rasters: swath files while the scene is being mapped, one cloud-optimised GeoTIFF at the end.

Everything is written into a staging folder; the caller renames finished files. Each block of 512 x 512 pixels
is compressed once: a swath's file begins at a block row of the whole raster, which takes whole block rows
over as they are. Only block rows in which two swaths meet, and overviews, are made at the end. The layout is
that of GDAL's COG driver: directories before pixels, overviews from the smallest to the largest, and each
block between its size and its last bytes.

Overviews are made here: GDAL's own took 6 to 14 times the processor time on class and confidence rasters of
8,192 x 8,192 pixels. Here two by two pixels are looked at, and most are equal.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import product, starmap
from pathlib import Path
from struct import pack
from typing import Any, BinaryIO, Literal

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.io import MemoryFile

from pfmap.core.arrays import Bytes
from pfmap.core.classes import NODATA, ClassSpec
from pfmap.core.errors import TargetError, quietly
from pfmap.core.files import writing, writing_into
from pfmap.core.grid import IDENTITY, GeoBox, Span
from pfmap.raster.gdal import BLOCK, GDAL_ERRORS, crs_of, gdal_settings, window_of
from pfmap.raster.layout import Band, Shown, Tags, beginning, directory, side_file, tags_of, vrt

Halving = Literal["mode", "average"]
"""How four pixels become one: by the most frequent value, the first of equals; or by their mean."""

_SOMEWHERE = rasterio.Affine.translation(1, 0)
"""Where rasters lie that nobody but pfmap reads. rasterio warns of files without a place, and warnings cannot
be silenced in one thread alone."""
_ACROSS = 16 * BLOCK  # columns in work at a time, of the smaller raster
_AT_ONCE = 3  # rasters that are assembled
SMALL = 1 << 20  # pixels of a raster that gets no threads: they take time to start, and look up CRSs anew
_CLASSIC = 2 << 30  # bytes of a TIFF whose offsets have four: they reach twice as far
_CACHE = 32 << 20  # bytes of GDAL's blocks while rasters are assembled
_STORED = {
    "tiled": True,
    "blockxsize": BLOCK,
    "blockysize": BLOCK,
    "compress": "deflate",
    "interleave": "pixel",
}

Parts = Sequence[tuple[Span, Path]]
"""Of a raster, top to bottom: pixel rows and folder of each."""


def finish(targets: Sequence[tuple["RasterTarget", Parts]], folder: Path) -> list[Path]:
    """Assemble the parts of rasters into cloud-optimised GeoTIFFs, some side by side.

    Returns their paths, in the order of `targets`; a `TargetError` says that the disk does not take them.
    """
    small = all(target.geobox.width * target.geobox.height <= SMALL for target, _ in targets)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        each: Any = map if small else pool.map
        return [*each(lambda one: one[0]._finish(folder, one[1]), targets)]


@dataclass(frozen=True, slots=True)
class RasterTarget:
    """One uint8 output raster, nodata 255, written by swaths; of several bands, values come band by band."""

    geobox: GeoBox
    name: str
    """File name of the finished raster; swaths have it too, each in a folder of its own."""
    halving: Halving
    tags: Mapping[str, str]
    """TIFF tags of the finished raster."""
    style: str
    """QGIS style, written beside it."""
    level: int
    """Of compression, 1 to 9; noise gains little by more."""
    classes: Sequence[ClassSpec] = ()
    """For colour table and class names; empty for none."""
    bands: Sequence[str] = ()
    """What each of several bands is called; empty for a single band."""

    def write_swath(self, folder: Path, rows: Span, values: Bytes) -> None:
        """Write rows that a swath finishes, ``([bands,] rows, width)`` uint8, or raise a `TargetError`.

        What lies above them in their first block row is black.
        """
        path = folder / self.name
        bands = values.reshape(-1, *values.shape[-2:])
        # What a disk refuses while it closes a file, GDAL tells nobody.
        with writing(path, *GDAL_ERRORS), MemoryFile() as file:
            _compress(file, bands, rows.start % BLOCK, self.level)
            path.write_bytes(file.getbuffer())

    def write_next(self, folder: Path, parts: list[tuple[Span, Path]], _top: int, values: Bytes) -> None:
        """Write the next rows of a raster that comes in any number of them, and add them to its parts."""
        start = parts[-1][0].stop if parts else 0
        rows, part = Span(start, start + len(values)), folder / f"{start}"
        with writing_into(folder), gdal_settings():
            part.mkdir(parents=True)
            self.write_swath(part, rows, values)
        parts.append((rows, part))

    def read_swath(self, folder: Path, rows: Span) -> Bytes:
        """Read what `write_swath` left of these rows, ``(rows, width)`` uint8, or raise a `TargetError`."""
        path = folder / self.name
        try:
            with rasterio.open(path) as src:
                above = src.height - rows.size
                return src.read(1, window=window_of(Span(above, src.height), Span(0, src.width)))
        except (*GDAL_ERRORS, OSError) as error:
            raise TargetError(
                f"{path} of an earlier run cannot be read ({error}): start afresh with resume=False"
            ) from error

    def _finish(self, folder: Path, parts: Parts) -> Path:
        """Put blocks together that parts have, those where parts meet, and those of overviews."""
        whole, final = folder / f"{self.name}.vrt", folder / self.name
        names = final.with_name(f"{final.name}.aux.xml")
        files = [(rows, part / self.name) for rows, part in parts]
        box, across = self.geobox, Span(0, self.geobox.width)

        def band(number: int, name: str) -> Band:
            color, place = "Palette" if self.classes else "Gray", (across, str(number))
            shown = [Shown(str(p.resolve()), rows, *place, above=rows.start % BLOCK) for rows, p in files]
            return Band("uint8", color, shown, NODATA, self.classes, name=name)

        bands = list(starmap(band, enumerate(self.bands or [""], 1)))
        with writing(final, *GDAL_ERRORS):
            with gdal_settings(cache=_CACHE), rasterio.Env(GDAL_NUM_THREADS="ALL_CPUS"):
                empty = [replace(band, shown=()) for band in bands]
                whole.write_text(vrt(replace(box, width=1, height=1), empty, self.tags), encoding="utf-8")
                rasterio.shutil.copy(whole, final, driver="GTiff", **_STORED, zlevel=self.level)
                head = tags_of(final.read_bytes())
                whole.write_text(vrt(replace(box, transform=_SOMEWHERE[:6]), bands, {}), encoding="utf-8")
                smaller = write_overviews(whole, folder, self.halving, self.level)
                levels = {whole: files} | {path: [(Span(0, box.height), path)] for path in smaller}
                _assemble(final, head, levels, self.level)
                _read_back(final, [_sum(whole), *smaller.values()])
            names.unlink(missing_ok=True)
            system = box.crs_wkt if lost(final, box, bands) else None  # one that a GeoTIFF has no place for
            if self.classes or system is not None:
                names.write_text(side_file(self.classes, system), encoding="utf-8")
            if what := lost(final, box, bands):
                raise TargetError(f"{final.name} could not be written as it should be: read back, {what}")
            final.with_suffix(".qml").write_text(self.style, encoding="utf-8")
            for path in (whole, *smaller):
                path.unlink()
        return final


def lost(raster: Path | str, box: GeoBox, bands: Sequence[Band]) -> str:
    """Say what a finished raster of such bands - a file, or the text of a VRT - is not, or "".

    GDAL leaves out without a word what a format has no place for.
    """
    place = box.transform if box.georeferenced else IDENTITY
    wanted = box.width, box.height, len(bands), bands[0].dtype, bands[0].nodata, place
    with gdal_settings(), quietly(), rasterio.open(raster) as src:
        found = src.width, src.height, src.count, src.dtypes[0], src.nodata, tuple(src.transform)[:6]
        if found != wanted:
            return f"its size, bands, type, nodata and transform are {found}, not {wanted}"
        return "" if src.crs == crs_of(box.crs_wkt) else f"its CRS is {src.crs}, not {box.crs_name}"


def _staged(count: int, height: int, width: int, level: int) -> dict[str, Any]:
    """Describe a raster whose blocks are those of the final one."""
    return {
        "driver": "GTiff", "width": width, "height": height, "count": count, "dtype": "uint8",
        "photometric": "minisblack", "zlevel": level, **_STORED,
        "num_threads": "all_cpus" if count * height * width > SMALL else "1",
        "transform": _SOMEWHERE,  # the final one knows better
        "bigtiff": "if_safer",
    }  # fmt: skip


def _compress(file: MemoryFile, bands: Bytes, above: int, level: int) -> None:
    """Write ``(bands, rows, cols)`` as a tiled TIFF whose first rows, so many above these, are black."""
    count, height, width = bands.shape
    with file.open(**_staged(count, above + height, width, level)) as dst:
        for cols in Span(0, width).cut(_across(count)):  # so that GDAL holds whole blocks of all bands
            dst.write(bands[..., cols.start : cols.stop], window=window_of(Span(above, above + height), cols))


def _across(count: int) -> int:
    """Say how many columns of so many bands are in work at a time."""
    return BLOCK * max(1, _ACROSS // BLOCK // count)


def write_overviews(source: Path, folder: Path, halving: Halving, level: int) -> dict[Path, int]:
    """Write overviews of a uint8 raster, largest first, until one block holds the smallest.

    They go into a folder as `<source's stem>.1.tif` and so on, compressed by the `level`; with each comes a
    checksum of its pixels, as they are to be read back: GDAL may hide that a disk refused some.
    """
    paths: dict[Path, int] = {}
    while True:
        with rasterio.open(source) as src:
            if max(src.shape) <= BLOCK:
                return paths
            path = folder / f"{source.stem.removesuffix(f'.{len(paths)}')}.{len(paths) + 1}.tif"
            height, width = -(-src.height // 2), -(-src.width // 2)
            across = Span(0, width).cut(_across(src.count))
            total = 0
            with rasterio.open(path, "w", **_staged(src.count, height, width, level)) as dst:
                for rows, cols in product(Span(0, height).cut(BLOCK), across):
                    y = Span(2 * rows.start, min(2 * rows.stop, src.height))
                    x = Span(2 * cols.start, min(2 * cols.stop, src.width))
                    values = np.stack([halve(band, halving) for band in src.read(window=window_of(y, x))])
                    dst.write(values, window=window_of(rows, cols))
                    total = zlib.crc32(values.data, total)
        paths[path] = total
        source = path


def _read_back(path: Path, sums: Sequence[int]) -> None:
    """Raise an `OSError` unless a raster and its overviews have pixels of these checksums: GDAL hides why."""
    if sums != [_sum(path, **({"overview_level": n - 1} if n else {})) for n in range(len(sums))]:
        raise OSError("read back, its pixels are not those that were written")


def _sum(path: Path, **level: int) -> int:
    """Return a checksum of the pixels of a raster, or of one of its overviews."""
    total = 0
    with quietly(), rasterio.open(path, **level) as src:
        for rows, cols in product(Span(0, src.height).cut(BLOCK), Span(0, src.width).cut(_across(src.count))):
            total = zlib.crc32(src.read(window=window_of(rows, cols)), total)
    return total


def _blocks(source: Path, files: Parts, level: int) -> Iterator[bytes]:
    """Give compressed blocks of a raster: whole block rows of its files as they are, others made anew."""
    with rasterio.open(source) as src:
        across = Span(0, src.width).cut(_across(src.count))
        for rows in Span(0, src.height).cut(BLOCK):
            has = [file for file in files if file[0].start <= rows.start and rows.stop <= file[0].stop]
            for part, path in has:
                with path.open("rb") as file:
                    yield from _block_row(file, rows.start // BLOCK - part.start // BLOCK)
            for cols in () if has else across:
                with MemoryFile() as made:
                    _compress(made, src.read(window=window_of(rows, cols)), 0, level)
                    yield from _block_row(made, 0)


def _block_row(file: BinaryIO | MemoryFile, row: int) -> Iterator[bytes]:
    """Read the compressed blocks of a tiled TIFF that lie in a row."""
    with rasterio.open(file.name) as src:
        names = [f"{col}_{row}" for col in range(-(-src.width // BLOCK))]
        offsets, sizes = (
            [int(src.get_tag_item(f"BLOCK_{what}_{name}", "TIFF", bidx=1)) for name in names]
            for what in ("OFFSET", "SIZE")
        )
    for offset, size in zip(offsets, sizes, strict=True):
        file.seek(offset)
        yield file.read(size)


def _assemble(final: Path, head: Tags, levels: Mapping[Path, Parts], level: int) -> None:
    """Write a cloud-optimised GeoTIFF: a raster and its overviews, largest first, each with its files.

    The `head` says what the raster is apart from its pixels.
    """
    big = sum(path.stat().st_size for files in levels.values() for _, path in files) > _CLASSIC
    shapes, places = [], []
    for source in levels:
        with rasterio.open(source) as src:
            shapes.append(src.shape)
            places.append([(0, 0)] * (-(-src.height // BLOCK) * -(-src.width // BLOCK)))

    def directories() -> bytes:
        each = enumerate(zip(shapes, places, strict=True))
        return beginning([directory(head, *one, big=big, reduced=n > 0) for n, one in each], big=big)

    with final.open("wb") as file:
        file.write(directories())
        for number, (source, files) in reversed([*enumerate(levels.items())]):  # the smallest comes first
            for index, block in enumerate(_blocks(source, files, level)):
                places[number][index] = file.tell() + 4, len(block)
                file.write(pack("<I", len(block)) + block + block[-4:])
        file.seek(0)
        file.write(directories())


def halve(values: Bytes, halving: Halving) -> Bytes:
    """Make ``(ceil(h / 2), ceil(w / 2))`` of ``(h, w)`` uint8; nodata has no say beside other pixels."""
    height, width = values.shape
    if height % 2 or width % 2:
        values = np.pad(values, ((0, height % 2), (0, width % 2)), constant_values=NODATA)
    four = [values[row::2, col::2] for row in (0, 1) for col in (0, 1)]
    return (_mode if halving == "mode" else _average)(four)


def _mode(four: list[Bytes]) -> Bytes:
    out = four[0].copy()
    at = np.nonzero((four[1] != out) | (four[2] != out) | (four[3] != out))
    mixed = np.stack([part[at] for part in four])
    votes = np.stack([(mixed == one).sum(axis=0) for one in mixed])
    votes[mixed == NODATA] = 0
    out[at] = np.take_along_axis(mixed, votes.argmax(axis=0)[None], axis=0)[0]
    return out


def _average(four: list[Bytes]) -> Bytes:
    total = sum((part.astype(np.uint16) for part in four[1:]), four[0].astype(np.uint16))
    out: Bytes = ((total + 2) >> 2).astype(np.uint8)
    at = np.nonzero(np.maximum.reduce(four) == NODATA)
    some = np.stack([part[at] for part in four])
    valid = some != NODATA
    count = valid.sum(axis=0)
    mean = (np.where(valid, some, 0).sum(axis=0) + count // 2) // np.maximum(count, 1)
    out[at] = np.where(count, mean, NODATA)
    return out
