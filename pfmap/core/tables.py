"""Tables of TOML and JSON files as dataclasses: a model's card, a training configuration, a scene's report.

Reading is strict: a key that is missing, unknown or of the wrong kind is an error that names it, so that a
typo never becomes a silent default. cattrs reads, and gathers all that is wrong; what it would let pass, such
as the text "3" for a number, the hooks at the end refuse.
"""

import json
import math
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from reprlib import repr as shown  # long values shortened
from typing import Any, Literal, TypeVar, cast, get_args, get_origin

from cattrs import Converter, errors
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from pfmap.core.errors import ModelError, PfmapError, saying
from pfmap.core.files import read_text

T = TypeVar("T")


def read_toml(path: Path, kind: type[PfmapError] = ModelError) -> dict[str, Any]:
    """Read any TOML file; an error of this kind says that it cannot be read or is no TOML."""
    try:
        with saying(f"{path} cannot be read", kind):
            return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise kind(f"{path} is not valid TOML: {error}") from error


def read_json(path: Path, kind: type[T]) -> T | None:
    """Read a dataclass from a JSON file that `table_of` made; None where there is none that can be read."""
    try:
        return build(kind, parse_json(read_text(path)))
    except (OSError, ValueError, ModelError):
        return None


def parse_json(text: str | bytes) -> Any:
    """Parse JSON that others may have written: a `ValueError` where it is none, or nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(str(error)) from error


def build(kind: type[T], tables: object, where: str = "") -> T:
    """Build a settings dataclass, or a tuple of them, from parsed TOML; its fields' types say what fits.

    Messages name keys in full, below the key `where` of the file.
    """
    try:
        return CONVERTER.structure(tables, kind)
    except (errors.ClassValidationError, errors.IterableValidationError) as error:
        raise ModelError("; ".join(_problems(error, tables, where))) from error
    except ModelError as error:
        raise ModelError(f"{where} {error}".strip()) from error


def table_of(settings: Any) -> dict[str, Any]:
    """Turn a dataclass back into the table that `build` makes it of; optional fields that are unset go."""
    return cast(dict[str, Any], CONVERTER.unstructure(settings))


def check_values(settings: Any, error: type[PfmapError] = ModelError) -> None:
    """Refuse a text that is none of those that its field's type lists, and numbers that are not finite.

    Settings are made in Python too, and TOML knows nan and inf.
    """
    for item in fields(settings):
        value = getattr(settings, item.name)
        if get_origin(item.type) is Literal:
            try:
                _choice(value, item.type)
            except ModelError as unknown:
                raise error(f"{item.name} {unknown}") from None
        values = value.values() if isinstance(value, Mapping) else value
        for number in values if isinstance(values, Iterable) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise error(f"{item.name} is {shown(value)}: numbers have to be finite")


def _problems(error: Any, tables: Any, where: str) -> Iterator[str]:
    """Say what is wrong, with the full key of each; an item of a list goes by its name, if it has one."""
    noted, others = error.group_exceptions()
    for inner, note in noted:
        key = _keys(error.cl)[note.name] if isinstance(note, errors.AttributeValidationNote) else note.index
        part = None if isinstance(inner, KeyError) else tables[key]
        name = part.get("name") if isinstance(part, Mapping) and isinstance(key, int) else key
        plain = isinstance(name, str) and name.isprintable()
        path = f"{where}.{name}".removeprefix(".") if plain else f"{where}[{key!r}]"
        if isinstance(inner, errors.ClassValidationError | errors.IterableValidationError):
            yield from _problems(inner, part, path)
        elif isinstance(inner, KeyError):
            yield f"{path} is missing"
        elif isinstance(inner, PfmapError):
            yield f"{path} {inner}"
        else:
            raise inner
    for inner in others:
        if isinstance(inner, errors.ForbiddenExtraKeysError):
            yield f"{where} has unknown keys: {_with_hints(inner)}".removeprefix(" has ")
        elif isinstance(inner, PfmapError):
            yield f"{where}: {inner}".removeprefix(": ")
        else:
            raise inner


def _with_hints(error: errors.ForbiddenExtraKeysError) -> str:
    known = list(_keys(error.cl).values())
    near = {key: get_close_matches(key, known, 1) for key in sorted(error.extra_fields)}
    return ", ".join(f"{key} (is {meant[0]} meant?)" if meant else key for key, meant in near.items())


def _choice(value: object, kind: Any) -> object:
    if value not in get_args(kind):
        raise ModelError(f"{shown(value)} is unknown: use one of {', '.join(get_args(kind))}")
    return value


def _exactly(value: Any, kind: Any) -> Any:
    """Take a value as it is: cattrs by itself would make the number 3 of the text "3"."""
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ModelError(f"has to be {kind.__name__}, not {shown(value)}")
    return value


_LISTS = {str: "texts", int: "whole numbers", float: "numbers"}


def _tuple(value: Any, kind: Any) -> tuple[Any, ...]:
    """Make a tuple of a list; how many items it needs, the dataclass says."""
    item = get_args(kind)[0]
    if not isinstance(value, list | tuple):
        raise ModelError(f"has to be a list, not {shown(value)}")
    try:
        return tuple(CONVERTER.structure(value, list[item]))  # type: ignore[valid-type]
    except errors.IterableValidationError as error:
        if item not in _LISTS:
            raise
        raise ModelError(f"has to be a list of {_LISTS[item]}, not {shown(list(value))}") from error


def _settings(kind: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    make = make_dict_structure_fn(kind, converter, _cattrs_forbid_extra_keys=True, **_renamed(kind))
    return lambda value, kind: make(_table(value), kind)


def _written(kind: Any, converter: Converter) -> Callable[[Any], Any]:
    return make_dict_unstructure_fn(kind, converter, _cattrs_omit_if_default=True, **_renamed(kind))


def _keys(kind: Any) -> dict[str, str]:
    """Return how fields are called in files: as in Python, but where a file's word is none there."""
    return {item.name: item.metadata.get("key", item.name) for item in fields(kind)}


def _renamed(kind: Any) -> dict[str, Any]:
    return {name: override(rename=key) for name, key in _keys(kind).items() if name != key}


def _mapping(value: Any, kind: Any) -> Mapping[Any, Any]:
    return CONVERTER.structure(_table(value), dict[get_args(kind)])  # type: ignore[arg-type, misc]


def _table(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ModelError(f"has to be a table, not {shown(value)}")
    return value


def _is(origin: Any) -> Callable[[Any], bool]:
    return lambda kind: get_origin(kind) is origin


CONVERTER = Converter(unstruct_collection_overrides={tuple: list})
"""Turns parsed tables into settings; a module with a kind of field of its own registers how that is read."""
CONVERTER.register_structure_hook_factory(is_dataclass, _settings)
CONVERTER.register_unstructure_hook_factory(is_dataclass, _written)
CONVERTER.register_structure_hook_func(_is(Literal), _choice)
CONVERTER.register_structure_hook_func(_is(tuple), _tuple)
CONVERTER.register_structure_hook_func(_is(Mapping), _mapping)
for _kind in (int, float, str, bool):
    CONVERTER.register_structure_hook(_kind, _exactly)
