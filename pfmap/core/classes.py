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

from pfmap.core.errors import UNSEEN, ModelError, visible, xml_attribute
from pfmap.core.files import template

RGB = ("red", "green", "blue")
"""Bands that people see."""
NODATA = 255
"""Value of the class raster where the scene has no data; classes are 0 to 254."""

PERCENT = ("confidence", "contact", "probabilities")
"""The rasters in percent, besides the class raster; the last has a band for each class."""

HEAD = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
"""How QGIS's own XML files begin."""

_XML = Path(__file__).parent / "xml"
_LONGEST = 100  # letters: a name becomes part of a file's name
COLOR = re.compile(r"#[0-9a-fA-F]{6}")


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


def index_of(classes: tuple[ClassSpec, ...], name: str) -> int:
    """Find a class by name."""
    names = [spec.name for spec in classes]
    if name not in names:
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
    symbols = "\n".join(template(_XML / "symbol.xml")(index=i, rgb=c.rgb) for i, c in enumerate(classes))
    categories = "\n".join(
        f'<category symbol="{i}" value={xml_attribute(c.name)} label={xml_attribute(c.name)} type="string" '
        'render="true"/>'
        for i, c in enumerate(classes)
    )
    return template(_XML / "objects.xml")(categories=categories, symbols=symbols)


def qml(style: str) -> str:
    """Make a style file of a style."""
    kinds = "AllStyleCategories" if style.startswith("<pipe>") else "Symbology"
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
