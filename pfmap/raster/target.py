"""Output rasters: swath files while the scene is being mapped, one cloud-optimised GeoTIFF at the end.

Profiles are built afresh, never copied from the scene. Everything is written into a staging folder; the
caller renames finished files.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.shutil
from rasterio.errors import RasterioError
from rasterio.windows import Window

from pfmap.core.classes import NODATA, ClassSpec
from pfmap.core.errors import TargetError
from pfmap.core.files import write_failed
from pfmap.core.grid import GeoBox, Span
from pfmap.raster.gdal import gdal_settings

Halving = Literal["mode", "average"]
"""How four pixels become one: by the most frequent value, the first of equals; or by their mean."""

BLOCK = 512
"""Side of the tiles of all rasters that are written."""

SOMEWHERE = rasterio.Affine.translation(1, 0)
"""Where rasters lie that nobody but pfmap reads."""

_ACROSS = 16 * BLOCK  # columns in work at a time, of the smaller raster
Bytes = npt.NDArray[np.uint8]


def staged(height: int, width: int) -> dict[str, Any]:
    """Describe a raster on its way to the final one, which only a VRT reads."""
    return {
        "driver": "GTiff", "width": width, "height": height, "count": 1, "dtype": "uint8",
        # The VRT knows better: rasterio warns of files without a place, and warnings cannot be silenced in
        # one thread alone.
        "transform": SOMEWHERE,
        "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK,
        # Half the size of deflate's lowest level on class rasters, at a fifth of its time.
        "compress": "zstd", "zstd_level": 1,
        "bigtiff": "if_safer",
    }  # fmt: skip


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


def write_overviews(source: Path, folder: Path, halving: Halving) -> list[Path]:
    """Write a raster's overviews, largest first, until one block holds the smallest.

    Args:
        source: a single-band uint8 raster with nodata 255.
        folder: where they go, as `<source's stem>.1.tif` and so on.
        halving: how four pixels become one.

    Raises:
        RasterioError: the disk is full or not writable.
    """
    paths: list[Path] = []
    while True:
        with rasterio.open(source) as src:
            if max(src.shape) <= BLOCK:
                return paths
            path = folder / f"{source.stem.removesuffix(f'.{len(paths)}')}.{len(paths) + 1}.tif"
            height, width = -(-src.height // 2), -(-src.width // 2)
            with rasterio.open(path, "w", **staged(height, width)) as dst:
                for window in _windows(height, width):
                    left, top = 2 * window.col_off, 2 * window.row_off
                    right = min(left + 2 * window.width, src.width)
                    bottom = min(top + 2 * window.height, src.height)
                    values = src.read(1, window=Window(left, top, right - left, bottom - top))
                    dst.write(halve(values, halving), 1, window=window)
        paths.append(path)
        source = path


def _windows(height: int, width: int) -> Iterator[Window]:
    for top in range(0, height, BLOCK):
        for left in range(0, width, _ACROSS):
            yield Window(left, top, min(_ACROSS, width - left), min(BLOCK, height - top))


_CACHE = 32 << 20
"""Of GDAL's blocks while rasters are assembled, bytes."""


def finish(
    targets: Sequence["RasterTarget"], folder: Path, swaths: Sequence[tuple[Span, Path]]
) -> list[Path]:
    """Assemble swaths into cloud-optimised GeoTIFFs, side by side, and return their paths.

    Args:
        targets: the rasters.
        folder: where they go.
        swaths: pixel rows and folder of each swath, top to bottom.

    Raises:
        TargetError: the disk is full or not writable.
    """
    with ThreadPoolExecutor(len(targets)) as pool:
        return list(pool.map(lambda target: target._finish(folder, swaths), targets))


@dataclass(frozen=True, slots=True)
class RasterTarget:
    """One single-band uint8 output raster, nodata 255, written by swaths.

    Attributes:
        geobox: the grid that it lies on.
        name: file name of the finished raster; swaths have it too, each in a folder of its own.
        halving: how its overviews are made.
        tags: TIFF tags of the finished raster.
        style: QGIS style, written beside it.
        level: of compression, 1 to 9; noise gains little by more.
        classes: colour table and class names, or empty for none.
    """

    geobox: GeoBox
    name: str
    halving: Halving
    tags: Mapping[str, str]
    style: str
    level: int
    classes: Sequence[ClassSpec] = ()

    def write_swath(self, folder: Path, values: npt.NDArray[np.uint8]) -> None:
        """Write the pixel rows that a swath finishes: ``(rows, width)`` uint8.

        Raises:
            TargetError: the disk is full or not writable.
        """
        path = folder / self.name
        height, width = values.shape
        try:
            with rasterio.open(path, "w", **staged(height, width)) as dst:
                dst.write(values, 1)
        except (RasterioError, OSError) as error:
            raise write_failed(path, error) from error

    def read_swath(self, folder: Path) -> npt.NDArray[np.uint8]:
        """Read what `write_swath` left: ``(rows, width)`` uint8.

        Raises:
            TargetError: it cannot be read.
        """
        path = folder / self.name
        try:
            with rasterio.open(path) as src:
                values: npt.NDArray[np.uint8] = src.read(1)
        except (RasterioError, OSError) as error:
            raise TargetError(
                f"{path} of an earlier run cannot be read ({error}): start afresh with resume=False"
            ) from error
        return values

    def _finish(self, folder: Path, swaths: Sequence[tuple[Span, Path]]) -> Path:
        vrt = folder / f"{self.name}.vrt"
        final = folder / self.name
        sidecar = final.with_name(f"{final.name}.aux.xml")
        overviews: list[Path] = []
        try:
            with gdal_settings(cache=_CACHE):
                vrt.write_text(self._vrt(swaths, placed=False), encoding="utf-8")
                overviews = write_overviews(vrt, folder, self.halving)
                vrt.write_text(self._vrt(swaths, overviews), encoding="utf-8")
                rasterio.shutil.copy(
                    vrt,
                    final,
                    driver="COG",
                    compress="deflate",
                    level=str(self.level),
                    blocksize=str(BLOCK),
                    bigtiff="if_safer",
                    num_threads="all_cpus",
                )
            sidecar.unlink(missing_ok=True)
            if self.classes:
                sidecar.write_text(self._attribute_table(), encoding="utf-8")
            final.with_suffix(".qml").write_text(self.style, encoding="utf-8")
            for path in (vrt, *overviews):
                path.unlink()
        except (RasterioError, OSError) as error:
            raise write_failed(final, error) from error
        return final

    def _vrt(
        self, swaths: Sequence[tuple[Span, Path]], overviews: Sequence[Path] = (), *, placed: bool = True
    ) -> str:
        """Describe the swath files, and overviews of them, as one raster: GDAL's VRT format.

        One that is not `placed` lies anywhere, for overviews: rasterio warns of files without a place.
        """
        box = self.geobox
        parts = [f'<VRTDataset rasterXSize="{box.width}" rasterYSize="{box.height}">']
        if box.crs_wkt is not None:
            parts.append(f"<SRS>{escape(box.crs_wkt)}</SRS>")
        if box.georeferenced or not placed:
            a, b, c, d, e, f = box.transform if placed else SOMEWHERE[:6]
            values = ", ".join(repr(v) for v in (c, a, b, f, d, e))
            parts.append(f"<GeoTransform>{values}</GeoTransform>")
        parts.append("<Metadata>")
        parts += [f"<MDI key={quoteattr(k)}>{escape(v)}</MDI>" for k, v in self.tags.items()]
        parts.append("</Metadata>")
        color = "Palette" if self.classes else "Gray"
        parts.append(f'<VRTRasterBand dataType="Byte" band="1"><NoDataValue>{NODATA}</NoDataValue>')
        parts.append(f"<ColorInterp>{color}</ColorInterp>")
        if self.classes:
            parts.append("<ColorTable>")
            parts += [
                f'<Entry c1="{c.rgb[0]}" c2="{c.rgb[1]}" c3="{c.rgb[2]}" c4="255"/>' for c in self.classes
            ]
            parts.append("</ColorTable>")
        for rows, folder in swaths:
            place = f'xOff="0" yOff="{{y}}" xSize="{box.width}" ySize="{rows.size}"'
            source = escape(str((folder / self.name).resolve()))
            parts.append(
                "<SimpleSource>"
                f'<SourceFilename relativeToVRT="0">{source}</SourceFilename>'
                f'<SourceBand>1</SourceBand><SourceProperties RasterXSize="{box.width}" '
                f'RasterYSize="{rows.size}" DataType="Byte" BlockXSize="{BLOCK}" BlockYSize="{BLOCK}"/>'
                f"<SrcRect {place.format(y=0)}/><DstRect {place.format(y=rows.start)}/>"
                "</SimpleSource>"
            )
        parts += [
            f'<Overview><SourceFilename relativeToVRT="0">{escape(str(path.resolve()))}</SourceFilename>'
            "<SourceBand>1</SourceBand></Overview>"
            for path in overviews
        ]
        parts.append("</VRTRasterBand></VRTDataset>")
        return "\n".join(parts)

    def _attribute_table(self) -> str:
        """Name the classes for GIS programs: GDAL's raster attribute table, in a sidecar file."""
        columns = (("Value", 0, 5), ("Class", 2, 2), ("Red", 0, 6), ("Green", 0, 7), ("Blue", 0, 8))
        parts = ['<PAMDataset><PAMRasterBand band="1">', "<CategoryNames>"]
        parts += [f"<Category>{escape(spec.name)}</Category>" for spec in self.classes]
        parts.append('</CategoryNames><GDALRasterAttributeTable tableType="thematic">')
        parts += [
            f'<FieldDefn index="{i}"><Name>{name}</Name><Type>{kind}</Type><Usage>{usage}</Usage></FieldDefn>'
            for i, (name, kind, usage) in enumerate(columns)
        ]
        for index, spec in enumerate(self.classes):
            cells = "".join(f"<F>{escape(str(v))}</F>" for v in (index, spec.name, *spec.rgb))
            parts.append(f'<Row index="{index}">{cells}</Row>')
        parts.append("</GDALRasterAttributeTable></PAMRasterBand></PAMDataset>")
        return "\n".join(parts)
