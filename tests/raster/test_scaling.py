"""Pixel values to 8 bits, and the samples that decide how."""

import itertools

import numpy as np
import pytest
import rasterio
from conftest import Write
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from pfmap.core.errors import EmptyError
from pfmap.core.grid import Span
from pfmap.raster.location import locate
from pfmap.raster.scaling import EIGHT_BIT, Sample, Scaling, sampled_scaling
from pfmap.raster.source import Source, spots


@given(
    npst.arrays(np.uint16, 50, elements=st.integers(0, 65535)),
    st.integers(0, 60_000),
    st.integers(1, 60_000),
)
@settings(deadline=None)
def test_values_are_stretched_rounded_and_clipped(values: np.ndarray, low: int, span: int) -> None:
    exact = np.clip((values.astype(float) - low) / span, 0, 1) * 255
    found = Scaling(low, low + span, "here").apply(values).astype(float)
    assert np.abs(found - exact).max() <= 0.51  # float32
    order = np.argsort(values)
    assert (np.diff(found[order]) >= 0).all()


def test_bytes_stay_as_they_are_and_what_is_no_number_is_an_end() -> None:
    values = np.arange(256, dtype=np.uint8)
    assert np.array_equal(EIGHT_BIT.apply(values), values)
    odd = np.array([np.nan, -np.inf, np.inf, 0.5])
    assert Scaling(0.0, 1.0, "here").apply(odd).tolist() == [0, 0, 255, 128]


def test_a_scene_is_read_as_its_scaling_has_it(write_scene: Write) -> None:
    values = np.random.default_rng(0).integers(0, 5000, (3, 40, 50)).astype(np.uint16)
    with Source(locate(write_scene(values))) as source:
        source.scaling = Scaling(1000, 3000, "here")
        pixels, _ = source.read(Span(5, 30), Span(7, 50))
    exact = np.clip((values[:, 5:30, 7:] - 1000.0) / 2000, 0, 1) * 255
    assert np.abs(pixels - exact).max() <= 0.51


def test_a_small_scene_is_its_own_sample_and_nodata_has_no_say(write_scene: Write) -> None:
    values = np.random.default_rng(0).permutation(3 * 60 * 80).reshape(3, 60, 80).astype(np.uint16) + 1
    values[:, :20] = 0
    path = write_scene(values, nodata=0)
    with Source(locate(path)) as source:
        sample, scene = source.sample(values=True), source.info
    with rasterio.open(path) as src:
        valid = src.dataset_mask() > 0
    assert sample.valid_share == pytest.approx(valid.mean())
    scaling = sampled_scaling(sample, scene)
    assert (scaling.low, scaling.high) == pytest.approx(np.percentile(values[:, valid], [2, 98]))
    with pytest.raises(EmptyError):
        sampled_scaling(Sample(values, np.zeros((60, 80), bool)), scene)


@given(st.integers(1, 5000), st.sampled_from([8, 24]))
@settings(deadline=None)
def test_spots_lie_inside_apart_and_from_end_to_end(size: int, count: int) -> None:
    found = spots(size, count)
    assert found[0].start == 0
    assert found[-1].stop == size
    assert all(one.stop <= two.start and one.size > 0 for one, two in itertools.pairwise(found))
    assert len(found) <= count
    if size <= 32 * 8:
        assert sum(span.size for span in found) == size
