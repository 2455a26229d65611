"""Options that are said once: a field has its type, its default and its sentence, for everybody.

The command line, the signatures and the docstrings of Python functions are made from these fields. Nothing
heavy is imported here: ``pfmap predict --help`` reads this module.
"""

import inspect
import math
import os
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, TypeVar, get_args, get_origin

from pfmap.core.errors import UsageError

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

OPTIONS: dict[str, Field[Any]] = {}


@dataclass(frozen=True, slots=True)
class Option:
    """What is to be known of an option beyond its name, its type and its default."""

    text: str
    """A sentence for everybody, in which other options are named like ``min_area=``."""
    more: str = ""
    """What only who calls from Python has to know."""
    words: str = ""
    """The default in words, where the value does not say it."""
    flags: tuple[str, ...] = ()
    """On the command line, if not the name with dashes; `PYTHON_ONLY` for none."""
    metavar: str | None = None
    """Stands for the value in the command's help."""
    example: str = ""
    """A list of numbers, or a value by name, as the command line takes it."""
    choices: tuple[str, ...] = ()
    """The values that are possible; empty for all of the type."""
    least: float | None = None
    above: bool = False
    """Whether `least` itself is not possible."""


PYTHON_ONLY = ("",)


def option(default: T, text: str, **about: Any) -> T:
    """Make the field of an option: its default, its sentence, and what else `Option` says of it."""
    return field(default=default, metadata={"option": Option(text, **about)})


def register(*kinds: type) -> None:
    """Note the options among the fields of dataclasses."""
    for kind in kinds:
        OPTIONS.update({one.name: one for one in fields(kind) if "option" in one.metadata})


def check(options: Any) -> None:
    """Refuse values that no option of this dataclass has."""
    for one in fields(options):
        found: Option | None = one.metadata.get("option")
        value, name = getattr(options, one.name), one.name.replace("_", " ")
        if found is None or value is None:
            continue
        if found.choices:
            values = (value,) if isinstance(value, str) else value
            if unknown := [repr(each) for each in values if each not in found.choices]:
                known = f"{', '.join(found.choices[:-1])} or {found.choices[-1]}"
                raise UsageError(f"{name.removesuffix('s')} {unknown[0]} is unknown: use {known}")
        elif found.least is not None:
            least, word = found.least, "a number above {:g}" if found.above else "{:g} or more"
            if not (least <= value < math.inf) or (found.above and value == least):
                raise UsageError(f"{name} {value} is not possible: use {word.format(least)}")


def take(kind: type[T], settings: Mapping[str, object]) -> tuple[T, dict[str, Any]]:
    """Make options of those settings that are theirs; the others are left for whoever knows them."""
    left: dict[str, Any] = {name: _plain(name, value) for name, value in settings.items()}
    own = {name: left.pop(name) for name in kind.__dataclass_fields__ if name in left}  # type: ignore[attr-defined]
    return kind(**own), left


def _plain(name: str, value: Any) -> Any:
    """Return a setting as options keep it: lists as tuples, a path as text."""
    if value is None or name not in OPTIONS:
        return value
    if isinstance(value, Mapping):
        return {key: os.fspath(one) if isinstance(one, os.PathLike) else one for key, one in value.items()}
    one = OPTIONS[name]
    kinds = (one.type, *get_args(one.type))
    if any(get_origin(kind) is tuple for kind in kinds):
        return tuple(dict.fromkeys(value)) if one.metadata["option"].choices else tuple(value)
    return os.fspath(value) if str in kinds and isinstance(value, os.PathLike) else value


def explained(call: F) -> F:
    """Complete the docstring and the signature of a function that takes ``**settings: Unpack[...]``.

    Each option comes after what the docstring says itself of the arguments, in the order of the settings.
    """
    signature = inspect.signature(call)
    *own, settings = signature.parameters.values()
    (names,) = get_args(settings.annotation)
    options = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=OPTIONS[name].default, annotation=OPTIONS[name].type
        )
        for name in names.__annotations__
    ]
    call.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    before, args, after = (call.__doc__ or "").partition("Args:\n")  # python -OO leaves none
    arguments, gap, rest = after.partition("\n\n")
    entries = "\n".join(_entry(OPTIONS[name]) for name in names.__annotations__)
    call.__doc__ = f"{before}{args}{arguments}\n{entries}{gap}{rest}"
    return call


def _entry(one: Field[Any]) -> str:
    """Write the entry of an option in a docstring."""
    found: Option = one.metadata["option"]
    parts = [
        found.text,
        found.more,
        f"One of {', '.join(found.choices)}." * bool(found.choices),
        f"Default: {found.words}." * bool(found.words),
    ]
    text = f"{one.name}: {' '.join(filter(None, parts))}"
    return textwrap.fill(text, 110, initial_indent=" " * 8, subsequent_indent=" " * 12)
