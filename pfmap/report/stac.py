"""A survey as a STAC catalogue: a collection, an item per mapped scene, and one for the model.

All links are relative, so that the output folder can move. Paths of files stand as they are on disk:
programs that read catalogues open them as paths. Only #, ? and %, which cut an address short, are encoded.
"""

import base64
import binascii
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any

import pystac

from pfmap.core.classes import NODATA
from pfmap.core.errors import SourceError
from pfmap.report.survey_figures import ClassFigures, SceneFigures, SurveyFigures
from pfmap.report.tables import all_classes
from pfmap.report.thumbnail import read_scene_report
from pfmap.report.words import fact, parse_time, printable, safe_id
from pfmap.vector.geodesy import crs_code, crs_wkt2

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


ITEM_ID = "model"
"""Of the model in the catalogue."""

_TASK = "semantic-segmentation"


def model_item(
    model: Mapping[str, Any],
    classes: Sequence[ClassFigures],
    when: datetime,
    geometry: dict[str, Any] | None,
    bbox: list[float] | None,
) -> pystac.Item:
    """Describe the model that mapped a survey.

    The weights are no part of a survey's files: the asset that the extension asks for names them by their
    SHA-256 (RFC 6920), which says exactly which ones they are, wherever a copy lies.

    Args:
        model: facts by name, as `model_facts` gives them; what is missing is left out.
        classes: of the survey.
        when: it was used.
        geometry: where it was used.
        bbox: likewise.
    """
    item = pystac.Item(
        id=ITEM_ID,
        geometry=geometry,
        bbox=bbox,
        datetime=when,
        properties=_properties(model, classes),
        stac_extensions=[MLM, CLASSIFICATION],
    )
    item.add_asset(
        "weights",
        pystac.Asset(
            href=_weights_name(str(model.get("sha256", ""))),
            title=f"Weights of {model.get('name', 'the model')}, named by their SHA-256",
            description="The survey does not carry the weights: pfmap models list shows those at hand.",
            media_type="application/octet-stream; application=pytorch",
            roles=["mlm:model", "mlm:weights"],
            extra_fields={
                "mlm:artifact_type": "safetensors",
                "bands": [{"name": name} for name in item.properties["mlm:input"][0]["bands"]],
            },
        ),
    )
    return item


def _properties(model: Mapping[str, Any], classes: Sequence[ClassFigures]) -> dict[str, Any]:
    bands = [str(name) for name in model.get("bands", ("red", "green", "blue"))]
    side = int(model.get("window", -1))
    order = ["batch", "channel", "height", "width"]
    found: dict[str, Any] = {
        "title": fact(model.get("title", model.get("name", "model"))),
        "description": "The model that mapped the survey. Time and place are those of its use here.",
        "mlm:name": _model_name(str(model.get("name", "model"))),
        "mlm:architecture": str(model.get("architecture", "PFNet")),
        "mlm:tasks": [_TASK],
        "mlm:framework": str(model.get("framework", "PyTorch")),
        "mlm:accelerator": None,
        "mlm:input": [
            {
                "name": "orthophoto",
                "bands": bands,
                "input": {"shape": [-1, len(bands), side, side], "dim_order": order, "data_type": "float32"},
                "value_scaling": _scaling(model, len(bands)),
                "resize_type": None,
                **_range(model),
            }
        ],
        "mlm:output": [
            {
                "name": "logits",
                "tasks": [_TASK],
                "result": {
                    "shape": [-1, len(classes), side, side],
                    "dim_order": order,
                    "data_type": "float32",
                },
                "classification:classes": class_list(classes, raster=False),
            }
        ],
    }
    if model.get("licence"):
        found["license"] = "other"
        found["description"] += f" Licence: {model['licence']}."
    return found


def _scaling(model: Mapping[str, Any], bands: int) -> list[dict[str, Any]] | None:
    """Return how 8-bit values become the network's: one z-score per band, in the values' own units."""
    mean, std = model.get("mean"), model.get("std")
    if not mean or not std or not (len(mean) == len(std) == bands):
        return None
    scale = float(model.get("scale", 255))
    return [
        {"type": "z-score", "mean": m * scale, "stddev": s * scale} for m, s in zip(mean, std, strict=True)
    ]


def _range(model: Mapping[str, Any]) -> dict[str, str]:
    span = model.get("gsd_range_m")
    if not span:
        return {}
    return {"description": f"Orthophotos of {span[0]:g} to {span[1]:g} m per pixel, others brought there."}


def _model_name(name: str) -> str:
    """Return a name as the extension wants it: a letter first, letters and digits at the ends."""
    plain = re.sub(r"[^a-zA-Z0-9_.-]+", "-", name).strip("_.-")
    return plain if len(plain) > 2 and plain[0].isalpha() else f"model-{plain or 'x'}"


def _weights_name(sha256: str) -> str:
    try:
        digest = binascii.unhexlify(sha256)
    except (binascii.Error, ValueError):
        digest = b""
    name = base64.urlsafe_b64encode(digest).decode().rstrip("=")
    return f"ni:///sha-256;{name}" if len(digest) == 32 else "urn:pfmap:weights:unknown"


FOLDER = "stac"
_COLLECTION = "collection.json"
_DIGITS = 8  # behind the point, in degrees: a millimetre
_WORLD = [-180.0, -90.0, 180.0, 90.0]


def survey_catalogue(figures: SurveyFigures, output_dir: Path, outputs: Mapping[str, str]) -> dict[str, str]:
    """Describe a survey.

    Args:
        figures: of the survey.
        output_dir: what outputs are relative to; the scenes' reports there say on which grid their maps lie.
        outputs: the survey's own files by kind, those of `figures` and its reports.

    Returns:
        The files' content by their paths relative to the output folder, the collection last: it names the
        others.
    """
    when = parse_time(figures.finished) or datetime.now(UTC)
    taken = {ITEM_ID, "collection"}
    items: list[pystac.Item] = []
    for scene in figures.scenes:
        if scene.state != "failed":
            name = safe_id(scene.name, taken)
            taken.add(name)
            items.append(_scene_item(scene, name, figures, output_dir, when))
    boxes = [item.bbox for item in items if item.bbox]
    whole = _around(boxes)
    model = model_item(figures.model, all_classes(figures), when, _box_geometry(whole), whole)
    collection = _collection(figures, outputs, whole or _WORLD, when)
    return _linked(collection, [model, *items])


def _collection(
    figures: SurveyFigures, outputs: Mapping[str, str], bbox: list[float], when: datetime
) -> pystac.Collection:
    start = parse_time(figures.started) or when
    rights = fact(figures.model.get("attribution", ""))
    collection = pystac.Collection(
        id=safe_id(figures.title, otherwise="survey"),
        title=printable(figures.title),
        description=(
            f"Classes and objects that pfmap {figures.version} mapped from {len(figures.scenes)} scenes. "
            f"Times are those of the mapping where an image does not say when it was taken. "
            f"Whoever publishes these maps has to name: {rights}."
        ),
        extent=pystac.Extent(
            pystac.SpatialExtent([bbox]), pystac.TemporalExtent([[min(start, when), max(start, when)]])
        ),
        license="other",
        keywords=[item.name for item in figures.classes],
    )
    for kind, path in outputs.items():
        collection.add_asset(kind, asset(kind, f"../{path}"))
    return collection


def _scene_item(
    scene: SceneFigures, name: str, figures: SurveyFigures, output_dir: Path, when: datetime
) -> pystac.Item:
    mapped = parse_time(scene.finished) or when
    taken = parse_time(scene.taken)
    said = "" if taken else " The time is that of the mapping: the image does not say when it was taken."
    geometry, bbox = footprint_geometry(scene.footprint)
    item = pystac.Item(
        id=name,
        geometry=geometry,
        bbox=bbox,
        datetime=taken or mapped,
        properties={
            "title": printable(scene.name),
            "description": f"Classes and objects mapped from {printable(scene.scene)}.{said}",
            "created": _stamp(mapped),
            **({"gsd": scene.gsd} if scene.gsd else {}),
            "processing:software": {"pfmap": figures.version},
            "processing:lineage": (
                f"{printable(scene.scene)}, mapped by model {fact(figures.model.get('name', ''))}"
            ),
            **_grid(scene, output_dir),
        },
        stac_extensions=[PROCESSING, PROJECTION, CLASSIFICATION],
    )
    for kind, path in scene.outputs.items():
        found = asset(kind, f"../../{path}")
        if kind == "classes" and scene.classes:
            found.extra_fields["classification:classes"] = class_list(scene.classes, raster=True)
        item.add_asset(kind, found)
    return item


def footprint_geometry(
    ring: tuple[tuple[float, float], ...],
) -> tuple[dict[str, Any] | None, list[float] | None]:
    """Return a footprint as a GeoJSON polygon, counter-clockwise, with its bounding box; or nothing."""
    points = [(round(float(lon), _DIGITS), round(float(lat), _DIGITS)) for lon, lat in ring]
    if len(points) < 4 or not all(math.isfinite(lon) and math.isfinite(lat) for lon, lat in points):
        return None, None
    if points[0] != points[-1]:
        points.append(points[0])
    twice = sum(a[0] * b[1] - b[0] * a[1] for a, b in itertools.pairwise(points))
    points = points if twice > 0 else points[::-1]
    lons, lats = [lon for lon, _ in points], [lat for _, lat in points]
    return (
        {"type": "Polygon", "coordinates": [[list(point) for point in points]]},
        [min(lons), min(lats), max(lons), max(lats)],
    )


def _grid(scene: SceneFigures, output_dir: Path) -> dict[str, Any]:
    """Return the grid of a scene's map in the terms of the projection extension, as far as it is known."""
    report = read_scene_report(scene, output_dir)
    found: dict[str, Any] = {"proj:code": None}
    try:
        wkt, grid = report["scene"]["crs"], report["map"]
        found["proj:shape"] = [int(grid["height"]), int(grid["width"])]
        if wkt:
            found["proj:transform"] = [float(value) for value in grid["transform"]]
            found["proj:code"] = crs_code(wkt)
            if found["proj:code"] is None:
                found["proj:wkt2"] = crs_wkt2(wkt)
    except (KeyError, TypeError, ValueError, SourceError):
        if scene.width:
            found["proj:shape"] = [scene.height, scene.width]
    return found


def _around(boxes: list[list[float]]) -> list[float] | None:
    if not boxes:
        return None
    west, south, east, north = zip(*boxes, strict=True)
    return [min(west), min(south), max(east), max(north)]


def _box_geometry(bbox: list[float] | None) -> dict[str, Any] | None:
    if bbox is None:
        return None
    west, south, east, north = bbox
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}


def _linked(collection: pystac.Collection, items: list[pystac.Item]) -> dict[str, str]:
    """Link collection and items by relative paths, and return their content.

    Done by hand: pystac wants absolute paths of this machine to make relative ones of, and writes files
    itself, where here all files are written the same way.
    """
    title = collection.title
    files: dict[str, str] = {}
    up = f"../{_COLLECTION}"
    kind, geojson = str(pystac.MediaType.JSON), str(pystac.MediaType.GEOJSON)
    back = [
        {"rel": rel, "href": up, "type": kind, "title": title} for rel in ("root", "collection", "parent")
    ]
    used = {"rel": "derived_from", "href": f"../{ITEM_ID}/{ITEM_ID}.json", "type": geojson, "title": "Model"}
    for item in items:
        links = back if item.id == ITEM_ID else [*back, used]
        table = {**item.to_dict(include_self_link=False), "links": links, "collection": collection.id}
        files[f"{FOLDER}/{item.id}/{item.id}.json"] = _json(table)
    links = [{"rel": "root", "href": f"./{_COLLECTION}", "type": kind, "title": title}]
    links += [{"rel": "item", "href": f"./{item.id}/{item.id}.json", "type": geojson} for item in items]
    table = {**collection.to_dict(include_self_link=False), "links": links}
    files[f"{FOLDER}/{_COLLECTION}"] = _json(table)
    return files


def _json(table: dict[str, Any]) -> str:
    return json.dumps(table, indent=2, allow_nan=False) + "\n"


def _stamp(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
