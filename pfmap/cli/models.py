"""`pfmap models`: list, show, count, import and export models."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pfmap.cli.common import Command
from pfmap.cli.screen import say, show

if TYPE_CHECKING:
    from pfmap.core.card import Architecture


@click.group()
def models() -> None:
    """List models, show what they know and what they cost, import and export them."""


@models.command("list", cls=Command)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def list_command(as_json: bool) -> None:
    """List the models: those that come with pfmap, then your own."""
    from pfmap.model import store

    rows = [
        {
            "name": folder.name,
            "title": f"broken: {card}" if isinstance(card, Exception) else card.title,
            "folder": str(folder),
        }
        for folder, card in store.list_models()
    ]
    if as_json:
        show(rows)
        return
    for row in rows:
        say(f"{row['name']:<16} {row['title']}")


@models.command(cls=Command)
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def info(name: str, as_json: bool) -> None:
    """Show the model NAME: classes, window, resolution, data, accuracy, limits."""
    from pfmap.core.card import card_table, read_card
    from pfmap.model import store

    folder = store.find_model(name)
    card = read_card(folder / store.CARD_NAME)
    if as_json:
        show(card_table(card))
        return
    from pfmap.report.html import render

    weights = folder / store.WEIGHTS_NAME
    size = f"{weights.stat().st_size / 1e6:.1f} MB" if weights.is_file() else "missing: train or import it"
    network = _settings(card.architecture)
    say(*render("card.txt.jinja", card=card, folder=str(folder), weights=size, network=network).splitlines())


@models.command(cls=Command)
@click.argument("name")
@click.option("--size", default=512, show_default=True, metavar="PX", help="Side of the window.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting of the architecture, such as flow=none, classes=19 or flow_levels=4,8; may be "
    "repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def describe(name: str, size: int, changes: tuple[str, ...], as_json: bool) -> None:
    """Count the parameters and multiply-adds of NAME: a model, or an encoder for the paper's network with it.

    Counts convolutions and the products of the points' attention, for one window, operation by operation as
    the paper's network is published; then the whole again as pfmap computes it. Needs no weights.
    """
    from pfmap.measure.cost import cost_of, find_architecture

    cost = cost_of(find_architecture(name, changes), size)
    if as_json:
        whole = {"parameters": cost.parameters, "multiply_adds": cost.multiply_adds}
        show({"name": name, **dataclasses.asdict(cost), **whole})
        return
    from pfmap.report.html import render

    say(*render("cost.txt.jinja", name=name, settings=_settings(cost.architecture), cost=cost).splitlines())


def _settings(architecture: "Architecture") -> str:
    """Write settings without Python's brackets."""
    pairs = dataclasses.asdict(architecture).items()
    shown = {k: ",".join(map(str, v)) if isinstance(v, tuple) else v for k, v in pairs if v != ()}
    return ", ".join(f"{k} {v}" for k, v in shown.items())


@models.command(cls=Command)
@click.argument("name")
@click.option("--onnx", "target", type=click.Path(path_type=Path), required=True, help="ONNX file to write.")
@click.option(
    "--gsd",
    type=float,
    metavar="M",
    help="Metres per pixel that the other program resamples to; by default the middle of the model's range.",
)
@click.option("--overwrite", is_flag=True, help="Replace the file.")
def export(name: str, target: Path, gsd: float | None, overwrite: bool) -> None:
    """Write the model NAME as an ONNX file that GeoDeep and Deepness run. Needs pfmap[onnx]."""
    from pfmap.model.export import export_onnx
    from pfmap.model.store import load_model

    path = export_onnx(load_model(name), target, gsd=gsd, overwrite=overwrite)
    say(f"wrote {path}: geodeep SCENE {path}, or load it in Deepness")


@models.command("import", cls=Command)
@click.argument("source")
@click.option(
    "--sha256",
    metavar="HEX",
    help="Hash that the file has to have, as its maker states it; an address needs one.",
)
@click.option(
    "--preset",
    type=click.Choice(["isaid", "potsdam", "vaihingen"]),
    help="What a checkpoint was trained for: sets classes, colours, window and bands.",
)
@click.option("--name", help="Name of the new model.  [default: what it is called; a checkpoint needs one]")
@click.option("--overwrite", is_flag=True, help="Replace a model of that name.")
def import_command(
    source: str, sha256: str | None, preset: str | None, name: str | None, overwrite: bool
) -> None:
    """Import a model of somebody else's as one of your own.

    SOURCE is a model's address (https), archive (zip, tar) or folder, or a published PFNet checkpoint.
    """
    from pfmap.model.download import import_model

    folder = import_model(source, sha256=sha256, preset=preset, name=name, overwrite=overwrite)
    say(f"imported as {folder.name!r} in {folder}: use it with pfmap predict SCENE -m {folder.name}")
