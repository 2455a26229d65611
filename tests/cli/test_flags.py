"""Errors name options as callers know them: ``min_area=`` in Python, ``--min-area`` on the command line."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import pfmap
from docs import make_cli
from pfmap.cli.common import as_flags, pairs
from pfmap.cli.main import cli
from pfmap.core.errors import UsageError, worded, worded_by

LIBRARY = Path(pfmap.__file__).parent
OTHERS = {"--nproc-per-node", "--memory-limit", "--resources"}  # flags of other programs


COMMANDS = [context.command for context in make_cli.commands()]
OPTIONS = [option for command in COMMANDS for option in command.params if isinstance(option, click.Option)]
NAMES = {option.name for option in OPTIONS}
FLAGS = {flag for option in OPTIONS for flag in (*option.opts, *option.secondary_opts) if flag[:2] == "--"}


def texts(path: Path) -> Iterator[str]:
    """All texts of a module but docstrings, with something in the place of what Python fills in."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if id(node) in bare | inside:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value)
                if isinstance(part, ast.Constant)
                else "'4'" if isinstance(part, ast.FormattedValue) and part.conversion == ord("r") else "4"
                for part in node.values
            )  # fmt: skip


# The plugin of QGIS is no library: it calls the command line, as a user does.
MODULES = [path for path in sorted(LIBRARY.rglob("*.py")) if path.parent.name not in ("cli", "plugin")]
MESSAGES = [
    (str(path.relative_to(LIBRARY)), text)
    for path in MODULES
    for text in texts(path)
    if " " in text.strip()
    and "<" not in text
    and {name for name in re.findall(r"([a-z]\w*)=", text) if name in NAMES}
]


@pytest.mark.parametrize(("module", "text"), MESSAGES)
def test_every_option_that_the_library_names_becomes_a_flag(module: str, text: str) -> None:
    named = [name for name in re.findall(r"([a-z]\w*)=", text) if name in NAMES]
    shown = as_flags(OPTIONS)(text)
    flags = re.findall(r"--[a-z][a-z\d-]*", shown)
    assert len(flags) >= len(named), (module, shown)
    assert set(flags) <= FLAGS
    assert not [name for name in re.findall(r"([a-z]\w*)=", shown) if name in NAMES], (module, shown)


def test_the_library_names_options_at_all() -> None:
    assert len(MESSAGES) > 50


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_the_library_writes_no_flags(path: Path) -> None:
    if path.name in {"options.py", "run_options.py", "scaling.py"}:  # about commands; where a scale is from
        return
    found = {flag for text in texts(path) for flag in re.findall(r"(?<![\w-])--[a-z][a-z\d-]+", text)}
    assert not (found - OTHERS) & FLAGS, path


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("needs min_area=: how small?", "needs --min-area: how small?"),
        ("try precision='bfloat16', or device='cpu'", "try --precision bfloat16, or --device cpu"),
        ("such as bands=(1, 2, 3) for this", "such as --bands 1,2,3 for this"),
        ("name classes=('road', 'a (b)')", "name --classes road,a (b)"),
        ("use min_area=2.5.", "use --min-area 2.5."),
        ("state it with gsd=METRES", "state it with --gsd METRES"),
        ("leave out resample=False.", "leave out --no-resample."),
        ("with resample=True", "with --resample"),
        ("replace with overwrite=True", "replace with --overwrite"),
        ("choose them by pattern=", "choose them by --glob"),
        ("formats= is empty", "--format is empty"),
        ("(output_dir=)", "(--output-dir)"),
    ],
)
def test_names_and_values_become_flags(text: str, shown: str) -> None:
    command = cli.get_command(click.Context(cli), "predict")
    assert command is not None
    assert as_flags(command.params)(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "/maps/scale=2/scene.tif is missing",
        "scale=2/scene.tif is missing",
        "bands=3.tif is missing",
        "s3://b/classes=x/y",
        "x.classes= and my_bands=2",
        "names={1: 'road'} is for another command",
    ],
)
def test_what_is_no_option_of_the_command_stays(text: str) -> None:
    command = cli.get_command(click.Context(cli), "predict")
    assert command is not None
    assert as_flags(command.params)(text) == text


def test_values_by_name_become_pairs() -> None:
    command = cli.get_command(click.Context(cli), "evaluate")
    assert command is not None
    text = "say mapping={'4': 'NAME'}, ignore=('4',) or only='other': done"
    assert as_flags(command.params)(text) == "say --map 4=NAME, --ignore 4 or --only other: done"


def test_an_error_is_worded_for_python_and_for_the_command_line(tmp_path: Path) -> None:
    raster = tmp_path / "cover.tif"
    with pytest.raises(UsageError, match="drop_small=True needs min_area=:") as caught:
        pfmap.vectorize(raster, drop_small=True)
    done = CliRunner().invoke(cli, ["vectorize", str(raster), "--drop-small"])
    assert str(done.exception) == "--drop-small needs --min-area: how small is small?"
    assert "min_area=" in str(caught.value)
    assert worded("min_area=") == "min_area="


def test_other_threads_and_errors_in_errors_are_worded_too() -> None:
    with worded_by(str.upper):
        inner = UsageError("with bands=")
        assert f"{UsageError(f'scene: {inner}')}" == "SCENE: WITH BANDS="
    assert str(inner) == "with bands="


def test_pairs_are_read_and_what_is_none_or_stands_twice_is_refused() -> None:
    def read(text: str, *how: Any) -> Any:
        return pairs(*how)(None, None, text)

    assert read("10=trees, 0 = bare ground ", int) == {10: "trees", 0: "bare ground"}
    assert read("roof=building,3=road", str) == {"roof": "building", "3": "road"}
    assert read("dsm=a=b.tif", str) == {"dsm": "a=b.tif"}
    assert read("a=b=0.5", str, float) == {"a=b": 0.5}
    assert read("", str) is None
    for text, kind in (("10", int), ("10=", int), ("-1=x", int), ("a=x", int), ("=x", str), ("a", str)):
        with pytest.raises(click.BadParameter, match=f"'{text}' is not VALUE=NAME, each once"):
            read(text, kind)
    with pytest.raises(
        click.BadParameter, match="'dsm=b' is not NAME=FILE, each once: write NAME=FILE, such"
    ):
        read("dsm=a,nir=c,dsm=b", str, str, "NAME=FILE", "dsm=a.tif")
