"""The README is true: every command and option in it exists, every file it shows is there."""

import re
from pathlib import Path

import click
import pytest

from pfmap.cli.main import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def code_lines() -> list[str]:
    blocks = re.findall(r"```(?:sh|console|text)?\n(.*?)```", README, flags=re.DOTALL)
    inline = re.findall(r"`(pfmap [^`]+)`", README)
    lines = [line.removeprefix("$ ").strip() for block in blocks for line in block.splitlines()]
    return [line for line in [*lines, *inline] if line.startswith("pfmap ")]


def resolve(words: list[str]) -> tuple[click.Command, list[str]]:
    """Follow subcommand names; return the last command and the words after it."""
    command: click.Command = cli
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        found = command.get_command(click.Context(command), rest[0])
        assert found is not None, f"pfmap has no command {rest[0]!r}: {' '.join(words)}"
        command, rest = found, rest[1:]
    return command, rest


@pytest.mark.parametrize("line", code_lines())
def test_every_command_and_option_exists(line: str) -> None:
    words = line.split("#", maxsplit=1)[0].split()[1:]
    command, rest = resolve(words)
    known = {name for p in command.params for name in (*p.opts, *p.secondary_opts)} | {"--help", "-h"}
    for word in rest:
        if word.startswith("-"):
            assert word.split("=")[0] in known, f"{line!r}: {word} is no option of {command.name}"


@pytest.mark.parametrize("name", ["predict", "batch", "train"])
def test_every_option_is_explained(name: str) -> None:
    command, _ = resolve([name])
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert any(f"`{name}" in README for name in parameter.opts), (
                f"{parameter.opts} is not in the README"
            )


def test_the_readme_names_commands_at_all() -> None:
    assert len(code_lines()) >= 5


@pytest.mark.parametrize("path", re.findall(r"\]\((?!https?:)([^)#]+)\)", README))
def test_every_linked_file_exists(path: str) -> None:
    assert (ROOT / path).exists()


def test_make_targets_in_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"make ([a-z-]+)", README))
    assert {"demo", "test"} <= named <= targets
