"""From windows to swaths: the stages that read windows, blend what the network says, and choose classes.

The network itself is `pfmap.model.predictor`; `pfmap.mapping.mapper` puts the stages together. A swath does
not depend on how the scene was cut: where one does not follow the one before, the window rows above it that
it is blended with are computed first, and thrown away.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pfmap.core.classes import NODATA
from pfmap.core.errors import DeviceError
from pfmap.core.grid import Frame, Grid, Span
from pfmap.core.stages import Clock
from pfmap.mapping.blend import Blender, Chooser
from pfmap.mapping.plan import Plan
from pfmap.model.predictor import Predicted, Predictor, Window, pad_to
from pfmap.raster.gdal import gdal_settings
from pfmap.raster.view import View

Array = npt.NDArray[np.uint8]
Blended = tuple[Window, Tensor]
"""A window and the ``(classes, rows, cols)`` blended probabilities of the block that it finishes."""


@dataclass(frozen=True, slots=True)
class Swath:
    """A finished run of pixel rows, over the outputs' width."""

    rows: Span
    """Pixel rows of the outputs."""
    classes: Array
    """``(rows, width)``, 255 where the scene has no data."""
    confidence: Array
    """``(rows, width)`` percent, 255 where the scene has no data."""


@dataclass(frozen=True, slots=True)
class Run:
    """Window rows that become a swath, and those above it that have to be computed again for it."""

    lead: Span
    """Window rows above the swath; empty where it follows the one before."""
    rows: Span
    """Window rows of the swath."""


def chooser_of(plan: Plan, device: torch.device | str = "cpu") -> Chooser:
    """Set up what chooses the classes of a scene."""
    return Chooser(plan.frame, len(plan.card.classes), native=plan.native, device=device)


def runs_of(plan: Plan, todo: Sequence[Span]) -> list[Run]:
    """Say what has to be computed for swaths of these window rows, top to bottom."""
    needed, last, runs = lead_rows(plan), 0, []
    for rows in todo:
        above = 0 if rows.start == last else needed
        runs.append(Run(Span(max(0, rows.start - above), rows.start), rows))
        last = rows.stop
    return runs


def lead_rows(plan: Plan) -> int:
    """Say how many window rows above a swath that is computed by itself have to be computed again."""
    rows = plan.grid.rows
    interpolates = plan.native and plan.frame.resampled
    # The last row above a swath may itself be blended with a window further up.
    return int(bool(rows.overlap) or interpolates) + int(interpolates and 2 * rows.overlap == rows.window)


def read_windows(
    view: View, plan: Plan, chooser: Chooser, runs: Sequence[Run], clock: Clock
) -> Generator[Window, None, None]:
    """Read all windows of these runs, in order."""
    cache = plan.scene.cache_bytes(round(plan.grid.rows.window * max(1.0, plan.frame.rows.factor)))
    # GDAL's settings are per thread.
    with gdal_settings(cache=cache, remote=plan.scene.location.remote):
        for run in runs:
            for row, col in plan.grid.windows(Span(run.lead.start, run.rows.stop)):
                with clock.stage("read"):
                    window = read_window(view, plan.grid, chooser, row, col)
                yield window


def read_window(view: View, grid: Grid, chooser: Chooser, row: int, col: int) -> Window:
    """Read a window, padded by reflection where it reaches past the scene."""
    tile = view.read(
        grid.rows.extent(row),
        grid.cols.extent(col),
        chooser.rows(grid.rows.block(row)),
        chooser.cols(grid.cols.block(col)),
    )
    return Window(row, col, *pad_to(tile.pixels, tile.seen, grid.rows.window, grid.cols.window), tile.valid)


def blend(
    predicted: Generator[Predicted, Any, None], grid: Grid, chooser: Chooser, clock: Clock
) -> Generator[Blended, None, None]:
    """Blend windows where they overlap; each comes with the block that it finishes."""
    blender = Blender(grid, chooser.classes, chooser.device)
    with closing(predicted):
        for window, probabilities in predicted:
            with clock.stage("blend"):
                if window.col == 0:
                    blender.begin_row(window.row)
                blended = blender.add(window.col, probabilities)
            del probabilities
            yield window, blended
            del window, blended


def choose(
    blended: Generator[Blended, None, None],
    grid: Grid,
    chooser: Chooser,
    width: int,
    runs: Sequence[Run],
    clock: Clock,
    on_pixels: Callable[[int], None],
) -> Generator[Swath, None, None]:
    """Choose the class of every pixel, and gather the blocks of windows to swaths.

    Args:
        blended: of all windows of the runs, in order.
        grid: of the windows.
        chooser: chooses classes.
        width: of the outputs, pixels.
        runs: what is computed.
        clock: where the time goes.
        on_pixels: called with the pixels of the outputs that are done; it may raise to stop.
    """
    with closing(blended):
        for run in runs:
            rows = chooser.rows(grid.swath_rows(run.rows))
            swath = Swath(rows, *(np.empty((rows.size, width), dtype=np.uint8) for _ in range(2)))
            for _ in range((run.lead.size + run.rows.size) * grid.cols.count):
                window, probabilities = next(blended)
                with clock.stage("blend"):
                    at = grid.rows.block(window.row), grid.cols.block(window.col)
                    block = chooser.add(*at, probabilities)
                    if window.row >= run.rows.start:
                        top = block.rows.start - rows.start
                        box = np.s_[top : top + block.rows.size, block.cols.start : block.cols.stop]
                        for out, values in (
                            (swath.classes, block.classes),
                            (swath.confidence, block.confidence),
                        ):
                            out[box] = np.where(window.valid, values.cpu().numpy(), np.uint8(NODATA))
                if window.row >= run.rows.start:
                    on_pixels(block.rows.start * width + block.rows.size * block.cols.stop)
                del window, probabilities, block
            yield swath
            del swath


@contextmanager
def out_of_memory_explained() -> Iterator[None]:
    """Say what to do if not the network, but what is carried from window to window does not fit.

    Raises:
        DeviceError: the device's memory is too small for that.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            "the device's memory does not hold the overlaps of a scene this wide: lower --overlap, map a "
            "narrower part with --bbox, or use --device cpu"
        ) from error


def map_array(
    predictor: Predictor, image: Array, classes: int, window: int, overlap: int
) -> tuple[Array, Array]:
    """Map a whole image in memory, with the same windows and blending as a scene.

    Args:
        predictor: the network and its device.
        image: ``(3, height, width)``.
        classes: number of classes.
        window: side of the windows.
        overlap: pixels that neighbours share.

    Returns:
        ``(height, width)`` classes, and their confidence in percent.
    """
    height, width = image.shape[1:]
    grid = Grid.of(height, width, window, overlap)
    chooser = Chooser(Frame.whole(height, width), classes, native=False, device=predictor.device)
    seen, clock, rows = np.ones((height, width), dtype=bool), Clock(), Span(0, grid.rows.count)

    def windows() -> Iterator[Window]:
        for row, col in grid.windows(rows):
            y, x = grid.rows.extent(row), grid.cols.extent(col)
            box = np.s_[y.start : y.stop, x.start : x.stop]
            padded = pad_to(image[:, *box], seen[box], window, window)
            yield Window(row, col, *padded, np.ones((), dtype=bool))

    blended = blend(predictor.stream(windows(), clock), grid, chooser, clock)
    (swath,) = choose(blended, grid, chooser, width, [Run(Span(0, 0), rows)], clock, lambda _pixels: None)
    return swath.classes, swath.confidence
