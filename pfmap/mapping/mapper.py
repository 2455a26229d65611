"""Carry out a plan: the way of a window, from the scene's file to rasters and polygons."""

from collections import Counter
from collections.abc import Callable, Container, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pfmap.core.arrays import Bools, Floats, Longs
from pfmap.core.classes import NODATA, ClassSpec, class_raster_style, percent_style, qml
from pfmap.core.errors import EmptyError, TargetError
from pfmap.core.grid import GeoBox, Span
from pfmap.core.resources import give_back_memory, moment_of
from pfmap.core.stages import Clock, Regions, read_ahead
from pfmap.mapping.blend import blend
from pfmap.mapping.objects import Chosen, Shaper
from pfmap.mapping.options import PredictOptions
from pfmap.mapping.plan import Plan, layers_of
from pfmap.mapping.runtime import Workers
from pfmap.mapping.swaths import (
    Block,
    Record,
    Swath,
    chooser_of,
    counted,
    gathered,
    out_of_memory_explained,
    read_record,
    read_windows,
    runs_of,
    swaths_of,
    write_record,
)
from pfmap.mapping.work import Work
from pfmap.model.predictor import Predictor
from pfmap.raster.align import burn
from pfmap.raster.gdal import gdal_settings
from pfmap.raster.scaling import no_valid_pixel
from pfmap.raster.source import Source
from pfmap.raster.target import SMALL, Parts, RasterTarget, finish
from pfmap.raster.view import Inside, View
from pfmap.trace.sieve import Rows
from pfmap.vector.geodesy import Measurer, pixel_area

_FREED = 32 << 20
"""Pixels after which freed memory goes back: what tracing frees lies between what others hold."""

_LARGE = 16 << 20
"""Pixels of a scene that gives it back at its end; of a smaller one the next makes use, and getting it anew
from the system, page by page, takes longer than all else that is done for such a scene."""

_Written = tuple[Record | Future[Record], Swath]


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
        self._count(top, len(values), counted(values))

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


@dataclass(frozen=True, slots=True)
class Mapped:
    """What carrying out a plan gave."""

    files: Mapping[str, Sequence[Path]]
    """Finished files in the work folder by kind: rasters, and the vector formats."""
    tally: Tally
    """Pixels and areas per class, and blocks of the scene that count as nodata."""
    objects: Mapping[int, int]
    """Objects written per class that becomes polygons."""
    merged: Counter[tuple[str, int]]
    """As `Shaper.merged`."""
    swaths: int
    resumed: int
    """How many of the swaths were on disk already."""


@dataclass(frozen=True, slots=True)
class Mapper:
    """Maps an opened scene as planned."""

    source: Source
    plan: Plan
    stem: str
    network: Predictor | Workers
    """What computes windows here, or whole swaths in other processes."""
    clock: Clock
    on_pixels: Callable[[int], None]
    """Called with the pixels of the outputs that are done; it may raise to stop."""

    def run(self, work: Work) -> Mapped:
        """Map all swaths that are not on disk yet, and make the final files: the way of a window.

        All stages work at once, each a little ahead of the next, in threads that are named after what comes
        before: read, network, blend, write, merge, trace; the caller's writes objects. A table of them is in
        docs/architecture.md. Where other processes compute swaths, the first four are theirs (`Workers`). An
        `EmptyError` says that there is no valid pixel, a `DeviceError` that the device's memory does not hold
        what a scene this wide takes.
        """
        plan, clock = self.plan, self.clock
        swaths = swaths_of(plan)
        todo = {span: rows for span, rows in swaths.items() if not work.has(rows)}
        with out_of_memory_explained(), self._shaper(work.finals) as shaper:
            tally = Tally(plan.geobox, shaper.measurer)
            if isinstance(self.network, Predictor):
                grid, runs = plan.grid, runs_of(plan, [*todo.items()])
                chooser = chooser_of(plan, self.network.device)
                view = view_of(self.source, plan)
                windows = read_ahead(
                    read_windows(view, plan, chooser, runs, clock), self.network.ahead, name="read"
                )
                blended = blend(self.network, windows, grid, chooser, clock, plan.options.tta)
                chosen = gathered(blended, grid, chooser, plan.geobox.width, runs, clock, self.on_pixels)
                written = self._write(read_ahead(chosen, depth=1, name="blend"), work)
                finished = self._with_earlier(written, work, swaths, todo)
            else:
                written = self._written_elsewhere(self.network, work, todo)
                finished = read_ahead(self._with_earlier(written, work, swaths, todo), depth=1, name="write")
            sieved: list[tuple[Span, Path]] = []
            if plan.options.sieve == "raster":
                target = raster_targets(plan, self.stem)[0]
                shaper.on_sieved = tally.add_rows, partial(target.write_next, work.path / "sieved", sieved)
            merged = self._merge(finished, shaper, tally)
            regions = self._trace(read_ahead(merged, depth=1, name="merge"), shaper)
            with closing(read_ahead(regions, depth=1, name="trace")) as traced:
                for some in traced:
                    with clock.stage("write objects"):
                        shaper.writer.add(some)
            if not tally.valid:
                work.useless = True
                raise EmptyError(no_valid_pixel(plan.scene))
            rasters = [[(rows, work.swath(rows)) for rows in swaths.values()]] * len(plan.layers)
            rasters[0] = sieved or rasters[0]
            return self._finish(work, rasters, shaper, tally, len(todo))

    def _write(self, swaths: Generator[Swath], work: Work) -> Generator[_Written]:
        """Write swaths into the work folder, each while it is merged: so that two at most are in memory."""
        rasters = raster_targets(self.plan, self.stem)

        def write(swath: Swath) -> Record:
            stage = self.clock.stage("write rasters")
            with gdal_settings(), stage, work.writing(swath.rows) as folder:
                return write_record(folder, swath, rasters, frozenset(self.source.unreadable))

        with closing(swaths), ThreadPoolExecutor(1, "pfmap-write") as beside:
            for swath in swaths:
                yield beside.submit(write, swath), swath
                del swath

    def _written_elsewhere(
        self, workers: Workers, work: Work, todo: Mapping[Span, Span]
    ) -> Generator[_Written]:
        """Have other processes compute and write swaths, and read them."""
        rasters = raster_targets(self.plan, self.stem)
        with closing(
            workers.compute(work, self.plan, self.stem, todo, self.clock, self.on_pixels)
        ) as written:
            for rows in written:
                if not work.has(rows):
                    raise TargetError(f"{work.swath(rows)} of a worker is damaged: the same command goes on")
                yield read_record(work.swath(rows), rasters)

    def _with_earlier(
        self,
        written: Generator[_Written],
        work: Work,
        swaths: Mapping[Span, Span],
        todo: Container[Span],
    ) -> Generator[_Written]:
        """Give all swaths top to bottom: those written now, and those that were on disk already."""
        rasters = raster_targets(self.plan, self.stem)
        with closing(written), gdal_settings():
            for span, rows in swaths.items():
                if span in todo:
                    yield next(written)
                    continue
                if isinstance(self.network, Predictor):  # workers count in another order
                    self.on_pixels(rows.stop * self.plan.geobox.width)
                yield read_record(work.swath(rows), rasters)

    def _merge(self, finished: Generator[_Written], shaper: Shaper, tally: Tally) -> Generator[Rows]:
        """Merge small regions of swaths, and count these."""
        with closing(finished):
            for written, swath in finished:
                merged = shaper.merge(swath.classes, *(one for one in swath.percent if one.ndim == 2))
                del swath
                yield from self.clock.timed("merge", merged)
                record = written.result() if isinstance(written, Future) else written
                tally.add(replace(record, pixels=0 * record.pixels) if shaper.on_sieved else record)
                del written, merged

    def _trace(self, merged: Generator[Rows], shaper: Shaper) -> Generator[Regions]:
        """Trace rows, and give the regions that are closed."""
        freed = 0
        with closing(merged):
            for rows in merged:
                yield from self.clock.timed("trace", shaper.trace(*rows))
                freed += rows[0].size
                del rows
                if freed >= _FREED:
                    give_back_memory()
                    freed = 0

    def _finish(
        self, work: Work, rasters: Sequence[Parts], shaper: Shaper, tally: Tally, computed: int
    ) -> Mapped:
        """Finish the vector files, and make the final rasters beside them."""
        pixels = self.plan.geobox.width * self.plan.geobox.height
        if pixels >= _LARGE:
            give_back_memory()
        with ThreadPoolExecutor(1, "pfmap-assemble") as beside:
            assembling = beside.submit(self._assemble, work, rasters) if pixels > SMALL else None
            with self.clock.stage("write objects"):
                vectors = shaper.writer.finish()
        files = {**(assembling.result() if assembling else self._assemble(work, rasters)), **vectors}
        swaths = len(rasters[-1])
        return Mapped(files, tally, shaper.writer.counts, shaper.merged, swaths, swaths - computed)

    def _assemble(self, work: Work, rasters: Sequence[Parts]) -> dict[str, Sequence[Path]]:
        """Make the final rasters, by kind, of what is on disk of each."""
        plan = self.plan
        kinds = rasters_of(plan.options, plan.chosen)
        with self.clock.stage("assemble COG"):
            made = zip(raster_targets(plan, self.stem), rasters, strict=True)
            wanted = [one for kind, one in zip(plan.layers, made, strict=True) if kind in kinds]
            paths = finish(wanted, work.finals)
        return {kind: [path] for kind, path in zip(kinds, paths, strict=True)}

    def _shaper(self, folder: Path) -> Shaper:
        plan = self.plan
        return Shaper(
            folder,
            f"{self.stem}_objects",
            plan.geobox,
            plan.card.by_index,
            plan.chosen,
            nodata=NODATA,
            options=plan.options.shapes,
            scene=self.stem,
            metadata=plan.tags(),
            moment=moment_of(plan.scene.files),
        )


def view_of(source: Source, plan: Plan) -> View:
    """Read a scene as a plan wants it: its frame, and nothing outside its area of interest."""
    area = plan.area
    inside: Inside | None = None
    if area is not None and not area.rectangle:

        def inside(rows: Span, cols: Span) -> Bools:
            return burn(area.pieces(rows, cols), rows, cols)

    overview = source.overview(plan.overview) if plan.overview else None
    return View(source, plan.frame, inside, plan.native, overview)


def raster_targets(plan: Plan, stem: str) -> list[RasterTarget]:
    """Set up the rasters of the plan's layers, of which some may be there for the polygons alone."""
    box, tags, classes = plan.geobox, plan.tags(), plan.card.classes
    names = [f"{stem}_{kind}.tif" for kind in plan.layers]
    shades = qml(percent_style())
    percent = [RasterTarget(box, name, "average", tags, shades, 1) for name in names[1:]]
    if plan.options.probabilities:
        percent[-1] = replace(percent[-1], bands=[spec.name for spec in classes])
    return [class_target(box, names[0], tags, classes), *percent]


def class_target(
    box: GeoBox, name: str, tags: Mapping[str, str], classes: tuple[ClassSpec, ...]
) -> RasterTarget:
    """Set up a class raster."""
    return RasterTarget(box, name, "mode", tags, qml(class_raster_style(classes)), 6, classes)


def rasters_of(options: PredictOptions, chosen: Chosen) -> list[str]:
    """Say which of the layers become rasters of the whole scene."""
    return [kind for kind in layers_of(options, chosen) if kind != "confidence" or options.confidence]
