"""The `pfmap` command: its subcommands by name, each imported only when it is called."""

import logging
import sys
from importlib import import_module
from typing import Any, NoReturn

import click

from pfmap.core.errors import PfmapError
from pfmap.version import __version__

_COMMANDS = (
    "predict", "batch", "vectorize", "summary", "evaluate", "info", "points", "models", "train", "bench",
)  # fmt: skip
"""Each is in a module of its name, which is imported when the command is used."""


class LazyGroup(click.Group):
    """A group whose commands are imported on first use: torch takes seconds, ``--help`` must not."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names in the order in which they are used."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the module that holds a command."""
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"pfmap.cli.{cmd_name}"), cmd_name)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pfmap", message="%(prog)s %(version)s")
def cli() -> None:
    """Map orthophotos with PFNet: class rasters and object polygons, ready for QGIS.

    \b
    pfmap predict scene.tif           map a scene with the default model
    pfmap batch SURVEY -o maps        map all scenes of a folder, and join them
    pfmap vectorize classes.tif       polygons of any class raster
    pfmap summary objects.gpkg        objects and areas per class and zone
    pfmap evaluate map.tif truth.tif  how well a map agrees with the truth
    pfmap info scene.tif              what it is, and what mapping it would take
    pfmap models list                 what models there are
    pfmap points scene.tif --window 0,0   where PointFlow looks in a window
    pfmap train scene.tif --labels parcels.gpkg -o mine   a model for your own ground
    pfmap bench                       how fast it is here, and what bounds it
    """  # noqa: D301 - click wants the control character, not a backslash


def _quiet_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """Leave out what rasterio's and pyogrio's own loggers trip over, such as odd letters in a header."""
    if "rasterio._e" not in str(unraisable.object) and "pyogrio._err" not in str(unraisable.object):
        sys.__unraisablehook__(unraisable)


def run(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 failed, 2 usage, 130 interrupted."""
    sys.unraisablehook = _quiet_unraisable
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    try:
        status: Any = cli.main(args=arguments, prog_name="pfmap", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except PfmapError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted.", err=True)
        sys.exit(130)
    except (MemoryError, RuntimeError) as error:  # where nobody nearer to it knew better
        from pfmap.core.resources import lack_of, lacks_memory

        if not lacks_memory(error):
            raise
        click.echo(
            f"Error: {lack_of(error)}: close other programs, or raise the limit of this process", err=True
        )
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)
