"""One scene from opened raster to finished files.

open -> plan -> windows -> read ahead -> network -> blend -> class and confidence -> swaths on disk -> COG,
and polygons across the swaths' seams. Nothing here grows with the scene's height but what is on disk and the
regions that are still open. Every swath that is on disk stays there when a run breaks off, and the next run
goes on from it.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pfmap.clock import Clock
from pfmap.engine.cluster import opened_cluster
from pfmap.engine.device import choose_device, choose_precision
from pfmap.engine.estimate import estimate, probe, refuse_without_disk, refuse_without_memory
from pfmap.engine.mapping import Mapped, Mapper, make_predictor
from pfmap.engine.options import SHARED_SWATH_PIXELS, SWATH_PIXELS, OnReadError, OutputGrid, PredictOptions
from pfmap.engine.plan import Plan, make_plan, wanted_classes
from pfmap.engine.predictor import Predictor
from pfmap.engine.preflight import describe_table, preflight_table
from pfmap.engine.qgis import scene_project
from pfmap.engine.report import Outcome, build_report, model_hash
from pfmap.engine.resources import folder_size
from pfmap.engine.shapes import (
    SPLIT_LARGE,
    ShapeOptions,
    clear_parts,
    refuse_odd_names,
    refuse_to_replace,
    vector_names,
)
from pfmap.engine.store import DEFAULT_MODEL, Model, load_model
from pfmap.engine.work import Work, opened, work_path
from pfmap.files import write_bytes, write_text
from pfmap.raster.gdal import gdal_settings
from pfmap.raster.location import Location, locate
from pfmap.raster.source import Source

if TYPE_CHECKING:
    from pfmap.engine.cluster.cluster import Cluster

log = logging.getLogger(__name__)

_LONG = 200  # windows: a run of more is worth a probe of a few seconds

Progress = Callable[[int, int], None]
"""Called with the pixels done and the pixels in all."""


@dataclass(frozen=True, slots=True)
class Result:
    """What mapping a scene gave.

    Attributes:
        scene: the scene as it was named.
        outputs: files by kind: classes, confidence, project (of QGIS), report, and each vector format; parts
            of a shapefile as shp_2 and so on, files of one class as gpkg.building and so on.
        report: the content of the report file.
    """

    scene: str
    outputs: dict[str, Path]
    report: dict[str, Any]


def predict(
    scene: str | os.PathLike[str],
    output_dir: str | os.PathLike[str] | None = None,
    *,
    model: str | Path | Model = DEFAULT_MODEL,
    device: str = "auto",
    precision: str = "auto",
    overlap: int | None = None,
    batch_size: int | None = None,
    bands: Sequence[int] | None = None,
    scale: tuple[float, float] | None = None,
    gsd: float | None = None,
    resample: bool = True,
    grid: OutputGrid = "scene",
    aoi: str | os.PathLike[str] | None = None,
    bbox: tuple[float, float, float, float] | None = None,
    formats: Sequence[str] = ("gpkg",),
    classes: Sequence[str] | None = None,
    simplify: float | None = None,
    regularize: Sequence[str] = (),
    min_area: float = 0.0,
    fill_holes: float = 0.0,
    drop_small: bool = False,
    split_large: int = SPLIT_LARGE,
    split_by_class: bool = False,
    confidence: bool = True,
    on_read_error: OnReadError = "fail",
    overwrite: bool = False,
    resume: bool = True,
    swath_pixels: int = SWATH_PIXELS,
    workers: int | None = None,
    cluster: "str | Cluster | None" = None,
    on_progress: Progress = lambda _done, _total: None,
    on_message: Callable[[str], None] = log.info,
) -> Result:
    """Map a scene: a class raster, its confidence, object polygons, a QGIS project and a report.

    A run that was stopped, even killed, goes on from its last finished swath when it is called again with the
    same scene, model and options.

    Args:
        scene: any raster that GDAL opens, with the bands the model needs: a path, a URL (https, s3, gs), a
            zip archive, or one of GDAL's `/vsi` names.
        output_dir: where the files go; by default the scene's folder.
        model: a model's name, folder, or a loaded `Model`.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, float32, bfloat16 or float16.
        overlap: pixels that windows share; None for an eighth of the window.
        batch_size: windows per pass; None for what suits the device.
        bands: 1-based band numbers in the model's order; None to choose by colour interpretation.
        scale: pixel values that become 0 and 1; None for 0 and 255 of 8-bit scenes, and for others the
            percentiles 2 and 98 of the scene.
        gsd: metres per pixel of the scene; None to take it from the georeferencing.
        resample: whether a scene outside the model's range of resolution is resampled; else it is refused.
        grid: "scene" or "model": on which grid the outputs lie where the scene is resampled.
        aoi: vector file whose polygons are mapped, or ``FILE:layer``; None for all.
        bbox: xmin, ymin, xmax, ymax in the scene's CRS that is mapped; None for all.
        formats: vector files to write: gpkg, shp, fgb, geojson, parquet.
        classes: names of the classes that become polygons; None for all but the background.
        simplify: how far the polygons' outlines may be moved to simplify them, metres (pixels where the scene
            has no CRS); 0 leaves them as the pixels are, None means 1.25 pixels.
        regularize: names of the classes whose objects are squared, such as buildings.
        min_area: smaller regions are merged into the neighbour with the longest border, in the polygons only;
            square metres (pixels where the scene has no CRS).
        fill_holes: smaller holes in the polygons are filled, square metres.
        drop_small: whether regions below `min_area` are left out instead of merged.
        split_large: objects of more vertices are cut along a grid, and share a region_id; 0 never cuts.
        split_by_class: whether each class gets vector files of its own.
        confidence: whether to write the confidence raster.
        on_read_error: "fail", or "nodata" to go on where blocks cannot be read, listed in the report.
        overwrite: whether existing outputs may be replaced.
        resume: whether to go on where an interrupted run stopped.
        swath_pixels: pixels of the outputs that are in work at a time; the result does not depend on it.
        workers: worker processes to start on this machine, one for each GPU or sharing its cores; None
            computes in this process. They import the script that calls: guard the call there by
            ``if __name__ == "__main__":``.
        cluster: address or scheduler file of a Dask cluster whose workers compute; scene, model and outputs
            are on storage that they reach. Or what `pfmap.engine.cluster.opened_cluster` gave, which stays
            open for many scenes.
        on_progress: called with (pixels done, pixels in all); it may raise to stop the run.
        on_message: called with lines for people: the plan, the device in use, warnings.

    Returns:
        The written files and the report.

    Raises:
        PfmapError: bad input, a device that is not there, outputs that exist, a full disk; nothing is left
            under a final name then.
    """
    options = PredictOptions(
        overlap=overlap,
        batch_size=batch_size,
        bands=None if bands is None else tuple(bands),
        scale=scale,
        gsd=gsd,
        resample=resample,
        grid=grid,
        aoi=None if aoi is None else os.fspath(aoi),
        bbox=bbox,
        classes=None if classes is None else tuple(classes),
        shapes=ShapeOptions(
            formats=tuple(dict.fromkeys(formats)),
            simplify=simplify,
            regularize=tuple(regularize),
            min_area=min_area,
            fill_holes=fill_holes,
            drop_small=drop_small,
            split_large=split_large,
            split_by_class=split_by_class,
        ),
        confidence=confidence,
        on_read_error=on_read_error,
        overwrite=overwrite,
        resume=resume,
        swath_pixels=swath_pixels,
    )
    with opened_cluster(cluster, workers, device, on_message) as where:
        job = Job.of(scene, model, options, device, precision, on_message, where)
        return job.run(Path(output_dir) if output_dir is not None else job.location.folder, on_progress)


def inspect(
    scene: str | os.PathLike[str],
    output_dir: str | os.PathLike[str] | None = None,
    *,
    model: str | Path | Model = DEFAULT_MODEL,
    device: str = "auto",
    precision: str = "auto",
    options: PredictOptions | None = None,
) -> dict[str, Any]:
    """Say what mapping a scene would take, after mapping a small piece of it; nothing is kept.

    Args:
        scene: as for `predict`.
        output_dir: where the outputs would go; by default the scene's folder.
        model: a model's name, folder, or a loaded `Model`.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, float32, bfloat16 or float16.
        options: as for `predict`.

    Returns:
        The scene, how it would be mapped, estimates of time, memory and disk, and warnings.

    Raises:
        PfmapError: what would make `predict` fail at once.
    """
    job = Job.of(scene, model, options or PredictOptions(), device, precision, lambda _line: None)
    folder = Path(output_dir) if output_dir is not None else job.location.folder
    with job.planned() as (source, plan):
        return job.foresee(source, plan, folder, lambda: None, always=True)[0]


@dataclass(slots=True)
class Job:
    """One scene on its way through the pipeline."""

    location: Location
    model: Model
    options: PredictOptions
    device: torch.device
    precision: torch.dtype
    on_message: Callable[[str], None]
    cluster: "Cluster | None" = None

    @classmethod
    def of(
        cls,
        scene: str | os.PathLike[str],
        model: str | Path | Model,
        options: PredictOptions,
        device: str,
        precision: str,
        on_message: Callable[[str], None],
        cluster: "Cluster | None" = None,
    ) -> "Job":
        """Find scene, model and device."""
        location = locate(scene)
        if cluster is not None:
            chosen, arithmetic = cluster.settle(device, precision)
            options = replace(options, swath_pixels=min(options.swath_pixels, SHARED_SWATH_PIXELS))
        else:
            chosen = choose_device(device)
            arithmetic = choose_precision(precision, chosen)
        return cls(
            location=location,
            model=model if isinstance(model, Model) else load_model(model),
            options=options,
            device=chosen,
            precision=arithmetic,
            on_message=on_message,
            cluster=cluster,
        )

    @contextmanager
    def planned(self) -> Iterator[tuple[Source, Plan]]:
        """Open the scene and decide how to map it."""
        card, options = self.model.card, self.options
        skip = options.on_read_error == "nodata"
        with Source(
            self.location, card.input.bands, options.bands, card.name, skip_unreadable=skip
        ) as source:
            plan = make_plan(source, self.model, model_hash(self.model), options, self.device, self.precision)
            rows = round(plan.grid.rows.window * max(1.0, plan.frame.rows.factor))
            with gdal_settings(cache=source.info.cache_bytes(rows), remote=self.location.remote):
                yield source, plan

    def foresee(
        self,
        source: Source,
        plan: Plan,
        output_dir: Path,
        on_step: Callable[[], None],
        *,
        always: bool = False,
    ) -> tuple[dict[str, Any], Predictor | None]:
        """Estimate the run, and refuse it if it cannot end well; a long one is probed first."""
        held = folder_size(work_path(output_dir, self.location.stem))
        rough = estimate(plan, output_dir, held, None)
        refuse_without_memory(plan, rough)
        predictor = None if self.cluster else make_predictor(plan, self.on_message)
        if always or rough.compute >= _LONG:
            if predictor is not None:
                piece = probe(source, plan, predictor, on_step)
            else:
                assert self.cluster is not None
                piece = self.cluster.probe(plan, self.location.stem, on_step)
            rough = estimate(plan, output_dir, held, piece)
            refuse_without_memory(plan, rough)
        refuse_without_disk(plan, rough, output_dir)
        return preflight_table(plan, rough, output_dir), predictor

    def run(self, output_dir: Path, on_progress: Progress) -> Result:
        """Map the scene into a work folder, then give the files their names."""
        begun = time.perf_counter()
        finals = self._finals(output_dir)
        folder = work_path(output_dir, self.location.stem)
        refuse_odd_names(output_dir, self.location.stem)
        if not folder.exists():
            refuse_to_replace(finals.values(), overwrite=self.options.overwrite)
        with self.planned() as (source, plan):
            total = plan.geobox.width * plan.geobox.height
            table, predictor = self.foresee(source, plan, output_dir, lambda: on_progress(0, total))
            for line in describe_table(table):
                self.on_message(line)
            with opened(
                folder,
                plan.fingerprint(source.fingerprint()),
                resume=self.options.resume,
                say=self.on_message,
            ) as work:
                wanted = json.dumps(
                    [asdict(self.options.shapes), self.options.classes, self.options.confidence]
                )
                if not work.is_ready(wanted):
                    refuse_to_replace(finals.values(), overwrite=self.options.overwrite)
                    names = self._map(source, plan, predictor, work, begun, output_dir, on_progress)
                    clear_parts(output_dir, f"{self.location.stem}_objects")
                    work.ready(names, wanted)
                work.finish_publishing()
        report = json.loads(finals["report"].read_text(encoding="utf-8"))
        outputs = {kind: output_dir / name for kind, name in report["outputs"].items()}
        return Result(self.location.text, outputs, report)

    def _map(
        self,
        source: Source,
        plan: Plan,
        predictor: Predictor | None,
        work: Work,
        begun: float,
        output_dir: Path,
        on_progress: Progress,
    ) -> list[str]:
        """Map the scene; return the finished files in the order in which they are to get their names."""
        total = plan.geobox.width * plan.geobox.height
        clock = Clock()
        if work.finished_swaths:
            self.on_message(f"going on after {work.finished_swaths} finished swaths of an earlier run")
        mapper = Mapper(
            source,
            plan,
            self.location.stem,
            predictor,
            clock,
            lambda done: on_progress(done, total),
            self.cluster,
        )
        mapped = mapper.run(work)
        warnings = [*plan.warnings, *_about_damage(mapped, self.location.text)]
        for text in warnings[len(plan.warnings) :]:
            self.on_message(f"warning: {text}")
        outcome = Outcome(
            mapped=mapped,
            batch_size=predictor.batch_size if predictor else plan.batch_size,
            seconds={"total": time.perf_counter() - begun, **clock.seconds},
            warnings=warnings,
        )
        project = work.finals / f"{self.location.stem}.qgz"
        write_bytes(project, scene_project(plan, mapped.files, output_dir))
        report = work.finals / f"{self.location.stem}_report.json"
        outputs = {
            kind if number == 1 else f"{kind}_{number}": path.name
            for kind, paths in (*mapped.files.items(), ("project", [project]), ("report", [report]))
            for number, path in enumerate(paths, 1)
        }
        write_text(report, json.dumps(build_report(plan, outcome, outputs), indent=2) + "\n")
        # Sidecars first, then the files, the report last: it says that all is there.
        mains = list(outputs.values())
        sidecars = sorted({path.name for path in work.finals.iterdir()} - set(mains))
        return [*sidecars, *mains]

    def _finals(self, output_dir: Path) -> dict[str, Path]:
        """Return the files that are going to be written, as far as that is known."""
        stem, card = self.location.stem, self.model.card
        names = {"classes": f"{stem}_classes.tif"}
        if self.options.confidence:
            names["confidence"] = f"{stem}_confidence.tif"
        wanted = [card.classes[index] for index in wanted_classes(card, self.options.classes)]
        names |= vector_names(f"{stem}_objects", self.options.shapes, wanted)
        names["project"] = f"{stem}.qgz"
        names["report"] = f"{stem}_report.json"
        return {kind: output_dir / name for kind, name in names.items()}


def _about_damage(mapped: Mapped, scene: str) -> list[str]:
    if not mapped.unreadable:
        return []
    count = len(mapped.unreadable)
    return [
        f"{count} block{'s' * (count != 1)} of {scene} could not be read and count as nodata: they are "
        "listed in the report"
    ]
