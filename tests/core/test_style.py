"""QGIS styles: well-formed, every class named and coloured, and found where QGIS looks."""

import sqlite3
from contextlib import closing
from xml.etree import ElementTree as ET

import pytest
from conftest import Write, blobs, stand_in

import pfmap
from pfmap.core.classes import (
    ClassSpec,
    class_raster_style,
    objects_style,
    percent_style,
    qml,
)

CLASSES = (ClassSpec("building", "#d7301f"), ClassSpec('odd <"&> name', "#00ff00"))


def test_raster_style_has_an_entry_per_class() -> None:
    root = ET.fromstring(qml(class_raster_style(CLASSES)))
    renderer = root.find("pipe/rasterrenderer")
    assert renderer.get("type") == "paletted"
    entries = [(e.get("value"), e.get("color"), e.get("label")) for e in renderer.iter("paletteEntry")]
    assert entries == [("0", "#d7301f", "building"), ("1", "#00ff00", 'odd <"&> name')]


def test_confidence_style_runs_from_0_to_100() -> None:
    items = list(ET.fromstring(qml(percent_style())).iter("item"))
    assert [items[0].get("value"), items[-1].get("value")] == ["0", "100"]


def test_polygon_style_has_a_category_and_a_symbol_per_class() -> None:
    root = ET.fromstring(qml(objects_style(CLASSES)))
    renderer = root.find("renderer-v2")
    assert renderer.get("attr") == "class"
    categories = {c.get("value"): c.get("symbol") for c in renderer.iter("category")}
    symbols = {s.get("name"): s for s in renderer.iter("symbol")}
    assert list(categories) == ["building", 'odd <"&> name']
    options = {o.get("name"): o.get("value") for o in symbols[categories["building"]].iter("Option")}
    assert options["outline_color"].startswith("215,48,31")


@pytest.mark.filterwarnings("error")
def test_the_geopackage_carries_its_style_and_its_run(write_scene: Write) -> None:
    result = pfmap.predict(write_scene(blobs(80, 80)), model=stand_in(), device="cpu")
    with closing(sqlite3.connect(result.outputs["gpkg"])) as db:
        ((table, column, qml, default),) = db.execute(
            "SELECT f_table_name, f_geometry_column, styleQML, useAsDefault FROM layer_styles"
        )
        assert (table, column, default) == ("objects", "geom", 1)
        assert {c.get("value") for c in ET.fromstring(qml).iter("category")} == {
            "class_0", "class_1", "class_2",
        }  # fmt: skip
        (columns,) = db.execute("SELECT column_name FROM gpkg_geometry_columns WHERE table_name = 'objects'")
        assert columns == ("geom",)
        (metadata,) = db.execute("SELECT metadata FROM gpkg_metadata")
        assert "PFMAP_MODEL" in metadata[0]
        assert db.execute("SELECT count(*) FROM rtree_objects_geom").fetchone()[0] > 0
