"""`pfmap review`: which objects of a map come first, and the layer that they are corrected in."""

import math
import sqlite3
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree as ET

import geopandas as gpd
import numpy as np
import pytest
import shapely
from commands import here
from conftest import Write, blobs, stand_in
from hypothesis import given, settings
from hypothesis import strategies as st

import pfmap
from pfmap.core.errors import PfmapError
from pfmap.vector.checklist import choose, disagreement_of, worth_of, write_checklist

NAMES = ("class_0", "class_1", "class_2")


def plain_parts(places: list[list[float]], side: int) -> list[int]:
    """The part of the map of each object, one by one."""
    part = [0] * len(places)
    across = sorted(range(len(places)), key=lambda k: places[k][0])
    strips: list[list[int]] = [[] for _ in range(side)]
    for number, k in enumerate(across):
        strips[number * side // len(places)].append(k)
    for strip, members in enumerate(strips):
        for number, k in enumerate(sorted(sorted(members), key=lambda k: places[k][1])):
            part[k] = strip * side + number * side // len(members)
    return part


def plain_choice(places: list[list[float]], kinds: list[int], worth: list[float], count: int) -> list[int]:
    """Take turns: classes, in each of them parts, in each of these objects; of one turn the worthiest."""
    side = math.isqrt(max(1, count // (max(kinds) + 1)))
    part = plain_parts(places, side)
    queues = []
    for kind in set(kinds):
        left = {p: [k for k in range(len(kinds)) if (kinds[k], part[k]) == (kind, p)] for p in set(part)}
        queue = []
        while any(left.values()):
            heads = [max(members, key=lambda k: (worth[k], -k)) for members in left.values() if members]
            queue += sorted(heads, key=lambda k: (-worth[k], k))
            for k in heads:
                left[part[k]].remove(k)
        queues.append(queue)
    order = []
    for turn in range(max(map(len, queues))):
        order += sorted((q[turn] for q in queues if turn < len(q)), key=lambda k: (-worth[k], k))
    return order[:count]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 70), st.integers(0, 99))
def test_classes_and_parts_of_the_map_take_turns_and_the_worthiest_goes_first(
    size: int, classes: int, count: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    places = rng.integers(0, 9, (size, 2)).astype(float)  # with ties
    kinds = rng.integers(0, classes, size)
    worth = rng.integers(0, 5, size) / 4
    _, kinds = np.unique(kinds, return_inverse=True)
    found = choose(places, kinds, worth, count)
    assert found.tolist() == plain_choice(places.tolist(), kinds.tolist(), worth.tolist(), count)


def test_neighbours_of_another_class_and_doubt_and_size_make_an_object_worth_a_look() -> None:
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 100, (1000, 2))
    kinds = (places[:, 0] > 50).astype(int)
    kinds[7] = 1 - kinds[7]  # one in the midst of others
    odd = disagreement_of(places, kinds)
    part = np.array(plain_parts(places.tolist(), math.isqrt(1000 // 16)))
    for k in range(0, 1000, 97):
        others = [j for j in np.flatnonzero(part == part[k]) if j != k]
        assert odd[k] == pytest.approx(np.mean(kinds[others] != kinds[k]))
    assert odd[7] > 0.9
    alone = worth_of(np.zeros(1, int), np.array([0.4]), np.array([5.0]), np.zeros(1))
    assert alone[0] == pytest.approx(0.6 * 0.5)
    sure, odd_ones, areas = np.full(4, 0.5), np.zeros(4), np.array([2.0, 2.0, 2.0, 2.0])
    more = [
        worth_of(np.zeros(4, int), sure - [0.2, 0, 0, 0], areas, odd_ones),
        worth_of(np.zeros(4, int), sure, areas + np.array([4, 0, 0, 0]), odd_ones),
        worth_of(np.zeros(4, int), sure, areas, odd_ones + np.eye(4)[0]),
    ]
    assert all(worth[0] > worth[1:].max() for worth in more)


@pytest.fixture
def objects(write_scene: Write) -> Path:
    """A map of small objects in three classes, as pfmap writes it; the model knows a fourth."""
    scene = write_scene(blobs(160, 160))
    return pfmap.predict(scene, model=stand_in(4), device="cpu", min_area=0).outputs["gpkg"]


def test_a_checklist_holds_the_chosen_objects_in_order_with_what_the_map_said(objects: Path) -> None:
    every = gpd.read_file(objects, layer="objects")
    every["confidence_mean"] = np.random.default_rng(0).uniform(0.3, 1, len(every))
    every.to_file(objects, layer="objects")
    output = objects.with_name("review.gpkg")
    made = write_checklist(str(objects), output, 40)
    listed = gpd.read_file(output, layer="objects")
    assert made.total == len(every) > 40
    assert listed["rank"].tolist() == list(range(1, 41))
    assert listed["checked"].dtype == bool
    assert not listed["checked"].any()
    assert listed.crs == every.crs
    names, kinds = np.unique(every["class"], return_inverse=True)
    confidence = every["confidence_mean"].to_numpy()
    bounds = every.bounds.to_numpy()
    places = (bounds[:, :2] + bounds[:, 2:]) / 2
    odd = disagreement_of(places, kinds)
    worth = worth_of(kinds, confidence, every.area.to_numpy(), odd)
    chosen = every.iloc[plain_choice(places.tolist(), kinds.tolist(), worth.tolist(), 40)]
    assert listed["object_id"].tolist() == chosen["object_id"].tolist()
    assert listed["class"].tolist() == listed["was"].tolist() == chosen["class"].tolist()
    assert listed["confidence"].tolist() == chosen["confidence_mean"].tolist()
    assert listed["scene"].tolist() == ["scene"] * 40
    np.testing.assert_allclose(listed["disagreement"], odd[chosen.index], atol=0.001)
    assert all(listed.geometry.geom_equals(chosen.geometry.reset_index(drop=True)))
    assert made.counts == {name: int((listed["class"] == name).sum()) for name in names}


def test_qgis_finds_a_form_an_order_and_colours_in_a_checklist(objects: Path) -> None:
    output = objects.with_name("review.gpkg")
    write_checklist(str(objects), output, 10)
    with closing(sqlite3.connect(output)) as db:
        found = db.execute("SELECT f_table_name, styleQML, useAsDefault FROM layer_styles")
        ((table, style, default),) = found
        columns = {name: kind for _, name, kind, *_ in db.execute("PRAGMA table_info(objects)")}
    assert (table, default) == ("objects", 1)
    assert columns["checked"] == "BOOLEAN"
    root = ET.fromstring(style)
    assert root.get("styleCategories") == "AllStyleCategories"
    widgets = {field.get("name"): field.find("editWidget") for field in root.iter("field") if len(field)}
    assert {name: widget.get("type") for name, widget in widgets.items()} == {
        "fid": "Hidden", "class": "ValueMap", "checked": "CheckBox",
    }  # fmt: skip
    offered = [one for one in widgets["class"].iter("Option") if one.get("type") == "QString"]
    names = [f"class_{k}" for k in range(4)]
    assert [one.get("name") for one in offered] == [one.get("value") for one in offered] == names
    fixed = {one.get("name") for one in root.findall("editable/field") if one.get("editable") == "0"}
    assert fixed == {*columns} - {"class", "checked", "fid", "geom"}
    table_of = root.find("attributetableconfig")
    assert (table_of.get("sortExpression"), table_of.get("sortOrder")) == ('"rank"', "0")
    assert root.findtext("previewExpression").startswith('lpad("rank"')
    renderer = root.find("renderer-v2")
    assert [one.get("value") for one in renderer.iter("category")] == [
        *names, *(f"{name} (checked)" for name in names),
    ]  # fmt: skip
    fills = [one.get("value") for one in renderer.iter("Option") if one.get("name") == "color"]
    own = [",".join(map(str, spec.rgb)) for spec in stand_in(4).card.classes]
    assert [fill.rpartition(",")[0] for fill in fills] == own * 2
    assert len({fill.rpartition(",")[2] for fill in fills}) == 2


@pytest.mark.parametrize("ending", ["shp", "fgb", "parquet", "geojson"])
def test_maps_in_all_formats_have_checklists(write_scene: Write, ending: str) -> None:
    scene = write_scene(blobs(160, 160))
    result = pfmap.predict(scene, model=stand_in(), device="cpu", min_area=0, formats=("gpkg", ending))
    lists = {}
    for kind in ("gpkg", ending):
        output = scene.with_name(f"{kind}_review.gpkg")
        write_checklist(str(result.outputs[kind]), output, 9, classes=["class_2", "else"])
        lists[kind] = gpd.read_file(output, layer="objects")
        with closing(sqlite3.connect(output)) as db:
            style = db.execute("SELECT styleQML FROM layer_styles").fetchone()[0]
        offered = [one.get("value") for one in ET.fromstring(style).iter("category")][:4]
        assert offered == ["class_2", "else", *sorted({"class_0", "class_1"}, key=offered.index)]
    assert lists["gpkg"].columns.tolist() == lists[ending].columns.tolist()
    every = gpd.read_file(result.outputs["gpkg"], layer="objects").set_index("object_id")
    for row in lists[ending].itertuples():
        own = every.loc[int(row.object_id)]
        assert (row.was, row.confidence, row.scene) == (own["class"], own["confidence_mean"], own["scene"])


def test_a_checklist_refuses_what_is_no_map_and_replaces_nothing_unasked(
    objects: Path, tmp_path: Path
) -> None:
    def refused(source: Path, output: Path, **more: bool) -> str:
        before = output.read_bytes() if output.exists() else None
        with pytest.raises(PfmapError) as caught:
            write_checklist(str(source), output, **more)
        assert (output.read_bytes() if output.exists() else None) == before
        return str(caught.value)

    bare = tmp_path / "bare.gpkg"
    drawn = gpd.GeoDataFrame({"class": ["a"]}, geometry=[shapely.box(0, 0, 1, 1)], crs="EPSG:32645")
    drawn.to_file(bare)
    output = tmp_path / "review.gpkg"
    assert "bare.gpkg has no field confidence_mean and no object_id and no scene" in refused(bare, output)
    assert "does not exist" in refused(tmp_path / "gone.gpkg", output)
    assert "let it end with .gpkg" in refused(objects, tmp_path / "review.shp")
    assert "is the map itself" in refused(objects, objects, overwrite=True)
    write_checklist(str(objects), output, 5)
    said = refused(objects, output)
    assert "exists already, maybe with corrections: replace it with overwrite=True" in said
    made = write_checklist(str(objects), output, 10**6, overwrite=True)
    assert sum(made.counts.values()) == made.total == len(gpd.read_file(output, layer="objects"))
    with closing(sqlite3.connect(objects)) as db:
        db.create_function("ST_IsEmpty", 1, lambda _shape: 0)
        db.execute("DELETE FROM objects")
        db.commit()
    assert "has no objects: there is nothing to look at" in refused(objects, tmp_path / "none.gpkg")
    assert not list(tmp_path.glob("*.pfmap*"))


def test_the_command_says_what_it_listed_and_names_its_options(
    objects: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = objects.with_name("review.gpkg")
    command = ["review", str(objects), "-o", str(output)]
    done = here(capsys, *command, "--count", "6")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"wrote {output}: 6 of ")
    again = here(capsys, *command)
    assert again.returncode == 1
    assert "replace it with --overwrite" in again.stderr
    assert here(capsys, *command, "--count", "0").returncode == 2
