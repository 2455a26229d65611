"""Pages from Jinja2 templates: each is one file that needs no network and no script; and texts for terminals.

The templates lie in `templates/`. Whatever comes from outside is escaped on its way in (`finalize`, then
`autoescape`), and a name that a template misspells is an error (`StrictUndefined`), not a gap on the page.
"""

from collections.abc import Callable, Mapping
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from pfmap.core.classes import COLOR
from pfmap.core.errors import bare, markdown, visible
from pfmap.report import wording
from pfmap.version import __version__

_HARMLESS: Mapping[str, Callable[[str], str]] = {
    "html": lambda text: visible(bare(text), "\n\t"),
    "md": lambda text: markdown(bare(text)),
    "txt": visible,
}
"""What becomes of texts, by the kind of template; parts of a page are safe already, and no plain texts."""


def render(template: str, **values: object) -> str:
    """Return the page, or the part of one, that a template in `templates/` makes of values."""
    return _environment(template.split(".")[1]).get_template(template).render(values)


@cache
def _environment(kind: str) -> Environment:
    def harmless(value: object) -> object:
        plain = isinstance(value, str) and not hasattr(value, "__html__")
        return _HARMLESS[kind](str(value)) if plain else value

    found = Environment(
        loader=PackageLoader("pfmap.report"),
        autoescape=kind == "html",
        finalize=harmless,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.globals |= {"version": __version__, "states": wording.STATES}
    names = ("duration", "fact", "label", "link", "moment", "percent", "plural", "share", "thousands", "work")
    found.filters |= {name: getattr(wording, name) for name in names} | {"color": color}
    return found


def color(text: str) -> str:
    """Return a colour that may stand in a style: escaping alone would let other CSS through."""
    return text if COLOR.fullmatch(text) else "#808080"
