"""`pfmap models`: list, describe and import models."""

import dataclasses
import json
from pathlib import Path

import click


@click.group()
def models() -> None:
    """List, describe and import models."""


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def list_command(as_json: bool) -> None:
    """List the models: those that come with pfmap, then your own."""
    from pfmap.engine import store

    entries = store.list_models()
    rows = [
        {
            "name": folder.name,
            "title": f"broken: {card}" if isinstance(card, Exception) else card.title,
            "folder": str(folder),
        }
        for folder, card in entries
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        click.echo(f"{row['name']:<16} {row['title']}")


@models.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def info(name: str, as_json: bool) -> None:
    """Describe the model NAME: classes, window, resolution, data, accuracy, limits."""
    from pfmap.card import card_table, read_card
    from pfmap.engine import store

    folder = store.find_model(name)
    card = read_card(folder / store.CARD_NAME)
    if as_json:
        click.echo(json.dumps(card_table(card), indent=2))
        return
    spec, arch = card.input, card.architecture
    weights = folder / store.WEIGHTS_NAME
    size = f"{weights.stat().st_size / 1e6:.1f} MB" if weights.is_file() else "missing: train or import it"
    click.echo(f"{card.name}: {card.title}")
    click.echo(f"folder       {folder}")
    click.echo(f"weights      {size}")
    settings = ", ".join(f"{k} {v}" for k, v in dataclasses.asdict(arch).items())
    click.echo(f"network      {settings}")
    click.echo(f"bands        {', '.join(spec.bands)}")
    click.echo(f"window       {spec.window} pixels")
    click.echo(f"resolution   {spec.gsd[0]:g} to {spec.gsd[1]:g} m per pixel")
    click.echo("classes")
    for index, item in enumerate(card.classes):
        click.echo(f"  {index:>3} {item.name:<20} {item.color}{' (background)' * item.background}")
    click.echo(f"data         {card.provenance.data}")
    click.echo(f"licence      {card.provenance.licence}")
    click.echo(f"attribution  {card.provenance.attribution}")
    if card.provenance.limits:
        click.echo(f"limits       {card.provenance.limits}")
    if card.accuracy:
        click.echo(f"accuracy     {card.accuracy_note}")
        for key, value in card.accuracy.items():
            click.echo(f"  {key:<32} {value:.3f}")


@models.command("import")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--preset",
    type=click.Choice(["isaid", "potsdam", "vaihingen"]),
    required=True,
    help="What the checkpoint was trained for: sets classes, colours, window and bands.",
)
@click.option("--name", required=True, help="Name of the new model.")
def import_command(checkpoint: Path, preset: str, name: str) -> None:
    """Import a published PFNet CHECKPOINT as a model of your own."""
    from pfmap.engine.upstream import import_checkpoint

    folder = import_checkpoint(checkpoint, preset=preset, name=name)
    click.echo(f"imported as {name!r} in {folder}: use it with pfmap predict SCENE -m {name}")
