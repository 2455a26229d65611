"""`pfmap train`: train a model."""

import os
import sys
from pathlib import Path

import click
from tqdm import tqdm

from pfmap.cli.options import device_option, split_names


@click.command()
@click.argument("source", type=click.Path(path_type=Path), metavar="CONFIG|IMAGES")
@click.option(
    "-o",
    "--output-dir",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="The model folder to write.",
)
@click.option(
    "--from",
    "start_from",
    metavar="MODEL",
    help="Fine-tune this model.  [default: landcover for IMAGES; as CONFIG says]",
)
@click.option("--labels", metavar="FILE|FOLDER", help="Polygons, a label raster, or a folder of masks.")
@click.option("--field", metavar="NAME", help="The polygons' column with the classes.  [default: class]")
@click.option(
    "--classes",
    callback=split_names,
    metavar="NAMES",
    help="The classes, separated by commas; for masks in the order of their values, from 0.",
)
@click.option(
    "--rest",
    callback=split_names,
    metavar="NAMES",
    help="What lies outside the polygons may be.  [default: all other classes if they have one class, else "
    "unknown]",
)
@click.option(
    "--validation",
    type=click.FloatRange(0, 0.9),
    help="Share of the ground that is held out to measure.  [default: 0.2]",
)
@click.option("--steps", type=click.IntRange(min=1), help="Optimiser steps.  [default: 400]")
@click.option(
    "--train",
    "trained",
    type=click.Choice(["all", "decoder", "head"]),
    help="What of the network moves.  [default: all]",
)
@click.option("--attribution", metavar="TEXT", help="Whom maps made with the model have to name.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="What the paths in CONFIG are relative to.  [default: CONFIG's folder]",
)
@device_option
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in the output folder.")
@click.option("--overwrite", is_flag=True, help="Replace the model or checkpoint in the output folder.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
def train(
    source: Path,
    output_dir: Path,
    start_from: str | None,
    labels: str | None,
    field: str | None,
    classes: tuple[str, ...] | None,
    rest: tuple[str, ...] | None,
    validation: float | None,
    steps: int | None,
    trained: str | None,
    attribution: str | None,
    data: Path | None,
    device: str,
    resume: bool,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Train a PFNet on your own images.

    Either fine-tune on IMAGES, an orthophoto or a folder of images, with --labels; the configuration that this
    makes is written to train.toml in the output folder. Or train as a CONFIG says that you wrote: its
    classes, its data sets, their validation parts.

    Several GPUs: torchrun --nproc-per-node 4 -m pfmap train ...
    """
    from pfmap.engine.device import choose_device
    from pfmap.engine.store import load_model
    from pfmap.train import config as settings
    from pfmap.train import loop, quick
    from pfmap.train.validate import Validation

    given = {
        "field": field, "classes": classes, "rest": rest, "validation": validation, "steps": steps,
        "trained": trained, "attribution": attribution,
    }  # fmt: skip
    loop.check_output(output_dir, resume=resume, overwrite=overwrite)
    if source.suffix == ".toml":
        if labels is not None or any(value is not None for value in given.values()):
            raise click.UsageError("with a CONFIG, classes, labels and steps are what it says: change it there")
        parsed = settings.read_config(source)
        folder = data if data is not None else source.parent
        model = load_model(start_from) if start_from is not None else None
    else:
        if labels is None:
            raise click.UsageError("IMAGES need --labels: polygons, a label raster, or a folder of masks")
        model = load_model(start_from if start_from is not None else "landcover")
        options = quick.QuickOptions(
            source, labels, **{key: value for key, value in given.items() if value is not None}
        )
        tables = quick.quick_tables(options, model, output_dir.name)
        parsed = settings.parse_config(tables, output_dir / settings.CONFIG_NAME)
        folder = output_dir
