"""From windows to swaths: the stages that read and gather, and finished swaths on disk.

The network itself is `pfmap.model.predictor`; `pfmap.mapping.mapper` puts the stages together. A swath does
not depend on how the scene was cut: where one does not follow the one before, the window rows above it that
it is blended with are computed first, and thrown away.
"""

import json
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pfmap.core.arrays import Bytes, Longs
from pfmap.core.classes import NODATA
from pfmap.core.errors import DeviceError
from pfmap.core.files import writing
from pfmap.core.grid import Frame, Grid, Scale, Span
from pfmap.core.resources import lack_of, lacks_memory
from pfmap.core.stages import Clock
from pfmap.mapping.blend import Block as Finished
from pfmap.mapping.blend import Chooser, blend
from pfmap.mapping.plan import Plan
from pfmap.model.lanes import Window
from pfmap.model.predictor import Predictor
from pfmap.raster.gdal import gdal_settings
from pfmap.raster.target import RasterTarget
from pfmap.raster.view import View, pad_to

_FACTS = "swath.json"

Block = tuple[int, int, int, int]
"""Column, row, width and height of a block of the scene."""


@dataclass(frozen=True, slots=True)
class Swath:
    """A finished run of pixel rows, over the outputs' width."""

    rows: Span
    classes: Bytes
    """``(rows, width)``, 255 where the scene has no data."""
    percent: tuple[Bytes, ...]
    """Confidence, and contact where the model shows it: each as `classes`, in percent. At last
    ``(classes, rows, width)`` of all classes, where they are wanted."""

    @classmethod
    def empty(cls, rows: Span, width: int, layers: Sequence[tuple[int, ...]]) -> "Swath":
        """Make room for one; `layers` are what comes before rows and width in the shape of each."""
        classes, *percent = (np.empty((*layer, rows.size, width), dtype=np.uint8) for layer in layers)
        return cls(rows, classes, tuple(percent))

    @property
    def layers(self) -> tuple[Bytes, ...]:
        """Classes, and then all that is in percent."""
        return self.classes, *self.percent

    def take(self, rows: Span, cols: Span, layers: Sequence[Bytes]) -> None:
        """Take what layers have of a block, as far as its rows are the swath's."""
        part = rows.clip(self.rows)
        if part.size > 0:
            for own, values in zip(self.layers, layers, strict=True):
                own[..., part.within(self.rows), cols.start : cols.stop] = values[..., part.within(rows), :]


@dataclass(frozen=True, slots=True)
class Run:
    """Window rows that are computed for a swath, which may have begun in the last of those before."""

    lead: Span
    """Computed again; empty where the swath follows the one before."""
    windows: Span
    """Those that no other swath is to have computed."""
    rows: Span
    """Of the outputs: the swath."""


def chooser_of(plan: Plan, device: torch.device | str = "cpu") -> Chooser:
    """Set up what chooses the classes of a scene."""
    options, names = plan.options, [spec.name for spec in plan.card.classes]
    least = options.threshold or {}
    return Chooser(
        plan.frame,
        len(names),
        native=plan.native,
        contact="contact" in plan.layers,
        thresholds=[least.get(name, -1.0) for name in names] if least else (),
        probabilities=options.probabilities,
        device=device,
    )


def swaths_of(plan: Plan) -> dict[Span, Span]:
    """Cut a scene into swaths: output rows, by the window rows that are computed for them.

    They end where rows of the outputs' blocks do, so that each block is compressed once.
    """
    axis, height, step = plan.grid.rows, plan.geobox.height, plan.swath_step
    rows_of = chooser_of(plan).rows
    ends = [rows_of(axis.block(n)).stop for n in range(axis.count)]
    swaths, computed, done = {}, 0, 0
    for cut in Span(0, len(ends)).cut(plan.swath_height):
        wanted = min(height, -(-ends[cut.stop - 1] // step) * step)
        last = bisect_left(ends, wanted, lo=cut.stop - 1)
        stop = height if ends[last] == height else ends[last] // step * step
        if stop > done:
            swaths[Span(computed, last + 1)] = Span(done, stop)
            computed, done = last + 1, stop
    return swaths


def runs_of(plan: Plan, todo: Sequence[tuple[Span, Span]]) -> list[Run]:
    """Say what has to be computed for swaths, of which window rows and output rows are given, in order."""
    needed, last, runs = lead_rows(plan), 0, []
    for windows, rows in todo:
        above = 0 if windows.start == last else needed
        runs.append(Run(Span(max(0, windows.start - above), windows.start), windows, rows))
        last = windows.stop
    return runs


def lead_rows(plan: Plan) -> int:
    """Say how many window rows above a swath that is computed by itself have to be computed again."""
    rows = plan.grid.rows
    interpolates, cut = plan.native and plan.frame.resampled, plan.swath_step > 1
    # The last row above a swath may itself be blended with a window further up, and have rows of the swath.
    again = int(interpolates and 2 * rows.overlap == rows.window)
    return cut + int(bool(rows.overlap) or interpolates) + again


def read_windows(
    view: View, plan: Plan, chooser: Chooser, runs: Sequence[Run], clock: Clock
) -> Generator[Window]:
    """Read all windows of these runs, in order."""
    # GDAL's settings are per thread.
    with gdal_settings(cache=plan.cache_bytes, remote=plan.scene.location.remote):
        for run in runs:
            for row, col in plan.grid.windows(Span(run.lead.start, run.windows.stop)):
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


def gathered(
    blended: Generator[tuple[Window, Finished]],
    grid: Grid,
    chooser: Chooser,
    width: int,
    runs: Sequence[Run],
    clock: Clock,
    on_pixels: Callable[[int], None],
) -> Generator[Swath]:
    """Gather the blocks of windows to swaths of the outputs' width.

    `blended` has all windows of the runs, in order. `on_pixels` is called with the pixels of the outputs that
    are done; it may raise to stop.
    """
    begun: Swath | None = None
    with closing(blended):
        for run in runs:
            swath = Swath.empty(run.rows, width, chooser.layers)
            if begun is not None and not run.lead.size:
                swath.take(begun.rows, Span(0, width), begun.layers)
            done = chooser.rows(grid.rows.block(run.windows.stop - 1)).stop
            begun = Swath.empty(Span(run.rows.stop, done), width, chooser.layers)
            for _ in range((run.lead.size + run.windows.size) * grid.cols.count):
                window, block = next(blended)
                with clock.stage("blend"):
                    hidden = np.uint8(NODATA) * ~window.valid  # nothing is larger
                    layers = block.classes, *block.percent
                    shown = [np.maximum(values.numpy(), hidden) for values in layers]
                    for one in (swath, begun):
                        one.take(block.rows, block.cols, shown)
                if window.row >= run.windows.start:
                    on_pixels(block.rows.start * width + block.rows.size * block.cols.stop)
                del window, block, layers, shown
            yield swath
            del swath


@dataclass(frozen=True, slots=True)
class Record:
    """What the rest of the pipeline needs of a swath, apart from its pixels."""

    rows: Span
    pixels: Longs
    """``(256,)`` pixels per value of the class raster."""
    confidence: int
    """Sum over all pixels with a class, percent."""
    unreadable: frozenset[Block]
    """Blocks of the scene that could not be read and count as nodata."""


def write_record(
    folder: Path, swath: Swath, rasters: Sequence[RasterTarget], unreadable: frozenset[Block]
) -> Record:
    """Write a swath, classes and then percent, into a folder; a `TargetError` where it cannot be written."""
    for target, values in zip(rasters, swath.layers, strict=True):
        target.write_swath(folder, swath.rows, values)
    pixels = counted(swath.classes)
    confidence = int(swath.percent[0].sum(dtype=np.int64)) - NODATA * int(pixels[NODATA])
    record = Record(swath.rows, pixels, confidence, unreadable)
    facts = {
        "rows": [swath.rows.start, swath.rows.stop],
        "pixels": record.pixels.tolist(),
        "confidence": record.confidence,
        "unreadable": sorted(unreadable),
    }
    with writing(folder / _FACTS):
        (folder / _FACTS).write_text(json.dumps(facts), encoding="utf-8")
    return record


def counted(classes: Bytes) -> Longs:
    """Count the pixels of each value. Numpy's way would make eight bytes of each first."""
    return torch.bincount(torch.from_numpy(classes).ravel(), minlength=256).numpy()


def read_record(folder: Path, rasters: Sequence[RasterTarget]) -> tuple[Record, Swath]:
    """Read what `write_record` left, as far as tracing needs it."""
    facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    rows = Span(*facts["rows"])
    record = Record(
        rows,
        np.array(facts["pixels"], dtype=np.int64),
        facts["confidence"],
        frozenset((block[0], block[1], block[2], block[3]) for block in facts["unreadable"]),
    )
    classes, *percent = (target.read_swath(folder, rows) for target in rasters if not target.bands)
    return record, Swath(rows, classes, tuple(percent))


@contextmanager
def out_of_memory_explained() -> Iterator[None]:
    """Say, in a `DeviceError`, what to do if the device's or the machine's memory runs out after all."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            "the device's memory does not hold the overlaps of a scene this wide: lower overlap=, map a "
            "narrower part with bbox=, or use device='cpu'"
        ) from error
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        raise DeviceError(
            f"{lack_of(error)}: close other programs, raise the limit of this process, map a narrower part "
            "with bbox=, or choose a model with smaller windows"
        ) from error


def map_array(
    predictor: Predictor, image: Bytes, classes: int, window: int, overlap: int, tta: str = "none"
) -> tuple[Bytes, Bytes, Bytes | None]:
    """Map a whole ``(bands, height, width)`` image in memory, with the same windows and blending as a scene.

    Gives ``(height, width)`` classes, their confidence in percent, and contact; None of a predictor without.
    """
    height, width = image.shape[1:]
    grid = Grid.of(height, width, window, overlap)
    contact, device = predictor.contact, predictor.device
    frame = Frame(0, 0, Scale(height, height), Scale(width, width))
    chooser = Chooser(frame, classes, native=False, contact=contact, device=device)
    seen, clock, rows = np.ones((height, width), dtype=bool), Clock(), Span(0, grid.rows.count)

    def windows() -> Iterator[Window]:
        for row, col in grid.windows(rows):
            y, x = grid.rows.extent(row), grid.cols.extent(col)
            box = np.s_[y.start : y.stop, x.start : x.stop]
            padded = pad_to(image[:, *box], seen[box], window, window)
            yield Window(row, col, *padded, np.ones((), dtype=bool))

    blended = blend(predictor, windows(), grid, chooser, clock, tta)
    runs = [Run(Span(0, 0), rows, Span(0, height))]
    (swath,) = gathered(blended, grid, chooser, width, runs, clock, lambda _pixels: None)
    return swath.classes, swath.percent[0], swath.percent[1] if contact else None
