"""`pfmap info`: what mapping a scene would take."""

from pathlib import Path
from typing import Unpack

import click

from pfmap.cli.common import Command, output_dir, scene_options
from pfmap.cli.screen import say, show
from pfmap.mapping.options import SceneSettings


@click.command(cls=Command)
@click.argument("scene")
@output_dir("the scene's folder")
@scene_options
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def info(scene: str, output_dir: Path | None, as_json: bool, **settings: Unpack[SceneSettings]) -> None:
    """Say what SCENE is and what mapping it would take, after mapping a small piece of it.

    Takes the options of pfmap predict that matter for it; writes nothing.
    """
    from pfmap.survey import single

    preflight = single.foresee(scene, output_dir, **settings)
    if as_json:
        show(preflight.table())
    else:
        say(*preflight.lines())
