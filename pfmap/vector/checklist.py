"""A checklist: the objects of a map most worth a person's look, as a layer to correct them in."""

import math
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyogrio
import shapely
from pyarrow import parquet

from pfmap.core.arrays import Array, Floats, Longs, Objects
from pfmap.core.classes import ClassSpec, add_default_style, checklist_style, colors_of, default_color, qml
from pfmap.core.errors import SourceError, TargetError, UsageError, quietly
from pfmap.core.files import draft, is_bare, writing
from pfmap.core.resources import clear_beside, moment_of
from pfmap.vector.formats import GEOMETRY, LAYER, write_arrow
from pfmap.vector.layer import Layer, explained, open_layer

RANK, WAS, TICK = "rank", "was", "checked"
"""Fields by which a checklist is known: the order, the class of the map, and whether a person looked."""

_NEAR = 16
"""Objects that are taken for neighbours of one another."""

_FIELDS = {"class": WAS, "confidence_mean": "confidence", "object_id": "object_id", "scene": "scene"}
"""What is kept of an object, and what it is called in a checklist."""

_SHORT = {"confidence_mean": "conf_mean"}  # in shapefiles


@dataclass(frozen=True, slots=True)
class Checklist:
    """What was put on a checklist."""

    total: int
    """Objects of the map."""
    counts: dict[str, int]
    """Objects on the list, by class."""
    note: str = ""


def write_checklist(
    objects: str,
    output: Path,
    count: int = 200,
    *,
    classes: Sequence[str] | None = None,
    overwrite: bool = False,
) -> Checklist:
    """Write the objects of a map that are most worth a look to a GeoPackage with a form, in order.

    Args:
        objects: as `pfmap predict` or `pfmap vectorize` wrote them; may be ``FILE:layer``.
        output: a name that ends with .gpkg.
        count: as many of them, or all if there are fewer.
        classes: names that the form offers; None for those of the model. Those of the objects always.
        overwrite: replace a file of that name, and the corrections in it.

    Raises:
        SourceError: there are no objects of pfmap.
        UsageError: the output has another ending, or is the map itself.
        TargetError: it is there already, or cannot be written.
    """
    layer = open_layer(objects, "objects")
    _refuse(layer, objects, output, overwrite=overwrite)
    columns = [_SHORT[name] if _SHORT.get(name) in layer.fields else name for name in _FIELDS]
    if missing := [name for name in columns if name not in layer.fields]:
        raise SourceError(
            f"{objects} has no field {' and no '.join(missing)} (it has "
            f"{', '.join(layer.fields) or 'none'}): objects of pfmap predict are needed, or of pfmap "
            "vectorize with confidence="
        )
    if not layer.count:
        raise SourceError(f"{objects} has no objects: there is nothing to look at")
    with explained(objects):
        names, kinds, places, confidence, areas = _read(layer, columns)
        disagreement = disagreement_of(places, kinds)
        chosen = choose(places, kinds, worth_of(kinds, confidence, areas, disagreement), count)
        table = _table(layer, columns, chosen, disagreement)
        specs = _specs(layer, classes, names)
    clear_beside(output.parent, [output.name] if output.exists() else [])
    with quietly(), writing(output, sqlite3.Error, RuntimeError), draft(output) as path:
        write_arrow(table, path, "GPKG", layer.crs, layer=LAYER, VERSION="1.3")  # as QGIS of 2022 wants it
        add_default_style(path, LAYER, qml(checklist_style(specs)), moment_of([Path(layer.path)]))
    return Checklist(layer.count, dict(Counter(table["class"].to_pylist())), layer.note)


def _refuse(layer: Layer, objects: str, output: Path, *, overwrite: bool) -> None:
    if output.suffix != ".gpkg" or not is_bare(output.name):
        raise UsageError(f"{output} is no name of a GeoPackage: let it end with .gpkg")
    if output.exists():
        if output.samefile(layer.path):
            raise UsageError(f"{output} is the map itself, {objects}: choose another name")
        if not overwrite:
            raise TargetError(
                f"{output} exists already, maybe with corrections: replace it with overwrite=True, or choose "
                "another name"
            )


def _read(layer: Layer, columns: Sequence[str]) -> tuple[list[str], Longs, Floats, Floats, Floats]:
    """Read what the choice is made by: the classes' names; of ``(n,)`` objects their numbers and all else."""
    known: dict[str, int] = {}
    parts: list[tuple[Array, ...]] = []
    for shapes, table in layer.chunks(columns[:2]):
        kinds = np.array([known.setdefault(str(name), len(known)) for name in table["class"]])
        bounds = shapely.bounds(shapes)
        sure = np.nan_to_num(table[columns[1]].astype(np.float64))  # what has none is least sure
        parts.append((kinds, (bounds[:, :2] + bounds[:, 2:]) / 2, sure, shapely.area(shapes)))
    kinds, places, sure, areas = (np.concatenate(part) for part in zip(*parts, strict=True))
    return list(known), kinds, places, sure, areas


def disagreement_of(places: Floats, kinds: Longs) -> Floats:
    """Return for ``(n,)`` objects which share of their neighbours is of another class, 0 to 1.

    Neighbours are those of a part of the map that holds about 16 objects: ``(n, 2)`` places are cut into
    strips along x, and these along y.
    """
    parts = _parts(places, math.isqrt(max(1, len(kinds) // _NEAR)))
    pairs = parts * (kinds.max(initial=0) + 1) + kinds
    there, alike = np.bincount(parts)[parts], np.bincount(pairs)[pairs]
    return np.asarray((there - alike) / np.maximum(1, there - 1))


def worth_of(kinds: Longs, confidence: Floats, areas: Floats, disagreement: Floats) -> Floats:
    """Say how much ``(n,)`` objects are worth a look, 0 to 2: doubt, disagreement, and size in their class.

    What is as large as half of the objects of its class counts half of what is much larger: slivers, which
    are the least sure of all, come last.
    """
    usual = np.array([np.median(areas[kinds == kind]) for kind in range(kinds.max(initial=0) + 1)])[kinds]
    with np.errstate(invalid="ignore"):
        large = np.nan_to_num(areas / (areas + usual))
    return np.asarray((1 - confidence) * (1 + disagreement) * large)


def choose(places: Floats, kinds: Longs, worth: Floats, count: int) -> Longs:
    """Choose so many objects, in order: classes take turns, and within a class parts of the map.

    So any first part of the order is spread too. Of those whose turn is the same the worthiest comes first.
    There are about as many parts, cut as for `disagreement_of`, as objects of a class can be chosen.
    """
    side = math.isqrt(max(1, count // (int(kinds.max(initial=0)) + 1)))
    order = np.argsort(-worth, kind="stable")
    turn = _turns(order, kinds * side**2 + _parts(places, side))
    turn = _turns(np.lexsort((-worth, turn)), kinds)
    return np.lexsort((-worth, turn))[:count]


def _turns(order: Longs, groups: Longs) -> Longs:
    """Say of each object how many of its group come before it in an order."""
    together = order[np.argsort(groups[order], kind="stable")]
    sizes = np.bincount(groups)
    turns = np.empty_like(together)
    turns[together] = np.arange(len(order)) - (np.cumsum(sizes) - sizes)[groups[together]]
    return turns


def _parts(places: Floats, side: int) -> Longs:
    """Say in which of side x side parts, all with about as many objects, ``(n, 2)`` places lie."""
    x, y = (np.argsort(axis, kind="stable") for axis in places.T)
    strips = _turns(x, np.zeros_like(x)) * side // max(1, len(x))
    return np.asarray(strips * side + _turns(y, strips) * side // np.bincount(strips)[strips])


def _table(layer: Layer, columns: Sequence[str], chosen: Longs, disagreement: Floats) -> pa.Table:
    """Read the chosen objects, and make the checklist of them."""
    found: list[tuple[Objects, dict[str, Objects]]] = []
    order, done = np.sort(chosen), 0
    for shapes, table in layer.chunks(columns):
        at = order[(order >= done) & (order < done + len(shapes))] - done
        found.append((shapes[at], {name: column[at] for name, column in table.items()}))
        done += len(shapes)
    ranked = np.argsort(np.argsort(chosen))

    def column(parts: Iterator[Array]) -> Any:
        return np.concatenate(list(parts))[ranked].tolist()

    names = zip(columns, _FIELDS.values(), strict=True)
    kept = {new: column(one[name] for _, one in found) for name, new in names}
    return pa.table(
        {
            RANK: pa.array(range(1, len(chosen) + 1), pa.int32()),
            "class": pa.array(kept[WAS], pa.string()),
            TICK: pa.array([False] * len(chosen), pa.bool_()),
            **kept,
            "disagreement": disagreement[chosen].round(3),
            GEOMETRY: column(shapely.to_wkb(shapes) for shapes, _ in found),
        }
    )


def _specs(layer: Layer, classes: Sequence[str] | None, found: Sequence[str]) -> list[ClassSpec]:
    """Return the classes that the form offers, in the colours of the map as far as it says them."""
    known: Mapping[Any, Any] = {}
    path, style = Path(layer.path), ""
    if layer.driver == "Parquet":
        said = (parquet.read_schema(path).metadata or {}).get(b"PFMAP_CLASSES", b"")
        known = {"PFMAP_CLASSES": said.decode()}
    elif layer.driver == "GPKG":
        known = pyogrio.read_info(path, layer=layer.name)["layer_metadata"] or {}
        with suppress(pyogrio.errors.DataLayerError):  # there are no styles
            _, _, _, (tables, styles) = pyogrio.raw.read(
                path, layer="layer_styles", columns=["f_table_name", "styleQML"], read_geometry=False
            )
            style = dict(zip(tables, styles, strict=True)).get(layer.name) or ""
    with suppress(OSError, ValueError):
        style = style or path.with_suffix(".qml").read_text(encoding="utf-8")
    names = classes or [name for name in known.get("PFMAP_CLASSES", "").split(",") if name]
    colors = colors_of(style)
    return [
        ClassSpec(name, colors.get(name, default_color(k)))
        for k, name in enumerate(dict.fromkeys([*names, *found]))
    ]
