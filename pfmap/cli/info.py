"""`pfmap info`: what mapping a scene would take."""

import json
from pathlib import Path
from typing import Any

import click

from pfmap.cli.common import scene_options


@click.command()
@click.argument("scene")
@scene_options
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def info(
    scene: str,
    output_dir: Path | None,
    model: str,
    device: str,
    precision: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Say what SCENE is and what mapping it would take, after mapping a small piece of it.

    Takes the options of pfmap predict that matter for it; writes nothing.
    """
    from pfmap.mapping import pipeline
    from pfmap.mapping.options import PredictOptions
    from pfmap.mapping.preflight import describe_table

    table = pipeline.inspect(
        scene,
        output_dir,
        model=model,
        device=device,
        precision=precision,
        options=PredictOptions(**options),
    )
    if as_json:
        click.echo(json.dumps(table, indent=2))
        return
    for line in describe_table(table):
        click.echo(line)
