"""Many rasters as one: a common grid, and a VRT that shows each of them on it."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import ceil, floor, hypot, isfinite
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import rasterio
import rasterio.shutil
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds

from pfmap.core.classes import ClassSpec
from pfmap.core.errors import SourceError
from pfmap.core.files import make_folder, read_text, scratch, write_text
from pfmap.core.grid import GeoBox, Span
from pfmap.raster.gdal import GDAL_ERRORS, gdal_settings, reason
from pfmap.raster.target import BLOCK

_DRIFT = 0.1  # pixels by which a raster may leave the grid from one side to the other and still lie on it
_EDGE = 21  # points along an edge that is projected


@dataclass(frozen=True, slots=True)
class Part:
    """One raster of a mosaic.

    Attributes:
        path: what GDAL opens.
        geobox: its grid.
        bands: 1-based numbers of those that are shown, in order.
        masked: bands whose masks say together which of its pixels are valid; empty if all are.
        local: whether it is a file of this machine.
    """

    path: str
    geobox: GeoBox
    bands: tuple[int, ...] = (1,)
    masked: tuple[int, ...] = (1,)
    local: bool = True


@dataclass(frozen=True, slots=True)
class Look:
    """What the raster of a mosaic is like.

    Attributes:
        dtype: of its bands, such as uint8.
        colors: what its bands are, as GDAL calls it: Red, Palette.
        nodata: value without data; None where a mask says it.
        classes: colour table and class names, or empty.
        tags: kept in the file.
        smooth: whether rasters on another grid are interpolated, or their nearest pixels taken.
    """

    dtype: str
    colors: tuple[str, ...]
    nodata: int | None = None
    classes: Sequence[ClassSpec] = ()
    tags: dict[str, str] = field(default_factory=dict)
    smooth: bool = False


def common_crs(boxes: Sequence[GeoBox]) -> str | None:
    """Return the CRS that most pixels of these rasters have, as WKT."""
    pixels: list[tuple[GeoBox, int]] = []
    for box in boxes:
        for number, (known, count) in enumerate(pixels):
            if _crs(known) == _crs(box):
                pixels[number] = known, count + box.width * box.height
                break
        else:
            pixels.append((box, box.width * box.height))
    return max(pixels, key=lambda found: found[1])[0].crs_wkt


def has_place_in(box: GeoBox, crs_wkt: str | None) -> bool:
    """Whether a raster can be brought into a CRS."""
    try:
        _bounds(box, _crs_of(crs_wkt))
    except SourceError:
        return False
    return True


def common_grid(boxes: Sequence[GeoBox]) -> GeoBox:
    """Choose one grid over rasters: the CRS and the size that most of their pixels have, north up.

    Raises:
        SourceError: one of them cannot be brought into that CRS.
    """
    wkt = common_crs(boxes)
    crs = _crs_of(wkt)
    members = [box for box in boxes if _crs(box) == crs]
    sizes: dict[tuple[float, float], int] = {}
    for box in members:
        size = _size(box)
        sizes[size] = sizes.get(size, 0) + box.width * box.height
    most = max(sizes, key=lambda size: sizes[size])
    first = next(box for box in members if _size(box) == most)
    a, b, x0, d, e, y0 = first.transform
    width, height = hypot(a, d), hypot(b, e)
    bounds = [_bounds(box, crs) for box in boxes]
    left = min(floor((b[0] - x0) / width + 0.01) for b in bounds)
    right = max(ceil((b[2] - x0) / width - 0.01) for b in bounds)
    top = min(floor((y0 - b[3]) / height + 0.01) for b in bounds)
    bottom = max(ceil((y0 - b[1]) / height - 0.01) for b in bounds)
    transform = (width, 0.0, x0 + left * width, 0.0, -height, y0 - top * height)
    return GeoBox(right - left, bottom - top, wkt, transform)


def write_mosaic(path: Path, grid: GeoBox, parts: Sequence[Part], look: Look) -> Path:
    """Write a VRT that shows rasters on one grid; where they overlap, the later one has the say.

    Rasters on other grids are shown through VRTs of their own, in a folder beside it. A VRT that would not
    change is left as it is.

    Args:
        path: of the VRT.
        grid: of the mosaic.
        parts: the rasters.
        look: what the mosaic is like.

    Raises:
        SourceError: a raster cannot be brought onto the grid.
        TargetError: a file cannot be written.
    """
    placed = []
    for number, part in enumerate(parts):
        if not on_grid(part.geobox, grid):
            beside = path.with_suffix(".parts") / f"{number:05d}.vrt"
            make_folder(beside.parent)
            part = _warped(part, grid, beside, look)  # noqa: PLW2901
        placed.append(part)
    _write_if_new(path, _xml(path, grid, placed, look))
    return path


def on_grid(box: GeoBox, grid: GeoBox) -> bool:
    """Whether a raster's pixels are those of a grid, but for a shift of less than a pixel."""
    a, b, _, d, e, _ = box.transform
    width, _, _, _, height, _ = grid.transform
    drift = max(abs(a / width - 1) * box.width, abs(e / height - 1) * box.height)
    return _crs(box) == _crs(grid) and b == d == 0 and drift < _DRIFT


def extent(box: GeoBox, grid: GeoBox) -> tuple[Span, Span]:
    """Return rows and columns of a grid that a raster covers, wherever its own pixels lie."""
    if on_grid(box, grid):
        return _place(box, grid)
    return _place(_boxed(box, grid), grid)


def _place(box: GeoBox, grid: GeoBox) -> tuple[Span, Span]:
    x, y = box.transform[2], box.transform[5]
    col = round((x - grid.transform[2]) / grid.transform[0])
    row = round((y - grid.transform[5]) / grid.transform[4])
    return Span(row, row + box.height), Span(col, col + box.width)


def _boxed(box: GeoBox, grid: GeoBox) -> GeoBox:
    """Return the part of a grid that a raster covers."""
    left, bottom, right, top = _bounds(box, _crs(grid))
    width, height = grid.transform[0], -grid.transform[4]
    x0, y0 = grid.transform[2], grid.transform[5]
    col, row = floor((left - x0) / width + 0.01), floor((y0 - top) / height + 0.01)
    return GeoBox(
        ceil((right - x0) / width - 0.01) - col,
        ceil((y0 - bottom) / height - 0.01) - row,
        grid.crs_wkt,
        (width, 0.0, x0 + col * width, 0.0, -height, y0 - row * height),
    )


def _warped(part: Part, grid: GeoBox, path: Path, look: Look) -> Part:
    """Write a VRT that brings a raster onto a grid."""
    box = _boxed(part.geobox, grid)
    resampling = Resampling.nearest
    if look.smooth:
        coarser = 1.5 * box.width * box.height < part.geobox.width * part.geobox.height
        resampling = Resampling.average if coarser else Resampling.bilinear
    try:
        with (
            gdal_settings(),
            rasterio.open(part.path) as src,
            WarpedVRT(
                src,
                crs=_crs(grid),
                transform=Affine(*box.transform),
                width=box.width,
                height=box.height,
                resampling=resampling,
                nodata=look.nodata,
                add_alpha=look.nodata is None and not _has_alpha(src),
                tolerance=0.125,
            ) as warped,
        ):
            draft = scratch(path.parent) / f".{path.name}.part"
            make_folder(draft.parent)
            rasterio.shutil.copy(warped, draft, driver="VRT")
            text = _relative(draft.read_text(encoding="utf-8"), part, path)
            draft.unlink()
    except GDAL_ERRORS as error:
        raise SourceError(
            f"{part.path} cannot be brought into {grid.crs_name} ({reason(error)}): map it on its own"
        ) from error
    _write_if_new(path, text)
    return Part(str(path), box, part.bands, masked=part.bands[:1])


def _relative(text: str, part: Part, path: Path) -> str:
    """Name the raster from the VRT's folder, so that both can be moved together."""
    if not part.local:
        return text
    tag = r'(<SourceDataset relativeToVRT=)"0">[^<]*'
    name = escape(os.path.relpath(part.path, path.parent))
    return re.sub(tag, lambda found: f'{found[1]}"1">{name}', text)


def _write_if_new(path: Path, text: str) -> None:
    """Leave a file alone that would not change: what was made of it earlier stays good."""
    try:
        before = read_text(path)
    except (OSError, UnicodeError):
        before = None
    if before != text:
        write_text(path, text)


def _has_alpha(src: rasterio.DatasetReader) -> bool:
    return any(color.name == "alpha" for color in src.colorinterp)


def _bounds(box: GeoBox, crs: CRS | None) -> tuple[float, float, float, float]:
    own = _crs(box)
    if own == crs:
        return box.bounds
    if own is None or crs is None:
        raise SourceError("rasters with and without a CRS have no common grid: map them apart")
    try:
        bounds: tuple[float, float, float, float] = transform_bounds(own, crs, *box.bounds, densify_pts=_EDGE)
    except GDAL_ERRORS as error:
        raise _too_far(box, reason(error)) from error
    if not all(map(isfinite, bounds)):
        raise _too_far(box, "too far away")
    return bounds


def _too_far(box: GeoBox, why: str) -> SourceError:
    return SourceError(
        f"a raster in {box.crs_name} cannot be brought into the CRS of the others ({why}): map it on its own"
    )


def _crs(box: GeoBox) -> CRS | None:
    return _crs_of(box.crs_wkt)


@lru_cache(maxsize=64)
def _crs_of(wkt: str | None) -> CRS | None:
    return None if wkt is None else CRS.from_wkt(wkt)


def _size(box: GeoBox) -> tuple[float, float]:
    """Return width and height of a pixel in units of the CRS, to as many digits as make a difference."""
    a, b, _, d, e, _ = box.transform
    return float(f"{hypot(a, d):.9g}"), float(f"{hypot(b, e):.9g}")


def _xml(path: Path, grid: GeoBox, parts: Sequence[Part], look: Look) -> str:
    """Write it all in GDAL's VRT format."""
    lines = [f'<VRTDataset rasterXSize="{grid.width}" rasterYSize="{grid.height}">']
    if grid.crs_wkt is not None:
        lines.append(f"<SRS>{escape(grid.crs_wkt)}</SRS>")
    a, b, c, d, e, f = grid.transform
    lines.append(f"<GeoTransform>{', '.join(repr(v) for v in (c, a, b, f, d, e))}</GeoTransform>")
    lines.append("<Metadata>")
    lines += [f"<MDI key={quoteattr(k)}>{escape(v)}</MDI>" for k, v in look.tags.items()]
    lines.append("</Metadata>")
    for index, color in enumerate(look.colors):
        lines.append(f'<VRTRasterBand dataType="{_GDAL_NAMES[look.dtype]}" band="{index + 1}">')
        if look.nodata is not None:
            lines.append(f"<NoDataValue>{look.nodata}</NoDataValue>")
        lines.append(f"<ColorInterp>{color}</ColorInterp>")
        lines += _color_table(look.classes)
        lines += [_source(path, grid, part, str(part.bands[index]), look) for part in parts]
        lines.append("</VRTRasterBand>")
    if look.nodata is None:  # between rasters there is nothing
        lines.append('<MaskBand><VRTRasterBand dataType="Byte">')
        shown = Look("uint8", (), nodata=0)
        lines += [
            _source(path, grid, part, f"mask,{band}", shown) for part in parts for band in part.masked or (1,)
        ]
        lines.append("</VRTRasterBand></MaskBand>")
    lines.append("</VRTDataset>")
    return "\n".join(lines)


_GDAL_NAMES = {
    "uint8": "Byte",
    "int8": "Int8",
    "uint16": "UInt16",
    "int16": "Int16",
    "uint32": "UInt32",
    "int32": "Int32",
    "float32": "Float32",
    "float64": "Float64",
}


def _color_table(classes: Sequence[ClassSpec]) -> list[str]:
    if not classes:
        return []
    return [
        "<CategoryNames>",
        *[f"<Category>{escape(spec.name)}</Category>" for spec in classes],
        "</CategoryNames>",
        "<ColorTable>",
        *[f'<Entry c1="{s.rgb[0]}" c2="{s.rgb[1]}" c3="{s.rgb[2]}" c4="255"/>' for s in classes],
        "</ColorTable>",
    ]


def _source(path: Path, grid: GeoBox, part: Part, band: str, look: Look) -> str:
    """Show a raster at its place, but for its pixels without data."""
    rows, cols = _place(part.geobox, grid)
    size = f'xSize="{cols.size}" ySize="{rows.size}"'
    name = os.path.relpath(part.path, path.parent) if part.local else part.path
    hidden = "<UseMaskBand>true</UseMaskBand>" * bool(part.masked)
    if look.nodata is not None:
        hidden = f"<NODATA>{look.nodata}</NODATA>"
    return (
        "<ComplexSource>"
        f'<SourceFilename relativeToVRT="{int(part.local)}">{escape(name)}</SourceFilename>'
        f"<SourceBand>{band}</SourceBand>"
        # Said here so that GDAL need not open 2,000 files to open one.
        f'<SourceProperties RasterXSize="{cols.size}" RasterYSize="{rows.size}" '
        f'DataType="{_GDAL_NAMES[look.dtype]}" BlockXSize="{BLOCK}" BlockYSize="{BLOCK}"/>'
        f'<SrcRect xOff="0" yOff="0" {size}/><DstRect xOff="{cols.start}" yOff="{rows.start}" {size}/>'
        f"{hidden}</ComplexSource>"
    )
