"""`pfmap points`: show where PointFlow lets semantics flow."""

from pathlib import Path
from typing import Unpack

import click

from pfmap.cli.common import Command, class_names, numbers, options
from pfmap.cli.screen import say, show
from pfmap.core.errors import UsageError, worded
from pfmap.mapping.options import WindowSettings


@click.command(cls=Command)
@click.argument("scene")
@click.option(
    "--window",
    required=True,
    callback=numbers(2, int, "1024,512"),
    metavar="COL,ROW",
    help="The window's top-left pixel in the scene; its size is the model's.",
)
@options("model")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.png",
    help="The picture.  [default: <stem>_points_COL_ROW.png beside the scene]",
)
@click.option(
    "--foreground",
    callback=class_names,
    metavar="NAME,NAME",
    help="Classes that count as foreground.  [default: all but the model's background; building, where it "
    "has none]",
)
@options("device", "bands", "extra", "scale", "gsd")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def points(
    scene: str,
    window: tuple[int, int],
    output: Path | None,
    foreground: tuple[str, ...] | None,
    as_json: bool,
    **settings: Unpack[WindowSettings],
) -> None:
    """Draw the salient and the boundary points of one window of SCENE, level by level, as a PNG.

    Says too which share of them lies on foreground, as predicted, and which share of the pixels does. The
    window is read as pfmap predict reads it.
    """
    from pfmap.measure.flow_points import draw_points, find_points
    from pfmap.raster.location import locate
    from pfmap.report.html import render

    location = locate(scene)
    path = output or location.folder / f"{location.stem}_points_{window[0]}_{window[1]}.png"
    itself = location.local is not None and path.exists() and path.samefile(location.local)
    if path.suffix.lower() != ".png" or not path.parent.is_dir() or itself:
        raise UsageError(f"{path} is no name for the picture: give another .png in a folder that exists")
    found = find_points(scene, window, foreground=foreground, **settings)
    draw_points(found, path)
    for note in found.notes:
        say(f"warning: {worded(note)}", err=True)
    if as_json:
        show({**found.table(), "output": str(path)})
        return
    say(*render("points.txt.jinja", found=found).splitlines(), f"wrote {path}")
