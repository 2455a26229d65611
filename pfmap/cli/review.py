"""`pfmap review`: the objects of a map most worth a look."""

from pathlib import Path

import click

from pfmap.cli.common import Command, class_names
from pfmap.cli.screen import say


@click.command(cls=Command)
@click.argument("objects")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The GeoPackage to write.",
)
@click.option(
    "--count", type=click.IntRange(min=1), default=200, show_default=True, help="Objects to look at."
)
@click.option(
    "--classes",
    callback=class_names,
    metavar="NAMES",
    help="The classes to choose from, separated by commas.  [default: the model's, where OBJECTS says them]",
)
@click.option("--overwrite", is_flag=True, help="Replace the output, and the corrections in it.")
def review(
    objects: str, output: Path, count: int, classes: tuple[str, ...] | None, *, overwrite: bool
) -> None:
    """List the OBJECTS of a map that are most worth a look, to be corrected in QGIS and trained on.

    Least sure ones, large ones among others of their class, and those unlike their neighbours come first;
    classes and parts of the map take turns. In QGIS the layer has a form: choose the class, and tick what you
    have checked. Then: pfmap train SCENE --labels review.gpkg --from MODEL -o better
    """
    from pfmap.vector.checklist import write_checklist

    made = write_checklist(objects, output, count, classes=classes, overwrite=overwrite)
    if made.note:
        say(f"warning: {made.note}", err=True)
    for name, number in sorted(made.counts.items()):
        say(f"{name:<20} {number:>9,}")
    say(f"wrote {output}: {sum(made.counts.values()):,} of {made.total:,} objects")
