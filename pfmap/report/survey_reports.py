"""All reports of a survey: a web page, a STAC catalogue, JSON for machines and CSV for spreadsheets."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from pfmap.core.errors import csv_text, json_text
from pfmap.core.files import make_folder, write_bytes, write_failed
from pfmap.report.survey_figures import ClassFigures, SceneFigures, SurveyFigures

REPORTS: Mapping[str, str] = {
    "html": "survey_report.html",
    "json": "survey_report.json",
    "csv": "survey_report.csv",
}
"""The reports' names by kind."""

FORMAT = 1
"""Of the JSON: goes up when a name changes its meaning or goes away, not when one is added."""


def write_reports(
    figures: SurveyFigures, output_dir: Path, thumbnails: Mapping[str, bytes]
) -> dict[str, str]:
    """Write the page, the tables and the catalogue of a survey, replacing those that are there.

    Each file is complete or not there. The JSON comes last: it says that all others are there. Thumbnails go
    by the scenes' names. Returns the files' names by kind: html, json, csv, stac (the collection).

    Raises:
        TargetError: a file cannot be written.
    """
    # Mapping single scenes imports this module too, and does without pystac and jinja2.
    from pfmap.report.stac import survey_catalogue
    from pfmap.report.survey_page import survey_page

    stac = survey_catalogue(figures, {**figures.outputs, **REPORTS})
    names = {**REPORTS, "stac": list(stac)[-1]}
    whole = replace(figures, outputs={**figures.outputs, **names})
    for name, text in stac.items():
        path = output_dir / name
        try:
            make_folder(path.parent, output_dir)
        except OSError as error:
            raise write_failed(path, error) from error
        write_bytes(path, text.encode())
    write_bytes(output_dir / REPORTS["html"], survey_page(whole, thumbnails).encode())
    write_bytes(output_dir / REPORTS["csv"], csv_bytes(survey_csv(whole)))
    write_bytes(output_dir / REPORTS["json"], survey_json(whole).encode())
    return names


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
        "classes": [class_row(item, figures.unit) for item in figures.classes],
        "model": figures.model_facts(),
        "settings": figures.settings,
        "warnings": figures.warnings,
        "outputs": figures.outputs,
        "scenes": [_scene_row(scene, figures.unit) for scene in figures.scenes],
    }
    return json_text(table) + "\n"


def class_row(item: ClassFigures, unit: str) -> dict[str, object]:
    """Return the figures of a class as reports have them."""
    return {
        "class_id": item.class_id,
        "class": item.name,
        "color": item.color,
        "pixels": item.pixels,
        f"area_{unit}": item.area,
        "objects": item.objects,
    }


def _scene_row(scene: SceneFigures, unit: str) -> dict[str, object]:
    row = asdict(scene) | {"classes": [class_row(item, unit) for item in scene.classes]}
    return {"gsd_m" if key == "gsd" else key: value for key, value in row.items() if key != "grid"}


def survey_csv(figures: SurveyFigures) -> str:
    """Return a table with a row per scene, for spreadsheets."""
    classes = figures.all_classes()
    areas = [f"area_{figures.unit}_{item.name}" for item in classes]
    objects = [f"objects_{item.name}" for item in classes]
    rows: list[list[object]] = [[*_cells(SceneFigures("", "", "done")), *areas, *objects, "warnings"]]
    for scene in figures.scenes:
        area = {item.class_id: round(item.area, 2) for item in scene.classes}
        count = {item.class_id: item.objects for item in scene.classes}
        cells = [
            *_cells(scene).values(),
            *(found.get(item.class_id) for found in (area, count) for item in classes),
        ]
        rows.append([*cells, "; ".join(scene.warnings)])
    return csv_text(rows)


def _cells(scene: SceneFigures) -> dict[str, object]:
    """Return the first cells of a scene's row by their column; None leaves a cell empty."""
    return {
        "scene": scene.scene,
        "name": scene.name,
        "state": scene.state,
        "reason": scene.reason,
        "width": scene.width or None,
        "height": scene.height or None,
        "gsd_m": scene.gsd,
        "crs": scene.crs,
        "valid_pixels": scene.valid_pixels if scene.classes else None,
        "mean_confidence": None if scene.mean_confidence is None else round(scene.mean_confidence, 2),
        "seconds": round(scene.seconds["total"], 2) if "total" in scene.seconds else None,
        "finished": scene.finished,
    }


def csv_bytes(text: str) -> bytes:
    """Encode a CSV as UTF-8 with a byte order mark.

    Without the mark Excel takes the file for the machine's old code page and breaks every accent; LibreOffice
    and pandas (``encoding="utf-8-sig"``) know it too.
    """
    return text.encode("utf-8-sig")
