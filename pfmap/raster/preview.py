"""A scene and its class raster in few pixels, for small pictures."""

from pathlib import Path

import numpy as np
from affine import Affine
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

from pfmap.core.arrays import Bools, Bytes
from pfmap.core.classes import NODATA, RGB, as_colors
from pfmap.core.errors import SourceError
from pfmap.core.grid import GeoBox, Span
from pfmap.raster.gdal import crs_of, geobox_of, opened
from pfmap.raster.location import Location, locate
from pfmap.raster.scaling import Scaling
from pfmap.raster.source import Source

_MOST = 512 << 20  # pixels: more are not all read for one small picture


def read_preview(
    scene: Location,
    classes: Path,
    side: int,
    scaling: Scaling,
    bands: tuple[int, ...] | None = None,
    part: GeoBox | None = None,
) -> tuple[Bytes | None, Bools, Bytes]:
    """Read a class raster in few pixels, and the scene under it in the same ones.

    The scene of a class raster that covers only a part of it, or lies on the network's grid, is read where
    the class raster is. A large scene without overviews of what it shows is left out: its pixels would all
    have to be read. The longer side has `side` pixels at most. `part` is the scene's grid, where the class
    raster is that of many scenes. Of the scene's `bands` the first three are shown, or one in grey.

    Returns ``(3, h, w)`` pixels of the scene, or None; which have data, ``(h, w)``; and their classes,
    likewise. A `PfmapError` says that one of the two cannot be read.
    """
    box, codes = _read_classes(classes, part, side)
    with Source(scene, RGB, bands and tuple(as_colors(bands))) as source:
        source.scaling = scaling
        rows, cols = _covered(source.info.geobox, box, source.info.name)
        if (found := source.thinned(rows, cols, codes.shape, _MOST, smooth=True)) is None:
            return None, codes != NODATA, codes
        pixels, seen = source.shown(*found)
    return pixels, seen, codes if part is None else np.where(seen, codes, np.uint8(NODATA))


def _read_classes(path: Path, part: GeoBox | None, side: int) -> tuple[GeoBox, Bytes]:
    """Return the grid of a class raster, or of a `part` of it, and the classes there in few pixels."""
    location = locate(path)
    with opened(location) as src:
        box = part or geobox_of(src, location)
        shrink = min(1.0, side / max(box.width, box.height))
        height, width = max(1, round(box.height * shrink)), max(1, round(box.width * shrink))
        if part is None:
            return box, src.read(1, out_shape=(height, width), resampling=Resampling.mode)
        crs, transform = crs_of(box.crs_wkt) or src.crs, Affine(*box.resized(height, width).transform)
        with WarpedVRT(src, crs=crs, transform=transform, width=width, height=height, nodata=NODATA) as shown:
            return box, shown.read(1)


def _covered(scene: GeoBox, part: GeoBox, name: str) -> tuple[Span, Span]:
    """Return the rows and columns of a scene that a class raster covers."""
    a, b, c, d, e, f = scene.inverse()
    corners = [part.place(0, 0), part.place(part.width, part.height)]
    cols = sorted(round(a * x + b * y + c) for x, y in corners)
    rows = sorted(round(d * x + e * y + f) for x, y in corners)
    x, y = Span(*cols).clip(Span(0, scene.width)), Span(*rows).clip(Span(0, scene.height))
    if x.size < 1 or y.size < 1:
        raise SourceError(f"{name} is no longer where its class raster lies: map it again")
    return y, x
