"""Where a raster is, as the user wrote it and as GDAL opens it, why that cannot be; and where outputs go."""

import os
import re
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath, PurePosixPath
from urllib.error import HTTPError
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import unescape

import rasterio

from pfmap.core import bucket
from pfmap.core.errors import HIDDEN, UNSEEN, SourceError, TargetError, few, named, reason
from pfmap.core.files import in_bucket, is_there
from pfmap.core.resources import IMAGE, what_it_is
from pfmap.core.system import LOOK
from pfmap.core.web import asked

_URL = re.compile(r"(https?|s3|gs|az)://", re.IGNORECASE)
REMOTE = ("/vsicurl", "/vsis3", "/vsigs", "/vsiaz", "/vsiadls", "/vsioss", "/vsiswift", "/vsiwebhdfs")
"""How GDAL's names for what lies on servers begin."""

_SERVICE = re.compile(
    r"(?:WMTS|WMS):https?://|https?://[^{]*\{(?:z|x|-?y|q|quadkey|u|s|switch:[^}]*)\}", re.IGNORECASE
)
_LAYERS = re.compile(r"\b(?:layers?|styles?|time|elevation|map|tilematrix\w*|zoom_level)=[^&;,<\"\s]+", re.I)

_DESCRIBED = rb"<GDAL_WMT?S", "it describes a map service"

_ADDRESS = re.compile(r"(\w+):/{1,2}(?=\w)")  # a path object leaves one of two slashes
_COLONS = 9  # in GDAL's name of a raster inside a file, at most
_SIGNS = ("Content-Length", "Last-Modified", "ETag")

EXACT_SUFFIXES = frozenset({".tif", ".tiff", ".vrt", ".img", ".jp2", ".png", ".webp", ".bmp", ".gif"})
"""How the names of raster files end that keep values as they are, so that class rasters may be such."""

RASTER_SUFFIXES = EXACT_SUFFIXES | {".jpg", ".jpeg", ".ecw", ".sid"}

_DRIVERS = {
    ".ecw": "ECW", ".sid": "MrSID", ".jp2": "JP2OpenJPEG or JP2KAK or JP2ECW or JP2MrSID", ".nc": "netCDF",
    ".h5": "HDF5", ".hdf": "HDF4 or HDF5", ".jxl": "JPEGXL", ".heic": "HEIF",
}  # fmt: skip
"""GDAL's names of the drivers that open files of these endings; not every build of it has all."""

_ARCHIVES = frozenset({".tar", ".tgz", ".gz", ".7z", ".rar"})


_LITTER = frozenset({"@eadir", "__macosx", "#recycle", "$recycle.bin", "thumbs.db", "desktop.ini"})


def is_hidden(path: PurePath) -> bool:
    """Whether a file below a folder is none of the user's: hidden, or left there by a system or a server."""
    return any(part.startswith(".") or part.lower() in _LITTER for part in path.parts)


@dataclass(frozen=True, slots=True)
class Location:
    """A scene's place, as the user wrote it and as GDAL opens it."""

    text: str
    """As given, but for secrets; how messages and reports name it."""
    gdal: str = field(repr=False)
    remote: bool
    local: Path | None
    """The file on this machine that holds it, if there is one: the scene, or the archive around it."""
    driver: str = ""
    """The only format of GDAL's that it may have, where it was found and not named; or ""."""
    called: str = ""
    """What outputs are to be called where the scene's own name will not do, or ""."""
    service: bool = False
    """Whether it is a map service: a server's tiles or pictures, of which a part can be cut out."""

    @property
    def name(self) -> str:
        """The file's own name."""
        if self.plain:  # of any letters
            return Path(self.gdal).name
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
        scheme, _, rest = self.gdal.partition("://")
        if not _URL.match(self.gdal):
            return self.gdal
        return f"/vsicurl/{self.gdal}" if scheme.startswith("http") else f"/vsi{scheme}/{rest}"

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
    """Find out how to open a scene; a `SourceError` where there is nothing, or not one raster.

    It is a path; a URL (https, s3, gs, az); a `.zip` with one raster in it, or `archive.zip/raster.tif`; a
    map service, as ``https://host/{z}/{x}/{y}.png``, ``WMTS:https://...`` or a file that describes one for
    GDAL; or any of GDAL's own names, such as `/vsi...` or `NETCDF:file.nc:band`.
    """
    text = os.fspath(source)
    if (served := _served(text)) is not None:
        return served
    path = Path(text)
    try:
        if path.is_dir():
            raise SourceError(f"{text} is a folder: name a raster file in it")
        for archive in (path, *path.parents):
            if archive.suffix.lower() == ".zip" and archive.is_file():
                inner = path.relative_to(archive).as_posix() if path != archive else _only_raster(archive)
                name = f"/vsizip/{archive.resolve().as_posix()}/{inner}"
                return Location(text, name, remote=False, local=archive)
        if is_there(path):
            if not path.is_file():  # GDAL would wait for it for ever
                raise SourceError(f"{text} is a pipe or a device: a file is needed")
            gdal = f"./{text}" if re.match(r"\w{2,}:", text) else text  # GDAL would take NETCDF:a.tif apart
            other = path.suffix.lower() not in RASTER_SUFFIXES
            service = other and what_it_is(path, "", [_DESCRIBED]) == _DESCRIBED[1]
            return Location(text, gdal, remote=service, local=path, service=service)
        if (inside := _named_inside(text)) is not None:
            return inside
    except OSError as error:  # a name that is too long, a folder that is locked, a server that is gone
        raise SourceError(f"{text} cannot be reached ({error.strerror}): check the path") from error
    except ValueError as error:  # a name that no file can have
        raise SourceError(f"{text!r} is no usable path: {error}") from error
    raise SourceError(f"{text} does not exist: check the path")


def _served(text: str) -> Location | None:
    """Find out how to open what a server or a store has, by its address; None for all else."""
    if _SERVICE.match(text):
        address = text[text.index("http") :]
        layer = next((found[0].partition("=")[2] for found in _LAYERS.finditer(text)), "")
        words = [urlsplit(address).hostname or "tiles", layer]
        called = "_".join(re.sub(r"[^\w.-]+", "_", word) for word in words if word)
        shown = text.removesuffix(address) + named(address)
        return Location(shown, text, remote=True, local=None, called=called, service=True)
    if url := _URL.match(text):
        start = "/vsiaz/" if url[1].lower() == "az" else url[0].lower()  # rasterio's way knows no tokens
        return Location(named(text), start + text[url.end() :], remote=True, local=None)
    if text.startswith("/vsi"):
        return Location(named(text), text, remote=text.startswith(REMOTE), local=None)
    return None


def output_folder(name: str | os.PathLike[str]) -> Path:
    """Return where outputs go: a folder, or ``/vsis3/bucket/key``, also for ``s3://bucket/key``."""
    text = os.fspath(name).replace("\\", "/") if in_bucket(Path(name)) else os.fspath(name)
    address = _ADDRESS.match(text)
    if address and len(address[1]) > 1:  # a letter alone is a drive
        if address[1].lower() != "s3":
            raise TargetError(
                f"{text} cannot be written: outputs go into a folder, or into a bucket as s3://bucket/folder"
            )
        text = bucket.ROOT + text[address.end() :]
    if in_bucket(Path(text)):
        bucket.check(text)
    elif other := re.match(r"/vsi\w+", text):
        raise TargetError(
            f"{text} cannot be written: of GDAL's names for other places outputs can go to {bucket.ROOT}, "
            f"not to {other[0]}"
        )
    return Path(text)


def _only_raster(archive: Path) -> str:
    """Return the name of the only raster in an archive."""
    try:
        with zipfile.ZipFile(archive) as content:
            paths = {name: PurePosixPath(name) for name in content.namelist()}
            names = [n for n, p in paths.items() if p.suffix.lower() in RASTER_SUFFIXES and not is_hidden(p)]
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise SourceError(f"{archive} is not a zip archive that can be read ({error})") from error
    if len(names) != 1:
        some = f"{len(names)} rasters ({few(names)})" if names else "none"
        name = names[0] if names else "scene.tif"
        raise SourceError(f"{archive} holds {some}; one is needed: name it, such as {archive}/{name}")
    return names[0]


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
    asks = bool(re.match("WMT?S:", text, re.IGNORECASE))
    return Location(text, whole, remote=asks, local=Path(found), called=called, service=asks)


def ask_server(location: Location) -> dict[str, str]:
    """Ask a web server what it says of a scene before GDAL, which cannot be interrupted, is sent there.

    Returns its length, time of change and tag, as far as it tells; of what was cut out of a map service what
    that is called; a `SourceError` where nobody answers.
    """
    if location.gdal.startswith("<"):
        own = location.text if location.local is None else ""
        return {"service": " ".join([own, *_LAYERS.findall(location.gdal)])}
    if not location.gdal.startswith(("http://", "https://")):
        return {}
    if location.service:
        only = "only pfmap predict, batch and info cut a part out"
        raise SourceError(f"{location.text} is a map service: {only}")
    try:
        with asked(location.gdal, location.text, "HEAD") as answer:
            return {name: answer.headers[name] for name in _SIGNS if name in answer.headers}
    except HTTPError:
        return {}  # it answers; GDAL may know how to ask it, and says what is wrong if not


def _refusal(location: Location, error: Exception) -> str:
    """Say why a raster cannot be opened: what the system says of its file, or else what GDAL says."""
    if location.local is not None:
        try:
            file = os.open(location.local, LOOK)
            with open(file, "rb") as opened:  # noqa: PTH123 - of a number
                shown = re.search(rb"<SourceDataset[^>]*>([^<:]+)<", opened.read(1 << 20))
            if shown and not (path := location.local.parent / unescape(os.fsdecode(shown[1]))).exists():
                return f"it shows {path}, which is not there"
        except OSError as system:
            return str(system.strerror)
    return reason(error)


def not_opened(location: Location, error: Exception) -> SourceError:
    """Say why GDAL does not open a raster, as far as that can be told."""
    ending = PurePosixPath(location.name).suffix.lower()
    drivers, why = _DRIVERS.get(ending, ""), _refusal(location, error)
    gdals = why == reason(error) and not isinstance(error, UnicodeEncodeError)
    with rasterio.Env() as env:
        lacking = drivers and not set(drivers.split(" or ")) & set(env.drivers())
    if gdals and lacking:
        said = (
            f"is in a format that GDAL has no driver for here ({drivers}): convert it to GeoTIFF"
            " with a program that has one, such as QGIS"
        )
    elif gdals and ending in _ARCHIVES:
        said = f"is an archive: unpack it, or name the raster in it, as /vsitar/{location.text}/scene.tif"
    elif gdals and not location.remote:
        what = "not recognized" in why and what_it_is(location.gdal, IMAGE)
        said = f"is not a raster that GDAL can open ({what or why})"
    else:
        said = f"cannot be opened ({why})"
    return SourceError(f"{location.text} {said}")
