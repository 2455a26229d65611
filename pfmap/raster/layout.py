"""How files are laid out that GDAL reads: virtual rasters (VRT), side files, and what a TIFF begins with.

A virtual raster shows bands of other files as one raster; their pixels are read when it is read. A side file,
`<raster>.aux.xml`, holds what has no place in a GeoTIFF. Everything that pfmap writes in XML for GDAL, and
escapes for it, is written here. A TIFF begins with directories, one of the raster and one of each overview:
tables of tags, which also say where in the file each compressed block lies.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from struct import calcsize, pack, unpack_from
from typing import Literal
from xml.etree import ElementTree
from xml.sax.saxutils import escape  # for paths, which have to stay what they are

import numpy as np
import rasterio
from rasterio.enums import Interleaving

from pfmap.core.arrays import Bools, Longs
from pfmap.core.classes import ClassSpec
from pfmap.core.errors import xml_attribute, xml_text
from pfmap.core.files import template
from pfmap.core.grid import GeoBox, Span
from pfmap.raster.gdal import BLOCK

_XML = Path(__file__).parent / "xml"
_VALUES, _NAMES = "5", "2"
"""GDAL's numbers for the columns of an attribute table that hold values of the raster, and their names."""

_COG = (
    b"GDAL_STRUCTURAL_METADATA_SIZE=000140 bytes\nLAYOUT=IFDS_BEFORE_DATA\nBLOCK_ORDER=ROW_MAJOR\n"
    b"BLOCK_LEADER=SIZE_AS_UINT4\nBLOCK_TRAILER=LAST_4_BYTES_REPEATED\nKNOWN_INCOMPATIBLE_EDITION=NO\n  "
)
"""What GDAL looks for behind the header of a cloud-optimised GeoTIFF."""
_REDUCED, _WIDTH, _HEIGHT, _OFFSETS, _SIZES, _NODATA = 254, 256, 257, 324, 325, 42113
_OF_THE_FILE = 33550
"""Tags from this number on are of the whole file, such as its place; nodata is of each directory."""
_LONG, _LONG8 = 4, 16
_BYTES = {1: 1, 2: 1, 3: 2, _LONG: 4, 12: 8}
"""Of one value of a tag, by its type."""

Places = Longs
"""``(n, 4)`` first row and the one after the last, columns likewise, of parts of a raster."""
NOWHERE: Places = np.empty((0, 4), dtype=np.int64)

Tags = Mapping[int, tuple[int, int, bytes]]
"""Of a TIFF's directory, by their numbers: type, count and values, little-endian."""

Hidden = int | Literal["masked"] | None
"""Pixels that show what lies under them: those of a value, those that the file's mask leaves out, none."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A band of a file, at its place in a virtual raster."""

    path: str
    """What GDAL opens; from the folder of the virtual raster if `relative`."""
    rows: Span
    """Of the virtual raster; the file has as many, and those `above`."""
    cols: Span
    band: str = "1"
    """Its 1-based number; ``mask,1`` is the mask of band 1, 0 where that is not valid."""
    relative: bool = False
    hidden: Hidden = None
    above: int = 0
    """Rows of the file above these."""


@dataclass(frozen=True, slots=True)
class Band:
    """A band of a virtual raster."""

    dtype: str
    """numpy's name of it, such as uint8."""
    color: str
    """What it is, as GDAL calls it: Red, Gray, Palette."""
    shown: Sequence[Shown]
    """The later ones lie over the earlier ones."""
    nodata: int | None = None
    classes: Sequence[ClassSpec] = ()
    name: str = ""
    """What is in it."""


def vrt(
    grid: GeoBox, bands: Sequence[Band], tags: Mapping[str, str], mask: Sequence[Shown] | None = None
) -> str:
    """Return the content of a VRT file with these bands, metadata and mask of all bands."""
    parts = [f'<VRTDataset rasterXSize="{grid.width}" rasterYSize="{grid.height}">']
    if grid.crs_wkt is not None:
        parts.append(f"<SRS>{xml_text(grid.crs_wkt)}</SRS>")
    if grid.georeferenced:
        a, b, c, d, e, f = grid.transform
        parts.append(f"<GeoTransform>{', '.join(repr(v) for v in (c, a, b, f, d, e))}</GeoTransform>")
    parts.append("<Metadata>")
    parts += [f"<MDI key={xml_attribute(key)}>{xml_text(value)}</MDI>" for key, value in tags.items()]
    parts.append("</Metadata>")
    for number, band in enumerate(bands, 1):
        parts += _band(band, number)
    if mask is not None:
        parts += ["<MaskBand>", *_band(Band("uint8", "Undefined", mask)), "</MaskBand>"]
    parts.append("</VRTDataset>")
    return "\n".join(parts)


def _band(band: Band, number: int = 0) -> Iterable[str]:
    dtype = "Byte" if band.dtype == "uint8" else band.dtype  # GDAL's other names differ in case only
    yield f'<VRTRasterBand dataType="{dtype}"' + f' band="{number}"' * bool(number) + ">"
    if band.name:
        yield f"<Description>{xml_text(band.name)}</Description>"
    if band.nodata is not None:
        yield f"<NoDataValue>{band.nodata}</NoDataValue>"
    yield f"<ColorInterp>{band.color}</ColorInterp>"
    if band.classes:
        yield from _categories(band.classes)
        yield "<ColorTable>"
        for red, green, blue in (spec.rgb for spec in band.classes):
            yield f'<Entry c1="{red}" c2="{green}" c3="{blue}" c4="255"/>'
        yield "</ColorTable>"
    for shown in band.shown:
        yield _source(shown, dtype)
    yield "</VRTRasterBand>"


def _source(shown: Shown, dtype: str) -> str:
    kind, hidden = "SimpleSource", ""
    if shown.hidden is not None:
        kind, hidden = "ComplexSource", f"<NODATA>{shown.hidden}</NODATA>"
    if shown.hidden == "masked":
        hidden = "<UseMaskBand>true</UseMaskBand>"
    # It has the file's size and type, so that GDAL need not open 2,000 files to open one.
    fill, path = template(_XML / "source.xml"), escape(shown.path)
    height = shown.above + shown.rows.size
    return fill(shown=shown, path=path, kind=kind, dtype=dtype, height=height, block=BLOCK, hidden=hidden)


def _categories(classes: Sequence[ClassSpec]) -> list[str]:
    names = [f"<Category>{xml_text(spec.name)}</Category>" for spec in classes]
    return ["<CategoryNames>", *names, "</CategoryNames>"]


def tiles(address: str, zoom: int, agent: str) -> str:
    """Describe for GDAL all Web Mercator tiles of a zoom, whose address has {z}, {x} and {y} or {-y}."""
    origin = "bottom" if "{-y}" in address else "top"
    said = escape(re.sub(r"{-?([zxy])}", r"${\1}", address))
    return template(_XML / "tiles.xml")(address=said, zoom=zoom, origin=origin, agent=agent)


def source_from_folder(text: str, name: str) -> str:
    """Have a VRT that GDAL wrote name its source from its own folder, so that both can be moved together."""
    tag = r'(<SourceDataset relativeToVRT=)"0">[^<]*'
    return re.sub(tag, lambda found: f'{found[1]}"1">{escape(name)}', text)


def side_file(classes: Sequence[ClassSpec], crs_wkt: str | None = None) -> str:
    """Name the classes of a raster, and its CRS if one is given, for GIS programs: what its side file holds.

    Some programs read GDAL's raster attribute table, others its category names.
    """
    system = "" if crs_wkt is None else f"<SRS>{escape(crs_wkt)}</SRS>"
    if not classes:
        return f"<PAMDataset>{system}</PAMDataset>"
    rows = []
    for index, spec in enumerate(classes):
        cells = "".join(f"<F>{xml_text(str(value))}</F>" for value in (index, spec.name, *spec.rgb))
        rows.append(f'<Row index="{index}">{cells}</Row>')
    fill, categories = template(_XML / "classes.xml"), "\n".join(_categories(classes))
    return fill(system=system, categories=categories, rows="\n".join(rows))


def class_names(path: Path, band: int) -> dict[int, str]:
    """Read class names by value from a side file, if it can be read: its attribute table, or categories."""
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError):
        return {}
    node = root.find(f"PAMRasterBand[@band='{band}']")
    if node is None:
        return {}
    categories = enumerate(node.findall("CategoryNames/Category"))
    return _from_table(node) or {value: name.text or "" for value, name in categories}


def _from_table(node: ElementTree.Element) -> dict[int, str]:
    """Read names from a raster attribute table whose first column holds values."""
    usages = [field.findtext("Usage") for field in node.findall("GDALRasterAttributeTable/FieldDefn")]
    names: dict[int, str] = {}
    if _NAMES not in usages or usages[0] not in {"0", _VALUES}:  # 0: of no stated use
        return names
    column = usages.index(_NAMES)
    for row in node.findall("GDALRasterAttributeTable/Row"):
        cells = [cell.text or "" for cell in row.findall("F")]
        try:
            names[int(float(cells[0]))] = cells[column]
        except (ValueError, IndexError):
            continue
    return names


def tags_of(tiff: bytes) -> Tags:
    """Read the first directory of a small TIFF."""
    (at,) = unpack_from("<I", tiff, 4)
    tags = {}
    for number in range(unpack_from("<H", tiff, at)[0]):
        tag, kind, count, content = unpack_from("<HHI4s", tiff, at + 2 + 12 * number)
        size = count * _BYTES[kind]
        if size > len(content):
            (start,) = unpack_from("<I", content)
            content = tiff[start : start + size]
        tags[tag] = kind, count, content[:size]
    return tags


def directory(
    head: Tags, shape: tuple[int, int], places: Sequence[tuple[int, int]], *, big: bool, reduced: bool
) -> Tags:
    """Return the directory of a raster, or of one `reduced`, that otherwise is what the `head` says.

    `places` are offset and size of each block in the file, which is a BigTIFF if it is `big`.
    """
    kept = {tag: said for tag, said in head.items() if not reduced or tag < _OF_THE_FILE or tag == _NODATA}
    offsets, sizes = zip(*places, strict=True)
    own = {_HEIGHT: shape[:1], _WIDTH: shape[1:], _OFFSETS: offsets, _SIZES: sizes}
    own |= {_REDUCED: (1,)} if reduced else {}
    for tag, values in own.items():
        kind, letter = (_LONG8, "Q") if big and tag == _OFFSETS else (_LONG, "I")
        kept[tag] = kind, len(values), pack(f"<{len(values)}{letter}", *values)
    return kept


def beginning(directories: Sequence[Tags], *, big: bool) -> bytes:
    """Return what a cloud-optimised GeoTIFF, or BigTIFF, has before its blocks: header and directories."""
    count, entry, place = ("<Q", "<HHQ", "<Q") if big else ("<H", "<HHI", "<I")
    room, first = calcsize(place), (16 if big else 8) + len(_COG)
    out = (pack("<2sHHHQ", b"II", 43, 8, 0, first) if big else pack("<2sHI", b"II", 42, first)) + _COG
    for number, tags in enumerate(directories, 1):
        end = len(out) + calcsize(count) + len(tags) * (calcsize(entry) + room) + room
        entries, further = pack(count, len(tags)), b""
        for tag, (kind, size, content) in sorted(tags.items()):
            entries += pack(entry, tag, kind, size)
            if len(content) > room:
                entries += pack(place, end + len(further))
                further += content + bytes(len(content) % 2)
            else:
                entries += content.ljust(room, b"\0")
        out += entries + pack(place, (end + len(further)) * (number < len(directories))) + further
    return out


def places_left(filled: Bools, ys: Sequence[int], xs: Sequence[int]) -> Places:
    """Return which of a ``(rows, columns)`` grid of cells with these edges are not filled, unless none is."""
    found: list[tuple[int, int, int, int]] = []
    for y, row in zip(pairwise(ys), ~filled, strict=True) if filled.any() else ():
        edges = np.flatnonzero(np.diff(row, prepend=False, append=False)).reshape(-1, 2)
        found += [(*y, xs[left], xs[right]) for left, right in edges]
    return np.array(found, dtype=np.int64).reshape(-1, 4)


def unwritten_places(src: rasterio.DatasetReader, bands: Sequence[int]) -> Places:
    """Return the tiles of a TIFF of which nobody wrote these bands; strips GDAL does not show as stored."""
    high, wide = src.block_shapes[0]
    if src.driver != "GTiff" or wide == src.width:
        return NOWHERE
    ys, xs = ([*range(0, size, step), size] for size, step in ((src.height, high), (src.width, wide)))
    look, bands = src.get_tag_item, bands[:1] if src.interleaving == Interleaving.pixel else bands
    names = [[f"BLOCK_OFFSET_{x}_{y}" for x in range(len(xs) - 1)] for y in range(len(ys) - 1)]
    filled = [[any(look(name, "TIFF", band) for band in bands) for name in row] for row in names]
    return places_left(np.array(filled), ys, xs)
