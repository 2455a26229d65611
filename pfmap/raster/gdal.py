"""How GDAL is set up, told where a raster is, and understood when it fails, and which pixels it has.

The same wherever a raster is read.
"""

import base64
import contextlib
import http.client
import os
import re
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import CRSError, RasterioError
from rasterio.windows import Window

from pfmap.core.bucket import gdal_endpoint
from pfmap.core.errors import HIDDEN, UNSEEN, SourceError, named, quietly, reason
from pfmap.core.files import is_hidden
from pfmap.core.grid import Span

GDAL_ERRORS = (RasterioError, CRSError, CPLE_BaseError, UnicodeDecodeError)
"""What rasterio raises when GDAL fails: mostly its own errors, from a few properties GDAL's, and the last one
where GDAL quotes bytes of a file that are no text."""

BLOCK = 512
"""Side of the tiles of all rasters that are written, pixels."""

# Never run code that a raster names, read where a TIFF's tiles are at once (a disk that fails later would end
# the process: libtiff 4.7 asserts), ask a server again, give up on a dead one, look for side files by name
# instead of listing a bucket.
_SETTINGS = {
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    "GDAL_DISABLE_READDIR_ON_OPEN": "FALSE",
    "GTIFF_IGNORE_READ_ERRORS": "NO",  # and have what is damaged count as black
    "GTIFF_USE_DEFER_STRILE_LOADING": "NO",
}
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


def window_of(rows: Span, cols: Span) -> Window:
    """Return what rasterio calls these rows and columns."""
    return Window(cols.start, rows.start, cols.size, rows.size)


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
        the whole raster always does.
        """
        bands = tuple(dict.fromkeys(bands))
        kinds = zip(src.indexes, src.colorinterp, strict=True)
        alphas = [band for band, kind in kinds if kind == ColorInterp.alpha and band not in bands]
        flags = [set(src.mask_flag_enums[band - 1]) for band in bands]
        silent = {MaskFlags.all_valid, MaskFlags.alpha, *([MaskFlags.nodata] if alphas else [])}
        has_say = not any(silent & said for said in flags)
        whole = MaskFlags.per_dataset in flags[0]
        seen = {MaskFlags.alpha in said for said in flags} == {bool(alphas)}
        masks = bands[: 1 if whole else None] if has_say else ()
        return cls(alphas[-1] if alphas else None, masks, seen)

    def read(
        self, src: rasterio.DatasetReader, window: Window | None = None, shape: tuple[int, int] | None = None
    ) -> npt.NDArray[np.bool_]:
        """Return the ``(h, w)`` mask of a window, True where valid, in as many pixels as `shape` says."""
        height, width = shape or ((window.height, window.width) if window else src.shape)
        valid = np.ones((height, width), dtype=bool)
        if self.alpha is not None:
            valid &= src.read(self.alpha, window=window, out_shape=shape) > 0
        if self.masks:
            masks = src.read_masks(self.masks, window=window, out_shape=(len(self.masks), height, width))
            valid &= masks.any(axis=0)
        return valid


@lru_cache(maxsize=64)
def crs_of(wkt: str | None) -> CRS | None:
    """Parse a CRS; None is no CRS, and stays so."""
    return None if wkt is None else CRS.from_wkt(wkt)


_URL = re.compile(r"(https?|s3|gs|az)://", re.IGNORECASE)
REMOTE = ("/vsicurl", "/vsis3", "/vsigs", "/vsiaz", "/vsiadls", "/vsioss", "/vsiswift", "/vsiwebhdfs")
"""How GDAL's names for what lies on servers begin."""

_PREFIXES = {
    "http": "/vsicurl/http://",
    "https": "/vsicurl/https://",
    "s3": "/vsis3/",
    "gs": "/vsigs/",
    "az": "/vsiaz/",
}
_COLONS = 9  # in GDAL's name of a raster inside a file, at most
_PATIENCE = 20.0  # seconds
_SIGNS = ("Content-Length", "Last-Modified", "ETag")

EXACT_SUFFIXES = frozenset({".tif", ".tiff", ".vrt", ".img", ".jp2", ".png", ".webp", ".bmp", ".gif"})
"""How the names of raster files end that keep values as they are, so that class rasters may be such."""

RASTER_SUFFIXES = EXACT_SUFFIXES | {".jpg", ".jpeg", ".ecw", ".sid"}
"""How the names of raster files end."""


@dataclass(frozen=True, slots=True)
class Location:
    """A scene's place, as the user wrote it and as GDAL opens it."""

    text: str
    """As given, but for secrets; how messages and reports name it."""
    gdal: str = field(repr=False)
    """What GDAL opens."""
    remote: bool
    """Whether it is reached over the network."""
    local: Path | None
    """The file on this machine that holds it, if there is one: the scene, or the archive around it."""
    driver: str = ""
    """The only format of GDAL's that it may have, where it was found and not named; or ""."""
    called: str = ""
    """What outputs are to be called where the scene's own name will not do, or ""."""

    @property
    def name(self) -> str:
        """The file's own name."""
        path, _, query = self.gdal.partition("?")
        if re.fullmatch(r"/vsi\w+", path):
            path = parse_qs(query).get("url", [path])[0].partition("?")[0]
        return PurePosixPath(path.replace("\\", "/")).name

    @property
    def stem(self) -> str:
        """The name that outputs begin with."""
        return self.called or UNSEEN.sub("_", PurePosixPath(self.name).stem)

    @property
    def unfit(self) -> str:
        """Why no file that pfmap writes may tell programs to open it, or ""."""
        if self.local is None and HIDDEN in self.text:
            return "its address holds a secret"
        return "its name has characters that XML does not have" if UNSEEN.search(self.gdal) else ""

    @property
    def folder(self) -> Path:
        """Where outputs go by default: beside the scene, or here if it is not on this machine."""
        return self.local.parent if self.local is not None else Path()

    @property
    def vsi(self) -> str:
        """The name by which programs that use GDAL know it, which need not take addresses."""
        scheme, separator, rest = self.gdal.partition("://")
        return f"{_PREFIXES[scheme]}{rest}" if separator and scheme in _PREFIXES else self.gdal

    @property
    def plain(self) -> bool:
        """Whether it is a file of this machine that GDAL opens by its path, not one inside another."""
        return self.local is not None and Path(self.gdal) == self.local

    def absolute(self) -> "Location":
        """Name a file of this machine by its whole path, as processes with another folder have to."""
        if self.local is None:
            return self
        if not self.plain:  # GDAL's names for what is inside a file have its whole path
            return replace(self, local=self.local.absolute())
        path = self.local.absolute()
        return replace(self, text=str(path), gdal=str(path), local=path)


def locate(source: str | os.PathLike[str]) -> Location:
    """Find out how to open a scene.

    Args:
        source: a path; a URL (https, s3, gs, az); a `.zip` with one raster in it, or
            `archive.zip/raster.tif`; or any of GDAL's own names, such as `/vsi...` or `NETCDF:file.nc:band`.

    Raises:
        SourceError: there is nothing, or not one raster.
    """
    text = os.fspath(source)
    if text.startswith("\\vsi"):  # a path object on Windows
        text = text.replace("\\", "/")
    if url := _URL.match(text):
        return Location(named(text), url[0].lower() + text[url.end() :], remote=True, local=None)
    if text.startswith("/vsi"):
        return Location(named(text), text, remote=text.startswith(REMOTE), local=None)
    path = Path(text)
    try:
        if path.is_dir():
            raise SourceError(f"{text} is a folder: name a raster file in it")
        for archive in (path, *path.parents):
            if archive.suffix.lower() == ".zip" and archive.is_file():
                inner = path.relative_to(archive).as_posix() if path != archive else _only_raster(archive)
                return Location(text, f"/vsizip/{archive.resolve()}/{inner}", remote=False, local=archive)
        if path.exists():
            return Location(text, text, remote=False, local=path)
        if (inside := _named_inside(text)) is not None:
            return inside
    except OSError as error:  # a name that is too long, a folder that is locked, a server that is gone
        raise SourceError(f"{text} cannot be reached ({error.strerror}): check the path") from error
    except ValueError as error:  # a name that no file can have
        raise SourceError(f"{text!r} is no usable path: {error}") from error
    raise SourceError(f"{text} does not exist: check the path")


def _named_inside(text: str) -> Location | None:
    """Understand GDAL's name of a raster inside a file, such as NETCDF:"a.nc":band; None if it is none."""
    if not re.match(r"\w{2,}:", text) or text.count(":") > _COLONS:
        return None
    pieces = re.split('[:"]', text)[1:]
    runs = {":".join(pieces[i:j]) for i in range(len(pieces)) for j in range(i + 1, len(pieces) + 1)}
    found = max((run for run in runs if run and Path(run).exists()), key=len, default="")
    if not found:
        return None
    around = text.partition(":")[2].replace(found, "", 1)
    called = "_".join([Path(found).stem, *re.findall(r"\w+", around)])
    whole = text.replace(found, str(Path(found).absolute()), 1)
    return Location(text, whole, remote=False, local=Path(found), called=called)


def refuse_container(src: rasterio.DatasetReader, name: str) -> None:
    """Refuse a file of several rasters of which none is named.

    Raises:
        SourceError: it is one.
    """
    inside = src.subdatasets
    if inside:
        some = ", ".join(inside[:5]) + ", ..." * (len(inside) > 5)
        raise SourceError(f"{name} holds {len(inside)} rasters; name one of them in its place: {some}")


class Steady:
    """An opened raster of which a place that could not be read once cannot be read later either.

    GDAL by itself gives black then, or what it read before: the raster is opened again.

    Args:
        open_again: opens it.
    """

    def __init__(self, open_again: Callable[[], Any]) -> None:
        self._open_again, self._src = open_again, open_again()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._src, name)
        if name not in ("read", "read_masks", "dataset_mask"):
            return value

        def read(*arguments: Any, **named: Any) -> Any:
            try:
                return value(*arguments, **named)
            except GDAL_ERRORS:
                self._src.close()
                self._src = self._open_again()
                raise

        return read


def refusal(location: Location, error: Exception) -> str:
    """Say why a raster cannot be opened: what the system says of its file, or else what GDAL says."""
    if isinstance(error, UnicodeEncodeError):
        known = sys.getfilesystemencoding()
        return f"its name is not {known}: rename it" + ", or set PYTHONUTF8=1" * (known != "utf-8")
    if location.local is not None and sys.platform != "win32":
        try:
            file = os.open(location.local, os.O_RDONLY | os.O_NONBLOCK)
            with open(file, "rb") as opened:  # noqa: PTH123 - of a number
                opened.read(1)
        except OSError as system:
            return str(system.strerror)
    return reason(error)


@contextlib.contextmanager
def opened(source: Location | Path) -> Iterator[rasterio.DatasetReader]:
    """Open a raster for one look at it, with GDAL set up for that.

    Raises:
        SourceError: it cannot be opened or, within the block, be read.
    """
    if isinstance(source, Path):
        source = Location(str(source), str(source), remote=False, local=source)
    try:
        with gdal_settings(remote=source.remote), quietly(), rasterio.open(source.gdal) as src:
            refuse_container(src, source.text)
            yield src
    except (*GDAL_ERRORS, UnicodeError) as error:
        raise SourceError(f"{source.text} cannot be read ({refusal(source, error)})") from error


def ask_server(location: Location) -> dict[str, str]:
    """Ask a web server what it says of a scene before GDAL, which cannot be interrupted, is sent there.

    Returns:
        Its length, time of change and tag, as far as the server tells; nothing for other places.

    Raises:
        SourceError: nobody answers.
    """
    if not location.gdal.startswith(("http://", "https://")):
        return {}
    try:
        parts = urlsplit(location.gdal)
        user, _, host = parts.netloc.rpartition("@")
        request = urllib.request.Request(parts._replace(netloc=host).geturl(), method="HEAD")
        if user:
            token = base64.b64encode(unquote(user).encode()).decode()
            request.add_unredirected_header("Authorization", f"Basic {token}")
        with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
            return {name: answer.headers[name] for name in _SIGNS if name in answer.headers}
    except urllib.error.HTTPError:
        return {}  # it answers; GDAL may know how to ask it, and says what is wrong if not
    except (OSError, ValueError, http.client.HTTPException) as error:
        why = getattr(error, "reason", error)
        raise SourceError(
            f"{location.text} cannot be opened (the server does not answer: {why}): check the address and "
            "the network"
        ) from error


def _only_raster(archive: Path) -> str:
    """Return the name of the only raster in an archive."""
    try:
        with zipfile.ZipFile(archive) as content:
            paths = {name: PurePosixPath(name) for name in content.namelist()}
            names = [n for n, p in paths.items() if p.suffix.lower() in RASTER_SUFFIXES and not is_hidden(p)]
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise SourceError(f"{archive} is not a zip archive that can be read ({error})") from error
    if len(names) != 1:
        found = (
            f"{len(names)} rasters ({', '.join(names[:3])}{', ...' * (len(names) > 3)})" if names else "none"
        )
        raise SourceError(
            f"{archive} holds {found}; one is needed: name it, such as {archive}/"
            f"{names[0] if names else 'scene.tif'}"
        )
    return names[0]
