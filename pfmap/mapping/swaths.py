"""Windows to swaths: read ahead, run the network, blend, choose class and confidence."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pfmap.core.classes import NODATA
from pfmap.core.errors import DeviceError
from pfmap.core.grid import Grid, Span
from pfmap.core.stages import Clock, read_ahead
from pfmap.mapping.blend import Blender, Block, Chooser
from pfmap.mapping.plan import Plan
from pfmap.model.predictor import Predicted, Predictor, Window, pad_to
from pfmap.raster.gdal import gdal_settings
from pfmap.raster.view import View

Array = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Swath:
    """A finished run of pixel rows, over the outputs' width.

    Attributes:
        rows: pixel rows of the outputs.
        classes: ``(rows, width)`` uint8, 255 where the scene has no data.
        confidence: ``(rows, width)`` uint8 percent, 255 where the scene has no data.
    """

    rows: Span
    classes: Array
    confidence: Array


@dataclass(frozen=True, slots=True)
class SwathMapper:
    """Maps swaths of a scene.

    Attributes:
        view: reads the windows.
        plan: the windows and the two grids.
        predictor: the network.
        clock: where the stages' times go.
        on_window: called after every window, with the pixels of the outputs that are done.
    """

    view: View
    plan: Plan
    predictor: Predictor
    clock: Clock
    on_window: Callable[[int], None]

    def swaths(self, todo: Sequence[Span]) -> Generator[Swath, None, None]:
        """Map these runs of window rows, top to bottom. Close the generator when stopping early.

        Where one does not follow the one before, the window rows above it that it is blended with are
        computed first, and thrown away: a swath does not depend on how the scene was cut.
        """
        with _out_of_memory_explained():
            yield from self._swaths(todo)

    def _swaths(self, todo: Sequence[Span]) -> Generator[Swath, None, None]:
        plan = self.plan
        chooser = Chooser(
            plan.frame, len(plan.card.classes), native=plan.native, device=self.predictor.device
        )
        blender = Blender(plan.grid, len(plan.card.classes), self.predictor.device)
        runs = list(self._with_lead(todo))
        # A batch for each worker, being read while others are being computed.
        ahead = (self.predictor.workers + 1) * self.predictor.batch_size
        windows = read_ahead(self._windows(runs, chooser), depth=ahead, name="read")
        with closing(windows), closing(self.predictor.stream(windows, self.clock)) as predicted:
            for lead, span in runs:
                for _ in range(lead.size * plan.grid.cols.count):
                    self._next(predicted, blender, chooser)
                yield self._swath(span, predicted, blender, chooser)

    def _with_lead(self, todo: Sequence[Span]) -> Iterator[tuple[Span, Span]]:
        """Say for each swath which window rows above it have to be computed again."""
        needed, last = lead_rows(self.plan), 0
        for span in todo:
            above = 0 if span.start == last else needed
            yield Span(max(0, span.start - above), span.start), span
            last = span.stop

    def _windows(self, runs: Sequence[tuple[Span, Span]], chooser: Chooser) -> Generator[Window, None, None]:
        """Read all windows in order."""
        plan, grid = self.plan, self.plan.grid
        side = grid.rows.window
        cache = plan.scene.cache_bytes(round(side * max(1.0, plan.frame.rows.factor)))
        # GDAL's settings are per thread.
        with gdal_settings(cache=cache, remote=plan.scene.location.remote):
            for lead, span in runs:
                for row, col in grid.windows(Span(lead.start, span.stop)):
                    with self.clock.stage("read"):
                        window = read_window(self.view, grid, chooser, row, col)
                    yield window

    def _next(
        self, predicted: Iterator[Predicted], blender: Blender, chooser: Chooser
    ) -> tuple[Block, npt.NDArray[np.bool_]]:
        """Compute and blend a window, and choose the classes that it finishes."""
        window, probabilities = next(predicted)
        with self.clock.stage("blend"):
            if window.col == 0:
                blender.begin_row(window.row)
            blended = blender.add(window.col, probabilities)
            grid = self.plan.grid
            return chooser.add(
                grid.rows.block(window.row), grid.cols.block(window.col), blended
            ), window.valid

    def _swath(
        self,
        span: Span,
        predicted: Iterator[Predicted],
        blender: Blender,
        chooser: Chooser,
    ) -> Swath:
        """Compute the windows of these window rows."""
        rows, width = chooser.rows(self.plan.grid.swath_rows(span)), self.plan.geobox.width
        swath = Swath(rows, *(np.empty((rows.size, width), dtype=np.uint8) for _ in range(2)))
        for _ in range(span.size * self.plan.grid.cols.count):
            block, valid = self._next(predicted, blender, chooser)
            with self.clock.stage("blend"):
                _paste(block, valid, swath)
            self.on_window(block.rows.start * width + block.rows.size * block.cols.stop)
        return swath


def lead_rows(plan: Plan) -> int:
    """Say how many window rows above a swath that is computed by itself have to be computed again."""
    rows = plan.grid.rows
    interpolates = plan.native and plan.frame.resampled
    # The last row above a swath may itself be blended with a window further up.
    return int(bool(rows.overlap) or interpolates) + int(interpolates and 2 * rows.overlap == rows.window)


def read_window(view: View, grid: Grid, chooser: Chooser, row: int, col: int) -> Window:
    """Read a window, padded by reflection where it reaches past the scene."""
    tile = view.read(
        grid.rows.extent(row),
        grid.cols.extent(col),
        chooser.rows(grid.rows.block(row)),
        chooser.cols(grid.cols.block(col)),
    )
    return Window(row, col, *pad_to(tile.pixels, tile.seen, grid.rows.window, grid.cols.window), tile.valid)


@contextmanager
def _out_of_memory_explained() -> Iterator[None]:
    """Say what to do if not the network, but what is carried from window to window does not fit."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            "the device's memory does not hold the overlaps of a scene this wide: lower --overlap, map a "
            "narrower part with --bbox, or use --device cpu"
        ) from error


def _paste(block: Block, valid: npt.NDArray[np.bool_], swath: Swath) -> None:
    """Put a block into its swath, with nodata where the scene has none."""
    top = swath.rows.start
    box = np.s_[block.rows.start - top : block.rows.stop - top, block.cols.start : block.cols.stop]
    for target, values in ((swath.classes, block.classes), (swath.confidence, block.confidence)):
        target[box] = np.where(valid, values.cpu().numpy(), np.uint8(NODATA))
