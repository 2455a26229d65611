"""`pfmap points`: show where PointFlow lets semantics flow."""

import json
from pathlib import Path

import click

from pfmap.cli.common import Command, class_names, numbers, options


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
@options("device", "bands", "scale", "gsd")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def points(
    scene: str,
    window: tuple[int, int],
    model: str,
    output: Path | None,
    foreground: tuple[str, ...] | None,
    device: str,
    bands: tuple[int, ...] | None,
    scale: tuple[float, float] | None,
    gsd: float | None,
    as_json: bool,
) -> None:
    """Draw the salient and the boundary points of one window of SCENE, level by level, as a PNG.

    Says too which share of them lies on foreground, as predicted, and which share of the pixels does. The
    window is read as pfmap predict reads it.
    """
    from pfmap.measure.flow_points import draw_points, find_points, picture_path

    path = picture_path(scene, window, output)
    found = find_points(
        scene,
        window,
        model=model,
        foreground=foreground,
        device=device,
        bands=bands,
        scale=scale,
        gsd=gsd,
    )
    draw_points(found, path)
    for note in found.notes:
        click.echo(f"warning: {note}", err=True)
    table = found.table()
    if as_json:
        click.echo(json.dumps({**table, "output": str(path)}, indent=2))
        return
    click.echo(f"{'flow':<12} {'salient':>8} {'boundary':>9}   on {found.foreground_text}")
    for level, row in zip(found.levels, table["levels"], strict=True):
        shares = ", ".join(
            f"{kind} {100 * row[kind]['on_foreground']:.1f} %"
            for kind in ("salient", "boundary")
            if row[kind]["on_foreground"] is not None
        )
        flow = f"{level.source} to {level.target}"
        click.echo(f"{flow:<12} {len(level.salient):>8} {len(level.boundary):>9}   {shares}")
    click.echo(found.summary())
    click.echo(f"wrote {path}")
