"""`pfmap bench`: how fast pfmap is here."""

import re
from typing import Any

import click

from pfmap.cli.common import Command, class_names, options
from pfmap.cli.main import importing
from pfmap.cli.screen import say, show
from pfmap.core.errors import worded


def _size(_ctx: click.Context, _param: click.Parameter, text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)(?:[x,](\d+))?", text)
    width, height = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not width or not height:
        raise click.BadParameter(f"{text!r} is no size such as 8192 or 8192x4096")
    return width, height


@click.command(cls=Command)
@click.argument("scene", required=False)
@click.option(
    "--size",
    callback=_size,
    metavar="PX|WIDTHxHEIGHT",
    help="Make a scene of this size: of SCENE's middle, repeated, or of made-up ground.  [default: SCENE as "
    "it is, or 4096]",
)
@click.option(
    "--kind",
    type=click.Choice(["jpeg", "deflate", "raw", "sparse"]),
    default="jpeg",
    show_default=True,
    help="How a made scene is stored; sparse is black and takes no disk.",
)
@options("model")
@click.option(
    "--network/--no-network",
    default=True,
    help="Or measure what is around the network, with one of zero cost in its place.",
)
@options("device", "precision", "overlap")
@click.option(
    "--separate",
    callback=class_names,
    metavar="NAME,NAME",
    help="Measure again with objects of these classes taken apart; with --no-network.",
)
@click.option(
    "--runs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Measure so often; medians count.",
)
@click.option("--json", "as_json", is_flag=True, help="Print all figures of all runs as JSON.")
def bench(as_json: bool, **measured: Any) -> None:
    """Measure how fast pfmap is on this machine, and what bounds it.

    Compares the network alone, on windows in memory, with the whole of pfmap predict, and shows how long each
    stage worked and waited: they all work at once, and the busiest one sets the pace. SCENE is read, never
    changed; outputs go to a temporary folder.

    \b
    pfmap bench
    pfmap bench ortho.tif --size 8192 --runs 3
    pfmap bench --size 32768 --no-network --separate building
    """  # noqa: D301 - click wants the control character, not a backslash
    with importing():
        from pfmap.measure.benchmark import bench as measure

    found = measure(**measured, on_message=lambda text: None if as_json else say(worded(text), err=True))
    if as_json:
        show(found.table())
    else:
        say(*found.lines())
