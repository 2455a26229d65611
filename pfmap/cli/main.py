"""The `pfmap` command: its subcommands by name, each imported only when it is called."""

import gc
import logging
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any, NoReturn

import click

from pfmap.cli.screen import close, fail, say, screen, separate, tell
from pfmap.core.errors import PfmapError, redacted, refused, visible
from pfmap.version import __version__

_COMMANDS = (
    "predict", "batch", "vectorize", "summary", "evaluate", "info", "points", "models", "review", "train",
    "qgis", "bench",
)  # fmt: skip
"""Each is in a module of its name, which is imported when the command is used."""


@contextmanager
def importing(*, tracing: bool = False) -> Iterator[None]:
    """Import without looking for garbage: what modules define stays, and is never looked through again.

    For `tracing` what that needs is compiled meanwhile.
    """
    known = len(sys.modules)
    gc.disable()
    try:
        if tracing:
            import_module("pfmap.trace.tracer").compile_ahead()
        yield
        if len(sys.modules) > known:
            gc.freeze()
    finally:
        gc.enable()


class LazyGroup(click.Group):
    """A group whose commands are imported on first use: torch takes seconds, ``--help`` must not."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names in the order in which they are used."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the module that holds a command."""
        if cmd_name not in _COMMANDS:
            return None
        with importing():
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
    pfmap review objects.gpkg -o review.gpkg   the objects most worth a look, to correct in QGIS
    pfmap train scene.tif --labels parcels.gpkg -o mine   a model for your own ground
    pfmap qgis install                have pfmap in the toolbox of QGIS
    pfmap bench                       how fast it is here, and what bounds it
    """  # noqa: D301 - click wants the control character, not a backslash


def run(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 failed, 2 usage, 128 and a signal's number."""
    separate()
    try:
        status = _status(arguments)
    except Exception:  # a bug: nothing of it is to be lost
        say(*traceback.format_exc().splitlines(), err=True)
        status = fail(
            "This is a bug in pfmap: please report it with these lines, the command, and what pfmap "
            "--version says.",
            1,
            shown="",
        )
        close(foreseen=False)
        sys.exit(status)
    with suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing is left to tidy up
    close(foreseen=True)
    sys.exit(status)


def _status(arguments: list[str] | None) -> int:  # noqa: PLR0911 - a way out for each kind of end
    """Run the command line; say what went wrong, and return the exit status."""
    try:
        status: Any = cli.main(args=arguments, prog_name="pfmap", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except click.ClickException as error:
        error.message = visible(redacted(error.message), "\n")  # type: ignore[misc]
        if not tell("error", text=error.format_message(), status=error.exit_code):
            error.show(screen())
        return error.exit_code
    except PfmapError as error:
        return fail(str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort) as stop:
        asked = stop.__cause__ or stop  # click raises an error of its own
        return fail("Interrupted.", 128 + int((asked.args or (signal.SIGINT,))[0]), shown="")
    except (MemoryError, RuntimeError) as error:  # where nobody nearer to it knew better
        from pfmap.core.resources import lack_of, lacks_memory

        if not lacks_memory(error):
            raise
        return fail(f"{lack_of(error)}: close other programs, or raise the limit of this process", 1)
    except OSError as error:
        logging.getLogger(__name__).debug("", exc_info=True)
        return fail(refused(error), 1)
    except SystemExit as end:
        return int(end.code or 0)
