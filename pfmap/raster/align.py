"""Rasters under the pixels of another one, brought onto its grid, and polygons burnt into it."""

import contextlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from rasterio import features
from rasterio.enums import ColorInterp, Resampling
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from pfmap.core.arrays import Array, Bools
from pfmap.core.errors import SourceError, saying
from pfmap.core.grid import GeoBox, Span
from pfmap.raster.classmap import ClassMap
from pfmap.raster.gdal import GDAL_ERRORS, crs_of, gdal_settings
from pfmap.raster.location import Location

_WHOLE = 0.99  # of a raster: what covers that much of it covers it, but for its edges
_ANY_CRS = "EPSG:3857"
"""Stands for a CRS that neither raster names: what is the same on both sides does not matter."""


def moved(name: str, own: GeoBox, other: str, target: GeoBox) -> tuple[bool, str]:
    """Say whether the grids of two rasters differ, and what the user should know of that, or "".

    A `SourceError` refuses those that no georeferencing brings together, or that lie apart.
    """
    same_size = (own.width, own.height) == (target.width, target.height)
    if same_size and own.transform == target.transform and crs_of(own.crs_wkt) == crs_of(target.crs_wkt):
        return False, ""
    if own.georeferenced and target.georeferenced and (target.crs_wkt or not own.crs_wkt):
        unnamed = own.crs_wkt is None and target.crs_wkt is not None
        guess = f"{name} names no CRS: taken to be in that of {other}" * unnamed
        return True, "; ".join(filter(None, (guess, _overlap(name, own, other, target))))
    if not same_size:
        raise SourceError(
            f"{name} has {own.width} x {own.height} pixels, {other} has {target.width} x "
            f"{target.height}, and {other if own.georeferenced else name} says not where it lies: "
            "georeference it, or give a raster of the same size"
        )
    return False, f"{name} and {other} are compared pixel by pixel: one of them says not where it lies"


def _overlap(name: str, own: GeoBox, other: str, target: GeoBox) -> str:
    """Say that a raster covers only a part of another; refuse two that lie apart, if that can be told."""
    bounds = target.bounds
    if own.crs_wkt is not None and target.crs_wkt is not None and own.crs_wkt != target.crs_wkt:
        with contextlib.suppress(*GDAL_ERRORS), gdal_settings():
            bounds = transform_bounds(crs_of(target.crs_wkt), crs_of(own.crs_wkt), *target.bounds)
    left, bottom, right, top = bounds
    x0, y0, x1, y1 = own.bounds
    if right <= x0 or x1 <= left or top <= y0 or y1 <= bottom:
        raise SourceError(
            f"{name} and {other} do not overlap: they cover {_box(own.bounds)} and {_box(bounds)} in "
            f"{own.crs_name}"
        )
    width, height = min(right, x1) - max(left, x0), min(top, y1) - max(bottom, y0)
    share = width * height / (right - left) / (top - bottom)
    return f"{name} reaches over {share:.0%} of {other}: the rest does not count" * (share < _WHOLE)


def warped(
    name: str, src: rasterio.DatasetReader, own: GeoBox, other: str, target: GeoBox, resampling: Resampling
) -> WarpedVRT:
    """Show a raster on the grid of another, with its alpha band, or one that says what it covers.

    A `SourceError` says that this cannot be.
    """
    with saying(f"{name} cannot be brought onto the grid of {other}", SourceError, *GDAL_ERRORS):
        return WarpedVRT(
            src,
            src_crs=crs_of(own.crs_wkt or target.crs_wkt) or _ANY_CRS,
            crs=crs_of(target.crs_wkt) or _ANY_CRS,
            transform=Affine(*target.transform),
            width=target.width,
            height=target.height,
            resampling=resampling,
            add_alpha=ColorInterp.alpha not in src.colorinterp,
            dtype=None if resampling == Resampling.nearest else "float32",
        )


class AlignedMap(ClassMap):
    """An opened class raster of any CRS, resolution and extent, read on another raster's grid.

    Each pixel takes the class of the nearest one. Pixels beyond the raster have none. `other` is the name of
    the raster whose grid `target` is. A `SourceError` says too that it cannot be brought onto that grid.

    Attributes:
        own: its own grid; `geobox` is the other one.
        moved: whether the two differ.
        note: what to tell the user about how the two were brought together, or "".
    """

    def __init__(self, location: Location, target: GeoBox, advice: str, other: str) -> None:
        super().__init__(location, None, advice)
        self._vrt: WarpedVRT | None = None
        self.own, self.geobox = (own := self.geobox), target
        with contextlib.ExitStack() as stack:
            stack.push(self._stack)
            self.moved, self.note = moved(self.name, own, other, target)
            if self.moved:
                nearest = warped(self.name, self._src, own, other, target, Resampling.nearest)
                self._vrt = stack.enter_context(nearest)
                self._masked = True
                self._dtype, self.nodata = self._values()
            self._stack = stack.pop_all()

    def _read(self, window: Window) -> tuple[Array, Array | None]:
        if self._vrt is None:
            return super()._read(window)
        values, alpha = self._vrt.read([self._band, self._validity.alpha or self._vrt.count], window=window)
        return values, alpha


def _box(bounds: tuple[float, float, float, float]) -> str:
    return ",".join(f"{value:.8g}" for value in bounds)


def burn(geometries: Sequence[object], rows: Span, cols: Span, *, touched: bool = False) -> Bools:
    """Return which pixels, ``(rows, cols)``, have their centre in a geometry, or with `touched` are touched.

    Geometries are polygons in pixel coordinates, with a GeoJSON-like interface.
    """
    shapes = [(geometry, 1) for geometry in geometries]
    return burn_values(shapes, rows, cols, 0, touched=touched).astype(bool)


def burn_values(
    shapes: Sequence[tuple[object, int]],
    rows: Span,
    cols: Span,
    fill: int,
    *,
    touched: bool = False,
    dtype: npt.DTypeLike = np.uint8,
) -> Array:
    """Give ``(rows, cols)`` pixels the value of the last geometry that their centre lies in, else `fill`.

    Geometries as for `burn`; with `touched` touching is enough.
    """
    out = np.full((rows.size, cols.size), fill, dtype=dtype)
    if shapes:
        place = Affine.translation(cols.start, rows.start)
        features.rasterize(shapes, out=out, transform=place, all_touched=touched)
    return out
