"""GDAL's settings and errors, the same wherever a scene is read."""

import contextlib
from collections.abc import Iterator

import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

from pfmap.core.bucket import gdal_endpoint

GDAL_ERRORS = (RasterioError, CPLE_BaseError)
"""What rasterio raises when GDAL fails: mostly its own errors, from a few properties GDAL's."""

# Never run code that a raster names, ask a server again, give up on a dead one, look for side files by name
# instead of listing a bucket.
_SETTINGS = {"GDAL_VRT_ENABLE_PYTHON": "NO", "GDAL_DISABLE_READDIR_ON_OPEN": "FALSE"}
_REMOTE_SETTINGS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE",
    "GDAL_HTTP_MAX_RETRY": "3",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_HTTP_LOW_SPEED_TIME": "30",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1",
    "CPL_VSIL_CURL_NON_CACHED": "/vsis3/",  # we write there ourselves: what was read before may have changed
}


@contextlib.contextmanager
def gdal_settings(*, cache: int | None = None, remote: bool = False) -> Iterator[None]:
    """Set up GDAL in this thread: safe, patient with servers, and with a block cache of `cache` bytes."""
    options: dict[str, object] = dict(_SETTINGS)
    if remote:
        options |= _REMOTE_SETTINGS | gdal_endpoint()
    if cache is not None:
        options["GDAL_CACHEMAX"] = cache
    with rasterio.Env(**options):
        yield


def reason(error: Exception) -> str:
    """Return GDAL's own word, which rasterio keeps as the cause, on one line."""
    return " ".join(str(error.__cause__ or error).split())
