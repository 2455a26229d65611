"""`pfmap batch`: map a survey."""

from functools import partial
from pathlib import Path
from typing import Unpack

import click

from pfmap.cli.common import Command, mapping_options, options, show_made
from pfmap.cli.main import importing
from pfmap.cli.predict import counts, fail_if_any_failed, run_survey, scene_json
from pfmap.cli.screen import say, show, tell
from pfmap.mapping.options import SurveySettings


@click.command(cls=Command, epilog="Open survey.qgz in QGIS, and survey_report.html in a browser.")
@click.argument("survey", nargs=-1, required=True, metavar="SURVEY...")
@mapping_options
@options("workers", "cluster")
@click.option(
    "--mosaic", is_flag=True, help="Map the scenes as one: windows are blended across their borders."
)
@options("sieve", "overwrite", "resume")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
def batch(
    survey: tuple[str, ...],
    output_dir: Path | None,
    mosaic: bool,
    as_json: bool,
    quiet: bool,
    **settings: Unpack[SurveySettings],
) -> None:
    """Map a SURVEY: all scenes of a folder, and one map of them all.

    SURVEY is a folder, which is searched recursively, @list.txt, or scenes.

    Writes for each scene what pfmap predict writes, in folders like those of the survey; and of all scenes
    survey_classes.vrt, survey_confidence.vrt and survey_objects.gpkg, in which objects go on across the
    scenes' borders. Scenes that are done are left alone, and those that fail are listed in failures.csv.
    """
    if output_dir is None:
        raise click.UsageError("say where the outputs go with --output-dir")
    with importing(tracing=True):  # torch loads here: --help stays instant
        from pfmap.report.survey_figures import class_row
        from pfmap.survey import scenes as library

    result = run_survey(partial(library.batch, survey, output_dir, mosaic=mosaic, **settings), quiet=quiet)
    figures, scenes = result.figures, list(result.scenes)
    tell("result", outputs=result.outputs, scenes=[scene_json(scene, report=False) for scene in scenes])
    if as_json:
        table = {
            "scenes": [scene_json(scene) for scene in scenes],
            "outputs": {kind: str(path) for kind, path in result.outputs.items()},
            "classes": [class_row(row, figures.unit) for row in figures.classes],
            "warnings": list(figures.warnings),
            "seconds": figures.seconds,
        }
        show(table)
    elif not quiet:
        rows = [(row.name, row.area, row.objects) for row in figures.classes]
        show_made(figures.unit, rows, result.outputs.values())
        say(f"{counts(scenes)} in {figures.seconds:,.0f} s")
    fail_if_any_failed(scenes, survey, output_dir)
