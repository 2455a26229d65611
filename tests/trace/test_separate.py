"""Objects that touch are taken apart as in a slow, plain version that sees the whole raster."""

from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rasterio import features
from rasters import NODATA, percent, polygons, traced
from scipy import ndimage
from skimage import graph, segmentation

from pfmap.core.stages import Regions
from pfmap.trace import tracer
from pfmap.trace.separate import Separation
from pfmap.trace.tracer import Tracer

STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))


def plain_seeds(classes: np.ndarray, contact: np.ndarray, how: Separation) -> np.ndarray:
    """The number of each pixel's seed from 1 on, and 0 where there is none."""
    seeds, count = np.zeros(classes.shape, int), 0
    for value in how.by_contact:
        core = (classes == value) & (contact < how.threshold)
        core = ndimage.minimum_filter(core, 2 * how.depth + 1, mode="nearest")
        found, number = ndimage.label(core)
        for k in range(1, number + 1):
            if np.count_nonzero(found == k) >= how.least:
                count += 1
                seeds[found == k] = count
    return seeds


def by_contact(classes: np.ndarray, contact: np.ndarray, how: Separation) -> np.ndarray:
    """The seed of each pixel, 0 for none, from breadth-first search over the whole raster."""
    height, width = classes.shape
    seeds = plain_seeds(classes, contact, how)
    near = {(y, x): (y, x) for y, x in zip(*np.nonzero(seeds), strict=True)}
    front = dict(near)
    for _ in range(how.reach):
        following: dict[tuple[int, int], tuple[int, int]] = {}
        for (y, x), seed in front.items():
            for down, right in STEPS:
                v, u = y + down, x + right
                inside = 0 <= v < height and 0 <= u < width and classes[v, u] == classes[y, x]
                if inside and (v, u) not in near:
                    following[v, u] = min(seed, following.get((v, u), seed))
        near |= following
        front = following
    parts = np.zeros(classes.shape, int)
    for (y, x), seed in near.items():
        parts[y, x] = seeds[seed]
    return parts


def by_shape(classes: np.ndarray, how: Separation) -> np.ndarray:
    """The top that each pixel climbs to, from 1 on, 0 for none; heights from all pairs of pixels."""
    height, width = classes.shape
    kinds = np.where(np.isin(classes, [*how.by_shape]), classes, NODATA)
    rows, cols = (axis.ravel() for axis in np.indices(classes.shape))
    long, short = (np.abs(axis[:, None] - axis) for axis in (rows, cols))
    long, short = np.maximum(long, short), np.minimum(long, short)
    ways = np.where(long >= 2 * short, 5 * long + short, 4 * long + 3 * short)  # of steps of 5, 7 and 11
    ways[kinds.ravel()[:, None] == kinds.ravel()] = 5 * how.high
    heights = np.minimum(ways.min(axis=1), 5 * how.high).reshape(classes.shape) * (kinds != NODATA)
    square = np.ones((2 * how.smooth + 1, 2 * how.smooth + 1), int)
    for _ in range(2):
        heights = ndimage.convolve(heights, square, mode="constant")

    def highest(y: int, x: int, places: list[tuple[int, int]]) -> tuple[int, int]:
        good = [
            (v, u) for v, u in places if 0 <= v < height and 0 <= u < width and kinds[v, u] == kinds[y, x]
        ]
        return min(good, key=lambda place: (-heights[place], place))

    near = range(-how.apart, how.apart + 1)
    parts = np.zeros(classes.shape, int)
    for start in zip(*np.nonzero(kinds != NODATA), strict=True):
        here, length = start, 0
        while True:
            y, x = here
            there = highest(y, x, [here, *((y + down, x + right) for down, right in STEPS)])
            length += 1
            if there == here:
                there = highest(y, x, [(y + down, x + right) for down in near for right in near])
                length += how.apart - 1
            if there == here:
                parts[start] = here[0] * width + here[1] + 1
            if there == here or length > 3 * how.high:
                break
            here = there
    return parts


def plain_objects(classes: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """The first pixel of each pixel's object."""
    objects = np.full(classes.shape, -1)
    for value in np.unique(classes[classes != NODATA]):
        for part in np.unique(parts[classes == value]):
            found, number = ndimage.label((classes == value) & (parts == part))
            for k in range(1, number + 1):
                objects[found == k] = np.flatnonzero(found == k)[0]
    return objects


def without_small(classes: np.ndarray, objects: np.ndarray, least: int) -> np.ndarray:
    """The same, where small ones are of a neighbour in their region: one by one, the smallest first."""
    objects = objects.copy()
    while True:
        walls: dict[int, Counter[int]] = defaultdict(Counter)
        for one, other in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
            touch = (classes[one] == classes[other]) & (objects[one] != objects[other])
            for a, b in zip(objects[one][touch].tolist(), objects[other][touch].tolist(), strict=True):
                walls[a][b] += 1
                walls[b][a] += 1
        small = [(count, one) for one in walls if (count := np.count_nonzero(objects == one)) < least]
        if not small:
            return objects
        one = min(small)[1]
        objects[objects == one] = min(walls[one], key=lambda other: (-walls[one][other], other))


def facts(regions: Regions) -> list[tuple[Any, ...]]:
    """Everything that is said of the objects, in a comparable form."""
    shapes = polygons(regions)
    assert shapely.is_valid(shapes).all()
    columns = [
        regions.ids, regions.object_ids, regions.region_ids, regions.classes, regions.pixels,
        regions.confidence_sum, regions.confidence_min, regions.at_edge,
    ]  # fmt: skip
    return sorted(
        (*(int(column[k]) for column in columns), shape.wkb)
        for k, shape in enumerate(shapely.normalize(shapes))
    )


def plain(classes: np.ndarray, objects: np.ndarray, wanted: set[int]) -> list[tuple[Any, ...]]:
    found = []
    edge = ndimage.binary_dilation(np.pad(classes == NODATA, 1, constant_values=True))[1:-1, 1:-1]
    confidence = percent(classes)
    for geometry, first in features.shapes(objects.astype(np.int32), mask=np.isin(classes, [*wanted])):
        inside = objects == int(first)
        value = classes[inside][0]
        region, _ = ndimage.label(classes == value)
        shape = shapely.geometry.shape(geometry)
        shape = shapely.normalize(shape if shape.is_valid else shapely.make_valid(shape))
        found.append((
            int(first), int(first), int(np.flatnonzero(region == region[inside][0])[0]), int(value),
            int(inside.sum()), int(confidence[inside].sum()), int(confidence[inside].min()),
            int(edge[inside].any()), shape.wkb,
        ))  # fmt: skip
    return sorted(found)


def small_raster(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Specks or blotches of classes, and as many kinds of contact."""
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 28, 2).tolist())
    classes, contact = (
        rng.choice([0, 0, 0, 0, 0, 0, 1, 2, 255], shape),
        rng.choice([0, 0, 0, 49, 50, 255], shape),
    )
    if seed % 3:
        noise = ndimage.gaussian_filter(rng.normal(size=(4, *shape)), (0, seed % 3, seed % 3))
        classes = np.array([0, 1, 0 if seed % 2 else 2, 255])[noise.argmax(axis=0)]
    if seed % 4 > 1:
        contact = 100 * (ndimage.gaussian_filter(rng.normal(size=shape), 1) > 0.25)
    return classes.astype(np.uint8), contact.astype(np.uint8)


small_rasters = st.integers(0, 10**6).map(small_raster)
separations = st.builds(
    Separation,
    by_contact=st.sampled_from([frozenset({0}), frozenset({0, 1}), frozenset({1, 2, 255})]),
    depth=st.integers(0, 2),
    reach=st.integers(0, 5),
    smooth=st.integers(0, 2),
    high=st.integers(0, 5),
    least=st.integers(1, 5),
    apart=st.integers(1, 4),
)
cuts_of_rows = st.lists(st.integers(1, 39), max_size=6)
fewest = st.sampled_from([0, 2, 5, 20])


@given(
    raster=small_rasters,
    how=separations,
    cuts=cuts_of_rows,
    tile=st.integers(1, 16),
    wanted=st.sampled_from([{0, 1, 2}, {0}, {1, 2}]),
    least=fewest,
)
@settings(max_examples=100, deadline=None)
def test_any_cut_gives_the_objects_of_the_whole_raster(
    raster: tuple[np.ndarray, np.ndarray],
    how: Separation,
    cuts: list[int],
    tile: int,
    wanted: set[int],
    least: int,
) -> None:
    classes, contact = raster
    options = {"tile": tile, "wanted": wanted, "separation": how, "limits": (least,)}
    found = traced(classes, percent(classes), cuts, contact, **options)
    objects = plain_objects(classes, by_contact(classes, contact, how))
    assert facts(found) == plain(classes, without_small(classes, objects, least), wanted)


@given(raster=small_rasters, how=separations, cuts=cuts_of_rows, tile=st.integers(1, 16), least=fewest)
@settings(max_examples=60, deadline=None)
def test_any_cut_gives_the_same_objects_by_shape(
    raster: tuple[np.ndarray, np.ndarray], how: Separation, cuts: list[int], tile: int, least: int
) -> None:
    classes, how = raster[0], replace(how, by_contact=frozenset(), by_shape=how.by_contact)
    found = traced(classes, percent(classes), cuts, tile=tile, separation=how, limits=(least,))
    objects = without_small(classes, plain_objects(classes, by_shape(classes, how)), least)
    assert facts(found) == plain(classes, objects, {0, 1, 2})


@given(
    raster=small_rasters,
    how=separations,
    guessed=st.sampled_from([frozenset({2}), frozenset({2, 3, 255})]),
    cuts=cuts_of_rows,
    tile=st.integers(1, 16),
)
@example(  # the first seed beside the top that is the first pixel: numbers that must not be one
    raster=(np.pad(np.full((1, 1), 2, np.uint8), (0, 8)), np.zeros((9, 9), np.uint8)),
    how=Separation(frozenset({0}), depth=1, least=1),
    guessed=frozenset({2}),
    cuts=[],
    tile=16,
)
@settings(max_examples=60, deadline=None)
def test_any_cut_takes_some_classes_apart_by_contact_and_others_by_shape(
    raster: tuple[np.ndarray, np.ndarray],
    how: Separation,
    guessed: frozenset[int],
    cuts: list[int],
    tile: int,
) -> None:
    classes, contact = raster
    how = replace(how, by_contact=how.by_contact - guessed, by_shape=guessed)
    found = traced(classes, percent(classes), cuts, contact, tile=tile, separation=how)
    parts = np.where(classes == 2, -by_shape(classes, how), by_contact(classes, contact, how))
    assert facts(found) == plain(classes, plain_objects(classes, parts), {0, 1, 2})


def houses(seed: int, height: int = 120, width: int = 150) -> tuple[np.ndarray, np.ndarray]:
    """A town whose houses touch, and where: what lies nearest to one of many points is a house."""
    rng = np.random.default_rng(seed)
    points = rng.integers(0, (height, width), (height * width // 200, 2))
    marks = np.ones((height, width), bool)
    marks[tuple(points.T)] = False
    _, (rows, cols) = ndimage.distance_transform_edt(marks, return_indices=True)
    owner = rows * width + cols
    walls = ndimage.maximum_filter(owner, 3) != ndimage.minimum_filter(owner, 3)
    classes = np.where(ndimage.gaussian_filter(rng.normal(size=(height, width)), 8) < 0.01, 0, 1)
    classes[:7, :9] = NODATA
    return classes.astype(np.uint8), walls.astype(np.uint8) * 100


SMALL = Separation(frozenset({0}), depth=2, reach=12, least=4, smooth=2, high=12, apart=5)
GUESSED = replace(SMALL, by_contact=frozenset(), by_shape=frozenset({0}))
BOTH = replace(GUESSED, by_contact=frozenset({1}))


def test_what_is_near_one_seed_is_what_scikit_image_floods_from_it() -> None:
    classes, contact = houses(3)
    how = replace(SMALL, reach=1000)
    seeds = plain_seeds(classes, contact, how)
    flooded = segmentation.watershed(np.zeros(classes.shape), seeds, mask=classes == 0, connectivity=1)
    distances = []
    for seed in range(1, seeds.max() + 1):
        cost = np.where(classes == 0, 1.0, -1.0)
        distances.append(graph.MCP(cost, fully_connected=False).find_costs(np.argwhere(seeds == seed))[0])
    nearest = np.sort(distances, axis=0)
    clear = (classes == 0) & np.isfinite(nearest[0]) & (nearest[0] < nearest[1])  # and no tie
    assert clear.sum() > 0.8 * (classes == 0).sum()
    parts = how.parts(classes, np.s_[0:120, 0:150], contact)
    assert parts is not None
    pairs = np.unique(np.stack([parts[clear], flooded[clear]]), axis=1)
    assert len(set(pairs[0])) == len(set(pairs[1])) == pairs.shape[1] > 20


@given(
    seed=st.integers(0, 1000), tile=st.integers(8, 40), cuts=st.lists(st.integers(1, 59), max_size=4),
    tolerance=st.sampled_from([0.0, 1.25]), how=st.sampled_from([SMALL, GUESSED, BOTH]),
    least=st.sampled_from([0.0, 60.0]),
)  # fmt: skip
@settings(max_examples=15, deadline=None)
def test_objects_and_their_pieces_cover_all_once_in_any_cut(
    seed: int, tile: int, cuts: list[int], tolerance: float, how: Separation, least: float
) -> None:
    classes, contact = houses(seed, 60, 80)
    layers = classes, percent(classes)
    options = {
        "contact": contact,
        "tile": tile,
        "tolerance": tolerance,
        "separation": how,
        "limits": (least,),
    }
    whole, pieces = traced(*layers, **options), traced(*layers, split=12, **options)
    assert len(pieces) >= len(whole)
    wide = classes.astype(np.int32), layers[1]
    for split, found in ((0, whole), (12, pieces)):
        assert facts(traced(*layers, cuts, split=split, workers=2, **options)) == facts(found)
        assert facts(traced(*wide, cuts, split=split, **options)) == facts(found)
        shapes = polygons(found)
        assert tolerance == 0 or split or shapely.coverage_is_valid(shapes)  # also in its vertices
        assert shapely.area(shapes).sum() == pytest.approx(np.count_nonzero(classes != NODATA))
        assert shapely.union_all(shapes).area == pytest.approx(np.count_nonzero(classes != NODATA))
    regions = dict(zip(whole.object_ids.tolist(), whole.region_ids.tolist(), strict=True))
    sums = dict.fromkeys(regions, 0)
    for one, region, total in zip(pieces.object_ids, pieces.region_ids, pieces.confidence_sum, strict=True):
        assert regions[one] == region
        sums[one] += total
    assert sums == dict(zip(whole.object_ids.tolist(), whole.confidence_sum.tolist(), strict=True))


def test_a_wall_beyond_the_halo_counts() -> None:
    """Between two walls seeds would meet, were it not for the second, which is out of some tile's view."""
    classes, contact = np.zeros((13, 40), np.uint8), np.zeros((13, 40), np.uint8)
    contact[6, :20] = 100
    contact[:, 24] = 100
    how = Separation(frozenset({0}), depth=2, reach=4, least=1)
    for turned in range(4):
        layers = [np.ascontiguousarray(np.rot90(layer, turned)) for layer in (classes, contact)]
        objects = plain_objects(layers[0], by_contact(*layers, how))
        for tile in range(1, 12):
            found = traced(layers[0], percent(layers[0]), [], layers[1], tile=tile, separation=how)
            assert facts(found) == plain(layers[0], objects, {0})


def test_closed_objects_of_an_open_region_wait_on_disk(tmp_path: Path) -> None:
    classes = np.zeros((800, 40), np.uint8)  # one block of houses of 10 x 10 pixels
    contact = np.zeros(classes.shape, np.uint8)
    contact[9::10], contact[:, 9::10] = 100, 100
    with Tracer(800, 40, nodata=NODATA, tile=20, spool=tmp_path, separation=SMALL) as one:
        held = []
        for top in range(0, 780, 20):
            rows = slice(top, top + 20)
            given = list(one.add(classes[rows], None, contact[rows]))
            assert not Regions.join(given)
            held.append(sum(len(sheet.lines.closed) for sheet in one._sheets))
        found = Regions.join(list(one.add(classes[780:], None, contact[780:])))
    assert max(held[10:]) <= max(held[3:6])
    assert len(found) == 320
    assert set(found.region_ids.tolist()) == {0}
    assert not list(tmp_path.iterdir())


def test_what_was_put_aside_is_given_bit_by_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    classes, contact = houses(2)
    whole = traced(classes, percent(classes), [], contact, tile=16, separation=SMALL)
    monkeypatch.setattr(tracer, "_MANY", 10)
    again = traced(classes, percent(classes), [], contact, tile=16, separation=SMALL)
    assert facts(again) == facts(whole)


def test_contact_that_does_not_come_is_a_bug() -> None:
    with Tracer(4, 4, nodata=NODATA, separation=SMALL) as one, pytest.raises(ValueError, match="by contact"):
        list(one.add(np.zeros((4, 4), np.uint8)))
