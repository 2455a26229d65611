"""Resampling against dense matrices, whole and in parts."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pfmap.core.grid import Scale, Span
from pfmap.raster.view import resample


def matrix(scale: Scale) -> npt.NDArray[np.float64]:
    """The weights of every old pixel in every new one, written out: area average or bilinear."""
    weights = np.zeros((scale.size, scale.native))
    for new in range(scale.size):
        if scale.native >= scale.size:
            low, high = new * scale.factor, (new + 1) * scale.factor
            for old in range(scale.native):
                weights[new, old] = max(0.0, min(old + 1, high) - max(old, low)) / scale.factor
        else:
            at = (new + 0.5) * scale.factor - 0.5
            below = int(np.floor(at))
            weights[new, min(max(below, 0), scale.native - 1)] += 1 - (at - below)
            weights[new, min(max(below + 1, 0), scale.native - 1)] += at - below
    return weights


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_values_are_the_weighted_means_of_valid_pixels(
    height: int, width: int, new_height: int, new_width: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (3, height, width), dtype=np.uint8)
    valid = rng.random((height, width)) < rng.choice([0.3, 0.9, 1.0])
    rows, cols = Scale(height, new_height), Scale(width, new_width)
    pixels, share = resample(image, valid, (0, 0), (rows, Span(0, new_height)), (cols, Span(0, new_width)))
    down, across = matrix(rows), matrix(cols)
    expected_share = down @ valid @ across.T
    np.testing.assert_allclose(share, expected_share, atol=1e-5)
    some = expected_share > 1e-3
    expected = (down @ (image * valid) @ across.T)[:, some] / expected_share[some]
    assert np.abs(pixels[:, some] - expected).max(initial=0) <= 0.502


@pytest.mark.parametrize("sizes", [(100, 37), (37, 100), (91, 90), (64, 64), (400, 100)])
def test_parts_agree_with_the_whole(sizes: tuple[int, int]) -> None:
    scale = Scale(*sizes)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (3, scale.native, scale.native), dtype=np.uint8)
    valid = rng.random(image.shape[1:]) < 0.8
    everything = Span(0, scale.size)
    whole, share = resample(image, valid, (0, 0), (scale, everything), (scale, everything))
    for start, stop in ((0, 5), (7, 20), (scale.size - 9, scale.size)):
        span = Span(start, stop)
        cover = scale.cover(span)
        at = slice(cover.start, cover.stop)
        part, part_share = resample(
            image[:, at, at], valid[at, at], (cover.start, cover.start), (scale, span), (scale, span)
        )
        assert np.array_equal(part, whole[:, start:stop, start:stop])
        np.testing.assert_allclose(part_share, share[start:stop, start:stop], atol=1e-6)


@given(st.integers(1, 300), st.integers(1, 300))
def test_every_scene_pixel_is_finished_once(native: int, size: int) -> None:
    scale = Scale(native, size)
    finished = [scale.finished(stop) for stop in range(size + 1)]
    assert finished[0] == 0
    assert finished[-1] == native
    assert finished == sorted(finished)
    back = Scale(scale.size, scale.native)
    for stop in range(1, size):
        if not scale.same:
            assert all(back.taps(pixel)[1] < stop for pixel in range(finished[stop]))
