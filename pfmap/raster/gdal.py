"""How GDAL is set up and a raster opened, which grid it has, and which of its pixels are valid."""

import contextlib
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import CRSError, RasterioError, RasterioIOError
from rasterio.windows import Window

from pfmap.core.arrays import Bools
from pfmap.core.bucket import gdal_endpoint
from pfmap.core.errors import SourceError, few, quietly, reason
from pfmap.core.grid import IDENTITY, UNPLACED, GeoBox, Span
from pfmap.raster.location import Location, not_opened

GDAL_ERRORS = (RasterioError, CRSError, CPLE_BaseError, UnicodeDecodeError, SystemError)
"""What rasterio raises when GDAL fails: mostly its own errors, from a few properties and copies GDAL's, one
where GDAL quotes bytes of a file that are no text, and the last one where GDAL does not say why."""

BLOCK = 512
"""Side of the tiles of all rasters that are written, pixels."""

GDAL_VERSION: str = rasterio.__gdal_version__

# Never run code that a raster names, read where a TIFF's tiles are at once (a disk or server that fails later
# would end the process: libtiff 4.7 asserts; of 100,000 x 100,000 pixels on a server it is half a megabyte),
# ask a server again, give up on a dead one, look for side files by name instead of listing a bucket.
_SETTINGS = {
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    "GDAL_DISABLE_READDIR_ON_OPEN": "FALSE",
    "GTIFF_IGNORE_READ_ERRORS": "NO",  # and have what is damaged count as black
    "GTIFF_USE_DEFER_STRILE_LOADING": "NO",
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",  # which makes up what a file that was cut off lacks
    "VRT_NUM_THREADS": "1",  # what threads of GDAL's warn of nobody hears, but of a TIFF's tiles since 3.9
    "GDAL_NUM_THREADS": "ALL_CPUS" if rasterio.env.GDALVersion.runtime().at_least("3.9") else "1",
}
_WAITS = 0.5, 1.0, 2.0  # seconds, before a map service is asked again, as GDAL does of others by itself
_REMOTE_SETTINGS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE",
    "GDAL_HTTP_MAX_RETRY": "3",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_HTTP_LOW_SPEED_TIME": "30",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1",
    "GDAL_ENABLE_WMS_CACHE": "NO",  # which would lie in the user's home, and show old tiles
    "CPL_VSIL_CURL_NON_CACHED": "/vsis3/",  # we write there ourselves: what was read before may have changed
}


@contextlib.contextmanager
def gdal_settings(*, cache: int | None = None, remote: bool = False) -> Iterator[None]:
    """Set up GDAL in this thread: safe, patient with servers, and with a block cache of `cache` bytes."""
    options: dict[str, object] = dict(_SETTINGS)
    if remote:
        options |= _REMOTE_SETTINGS | gdal_endpoint()
    options |= {} if cache is None else {"GDAL_CACHEMAX": cache}
    with rasterio.Env(**options):
        yield


def window_of(rows: Span, cols: Span) -> Window:
    """Return what rasterio calls these rows and columns."""
    return Window(cols.start, rows.start, cols.size, rows.size)


def alpha_bands(src: rasterio.DatasetReader) -> list[int]:
    """Return the 1-based numbers of bands that a raster calls alpha."""
    return [n for n, kind in zip(src.indexes, src.colorinterp, strict=True) if kind == ColorInterp.alpha]


def color_table(src: rasterio.DatasetReader, band: int) -> dict[int, tuple[int, int, int, int]]:
    """Return red, green, blue and opacity of a band's values; nothing if it has no colour table."""
    try:
        return dict(src.colormap(band))
    except ValueError:
        return {}


@dataclass(frozen=True, slots=True)
class Validity:
    """What says which pixels of a raster are valid."""

    alpha: int | None
    """1-based number of the alpha band: pixels are valid where it is above 0."""
    masks: tuple[int, ...]
    """1-based numbers of bands; one of GDAL's masks of them has to say so too. Empty where none has a say."""
    shared: bool
    """Whether GDAL's masks of the bands in use say the same, so that other programs see it."""

    @classmethod
    def of(cls, src: rasterio.DatasetReader, bands: Sequence[int]) -> "Validity":
        """Find out what decides for the bands in use, whose numbers count from 1.

        GDAL sees an alpha band only as the second or fourth of that many, and not at all beside a nodata
        value; and it asks all bands. Here an alpha band decides, unless it is in use as a colour, and what
        has the nodata value by chance is valid. Without one nothing but the bands in use counts. A mask of
        the whole raster always does. Of several alpha bands the last decides.
        """
        bands = tuple(dict.fromkeys(bands))
        alphas = [band for band in alpha_bands(src) if band not in bands]
        flags = [set(src.mask_flag_enums[band - 1]) for band in bands]
        silent = {MaskFlags.all_valid, MaskFlags.alpha, *([MaskFlags.nodata] if alphas else [])}
        has_say = not any(silent & said for said in flags)
        whole = MaskFlags.per_dataset in flags[0]
        seen = {MaskFlags.alpha in said for said in flags} == {bool(alphas)}
        masks = bands[: 1 if whole else None] if has_say else ()
        return cls(alphas[-1] if alphas else None, masks, seen)

    @property
    def decides(self) -> bool:
        """Whether anything says that pixels are not valid."""
        return self.alpha is not None or bool(self.masks)

    def read(
        self, src: rasterio.DatasetReader, window: Window | None = None, shape: tuple[int, int] | None = None
    ) -> Bools:
        """Return the ``(h, w)`` mask of a window, True where valid, in as many pixels as `shape` says."""
        height, width = shape or ((window.height, window.width) if window else src.shape)
        valid = np.ones((height, width), dtype=bool)
        if self.alpha is not None:
            alpha = src.read(self.alpha, window=window, out_shape=shape)
            valid &= (alpha > 0) | (alpha == -1)  # 65535, where it was written as a number with a sign
        if self.masks:
            masks = src.read_masks(self.masks, window=window, out_shape=(len(self.masks), height, width))
            valid &= masks.any(axis=0)
        return valid


@lru_cache(maxsize=64)
def crs_of(wkt: str | None) -> CRS | None:
    """Parse a CRS; None is no CRS, and stays so."""
    return None if wkt is None else CRS.from_wkt(wkt)


def horizontal(crs: CRS) -> CRS:
    """Leave out the heights of a CRS: a map has none, and not every file has a place for them."""
    with contextlib.suppress(*GDAL_ERRORS):  # one that has no other form stays as it is
        table = crs.to_dict(projjson=True)
        if (flat := _without_heights(table)) != table:
            crs = CRS.from_string(json.dumps(flat))
            known = CRS.from_epsg(crs.to_epsg() or 0)  # with its number, if it has one
            return known if known == crs else crs
    return crs


def _without_heights(table: dict[str, Any]) -> dict[str, Any]:
    """Take the third axis out of a CRS in PROJJSON, and those it is made of."""
    if "components" in table:
        return _without_heights(table["components"][0])
    flat = table | {key: _without_heights(table[key]) for key in ("base_crs", "source_crs") if key in table}
    system = table.get("coordinate_system", {})
    if len(system.get("axis", ())) > 2:
        flat["coordinate_system"] = system | {"axis": system["axis"][:2]}
        flat.pop("id", None)
    return flat


def geobox_of(src: rasterio.DatasetReader, location: Location) -> GeoBox:
    """Return the grid of a raster; a `SourceError` if it is not orthorectified, or of no usable place."""
    transform = tuple(float(v) for v in src.transform)[:6]
    if transform == IDENTITY:
        _refuse_unrectified(src, location.text)
    if not np.isfinite(transform).all() or transform[0] * transform[4] == transform[1] * transform[3]:
        raise SourceError(
            f"{location.text} has a transform {transform} that gives pixels no extent: correct it with "
            "gdal_edit.py -a_ullr"
        )
    try:
        crs = horizontal(src.crs).to_wkt() if src.crs else None
    except GDAL_ERRORS as error:
        raise SourceError(f"{location.text} has a CRS that cannot be read ({reason(error)})") from error
    a, b, c, d, e, f = transform
    made_up = max(abs(c), abs(f)) <= (0 if crs is None else 1) or (crs and (c, f) == (0, src.height))
    if made_up and sorted(map(abs, (a, b, d, e))) == [0, 0, 1, 1]:
        crs, transform = None, UNPLACED  # what stands where nothing is known: no CRS has a scene just there
    return GeoBox(src.width, src.height, crs, transform)  # type: ignore[arg-type]


def _refuse_unrectified(src: rasterio.DatasetReader, scene: str) -> None:
    """Refuse a scene without a transform whose pixels lie on no regular grid on the ground."""
    (points, crs), has, how, to = src.gcps, "a camera model (RPC)", "-rpc -to RPC_DEM=dem.tif", "EPSG:..."
    if points:
        has, how = f"{len(points)} ground control points", "-tps"
        to = crs.to_string() if crs is not None and crs.to_epsg() else to
    if points or src.rpcs is not None:
        raise SourceError(
            f"{scene} has {has} and no transform; an orthophoto is needed: orthorectify it first, with "
            f"gdalwarp {how} -r bilinear -t_srs {to} {scene} {Path(scene).stem}_ortho.tif"
        )


def open_raster(location: Location, **how: int) -> rasterio.DatasetReader:
    """Open a raster, for the caller to close, or raise a `SourceError`, also where it holds several."""
    try:
        with gdal_settings(remote=location.remote), quietly():
            src = rasterio.open(location.gdal, driver=location.driver or None, **how)
            name, inside = location.text, src.subdatasets
    except (*GDAL_ERRORS, ValueError) as error:
        raise not_opened(location, error) from error
    if not inside and src.driver != "GTI":
        return src
    src.close()
    if inside:
        some = f"{len(inside)} rasters; name one of them in its place: {few(inside, 5)}"
        raise SourceError(f"{name} holds {some}")
    raise SourceError(
        f"{name} is a tile index, and GDAL shows tiles of one that are missing as black, without a word: "
        f"make a virtual raster of it, with gdalbuildvrt {Path(name).stem}.vrt {name}"
    )


_heard = threading.local()
_ANSWER = re.compile(r"HTTP status code: (\d+), error: (.*)\.\s+Add the HTTP", re.DOTALL)
"""What GDAL says of a map server's answer, which it quotes, and of which codes may stand for empty tiles."""


def _hear(record: logging.LogRecord) -> bool:
    """Keep back that GDAL made up pixels in place of damaged ones, which it only warns of."""
    text = record.getMessage()
    if damaged := re.search("corrupt|premature|to avoid buffer overrun", text, re.IGNORECASE):
        _heard.damage = text
    return not damaged


logging.getLogger("rasterio._err").addFilter(_hear)


def _spelled(location: Location, number: int) -> Location:
    """Spell a path anew: files behind a VRT that did not open GDAL knows by that, and shows as black."""
    folder, name = os.path.split(location.gdal)
    way = f"{number:b}".replace("1", "/.").replace("0", "/")
    return replace(location, gdal=f"{folder or '.'}{way}/./{name}") if location.plain else location


class Steady:
    """An opened raster of which a place that could not be read once cannot be read later either.

    GDAL by itself gives black then, or what it read before: the raster is opened again. What is damaged is so
    too, also where GDAL makes something of it.
    """

    def __init__(self, location: Location, **how: int) -> None:
        spelled = map(partial(_spelled, location), count(1))
        self._again: Callable[[], Any] = lambda: open_raster(next(spelled), **how)
        self._src = open_raster(location, **how)
        self._waits = _WAITS if location.gdal.startswith("<") else ()

    def show(self, shown: Callable[[Any], Any]) -> None:
        """Read what this makes of the raster from now on."""
        again = self._again
        self._again, self._src = lambda: shown(again()), shown(self._src)

    def __getattr__(self, name: str) -> Any:
        if name not in ("read", "read_masks"):
            return getattr(self._src, name)

        def read(*arguments: Any, **named: Any) -> Any:
            waits = iter(self._waits)
            while True:
                _heard.damage = ""
                try:
                    got = getattr(self._src, name)(*arguments, **named)
                    if _heard.damage:
                        raise RasterioIOError(_heard.damage)
                    return got
                except GDAL_ERRORS as error:
                    self._src.close()
                    with contextlib.suppress(SourceError):  # else it stays closed, and cannot be read at all
                        self._src = self._again()
                    if (wait := next(waits, None)) is None:
                        if self._waits and (told := _ANSWER.search(str(error.__cause__))):
                            odd = {"0": told[2], "200": "its server answers with nothing"}
                            raise RasterioIOError(odd.get(told[1], f"its server answers {told[1]}")) from None
                        raise
                    time.sleep(wait)

        return read


@contextlib.contextmanager
def opened(location: Location) -> Iterator[rasterio.DatasetReader]:
    """Open a raster for one look at it, with GDAL set up for that; a `SourceError` where that fails."""
    with open_raster(location) as src, gdal_settings(remote=location.remote), quietly(), reading(location):
        yield src


@contextlib.contextmanager
def reading(location: Location) -> Iterator[None]:
    """Say of an opened raster that it cannot be read, as a `SourceError`."""
    try:
        yield
    except GDAL_ERRORS as error:
        raise SourceError(f"{location.text} cannot be read ({reason(error)})") from error
