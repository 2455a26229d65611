"""Pages from Jinja2 templates: each is one file that needs no network and no script.

The templates lie in `templates/`. Whatever comes from outside is escaped on its way in (`autoescape`), and a
name that a template misspells is an error (`StrictUndefined`), not a gap on the page.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from pfmap.core.classes import COLOR
from pfmap.report import wording
from pfmap.version import __version__


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text, with a name at the head of each row; the macro `table` draws it."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    foot: Sequence[str] = ()
    """A last row that sums up the others, or empty."""


def render(template: str, **values: object) -> str:
    """Return the page, or the part of one, that a template in `templates/` makes of values."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("pfmap.report"),
        autoescape=lambda name: not str(name).endswith(".md.jinja"),  # Markdown has no escapes to rely on
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.globals["version"] = __version__
    found.globals["states"] = wording.STATES
    names = ("duration", "fact", "label", "link", "moment", "percent", "plural", "share", "thousands")
    found.filters |= {name: getattr(wording, name) for name in names} | {"color": color}
    return found


def color(text: str) -> str:
    """Return a colour that may stand in a style: escaping alone would let other CSS through."""
    return text if COLOR.fullmatch(text) else "#808080"
