"""The figures of a survey for machines and spreadsheets: as JSON, which can be read back, and as CSV."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pfmap.core.errors import SourceError
from pfmap.report.survey_figures import ClassFigures, SceneFigures, SurveyFigures

FORMAT = 1
"""Of the JSON: goes up when a name changes its meaning or goes away, not when one is added."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def survey_json(figures: SurveyFigures) -> str:
    """Return all figures as JSON, with areas as `area_m2` or `area_px`.

    Keys are always there, in the same order; what is not known is null, "" or empty. Numbers that JSON does
    not have (infinite, not a number) become null.
    """
    table = {
        "pfmap": figures.version,
        "format": FORMAT,
        "title": figures.title,
        "started": figures.started,
        "finished": figures.finished,
        "seconds": figures.seconds,
        "unit": figures.unit,
        "crs": figures.crs,
        "scenes_done": figures.count("done"),
        "scenes_skipped": figures.count("skipped"),
        "scenes_failed": figures.count("failed"),
        "classes": [_class_table(item, figures.unit) for item in figures.classes],
        "model": figures.model,
        "settings": figures.settings,
        "warnings": list(figures.warnings),
        "outputs": figures.outputs,
        "scenes": [_scene_table(scene, figures.unit) for scene in figures.scenes],
    }
    return json.dumps(_plain(table), indent=2, allow_nan=False) + "\n"


def read_survey(path: Path) -> SurveyFigures:
    """Read a survey's figures back from its JSON.

    Raises:
        SourceError: the file cannot be read, or is no such report.
    """
    try:
        return parse_survey(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(
            f"{path} is no survey report of this pfmap ({type(error).__name__}: {error}): name the "
            "survey_report.json that pfmap wrote"
        ) from error


def parse_survey(table: Mapping[str, Any]) -> SurveyFigures:
    """Make figures of the parsed JSON.

    Raises:
        KeyError: something is missing.
        ValueError: another format.
    """
    if table["format"] != FORMAT:
        raise ValueError(f"format {table['format']!r}, not {FORMAT}")
    unit = table["unit"]
    return SurveyFigures(
        title=table["title"],
        version=table["pfmap"],
        started=table["started"],
        finished=table["finished"],
        seconds=table["seconds"],
        unit=unit,
        model=table["model"],
        settings=table["settings"],
        crs=table["crs"],
        classes=tuple(_parse_class(item, unit) for item in table["classes"]),
        scenes=tuple(_parse_scene(item, unit) for item in table["scenes"]),
        warnings=tuple(table["warnings"]),
        outputs=table["outputs"],
    )


def survey_csv(figures: SurveyFigures) -> str:
    """Return a table with a row per scene, for spreadsheets.

    Lines end as RFC 4180 has it. A text that a spreadsheet would take for a formula, such as a file named
    ``=A1.tif``, gets an apostrophe in front: opening a table must not run anything.
    """
    classes = all_classes(figures)
    head = ["scene", "name", "state", "reason", "width", "height", "gsd_m", "crs", "valid_pixels"]
    head += ["mean_confidence", "seconds", "finished"]
    head += [f"area_{figures.unit}_{item.name}" for item in classes]
    head += [f"objects_{item.name}" for item in classes]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([_harmless(name) for name in [*head, "warnings"]])
    for scene in figures.scenes:
        found = {item.class_id: item for item in scene.classes}
        rows = [found.get(item.class_id) for item in classes]
        areas: list[object] = ["" if item is None else round(item.area, 2) for item in rows]
        objects: list[object] = ["" if item is None else item.objects for item in rows]
        facts = _scene_cells(scene)
        cells = [*facts, *areas, *objects, "; ".join(scene.warnings)]
        writer.writerow([_harmless(cell) for cell in cells])
    return text.getvalue()


def csv_bytes(text: str) -> bytes:
    """Encode a CSV as UTF-8 with a byte order mark.

    Without the mark Excel takes the file for the machine's old code page and breaks every accent; LibreOffice
    and pandas (``encoding="utf-8-sig"``) know it too.
    """
    return text.encode("utf-8-sig", "backslashreplace")


def all_classes(figures: SurveyFigures) -> list[ClassFigures]:
    """Return the classes of the survey, and those that only its scenes have, by value."""
    found = {item.class_id: item for item in figures.classes}
    for scene in figures.scenes:
        for item in scene.classes:
            found.setdefault(item.class_id, item)
    return [found[key] for key in sorted(found)]


def _class_table(item: ClassFigures, unit: str) -> dict[str, Any]:
    return {
        "class_id": item.class_id,
        "class": item.name,
        "color": item.color,
        "pixels": item.pixels,
        f"area_{unit}": item.area,
        "objects": item.objects,
    }


def _scene_table(scene: SceneFigures, unit: str) -> dict[str, Any]:
    return {
        "scene": scene.scene,
        "name": scene.name,
        "state": scene.state,
        "reason": scene.reason,
        "width": scene.width,
        "height": scene.height,
        "gsd_m": scene.gsd,
        "crs": scene.crs,
        "footprint": scene.footprint,
        "valid_pixels": scene.valid_pixels,
        "mean_confidence": scene.mean_confidence,
        "taken": scene.taken,
        "finished": scene.finished,
        "seconds": scene.seconds,
        "classes": [_class_table(item, unit) for item in scene.classes],
        "warnings": scene.warnings,
        "outputs": scene.outputs,
    }


def _parse_class(table: Mapping[str, Any], unit: str) -> ClassFigures:
    return ClassFigures(
        class_id=table["class_id"],
        name=table["class"],
        color=table["color"],
        pixels=table["pixels"],
        area=table[f"area_{unit}"],
        objects=table["objects"],
    )


def _parse_scene(table: Mapping[str, Any], unit: str) -> SceneFigures:
    if table["state"] not in ("done", "skipped", "failed"):
        raise ValueError(f"state {table['state']!r}")
    return SceneFigures(
        scene=table["scene"],
        name=table["name"],
        state=table["state"],
        reason=table["reason"],
        width=table["width"],
        height=table["height"],
        gsd=table["gsd_m"],
        crs=table["crs"],
        footprint=tuple((lon, lat) for lon, lat in table["footprint"]),
        classes=tuple(_parse_class(item, unit) for item in table["classes"]),
        valid_pixels=table["valid_pixels"],
        mean_confidence=table["mean_confidence"],
        seconds=table["seconds"],
        warnings=tuple(table["warnings"]),
        outputs=table["outputs"],
        finished=table["finished"],
        taken=table["taken"],
    )


def _scene_cells(scene: SceneFigures) -> list[object]:
    total = scene.seconds.get("total")
    opened = scene.width > 0
    return [
        scene.scene,
        scene.name,
        scene.state,
        scene.reason,
        scene.width if opened else "",
        scene.height if opened else "",
        "" if scene.gsd is None else scene.gsd,
        scene.crs,
        scene.valid_pixels if scene.classes else "",
        "" if scene.mean_confidence is None else round(scene.mean_confidence, 2),
        "" if total is None else round(total, 2),
        scene.finished,
    ]


def _harmless(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def _plain(value: Any) -> Any:
    """Make a value of facts by name into what JSON has."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, str) or value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Sequence | set | frozenset):
        return [_plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    return str(value)
