"""Words of the STAC extensions that a survey's catalogue uses."""

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import pystac

from pfmap.core.classes import NODATA
from pfmap.report.survey_figures import ClassFigures

PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
CLASSIFICATION = "https://stac-extensions.github.io/classification/v2.0.0/schema.json"
PROCESSING = "https://stac-extensions.github.io/processing/v1.1.0/schema.json"
MLM = "https://stac-extensions.github.io/mlm/v1.4.0/schema.json"

_MEDIA = {
    ".tif": str(pystac.MediaType.COG),
    ".gpkg": str(pystac.MediaType.GEOPACKAGE),
    ".geojson": str(pystac.MediaType.GEOJSON),
    ".fgb": "application/vnd.flatgeobuf",
    ".parquet": "application/vnd.apache.parquet",
    ".shp": "application/vnd.shp",
    ".json": str(pystac.MediaType.JSON),
    ".html": str(pystac.MediaType.HTML),
    ".csv": "text/csv",
    ".qgz": "application/zip",
    ".vrt": "application/xml",
}
_ROLES = {"report": ["metadata"], "html": ["overview"], "json": ["metadata"], "csv": ["metadata"]}
_TITLES = {
    "classes": "Class raster",
    "confidence": "Confidence in percent",
    "project": "QGIS project",
    "report": "Report",
    "html": "Report for people",
    "json": "Report for machines",
    "csv": "Report as a table",
}


def asset(kind: str, href: str) -> pystac.Asset:
    """Describe an output by its kind and its name's ending.

    Args:
        kind: of output.
        href: its path; what would cut an address short is encoded.
    """
    suffix = PurePath(href).suffix.lower()
    href = re.sub("[#?%]", lambda mark: f"%{ord(mark[0]):02X}", href)
    base = kind.split("_", maxsplit=1)[0].split(".", maxsplit=1)[0]
    roles = _ROLES.get(base, ["metadata"] if suffix == ".qgz" else ["data"])
    title = _TITLES.get(
        kind, f"Objects, {kind}" if base in ("gpkg", "shp", "fgb", "geojson", "parquet") else kind
    )
    return pystac.Asset(href=href, title=title, media_type=_MEDIA.get(suffix), roles=roles)


def class_list(classes: Sequence[ClassFigures], *, raster: bool) -> list[dict[str, Any]]:
    """Return classes in the terms of the classification extension.

    Args:
        classes: of the model.
        raster: whether they are those of a raster: with titles, and the value of pixels without a class among
            them. The outputs of a model have neither.
    """
    found = [
        {
            "value": item.class_id,
            "name": re.sub(r"[^0-9A-Za-z_-]+", "_", item.name) or f"class_{item.class_id}",
            **({"title": item.name} if raster else {}),
            "description": item.name,
            **({"color_hint": item.color[1:].upper()} if re.fullmatch("#[0-9a-fA-F]{6}", item.color) else {}),
        }
        for item in classes
    ]
    if raster:
        last = {
            "value": NODATA,
            "name": "nodata",
            "title": "no data",
            "description": "no data",
            "nodata": True,
        }
        found.append(last)
    return found
