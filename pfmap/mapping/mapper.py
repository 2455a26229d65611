"""Carry out a plan: swaths onto disk, then rasters and polygons from them."""

from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pfmap.core.classes import NODATA, class_raster_style, confidence_raster_style, qml
from pfmap.core.errors import EmptyError
from pfmap.core.grid import Span
from pfmap.core.regions import Regions
from pfmap.core.resources import give_back_memory
from pfmap.core.stages import Clock, read_ahead
from pfmap.mapping.blend import Chooser
from pfmap.mapping.objects import ClassTable, Shaper
from pfmap.mapping.plan import Plan, pixel_size
from pfmap.mapping.record import Record, Tally, read_record, write_record
from pfmap.mapping.swaths import Swath, SwathMapper
from pfmap.mapping.work import Work
from pfmap.model.predictor import Predictor
from pfmap.raster.align import burn
from pfmap.raster.bands import no_valid_pixel
from pfmap.raster.gdal import gdal_settings
from pfmap.raster.source import Source
from pfmap.raster.target import RasterTarget, finish
from pfmap.raster.view import Inside, View
from pfmap.vector.geodesy import Measurer

_FREED = 64 << 20
"""Pixels after which freed memory goes back: what tracing frees lies between what others hold."""

_LARGE = 16 << 20
"""Pixels of a scene that gives it back at its end; of a smaller one the next makes use, and getting it anew
from the system, page by page, takes longer than all else that is done for such a scene."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """What carrying out a plan gave.

    Attributes:
        files: finished files in the work folder by kind: classes, confidence, and the vector formats.
        tally: pixels and areas per class.
        objects: objects written per class that becomes polygons.
        unreadable: (column, row, width, height) of the scene's blocks that count as nodata.
        swaths: how many swaths there are.
        resumed: how many of them were on disk already.
    """

    files: Mapping[str, Sequence[Path]]
    tally: Tally
    objects: Mapping[int, int]
    unreadable: frozenset[tuple[int, int, int, int]]
    swaths: int
    resumed: int


@dataclass(slots=True)
class _Sums:
    """What is added up over the swaths."""

    tally: Tally
    unreadable: set[tuple[int, int, int, int]] = field(default_factory=set)


class Elsewhere(Protocol):
    """Has swaths computed by other processes, which write them into the work folder themselves."""

    def compute(
        self,
        work: Work,
        plan: Plan,
        stem: str,
        swaths: Mapping[Span, Span],
        clock: Clock,
        on_pixels: Callable[[int], None],
    ) -> Generator[Span, None, None]:
        """Give the output rows of each swath, top to bottom, as soon as it is on disk.

        Args:
            work: the opened work folder.
            plan: what is being done.
            stem: what the outputs' names begin with.
            swaths: output rows by window rows of those that are not on disk yet.
            clock: where the stages' times go.
            on_pixels: called often, with the pixels of the outputs that are done; it may raise to stop.
        """
        ...


class Mapper:
    """Maps an opened scene as planned.

    Args:
        source: the opened scene.
        plan: what to do.
        stem: what the outputs' names begin with.
        predictor: the network; None where `elsewhere` computes.
        clock: where the stages' times go.
        on_pixels: called with the pixels of the outputs that are done.
        elsewhere: what computes the swaths instead of this process, such as a cluster.
    """

    def __init__(
        self,
        source: Source,
        plan: Plan,
        stem: str,
        predictor: Predictor | None,
        clock: Clock,
        on_pixels: Callable[[int], None],
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self._source, self._plan, self._stem = source, plan, stem
        self._predictor, self._clock, self._on_pixels = predictor, clock, on_pixels
        self._elsewhere = elsewhere
        self._rasters = raster_targets(plan, stem)

    def run(self, work: Work) -> Mapped:
        """Map all swaths that are not on disk yet, and make the final files.

        Reading, network, writing and tracing each have a thread; objects are written in this one.

        Raises:
            SourceError: the scene cannot be read.
            EmptyError: it has no valid pixel.
            TargetError: the work folder cannot be written.
        """
        plan, clock = self._plan, self._clock
        measurer = Measurer(plan.geobox.crs_wkt, plan.geobox.center)
        rows_of = self._output_rows()
        todo = [span for span, rows in rows_of.items() if not work.swath(rows).is_dir()]
        sums = _Sums(Tally(plan.geobox, measurer))
        with self._shaper(work.finals, measurer) as shaper:
            finished = self._finished(work, rows_of, todo)
            with closing(read_ahead(self._regions(finished, shaper, sums), depth=1, name="trace")) as traced:
                for regions in traced:
                    with clock.stage("write objects"):
                        shaper.writer.add(regions)
            if not sums.tally.valid:
                work.useless = True
                raise EmptyError(no_valid_pixel(plan.scene))
            if plan.geobox.width * plan.geobox.height >= _LARGE:
                give_back_memory()
            with ThreadPoolExecutor(1) as beside:
                assembling = beside.submit(self._assemble, work, list(rows_of.values()))
                with clock.stage("write objects"):
                    files = dict(shaper.writer.finish())
            rasters = assembling.result()
        counts = shaper.writer.counts
        done = len(rows_of) - len(todo)
        return Mapped(rasters | files, sums.tally, counts, frozenset(sums.unreadable), len(rows_of), done)

    def _finished(
        self, work: Work, rows_of: Mapping[Span, Span], todo: Sequence[Span]
    ) -> Generator[tuple[Record, Swath], None, None]:
        """Have swaths computed and written into the work folder; read those that are there already."""
        missing = frozenset(todo)
        compute = self._computed_elsewhere if self._elsewhere is not None else self._computed_here
        with closing(compute(work, rows_of, todo)) as computed, gdal_settings():
            for span, rows in rows_of.items():
                if span in missing:
                    record, swath = next(computed)
                else:
                    record, swath = read_record(work.swath(rows), self._rasters)
                    if self._elsewhere is None:  # which counts in another order
                        self._on_pixels(rows.stop * self._plan.geobox.width)
                yield record, swath
                del record, swath

    def _computed_here(
        self, work: Work, _rows_of: Mapping[Span, Span], todo: Sequence[Span]
    ) -> Generator[tuple[Record, Swath], None, None]:
        """Compute swaths in this process, and write them."""
        assert self._predictor is not None
        view = view_of(self._source, self._plan)
        mapper = SwathMapper(view, self._plan, self._predictor, self._clock, self._on_pixels)
        with closing(read_ahead(mapper.swaths(todo), depth=1, name="blend")) as computed:
            for swath in computed:
                with self._clock.stage("write rasters"), work.writing(swath.rows) as folder:
                    blocks = frozenset(self._source.unreadable)
                    record = write_record(folder, swath, self._rasters, blocks)
                yield record, swath
                del record, swath

    def _computed_elsewhere(
        self, work: Work, rows_of: Mapping[Span, Span], todo: Sequence[Span]
    ) -> Generator[tuple[Record, Swath], None, None]:
        """Have other processes compute and write swaths, and read them."""
        assert self._elsewhere is not None
        wanted = {span: rows_of[span] for span in todo}
        written = self._elsewhere.compute(work, self._plan, self._stem, wanted, self._clock, self._on_pixels)
        with closing(written):
            for rows in written:
                yield read_record(work.swath(rows), self._rasters)

    def _regions(
        self, finished: Generator[tuple[Record, Swath], None, None], shaper: Shaper, sums: _Sums
    ) -> Generator[Regions, None, None]:
        """Trace swaths, and give the regions that are closed."""
        freed = 0
        with closing(read_ahead(finished, depth=1, name="write")) as swaths:
            for record, swath in swaths:
                sums.tally.add(record)
                sums.unreadable |= record.unreadable
                traced = shaper.trace(swath.classes, swath.confidence)
                while True:
                    with self._clock.stage("trace"):
                        regions = next(traced, None)
                    if regions is None:
                        break
                    yield regions
                freed += swath.classes.size
                del record, swath, traced
                if freed >= _FREED:
                    give_back_memory()
                    freed = 0

    def _assemble(self, work: Work, swaths: Sequence[Span]) -> dict[str, Sequence[Path]]:
        """Make the final rasters, by kind, of swaths on disk."""
        kinds = ("classes", "confidence") if self._plan.options.confidence else ("classes",)
        with self._clock.stage("assemble COG"):
            targets = self._rasters[: len(kinds)]
            paths = finish(targets, work.finals, [(rows, work.swath(rows)) for rows in swaths])
        return {kind: [path] for kind, path in zip(kinds, paths, strict=True)}

    def _output_rows(self) -> dict[Span, Span]:
        """Return the output rows of each swath of window rows; one that finishes none is left out."""
        plan = self._plan
        chooser = Chooser(plan.frame, 1, native=plan.native)
        rows_of = {span: chooser.rows(plan.grid.swath_rows(span)) for span in plan.swaths()}
        return {span: rows for span, rows in rows_of.items() if rows.size}

    def _shaper(self, folder: Path, measurer: Measurer) -> Shaper:
        plan = self._plan
        return Shaper(
            folder,
            f"{self._stem}_objects",
            plan.geobox,
            ClassTable(dict(enumerate(plan.card.classes)), lambda _value: ""),
            frozenset(plan.wanted),
            nodata=NODATA,
            measurer=measurer,
            pixel=pixel_size(plan.geobox),
            regularized=frozenset(plan.regularized),
            options=plan.options.shapes,
            scene=self._stem,
            metadata=plan.tags(),
        )


def view_of(source: Source, plan: Plan) -> View:
    """Read a scene as a plan wants it: its frame, and nothing outside its area of interest."""
    area = plan.area
    inside: Inside | None = None
    if area is not None and not area.rectangle:

        def inside(rows: Span, cols: Span) -> npt.NDArray[np.bool_]:
            return burn(area.pieces(rows, cols), rows, cols)

    return View(source, plan.frame, inside, native=plan.native)


def raster_targets(plan: Plan, stem: str) -> list[RasterTarget]:
    """Set up the rasters: classes, then confidence, which the polygons need in any case."""
    tags, classes = plan.tags(), plan.card.classes
    colors, shades = qml(class_raster_style(classes)), qml(confidence_raster_style())
    return [
        RasterTarget(plan.geobox, f"{stem}_classes.tif", "mode", tags, colors, 6, classes),
        RasterTarget(plan.geobox, f"{stem}_confidence.tif", "average", tags, shades, 1),
    ]
