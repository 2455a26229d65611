"""Objects of `pfmap evaluate`, from polygons, ids and contact, against plain sets of pixels."""

import itertools
import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from click.testing import CliRunner
from conftest import UTM
from objects import Objects, brute_force, objects
from rasterio import features
from scipy import ndimage

import pfmap
from pfmap.cli.main import cli
from pfmap.core.errors import PfmapError
from pfmap.core.stages import Regions
from pfmap.evaluation import prediction, sides
from pfmap.evaluation.metrics import Objects as Figures
from pfmap.raster import classmap
from pfmap.trace.separate import Separation
from pfmap.trace.tracer import Tracer

GRID = Affine(0.5, 0, 300000, 0, -0.5, 3000000)
SHAPE = 130, 150
BUILDING, ROAD, NODATA = 0, 1, 255


def write(path: Path, values: np.ndarray, transform: Affine = GRID, **tags: str) -> Path:
    height, width = values.shape
    options = {"crs": UTM, "transform": transform, "nodata": NODATA if values.dtype == np.uint8 else None}
    options |= {"tiled": True, "blockxsize": 16, "blockysize": 16}
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=height, width=width, dtype=values.dtype, **options
    ) as dst:
        dst.write(values, 1)
        dst.update_tags(**tags)
    return path


def town() -> tuple[np.ndarray, np.ndarray]:
    """Ids of houses, some with common walls, and classes as a network sees them: shifted, with specks."""
    rng = np.random.default_rng(3)
    ids = np.zeros(SHAPE, dtype=np.int32)
    for number in range(40):
        y, x = rng.integers(0, 120), rng.integers(0, 140)
        ids[y : y + rng.integers(8, 28), x : x + rng.integers(8, 28)] = number + 1
    noise = ndimage.gaussian_filter(rng.normal(size=SHAPE), 2)
    classes = np.where((np.roll(ids, 1, axis=1) > 0) ^ (noise > 0.25), BUILDING, ROAD).astype(np.uint8)
    classes[60:62] = classes[:, 70:72] = ROAD  # splits houses
    classes[:8, :30] = NODATA
    return ids, classes


def polygons(ids: np.ndarray) -> gpd.GeoDataFrame:
    """A feature for each id, of several parts where it is not connected."""
    shapes = features.shapes(ids, mask=ids > 0, transform=GRID)
    pairs = [(shapely.geometry.shape(shape), int(value)) for shape, value in shapes]
    geometry, number = zip(*pairs, strict=True)
    return (
        gpd.GeoDataFrame({"number": number}, geometry=list(geometry), crs=UTM)
        .dissolve("number")
        .reset_index()
    )


def outlines(regions: Regions) -> list[tuple[shapely.Polygon, int]]:
    """Polygons in pixels, and what is the same for all pieces of an object."""
    rings = [regions.coords[a:b] for a, b in itertools.pairwise(regions.ring_offsets)]
    spans = itertools.pairwise(regions.region_offsets)
    shapes = [shapely.Polygon(rings[a], rings[a + 1 : b]) for a, b in spans]
    return list(zip(shapes, (regions.object_ids + 1).tolist(), strict=True))


def same(found: Figures, true: Objects, predicted: Objects, least: int = 100) -> None:
    """Compare figures with the oracle, for one class."""
    tables = brute_force(true, predicted, least)
    count, *hits, merged, split = tables[0].sum(axis=0)
    total, *right = tables[1].sum(axis=0)
    assert (found.truth, found.predicted, found.merged, found.split) == (count, total, merged, split)
    for match, hit, good in zip(found.matches, hits, right, strict=True):
        assert (match.recall, match.precision) == pytest.approx((hit / count, good / total))
    assert min(count, total, merged, split, *hits) > 0
    assert found.share(found.merged) == f"{merged / count:.1%}"


def of(*sources: Path, **options: Any) -> Figures:
    (item,) = pfmap.evaluate(*sources, objects=["building"], **options).figures.classes[:1]
    assert item.objects is not None
    return item.objects


@pytest.mark.parametrize("rows", [7, 10_000])
@pytest.mark.parametrize("kind", ["uint16", "int32", "polygons", "labels"])
def test_a_class_raster_is_compared_with_footprints_of_any_kind(
    kind: str, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classmap, "_PIXELS", rows * SHAPE[1])
    ids, classes = town()
    one = write(tmp_path / "map.tif", classes, PFMAP_CLASSES="building,road")
    valid = classes != NODATA
    two = tmp_path / "truth.gpkg"
    options: dict[str, Any] = {"truth": two, "only": ["building"]}
    if kind == "polygons":
        polygons(ids).to_file(two)
    else:
        options = {"ids": write(tmp_path / "ids.tif", ids.astype("int32" if kind == "labels" else kind))}
    if kind == "labels":  # a part is not labelled
        labels = np.where(ids > 0, BUILDING, ROAD).astype(np.uint8)
        labels[100:, 100:] = NODATA
        valid &= labels != NODATA
        options |= {"truth": write(tmp_path / "labels.tif", labels, PFMAP_CLASSES="building,road")}
    codes = [np.where(valid & here, BUILDING, NODATA) for here in (ids > 0, classes == BUILDING)]
    for least in (1, 100):
        same(of(one, min_object=least, **options), objects(codes[0], ids), objects(codes[1]), least)


@pytest.mark.parametrize("rows", [7, 10_000])
@pytest.mark.parametrize("beside", [True, False])
def test_pieces_of_one_object_are_one_and_other_features_are_objects_each(
    beside: bool, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classmap, "_PIXELS", rows * SHAPE[1])
    ids, classes = town()
    parts, _ = ndimage.label(classes == BUILDING)
    cut = parts * 4 + np.arange(SHAPE[1]) // 50  # pieces of a large object
    frame = polygons(np.where(parts > 0, cut, 0).astype(np.int32))
    frame["class"], frame["region_id"], frame["object_id"] = "building", 0, frame["number"] // 4
    truth = write(tmp_path / "ids.tif", ids)
    valid = np.ones(SHAPE, dtype=bool)
    if beside:  # the class raster that the polygons are of says what was mapped
        write(tmp_path / "town_classes.tif", classes, PFMAP_CLASSES="building,road")
        valid = classes != NODATA
    true = objects(np.where(valid & (ids > 0), BUILDING, NODATA), ids)
    found = np.where(valid & (classes == BUILDING), BUILDING, NODATA)
    one = tmp_path / "town_objects.gpkg"
    frame.to_file(one)
    same(of(one, ids=truth), true, objects(found, parts))
    frame.drop(columns="region_id").to_file(one)
    same(of(one, ids=truth), true, objects(found, cut))


def test_a_contact_raster_of_a_finer_scene_is_measured_in_pixels_of_the_network(tmp_path: Path) -> None:
    """A gap in the wall is closed as in the raster of half the resolution."""
    ids = np.kron([[1, 2], [3, 4]], np.ones((50, 60), np.int32)).repeat(2, 0).repeat(2, 1)
    walls = (ndimage.maximum_filter(ids, 3) != ndimage.minimum_filter(ids, 3)) * np.uint8(90)
    walls[40:60, :], walls[:, 40:60], ids[:4] = 0, 0, 0
    classes = np.where(ids > 0, BUILDING, ROAD).astype(np.uint8)
    one = write(tmp_path / "town_classes.tif", classes, PFMAP_CLASSES="building,road")
    write(tmp_path / "town_contact.tif", walls, PFMAP_SEPARATED_SCALE="200")
    assert of(one, ids=write(tmp_path / "ids.tif", ids)).predicted == 4


def test_each_input_is_opened_once_to_see_whether_it_is_polygons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, classes = town()
    one, two = write(tmp_path / "map.tif", classes), tmp_path / "truth.gpkg"
    polygons(ids).to_file(two)
    asked: list[str] = []
    monkeypatch.setattr(prediction, "is_vector", lambda path: asked.append(path) or path.endswith("gpkg"))
    pfmap.evaluate(one, two, only=["0"])
    assert asked == [str(one), str(two)]


@pytest.mark.parametrize("rows", [1, 40, 10_000])
def test_a_contact_raster_takes_objects_apart_however_rows_are_read(
    rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classmap, "_PIXELS", rows * SHAPE[1])
    monkeypatch.setattr(sides, "_COLUMNS", 37)
    ids, classes = town()
    walls = ndimage.maximum_filter(ids, 3) != ndimage.minimum_filter(np.where(ids > 0, ids, 99), 3)
    contact = np.where(classes == NODATA, NODATA, walls * np.uint8(90)).astype(np.uint8)
    one = write(tmp_path / "town_classes.tif", classes, PFMAP_CLASSES="building,road")
    write(tmp_path / "town_contact.tif", contact)
    with Tracer(*SHAPE, nodata=NODATA, separation=Separation(frozenset([BUILDING])), tile=64) as tracer:
        parts = [part for regions in tracer.add(classes, None, contact) for part in outlines(regions)]
    numbered = features.rasterize(parts, SHAPE, dtype=np.int32)
    codes = [
        np.where((classes != NODATA) & here, BUILDING, NODATA) for here in (ids > 0, classes == BUILDING)
    ]
    true, found = objects(codes[0], ids), objects(codes[1], numbered)
    assert len(found) > len(objects(codes[1]))
    same(of(one, ids=write(tmp_path / "ids.tif", ids)), true, found)


def test_the_command_says_how_many_are_found_merged_and_split(tmp_path: Path) -> None:
    ids, classes = town()
    one = write(tmp_path / "map.tif", classes, PFMAP_CLASSES="building,road")
    two = write(tmp_path / "ids.tif", ids)
    arguments = ["evaluate", str(one), "--ids", str(two), "--objects", "building"]
    found = of(one, ids=two)
    done = CliRunner().invoke(cli, [*arguments, "--html", str(tmp_path / "page.html")])
    assert done.exit_code == 0, done.output
    assert (
        f"objects of building, 100 pixels or more: {found.truth} true, {found.predicted} predicted"
        in done.stdout
    )
    assert f"merged {found.merged} ({found.share(found.merged)}), split {found.split}" in done.stdout
    html = (tmp_path / "page.html").read_text()
    assert all(f"</span>{fate}</li>" in html or fate in html for fate in ("missed", "merged", "split"))
    assert f"<td>{found.share(found.merged)}</td>" in html
    (table,) = json.loads(CliRunner().invoke(cli, [*arguments, "--json", "-q"]).stdout)["objects"]
    (half, strict), both = table["matches"], found.matches
    assert half == {name: table[name] for name in ("precision", "recall", "f1")}
    assert (half["f1"], strict["f1"]) == pytest.approx([match.f1 for match in both], abs=1e-6)
    assert table["iou"] == [0.5, 0.75]
    assert (table["class"], table["least_pixels"], table["merged"]) == ("building", 100, found.merged)
    done = CliRunner().invoke(cli, [*arguments, "--min-object", "2000", "--json", "-q"])
    assert json.loads(done.stdout)["objects"][0]["truth"] == 0


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "ids on another grid": ({"ids": "coarse.tif"}, "coarse.tif lies on another grid than .*map.tif"),
    "ids elsewhere": ({"ids": "far.tif"}, "do not overlap"),
    "ids without a label of the class": (
        {"truth": "roads.tif", "ids": "ids.tif"},
        "ids.tif has no id on a pixel that counts and is labelled as its class in .*roads.tif",
    ),
    "ids of no class": ({"ids": "ids.tif", "objects": ()}, "ids= needs the one class"),
    "ids of several classes": (
        {"ids": "ids.tif", "objects": ("building", "road")},
        "ids= needs the one",
    ),
    "ids beside polygons": (
        {"truth": "truth.gpkg", "ids": "ids.tif"},
        "ids= needs .* labels in a raster or none",
    ),
    "no truth": ({}, "truth= or ids= is needed"),
    "an unknown class": (
        {"ids": "ids.tif", "objects": ["house"]},
        "class 'house' is unknown: .*map.tif has building, road",
    ),
    "polygons on both sides": (
        {"prediction": "truth.gpkg", "truth": "truth.gpkg"},
        "truth.gpkg and .* are polygons, without truth_classes.tif: one of the two has to be a raster",
    ),
    "polygons of no class": (
        {"prediction": "truth.gpkg", "truth": "roads.tif", "objects": ()},
        "truth.gpkg are polygons: name the classes to compare with objects= or only=",
    ),
    "contact of another size": (
        {"prediction": "town_classes.tif", "ids": "ids.tif"},
        "town_contact.tif has 50 x 50 pixels, .* has 150 x 130",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_compared_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    ids, classes = town()
    write(tmp_path / "map.tif", classes, PFMAP_CLASSES="building,road")
    write(tmp_path / "town_classes.tif", classes, PFMAP_CLASSES="building,road")
    write(tmp_path / "town_contact.tif", classes[:50, :50])
    write(tmp_path / "roads.tif", np.full(SHAPE, ROAD, dtype=np.uint8), PFMAP_CLASSES="building,road")
    write(tmp_path / "ids.tif", ids)
    write(tmp_path / "coarse.tif", ids[::2, ::2], GRID @ Affine.scale(2))
    write(tmp_path / "far.tif", ids, Affine.translation(1e5, 0) @ GRID)
    polygons(ids).to_file(tmp_path / "truth.gpkg")
    options, message = REFUSED[case]
    named = {"prediction": "map.tif", "objects": ["building"]} | options
    given = {name: tmp_path / value if isinstance(value, str) else value for name, value in named.items()}
    with pytest.raises(PfmapError, match=message) as caught:
        pfmap.evaluate(**given)
    assert "\n" not in str(caught.value)


def test_ids_beside_the_class_and_on_a_part_are_said(tmp_path: Path) -> None:
    ids, classes = town()
    one = write(tmp_path / "map.tif", classes, PFMAP_CLASSES="building,road")
    labels = np.where(ids > 0, BUILDING, ROAD).astype(np.uint8)
    labels[:60] = ROAD
    said: list[str] = []
    two = write(tmp_path / "labels.tif", labels, PFMAP_CLASSES="building,road")
    of(
        one,
        truth=two,
        ids=write(tmp_path / "ids.tif", ids[20:], GRID @ Affine.translation(0, 20)),
        on_message=said.append,
    )
    stray = np.count_nonzero((ids[20:60] > 0) & (classes[20:60] != NODATA))
    assert any(f"warning: {stray:,} pixels of " in line and "but another label in" in line for line in said)
