"""Small regions merge as in a slow, plain version that sees the whole raster."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rasters import NODATA
from scipy import ndimage
from scipy.sparse import csgraph

from pfmap.trace.sieve import Sieve

NEIGHBOURS = ((0, 1), (1, 0), (0, -1), (-1, 0))


def sieved(classes: np.ndarray, *limits: float, holes_only: bool, rows: int, cuts: list[int]) -> np.ndarray:
    height, width = classes.shape
    sieve = Sieve(
        height, width, nodata=NODATA, limits=limits, holes_only=holes_only, pixel_area=lambda _row: 1.0
    )
    sieve._rows = rows
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < height}), height]
    parts = []
    for start, stop in itertools.pairwise(edges):
        layers = [classes[start:stop]] * 3
        for some, confidence, contact in sieve.add(*layers):
            assert some.shape == confidence.shape
            assert np.array_equal(confidence, contact)
            parts.append(some)
    whole = np.concatenate(parts)
    values, counts = np.unique(classes[classes != whole], return_counts=True)
    merged = {("pixels", value): count for value, count in zip(values.tolist(), counts.tolist(), strict=True)}
    assert {key: count for key, count in sieve.merged.items() if key[0] == "pixels"} == merged
    assert {value for what, value in sieve.merged if what == "regions"} >= set(values.tolist())
    return whole


def regions(classes: np.ndarray) -> tuple[np.ndarray, int]:
    labels, count = np.full(classes.shape, -1), 0
    for value in np.unique(classes[classes != NODATA]):
        found, number = ndimage.label(classes == value)
        labels[found > 0] = found[found > 0] - 1 + count
        count += number
    return labels, count


def beside(classes: np.ndarray, labels: np.ndarray, number: int) -> dict[int, int]:
    """Border lengths by class."""
    borders: dict[int, int] = {}
    height, width = classes.shape
    for row, col in zip(*np.nonzero(labels == number), strict=True):
        for down, right in NEIGHBOURS:
            y, x = row + down, col + right
            inside = 0 <= y < height and 0 <= x < width
            if inside and classes[y, x] != NODATA and labels[y, x] != number:
                borders[int(classes[y, x])] = borders.get(int(classes[y, x]), 0) + 1
    return borders


def plain_holes(classes: np.ndarray, limit: float) -> np.ndarray:
    """Take each region out in turn: parts of the rest that are cut off from the edge are its holes."""
    labels, count = regions(classes)
    area = np.bincount(labels[labels >= 0], minlength=count)
    touching = np.zeros((count + 1, count + 1), dtype=bool)  # the last is the edge, and nodata
    framed = np.pad(np.where(labels < 0, count, labels), 1, constant_values=count)
    for one, other in ((framed[1:], framed[:-1]), (framed[:, 1:], framed[:, :-1])):
        touching[one, other] = touching[other, one] = True
    holes = []
    for region in range(count):
        rest = touching.copy()
        rest[region] = rest[:, region] = False
        _, part = csgraph.connected_components(rest)
        for number in np.unique(np.delete(part, region)):
            members = np.flatnonzero((part == number) & (np.arange(count + 1) != region))
            if members.size and count not in members and (size := area[members].sum()) < limit:
                holes.append((size, region, members))
    filled: set[int] = set()
    result = classes.copy()
    for _, region, members in sorted(holes, key=lambda hole: -hole[0]):
        if region not in filled:
            result[np.isin(labels, members)] = classes[labels == region][0]
            filled.update(members.tolist())
    return result


def plain(classes: np.ndarray, limits: tuple[float, ...]) -> np.ndarray:
    """Smallest first, from the beginning after each change; one limit for all, or one for each class."""
    classes = classes.copy()
    while True:
        labels, count = regions(classes)
        order = sorted(
            (np.count_nonzero(labels == k), int(np.flatnonzero(labels == k)[0]), k) for k in range(count)
        )
        for area, first, number in order:
            if area >= np.resize(limits, 3)[classes.flat[first]]:
                continue
            borders = beside(classes, labels, number)
            if borders:
                classes[labels == number] = min(borders, key=lambda value: (-borders[value], value))
                break
        else:
            return classes


@given(
    seed=st.integers(0, 10_000),
    size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    smooth=st.sampled_from([0.0, 0.7, 1.4]),
    limits=st.lists(st.integers(1, 30), min_size=3, max_size=3),
    holes_only=st.booleans(),
    rows=st.integers(1, 26),
    cuts=st.lists(st.integers(1, 23), max_size=4),
)
@settings(max_examples=120, deadline=None)
def test_small_regions_merge_as_in_the_plain_version(
    seed: int,
    size: tuple[int, int],
    smooth: float,
    limits: list[int],
    holes_only: bool,
    rows: int,
    cuts: list[int],
) -> None:
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(3, *size)), (0, smooth, smooth))
    classes = noise.argmax(axis=0).astype(np.uint8)
    classes[rng.random(size) < 0.05 * (seed % 3)] = NODATA
    some = limits[: 1 if holes_only or seed % 2 else 3]
    found = sieved(classes, *some, holes_only=holes_only, rows=rows, cuts=cuts)
    expected = plain_holes(classes, some[0]) if holes_only else plain(classes, tuple(some))
    assert np.array_equal(found, expected)


def test_rows_that_wait_keep_nothing_of_the_swath_that_they_came_in() -> None:
    swath = np.zeros((40, 8), dtype=np.uint8)
    sieve = Sieve(100, 8, nodata=NODATA, limits=(2.0,), holes_only=False, pixel_area=lambda _row: 1.0)
    sieve._rows = 30
    list(sieve.add(swath, swath))
    assert [len(layer) for rows in sieve._waiting for layer in rows] == [10, 10]
    assert not any(np.shares_memory(layer, swath) for rows in sieve._waiting for layer in rows)


def test_a_small_region_takes_the_class_of_its_longest_border() -> None:
    classes = np.array([[1, 1, 1, 1], [1, 0, 0, 2], [1, 1, 2, 2], [1, 1, 2, 2]], dtype=np.uint8)
    found = sieved(classes, 3, holes_only=False, rows=2, cuts=[])
    assert found[1, 1:3].tolist() == [1, 1]


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_holes_are_filled_but_not_bays_nor_nodata(rows: int) -> None:
    classes = np.ones((12, 20), np.uint8)
    classes[2:5, 2:5] = 0  # a hole
    classes[3, 3] = 2  # with an island, filled first
    classes[7:10, 0:2] = 0  # a bay at the edge
    classes[6:9, 8:11] = 0
    classes[7, 9] = NODATA  # nodata within
    classes[3:6, 12:18] = 0  # too large
    classes[8:11, 14:16] = 0  # a hole that two regions share
    classes[8:11, 16] = 2
    expected = classes.copy()
    expected[2:5, 2:5] = 1
    expected[8:11, 14:17] = 1
    assert np.array_equal(sieved(classes, 12, holes_only=True, rows=rows, cuts=[]), expected)


@pytest.mark.parametrize("rows", [1, 4, 100])
def test_holes_of_small_regions_are_filled_too(rows: int) -> None:
    classes = np.ones((9, 20), np.uint8)
    classes[:, 10:] = 3
    classes[2:7, 8:13] = 0  # a ring between two regions: no hole itself
    classes[3:6, 9:12] = 2
    classes[4, 10] = 4  # a hole in its hole
    classes[3:5, 13] = 2  # a neighbour of the ring
    expected = classes.copy()
    expected[3:6, 9:12] = 0
    assert np.array_equal(plain_holes(classes, 20), expected)
    assert np.array_equal(sieved(classes, 20, holes_only=True, rows=rows, cuts=[]), expected)


def test_rows_leave_as_soon_as_they_are_decided() -> None:
    classes = np.zeros((2000, 50), np.uint8)
    classes[::7, ::9] = 1
    sieve = Sieve(2000, 50, nodata=NODATA, limits=[5], holes_only=False, pixel_area=lambda _row: 1.0)
    sieve._rows = 20
    for top in range(0, 2000, 20):
        list(sieve.add(classes[top : top + 20], classes[top : top + 20]))
        assert len(sieve._chunks) <= 2
        assert len(sieve._nodes.klass) < 100


@pytest.mark.parametrize("rows", [1, 2, 10])
def test_rows_without_any_class_pass(rows: int) -> None:
    classes = np.full((10, 5), NODATA, np.uint8)
    assert np.array_equal(sieved(classes, 5, holes_only=False, rows=rows, cuts=[]), classes)
    classes[6:8, 1:3] = 1
    assert np.array_equal(sieved(classes, 5, holes_only=False, rows=rows, cuts=[]), classes)
