"""Options in texts of the library, as the command line writes them: ``min_area=`` becomes ``--min-area``."""

import ast
import re
from collections.abc import Callable, Iterable

import click

# A name with nothing before it, "=", and a value: Python's, a word in capitals that stands for one, or none.
# What goes on otherwise is no option but part of a path, such as /maps/scale=2/scene.tif.
_NAMED = re.compile(
    r"(?<![\w./\\-])([a-z]\w*)="
    r"('[^']*'|\"[^\"]*\"|\([^()]*\)|\{[^{}]*\}|-?\d+(?:\.\d+)?|True|False|None|[A-Z][A-Z,:]*)?"
    r"(?=[\s,;:!?)]|\.?$|\.\s)"
)


def as_flags(parameters: Iterable[click.Parameter]) -> Callable[[str], str]:
    """Make a function that writes a command's options in a text as flags.

    ``min_area=`` becomes ``--min-area``, ``device='cpu'`` ``--device cpu``, ``bands=(1, 2, 3)``
    ``--bands 1,2,3``, ``names={1: 'road'}`` ``--names 1=road``, ``resample=False`` ``--no-resample``. Names
    that are no options of the command stay.
    """
    options = {one.name: one for one in parameters if isinstance(one, click.Option)}

    def flag(match: re.Match[str]) -> str:
        option = options.get(match[1])
        if option is None:
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
