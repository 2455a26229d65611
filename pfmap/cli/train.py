"""`pfmap train`: train a model."""

import sys
from pathlib import Path

import click
from tqdm import tqdm

from pfmap.cli.options import device_option


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output-dir",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="The model folder to write.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="What the paths in CONFIG are relative to.  [default: CONFIG's folder]",
)
@click.option("--from", "start_from", metavar="MODEL", help="Fine-tune this model instead of starting anew.")
@device_option
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in the output folder.")
@click.option("--overwrite", is_flag=True, help="Replace the model or checkpoint in the output folder.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
def train(
    config: Path,
    output_dir: Path,
    data: Path | None,
    start_from: str | None,
    device: str,
    resume: bool,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Train a PFNet as CONFIG says: its classes, its data sets, their validation parts."""
    from pfmap.engine.device import choose_device
    from pfmap.engine.store import load_model
    from pfmap.train import config as settings
    from pfmap.train import loop
    from pfmap.train.validate import Validation

    parsed = settings.read_config(config)
    with tqdm(total=parsed.training.steps, unit="step", disable=quiet or None, file=sys.stderr) as bar:

        def on_step(progress: loop.Progress) -> None:
            bar.update(progress.step - bar.n)
            bar.set_postfix(loss=f"{progress.loss:.4f}", rate=f"{progress.rate:.1e}", refresh=False)

        def on_validation(step: int, figures: Validation) -> None:
            for name, figure in figures.items():
                per_class = "  ".join(f"{c} {v:.3f}" for c, v in figure.iou.items())
                bar.write(
                    f"step {step}  {name:<12} mean IoU {figure.mean_iou:.3f}  sure pixels right "
                    f"{figure.accuracy:.3f}  {per_class}",
                    file=sys.stderr,
                )

        figures = loop.train(
            parsed,
            data if data is not None else config.parent,
            output_dir,
            device=str(choose_device(device)),
            start_from=load_model(start_from) if start_from is not None else None,
            resume=resume,
            overwrite=overwrite,
            on_step=on_step,
            on_validation=on_validation,
        )
    for name, figure in figures.items():
        click.echo(f"{name:<16} mean IoU {figure.mean_iou:.3f}")
    click.echo(f"wrote {output_dir}")
