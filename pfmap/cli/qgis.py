"""`pfmap qgis`: pfmap in QGIS's toolbox."""

from pathlib import Path

import click

from pfmap.cli.common import Command
from pfmap.cli.screen import say

profile_option = click.option(
    "--profile", metavar="NAME", help="The user profile of QGIS.  [default: the one that QGIS starts with]"
)


@click.group()
def qgis() -> None:
    """Put pfmap into QGIS's Processing toolbox, as a plugin that runs this pfmap."""


@qgis.command(cls=Command)
@profile_option
def install(profile: str | None) -> None:
    """Put the plugin into your profile of QGIS, and switch it on.

    It runs the pfmap that installs it. Another, or one on a server, is named in QGIS's settings: Options >
    Processing > Providers > pfmap.
    """
    from pfmap.core import profiles

    for folder in profiles.install(profile):
        say(f"installed in {folder}: start QGIS again, and look for pfmap in the Processing toolbox")


@qgis.command(cls=Command)
@profile_option
def uninstall(profile: str | None) -> None:
    """Take the plugin out of your profile of QGIS."""
    from pfmap.core import profiles

    folders = profiles.uninstall(profile)
    say(*[f"removed {folder}" for folder in folders] or ["nothing to remove: the plugin is not there"])


@qgis.command("zip", cls=Command)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--overwrite", is_flag=True, help="Replace the file.")
def zip_command(file: Path, overwrite: bool) -> None:
    """Write the plugin as FILE for QGIS's own dialog: Plugins > Install from ZIP."""
    from pfmap.core import profiles

    profiles.pack(file, overwrite=overwrite)
    say(f"wrote {file}: install it in QGIS by Plugins > Manage and Install Plugins > Install from ZIP")
