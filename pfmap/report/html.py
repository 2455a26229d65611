"""Pages from Jinja2 templates: each is one file that needs no network and no script.

The templates lie in `templates/`. Whatever comes from outside is escaped on its way in (`finalize`, then
`autoescape`), and a name that a template misspells is an error (`StrictUndefined`), not a gap on the page.
"""

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from pfmap.core.classes import COLOR
from pfmap.core.errors import bare, markdown, visible
from pfmap.report import wording
from pfmap.version import __version__


def render(template: str, **values: object) -> str:
    """Return the page, or the part of one, that a template in `templates/` makes of values."""
    return _environment(template.endswith(".md.jinja")).get_template(template).render(values)


@cache
def _environment(is_markdown: bool) -> Environment:
    found = Environment(
        loader=PackageLoader("pfmap.report"),
        autoescape=not is_markdown,
        finalize=_markdown if is_markdown else _shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.globals |= {"version": __version__, "states": wording.STATES}
    names = ("duration", "fact", "label", "link", "moment", "percent", "plural", "share", "thousands", "work")
    found.filters |= {name: getattr(wording, name) for name in names} | {"color": color}
    return found


def _shown(value: object) -> object:
    """Show what is no text in a value; parts of a page are safe already, and jinja2 escapes the others."""
    plain = isinstance(value, str) and not hasattr(value, "__html__")
    return visible(bare(str(value)), "\n\t") if plain else value


def _markdown(value: object) -> object:
    return markdown(bare(value)) if isinstance(value, str) else value


def color(text: str) -> str:
    """Return a colour that may stand in a style: escaping alone would let other CSS through."""
    return text if COLOR.fullmatch(text) else "#808080"
