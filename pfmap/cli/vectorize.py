"""`pfmap vectorize`: polygons of a class raster."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click

from pfmap.cli.common import Command, options, output_dir, pairs, percent_option, shape_options, show_made
from pfmap.cli.main import importing
from pfmap.cli.progress import run_with_progress
from pfmap.cli.screen import show, tell


@click.command(cls=Command)
@click.argument("raster")
@output_dir("the raster's folder")
@click.option("--band", type=click.IntRange(min=1), help="Band with the classes.  [default: the only one]")
@percent_option("confidence", "Percent for each pixel.")
@percent_option("contact", "Where objects touch, in percent.")
@click.option(
    "--names",
    callback=pairs(int),
    metavar="VALUE=NAME,...",
    help="Names of the classes.  [default: those in the raster]",
)
@shape_options
@options("overwrite")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
def vectorize(raster: str, output_dir: Path | None, as_json: bool, quiet: bool, **settings: Any) -> None:
    """Turn RASTER, a class raster of any origin, into polygons with attributes.

    Writes <stem>_objects.gpkg with a QGIS style; <stem> is the raster's name without _classes.
    """
    with importing(tracing=True):
        from pfmap.mapping import polygonize

    result = run_with_progress(partial(polygonize.vectorize, raster, output_dir, **settings), quiet=quiet)
    tell("result", outputs=result.outputs)
    if as_json:
        show(asdict(result) | {"outputs": {kind: str(path) for kind, path in result.outputs.items()}})
    elif not quiet:
        rows = [(name, result.areas[name], count) for name, count in result.counts.items()]
        show_made(result.unit, rows, result.outputs.values())
