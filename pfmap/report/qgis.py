"""QGIS projects (`.qgz`): layers in order, named and styled, that open with a double click."""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from pfmap.core.classes import HEAD

_NEW = (1980, 1, 1, 0, 0, 0)
"""Date of the project inside the archive: the same run gives the same bytes."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of a project."""

    name: str
    """As the legend says it; names of a project's layers differ."""
    source: str
    """What GDAL opens, relative to the project's folder where it begins with a dot; with ``|layername=`` for
    a layer in a file."""
    style: str
    """As `pfmap.core.classes` makes it; empty for QGIS's own choice."""
    crs: str | None
    """WKT, or authority and code such as EPSG:4326; None without a CRS."""
    vector: bool = False
    """Whether it holds polygons, not pixels."""
    shown: bool = True
    """Whether it is switched on."""

    @property
    def key(self) -> str:
        """What it is called inside the project: QGIS loses layers whose key is short."""
        return f"pfmap_layer_{self.name}"


def qgis_project(
    title: str, layers: Sequence[Layer], crs: str | None, extent: tuple[float, float, float, float]
) -> bytes:
    """Make the content of a `.qgz` file.

    Args:
        title: of the project.
        layers: the topmost first.
        crs: WKT of the map's CRS, or None.
        extent: xmin, ymin, xmax, ymax that are in view, in that CRS.
    """
    root = ET.Element("qgis", version="3.22", projectname=title)
    ET.SubElement(root, "title").text = title
    _add_crs(ET.SubElement(root, "projectCrs"), crs)
    canvas = ET.SubElement(root, "mapcanvas", name="theMapCanvas")
    box = ET.SubElement(canvas, "extent")
    for name, value in zip(("xmin", "ymin", "xmax", "ymax"), extent, strict=True):
        ET.SubElement(box, name).text = repr(value)
    _add_crs(ET.SubElement(canvas, "destinationsrs"), crs)
    tree = ET.SubElement(root, "layer-tree-group")
    inside = ET.SubElement(root, "projectlayers")
    for layer in layers:
        ET.SubElement(
            tree,
            "layer-tree-layer",
            id=layer.key,
            name=layer.name,
            source=layer.source,
            providerKey="ogr" if layer.vector else "gdal",
            checked="Qt::Checked" if layer.shown else "Qt::Unchecked",
            expanded="1" if layer.shown else "0",
        )
        inside.append(_map_layer(layer))
    # Without this QGIS does not read the project's CRS.
    properties = ET.SubElement(ET.SubElement(root, "properties"), "SpatialRefSys")
    ET.SubElement(properties, "ProjectionsEnabled", type="int").text = "1"
    text = HEAD + ET.tostring(root, "unicode")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        entry = zipfile.ZipInfo("project.qgs", _NEW)
        archive.writestr(entry, text, zipfile.ZIP_DEFLATED)
    return file.getvalue()


def _map_layer(layer: Layer) -> ET.Element:
    kind = {"type": "vector", "geometry": "Polygon"} if layer.vector else {"type": "raster"}
    # A style is several elements side by side: it gets a root to be read.
    element = ET.fromstring(f"<maplayer>{layer.style}</maplayer>")
    element.attrib.update(kind)
    ET.SubElement(element, "id").text = layer.key
    ET.SubElement(element, "datasource").text = layer.source
    ET.SubElement(element, "layername").text = layer.name
    ET.SubElement(element, "provider", encoding="UTF-8").text = "ogr" if layer.vector else "gdal"
    _add_crs(ET.SubElement(element, "srs"), layer.crs)
    return element


def _add_crs(parent: ET.Element, crs: str | None) -> None:
    system = ET.SubElement(parent, "spatialrefsys")
    if crs is not None:
        ET.SubElement(system, "authid" if crs.startswith("EPSG:") else "wkt").text = crs
