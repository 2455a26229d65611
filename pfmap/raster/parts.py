"""Which files a raster consists of, behind a virtual one (VRT) and beside any, and whether that may be.

GDAL itself shows black, without a word, where a file that is missing was asked for once, where a VRT shows no
file, and where nobody wrote a tile of a TIFF. And it opens whatever a file names: one that was found in a
folder, and not named by the user, must hold its own pixels.
"""

import math
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from glob import has_magic
from itertools import islice, pairwise, takewhile
from pathlib import Path, PurePath, PurePosixPath
from xml.etree import ElementTree

import numpy as np
import rasterio

from pfmap.core import bucket
from pfmap.core.errors import SourceError, few, quietly, reason
from pfmap.core.files import in_bucket
from pfmap.core.grid import Span
from pfmap.core.resources import IMAGE, what_it_is
from pfmap.raster.gdal import GDAL_ERRORS, gdal_settings
from pfmap.raster.layout import NOWHERE, Places, places_left, unwritten_places
from pfmap.raster.location import REMOTE, Location, is_hidden, locate, not_opened
from pfmap.raster.scene import SceneInfo

_FORMATS = {
    ".tif": "GTiff", ".tiff": "GTiff", ".img": "HFA", ".jp2": "JP2OpenJPEG", ".png": "PNG", ".webp": "WEBP",
    ".bmp": "BMP", ".gif": "GIF", ".jpg": "JPEG", ".jpeg": "JPEG", ".ecw": "ECW", ".sid": "MrSID",
}  # fmt: skip
"""GDAL's names of formats that hold their own pixels, by how the names of files end."""
_BESIDE = {".ovr": "GTiff", ".msk": "GTiff", ".aux": "HFA"}
"""How names of files end that GDAL opens beside a raster, and their formats: of other pixels, or notes."""
_TYPES = {"uint8": "Byte", "complex64": "CFloat32", "complex128": "CFloat64"}
"""GDAL's names of types that differ from numpy's in more than case."""
_LEFT = "a file in a folder that leads to others is left alone: name it, if it is to be read"
_ALL = Span(0, 1 << 60)
_DEEP = 8  # virtual rasters that show one another


@dataclass(frozen=True, slots=True)
class Gone:
    """A place of a raster that shows a file which is missing, or cannot be opened, or shows nothing."""

    name: str
    """Of the file, or ""."""
    rows: Span
    cols: Span

    def reaches(self, rows: Span, cols: Span) -> bool:
        """Whether it has some of these pixels."""
        return self.rows.clip(rows).size > 0 and self.cols.clip(cols).size > 0


@dataclass(frozen=True, slots=True)
class Parts:
    """The files behind a raster, where it is a virtual one, and behind those that it shows in turn."""

    files: frozenset[Path] = frozenset()
    """Those of this machine that are there, with their side files."""
    gone: tuple[Gone, ...] = ()
    """What is not there. What lies on servers is not looked for."""
    empty: Places = field(default_factory=NOWHERE.copy)
    """Where nothing is shown, for no file is named, or it is not there."""

    def near(self, rows: Span, cols: Span) -> list[Gone]:
        """Return what is not there of a part of the raster."""
        return [one for one in self.gone if one.reaches(rows, cols)]

    def pieces(
        self, rows: Span, cols: Span, scene: SceneInfo
    ) -> Iterator[tuple[Span, Span, tuple[int, int, int, int], bool]]:
        """Cut a part of a scene into pieces that lie in one block each, and wholly in what is there or gone.

        Each is rows and columns; column, row, width and height of the block or of what is gone; and whether
        it is there.
        """
        near, (high, wide) = self.near(rows, cols), scene.block
        whole = Span(0, scene.geobox.height), Span(0, scene.geobox.width)
        for y in _cut(rows, high, [one.rows for one in near]):
            for x in _cut(cols, wide, [one.cols for one in near]):
                top, left = y.start // high * high, x.start // wide * wide
                block = Gone("", Span(top, top + high).clip(whole[0]), Span(left, left + wide).clip(whole[1]))
                lost = next((one for one in near if one.reaches(y, x)), None)
                down, across = (lost or block).rows, (lost or block).cols
                yield y, x, (across.start, down.start, across.size, down.size), lost is None


def _cut(span: Span, block: int, others: Sequence[Span]) -> list[Span]:
    edges = {edge for other in others for edge in (other.start, other.stop)}
    edges |= {span.start, span.stop, *range(span.start // block * block, span.stop, block)}
    return [Span(*two) for two in pairwise(sorted(e for e in edges if span.start <= e <= span.stop))]


def find_parts(scene: SceneInfo, *, needed: bool) -> tuple[Parts, list[str]]:
    """Find the files behind a virtual raster of this machine, all bands' and masks', and where it shows none.

    Returns them, and what the user should know of them. A `SourceError` says that some are missing that are
    `needed`.
    """
    name, local = scene.name, scene.location.local
    parts = Parts() if local is None else _parts_of(local, _DEEP, scene.bands)
    gone = tuple(one for one in parts.gone if one.name)
    parts = Parts(parts.files, gone, _places(parts.gone))
    names = sorted({one.name for one in gone})
    files = f"{len(names)} file{'s' * (len(names) != 1)}"
    lack = f"{name} shows {files} that cannot be opened, or changed ({few(names, 5)})"
    if names and needed:
        raise SourceError(
            f"{lack}: put them back, or count their places as nodata with on_read_error='nodata'"
        )
    return parts, [f"{lack}: their places count as nodata"] * bool(names)


def _parts_of(path: Path, depth: int, bands: Sequence[int] = ()) -> Parts:
    """Look behind a VRT, of which these bands have to show something; by default any."""
    root = _virtual(path) if depth else None
    if root is None:
        return Parts()
    files: set[Path] = set()
    gone: dict[Gone, None] = dict.fromkeys(_not_shown(root, bands))
    found: dict[str, Parts] = {}
    for shown in root.iter():
        for source in (*shown.findall("SourceFilename"), *shown.findall("SourceDataset")):
            if not source.text or shown.tag == "Overview":
                continue
            beside = source.get("relativeToVRT") == "1"
            name = str(path.parent / source.text) if beside else source.text
            if name not in found:
                raw = shown.get("subClass") == "VRTRawRasterBand" or shown.find("OpenOptions") is not None
                found[name] = _part(name, depth, shown.find("SourceProperties"), raw=raw)
                files |= found[name].files
            for one in found[name].gone:
                rows, cols = _shown_at(root, shown, "y", one.rows), _shown_at(root, shown, "x", one.cols)
                if rows.size > 0 and cols.size > 0:
                    gone[Gone(one.name, rows, cols)] = None
    return Parts(frozenset(files), tuple(gone))


def _not_shown(root: ElementTree.Element, bands: Sequence[int]) -> list[Gone]:
    """Return the places of a VRT in which none of these bands, or of all, shows a file."""
    every = root.findall("VRTRasterBand")
    chosen = [every[band - 1] for band in bands if band <= len(every)] or every
    if any(one.get("subClass") for one in (root, *chosen)):
        return []  # made of others in other ways
    height, width = int(root.attrib["rasterYSize"]), int(root.attrib["rasterXSize"])
    shown = [one for band in chosen for one in band if one.find("SourceFilename") is not None]
    spans = [Gone("", *(_shown_at(root, one, axis, _ALL) for axis in "yx")) for one in shown]
    places = _places(spans).clip(0, [height, height, width, width])
    ys, xs = np.unique([0, height, *places[:, :2].flat]), np.unique([0, width, *places[:, 2:].flat])
    filled = np.zeros((len(ys) - 1, len(xs) - 1), dtype=bool)
    cells = *np.searchsorted(ys, places[:, :2]).T, *np.searchsorted(xs, places[:, 2:]).T
    for top, bottom, left, right in zip(*cells, strict=True):
        filled[top:bottom, left:right] = True
    return _nothing_at(places_left(filled, ys.tolist(), xs.tolist()))


def _nothing_at(places: Places) -> list[Gone]:
    return [Gone("", Span(*place[:2]), Span(*place[2:])) for place in places.tolist()]


def _places(gone: Iterable[Gone]) -> Places:
    found = [(one.rows.start, one.rows.stop, one.cols.start, one.cols.stop) for one in gone]
    return np.array(found, dtype=np.int64).reshape(-1, 4)


def _virtual(path: Path) -> ElementTree.Element | None:
    """Return the content of a VRT; None if it is none that can be made sense of: GDAL says why."""
    try:
        with path.open("rb") as file:
            if not file.read(64).lstrip().startswith(b"<VRTDataset"):
                return None
        root = ElementTree.parse(path).getroot()
        int(root.attrib["rasterXSize"]), int(root.attrib["rasterYSize"])
    except (OSError, ValueError, KeyError, ElementTree.ParseError):
        return None
    return root


def _part(name: str, depth: int, said: ElementTree.Element | None, *, raw: bool) -> Parts:
    """Look for a file that a VRT shows, and behind it; a `raw` one, without a header, has to be there.

    GDAL believes what is `said` of its size and type, and shows black where it became smaller since.
    """
    path, missing = Path(name), Parts(gone=(Gone(name, _ALL, _ALL),))
    if name.startswith(REMOTE) or "://" in name:
        return Parts()
    if raw:
        return Parts(frozenset({path})) if path.exists() else missing
    if _virtual(path) is not None:
        behind = _parts_of(path, depth - 1)
        return Parts(behind.files | {path}, behind.gone)
    try:
        with quietly(), rasterio.open(name) as src:
            kind = _TYPES.get(src.dtypes[0], src.dtypes[0])
            is_so = {"RasterXSize": str(src.width), "RasterYSize": str(src.height), "DataType": kind}
            other = said is not None and any(said.get(k, v).lower() != v.lower() for k, v in is_so.items())
            if other or src.driver == "GTI":  # of which GDAL shows missing tiles as black
                return missing
            unwritten = _nothing_at(unwritten_places(src, src.indexes))
            return Parts(frozenset(Path(file) for file in src.files), tuple(unwritten))
    except GDAL_ERRORS:
        return missing


def _shown_at(root: ElementTree.Element, shown: ElementTree.Element, axis: str, part: Span) -> Span:
    """Return which rows (y) or columns (x) of a VRT show some of a file: all, if that cannot be told."""
    whole = Span(0, int(root.attrib["rasterYSize" if axis == "y" else "rasterXSize"]))
    try:
        (start, size), (first, count) = (
            (0.0, 0.0)
            if rect is None
            else (float(rect.get(f"{axis}Off", 0)), float(rect.get(f"{axis}Size", 0)))
            for rect in (shown.find("SrcRect"), shown.find("DstRect"))
        )
        count = count or whole.size
        low, high = first, first + count
        if size and part != _ALL:
            low, high = (first + (edge - start) * count / size for edge in (part.start, part.stop))
            low, high = max(low, first), min(high, first + count)
        return Span(math.floor(low), math.ceil(high)).clip(whole)
    except (ValueError, OverflowError):  # GDAL reads what begins as a number, and takes the rest for 0
        return whole


def found_file(path: Path, pattern: str = "") -> Location:
    """Locate a raster that was found in a folder; a `pattern` that ends as its name does names it."""
    ending = path.suffix.lower()
    named = ending not in _FORMATS and ending and pattern.lower().endswith(ending)
    kind = _FORMATS.get(ending, ending or "none")
    return locate(path) if named else replace(locate(path), driver=kind, service=False)


def found_rasters(folder: Path, pattern: str = "*", endings: Collection[str] = ()) -> list[Path]:
    """Find rasters in a folder, by a pattern or by how their names end, in order; hidden files are none.

    A `SourceError` says that the folder cannot be searched, or that one of them leads to other files.
    """
    steps = PurePath(pattern).parts
    named = tuple(takewhile(lambda step: not has_magic(step), steps))

    def locked(error: OSError) -> None:  # of which a pattern would find nothing
        if not isinstance(error, FileNotFoundError):
            raise SourceError(f"{error.filename} cannot be searched ({error.strerror})") from error

    for _ in islice(os.walk(folder.joinpath(*named), onerror=locked), 1 if steps[:-1] == named else None):
        pass
    there = (path for path in folder.glob(pattern) if path.is_file() and not is_hidden(PurePath(path.name)))
    found = sorted(path for path in there if not endings or path.suffix.lower() in endings)
    for path in found:
        if (location := found_file(path, pattern)).driver:
            refuse_pointers(location)
    return found


def refuse_pointers(location: Location) -> None:
    """Refuse a raster of a folder that opens others, or is not as its name says, without opening those."""
    if location.driver not in _FORMATS.values():
        raise SourceError(f"{location.text} may show other files; {_LEFT}")
    path = Path(location.gdal)
    if (to := path.resolve()).parent != path.parent.resolve() and not location.remote:
        raise SourceError(f"{location.text} is a link to {to}; {_LEFT}")
    for name in (*_beside(location), location.name):  # itself last: to list its files GDAL opens the others
        _refuse_elsewhere(location, name)


def _refuse_elsewhere(location: Location, name: str) -> None:
    """Refuse a raster, or a file beside it, that is not as its name says, or takes pixels from elsewhere."""
    own, home = name == location.name, Path(location.gdal).parent
    path, what = str(home / name), location.text if own else f"{location.text}: {name} beside it"
    kind = location.driver if own else _BESIDE[path[-4:].lower()]
    try:
        with gdal_settings(remote=location.remote), quietly(), rasterio.open(path, driver=kind) as src:
            points = "OVERVIEW_FILE" in src.tags(ns="OVERVIEWS")
            files = () if points or location.remote else src.files[1:] if own else (path,)
    except UnicodeEncodeError as error:
        raise not_opened(location, error) from error
    except GDAL_ERRORS as error:
        why = what_it_is(path, IMAGE) or reason(error)
        raise SourceError(
            f"{what} is not a raster that GDAL can open as {kind} ({why}); files of a folder are read as "
            "their names say: name it by itself, if it is of another format"
        ) from error
    if points or any(Path(file).resolve().parent != home.resolve() for file in files):
        raise SourceError(f"{what} takes pixels from elsewhere; {_LEFT}")


def _beside(location: Location) -> list[str]:
    """Return the names of files that GDAL would read pixels from beside this one."""
    home, stem = Path(location.gdal).parent, PurePosixPath(location.name).stem
    names = bucket.names(home, stem) if in_bucket(home) else [file.name for file in os.scandir(home)]
    own = f"{location.name.lower()}.", f"{stem.lower()}.aux"
    return [name for name in names if name.lower().startswith(own) and name[-4:].lower() in _BESIDE]
