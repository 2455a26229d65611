"""Simplified regions stay a coverage: nothing opens, overlaps, vanishes or becomes invalid."""

from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from rasters import NODATA, blotches, facts, percent, polygons, traced

RASTERS = {
    "seed": st.integers(0, 10_000),
    "size": st.tuples(st.integers(1, 60), st.integers(1, 60)),
    "classes": st.integers(2, 5),
    "tile": st.integers(3, 64),
    "tolerance": st.sampled_from([0.5, 1.0, 1.25, 2.0, 6.0]),
}


def check_coverage(classes: np.ndarray, tile: int, tolerance: float, **options: Any) -> None:
    before = traced(classes, percent(classes))
    after = traced(classes, percent(classes), [3, 11], tile=tile, tolerance=tolerance, **options)
    shapes = polygons(after)
    assert sorted(after.ids) == sorted(before.ids)  # no region is lost
    assert shapely.is_valid(shapes).all()
    if len(shapes):
        assert shapely.area(shapes).min() > 0
        assert shapely.coverage_is_valid(shapes)  # neighbours share their vertices, nothing overlaps
    assert shapely.area(shapes).sum() == pytest.approx((classes != NODATA).sum(), abs=1e-6)
    union, valid = shapely.union_all(shapes), shapely.union_all(polygons(before))
    assert union.symmetric_difference(valid).area == pytest.approx(0, abs=1e-6)


@given(**RASTERS, smooth=st.sampled_from([0.0, 0.7, 1.5, 3.0]))
@settings(max_examples=150, deadline=None)
def test_simplified_regions_are_a_coverage(
    seed: int, size: tuple[int, int], classes: int, smooth: float, tile: int, tolerance: float
) -> None:
    check_coverage(blotches(seed, *size, classes, smooth), tile, tolerance)


@pytest.mark.parametrize("tile", [16, 64])
def test_rows_may_come_in_any_number(tile: int) -> None:
    classes = blotches(1, 100, 90, 4, 2.0)
    once = traced(classes, percent(classes), tile=tile, tolerance=1.25)
    assert facts(traced(classes, percent(classes), [1, 2, 50, 77], tile=tile, tolerance=1.25)) == facts(once)


@pytest.mark.parametrize("slope", [1.0, 0.5, 0.37, 0.1, 3.0])
def test_a_staircase_becomes_a_straight_edge(slope: float) -> None:
    rows, cols = np.mgrid[0:200, 0:200]
    classes = (rows + 0.5 > slope * (cols + 0.5) + 3).astype(np.uint8)
    found = traced(classes, percent(classes), tolerance=1.25)
    for shape in polygons(found):
        assert len(shape.exterior.coords) <= 7
    line = shapely.LineString([(0, 3), (400, 3 + 400 * slope)])
    border = shapely.shared_paths(*(shape.exterior for shape in polygons(found)))
    ends = shapely.get_coordinates(border)
    assert shapely.distance(shapely.points(ends), line).max() < 1.0


def test_nothing_moves_farther_than_the_tolerance() -> None:
    classes = blotches(3, 300, 300, 4, 4.0)
    classes[classes == NODATA] = 3
    before, after = (traced(classes, percent(classes), tile=128, tolerance=t) for t in (0.0, 1.25))
    first, second = (shapes[np.argsort(r.ids)] for r, shapes in ((r, polygons(r)) for r in (before, after)))
    assert shapely.hausdorff_distance(first, second).max() <= 1.5
    count = shapely.get_num_coordinates
    assert count(first).sum() > 3 * count(second).sum()
    for value in np.unique(before.classes):
        areas = [shapely.area(polygons(r)[r.classes == value]).sum() for r in (before, after)]
        assert areas[1] == pytest.approx(areas[0], rel=0.01)


@pytest.mark.parametrize("radius", [80, 100, 120])
def test_a_round_region_keeps_its_area(radius: int) -> None:
    """Chords cut a circle's area off on one side; the vertices move out to make up for it."""
    rows, cols = np.mgrid[0:300, 0:300]
    classes = ((rows - 150) ** 2 + (cols - 150) ** 2 < radius**2).astype(np.uint8)
    found = traced(classes, percent(classes), tolerance=1.25)
    (disk,) = polygons(found)[found.classes == 1]
    assert shapely.get_num_coordinates(disk) < 30
    assert disk.area == pytest.approx(classes.sum(), rel=5e-4)


def test_what_is_small_keeps_its_form() -> None:
    classes = np.zeros((40, 40), np.uint8)
    classes[5, 5] = classes[10:12, 10:12] = classes[20:26, 20:24] = 1
    found = traced(classes, percent(classes), tolerance=5.0)
    small = polygons(found)[found.classes == 1]
    assert sorted(shapely.area(small)) == [1, 4, 24]


@given(**RASTERS, blur=st.sampled_from([0.7, 1.5, 3.0, 6.0]))
@settings(max_examples=100, deadline=None)
def test_curves_are_a_coverage_within_the_tolerance(
    seed: int, size: tuple[int, int], classes: int, blur: float, tile: int, tolerance: float
) -> None:
    raster = blotches(seed, *size, classes, blur)
    curves = {0: True, 1: False}
    check_coverage(raster, tile, tolerance, curves=curves)
    steps, plain, half, found = (
        (regions, polygons(regions)[np.argsort(regions.ids)])
        for regions in (
            traced(raster, percent(raster), tile=tile, tolerance=t, curves=c)
            for t, c in ((0, None), (tolerance, None), (tolerance / 2, None), (tolerance, curves))
        )
    )
    kinds = steps[0].classes[np.argsort(steps[0].ids)]
    curved, stays = found[1][kinds == 0], found[1][kinds == 1]
    assert (stays == plain[1][kinds == 1]).all()
    borders = shapely.boundary(steps[1][kinds == 0])
    assert shapely.hausdorff_distance(borders, shapely.boundary(curved)).max(initial=0) < tolerance + 0.3
    count = shapely.get_num_coordinates
    assert (count(found[1]) <= 3 * np.maximum(count(half[1]), count(plain[1]))).all()
    # Nodes and the raster's edge stay: each is on the border of three or more.
    rings = (shapely.get_coordinates(ring)[1:] for ring in shapely.get_rings(steps[1]))
    corners = np.vstack([np.empty((0, 2)), *rings])
    points, times = np.unique(corners, axis=0, return_counts=True)
    for point in points[times > 2]:
        assert shapely.distance(shapely.boundary(found[1]), shapely.Point(point)).min() == 0


def test_a_curve_turns_little_at_a_time() -> None:
    rows, cols = np.mgrid[0:300, 0:300]
    classes = ((rows - 150) ** 2 + (cols - 150) ** 2 < 90**2).astype(np.uint8)
    half, disk = (
        next(shape for shape in polygons(regions) if not shape.interiors)
        for regions in (
            traced(classes, percent(classes), tolerance=t, curves=c)
            for t, c in ((0.625, None), (1.25, {1: True}))
        )
    )
    turns = []
    for shape in (half, disk):
        edges = np.diff(np.array(shape.exterior.coords), axis=0)
        turns.append(np.abs(np.degrees(np.diff(np.unwrap(np.arctan2(*edges.T))))))
    # A ring starts at a pixel corner, or close to it.
    assert np.quantile(turns[1], 0.95) < 0.8 * np.quantile(turns[0], 0.95)
    assert len(turns[0]) < len(turns[1]) < 3 * len(turns[0])
    assert disk.area == pytest.approx(classes.sum(), rel=5e-3)
    assert shapely.hausdorff_distance(disk.exterior, shapely.Point(150, 150).buffer(90).exterior) < 1.75


def test_curves_do_not_depend_on_how_rows_come() -> None:
    classes = blotches(1, 100, 90, 4, 3.0)
    options = {"tile": 32, "tolerance": 1.25, "curves": {1: True}}
    once = facts(traced(classes, percent(classes), **options))
    assert facts(traced(classes, percent(classes), [1, 2, 50, 77], **options)) == once
    assert facts(traced(classes, percent(classes), tile=32, tolerance=1.25)) != once
