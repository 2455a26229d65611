"""The documentation is true: what it names is there, every option is explained, its code compiles."""

import ast
import inspect
import os
import re
import subprocess
import sys
import tomllib
import typing
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import pfmap
from docs import make_cli
from pfmap.cli.main import cli

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "examples/**/*.md", "models/*/README.md")
    for path in ROOT.glob(pattern)
    if "out" not in path.relative_to(ROOT).parts
)
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"(?:^    .*\n)+", flags=re.MULTILINE)
PLACES = re.compile(r"(?:\.ci|\.github|docs|examples|models|pfmap|tests)/[\w./*-]*")
every_page = pytest.mark.parametrize("name", PAGES)


class Page:
    """A page of Markdown, taken apart."""

    def __init__(self, name: str) -> None:
        self.name, self.path = name, ROOT / name
        self.text = self.path.read_text(encoding="utf-8")
        self.blocks = FENCED.findall(self.text)
        prose = FENCED.sub("", self.text)
        self.blocks += [("", block) for block in INDENTED.findall(prose)]
        self.prose = INDENTED.sub("", prose)
        self.spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", self.prose)]

    def lines(self, *languages: str) -> list[str]:
        """Lines of code in these languages without their comments, continued ones in one piece."""
        text = "\n".join(
            block for language, block in self.blocks if language in (languages or ("sh", "text", ""))
        )
        whole = text.replace("\\\n", " ").splitlines()
        return [stripped for line in whole if (stripped := re.sub(r"(^|\s)#.*", "", line).strip())]

    def headings(self) -> set[str]:
        """Return the anchors by which GitHub names the page's headings."""
        titles = re.findall(r"^#+ (.+)$", FENCED.sub("", self.text), flags=re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def calls(lines: list[str]) -> list[str]:
    """What stands behind `pfmap` in lines that call it, also through `python -m` and torchrun."""
    return [match[1] for line in lines if (match := re.match(r"(?:.* -m )?pfmap (.*)", line))]


def resolve(words: list[str]) -> tuple[click.Command, list[str]]:
    """Follow subcommand names; return the last command and the words after it."""
    command: click.Command = cli
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        found = command.get_command(click.Context(command), rest[0])
        assert found is not None, f"pfmap has no command {rest[0]!r}: {' '.join(words)}"
        command, rest = found, rest[1:]
    return command, rest


def names_of(command: click.Command) -> set[str]:
    """All names of a command's options."""
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    return {name for option in options for name in (*option.opts, *option.secondary_opts)} | {"--help", "-h"}


def options_in(text: str) -> list[str]:
    """The options that stand in a line."""
    return [word.split("=")[0] for word in text.split() if re.match(r"--?[a-z]", word)]


ALL_OPTIONS = set().union(*(names_of(context.command) for context in make_cli.commands()))


@every_page
def test_every_command_exists_with_its_options(name: str) -> None:
    page = Page(name)
    for call in calls([*page.lines(), *page.spans]):
        command, rest = resolve(call.split())
        unknown = set(options_in(" ".join(rest))) - names_of(command)
        assert not unknown, f"pfmap {call}: {unknown} is no option of it"


@every_page
def test_every_command_line_can_be_parsed(name: str) -> None:
    """Values too: choices, numbers, missing arguments. Not lines in help texts: words follow those."""
    root = click.Context(cli, info_name="pfmap", **cli.context_settings)
    for call in calls(Page(name).lines("sh", "")):
        words = [word.strip("'\"") for word in re.findall(r"\"[^\"]*\"|'[^']*'|\S+", call)]
        command, rest = resolve(words)
        if not isinstance(command, click.Group):
            with command.make_context(command.name, rest, parent=root):
                pass


@every_page
def test_every_option_that_is_named_exists(name: str) -> None:
    page = Page(name)
    others = {option for line in page.lines() if not calls([line]) for option in options_in(line)}
    others |= {
        option for span in page.spans if not span.startswith(("pfmap", "-")) for option in options_in(span)
    }
    for span in page.spans:
        if span.startswith("-"):
            assert set(options_in(span)) <= ALL_OPTIONS | others, f"{span} is no option of any command"


def test_every_option_is_explained_in_a_page_about_its_command() -> None:
    """In words: command lines and the page of all commands do not count."""
    for context in make_cli.commands():
        path = context.command_path.split()
        pages = [f"docs/{name}" for name in make_cli.EXPLAINED[path[1]]] if len(path) > 1 else ["README.md"]
        assert "docs/cli.md" not in pages
        said = {option for name in pages for span in Page(name).spans for option in options_in(span)}
        missing = names_of(context.command) - said - {"--help", "-h", "--verbose", "-v"}  # of all commands
        assert not missing, f"{context.command_path}: {missing} is not explained in {pages}"


def test_the_page_of_all_commands_is_what_the_commands_say() -> None:
    """In a process of its own: a command remembers its help option from the first time that it is called."""
    code = "from docs.make_cli import page; print(page(), end='')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, env={**os.environ, "COLUMNS": "50", "PYTHONIOENCODING": "utf-8"},
        capture_output=True, text=True, encoding="utf-8", check=True,
    )  # fmt: skip
    assert make_cli.PAGE.read_text(encoding="utf-8") == done.stdout, "run python -m docs.make_cli"


@every_page
def test_every_link_leads_somewhere(name: str) -> None:
    page = Page(name)
    for link in re.findall(r"\]\(([^)\s]+)\)", page.prose):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.path.parent / path).resolve() if path else page.path
        assert target.exists(), f"{link} does not exist"
        assert target.is_relative_to(ROOT), f"{link} leaves the repository"
        if anchor:
            assert anchor in Page(target.relative_to(ROOT).as_posix()).headings(), f"{link}: no such heading"


@every_page
def test_every_path_exists(name: str) -> None:
    page = Page(name)
    for text in [*page.lines(), *page.lines("python"), *page.spans]:
        for word in re.split(r"[\s\"'`(),=:]+", text):
            if re.fullmatch(r"[a-z]+/\w+\.py", word) and not PLACES.fullmatch(word):
                assert (ROOT / "pfmap" / word).is_file(), f"{word} does not exist in pfmap/"
            if PLACES.fullmatch(word):
                assert any(ROOT.glob(word.rstrip("/"))), f"{word} does not exist"
        for module in re.findall(r"\b((?:docs|examples|tests)(?:\.\w+)+)", text):
            place = ROOT / module.replace(".", "/")
            assert place.with_suffix(".py").exists() or place.is_dir(), f"{module} does not exist"


@every_page
def test_make_targets_and_extras_exist(name: str) -> None:
    page = Page(name)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for text in [*page.lines(), *page.spans]:
        for target in re.findall(r"^make ([a-z-]+)", text):
            assert target in targets, f"make {target} does not exist"
        for named in re.findall(r"(?:pfmap|\.)\[([\w,]+)\]", text):
            assert set(named.split(",")) <= extras.keys(), f"[{named}] is no extra of pfmap"


@every_page
def test_python_compiles_and_uses_what_pfmap_has(name: str) -> None:
    page = Page(name)
    for text in [span for span in page.spans if re.fullmatch(r"pfmap\.\w+", span)]:
        assert text.removeprefix("pfmap.") in pfmap.__all__, f"{text} does not exist"
    for language, block in page.blocks:
        if language != "python":
            continue
        for node in ast.walk(ast.parse(block)):
            if of_pfmap(node):
                assert node.attr in pfmap.__all__, f"pfmap.{node.attr} does not exist"
            if isinstance(node, ast.Call) and of_pfmap(node.func):
                unknown = {k.arg for k in node.keywords} - set(keywords(getattr(pfmap, node.func.attr)))
                assert not unknown, f"pfmap.{node.func.attr} has no {unknown}"


def of_pfmap(node: ast.AST) -> typing.TypeGuard[ast.Attribute]:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "pfmap"


def keywords(function: typing.Any) -> Iterator[str]:
    """Names of a function's parameters, and of those in the TypedDict of its keywords."""
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            (settings,) = typing.get_args(parameter.annotation)
            yield from settings.__annotations__
        else:
            yield parameter.name


def test_the_python_page_lists_all_that_pfmap_offers() -> None:
    assert {f"pfmap.{name}" for name in pfmap.__all__} <= set(Page("docs/python.md").spans)


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    readme = Page("README.md")
    assert len(readme.text.splitlines()) <= 160
    links = set(re.findall(r"\]\(([^)#]+)", readme.prose))
    assert {name for name in PAGES if name.startswith("docs/")} <= links
    assert {"make demo", "make test", "make test-slow", ".ci/run"} <= set(readme.spans)
    assert len(calls(readme.lines())) >= 5


def test_the_changelog_knows_the_version() -> None:
    assert f"## [{pfmap.__version__.split('.dev')[0]}]" in Page("CHANGELOG.md").text


def test_the_page_of_the_architecture_shows_the_packages_that_stand() -> None:
    (tree,) = [block for language, block in Page("docs/architecture.md").blocks if "pfmap/" in block]
    shown = set(re.findall(r"^      (\w+)/ ", tree, flags=re.MULTILINE))
    stand = {path.parent.name for path in (ROOT / "pfmap").glob("*/__init__.py")}
    assert shown == stand
