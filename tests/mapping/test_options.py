"""An option is said once: the signatures, their docs and the command line are made from its field."""

import inspect
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, get_args, get_origin, get_type_hints

import click
import pytest

import pfmap
from pfmap.cli.main import cli
from pfmap.core.errors import UsageError
from pfmap.core.option import OPTIONS, PYTHON_ONLY, take
from pfmap.mapping import options
from pfmap.mapping.options import (
    PredictOptions,
    SceneSettings,
    Settings,
    ShapeOptions,
    ShapeSettings,
    SurveySettings,
)
from pfmap.mapping.run_options import RunOptions, SurveyOptions
from pfmap.mapping.runtime import PRECISIONS
from pfmap.model.lanes import VIEWS
from pfmap.model.store import DEFAULT_MODEL, Model
from pfmap.vector.formats import FORMATS


def names(kind: type) -> set[str]:
    return {one.name for one in fields(kind)} - {"shapes"}


def as_kept(kind: Any) -> Any:
    """The type that options keep of what settings take: lists become tuples, paths text."""
    parts = {as_kept(part) for part in get_args(kind)}
    if get_origin(kind) is Sequence:
        return ("tuple", *parts)
    if get_origin(kind) is tuple and Ellipsis in get_args(kind):
        return ("tuple", *(parts - {as_kept(...)}))
    if "PathLike" in repr(kind):
        return as_kept(str | None)
    return frozenset(parts) if parts and get_origin(kind) is not tuple else repr(kind)


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [
        (ShapeSettings, [ShapeOptions]),
        (Settings, [RunOptions, PredictOptions, ShapeOptions]),
        (SurveySettings, [RunOptions, PredictOptions, ShapeOptions, SurveyOptions]),
    ],
)
def test_settings_are_the_fields_with_their_types(settings: type, kinds: list[type]) -> None:
    local = {"Model": Model, "Cluster": RunOptions}
    given = get_type_hints(settings, localns=local)
    kept: dict[str, Any] = {}
    for kind in kinds:
        hints = get_type_hints(kind, vars(options), localns=local)
        kept |= {name: hints[name] for name in names(kind)}
    assert given.keys() == kept.keys()
    for name, kind in given.items():
        assert as_kept(kind) == as_kept(kept[name]), name


def test_choices_and_defaults_are_what_the_library_knows() -> None:
    choices = {
        field.name: field.metadata["option"].choices
        for kind in (ShapeOptions, RunOptions, PredictOptions)
        for field in fields(kind)
        if "option" in field.metadata
    }
    assert choices["formats"] == FORMATS
    assert RunOptions().model == DEFAULT_MODEL
    assert choices["precision"] == ("auto", *PRECISIONS)
    assert choices["tta"] == tuple(VIEWS)


FUNCTIONS = [
    (pfmap.predict, Settings),
    (pfmap.inspect, SceneSettings),
    (pfmap.vectorize, ShapeSettings),
    (pfmap.predict_all, SurveySettings),
    (pfmap.batch, SurveySettings),
]


@pytest.mark.parametrize(("call", "settings"), FUNCTIONS)
def test_a_function_says_all_that_it_takes(call: Callable[..., Any], settings: type) -> None:
    parameters = inspect.signature(call).parameters
    assert call.__doc__ is not None
    arguments = call.__doc__.partition("Args:")[2].partition("Returns:")[0]
    for name in settings.__annotations__:
        assert parameters[name].default == OPTIONS[name].default
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert f"\n        {name}: {OPTIONS[name].metadata['option'].text[:30]}" in arguments
    for name, parameter in parameters.items():
        assert name in arguments, parameter
    assert max(map(len, arguments.splitlines())) <= 110


@pytest.mark.parametrize(
    ("call", "name"), [(pfmap.predict, "watch"), (pfmap.predict, "overlapp"), (pfmap.vectorize, "overlap")]
)
def test_an_option_that_is_unknown_is_an_error(call: Callable[..., Any], name: str) -> None:
    with pytest.raises(TypeError, match=name):
        call("scene.tif", **{name: 1})


def test_options_take_what_is_theirs_and_leave_the_rest() -> None:
    run, left = take(RunOptions, {"device": "cpu", "classes": ["a"], "formats": ["shp", "gpkg", "shp"]})
    assert run == RunOptions(device="cpu")
    shapes, left = take(ShapeOptions, left)
    assert shapes.formats == ("shp", "gpkg")
    assert left == {"classes": ("a",)}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"drop_small": True, "min_area": 0}, "drop_small=True needs min_area="),
        ({"min_area": -1}, "min area -1 is not possible"),
        ({"split_large": -1}, "split large -1 is not possible"),
        ({"formats": ()}, "no vector format is named"),
        ({"formats": ("dwg",)}, "format 'dwg' is unknown"),
        ({"grid": "own"}, "grid 'own' is unknown: use scene or model"),
        ({"gsd": 0}, "gsd 0 is not possible"),
        ({"batch_size": 0}, "batch size 0 is not possible"),
        ({"scale": (2, 1)}, "scale 2,1 is not possible"),
        ({"tta": "d8"}, "tta 'd8' is unknown: use none, flips or d4"),
    ],
)
def test_values_that_are_not_possible_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        PredictOptions.of(**settings)


@pytest.mark.parametrize(
    ("command", "settings"),
    [
        ("predict", SurveySettings),
        ("batch", SurveySettings),
        ("vectorize", ShapeSettings),
        ("info", SceneSettings),
    ],
)
def test_a_command_has_every_option_with_its_default(command: str, settings: type) -> None:
    found = cli.get_command(click.Context(cli), command)
    assert found is not None
    parameters = {one.name: one for one in found.params}
    context = click.Context(found)
    for name in settings.__annotations__:
        about = OPTIONS[name].metadata["option"]
        if about.flags == PYTHON_ONLY:
            assert name not in parameters
            continue
        option = parameters[name]
        assert isinstance(option, click.Option)
        assert option.help is not None
        assert option.help.startswith(about.text[:20])
        value = option.process_value(context, option.get_default(context))
        assert (value or None) == (OPTIONS[name].default or None), name


def test_options_load_no_heavy_library() -> None:
    code = (
        "import sys, pfmap.mapping.options\n"
        "heavy = {'torch', 'geopandas', 'rasterio', 'numpy', 'shapely', 'numba'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
