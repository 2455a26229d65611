"""What commands share: options made from the fields of `pfmap.mapping.options`, and errors in their words."""

import ast
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field
from functools import reduce
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin

import click
from click.core import ParameterSource

from pfmap.cli.progress import stop_on_input
from pfmap.cli.screen import say, show_progress, speak_up
from pfmap.core.errors import PfmapError, SourceError, UsageError, worded_by
from pfmap.core.files import in_bucket
from pfmap.core.option import OPTIONS, Option
from pfmap.core.system import limits
from pfmap.mapping.options import SceneSettings, ShapeSettings
from pfmap.mapping.run_options import SurveyOptions

_FILES = 256  # as many sheets of a virtual scene are open at once, and all else

F = TypeVar("F", bound=Callable[..., Any])

# A name with nothing before it, "=", and a value: Python's, a word in capitals that stands for one, or none.
# What goes on otherwise is no option but part of a path, such as /maps/scale=2/scene.tif.
_NAMED = re.compile(
    r"""(?<![\w./\\-]) ([a-z]\w*) =
        ( '[^']*' | "[^"]*"
        | \( (?: '[^']*' | "[^"]*" | [^()'"] )* \)
        | \{ (?: '[^']*' | "[^"]*" | [^{}'"] )* \}
        | -?\d+(?:\.\d+)? | True | False | None
        | [A-Z][A-Z,:]* )?
        (?= [\s,;:!?)] | \.?$ | \.\s )""",
    re.VERBOSE,
)


class Command(click.Command):
    """A command whose errors name options as the command line has them, and that says more if told to."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.params.append(
            click.Option(
                ["-v", "--verbose"],
                is_flag=True,
                expose_value=False,
                help="Say more: how long stages took, and what libraries say.",
                callback=lambda _ctx, _param, value: speak_up() if value else None,
            )
        )
        if any(one.name == "quiet" for one in self.params):  # it takes its time
            self.params += _following()

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse; what is wrong with an option is told in the form asked for, too."""
        how = [(f"{a}={b}" if a == "--progress" else a) for a, b in pairwise([*args, ""])]
        known = [one.removeprefix("--progress=") for one in how if one in map("--progress={}".format, _WAYS)]
        show_progress((known or ["bar"])[-1], ctx.info_name or "")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Call the library; what it refuses keeps these names when it is printed."""
        with worded_by(as_flags(self.params)):
            try:
                _refuse_confined()
                if ctx.meta.get(_STOPS):
                    stop_on_input()
                return super().invoke(ctx)
            except PfmapError as error:
                error.args = (str(error),)
                raise


_WAYS = ("bar", "json", "none")
_STOPS = "pfmap.stop_on_input"


def _following() -> list[click.Parameter]:
    """Make the options with which a program follows a command, and stops it."""
    return [
        click.Option(
            ["--progress"],
            type=click.Choice(_WAYS),
            default=_WAYS[0],
            expose_value=False,
            show_default=True,
            help="How progress is shown on standard error; json is a line for programs per event.",
        ),
        click.Option(
            ["--stop-on-input"],
            is_flag=True,
            expose_value=False,
            help="Stop, as on Ctrl-C, once a line comes on standard input, or it ends.",
            callback=lambda ctx, _param, value: ctx.meta.update({_STOPS: value}),
        ),
    ]


def _refuse_confined() -> None:
    """Refuse what would end in words, of libraries too, that lead astray."""
    try:
        Path.cwd()
    except OSError as error:  # torch would end the process in C
        raise SourceError("the current folder is gone: change to one that is there") from error
    now, most = limits.getrlimit(limits.RLIMIT_NOFILE)
    if now < _FILES:
        try:
            limits.setrlimit(limits.RLIMIT_NOFILE, (_FILES, most))
        except ValueError as error:
            raise SourceError(
                f"this process may have {now} files open, and needs up to {_FILES}: raise that limit (ulimit "
                "-n)"
            ) from error


def as_flags(parameters: Iterable[click.Parameter]) -> Callable[[str], str]:
    """Make a function that writes a command's options in a text as flags.

    ``min_area=`` becomes ``--min-area``, ``device='cpu'`` ``--device cpu``, ``bands=(1, 2, 3)``
    ``--bands 1,2,3``, ``names={1: 'road'}`` ``--names 1=road``, ``resample=False`` ``--no-resample``. Names
    that are no options of the command stay.
    """
    options = {one.name: one for one in parameters if isinstance(one, click.Option)}

    def flag(match: re.Match[str]) -> str:
        if (option := options.get(match[1])) is None:
            return match[0]
        flags = option.secondary_opts if match[2] == "False" and option.secondary_opts else option.opts
        name = max(flags, key=len)
        if match[2] is None or option.is_flag:
            return name
        return f"{name} {_value(match[2])}"

    return lambda text: _NAMED.sub(flag, text)


def _value(text: str) -> str:
    """Write a value as it is given on the command line."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text  # a word in capitals
    if isinstance(value, dict):
        return ",".join(f"{key}={name}" for key, name in value.items())
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


class OutputFolder(click.Path):
    """A folder, or a place in a bucket."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return it as a path."""
        from pfmap.raster.location import output_folder

        try:
            folder = output_folder(value)
        except PfmapError as error:
            self.fail(str(error), param, ctx)
        return folder if in_bucket(folder) else super().convert(value, param, ctx)


def output_dir(default: str) -> Callable[[F], F]:
    """Make the option that says where outputs go."""
    return click.option(
        "-o",
        "--output-dir",
        type=OutputFolder(path_type=Path, file_okay=False),
        help=f"Where the outputs go: a folder, or s3://bucket/folder.  [default: {default}]",
    )


def percent_option(kind: str, text: str) -> Callable[[F], F]:
    """Make the option that names a raster in percent, by default what pfmap wrote beside the classes."""
    default = f"<stem>_{kind}.tif beside <stem>_classes.tif"
    return click.option(f"--{kind}", metavar="RASTER", help=f"{text}  [default: {default}]")


def listed(read: Callable[[Iterable[str]], Any]) -> Callable[..., Any]:
    """Build a callback that reads what is separated by commas, in one text or several."""

    def parse(_ctx: click.Context, _param: click.Parameter, texts: str | tuple[str, ...] | None) -> Any:
        if texts is None:
            return None
        text = texts if isinstance(texts, str) else ",".join(texts)
        try:
            return read(part.strip() for part in text.split(",") if part.strip())
        except UsageError as error:
            raise click.BadParameter(str(error)) from error

    return parse


class_names = listed(tuple)


def pairs(
    key: Any, value: Any = str, form: str | None = "VALUE=NAME", example: str = "10=trees,20=shrubs"
) -> Callable[..., Any]:
    """Build a callback that reads pairs, each key once, with a function for each side; None if there is none.

    What is no text has no ``=``, so that a name before it may have some; else what follows may.
    """

    def read(parts: Iterable[str]) -> dict[Any, Any] | None:
        found: dict[Any, Any] = {}
        for part in parts:
            one, _, other = part.partition("=") if value is str else part.rpartition("=")
            try:
                pair = key(one.strip()), value(other.strip())
            except ValueError:
                pair = "", ""
            if "" in pair or pair[0] in found or (key is int and not one.strip().isdecimal()):
                raise UsageError(f"{part!r} is not {form}, each once: write {form}, such as {example}")
            found[pair[0]] = pair[1]
        return found or None

    return listed(read)


def numbers(count: int | None, kind: type[int] | type[float], example: str) -> Callable[..., Any]:
    """Build a callback that reads numbers, separated by commas: so many, or any number of them."""

    def parse(_ctx: click.Context, _param: click.Parameter, text: str | None) -> tuple[float, ...] | None:
        if text is None:
            return None
        try:
            values = tuple(kind(part) for part in text.split(","))
        except ValueError as error:
            raise click.BadParameter(f"{text!r} is no list of numbers such as {example}") from error
        if count is not None and len(values) != count:
            raise click.BadParameter(
                f"{text!r} has {len(values)} numbers; {count} are needed, such as {example}"
            )
        return values

    return parse


def options(*names: str) -> Callable[[F], F]:
    """Give a command options of mapping, by the names of their fields."""
    made = [_made(OPTIONS[name]) for name in reversed(names)]
    return lambda command: reduce(lambda given, add: add(given), made, command)


def _made(field: Field[Any]) -> Callable[[F], F]:
    """Make the command line's option of a field."""
    about: Option = field.metadata["option"]
    text = about.text + f"  [default: {about.words}]" * bool(about.words)
    plain, name = field.default is False, field.name.replace("_", "-")
    flag = f"--{name}/--no-{name}" if field.default is True else f"--{name}"
    return click.option(
        *(about.flags or (flag,)),
        field.name,
        default="" if field.default == () else field.default,
        is_flag=plain or None,
        show_default=not (plain or about.words or field.default is None),
        metavar=about.metavar,
        help=_FLAGS(text),
        **_parsing(field.type, about),
    )


def _parsing(kind: Any, about: Option) -> dict[str, Any]:
    """Say how the command line reads a type: click's arguments for it."""
    if isinstance(kind, UnionType):
        (kind,) = (one for one in get_args(kind) if one is not NoneType)
    if about.choices:
        return {"type": click.Choice(about.choices), "multiple": get_origin(kind) is tuple}
    if get_origin(kind) is Mapping:
        key, value = get_args(kind)
        return {"callback": pairs(key, value, about.metavar, about.example), "multiple": True}
    if kind is int:
        return {"type": click.IntRange(min=int(about.least or 0))}
    if kind is float:
        return {"type": click.FloatRange(min=about.least, min_open=about.above)}
    if get_origin(kind) is tuple:
        first, *others = get_args(kind)
        count = None if others == [...] else 1 + len(others)
        return {"callback": class_names if first is str else numbers(count, first, about.example)}
    return {}


_FLAGS = as_flags(click.Option([f"--{name.replace('_', '-')}"]) for name in OPTIONS)
"""For the sentences of options that name others."""

scene_options = options(*SceneSettings.__annotations__)
shape_options = options(*dict.fromkeys(["formats", "classes", *ShapeSettings.__annotations__]))


def mapping_options(command: F) -> F:
    """Give a command all options that say where outputs of scenes go and what they are like."""
    command = options(*SurveyOptions.__slots__)(command)
    return output_dir("the scene's folder")(scene_options(shape_options(command)))


def refuse_given(ctx: click.Context, names: Iterable[str], why: str) -> None:
    """Refuse parameters that were given and have no meaning here."""
    told = {name for name in names if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if given := [one for one in ctx.command.params if one.name in told]:
        shown = [max(one.opts, key=len) if one.opts[0][0] == "-" else one.opts[0].upper() for one in given]
        raise click.UsageError(f"{', '.join(shown)}{why}")


def show_made(unit: str, rows: Iterable[tuple[str, float, int]], paths: Iterable[object]) -> None:
    """Print what a map shows, as name, area and objects of each class, and which files were written."""
    say(f"{'class':<20} {'area ' + unit:>14} {'objects':>9}")
    for name, area, objects in rows:
        say(f"{name:<20} {area:>14,.0f} {objects:>9,}")
    for path in paths:
        say(f"wrote {path}")
