"""One scene from opened raster to finished files.

open -> plan -> windows -> read ahead -> network -> blend -> class and confidence -> swaths on disk -> COG,
and polygons across the swaths' seams. Nothing here grows with the scene's height but what is on disk and the
regions that are still open. Every swath that is on disk stays there when a run breaks off, and the next run
goes on from it.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pfmap.core.card import Card
from pfmap.core.classes import scene_style
from pfmap.core.errors import SourceError, TargetError, json_text
from pfmap.core.files import scratch, write_bytes, write_text
from pfmap.core.resources import folder_size, refuse_foreign, times_of
from pfmap.core.stages import Clock, Message, stage
from pfmap.core.tables import read_json, table_of
from pfmap.mapping.estimate import estimate, probe, refuse_without_disk, refuse_without_memory
from pfmap.mapping.mapper import Mapped, Mapper, rasters_of
from pfmap.mapping.objects import numbered, refuse_odd_names, refuse_to_replace, vector_names
from pfmap.mapping.options import SHARED_SWATH_PIXELS, PredictOptions
from pfmap.mapping.plan import Plan, chosen_classes, make_plan, wanted_classes
from pfmap.mapping.run_report import Preflight, build_report, difference, earlier_report, is_done
from pfmap.mapping.runtime import Probe, Runtime
from pfmap.mapping.services import cut_out
from pfmap.mapping.work import Work, opened, work_path
from pfmap.model.lanes import VIEWS
from pfmap.model.predictor import Predictor
from pfmap.raster.extra import open_bands
from pfmap.raster.gdal import gdal_settings
from pfmap.raster.location import Location
from pfmap.raster.parts import find_parts
from pfmap.raster.source import Source
from pfmap.report.project import Layer, Map, map_project, place_beside
from pfmap.report.scene_report import SceneReport

_LONG = 200  # views of windows: a run of more is worth a probe of a few seconds

Progress = Callable[[int, int], None]
"""Called with the pixels done and the pixels in all."""


@dataclass(frozen=True, slots=True)
class Result:
    """What mapping a scene gave."""

    scene: str
    """As it was named."""
    outputs: dict[str, Path]
    """Files by kind: classes, confidence, contact, probabilities, project (of QGIS), report, and each vector
    format; parts of a shapefile as shp_2 and so on, files of one class as gpkg.building and so on."""
    facts: SceneReport
    """What the report file says."""
    skipped: bool = False
    """Whether an earlier run had made all of it already."""

    @property
    def report(self) -> dict[str, Any]:
        """The content of the report file, as `json` reads it."""
        return table_of(self.facts)

    @classmethod
    def of(cls, scene: str, report: SceneReport, output_dir: Path, *, skipped: bool = False) -> "Result":
        """Return what the report beside a scene's outputs says there is."""
        outputs = {kind: output_dir / name for kind, name in report.outputs.items()}
        return cls(scene, outputs, report, skipped)


@dataclass(slots=True)
class Job:
    """One scene from opened raster to files under their final names."""

    location: Location
    runtime: Runtime
    options: PredictOptions
    on_message: Callable[[str], None]

    def __post_init__(self) -> None:
        if self.runtime.workers is not None:
            pixels = min(self.options.swath_pixels, SHARED_SWATH_PIXELS)
            self.options = replace(self.options, swath_pixels=pixels)

    @contextmanager
    def planned(self) -> Iterator[tuple[Source, Plan]]:
        """Open the scene and decide how to map it."""
        runtime, about = self.runtime, list[str]()
        if self.location.service:
            self.location, self.options, about = cut_out(self.location, self.options)
        with open_scene(self.location, runtime.model.card, self.options) as source:
            said, info = look_behind(source), source.info
            if not (said or info.validity.decides) and len(source.empty):
                said.append(
                    f"{info.name} has places where nothing was written, or no file is shown: they count as "
                    "nodata"
                )
            means = runtime.device, runtime.precision, runtime.batch_size
            plan = make_plan(source, runtime.model, runtime.model_hash, self.options, *means)
            plan = replace(plan, warnings=[*about, *plan.warnings, *said])
            with gdal_settings(cache=plan.cache_bytes, remote=self.location.remote):
                yield source, plan

    def foresee(
        self,
        source: Source,
        plan: Plan,
        output_dir: Path,
        on_step: Callable[[], None],
        *,
        always: bool = False,
    ) -> Preflight:
        """Estimate the run, and refuse it if it cannot end well; the first long one is probed for it."""
        held = folder_size(work_path(output_dir, self.location.stem))
        disk = scratch(output_dir)
        rough = estimate(plan, disk, held, None)
        refuse_without_memory(plan, rough)
        if always or rough.compute * len(VIEWS[self.options.tta]) >= _LONG:
            piece = self.runtime.probed(lambda: self._probe(source, plan, on_step))
            rough = estimate(plan, disk, held, piece)
            refuse_without_memory(plan, rough)
        refuse_without_disk(plan, rough, disk)
        return Preflight(plan, rough, disk)

    def _probe(self, source: Source, plan: Plan, on_step: Callable[[], None]) -> Probe:
        """Map a piece of the scene, and measure."""
        if self.runtime.workers is not None:
            return self.runtime.workers.probe(plan, self.location.stem, on_step)
        return probe(source, plan, self.runtime.predictor(plan), on_step)

    def run(self, output_dir: Path, on_progress: Progress) -> Result:
        """Map the scene into a work folder, then give the files their names; leave alone what is done."""
        begun = time.perf_counter()
        self.on_message(stage("plan", "planning"))
        names = self._finals()
        report = output_dir / names[-1]
        folder = work_path(output_dir, self.location.stem)
        refuse_odd_names(output_dir, self.location.stem, names)
        refuse_foreign(folder)
        with self.planned() as (source, plan):
            scene = source.fingerprint()
            options = self.options
            wanted = json.dumps([asdict(options.shapes), options.classes, options.sieve, options.confidence])
            identity = plan.identity(scene, wanted)
            before = earlier_report(report)
            fresh = not folder.exists()
            if fresh and self.options.resume and before and is_done(before, identity, output_dir):
                return Result.of(self.location.text, before, output_dir, skipped=True)
            refuse = partial(
                refuse_to_replace,
                output_dir,
                names,
                overwrite=self.options.overwrite,
                note=difference(before, identity),
                sources=[*source.times, *map(Path, filter(None, [self.options.aoi]))],
            )
            if fresh:
                refuse()
            total = plan.geobox.width * plan.geobox.height
            preflight = self.foresee(source, plan, output_dir, lambda: on_progress(0, total))
            first, *more = preflight.lines()
            self.on_message(Message(first, "plan", preflight.table()))
            for line in more:
                self.on_message(line if line.startswith("warning: ") else Message(line, "", {}))
            with opened(
                output_dir,
                self.location.stem,
                plan.fingerprint(scene),
                resume=self.options.resume,
                say=self.on_message,
            ) as work:
                if not work.is_ready(wanted):
                    refuse(overwrite=self.options.overwrite or work.half_named)
                    files = self._map(source, plan, identity, work, begun, output_dir, on_progress)
                    self._refuse_changed(source, scene, work)
                    work.ready(files, wanted)
                work.finish_publishing()
        made = read_json(report, SceneReport)
        if made is None:
            raise TargetError(f"{report} was written, and cannot be read: check the disk, and run again")
        return Result.of(self.location.text, made, output_dir)

    def _refuse_changed(self, source: Source, before: str, work: Work) -> None:
        """Refuse to publish a map of what was another scene for a while."""
        name = self.location.text
        try:
            with open_scene(self.location, self.runtime.model.card, self.options) as now:
                look_behind(now)
                if source.signs and not now.signs:
                    raise SourceError("its server says nothing of it any more")
                work.useless = now.times != source.times or now.fingerprint() != before
        except SourceError as error:
            raise SourceError(
                f"{name} went away while it was mapped, so that it may have changed ({error}): bring it "
                "back, and the same command goes on"
            ) from error
        if work.useless:
            raise SourceError(
                f"{name} changed while it was mapped: its map would show some of before and some of after; "
                "map it once nobody writes it any more"
            )

    def _map(
        self,
        source: Source,
        plan: Plan,
        identity: Mapping[str, str],
        work: Work,
        begun: float,
        output_dir: Path,
        on_progress: Progress,
    ) -> list[str]:
        """Map the scene; return the finished files in the order in which they are to get their names."""
        total = plan.geobox.width * plan.geobox.height
        clock = Clock()
        network = self.runtime.workers or self.runtime.predictor(plan)
        if work.finished_swaths:
            self.on_message(f"going on after {work.finished_swaths} finished swaths of an earlier run")
        stem = self.location.stem
        self.on_message(stage("map", "mapping"))

        def on_pixels(done: int) -> None:
            on_progress(done, total)
            if done == total:
                self.on_message(stage("finish", "finishing"))

        mapped = Mapper(source, plan, stem, network, clock, on_pixels).run(work)
        warnings = list(plan.warnings)
        if count := len(mapped.tally.unreadable):
            warnings.append(
                f"{count} block{'s' * (count != 1)} of {self.location.text} could not be read and count as "
                "nodata: they are listed in the report"
            )
            self.on_message(f"warning: {warnings[-1]}")
        project = work.finals / f"{self.location.stem}.qgz"
        write_bytes(project, _project(plan, mapped, output_dir))
        report = work.finals / f"{self.location.stem}_report.json"
        files = numbered({**mapped.files, "project": [project], "report": [report]})
        outputs = {kind: path.name for kind, path in files.items()}
        facts = build_report(
            plan,
            mapped,
            batch_size=network.batch_size if isinstance(network, Predictor) else plan.batch_size,
            seconds={"total": time.perf_counter() - begun, **clock.seconds},
            warnings=warnings,
            outputs=outputs,
            identity=identity,
        )
        write_text(report, json_text(table_of(facts)) + "\n")
        # Sidecars first, then the files, the report last: it says that all is there.
        mains = list(outputs.values())
        sidecars = sorted({path.name for path in work.finals.iterdir()} - set(mains))
        return [*sidecars, *mains]

    def _finals(self) -> list[str]:
        """Return the names of the files that are going to be written, as far as that is known."""
        stem, card = self.location.stem, self.runtime.model.card
        named = [card.classes[index] for index in wanted_classes(card, self.options.classes)]
        kinds = rasters_of(self.options, chosen_classes(card, self.options))
        vectors = vector_names(f"{stem}_objects", self.options.shapes, named).values()
        return [*(f"{stem}_{kind}.tif" for kind in kinds), *vectors, f"{stem}.qgz", f"{stem}_report.json"]


def open_scene(location: Location, card: Card, options: PredictOptions) -> Source:
    """Open a scene as it is mapped by the model of a card."""
    seen, skip, bands = card.input, options.on_read_error == "nodata", options.bands
    if options.extra:
        return open_bands(location, seen, bands, card.name, options.extra, skip_unreadable=skip)
    return Source(location, seen.bands, bands, card.name, scales=seen.scales, skip_unreadable=skip)


def look_behind(source: Source) -> list[str]:
    """Have a virtual raster know the files behind it, and return what the user should know of them.

    A `SourceError` says that some are missing, where what cannot be read is not to count as nodata.
    """
    if source.info.driver != "VRT":
        return []
    source.parts, said = find_parts(source.info, needed=not source.skips)
    source.empty = source.parts.empty
    source.times |= times_of(source.parts.files)
    return said


def _project(plan: Plan, mapped: Mapped, output_dir: Path) -> bytes:
    """Make the QGIS project of the scene and what was made of it, to lie in `output_dir`."""
    scene, scaling, shapes = plan.scene, plan.scaling, plan.options.shapes
    stem, classes = scene.location.stem, plan.card.classes
    # As the network sees it; a palette is QGIS's own matter.
    style = "" if scene.palette else scene_style(scene.bands, scene.validity.alpha, scaling.low, scaling.high)
    below = Layer(stem, place_beside(scene.location, output_dir), style, scene.geobox.crs_wkt)
    made = Map(stem, mapped.files, plan.geobox, classes, plan.wanted, shapes.formats, shapes.split_by_class)
    return map_project(made, [] if scene.location.unfit else [below])
