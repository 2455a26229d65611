"""From windows to swaths: the stages that read, blend and choose, and finished swaths on disk.

The network itself is `pfmap.model.predictor`; `pfmap.mapping.mapper` puts the stages together. A swath does
not depend on how the scene was cut: where one does not follow the one before, the window rows above it that
it is blended with are computed first, and thrown away.
"""

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pfmap.core.arrays import Bytes, Floats, Longs
from pfmap.core.classes import NODATA
from pfmap.core.errors import DeviceError
from pfmap.core.files import writing
from pfmap.core.grid import Frame, GeoBox, Grid, Scale, Span
from pfmap.core.resources import lack_of, lacks_memory
from pfmap.core.stages import Clock
from pfmap.mapping.blend import Blender, Chooser
from pfmap.mapping.plan import Plan
from pfmap.model.predictor import Predicted, Predictor, Window, pad_to
from pfmap.raster.gdal import gdal_settings
from pfmap.raster.target import RasterTarget
from pfmap.raster.view import View
from pfmap.vector.geodesy import Measurer, pixel_area

_FACTS = "swath.json"

Block = tuple[int, int, int, int]
"""Column, row, width and height of a block of the scene."""
Blended = tuple[Window, Tensor]
"""A window and the ``(channels, rows, cols)`` blended probabilities of the block that it finishes."""


@dataclass(frozen=True, slots=True)
class Swath:
    """A finished run of pixel rows, over the outputs' width."""

    rows: Span
    classes: Bytes
    """``(rows, width)``, 255 where the scene has no data."""
    percent: tuple[Bytes, ...]
    """Confidence, and contact where the model shows it: each as `classes`, in percent. At last
    ``(classes, rows, width)`` of all classes, where they are wanted."""


@dataclass(frozen=True, slots=True)
class Run:
    """Window rows that become a swath, and those above it that have to be computed again for it."""

    lead: Span
    """Above the swath; empty where it follows the one before."""
    rows: Span


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
) -> Generator[Window]:
    """Read all windows of these runs, in order."""
    # GDAL's settings are per thread.
    with gdal_settings(cache=plan.cache_bytes, remote=plan.scene.location.remote):
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
) -> Generator[Blended]:
    """Blend windows where they overlap; each comes with the block that it finishes."""
    blender = Blender(grid, chooser.channels, chooser.device)
    with closing(predicted):
        for window, probabilities in predicted:
            with clock.stage("blend"):
                blended = blender.add(window.row, window.col, probabilities)
            del probabilities
            yield window, blended
            del window, blended


def choose(
    blended: Generator[Blended],
    grid: Grid,
    chooser: Chooser,
    width: int,
    runs: Sequence[Run],
    clock: Clock,
    on_pixels: Callable[[int], None],
) -> Generator[Swath]:
    """Choose the class of every pixel, and gather the blocks of windows to swaths of the outputs' width.

    `blended` has all windows of the runs, in order. `on_pixels` is called with the pixels of the outputs that
    are done; it may raise to stop.
    """
    with closing(blended):
        for run in runs:
            rows = chooser.rows(grid.swath_rows(run.rows))
            layers = tuple(np.empty((*s, rows.size, width), dtype=np.uint8) for s in chooser.layers)
            for _ in range((run.lead.size + run.rows.size) * grid.cols.count):
                window, probabilities = next(blended)
                with clock.stage("blend"):
                    at = grid.rows.block(window.row), grid.cols.block(window.col)
                    block = chooser.add(*at, probabilities)
                    if window.row >= run.rows.start:
                        box = ..., block.rows.within(rows), slice(block.cols.start, block.cols.stop)
                        for out, values in zip(layers, (block.classes, *block.percent), strict=True):
                            out[box] = np.where(window.valid, values.cpu().numpy(), np.uint8(NODATA))
                if window.row >= run.rows.start:
                    on_pixels(block.rows.start * width + block.rows.size * block.cols.stop)
                del window, probabilities, block
            yield Swath(rows, layers[0], layers[1:])
            del layers


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
    for target, values in zip(rasters, (swath.classes, *swath.percent), strict=True):
        target.write_swath(folder, values)
    pixels = _counted(swath.classes)
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


def _counted(classes: Bytes) -> Longs:
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
    classes, *percent = (target.read_swath(folder) for target in rasters if not target.bands)
    return record, Swath(rows, classes, tuple(percent))


@dataclass(slots=True)
class Tally:
    """What the records of all swaths come to, and the ground area of each class."""

    geobox: GeoBox
    measurer: Measurer
    pixels: Longs = field(default_factory=lambda: np.zeros(256, dtype=np.int64))
    areas: Floats = field(default_factory=lambda: np.zeros(256))
    """As `pixels` in square metres, or pixels where the scene has no CRS."""
    confidence: int = 0
    unreadable: set[Block] = field(default_factory=set)

    def add(self, record: Record) -> None:
        """Count a swath."""
        self._count(record.rows.start, record.rows.size, record.pixels)
        self.confidence += record.confidence
        self.unreadable |= record.unreadable

    def add_rows(self, top: int, values: npt.NDArray[Any]) -> None:
        """Count rows of a class raster, from row `top` on."""
        self._count(top, len(values), _counted(values))

    def _count(self, top: int, height: int, pixels: Longs) -> None:
        """Count the pixels of some rows; they are as large as the one in the middle."""
        self.pixels += pixels
        self.areas += pixels * pixel_area(self.geobox, self.measurer, top + height / 2)

    @property
    def valid(self) -> int:
        """Number of pixels with a class."""
        return int(self.pixels[:NODATA].sum())

    @property
    def mean_confidence(self) -> float:
        """Mean confidence of the pixels with a class, percent."""
        return self.confidence / max(self.valid, 1)


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

    blended = blend(predictor.stream(windows(), clock, tta), grid, chooser, clock)
    (swath,) = choose(blended, grid, chooser, width, [Run(Span(0, 0), rows)], clock, lambda _pixels: None)
    return swath.classes, swath.percent[0], swath.percent[1] if contact else None
