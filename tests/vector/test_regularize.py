"""Squared objects have right angles only, agree with what was traced, and never overlap."""

import dataclasses
import itertools
import math
from contextlib import closing
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rasterio.features import rasterize
from rasters import blotches, percent, polygons, traced
from scipy import ndimage
from shapely import affinity

from pfmap.core.classes import ClassSpec
from pfmap.core.grid import GeoBox
from pfmap.core.stages import Regions
from pfmap.vector import write
from pfmap.vector.geodesy import Measurer
from pfmap.vector.regularize import LEAST_IOU, Regularizer, Row, touching
from pfmap.vector.walls import directions, iou
from pfmap.vector.write import ObjectWriter

PIXEL = (0.3, 0.3)
L_SHAPE = shapely.Polygon([(0, 0), (24, 0), (24, 9), (11, 9), (11, 20), (0, 20)])
"""Metres."""


def burnt(*shapes: shapely.Geometry, side: int = 200) -> np.ndarray:
    """Draw shapes given in pixels: buildings are 0, the rest is 1."""
    return rasterize([(shape, 0) for shape in shapes], out_shape=(side, side), fill=1, dtype="uint8")


def placed(shape: shapely.Geometry, angle: float, x: float = 100, y: float = 100) -> shapely.Geometry:
    """Turn a building by degrees, and place its middle at a pixel."""
    turned = affinity.rotate(affinity.scale(shape, 1 / PIXEL[0], 1 / PIXEL[1]), angle, origin="centroid")
    return affinity.translate(turned, x - turned.centroid.x, y - turned.centroid.y)


def squared(classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Trace the buildings and square them: polygons before and after, in pixels."""
    regions = traced(classes, percent(classes), tolerance=1.25, wanted=frozenset({0}))
    outlines = polygons(regions)
    return outlines, Regularizer(frozenset({0}), PIXEL, True)(outlines, regions)


def square(outline: shapely.Polygon, wall: float) -> shapely.Polygon | None:
    """Square a single building."""
    nobody = np.zeros(0, dtype=object)
    (found,) = Row(np.array([outline]), np.array([True]), wall).squared(lambda _polygon: nobody)
    return found


def corners(shape: shapely.Polygon) -> np.ndarray:
    """Degrees by which the corners of all rings differ from right angles."""
    off = []
    for ring in (shape.exterior, *shape.interiors):
        step = np.diff(shapely.get_coordinates(ring), axis=0)
        turn = np.diff(np.unwrap(np.arctan2(*np.vstack([step, step[:1]]).T[::-1])))
        off.append(np.abs(np.abs(np.degrees(turn)) - 90))
    return np.concatenate(off)


@pytest.mark.parametrize("angle", [0, 7, 20, 45, 63, 89])
def test_a_building_gets_its_six_right_corners_back(angle: float) -> None:
    truth = placed(L_SHAPE, angle)
    (traced_outline,), (found,) = squared(burnt(truth))
    assert found.is_valid
    assert len(found.exterior.coords) == 7
    assert corners(found).max() < 1e-6
    assert iou(found, truth) > 0.98
    assert iou(found, truth) > iou(traced_outline, truth) - 0.002
    turned = math.degrees(directions(np.diff(shapely.get_coordinates(found.exterior), axis=0))[0]) % 90
    assert min(abs(turned - angle % 90), 90 - abs(turned - angle % 90)) < 1.5


def test_courtyards_are_squared_along_the_same_walls() -> None:
    house = shapely.box(0, 0, 24, 20).difference(shapely.box(8, 7, 16, 13))
    _, (found,) = squared(burnt(placed(house, 25)))
    assert len(found.interiors) == 1
    assert shapely.get_num_coordinates(found) == 10
    assert corners(found).max() < 1e-6
    assert shapely.area(found) * 0.09 == pytest.approx(house.area, rel=0.02)


def test_what_is_not_rectangular_stays_as_it_is() -> None:
    for radius in (4, 10, 20):
        (before,), (after,) = squared(burnt(placed(shapely.Point(0, 0).buffer(radius), 0)))
        assert before.equals_exact(after, 1e-9)
    # Not even with many vertices to spare does anything square agree with this.
    assert square(shapely.segmentize(shapely.Polygon([(0, 0), (40, 0), (0, 1.5)]), 1), 4.0) is None


def test_cut_tiny_and_other_objects_stay_as_they_are() -> None:
    at_edge = placed(L_SHAPE, 20, x=3)
    speck = shapely.box(150, 20, 152, 21)
    before, after = squared(burnt(at_edge, speck))
    assert len(before) == 2
    assert all(a.equals_exact(b, 1e-9) for a, b in zip(before, after, strict=True))
    regions = traced(burnt(placed(L_SHAPE, 20)), percent(burnt(L_SHAPE)), tolerance=1.25)
    outlines = polygons(regions)
    others = Regularizer(frozenset({7}), PIXEL, True)(outlines, regions)
    assert all(a is b for a, b in zip(outlines, others, strict=True))


def test_pieces_of_a_large_object_keep_their_common_line() -> None:
    regions = traced(burnt(placed(L_SHAPE, 20)), percent(burnt(L_SHAPE)), tolerance=1.25, tile=64, split=1)
    outlines = polygons(regions)
    assert (regions.classes == 0).sum() > 1
    kept = Regularizer(frozenset({0}), PIXEL, True)(outlines, regions)
    assert all(a.equals_exact(b, 1e-9) for a, b in zip(outlines, kept, strict=True))


def test_walls_at_right_angles_on_the_ground_are_not_so_in_oblong_pixels() -> None:
    size = (0.3, 0.15)
    house = affinity.scale(affinity.rotate(L_SHAPE, 30), 1 / size[0], 1 / size[1], origin=(0, 0))
    classes = burnt(affinity.translate(house, 40, 50), side=260)
    regions = traced(classes, percent(classes), tolerance=1.25, wanted=frozenset({0}))
    (found,) = Regularizer(frozenset({0}), size, True)(polygons(regions), regions)
    assert corners(affinity.scale(found, *size, origin=(0, 0))).max() < 1e-6
    assert corners(found).max() > 5


HOUSE = shapely.Polygon([(0, 0), (40, 0), (40, 25), (35, 30), (0, 30)])
"""One corner is cut off."""

NEIGHBOUR = shapely.Polygon([(36, 30), (43, 23), (57, 37), (50, 44)])
"""It lies square to the cut, and would be hit by the corner if there were one."""


def batch(*shapes: shapely.Polygon) -> tuple[np.ndarray, Regions]:
    count = len(shapes)
    ids = np.arange(count)
    regions = dataclasses.replace(
        Regions.none(),
        whole=np.ones(count, bool),
        classes=np.zeros(count, np.int32),
        ids=ids,
        object_ids=ids,
        region_ids=ids,
        at_edge=np.zeros(count, bool),
    )
    return np.array(shapes, dtype=object), regions


def test_an_object_leaves_to_others_what_is_theirs() -> None:
    alone = Regularizer(frozenset({0}), (1, 1), False)(*batch(HOUSE))[0]
    assert len(alone.exterior.coords) == 5
    assert alone.intersection(NEIGHBOUR).area > 5
    for shapes in ((HOUSE, NEIGHBOUR), (NEIGHBOUR, HOUSE)):
        found = dict(zip(shapes, Regularizer(frozenset({0}), (1, 1), False)(*batch(*shapes)), strict=True))
        assert found[HOUSE].intersection(NEIGHBOUR).area < 1e-9
        assert iou(found[NEIGHBOUR], NEIGHBOUR) > 0.999
        assert len(found[HOUSE].exterior.coords) == 7
        assert corners(found[HOUSE]).max() < 1e-6


def test_a_building_of_a_row_leaves_to_others_what_is_theirs() -> None:
    annex = shapely.box(0, -20, 40, 0)
    found = Regularizer(frozenset({0}), (1, 1), False)(*batch(HOUSE, annex, NEIGHBOUR))
    assert found[0].intersection(NEIGHBOUR).area < 1e-6
    assert shapely.coverage_is_valid(found[:2])
    assert iou(found[0], HOUSE) > LEAST_IOU


def test_of_what_both_win_by_squaring_the_first_keeps_it() -> None:
    facing = affinity.translate(affinity.rotate(HOUSE, 180, origin=(40, 30)), -2, -2)
    assert HOUSE.distance(facing) > 4
    one, other = Regularizer(frozenset({0}), (1, 1), False)(*batch(HOUSE, facing))
    assert len(one.exterior.coords) == 5
    assert len(other.exterior.coords) == 7
    assert one.intersection(other).area < 1e-9


@pytest.mark.parametrize("shapes", [(HOUSE, NEIGHBOUR), (NEIGHBOUR, HOUSE)])
def test_an_object_that_is_closed_later_gives_way(shapes: tuple[shapely.Polygon, shapely.Polygon]) -> None:
    regularizer = Regularizer(frozenset({0}), (1, 1), False)
    (first,), (later,) = (regularizer(*batch(shape)) for shape in shapes)
    assert len(first.exterior.coords) == 5  # as if it were alone
    assert first.intersection(later).area < 1e-9
    assert corners(later).max() < 1e-6
    assert iou(later, shapes[1]) > LEAST_IOU


def test_walls_keep_clear_of_one_another_so_that_rounding_breaks_nothing() -> None:
    holes = [shapely.box(10, 10, 16, 16), shapely.box(16.004, 13, 22, 19)]
    house = affinity.rotate(shapely.box(0, 0, 40, 30).difference(shapely.union_all(holes)), 17)
    assert house.is_valid
    assert shapely.minimum_clearance(house) < 0.005
    found = square(house, 4.0)
    assert found is not None
    assert shapely.minimum_clearance(found) > 0.005
    assert corners(found).max() < 1e-6
    assert iou(found, house) > 0.999


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(1.0, 6.0), st.floats(0.05, 1.0))
def test_any_map_gives_valid_squares_close_to_what_was_traced(seed: int, blur: float, gsd: float) -> None:
    classes = blotches(seed, 90, 110, 2, blur)
    regions = traced(classes, percent(classes), tolerance=1.25)
    outlines = polygons(regions)
    found = Regularizer(frozenset({0}), (gsd, gsd), True)(outlines, regions)
    assert shapely.is_valid(found).all()
    for before, after, value in zip(outlines, found, regions.classes, strict=True):
        if before.equals_exact(after, 1e-9):
            continue
        assert value == 0
        assert iou(before, after) >= LEAST_IOU - 1e-9
        assert corners(after).max() < 1e-4
    squares = found[regions.classes == 0]
    one, other = shapely.STRtree(squares).query(squares, "intersects")
    one, other = one[one < other], other[one < other]
    assert shapely.area(shapely.intersection(squares[one], squares[other])).max(initial=0) < 1e-6


def houses(count: int, angle: float, seed: int = 0, side: int = 200) -> np.ndarray:
    """Draw a row of houses, 60 pixels deep and 40 wide, with jagged outlines: 0, 1 ..., the rest 9."""
    step = shapely.box(0, 0, 40, 60)
    row = [affinity.translate(step, 40 * k) for k in range(count)]
    turned = [affinity.rotate(house, angle, origin=(20 * count, 30)) for house in row]
    turned = [affinity.translate(house, side / 2 - 20 * count, side / 2 - 30) for house in turned]
    classes = rasterize(zip(turned, range(count), strict=True), out_shape=(side, side), fill=9, dtype="uint8")
    noise = np.random.default_rng(seed).normal(size=(2, side, side))
    noise = 5 * ndimage.gaussian_filter(noise, (0, 2.5, 2.5))  # every outline wavers by a pixel or two
    return classes[tuple(np.clip(np.indices((side, side)) + noise.round().astype(int), 0, side - 1))]


def row_of(classes: np.ndarray, pixel: float = 0.3) -> tuple[np.ndarray, np.ndarray, Regions]:
    """Trace all classes but 9 and square them: polygons before and after."""
    known = frozenset(np.unique(classes).tolist()) - {9}
    regions = traced(classes, percent(classes), tolerance=1.25, wanted=known)
    outlines = polygons(regions)
    return outlines, Regularizer(known, (pixel, pixel), True)(outlines, regions), regions


@pytest.mark.parametrize("angle", [0, 30, 58])
def test_a_row_of_jagged_houses_comes_back_as_rectangles_with_common_walls(angle: float) -> None:
    outlines, found, regions = row_of(houses(3, angle))
    large = regions.pixels > 1000
    assert large.sum() == 3
    squares = found[large][np.argsort(regions.classes[large])]
    assert shapely.coverage_is_valid(squares)
    for number, house in enumerate(squares):
        off = corners(house)
        assert (off.round(6) % 90 == 0).all()
        assert (off < 1).sum() <= 6  # where a neighbour's wall ends it goes straight on: 90 degrees off
        assert house.area == pytest.approx(40 * 60, rel=0.05), number
    first, second, third = squares
    for one, other in ((first, second), (second, third)):
        wall = shapely.shared_paths(one.exterior, other.exterior)
        assert shapely.length(wall) == pytest.approx(60, abs=2)
    front = shapely.union_all(squares)
    assert shapely.hausdorff_distance(front, shapely.oriented_envelope(front)) < 2.5
    assert not any(a.equals(b) for a, b in zip(outlines[large], found[large], strict=True))


def test_houses_of_a_row_that_run_another_way_are_squared_their_own_way() -> None:
    classes = houses(2, 30)
    wing = affinity.rotate(shapely.box(90, 20, 140, 62), -10)
    classes = np.where((burnt(wing) == 0) & (classes == 9), np.uint8(2), classes)
    _, found, regions = row_of(classes)
    large = regions.pixels > 800
    assert large.sum() == 3
    assert shapely.coverage_is_valid(found[large])
    best = {
        int(regions.classes[k]): math.degrees(
            directions(np.diff(shapely.get_coordinates(found[k].exterior), axis=0))[0]
        )
        for k in np.flatnonzero(large)
    }
    assert best[0] == pytest.approx(30, abs=2)
    assert best[1] == pytest.approx(30, abs=2)
    assert best[2] == pytest.approx(80, abs=2)


@settings(max_examples=60, deadline=None)
@example(6, 4.375, 0.8125, 6)  # a spur to a corner that another building keeps
@given(st.integers(0, 10**6), st.floats(1.0, 6.0), st.floats(0.05, 1.0), st.integers(3, 7))
def test_touching_buildings_keep_their_walls_in_common(
    seed: int, blur: float, gsd: float, kinds: int
) -> None:
    classes = blotches(seed, 90, 110, kinds, blur)
    regions = traced(classes, percent(classes), tolerance=1.25, wanted=frozenset(range(kinds - 1)))
    before = polygons(regions)
    found = Regularizer(frozenset(range(kinds - 1)), (gsd, gsd), True)(before, regions)
    assert shapely.is_valid(found).all()
    one, other = shapely.STRtree(found).query(found, "intersects")
    one, other = one[one < other], other[one < other]
    assert shapely.area(shapely.intersection(found[one], found[other])).max(initial=0) < 1e-6
    for row in touching(before):
        if len(row) > 1:
            assert shapely.coverage_is_valid(found[row])  # no gap: walls are common vertex for vertex
            near, far = shapely.STRtree(before[row]).query(before[row], "touches")
            assert shapely.distance(found[row][near], found[row][far]).max(initial=0) == 0
    for outline, shape in zip(before, found, strict=True):
        if outline.equals_exact(shape, 1e-9):
            continue
        assert iou(outline, shape) >= LEAST_IOU - 1e-9
        # Corners are right, or straight where a wall ends, unless they lie on walls that stay.
        stays = shapely.multipoints(shapely.get_coordinates(outline))
        corner = shapely.points(shapely.get_coordinates(shape.exterior)[1:])
        free = shapely.distance(corner, stays) > 1e-6
        free &= np.roll(free, 1) & np.roll(free, -1)
        off = corners(affinity.scale(shapely.Polygon(shape.exterior), gsd, gsd))[free]
        assert (np.minimum(off, 90 - off) < 1e-4).all()


@pytest.mark.parametrize("chunk", [1, 2, 1000])
def test_a_row_is_squared_at_once_however_it_comes(
    chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = houses(4, 20)
    _, _, regions = row_of(classes)
    alone = np.argsort(regions.pixels)[-4:]
    regions = Regions.join([regions.part(k, k + 1) for k in sorted(alone)])
    regions = dataclasses.replace(regions, region_ids=np.full(4, 7), classes=np.zeros(4, np.int32))
    whole = Regularizer(frozenset({0}), (1, 1), False)(polygons(regions), regions)

    def written(cuts: list[int]) -> np.ndarray:
        writer = ObjectWriter(
            folder=tmp_path, stem="row", formats=("fgb",), classes={0: ClassSpec("house", "#000000")},
            wanted=None, geobox=GeoBox(200, 200, None, (1, 0, 0, 0, 1, 0)), measurer=Measurer(None, (0, 0)),
            scene="scene", min_area=0.0, metadata={}, regularizer=Regularizer(frozenset({0}), (1, 1), False),
        )  # fmt: skip
        with closing(writer):
            for start, stop in itertools.pairwise([0, *cuts, 4]):
                writer.add(regions.part(start, stop))
            (path,) = writer.finish()["fgb"]
        return gpd.read_file(path).geometry.to_numpy()

    monkeypatch.setattr(write, "_CHUNK", chunk)
    for cuts in ([], [1], [1, 2, 3]):
        assert set(written(cuts)) == set(whole)
    monkeypatch.setattr(write, "_WAITING_POINTS", 20)
    if chunk == 1:  # too large a region to wait for: nothing is squared, rather than apart
        assert set(written([1, 2, 3])) == set(polygons(regions))
