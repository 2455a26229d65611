"""Blending: the weights sum to one, and streaming equals the whole."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pfmap.core.errors import UsageError
from pfmap.core.grid import Axis, Frame, Grid, Scale, Span
from pfmap.mapping.blend import Blender, Block, Chooser
from pfmap.trace.tile import choose_classes

axes = st.builds(
    lambda size, window, share: Axis(size, window, int(share * (window // 2))),
    st.integers(1, 400),
    st.integers(2, 80),
    st.floats(0, 1),
)


def taper(axis: Axis, index: int) -> torch.Tensor:
    """The weights of window `index` along one axis: half a wave of the cosine over each overlap.

    At the edge there is no neighbour, and the weight is one.
    """
    weight = torch.ones(axis.window, dtype=torch.float64)
    for k in range(axis.overlap):
        rising = (1 - math.cos(math.pi * (k + 0.5) / axis.overlap)) / 2
        if index > 0:
            weight[k] = rising
        if index < axis.count - 1:
            weight[axis.window - axis.overlap + k] = 1 - rising
    return weight


@given(axes)
@settings(max_examples=200, deadline=None)
def test_weights_sum_to_one_at_every_pixel(axis: Axis) -> None:
    one = Axis(1, axis.window, axis.overlap)
    for grid in (Grid(one, axis), Grid(axis, one)):
        ones = {
            key: torch.ones(1, axis.window, axis.window) for key in grid.windows(Span(0, grid.rows.count))
        }
        for block in run(grid, ones, 0, classes=1).values():
            torch.testing.assert_close(block, torch.ones_like(block), atol=1e-5, rtol=0)


@given(axes)
@settings(max_examples=200, deadline=None)
def test_every_pixel_is_finished_exactly_once(axis: Axis) -> None:
    finished = [p for i in range(axis.count) for p in range(axis.block(i).start, axis.block(i).stop)]
    assert finished == list(range(axis.size))
    for index in range(axis.count):
        block, extent = axis.block(index), axis.extent(index)
        assert extent.start == block.start
        assert block.stop <= extent.stop


@given(axes)
@settings(max_examples=100, deadline=None)
def test_no_window_lies_wholly_outside(axis: Axis) -> None:
    assert axis.extent(axis.count - 1).start < axis.size


@pytest.mark.parametrize("overlap", [33, -1])
def test_an_overlap_beyond_half_a_window_is_refused(overlap: int) -> None:
    with pytest.raises(UsageError, match="overlap="):
        Axis(100, 64, overlap)


@given(
    height=st.integers(1, 100),
    width=st.integers(1, 100),
    overlap=st.integers(0, 10),
    seed=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_streamed_blending_equals_the_weighted_sum_over_the_whole(
    height: int, width: int, overlap: int, seed: int
) -> None:
    grid = Grid.of(height, width, 20, overlap)
    generator = torch.Generator().manual_seed(seed)
    full_height = grid.rows.extent(grid.rows.count - 1).stop
    full_width = grid.cols.extent(grid.cols.count - 1).stop
    whole = torch.zeros(3, full_height, full_width, dtype=torch.float64)
    classes = torch.full((height, width), 255, dtype=torch.uint8)
    confidence = torch.zeros((height, width), dtype=torch.uint8)
    blender = Blender(grid, 3)
    for row in range(grid.rows.count):
        for col in range(grid.cols.count):
            window = torch.rand(3, 20, 20, generator=generator).softmax(0)
            y, x = grid.rows.extent(row), grid.cols.extent(col)
            weight = taper(grid.rows, row)[:, None] * taper(grid.cols, col)
            whole[:, y.start : y.stop, x.start : x.stop] += window * weight
            rows, cols = grid.rows.block(row), grid.cols.block(col)
            best = blender.add(row, col, window).max(dim=0)
            box = slice(rows.start, rows.stop), slice(cols.start, cols.stop)
            classes[box], confidence[box] = best.indices.byte(), (best.values * 100).round().byte()
    best, expected = whole[:, :height, :width].max(0)
    # Where two classes are equal to rounding, either is right: rows wait in two bytes, off by up to 8e-6.
    runner_up = whole[:, :height, :width].topk(2, dim=0).values[1]
    assert torch.equal(classes[best - runner_up > 2e-5], expected[best - runner_up > 2e-5].byte())
    assert (confidence - best * 100).abs().max() <= 0.501


def test_a_swath_can_start_inside_the_scene() -> None:
    grid = Grid.of(100, 50, 20, 6)
    windows = {key: torch.rand(3, 20, 20).softmax(0) for key in grid.windows(Span(0, grid.rows.count))}
    whole = run(grid, windows, 0)
    for start in range(1, grid.rows.count):
        part = run(grid, windows, start - 1)
        for key, block in part.items():
            if key[0] >= start:
                assert torch.equal(block, whole[key])


@pytest.mark.parametrize("side", [40, 60, 25])
def test_contact_is_chosen_like_a_class_and_has_no_say_in_classes(side: int) -> None:
    frame = Frame(0, 0, Scale(side, 40), Scale(side, 40))
    generator = torch.Generator().manual_seed(0)
    seen = torch.rand(4, 40, 40, generator=generator)
    seen[:3] = seen[:3].softmax(0)

    def chosen(values: torch.Tensor, **how: bool) -> Block:
        chooser = Chooser(frame, len(values) - len(how), native=True, **how)
        return chooser.add(Span(0, 40), Span(0, 40), values)

    found, plain = chosen(seen, contact=True), chosen(seen[:3])
    assert torch.equal(found.classes, plain.classes)
    assert torch.equal(found.percent[0], plain.percent[0])
    alone = chosen(torch.stack([seen[3], 1 - seen[3]]))
    contact = torch.where(alone.classes == 0, alone.percent[0], 100 - alone.percent[0])
    assert (found.percent[1].int() - contact.int()).abs().max() <= 1


def run(grid: Grid, windows: dict, first: int, classes: int = 3) -> dict:
    blender = Blender(grid, classes)
    blocks = {}
    for row in range(first, grid.rows.count):
        for col in range(grid.cols.count):
            blocks[row, col] = blender.add(row, col, windows[row, col].clone())
    return blocks


@pytest.mark.parametrize("thresholds", [(), (0.3, 0.5, 0.2, 0.9, 0.1)])
@pytest.mark.parametrize("ratio", [0.6, 1.0, 1.03, 2.37])
@pytest.mark.parametrize("whole", [False, True])
def test_compiled_loops_choose_what_torch_does(
    whole: bool, ratio: float, thresholds: tuple[float, ...]
) -> None:
    """Interpolated probabilities differ in their last bits, so that a percent may be rounded another way."""
    grid, contact = Grid.of(130, 110, 40, 6), not whole
    frame = Frame(0, 0, Scale(round(130 * ratio), 130), Scale(round(110 * ratio), 110))
    loops, reference = (
        Chooser(frame, 5, native=True, contact=contact, thresholds=thresholds, probabilities=whole)
        for _ in range(2)
    )
    reference.compiled = False
    assert loops.compiled
    blender, generator = Blender(grid, loops.channels), torch.Generator().manual_seed(0)
    pixels, differing = 0, 0
    for row, col in grid.windows(Span(0, grid.rows.count)):
        seen = torch.rand(loops.channels, 40, 40, generator=generator)
        seen[:5] = (seen[:5] * 4).round().softmax(0)  # so coarse that some are equal
        blended = blender.add(row, col, None if row == col == 1 else seen)  # one was not computed
        blended = blended.mT.contiguous().mT if row > 1 else blended  # its columns not beside each other
        at = grid.rows.block(row), grid.cols.block(col)
        made, wanted = loops.add(*at, blended), reference.add(*at, blended)
        assert (made.rows, made.cols) == (wanted.rows, wanted.cols)
        pairs = [(made.classes, wanted.classes), *zip(made.percent, wanted.percent, strict=True)]
        for number, (one, other) in enumerate(pairs):
            assert one.shape == other.shape
            apart = (one.int() - other.int()).abs()
            pixels, differing = pixels + apart.numel(), differing + int((apart > 0).sum())
            assert number == 0 or not apart.numel() or apart.max() <= 1
    assert differing <= (0 if ratio == 1 else 1e-4 * pixels)
    assert len(choose_classes.signatures) == 1  # compiled once, for all cases


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("classes", [1, 2, 5, 256])
def test_of_equals_the_first_class_is_chosen(classes: int, compiled: bool) -> None:
    probabilities = torch.randint(0, 4, (classes, 50, 60), generator=torch.Generator().manual_seed(0)) / 3
    chooser = Chooser(Frame(0, 0, Scale(50, 50), Scale(60, 60)), classes, native=True)
    chooser.compiled = compiled
    made = chooser.add(Span(0, 50), Span(0, 60), probabilities)
    assert torch.equal(made.percent[0], (probabilities.amax(dim=0) * 100).round().byte())
    assert torch.equal(made.classes, torch.from_numpy(probabilities.numpy().argmax(axis=0)).byte())
