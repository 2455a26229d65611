"""Cut what is to be mapped out of a map service, which may show the whole world: tiles, WMTS, WMS.

What is cut out is a virtual raster, in which GDAL's own drivers ask the server for what is read of it.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from urllib.error import HTTPError
from urllib.parse import urlsplit

from pfmap.core.errors import SourceError, UsageError
from pfmap.core.grid import GeoBox, Span, mean_size
from pfmap.core.web import AGENT, asked
from pfmap.mapping.options import PredictOptions
from pfmap.raster.gdal import geobox_of, opened
from pfmap.raster.layout import Band, Shown, tiles, vrt
from pfmap.raster.location import Location
from pfmap.vector.area import Area, read_area
from pfmap.vector.geodesy import pixel_size

_FINEST = 22  # zoom: GDAL counts the pixels of the world
_TILE = 256
_TOLERANCE = 1.01  # a resolution is not meant to the last digit
_MISSING = (400, 404, 410)  # what servers answer where they have no tile, or no such zoom
_COARSER = 8  # zooms that are looked at to say which a server has
_LARGE = 10**10  # pixels, of which a part has to be named
_NEEDED = "say which with bbox=(85.51,27.63,85.53,27.64) and bbox_crs='EPSG:4326', or with aoi=FILE"


def cut_out(location: Location, options: PredictOptions) -> tuple[Location, PredictOptions, list[str]]:
    """Make a raster of the part of a map service that lies in the area of interest.

    Returns where it is, the options with which it is mapped, and what the user should know. A `UsageError`
    says what is missing to know the part, a `SourceError` that the server does not answer, or has no tiles as
    fine as that.
    """
    name, whole, about = location.text, replace(location.absolute(), service=False), ""
    if location.gdal.startswith("http"):
        zoom, gsd = _zoom(location, options)
        whole = _world(location, zoom)
        about = f", here zoom {zoom}, {gsd:.3g} m per pixel"
        options = replace(options, gsd=None)
    elif location.local is None:
        _ask(location)
    with opened(whole) as src:
        box = geobox_of(src, whole)
        area = _area(location, options, box) if options.bbox or options.aoi else None
        if area is None and box.width * box.height > _LARGE:
            raise UsageError(
                f"{name} shows {box.width:,} x {box.height:,} pixels: only a part can be mapped; {_NEEDED}"
            )
        rows, cols = (Span(0, box.height), Span(0, box.width)) if area is None else (area.rows, area.cols)
        place = Span(-rows.start, box.height - rows.start), Span(-cols.start, box.width - cols.start)
        bands = [
            Band(dtype, color.name.capitalize(), [Shown(whole.gdal, *place, str(number))])
            for number, dtype, color in zip(src.indexes, src.dtypes, src.colorinterp, strict=True)
        ]
    part = vrt(box.crop(rows, cols), bands, {}).replace("\n", " ")
    said = (
        f"{name} is a map service{about}: whether its licence allows a map is yours to know, and whether its "
        "imagery changed since an earlier run nobody can tell"
    )
    return replace(location, gdal=part, called=location.stem, service=False), options, [said]


def _area(location: Location, options: PredictOptions, box: GeoBox) -> Area:
    return read_area(options.aoi, options.bbox, box, location.text, options.bbox_crs)


def _ask(location: Location) -> None:
    """Find out whether a server answers at all, before GDAL, which cannot be interrupted, is sent there."""
    parts = urlsplit(location.gdal[location.gdal.index("http") :])
    try:
        with asked(f"{parts.scheme}://{parts.netloc}/", location.text, "HEAD"):
            pass
    except HTTPError:
        pass  # it does


def _zoom(location: Location, options: PredictOptions) -> tuple[int, float]:
    """Choose the coarsest zoom of tiles that is as fine as wanted; return it and metres per pixel there."""
    wanted, whole = _wanted(location, options), _world(location, _FINEST)
    with opened(whole) as src:
        box = geobox_of(src, whole)
    area = _area(location, options, box)
    finest = mean_size(pixel_size(box.crop(area.rows, area.cols)) or (1.0, 1.0))
    steps = min(math.floor(math.log2(wanted * _TOLERANCE / finest)), _FINEST)
    if steps < 0:
        raise UsageError(
            f"gsd={wanted:g} is finer than tiles can be read: zoom {_FINEST} is gsd={finest:.3g} here"
        )
    zoom, gsd = _FINEST - steps, finest * 2**steps
    spots = [*product(_spots(area.cols, _TILE << steps), _spots(area.rows, _TILE << steps))]
    _refuse_beyond(location, zoom, gsd, spots)
    return zoom, gsd


def _wanted(location: Location, options: PredictOptions) -> float:
    """Return how fine tiles are wanted, metres per pixel, once all is said that has to be."""
    name, fields = location.text, re.findall("{([^}]*)}", location.gdal)
    if not {"z", "x"} < set(fields) <= {"z", "x", "y", "-y"} or {"y", "-y"} <= set(fields):
        raise UsageError(
            f"{name} is no address of tiles: it needs {{z}}, {{x}}, and {{y}} or from the south {{-y}}, and "
            "no others; in place of {s} name one of the servers"
        )
    if not (options.bbox or options.aoi):
        raise UsageError(f"{name} shows the world, of which a part can be mapped: {_NEEDED}")
    if options.bbox and not options.bbox_crs:
        raise UsageError(f"{name} needs bbox_crs='EPSG:4326' where bbox= is in degrees, else 'EPSG:3857'")
    if options.gsd is None:
        raise UsageError(f"{name} has many zooms: say how fine a one to map with gsd=METRES, such as gsd=0.3")
    return options.gsd


def _refuse_beyond(location: Location, zoom: int, gsd: float, spots: Sequence[tuple[int, int]]) -> None:
    """Refuse a zoom of which a server has no tile at these spots, if at all of them it has coarser ones."""
    if any(_has(location, zoom, *spot) for spot in spots):
        return
    for step in range(1, min(_COARSER, zoom) + 1):
        there = [_has(location, zoom - step, *spot) for spot in {(x >> step, y >> step) for x, y in spots}]
        if all(there):
            raise SourceError(
                f"{location.text} has no tiles at zoom {zoom}, {gsd:.3g} m per pixel: the finest here is "
                f"zoom {zoom - step}, which is gsd={gsd * 2**step:.3g}"
            )
        if any(there):  # it shows a part of this place
            return


def _spots(span: Span, size: int) -> Iterator[int]:
    """Yield the tiles in the middle and at both ends of a range of pixels, each once."""
    ends = span.start // size, (span.stop - 1) // size
    yield from dict.fromkeys((sum(ends) // 2, *ends))


def _world(location: Location, zoom: int) -> Location:
    """Show all tiles of a zoom as one raster."""
    return replace(location, gdal=tiles(location.gdal, zoom, AGENT), service=False)


def _has(location: Location, zoom: int, x: int, y: int) -> bool:
    """Whether a server has a tile, counted from the north; yes, if it does not say."""
    number = {"{z}": zoom, "{x}": x, "{y}": y, "{-y}": (1 << zoom) - 1 - y}
    address = re.sub(r"{[^}]*}", lambda found: str(number[found[0]]), location.gdal)
    try:
        with asked(address, location.text) as answer:
            return bool(answer.read(1))
    except HTTPError as error:
        return error.code not in _MISSING
