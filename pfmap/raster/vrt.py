"""GDAL's XML files: virtual rasters (VRT), and the side files in which the classes of a raster have names.

A virtual raster shows bands of other files as one raster; their pixels are read when it is read. A side file,
`<raster>.aux.xml`, holds what has no place in a GeoTIFF. Everything that pfmap writes in XML for GDAL, and
escapes for it, is written here.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree
from xml.sax.saxutils import escape  # for paths, which have to stay what they are

from pfmap.core.classes import ClassSpec
from pfmap.core.errors import xml_attribute, xml_text
from pfmap.core.files import template
from pfmap.core.grid import GeoBox, Span
from pfmap.raster.gdal import BLOCK

_XML = Path(__file__).parent / "xml"
_VALUES, _NAMES = "5", "2"
"""GDAL's numbers for the columns of an attribute table that hold values of the raster, and their names."""

Hidden = int | Literal["masked"] | None
"""Pixels that show what lies under them: those of a value, those that the file's mask leaves out, none."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A band of a file, at its place in a virtual raster."""

    path: str
    """What GDAL opens; from the folder of the virtual raster if `relative`."""
    rows: Span
    """Of the virtual raster; the file has as many."""
    cols: Span
    band: str = "1"
    """Its 1-based number; ``mask,1`` is the mask of band 1, 0 where that is not valid."""
    relative: bool = False
    hidden: Hidden = None


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
    overviews: Sequence[Path] = ()
    """Files of half its size, a quarter and so on, with the same bands."""
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
    for path in band.overviews:
        name = escape(str(path.resolve()))
        yield f'<Overview><SourceFilename relativeToVRT="0">{name}</SourceFilename>'
        yield f"<SourceBand>{number}</SourceBand></Overview>"
    yield "</VRTRasterBand>"


def _source(shown: Shown, dtype: str) -> str:
    kind, hidden = "SimpleSource", ""
    if shown.hidden is not None:
        kind, hidden = "ComplexSource", f"<NODATA>{shown.hidden}</NODATA>"
    if shown.hidden == "masked":
        hidden = "<UseMaskBand>true</UseMaskBand>"
    # It has the file's size and type, so that GDAL need not open 2,000 files to open one.
    fill, path = template(_XML / "source.xml"), escape(shown.path)
    return fill(shown=shown, path=path, kind=kind, dtype=dtype, block=BLOCK, hidden=hidden)


def _categories(classes: Sequence[ClassSpec]) -> list[str]:
    names = [f"<Category>{xml_text(spec.name)}</Category>" for spec in classes]
    return ["<CategoryNames>", *names, "</CategoryNames>"]


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
