"""Tracing rows in tiles equals GDAL's tracing of the whole raster at once."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rasters import blotches, facts, percent, polygons, spiral, traced, whole_raster

from pfmap.core.stages import Regions
from pfmap.trace.tracer import Tracer

small_rasters = st.tuples(st.integers(1, 24), st.integers(1, 24)).flatmap(
    lambda shape: hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 255]))
)


@given(
    classes=small_rasters,
    cuts=st.lists(st.integers(1, 23), max_size=6),
    tile=st.integers(1, 26),
    wanted=st.sampled_from([{0, 1, 2}, {1}, {0, 2}]),
)
@settings(max_examples=300, deadline=None)
def test_any_cut_gives_the_regions_of_the_whole_raster(
    classes: np.ndarray, cuts: list[int], tile: int, wanted: set[int]
) -> None:
    found = traced(classes, percent(classes), cuts, tile=tile, wanted=wanted)
    assert facts(found) == whole_raster(classes, percent(classes), wanted)


HARD = {
    "spiral": spiral(41),
    "checkerboard": np.indices((41, 41)).sum(0).astype(np.uint8) % 2,  # diagonal touches everywhere
    "rings": np.minimum.reduce(
        [*np.indices((41, 41)), 40 - np.indices((41, 41))[0], 40 - np.indices((41, 41))[1]]
    ).astype(np.uint8)
    % 2,  # holes within holes
    "row": np.array([[0, 0, 1, 1, 0, 255, 1]], dtype=np.uint8),
    "column": np.array([[0, 0, 1, 1, 0, 255, 1]], dtype=np.uint8).T.copy(),
    "pixel": np.array([[1]], dtype=np.uint8),
    "touching itself": np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], dtype=np.uint8),
}


@pytest.mark.parametrize("tile", [1, 2, 3, 7, 40, 64])
@pytest.mark.parametrize("name", HARD)
def test_hard_shapes_over_many_tiles(name: str, tile: int) -> None:
    classes = HARD[name]
    found = traced(classes, percent(classes), [5, 6, 20], tile=tile)
    assert facts(found) == whole_raster(classes, percent(classes), {0, 1})


def test_threads_and_wider_numbers_change_nothing() -> None:
    classes = blotches(0, 200, 300, 4, 3.0)
    one = traced(classes, percent(classes), tile=50)
    wide = np.where(classes == 255, 255, classes).astype(np.int32)
    assert facts(traced(classes, percent(classes), tile=50, workers=3)) == facts(one)
    assert facts(traced(wide, percent(classes), tile=50)) == facts(one)


def test_closed_regions_do_not_wait() -> None:
    """Small regions leave as soon as they are closed: memory holds open regions only."""
    classes = np.full((10, 100), 255, np.uint8)
    classes[2:8, 10:20] = 1
    with Tracer(1000, 100, nodata=255, tile=20) as tracer:
        for _ in range(50):
            found = Regions.join(list(tracer.add(np.tile(classes, (2, 1)))))
            assert len(found) == 2
            assert (tracer._above[2] < 0).all()  # no region may go on below
            assert len(tracer._sheets) == 1


@pytest.mark.parametrize("rows", [(11, 10), (3, 9)])
def test_rows_that_do_not_fit_are_a_bug(rows: tuple[int, int]) -> None:
    with Tracer(10, 10, nodata=255) as tracer, pytest.raises(ValueError, match="do not fit"):
        list(tracer.add(np.zeros(rows, np.uint8)))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("tolerance", [0.0, 1.25])
def test_large_regions_are_cut_into_pieces_of_the_same_area(seed: int, tolerance: float) -> None:
    classes = blotches(seed, 90, 110, 4, 2.0)
    whole = traced(classes, percent(classes), tile=16, tolerance=tolerance)
    cut = traced(classes, percent(classes), [7, 30, 31], tile=16, tolerance=tolerance, split=40)
    again = traced(classes, percent(classes), tile=16, tolerance=tolerance, split=40)
    assert facts(cut) == facts(again)
    assert sorted(set(cut.region_ids)) == sorted(whole.ids)
    assert len(cut) > len(whole)
    assert len(set(cut.ids)) == len(cut)
    pieces: dict[int, list[int]] = {}
    for k, region in enumerate(cut.region_ids.tolist()):
        pieces.setdefault(region, []).append(k)
    shapes = dict(zip(whole.ids.tolist(), polygons(whole), strict=True))
    parts = polygons(cut)
    for region, members in pieces.items():
        of_region = np.flatnonzero(whole.ids == region)[0]
        assert sum(cut.pixels[members]) == whole.pixels[of_region]
        assert sum(cut.confidence_sum[members]) == whole.confidence_sum[of_region]
        together = sum(parts[k].area for k in members)
        assert together == pytest.approx(shapes[region].area)
        if len(members) == 1:
            continue
        for k in members:  # within one tile
            left, top, right, bottom = parts[k].bounds
            assert right <= (left // 16 + 1) * 16
            assert bottom <= (top // 16 + 1) * 16


def test_pieces_of_an_open_region_wait_on_disk(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    classes = (rng.random((400, 60)) < 0.2).astype(np.uint8)  # one background around many specks
    with Tracer(400, 60, nodata=255, tile=20, split=100, spool=tmp_path) as tracer:
        held, found = [], []
        for top in range(0, 400, 20):
            found += list(tracer.add(classes[top : top + 20]))
            held.append(sum(len(sheet.lines.closed) for sheet in tracer._sheets))
    regions = Regions.join(found)
    assert regions.pixels.sum() == classes.size
    assert max(held[10:]) < 1.5 * max(held[2:5])
    assert not list(tmp_path.iterdir())
