"""`pfmap predict`: map a scene."""

import json
from pathlib import Path
from typing import Any

import click

from pfmap.cli.options import cluster_options, scene_options, shape_options
from pfmap.cli.progress import run_with_progress


@click.command(epilog="Open <stem>.qgz in QGIS, or drag the outputs into its window.")
@click.argument("scene")
@scene_options
@shape_options
@cluster_options
@click.option("--overwrite", is_flag=True, help="Replace existing outputs.")
@click.option(
    "--resume/--no-resume",
    default=True,
    show_default=True,
    help="Go on where an interrupted run stopped.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("-v", "--verbose", is_flag=True, help="Say more.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
def predict(
    scene: str,
    output_dir: Path | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Map SCENE: a class raster, its confidence and object polygons.

    SCENE is any raster that GDAL opens: a path, a URL (https, s3, gs), or a zip archive with a raster in it.

    Writes <stem>_classes.tif, <stem>_confidence.tif, <stem>_objects.gpkg, <stem>_report.json, and <stem>.qgz,
    a QGIS project of it all. A run that was stopped goes on when the same command is given again.
    """
    from pfmap.engine import pipeline  # torch loads here: --help stays instant

    result = run_with_progress(
        lambda on_progress, on_message: pipeline.predict(
            scene,
            output_dir,
            on_progress=on_progress,
            on_message=on_message,
            **options,
        ),
        quiet=quiet,
    )
    if as_json:
        click.echo(json.dumps(result.report, indent=2))
    elif not quiet:
        _show(result.report, {kind: str(path) for kind, path in result.outputs.items()}, verbose)


def _show(report: dict[str, object], outputs: dict[str, str], verbose: bool) -> None:
    """Print what was found and where it lies."""
    rows: list[dict[str, object]] = report["classes"]  # type: ignore[assignment]
    unit = "m2" if "area_m2" in rows[0] else "px"
    click.echo(f"{'class':<20} {'area ' + unit:>14} {'objects':>9}")
    for row in rows:
        click.echo(f"{row['class']!s:<20} {row[f'area_{unit}']:>14,.0f} {row['objects']:>9,}")
    for path in outputs.values():
        click.echo(f"wrote {path}")
    if verbose:
        seconds: dict[str, float] = report["seconds"]  # type: ignore[assignment]
        click.echo("  ".join(f"{name} {value:.1f} s" for name, value in seconds.items()))
