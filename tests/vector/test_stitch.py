"""Stitching across swath seams equals tracing the whole raster at once."""

import itertools

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rasterio import features

from pfmap.grid import Span
from pfmap.raster.tracing import trace
from pfmap.vector.stitch import Stitcher

Found = dict[tuple[int, bytes], tuple[int, float, float]]


def at_once(classes: np.ndarray, confidence: np.ndarray, wanted: set[int]) -> Found:
    """Whole-raster oracle: GDAL's regions, their pixels counted one region at a time."""
    found: Found = {}
    for geometry, value in features.shapes(classes, mask=np.isin(classes, list(wanted))):
        shape = shapely.geometry.shape(geometry)
        shape = shape if shape.is_valid else shapely.make_valid(shape)
        inside = features.rasterize([geometry], out_shape=classes.shape) == 1
        values = confidence[inside] / 100
        key = int(value), shapely.normalize(shape).wkb
        found[key] = int(inside.sum()), round(values.mean(), 9), values.min()
    return found


def stitched(classes: np.ndarray, confidence: np.ndarray, wanted: set[int], cuts: list[int]) -> Found:
    height, width = classes.shape
    stitcher = Stitcher(height, width)
    edges = [0, *sorted({c for c in cuts if 0 < c < height}), height]
    found: Found = {}
    count = 0
    for start, stop in itertools.pairwise(edges):
        regions = trace(classes[start:stop], confidence[start:stop], wanted, start)
        objects = stitcher.add(regions, Span(start, stop))
        count += len(objects)
        for i in range(len(objects)):
            assert shapely.is_valid(objects.geometry[i])
            key = int(objects.classes[i]), shapely.normalize(objects.geometry[i]).wkb
            found[key] = (
                int(objects.pixels[i]),
                round(float(objects.confidence_mean[i]), 9),
                float(objects.confidence_min[i]),
            )
    assert count == len(found)
    return found


rasters = st.tuples(st.integers(1, 24), st.integers(1, 24)).flatmap(
    lambda shape: hnp.arrays(np.uint8, shape, elements=st.integers(0, 2))
)


@given(classes=rasters, cuts=st.lists(st.integers(1, 23), max_size=6), nodata=st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_cut_gives_the_same_objects(classes: np.ndarray, cuts: list[int], nodata: bool) -> None:
    classes = np.where(classes == 2, 255, classes).astype(np.uint8) if nodata else classes
    confidence = (np.arange(classes.size) * 37 % 101).astype(np.uint8).reshape(classes.shape)
    wanted = {0, 1, 2}
    assert stitched(classes, confidence, wanted, cuts) == at_once(classes, confidence, wanted)


def spiral(size: int) -> np.ndarray:
    """One region that winds over the whole raster, and the one between its turns."""
    out = np.zeros((size, size), np.uint8)
    row, col, step_row, step_col = 0, 0, 0, 1
    for _ in range(size * size):
        out[row, col] = 1
        ahead = row + 2 * step_row, col + 2 * step_col
        blocked = not (0 <= row + step_row < size and 0 <= col + step_col < size) or (
            0 <= ahead[0] < size and 0 <= ahead[1] < size and out[ahead] == 1
        )
        if blocked:
            step_row, step_col = step_col, -step_row
            if out[row + step_row, col + step_col]:
                break
        row, col = row + step_row, col + step_col
    return out


@pytest.mark.parametrize("height", [1, 2, 3, 7, 40])
@pytest.mark.parametrize(
    "classes",
    [
        spiral(41),
        np.indices((41, 41)).sum(0).astype(np.uint8) % 2,  # diagonal touches everywhere
        np.minimum.reduce(
            [*np.indices((41, 41)), 40 - np.indices((41, 41))[0], 40 - np.indices((41, 41))[1]]
        ).astype(np.uint8)  # rings within rings
        % 2,
    ],
    ids=["spiral", "checkerboard", "rings"],
)
def test_hard_shapes_over_many_swaths(classes: np.ndarray, height: int) -> None:
    confidence = np.full_like(classes, 50)
    cuts = list(range(height, 41, height))
    assert stitched(classes, confidence, {0, 1}, cuts) == at_once(classes, confidence, {0, 1})


def test_closed_objects_do_not_wait() -> None:
    """Small objects leave as soon as their swath is done: memory holds open regions only."""
    classes = np.full((1000, 100), 255, np.uint8)
    classes[2:8, 10:20] = 1
    classes = np.tile(classes[:10], (100, 1))
    confidence = np.full_like(classes, 50)
    stitcher = Stitcher(1000, 100)
    for start in range(0, 1000, 20):
        rows = Span(start, start + 20)
        objects = stitcher.add(
            trace(classes[start : start + 20], confidence[start : start + 20], {1}, start), rows
        )
        assert len(objects) == 2
        assert stitcher._open == []
