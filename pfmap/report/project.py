"""QGIS projects (`.qgz`): layers in order, named and styled, that open with a double click."""

import io
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape  # for paths, which have to stay what they are

from pfmap.core.classes import HEAD, PERCENT, ClassSpec, class_raster_style, objects_style, percent_style
from pfmap.core.errors import xml_attribute
from pfmap.core.files import in_bucket, template
from pfmap.core.grid import GeoBox
from pfmap.raster.location import Location
from pfmap.vector.formats import LAYER

_PREFERRED = ("gpkg", "fgb", "shp", "geojson", "parquet", "pmtiles")
"""QGIS is quickest with the first; not every build of it opens the last two."""

_OPACITY = 0.3
"""Of the class raster: the scene below it and the polygons above it stay in sight."""

_XML = Path(__file__).parent / "xml"


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


@dataclass(frozen=True, slots=True)
class Map:
    """What was made of a scene or a survey; its files lie beside the project."""

    stem: str
    """What the layers' names begin with."""
    files: Mapping[str, Sequence[Path]]
    """By kind: the rasters and the vector formats."""
    geobox: GeoBox
    classes: Sequence[ClassSpec]
    wanted: Sequence[int]
    """Indices of the classes that become polygons."""
    formats: Sequence[str]
    split_by_class: bool


def map_project(made: Map, below: Sequence[Layer] = ()) -> bytes:
    """Make the content of the `.qgz` file that opens what was made, and layers below it."""
    stem, crs = made.stem, made.geobox.crs_wkt
    layers = list(_objects(made))
    for kind in PERCENT:
        if kind in made.files:
            source = f"./{made.files[kind][0].name}"
            layers.append(Layer(f"{stem} {kind}", source, percent_style(), crs, shown=False))
    source = f"./{made.files['classes'][0].name}"
    layers.append(Layer(f"{stem} classes", source, class_raster_style(made.classes, _OPACITY), crs))
    return _project(stem, [*layers, *below], crs, made.geobox.bounds)


def _objects(made: Map) -> Iterator[Layer]:
    """Yield the layers of one vector format: one for each file."""
    wanted = [made.classes[index] for index in made.wanted]
    kind = next(kind for kind in _PREFERRED if kind in made.formats)
    fixed = {"geojson": "EPSG:4326", "pmtiles": "EPSG:3857"}.get(kind)
    crs = made.geobox.crs_wkt and (fixed or made.geobox.crs_wkt)
    groups = [("objects", kind, wanted)]
    if made.split_by_class:
        groups = [(spec.name, f"{kind}.{spec.name}", [spec]) for spec in wanted]
    for name, key, classes in groups:
        for number, path in enumerate(made.files[key], 1):
            further = f" {number}" if number > 1 else ""
            source = f"./{path.name}" + (f"|layername={LAYER}" if kind == "gpkg" else "")
            yield Layer(f"{made.stem} {name}{further}", source, objects_style(classes), crs, vector=True)


def place_beside(location: Location, output_dir: Path) -> str:
    """Say where a scene lies from a project's folder, so that both can be moved together."""
    if location.local is None or not location.plain:
        return location.vsi
    there, here = location.local.resolve(), output_dir.resolve()
    if in_bucket(output_dir) or there.drive != here.drive:
        return os.fspath(there)
    path = Path(os.path.relpath(there, here)).as_posix()
    return path if path.startswith("../") else f"./{path}"


def _project(
    title: str, layers: Sequence[Layer], crs: str | None, extent: tuple[float, float, float, float]
) -> bytes:
    """Make the content of a `.qgz` file of layers, the topmost first; `extent` is in view."""
    tree, inside = [], []
    for layer in layers:
        said = {"key": layer.key, "name": layer.name, "source": layer.source}
        fill = {
            "layer": layer,
            "text": {what: escape(text) for what, text in said.items()},
            "attribute": {what: xml_attribute(text, raw=True) for what, text in said.items()},
            "provider": "ogr" if layer.vector else "gdal",
            "kind": 'type="vector" geometry="Polygon"' if layer.vector else 'type="raster"',
            "checked": "Checked" if layer.shown else "Unchecked",
            "crs": _system(layer.crs),
        }
        tree.append(template(_XML / "tree.xml")(**fill))
        inside.append(template(_XML / "layer.xml")(**fill))
    parts = {"tree": "\n".join(tree), "layers": "\n".join(inside), "crs": _system(crs)}
    named = {"title": escape(title), "attribute": xml_attribute(title, raw=True)}
    text = HEAD + template(_XML / "project.xml")(extent=extent, **named, **parts)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        entry = zipfile.ZipInfo("project.qgs")  # of 1980: the same run gives the same bytes
        archive.writestr(entry, text, zipfile.ZIP_DEFLATED)
    return file.getvalue()


def _system(crs: str | None) -> str:
    tag = "authid" if crs and crs.startswith("EPSG:") else "wkt"
    return f"<spatialrefsys><{tag}>{escape(crs)}</{tag}></spatialrefsys>" if crs else "<spatialrefsys/>"
