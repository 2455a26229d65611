"""A survey as a STAC catalogue: a collection, an item per mapped scene, and one for the model.

All links are relative, so that the output folder can move. Paths of files stand as they are on disk:
programs that read catalogues open them as paths. Only #, ? and %, which cut an address short, are encoded.
"""

import itertools
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pystac

from pfmap.core.errors import SourceError
from pfmap.report.model_item import ITEM_ID as _MODEL
from pfmap.report.model_item import model_item
from pfmap.report.stac_terms import CLASSIFICATION, PROCESSING, PROJECTION, asset, class_list
from pfmap.report.survey_figures import SceneFigures, SurveyFigures
from pfmap.report.tables import all_classes
from pfmap.report.thumbnail import read_scene_report
from pfmap.report.words import fact, parse_time, printable, safe_id
from pfmap.vector.crs import crs_code, crs_wkt2

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
    taken = {_MODEL, "collection"}
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
    used = {"rel": "derived_from", "href": f"../{_MODEL}/{_MODEL}.json", "type": geojson, "title": "Model"}
    for item in items:
        links = back if item.id == _MODEL else [*back, used]
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
