"""What all of pfmap's HTML pages have in common: one file that needs no network and no script.

Whatever comes from outside passes `escape` on its way in.
"""

from collections.abc import Sequence
from html import escape

from pfmap.version import __version__

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; color: #222;
  background: #fff; max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .75rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; border-bottom: 1px solid #ccc; }
h3 { font-size: 1.05rem; margin: 1.75rem 0 .25rem; }
p { margin: .4rem 0; max-width: 44rem; }
a { color: #1d5b8c; }
:focus-visible { outline: 3px solid #1d5b8c; outline-offset: 2px; border-radius: 2px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: .5rem 0; }
dt { color: #555; } dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .5rem 0; min-width: min(100%, 30rem);
  font-variant-numeric: tabular-nums; }
caption { text-align: left; color: #555; padding-bottom: .25rem; }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap; }
thead th:first-child { text-align: left; }
thead th { border-bottom: 1px solid #888; vertical-align: bottom; }
tbody th { text-align: left; font-weight: 500; white-space: normal; min-width: 7rem; }
tbody tr + tr > * { border-top: 1px solid #eee; }
tfoot > tr > * { border-top: 1px solid #888; font-weight: 600; }
tfoot th { text-align: left; }
.swatch { display: inline-block; width: .8em; height: .8em; margin-right: .4em; border: 1px solid #0003; }
.legend { list-style: none; padding: 0; margin: .5rem 0; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; }
figure { margin: .5rem 0; } img { max-width: 100%; height: auto; border: 1px solid #ccc; }
svg { max-width: 24rem; width: 100%; height: auto; }
.note { color: #555; font-size: .9rem; }
footer { margin-top: 3rem; color: #666; font-size: .85rem; }
@media (max-width: 34rem) { th, td { padding: .2rem .35rem; font-size: .85rem; }
  tbody th { min-width: 4rem; } }
@media print { body { max-width: none; padding: 0; font-size: 11pt; } h2, h3 { break-after: avoid; }
  img { max-height: 230mm; } table, figure, svg { break-inside: avoid; } .wide { overflow: visible; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


def document(title: str, body: str, style: str = "", before: str = "") -> str:
    """Return a whole page.

    Args:
        title: as text.
        body: HTML of the main part, with the page's own heading.
        style: CSS beside what all pages have.
        before: HTML that stands before the main part, such as a skip link.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n<body>\n{before}"
        f'<main id="main">\n{body}\n</main>\n'
        f"<footer>Written by pfmap {escape(__version__)}.</footer>\n</body>\n</html>\n"
    )


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Return names and values as a list."""
    return f"<dl>{''.join(f'<dt>{escape(a)}</dt><dd>{escape(b)}</dd>' for a, b in pairs)}</dl>"


def table(caption: str, head: Sequence[str], rows: Sequence[str], foot: str = "", kind: str = "") -> str:
    """Return a table that scrolls by itself where it is too wide, also by keyboard.

    Args:
        caption: as text.
        head: titles of the columns, as text.
        rows: as HTML.
        foot: a row of HTML, or "".
        kind: CSS class, or "".
    """
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "\n".join(rows)
    end = f"\n<tfoot>{foot}</tfoot>" if foot else ""
    named = f' class="{kind}"' if kind else ""
    said = escape(caption)
    return (
        f'<div class="wide" role="group" aria-label="{said}" tabindex="0"><table{named}>\n'
        f"<caption>{said}</caption>\n<thead><tr>{columns}</tr></thead>\n<tbody>\n{body}\n</tbody>{end}\n"
        "</table></div>"
    )


def row(name: str, cells: Sequence[str]) -> str:
    """Return a row of a table: its name as text, the other cells as HTML."""
    values = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr><th scope="row">{escape(name)}</th>{values}</tr>'
