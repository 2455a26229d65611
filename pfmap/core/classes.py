"""Classes - value, name and colour - and the QGIS styles that show them.

Styles are made as text of files in `xml/`: for style files (`.qml`) beside outputs, for GeoPackages, and for
projects, which hold the same XML.
"""

import math
import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from xml.etree import ElementTree

from pfmap.core.errors import UNSEEN, ModelError, visible, xml_attribute
from pfmap.core.files import template

RGB = ("red", "green", "blue")
"""Bands that people see."""
NODATA = 255
"""Value of the class raster where the scene has no data; classes are 0 to 254."""

PERCENT = ("confidence", "contact", "probabilities")
"""The rasters in percent, besides the class raster; the last has a band for each class."""

CHECKED = " (checked)"
"""What the legend says of classes of checked objects."""

HEAD = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
"""How QGIS's own XML files begin."""

_XML = Path(__file__).parent / "xml"
_LONGEST = 100  # letters: a name becomes part of a file's name
COLOR = re.compile(r"#[0-9a-fA-F]{6}")
_COLORS = (
    "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22",
    "#17becf", "#aec7e8", "#ffbb78", "#98df8a", "#ff9896", "#c5b0d5", "#c49c94", "#f7b6d2", "#c7c7c7",
    "#dbdb8d", "#9edae5",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ClassSpec:
    """One class of a model."""

    name: str
    """Unique within the model, as it appears in every output."""
    color: str
    """``#rrggbb``, as it appears in every map."""
    background: bool = False
    """True for what is not an object: it becomes no polygon unless asked for."""
    min_area: float = 0.0
    """From so many square metres on its regions are objects; 0 leaves that to their pixels."""

    def __post_init__(self) -> None:
        if not self.name:
            raise ModelError("a class has an empty name")
        if UNSEEN.search(self.name) or len(self.name) > _LONGEST:
            raise ModelError(
                f"a class is called '{visible(self.name[:_LONGEST])}': give it a name of at most {_LONGEST} "
                "letters, without control characters"
            )
        if not COLOR.fullmatch(self.color):
            raise ModelError(f"class {self.name!r} has colour {self.color!r}: write it as #rrggbb")
        if not 0 <= self.min_area < math.inf:
            raise ModelError(f"class {self.name!r} has min_area {self.min_area}: it has to be 0 m2 or more")

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Red, green and blue, 0 to 255."""
        red, green, blue = bytes.fromhex(self.color[1:])
        return red, green, blue


def default_color(value: int) -> str:
    """Return a colour for a class that has none."""
    return _COLORS[value % len(_COLORS)]


def index_of(classes: tuple[ClassSpec, ...], name: str) -> int:
    """Find a class by name."""
    if name not in (names := [spec.name for spec in classes]):
        raise ModelError(f"class {name!r} is unknown: the model has {', '.join(names)}")
    return names.index(name)


def listed(values: Iterable[int], classes: Mapping[int, ClassSpec]) -> str:
    """Name classes, by their values, with commas between."""
    return ",".join(classes[value].name for value in sorted(values))


def class_raster_style(classes: Sequence[ClassSpec], opacity: float = 1.0) -> str:
    """Style a class raster: paletted, one named entry per class."""
    entries = "\n".join(
        f'<paletteEntry value="{i}" color="{c.color}" label={xml_attribute(c.name)} alpha="255"/>'
        for i, c in enumerate(classes)
    )
    return template(_XML / "classes.xml")(entries=entries, opacity=opacity)


def percent_style() -> str:
    """Style a confidence raster: 0 to 100 percent, dark to bright."""
    return template(_XML / "percent.xml")()


def as_colors(bands: Sequence[int]) -> list[int]:
    """Choose three of some bands, by their numbers, to be shown as red, green and blue; or one, as grey."""
    return [*bands[:3]] if len(bands) > 2 else [bands[0]] * 3


def scene_style(bands: Sequence[int], alpha: int | None, low: float, high: float) -> str:
    """Style a scene: bands, counted from 1, as `as_colors`, from black at `low` to white at `high`."""
    return template(_XML / "scene.xml")(bands=as_colors(bands), alpha=alpha or -1, low=low, high=high)


def objects_style(classes: Sequence[ClassSpec]) -> str:
    """Style polygons by class: translucent fill, solid outline, one named entry per class."""
    return _by_class("class", [(c.name, c.rgb, 80, c.rgb) for c in classes])


def checklist_style(classes: Sequence[ClassSpec]) -> str:
    """Style a checklist: a form to correct objects in, in order; checked ones are full and outlined."""
    looks = [(c.name, c.rgb, 80, c.rgb) for c in classes]
    looks += [(f"{c.name}{CHECKED}", c.rgb, 220, (255, 255, 255)) for c in classes]
    attribute = f"\"class\" || CASE WHEN \"checked\" THEN '{CHECKED}' ELSE '' END"
    options = "\n".join(
        f'<Option type="Map"><Option type="QString" name={xml_attribute(c.name)} '
        f"value={xml_attribute(c.name)}/></Option>"
        for c in classes
    )
    return template(_XML / "checklist.xml")(options=options) + "\n" + _by_class(attribute, looks)


def _by_class(attribute: str, looks: Sequence[tuple[str, tuple[int, ...], int, tuple[int, ...]]]) -> str:
    """Style polygons by an attribute: its values, their fill, how dense that is of 255, their outline."""
    symbols = "\n".join(
        template(_XML / "symbol.xml")(index=i, rgb=rgb, alpha=alpha, outline=outline)
        for i, (_, rgb, alpha, outline) in enumerate(looks)
    )
    names = [xml_attribute(name) for name, *_ in looks]
    categories = "\n".join(
        f'<category symbol="{i}" value={name} label={name} type="string" render="true"/>'
        for i, name in enumerate(names)
    )
    said = xml_attribute(attribute)
    return template(_XML / "objects.xml")(attribute=said, categories=categories, symbols=symbols)


def colors_of(style: str) -> dict[str, str]:
    """Return the colours of classes by name, in a style made by `objects_style`; none of what is no style."""
    with suppress(ElementTree.ParseError, LookupError, TypeError, ValueError):
        root = ElementTree.fromstring(style)
        fills = {
            symbol.get("name"): option.get("value", "")
            for symbol in root.iter("symbol")
            for option in symbol.iter("Option")
            if option.get("name") == "color"
        }
        return {
            each.get("value", ""): "#" + bytes(map(int, fills[each.get("symbol")].split(",")[:3])).hex()
            for each in root.iter("category")
        }
    return {}


def qml(style: str) -> str:
    """Make a style file of a style."""
    kinds = "Symbology" if style.startswith("<renderer") else "AllStyleCategories"
    return f'{HEAD}<qgis version="3.22" styleCategories="{kinds}">{style}</qgis>\n'


def add_default_style(path: Path, layer: str, qml: str, moment: datetime) -> None:
    """Put a QGIS style into a GeoPackage, so that its layer opens coloured and named; and date all of it."""
    values = {"layer": layer, "qml": qml, "moment": f"{moment:%Y-%m-%dT%H:%M:%S}.000Z"}
    statements = (Path(__file__).parent / "layer_styles.sql").read_text(encoding="utf-8").split(";\n")
    with closing(sqlite3.connect(path)) as db, db:
        for statement in statements:
            db.execute(statement, values)
        with suppress(sqlite3.OperationalError):  # a file without metadata has no such table
            db.execute("UPDATE gpkg_metadata_reference SET timestamp = :moment", values)
