"""Many rasters as one: a common grid, and a virtual raster (VRT) that shows each of them on it."""

import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from math import ceil, floor, hypot, isfinite
from pathlib import Path

import rasterio
import rasterio.shutil
from rasterio.enums import ColorInterp, Resampling
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds

from pfmap.core.classes import ClassSpec
from pfmap.core.errors import SourceError, TargetError, reason, saying
from pfmap.core.files import make_folder, read_text, write_text
from pfmap.core.grid import GeoBox, Span
from pfmap.core.resources import clear_beside
from pfmap.raster.gdal import GDAL_ERRORS, Validity, crs_of, gdal_settings
from pfmap.raster.layout import Band, Hidden, Shown, source_from_folder, vrt
from pfmap.raster.target import lost

_DRIFT = 0.1  # pixels by which a raster may leave the grid from one side to the other and still lie on it
_EDGE = 21  # points along an edge that is projected
_HAIR = 0.01  # pixels by which a raster may reach into a pixel of the grid and not cover it


@dataclass(frozen=True, slots=True)
class Part:
    """One raster of a mosaic."""

    path: str
    """What GDAL opens."""
    geobox: GeoBox
    bands: tuple[int, ...] = (1,)
    """1-based numbers of those that are shown, in order."""
    masked: tuple[int, ...] = (1,)
    """Bands whose masks say together which of its pixels are valid; empty if all are."""
    local: bool = True
    """Whether it is a file of this machine."""
    validity: Validity | None = None
    """What says which of its pixels are valid, where GDAL's masks of its bands do not once it is warped."""


@dataclass(frozen=True, slots=True)
class Look:
    """What the raster of a mosaic is like."""

    dtype: str
    """Of its bands, such as uint8."""
    colors: tuple[str, ...]
    """What its bands are, as GDAL calls it: Red, Palette."""
    nodata: int | None = None
    """Value without data; None where a mask says it."""
    classes: Sequence[ClassSpec] = ()
    """For colour table and class names, or empty."""
    tags: dict[str, str] = field(default_factory=dict)
    smooth: bool = False
    """Whether rasters on another grid are interpolated, or their nearest pixels taken."""
    names: Sequence[str] = ()
    """What each band is called, or empty."""


def common_crs(boxes: Sequence[GeoBox]) -> str | None:
    """Return the CRS that most pixels of these rasters have, as WKT."""
    pixels = Counter[str | None]()  # by the first of several ways to write a CRS
    for box in boxes:
        same = (wkt for wkt in pixels if crs_of(wkt) == crs_of(box.crs_wkt))
        pixels[next(same, box.crs_wkt)] += box.width * box.height
    return pixels.most_common(1)[0][0]


def has_place_in(box: GeoBox, crs_wkt: str | None) -> bool:
    """Whether a raster can be brought into a CRS."""
    with suppress(SourceError):
        return bool(_bounds(box, crs_wkt))
    return False


def common_grid(boxes: Sequence[GeoBox]) -> GeoBox:
    """Choose one grid over rasters, north up, with most pixels' CRS and size, or raise a `SourceError`."""
    wkt = common_crs(boxes)
    members = [box for box in boxes if crs_of(box.crs_wkt) == crs_of(wkt)]
    sizes = Counter[tuple[float, float]]()
    for box in members:
        sizes[_pixel(box)] += box.width * box.height
    first = next(box for box in members if _pixel(box) == sizes.most_common(1)[0][0])
    a, b, x, d, e, y = first.transform
    grid = GeoBox(first.width, first.height, wkt, (hypot(a, d), 0.0, x, 0.0, -hypot(b, e), y))
    rows, cols = zip(*(_cover(box, grid) for box in boxes), strict=True)
    return grid.crop(Span.hull(rows), Span.hull(cols))


def _pixel(box: GeoBox) -> tuple[float, float]:
    """Return width and height of a pixel in units of the CRS, to as many digits as make a difference."""
    a, b, _, d, e, _ = box.transform
    return float(f"{hypot(a, d):.9g}"), float(f"{hypot(b, e):.9g}")


def write_mosaic(path: Path, grid: GeoBox, parts: Sequence[Part], look: Look) -> Path:
    """Write a VRT that shows rasters on one grid; where they overlap, the later one has the say.

    Rasters on other grids are shown through VRTs of their own, in a folder beside it. A VRT that would not
    change is left as it is. A `SourceError` says that a raster cannot be brought onto the grid, a
    `TargetError` that a file cannot be written.
    """
    beside = path.with_suffix(".parts")
    placed = [_placed(part, grid, beside / f"{number:05d}", look) for number, part in enumerate(parts)]

    def under(part: Part) -> Hidden:  # pixels without data, so that others may show there
        return "masked" if look.nodata is None and part.masked else look.nodata

    bands = []
    for index, (color, name) in enumerate(zip_longest(look.colors, look.names, fillvalue="")):
        shown = [_shown(path, grid, part, str(part.bands[index]), under(part)) for part in placed]
        bands.append(Band(look.dtype, color, shown, look.nodata, look.classes, name=name))
    mask = None
    if look.nodata is None:  # between rasters there is nothing
        masks = [(part, f"mask,{band}") for part in placed for band in part.masked or part.bands[:1]]
        mask = [_shown(path, grid, part, band, 0) for part, band in masks]
    text = vrt(grid, bands, look.tags, mask)
    if (len(bands) == 1 or look.names) and (what := lost(text, grid, bands)):
        raise TargetError(f"{path} would not be what it should be: read back, {what}")
    clear_beside(path.parent, [path.name])  # also where it would not change: what it shows may have
    _write_if_new(path, text)
    return path


def _placed(part: Part, grid: GeoBox, path: Path, look: Look) -> Part:
    """Show a raster through VRTs of its own, where its mask or its grid needs that."""
    fits, said = on_grid(part.geobox, grid), part.validity
    if said is not None and not (said.shared and fits):
        part = _masked(part, said, path.with_name(f"{path.name}_mask.vrt"), look)
    return part if fits else _warped(part, grid, path.with_suffix(".vrt"), look)


def _masked(part: Part, said: Validity, path: Path, look: Look) -> Part:
    """Write a VRT of the bands in use, with a mask of what says which of their pixels are valid."""
    box = part.geobox
    shown = partial(_shown, path, box, part)
    bands = [
        Band(look.dtype, color, [shown(str(band), None)])
        for color, band in zip(look.colors, part.bands, strict=True)
    ]
    mask = [shown(f"mask,{band}", 0) for band in said.masks]
    if said.alpha is not None:
        mask = [shown(str(said.alpha), None), *(shown(f"mask,{band}", 255) for band in said.masks[:1])]
    make_folder(path.parent, path.parent.parent)
    _write_if_new(path, vrt(box, bands, {}, mask or None))
    return Part(str(path), box, tuple(range(1, len(bands) + 1)), masked=(1,) if mask else ())


def _shown(path: Path, grid: GeoBox, part: Part, band: str, hidden: Hidden) -> Shown:
    return Shown(_name(part, path), *_place(part.geobox, grid), band, part.local, hidden)


def _name(part: Part, path: Path) -> str:
    """Name a raster from the folder of a VRT, so that both can be moved together."""
    if not part.local or Path(part.path).absolute().drive != path.absolute().drive:
        return part.path
    name = os.path.relpath(part.path, path.parent)
    return f"./{name}" if ":" in name else name  # NETCDF:a.tif alone GDAL would take apart


def on_grid(box: GeoBox, grid: GeoBox) -> bool:
    """Whether a raster's pixels are those of a grid, but for a shift of less than a pixel."""
    a, b, _, d, e, _ = box.transform
    width, _, _, _, height, _ = grid.transform
    drift = max(abs(a / width - 1) * box.width, abs(e / height - 1) * box.height)
    return crs_of(box.crs_wkt) == crs_of(grid.crs_wkt) and b == d == 0 and drift < _DRIFT


def extent(box: GeoBox, grid: GeoBox) -> tuple[Span, Span]:
    """Return rows and columns of a grid that a raster covers, wherever its own pixels lie."""
    return _place(box, grid) if on_grid(box, grid) else _cover(box, grid)


def _place(box: GeoBox, grid: GeoBox) -> tuple[Span, Span]:
    """Return rows and columns of a raster whose pixels are those of a grid."""
    x, y = box.transform[2], box.transform[5]
    col = round((x - grid.transform[2]) / grid.transform[0])
    row = round((y - grid.transform[5]) / grid.transform[4])
    return Span(row, row + box.height), Span(col, col + box.width)


def _cover(box: GeoBox, grid: GeoBox) -> tuple[Span, Span]:
    """Return rows and columns of a grid, or beyond it, that the bounds of any raster cover."""
    left, bottom, right, top = _bounds(box, grid.crs_wkt)
    width, _, x, _, height, y = grid.transform
    rows = Span(floor((top - y) / height + _HAIR), ceil((bottom - y) / height - _HAIR))
    return rows, Span(floor((left - x) / width + _HAIR), ceil((right - x) / width - _HAIR))


def _warped(part: Part, grid: GeoBox, path: Path, look: Look) -> Part:
    """Write a VRT that brings a raster onto a grid."""
    box = grid.crop(*_cover(part.geobox, grid))
    resampling = Resampling.nearest
    if look.smooth:
        coarser = 1.5 * box.width * box.height < part.geobox.width * part.geobox.height
        resampling = Resampling.average if coarser else Resampling.bilinear
    what = f"{part.path} cannot be brought into {grid.crs_name}"
    with (
        saying(what, SourceError, *GDAL_ERRORS, remedy="map it on its own"),
        tempfile.TemporaryDirectory(prefix="pfmap-") as name,
        gdal_settings(),
        rasterio.open(part.path) as src,
        WarpedVRT(
            src,
            crs=crs_of(grid.crs_wkt),
            transform=Affine(*box.transform),
            width=box.width,
            height=box.height,
            resampling=resampling,
            nodata=look.nodata,
            add_alpha=look.nodata is None and ColorInterp.alpha not in src.colorinterp,
            tolerance=0.125,
        ) as warped,
    ):
        rasterio.shutil.copy(warped, Path(name, path.name), driver="VRT")
        text = Path(name, path.name).read_text(encoding="utf-8")
    make_folder(path.parent, path.parent.parent)
    _write_if_new(path, source_from_folder(text, _name(part, path)) if part.local else text)
    return Part(str(path), box, part.bands, masked=part.bands[:1])


def _write_if_new(path: Path, text: str) -> None:
    """Leave a file alone that would not change: what was made of it earlier stays good."""
    try:
        before = read_text(path)
    except (OSError, UnicodeError):
        before = None
    if before != text:
        write_text(path, text)


def _bounds(box: GeoBox, crs_wkt: str | None) -> tuple[float, float, float, float]:
    """Return xmin, ymin, xmax, ymax of a raster in a CRS."""
    own, crs = crs_of(box.crs_wkt), crs_of(crs_wkt)
    if own == crs:
        return box.bounds
    if own is None or crs is None:
        raise SourceError("rasters with and without a CRS have no common grid: map them apart")
    why = "too far away"
    try:
        left, bottom, right, top = transform_bounds(own, crs, *box.bounds, densify_pts=_EDGE)
        if all(map(isfinite, (left, bottom, right, top))):
            return left, bottom, right + 360 * (right < left), top  # over the antimeridian, on past 180
    except GDAL_ERRORS as error:
        why = reason(error)
    raise SourceError(
        f"a raster in {box.crs_name} cannot be brought into the CRS of the others ({why}): map it on its own"
    )
