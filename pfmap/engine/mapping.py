"""Carry out a plan: swaths onto disk, then rasters and polygons from them."""

import copy
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pfmap.engine.choose import Chooser
from pfmap.engine.plan import Plan, no_valid_pixel
from pfmap.engine.predictor import Predictor
from pfmap.engine.record import Record, read_record, write_record
from pfmap.engine.swaths import Clock, SwathMapper
from pfmap.engine.tally import Tally
from pfmap.engine.work import Work
from pfmap.errors import SourceError
from pfmap.grid import Span
from pfmap.net.pfnet import PFNet
from pfmap.raster.burn import burn
from pfmap.raster.source import Source
from pfmap.raster.target import RasterTarget
from pfmap.raster.view import Inside, View
from pfmap.style import class_raster_qml, confidence_raster_qml
from pfmap.vector.measure import Measurer
from pfmap.vector.stitch import Stitcher
from pfmap.vector.write import ObjectWriter


@dataclass(frozen=True, slots=True)
class Mapped:
    """What carrying out a plan gave.

    Attributes:
        files: finished files in the work folder.
        tally: pixels and areas per class.
        objects: ``(classes,)`` objects written per class.
        unreadable: (column, row, width, height) of the scene's blocks that count as nodata.
        swaths: how many swaths there are.
        resumed: how many of them were on disk already.
    """

    files: Sequence[Path]
    tally: Tally
    objects: npt.NDArray[np.int64]
    unreadable: frozenset[tuple[int, int, int, int]]
    swaths: int
    resumed: int


class Mapper:
    """Maps an opened scene as planned.

    Args:
        source: the opened scene.
        plan: what to do.
        stem: what the outputs' names begin with.
        predictor: the network.
        clock: where the stages' times go.
        on_pixels: called with the pixels of the outputs that are done.
    """

    def __init__(
        self,
        source: Source,
        plan: Plan,
        stem: str,
        predictor: Predictor,
        clock: Clock,
        on_pixels: Callable[[int], None],
    ) -> None:
        self._source, self._plan, self._stem = source, plan, stem
        self._predictor, self._clock, self._on_pixels = predictor, clock, on_pixels
        self._rasters = self._raster_targets()

    def run(self, work: Work) -> Mapped:
        """Map all swaths that are not on disk yet, and make the final files.

        Raises:
            SourceError: the scene cannot be read, or has no valid pixel.
            TargetError: the work folder cannot be written.
        """
        plan, clock = self._plan, self._clock
        measurer = Measurer(plan.geobox.crs_wkt, plan.geobox.center)
        tally = Tally(plan.geobox, measurer)
        writer = self._object_writer(work.finals, measurer)
        stitcher = Stitcher(plan.geobox.height, plan.geobox.width)
        rows_of = self._output_rows()
        todo = {span for span, rows in rows_of.items() if not work.swath(rows).is_dir()}
        unreadable: set[tuple[int, int, int, int]] = set()
        mapper = SwathMapper(self._view(), plan, self._predictor, clock, self._on_pixels)
        with closing(mapper.swaths(sorted(todo, key=lambda span: span.start))) as swaths:
            for span, rows in rows_of.items():
                if span in todo:
                    swath = next(swaths)
                    with work.writing(rows) as folder:
                        blocks = frozenset(self._source.unreadable)
                        record = write_record(folder, swath, self._rasters, plan.wanted, blocks, clock)
                    del swath
                else:
                    record = read_record(work.swath(rows))
                    self._on_pixels(rows.stop * plan.geobox.width)
                tally.add(record)
                unreadable |= record.unreadable
                self._collect(record, stitcher, writer)
        if not tally.valid:
            work.useless = True
            raise SourceError(no_valid_pixel(plan.scene))
        with clock.stage("write objects"):
            files = writer.finish()
        parts = [(rows, work.swath(rows)) for rows in rows_of.values()]
        with clock.stage("assemble COG"):
            files += [target.finish(work.finals, parts) for target in self._rasters]
        return Mapped(
            files, tally, writer.counts, frozenset(unreadable), len(rows_of), len(rows_of) - len(todo)
        )

    def _collect(self, record: Record, stitcher: Stitcher, writer: ObjectWriter) -> None:
        """Join a swath's regions to those above it, and write what is finished."""
        for rows, regions in record.strips:
            with self._clock.stage("stitch"):
                objects = stitcher.add(regions, rows)
            with self._clock.stage("write objects"):
                writer.add(objects)

    def _output_rows(self) -> dict[Span, Span]:
        """Return the output rows of each swath of window rows; one that finishes none is left out."""
        plan = self._plan
        chooser = Chooser(plan.frame, 1, native=plan.native)
        rows_of = {span: chooser.rows(plan.grid.swath_rows(span)) for span in plan.swaths()}
        return {span: rows for span, rows in rows_of.items() if rows.size}

    def _view(self) -> View:
        area = self._plan.area
        inside: Inside | None = None
        if area is not None and not area.rectangle:

            def inside(rows: Span, cols: Span) -> npt.NDArray[np.bool_]:
                return burn(area.pieces(rows, cols), rows, cols)

        return View(self._source, self._plan.frame, inside, native=self._plan.native)

    def _raster_targets(self) -> list[RasterTarget]:
        """Set up the output rasters: classes first, then confidence if wanted."""
        plan, stem, tags = self._plan, self._stem, self._plan.tags()
        classes = plan.card.classes
        rasters = [
            RasterTarget(plan.geobox, f"{stem}_classes.tif", "mode", tags, class_raster_qml(classes), classes)
        ]
        if plan.options.confidence:
            name = f"{stem}_confidence.tif"
            rasters.append(RasterTarget(plan.geobox, name, "average", tags, confidence_raster_qml()))
        return rasters

    def _object_writer(self, folder: Path, measurer: Measurer) -> ObjectWriter:
        plan = self._plan
        return ObjectWriter(
            folder=folder,
            stem=f"{self._stem}_objects",
            formats=plan.options.formats,
            classes=plan.card.classes,
            crs_wkt=plan.geobox.crs_wkt,
            transform=plan.geobox.transform,
            measurer=measurer,
            min_area=plan.options.min_area,
            metadata=plan.tags(),
        )


def make_predictor(plan: Plan, on_message: Callable[[str], None]) -> Predictor:
    """Put the plan's model on its device."""
    network = plan.model.network
    if isinstance(network, PFNet):
        network = copy.copy(network)  # the same weights; the model's own network stays as it is
        network.factored = True
    return Predictor(network, plan.card.input, plan.device, plan.precision, plan.batch_size, on_message)
