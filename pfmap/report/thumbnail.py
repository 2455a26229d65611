"""Small pictures of mapped scenes for the survey's page."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pfmap.core.classes import ClassSpec
from pfmap.core.errors import PfmapError
from pfmap.core.files import read_text
from pfmap.core.grid import GeoBox
from pfmap.raster.bands import EIGHT_BIT, Scaling
from pfmap.raster.preview import read_preview
from pfmap.report.picture import class_picture
from pfmap.report.survey_figures import SceneFigures

SIDE = 320
"""Pixels of the longer side of each of the two panels, at most."""

_LIMIT, _ALL = 15_000, 16_000_000


def thumbnail_limit(scenes: int) -> int:
    """Return how many bytes the picture of one of so many scenes may have: all of them have 16 MB at most."""
    return min(_LIMIT, _ALL // max(1, scenes))


def thumbnail(
    scene: str,
    classes_path: Path,
    classes: Sequence[ClassSpec],
    *,
    scaling: Scaling = EIGHT_BIT,
    bands: tuple[int, ...] | None = None,
    part: GeoBox | None = None,
    limit: int = _LIMIT,
) -> bytes:
    """Draw a scene, and beside it the same with its classes laid over, as a small WebP file.

    Background and nodata are transparent. A large scene without overviews is not read again: its classes
    stand alone.

    Args:
        scene: as it was named.
        classes_path: its class raster.
        classes: by value.
        scaling: how the scene's values became 8-bit when it was mapped.
        bands: 1-based numbers of the bands that were mapped; None to choose them as `pfmap predict` does.
        part: the scene's grid, where the class raster is that of many scenes.
        limit: bytes.

    Returns:
        The file, or nothing where the scene or its class raster cannot be read any more: a report is no place
        to fail for want of a picture.
    """
    try:
        preview = read_preview(scene, classes_path, SIDE, scaling, bands, part)
    except (PfmapError, OSError):
        return b""
    colors = {value: spec.rgb for value, spec in enumerate(classes) if not spec.background}
    return class_picture(preview.pixels, preview.seen, preview.classes, colors, limit)


def scene_thumbnail(
    scene: SceneFigures, output_dir: Path, classes: Sequence[ClassSpec], limit: int = _LIMIT
) -> bytes:
    """Draw a mapped scene of a survey with the bands and the scale that its own report names.

    Args:
        scene: its figures.
        output_dir: what its outputs are relative to.
        classes: of the model, by value.
        limit: bytes.

    Returns:
        As `thumbnail`.
    """
    if scene.state == "failed" or "classes" not in scene.outputs:
        return b""
    facts = read_scene_report(scene, output_dir).get("scene", {})
    try:
        scaling = _scaling(facts)
        bands = tuple(int(band) for band in facts["bands"]) if "bands" in facts else None
    except (AttributeError, KeyError, TypeError, ValueError):
        return b""
    path = output_dir / scene.outputs["classes"]
    return thumbnail(scene.scene, path, classes, scaling=scaling, bands=bands, limit=limit)


def sheet_thumbnail(
    scene: SceneFigures,
    classes_path: Path,
    box: GeoBox,
    classes: Sequence[ClassSpec],
    whole: Mapping[str, Any],
    bands: tuple[int, ...] | None,
    limit: int = _LIMIT,
) -> bytes:
    """Draw a sheet of a mosaic.

    Args:
        scene: its figures.
        classes_path: the one class raster of all sheets.
        box: the sheet's grid.
        classes: of the model, by value.
        whole: the report of the mosaic.
        bands: 1-based numbers of the sheet's bands, or None.
        limit: bytes.

    Returns:
        As `thumbnail`.
    """
    scaling = _scaling(whole["scene"])
    return thumbnail(scene.scene, classes_path, classes, scaling=scaling, bands=bands, part=box, limit=limit)


def _scaling(facts: Mapping[str, Any]) -> Scaling:
    """Return what a report says of how values became 8-bit."""
    scale = facts.get("scale", {})
    return Scaling(float(scale["min"]), float(scale["max"]), "report") if scale else EIGHT_BIT


def read_scene_report(scene: SceneFigures, output_dir: Path) -> dict[str, Any]:
    """Return the report that lies beside a scene's outputs, or nothing where there is none."""
    if "report" not in scene.outputs:
        return {}
    try:
        found = json.loads(read_text(output_dir / scene.outputs["report"]))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
