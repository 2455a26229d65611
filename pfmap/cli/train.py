"""`pfmap train`: train a model."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pfmap.cli.common import Command, class_names, options, refuse_given
from pfmap.cli.main import importing
from pfmap.cli.progress import bar_of, write
from pfmap.cli.screen import say, tell

if TYPE_CHECKING:
    from pfmap.train.loop import Progress
    from pfmap.train.validate import Figures, Validation


@click.command(cls=Command)
@click.argument("source", type=click.Path(path_type=Path), metavar="IMAGES|CONFIG")
@click.option(
    "-o",
    "--output-dir",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="The model folder to write.",
)
@click.option("--labels", metavar="FILE|FOLDER", help="Polygons, a label raster, or a folder of masks.")
@click.option("--field", metavar="NAME", help="The polygons' column with the classes.  [default: class]")
@click.option(
    "--classes",
    callback=class_names,
    metavar="NAMES",
    help="The classes, separated by commas; for masks in the order of their values, from 0.",
)
@click.option(
    "--rest",
    callback=class_names,
    metavar="NAMES",
    help="What lies outside the polygons may be.  [default: if they have one class, any other; else unknown]",
)
@click.option(
    "--inputs",
    callback=class_names,
    metavar="NAMES",
    help="The bands that the model is to see, by name, such as red,green,blue,nir.  [default: those of the "
    "model it starts from, and those of --extra]",
)
@options("bands", "extra")
@click.option(
    "--validation",
    type=click.FloatRange(0, 0.9),
    default=0.2,
    show_default=True,
    help="Share of the ground that is held out to measure, in blocks.",
)
@click.option("--steps", type=click.IntRange(min=1), default=400, show_default=True, help="Optimiser steps.")
@click.option(
    "--train",
    "trained",
    type=click.Choice(["all", "decoder", "head"]),
    help="What of the network changes.  [default: head for a list of pfmap review, else all]",
)
@click.option("--attribution", default="", metavar="TEXT", help="Whom maps made with the model have to name.")
@click.option(
    "--from",
    "start_from",
    metavar="MODEL",
    help="Fine-tune this model.  [default: landcover for IMAGES, what it says for CONFIG]",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="What the paths in CONFIG are relative to.  [default: CONFIG's folder]",
)
@options("device")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in the output folder.")
@click.option("--overwrite", is_flag=True, help="Replace the model or checkpoint in the output folder.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@click.pass_context
def train(
    ctx: click.Context,
    /,
    source: Path,
    output_dir: Path,
    labels: str | None,
    start_from: str | None,
    data: Path | None,
    device: str,
    resume: bool,
    overwrite: bool,
    quiet: bool,
    **about_images: Any,
) -> None:
    """Train a PFNet on your own images.

    Either fine-tune a model on IMAGES, an orthophoto or a folder of images, with --labels; the configuration
    that this makes is written to train.toml beside the model. Or train as a CONFIG (.toml) says that you
    wrote: its classes, its data sets, their validation parts.

    Several GPUs: torchrun --nproc-per-node 4 -m pfmap train ...
    """
    with importing():
        from pfmap.core.stages import Message, stage
        from pfmap.model.store import DEFAULT_MODEL, load_model
        from pfmap.train import config as settings
        from pfmap.train import loop, quick

    loop.check_output(output_dir, resume=resume, overwrite=overwrite)
    leads = os.environ.get("RANK", "0") == "0"
    if source.suffix == ".toml":
        refuse_given(ctx, ("labels", *about_images), f": {source} says that already; change it there")
        config, folder = settings.read_config(source), data or source.parent
    elif labels is None:
        raise click.UsageError(f"{source} needs --labels: polygons, a label raster, or a folder of masks")
    else:
        described = quick.QuickOptions(source, labels, **about_images)
        base = load_model(start_from or DEFAULT_MODEL)
        config, folder = quick.quick_config(described, base, output_dir, write=leads), output_dir
    before: dict[str, Figures] = {}
    with bar_of("step", quiet=quiet or not leads, total=config.training.steps) as bar:
        write(stage("train", "training"), bar)

        def on_step(progress: "Progress") -> None:
            bar.update(progress.step - bar.n)
            bar.set_postfix(loss=f"{progress.loss:.4f}", rate=f"{progress.rate:.1e}", refresh=False)

        def on_validation(step: int, figures: "Validation") -> None:
            if not step:
                before.update(figures)
            for name, figure in figures.items():
                facts = {"step": step, "part": name, **asdict(figure)}
                write(Message(f"step {step}  {_line(name, figure)}", "validation", facts), bar)

        figures = loop.train(
            config,
            folder,
            output_dir,
            device=device,
            start_from=start_from,
            resume=resume,
            overwrite=overwrite,
            on_step=on_step,
            on_validation=on_validation,
            on_message=lambda text: write(text, bar),
        )
    if leads:
        tell("result", outputs={"model": output_dir}, figures={k: asdict(one) for k, one in figures.items()})
        for name, figure in figures.items():
            if name in before:
                say(f"before: {_line(name, before[name])}")
            say("after:  " * (name in before) + _line(name, figure))
        say(f"wrote {output_dir}")


def _line(name: str, figure: "Figures") -> str:
    per_class = "  ".join(f"{klass} {value:.3f}" for klass, value in figure.iou.items())
    contact = "" if figure.contact is None else f"  contact {figure.contact:.3f}"
    right = f"sure pixels right {figure.accuracy:.3f}"
    return f"{name:<12} mean IoU {figure.mean_iou:.3f}  {right}  {per_class}{contact}"
