"""Windows to swaths: read ahead, run the network, blend, choose class and confidence."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from pfmap.ahead import read_ahead
from pfmap.classes import NODATA
from pfmap.engine.blend import Blender, Block
from pfmap.engine.predictor import Predicted, Predictor, Window, pad_to
from pfmap.errors import DeviceError
from pfmap.grid import Grid, Span
from pfmap.raster.source import Source, gdal_settings

Array = npt.NDArray[np.uint8]

Progress = Callable[[int, int], None]
"""Called with the pixels done and the pixels in all."""


@dataclass(frozen=True, slots=True)
class Swath:
    """A finished run of pixel rows, over the scene's width.

    Attributes:
        rows: pixel rows of the scene.
        classes: ``(rows, width)`` uint8, 255 where the scene has no data.
        confidence: ``(rows, width)`` uint8 percent, 255 where the scene has no data.
    """

    rows: Span
    classes: Array
    confidence: Array


@dataclass(slots=True)
class Clock:
    """Adds up seconds per stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time spent inside to `name`."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun


@dataclass(frozen=True, slots=True)
class SwathMapper:
    """Maps a scene swath by swath.

    Attributes:
        source: the opened scene.
        grid: its windows.
        predictor: the network.
        classes: number of classes.
        swath_pixels: pixels of the scene per swath.
        clock: where the stages' times go.
        on_progress: called after every window.
    """

    source: Source
    grid: Grid
    predictor: Predictor
    classes: int
    swath_pixels: int
    clock: Clock
    on_progress: Progress

    def swaths(self) -> Generator[Swath, None, None]:
        """Give the swaths, top to bottom. Close the generator when stopping early."""
        # Twice a batch: one being read while one is being computed.
        windows = read_ahead(self._windows(), depth=2 * self.predictor.batch_size)
        with closing(windows):
            predicted = self.predictor.stream(windows)
            blender = Blender(self.grid, self.classes, self.predictor.device)
            for span in self.grid.swaths(self.swath_pixels):
                yield self._swath(span, predicted, blender)

    def _windows(self) -> Generator[Window, None, None]:
        """Read all windows in order, padded by reflection where they reach past the scene."""
        side = self.grid.rows.window
        with gdal_settings(self.source.info.width):  # GDAL's settings are per thread
            for row, col in self.grid.windows(Span(0, self.grid.rows.count)):
                with self.clock.stage("read"):
                    pixels, valid = self.source.read(self.grid.rows.extent(row), self.grid.cols.extent(col))
                    padded = pad_to(pixels, valid, side, side)
                yield row, col, *padded

    def _swath(self, span: Span, predicted: Iterator[Predicted], blender: Blender) -> Swath:
        """Compute the windows of these window rows."""
        rows, width = self.grid.swath_rows(span), self.grid.cols.size
        swath = Swath(rows, *(np.empty((rows.size, width), dtype=np.uint8) for _ in range(2)))
        for _ in range(span.size * self.grid.cols.count):
            with self.clock.stage("network"), _out_of_memory_explained(self.predictor.batch_size):
                row, col, probabilities, valid = next(predicted)
            with self.clock.stage("blend"):
                if col == 0:
                    blender.begin_row(row)
                block = blender.add(col, probabilities)
                _paste(block, valid, swath)
            self.on_progress(
                block.rows.stop * width - block.rows.size * (width - block.cols.stop),
                self.grid.rows.size * width,
            )
        return swath


def _paste(block: Block, valid: npt.NDArray[np.bool_], swath: Swath) -> None:
    """Put a block into its swath, with nodata where the scene has none."""
    top = swath.rows.start
    box = np.s_[block.rows.start - top : block.rows.stop - top, block.cols.start : block.cols.stop]
    invalid = ~valid[: block.rows.size, : block.cols.size]
    for target, values in ((swath.classes, block.classes), (swath.confidence, block.confidence)):
        target[box] = np.where(invalid, np.uint8(NODATA), values.cpu().numpy())


@contextmanager
def _out_of_memory_explained(batch_size: int) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            f"the device ran out of memory with {batch_size} windows per pass: lower --batch-size, or use "
            "--device cpu"
        ) from error
