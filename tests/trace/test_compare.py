"""Counts, boundaries and objects of two class rasters, against scipy on the whole raster at once."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rasters import NODATA, blotches, spiral
from scipy import ndimage

from pfmap.evaluation.metrics import BOUNDARY_DISTANCES
from pfmap.trace.compare import Boundaries, Matcher, count_pixels, inner_boundary, paint

FOUR = ndimage.generate_binary_structure(2, 1)


def pair(seed: int, height: int, width: int, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Two maps of the same place that differ here and there, with nodata at the same pixels."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(2, classes, height, width))
    noise[1] = 0.8 * noise[0] + 0.6 * noise[1]
    truth, found = ndimage.gaussian_filter(noise, (0, 0, 3, 3)).argmax(axis=1).astype(np.uint8)
    gone = blotches(seed, height, width, 3, 4.0) == NODATA
    truth[gone], found[gone] = NODATA, NODATA
    return truth, found


def edges(codes: np.ndarray, klass: int) -> np.ndarray:
    """The oracle: pixels of a class beside a pixel that counts and is of another."""
    padded = np.pad(codes, 1, constant_values=NODATA)
    other = (padded != klass) & (padded != NODATA)
    return (codes == klass) & ndimage.binary_dilation(other, FOUR)[1:-1, 1:-1]


def oracle(lines: np.ndarray, others: np.ndarray) -> list[int]:
    """How many boundary pixels the other boundary is near, by distance; and how many there are."""
    near = ndimage.distance_transform_edt(~others) if others.any() else np.full(lines.shape, np.inf)
    return [int((near[lines] <= t).sum()) for t in BOUNDARY_DISTANCES] + [int(lines.sum())]


def measured(truth: np.ndarray, found: np.ndarray, cuts: list[int]) -> tuple[np.ndarray, np.ndarray]:
    counts = [np.zeros((256, len(BOUNDARY_DISTANCES) + 1), dtype=np.int64) for _ in range(2)]
    boundaries = Boundaries(len(truth), BOUNDARY_DISTANCES, *counts)
    for start, stop in itertools.pairwise([0, *sorted(set(cuts)), len(truth)]):
        boundaries.add(truth[start:stop], found[start:stop])
    return np.cumsum(counts[0], axis=1), np.cumsum(counts[1], axis=1)


@pytest.mark.parametrize("seed", range(4))
def test_boundaries_match_as_a_distance_transform_says(seed: int) -> None:
    truth, found = pair(seed, 150, 130)
    predicted, true = measured(truth, found, [40, 41, 90])
    for klass in range(4):
        line, other = edges(found, klass), edges(truth, klass)
        assert predicted[klass].tolist() == oracle(line, other)
        assert true[klass].tolist() == oracle(other, line)
    assert predicted[:4].any()


@given(st.integers(0, 1000), st.integers(1, 70), st.lists(st.integers(1, 69), max_size=6))
@settings(max_examples=30, deadline=None)
def test_boundaries_do_not_depend_on_how_rows_arrive(seed: int, height: int, cuts: list[int]) -> None:
    truth, found = pair(seed, height, 40)
    whole = measured(truth, found, [])
    parts = measured(truth, found, [cut for cut in cuts if cut < height])
    for one, two in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("apart", range(15))
def test_a_boundary_just_within_reach_is_found_wherever_rows_are_cut(apart: int) -> None:
    truth, found = (np.zeros((40, 3), dtype=np.uint8) for _ in range(2))
    truth[10:], found[10 + apart :] = 1, 1
    for cuts in ([], list(range(1, 40)), [10 + apart], [11 + apart], [9]):
        for one, two in ((truth, found), (found, truth)):
            for side in measured(one, two, cuts):
                expected = [3 * (apart <= distance) for distance in BOUNDARY_DISTANCES]
                # Both classes' lines are as far apart; those of class 0 lie a row above.
                assert side[0].tolist() == side[1].tolist() == [*expected, 3]


def test_the_edge_and_what_does_not_count_make_no_boundary() -> None:
    codes = np.ones((6, 6), dtype=np.uint8)
    codes[2:4, 2:4] = NODATA
    assert (inner_boundary(codes, 0) == NODATA).all()
    codes[5, 5] = 0
    lines = inner_boundary(codes, 0)
    assert (lines == 1).sum() == 2
    assert lines[5, 5] == 0


def test_pixels_are_counted_by_label_prediction_and_confidence() -> None:
    truth, found = pair(0, 60, 50)
    found[:5] = NODATA
    percent = (np.arange(truth.size) % 120).astype(np.uint8).reshape(truth.shape)
    counts = np.zeros((256, 256), dtype=np.int64)
    levels = np.zeros((256, 101, 2), dtype=np.int64)
    expected = np.zeros_like(counts)
    np.add.at(expected, (truth, found), 1)
    counted = (truth != NODATA) & (found != NODATA)
    allowed = np.eye(256, dtype=bool)
    allowed[3, :2] = True  # a label that leaves two classes open
    one, two = truth.copy(), found.copy()
    count_pixels(one, two, percent, allowed, counts, levels)
    np.testing.assert_array_equal(counts, expected)
    np.testing.assert_array_equal(one == NODATA, ~counted)
    np.testing.assert_array_equal(two == NODATA, ~counted)
    for klass in range(4):
        for hit in (0, 1):
            right = truth == found if hit else ~allowed[truth, found]
            here = counted & (found == klass) & right & (percent <= 100)
            np.testing.assert_array_equal(levels[klass, :, hit], np.bincount(percent[here], minlength=101))


def test_a_cell_of_the_picture_sums_its_pixels() -> None:
    truth, found = pair(1, 50, 47)
    colors = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    sums = np.zeros((8, 7, 3), dtype=np.int64)
    for top in (0, 10, 33):
        rows = slice(top, {0: 10, 10: 33, 33: 50}[top])
        paint(truth[rows], found[rows], top, sums, colors, 7)
    full = np.zeros((56, 49, 3), dtype=np.int64)
    full[:50, :47] = colors[truth, found]
    np.testing.assert_array_equal(sums, full.reshape(8, 7, 7, 7, 3).sum(axis=(1, 3)))


def objects(codes: np.ndarray, klass: int) -> list[set[int]]:
    labels, count = ndimage.label(codes == klass, FOUR)
    return [set(np.flatnonzero(labels == k).tolist()) for k in range(1, count + 1)]


def matches(true: list[set[int]], found: list[set[int]]) -> int:
    """The oracle: the largest one-to-one matching of pairs with an IoU of a half or more."""
    from scipy.optimize import linear_sum_assignment

    good = np.array([[2 * len(a & b) >= len(a | b) for b in found] for a in true], dtype=float)
    if not good.size:
        return 0
    return int(good[linear_sum_assignment(good, maximize=True)].sum())


def matched(truth: np.ndarray, found: np.ndarray, cuts: list[int]) -> Matcher:
    matcher = Matcher(*truth.shape)
    for start, stop in itertools.pairwise([0, *sorted(set(cuts)), len(truth)]):
        matcher.add(truth[start:stop].copy(), found[start:stop].copy())
    return matcher


@given(st.integers(0, 1000), st.integers(2, 60), st.lists(st.integers(1, 59), max_size=6), st.booleans())
@settings(max_examples=60, deadline=None)
def test_objects_match_one_to_one_however_rows_arrive(
    seed: int, height: int, cuts: list[int], small: bool
) -> None:
    if small:  # many ties: objects of one to three pixels
        truth, found = np.random.default_rng(seed).integers(0, 3, (2, height, 7), dtype=np.uint8)
    else:
        truth, found = pair(seed, height, 40)
    matcher = matched(truth, found, [cut for cut in cuts if cut < height])
    for klass in range(4):
        true, predicted = objects(truth, klass), objects(found, klass)
        assert matcher.truth[klass] == len(true)
        assert matcher.predicted[klass] == len(predicted)
        assert matcher.matched[klass] == matches(true, predicted)


def test_an_object_over_all_rows_is_one_object() -> None:
    codes = spiral(61)
    matcher = matched(codes, codes, list(range(1, 61)))
    assert (
        matcher.truth[:2].tolist() == matcher.matched[:2].tolist() == [len(objects(codes, k)) for k in (0, 1)]
    )
    assert matcher.truth[1] == 1


def test_no_object_matches_none() -> None:
    nothing = np.full((6, 5), NODATA, dtype=np.uint8)
    some = nothing.copy()
    some[2:4, 2:4] = 1
    for truth, found in ((nothing, nothing), (some, nothing), (nothing, some)):
        matcher = matched(truth, found, [1, 3])
        assert matcher.truth[1] == (truth == 1).any()
        assert matcher.predicted[1] == (found == 1).any()
        assert not matcher.matched.any()


def test_closed_objects_are_forgotten() -> None:
    tile = np.full((20, 64), NODATA, dtype=np.uint8)
    tile[2:8, 3:9] = tile[5:17, 30:40] = 1
    matcher = Matcher(20 * 50, 64)
    for _ in range(50):
        matcher.add(tile, np.roll(tile, 1, axis=1))
        assert len(matcher._true.klass) == len(matcher._pairs) == 0
    assert matcher.truth[1] == matcher.predicted[1] == matcher.matched[1] == 100
