"""`pfmap summary`: objects and areas per class and zone."""

from typing import Any

import click

from pfmap.cli.common import Command
from pfmap.cli.screen import emit, say, show
from pfmap.core.errors import csv_text


@click.command(cls=Command)
@click.argument("objects")
@click.option("--zones", metavar="FILE[:LAYER]", help="Polygons, in any CRS, for which it is told apart.")
@click.option(
    "--zone-field", metavar="NAME", help="Field with the zones' names.  [default: name, or the first text]"
)
@click.option("--csv", "as_csv", is_flag=True, help="Print as CSV.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def summary(objects: str, zones: str | None, zone_field: str | None, as_csv: bool, as_json: bool) -> None:
    """Count OBJECTS, as pfmap predict or vectorize wrote them, and add up their areas per class.

    OBJECTS is any of the vector formats, or FILE:LAYER. Of a shapefile in parts it is the part that is named.
    """
    from pfmap.vector.zones import summarize

    if zone_field is not None and zones is None:
        raise click.UsageError("--zone-field needs --zones")
    result = summarize(objects, zones, zone_field)
    for note in result.notes:
        say(f"warning: {note}", err=True)
    area = f"area_{result.unit}"
    rows: list[dict[str, Any]] = [
        ({"zone": row.zone} if zones is not None else {})
        | {"class": row.klass, "objects": row.objects, area: round(row.area, 2)}
        for row in result.rows
    ]
    if as_json:
        show(rows, plain=True)
    elif as_csv:
        emit(csv_text([rows[0], *(row.values() for row in rows)]))
    else:
        zone = f"{'zone':<24} " if zones is not None else ""
        say(f"{zone}{'class':<20} {'objects':>9} {area:>14}")
        for row in rows:
            zone = f"{row['zone']:<24} " if zones is not None else ""
            say(f"{zone}{row['class']:<20} {row['objects']:>9,} {row[area]:>14,.0f}")
