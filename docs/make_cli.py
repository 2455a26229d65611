"""Write docs/cli.md: the help of every command, as `pfmap COMMAND --help` prints it.

python -m docs.make_cli
"""

from collections.abc import Iterator
from pathlib import Path

import click

from pfmap.cli.main import cli

PAGE = Path(__file__).with_name("cli.md")
WIDTH = 78
"""Columns of the help texts: click's own in a terminal of 80 columns or more."""

EXPLAINED: dict[str, tuple[str, ...]] = {
    "predict": ("maps.md", "surveys.md", "clusters.md", "programs.md"),
    "batch": ("surveys.md", "maps.md", "clusters.md", "programs.md"),
    "vectorize": ("maps.md", "programs.md"),
    "summary": ("maps.md",),
    "evaluate": ("evaluation.md", "programs.md"),
    "info": ("maps.md",),
    "points": ("models.md", "maps.md"),
    "models": ("models.md",),
    "review": ("training.md",),
    "train": ("training.md", "programs.md"),
    "qgis": ("qgis.md",),
    "bench": ("speed.md", "maps.md"),
}
"""The pages that explain a command's options, the command's own page first."""

_HEAD = """# Command line

All commands of pfmap with all their options, as their `--help` prints them. This page is made by
`python -m docs.make_cli`: change the commands, not the page.
"""


def commands(command: click.Command = cli, parent: click.Context | None = None) -> Iterator[click.Context]:
    """Yield every command in the context of those above it, in the order of `pfmap --help`."""
    name = command.name if parent else "pfmap"
    context = click.Context(command, parent, info_name=name, terminal_width=WIDTH, **command.context_settings)
    yield context
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            assert found is not None
            yield from commands(found, context)


def page() -> str:
    """Return the page's text."""
    parts = [_HEAD]
    for context in commands():
        path = context.command_path.split()
        parts.append(f"{'#' * max(2, len(path))} {' '.join(path)}\n")
        if len(path) == 2:
            links = ", ".join(f"[{name}]({name})" for name in EXPLAINED[path[1]])
            parts.append(f"Explained in {links}.\n")
        parts.append(f"```text\n{context.get_help()}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
