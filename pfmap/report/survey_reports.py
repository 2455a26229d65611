"""All reports of a survey, written beside its outputs."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pfmap.core.files import make_folder, write_bytes, write_failed
from pfmap.report.stac import FOLDER, survey_catalogue
from pfmap.report.survey_figures import SurveyFigures
from pfmap.report.survey_page import survey_page
from pfmap.report.tables import csv_bytes, survey_csv, survey_json

REPORTS: Mapping[str, str] = {
    "html": "survey_report.html",
    "json": "survey_report.json",
    "csv": "survey_report.csv",
}
"""The reports' names by kind."""


def write_reports(
    figures: SurveyFigures, output_dir: Path, thumbnails: Mapping[str, bytes]
) -> dict[str, str]:
    """Write the page, the tables and the catalogue of a survey, replacing those that are there.

    Each file is complete or not there. The JSON comes last: it says that all others are there, and names
    them among the survey's outputs.

    Args:
        figures: of the survey; outputs are relative to `output_dir`.
        output_dir: where the reports go; it exists.
        thumbnails: small pictures by the scenes' names, as `scene_thumbnail` makes them.

    Returns:
        The files' names by kind: html, json, csv, stac (the collection).

    Raises:
        TargetError: a file cannot be written.
    """
    stac = survey_catalogue(figures, output_dir, {**figures.outputs, **REPORTS})
    names = {**REPORTS, "stac": list(stac)[-1]}
    whole = replace(figures, outputs={**figures.outputs, **names})
    for name, text in stac.items():
        path = output_dir / name
        try:
            make_folder(path.parent)
        except OSError as error:
            raise write_failed(path, error) from error
        write_bytes(path, text.encode())
    write_bytes(output_dir / REPORTS["html"], survey_page(whole, thumbnails).encode())
    write_bytes(output_dir / REPORTS["csv"], csv_bytes(survey_csv(whole)))
    write_bytes(output_dir / REPORTS["json"], survey_json(whole).encode())
    return names


__all__ = ["FOLDER", "REPORTS", "write_reports"]
