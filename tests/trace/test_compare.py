"""Counts, boundaries and objects of two class rasters, against scipy on the whole raster at once."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from objects import brute_force, objects
from rasters import NODATA, blotches, spiral
from scipy import ndimage

from pfmap.evaluation.metrics import BOUNDARY_DISTANCES
from pfmap.trace.compare import (
    ALONE,
    Boundaries,
    Marks,
    Matcher,
    count_pixels,
    inner_boundary,
    paint,
)

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


def matched(
    truth: np.ndarray,
    found: np.ndarray,
    cuts: list[int],
    least: int = 1,
    marks: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
    step: int = 0,
) -> Matcher:
    matcher = Matcher(*truth.shape, least, step)
    for start, stop in itertools.pairwise([0, *sorted(set(cuts)), len(truth)]):
        at = slice(start, stop)
        of = [None if one is None else Marks(one[at]) for one in marks]
        matcher.add(truth[at].copy(), found[at].copy(), *of)
    return matcher


def numbers(seed: int, codes: np.ndarray) -> np.ndarray:
    """Numbers that cut regions in blocks, some far apart under one, and one for none."""
    rng = np.random.default_rng(seed)
    blocks = np.kron(rng.integers(0, 40, (10, 10)), np.ones((8, 8), dtype=np.int64))
    return blocks[: codes.shape[0], : codes.shape[1]] * 10**10


@given(
    st.integers(0, 1000),
    st.integers(2, 60),
    st.lists(st.integers(1, 59), max_size=6),
    st.booleans(),
    st.sampled_from([1, 3, 20]),
    st.tuples(st.booleans(), st.booleans()),
    st.integers(1, 4),
)
@settings(max_examples=80, deadline=None)
def test_objects_are_found_merged_and_split_as_defined_however_rows_arrive(
    seed: int, height: int, cuts: list[int], small: bool, least: int, marked: tuple[bool, bool], step: int
) -> None:
    if small:  # many ties: objects of one to three pixels
        truth, found = np.random.default_rng(seed).integers(0, 3, (2, height, 7), dtype=np.uint8)
    else:
        truth, found = pair(seed, height, 40)
    marks = tuple(numbers(seed + k, truth) if given else None for k, given in enumerate(marked))
    matcher = matched(truth, found, [cut for cut in cuts if cut < height], least, marks, step)
    true, predicted = objects(truth, marks[0]), objects(found, marks[1])
    expected = brute_force(true, predicted, least)
    np.testing.assert_array_equal(matcher.counts[:, :5], expected[0])
    np.testing.assert_array_equal(matcher.counts[:, 5:], expected[1])
    fates = np.zeros(truth.size, dtype=np.uint8)
    fates[[pixel for one in predicted.values() for pixel in one]] = ALONE
    fates[list(expected[2])] = list(expected[2].values())
    np.testing.assert_array_equal(matcher.picture, fates.reshape(truth.shape)[::step, ::step])


@given(st.integers(0, 1000), st.lists(st.integers(1, 39), max_size=6))
@settings(max_examples=20, deadline=None)
def test_values_that_hold_for_some_rows_join_what_touches(seed: int, cuts: list[int]) -> None:
    """Objects of a class are told apart by columns; they are numbered anew in all rows that arrive."""
    found = pair(seed, 40, 40, 2)[1]
    parts = np.arange(40) // 9 + 1
    as_classes = np.where(found == NODATA, found, found + 2 * (parts % 2)).astype(np.uint8)
    matcher = Matcher(40, 40)
    for start, stop in itertools.pairwise([0, *sorted(set(cuts)), 40]):
        numbered = np.random.default_rng(start).permutation(1000)[:20].reshape(2, 10) + 1
        above = numbered[found[start - 1] % 2, parts] if start else np.zeros(40, dtype=int)
        marks = Marks(numbered[found[start:stop] % 2, parts], above)
        matcher.add(found[start:stop].copy(), found[start:stop].copy(), None, marks)
    assert matcher.counts[:, 5].sum() == len(objects(as_classes))
    assert matcher.counts[:, 0].sum() == len(objects(found))


def test_what_is_open_is_waited_for() -> None:
    """A true object goes on below the predicted one in which it begins, and the other way round."""
    truth, found = (np.full((40, 20), NODATA, dtype=np.uint8) for _ in range(2))
    found[:4, :10] = truth[:4, :4] = truth[:20, 5:10] = 1
    truth[:10, 11:16] = found[:10, 11:15] = 2
    found[:, 15:] = 3
    found[:, 15:18] = 2  # goes on, and touches what is right of all of this
    found[:10, 14] = NODATA
    for cuts in ([], list(range(1, 40)), [4, 5], [10, 11]):
        counts = matched(truth, found, cuts).counts
        assert counts[1].tolist() == [2, 0, 0, 0, 0, 1, 0, 0]
        assert counts[2].tolist() == [1, 1, 0, 0, 1, 2, 1, 0]


def test_an_object_over_all_rows_is_one_object() -> None:
    codes = spiral(61)
    matcher = matched(codes, codes, list(range(1, 61)))
    regions = objects(codes)
    assert matcher.counts[:2, :2].tolist() == [[sum(k == c for k, _ in regions)] * 2 for c in (0, 1)]
    assert matcher.counts[1, 0] == 1


def test_no_object_matches_none() -> None:
    nothing = np.full((6, 5), NODATA, dtype=np.uint8)
    some = nothing.copy()
    some[2:4, 2:4] = 1
    for truth, found in ((nothing, nothing), (some, nothing), (nothing, some)):
        matcher = matched(truth, found, [1, 3])
        expected = [(truth == 1).any(), 0, 0, 0, 0, (found == 1).any(), 0, 0]
        assert matcher.counts[1].tolist() == expected


def test_closed_objects_are_forgotten() -> None:
    tile = np.full((20, 64), NODATA, dtype=np.uint8)
    tile[2:8, 3:9] = tile[5:17, 30:40] = 1
    matcher = Matcher(20 * 50, 64, step=4)
    for _ in range(50):
        matcher.add(tile, np.roll(tile, 1, axis=1))
        assert len(matcher._true.objects) == len(matcher._pairs) == len(matcher._cells) == 0
    assert matcher.counts[1].tolist() == [100, 100, 50, 0, 0, 100, 100, 50]
