"""One scene from opened raster to finished files.

open -> windows -> read ahead -> network -> blend -> class and confidence -> swath files -> COG, and
polygons across the swaths' seams. Nothing here grows with the scene's height but what is on disk and the
regions that are still open.
"""

import copy
import json
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pfmap.card import Card
from pfmap.classes import index_of
from pfmap.engine.device import choose_device, choose_precision, default_batch_size, describe
from pfmap.engine.options import SWATH_PIXELS, PredictOptions
from pfmap.engine.predictor import Predictor
from pfmap.engine.report import Run, Tally, build_report, model_hash
from pfmap.engine.store import DEFAULT_MODEL, Model, load_model
from pfmap.engine.swaths import Clock, Progress, SwathMapper
from pfmap.errors import SourceError, TargetError
from pfmap.files import publish, staging
from pfmap.grid import Grid, Span
from pfmap.net.pfnet import PFNet
from pfmap.raster.source import SceneInfo, Source, gdal_settings
from pfmap.raster.target import RasterTarget
from pfmap.raster.tracing import trace
from pfmap.style import class_raster_qml, confidence_raster_qml
from pfmap.vector.measure import Measurer
from pfmap.vector.stitch import Stitcher
from pfmap.vector.write import ObjectWriter

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Result:
    """What mapping a scene gave.

    Attributes:
        scene: the scene's path.
        outputs: files by kind: classes, confidence, gpkg, shp, geojson, report.
        report: the content of the report file.
    """

    scene: Path
    outputs: dict[str, Path]
    report: dict[str, Any]


def predict(
    scene: str | Path,
    output_dir: str | Path | None = None,
    *,
    model: str | Path | Model = DEFAULT_MODEL,
    device: str = "auto",
    precision: str = "auto",
    overlap: int | None = None,
    batch_size: int | None = None,
    bands: Sequence[int] | None = None,
    formats: Sequence[str] = ("gpkg",),
    classes: Sequence[str] | None = None,
    min_area: float = 0.0,
    confidence: bool = True,
    overwrite: bool = False,
    swath_pixels: int = SWATH_PIXELS,
    on_progress: Progress = lambda _done, _total: None,
    on_message: Callable[[str], None] = log.info,
) -> Result:
    """Map a scene: a class raster, its confidence, object polygons and a report.

    Args:
        scene: any raster that GDAL opens, with the bands the model needs.
        output_dir: where the files go; by default the scene's folder.
        model: a model's name, folder, or a loaded `Model`.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, float32, bfloat16 or float16.
        overlap: pixels that windows share; None for an eighth of the window.
        batch_size: windows per pass; None for what suits the device.
        bands: 1-based band numbers in the model's order; None to choose by colour interpretation.
        formats: vector files to write: gpkg, shp, geojson.
        classes: names of the classes that become polygons; None for all but the background.
        min_area: smaller objects are left out, square metres (pixels where the scene has no CRS).
        confidence: whether to write the confidence raster.
        overwrite: whether existing outputs may be replaced.
        swath_pixels: pixels of the scene that are in work at a time; the result does not depend on it.
        on_progress: called with (pixels done, pixels in all).
        on_message: called with lines for people: device in use, warnings.

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
        formats=tuple(dict.fromkeys(formats)),
        classes=None if classes is None else tuple(classes),
        min_area=min_area,
        confidence=confidence,
        overwrite=overwrite,
        swath_pixels=swath_pixels,
    )
    path = Path(scene)
    chosen = choose_device(device)
    job = _Job(
        path=path,
        model=model if isinstance(model, Model) else load_model(model),
        options=options,
        device=chosen,
        precision=choose_precision(precision, chosen),
        on_progress=on_progress,
        on_message=on_message,
    )
    return job.run(Path(output_dir) if output_dir is not None else path.parent)


@dataclass(slots=True)
class _Job:
    """One scene on its way through the pipeline."""

    path: Path
    model: Model
    options: PredictOptions
    device: torch.device
    precision: torch.dtype
    on_progress: Progress
    on_message: Callable[[str], None]
    clock: Clock = field(default_factory=Clock)
    warnings: list[str] = field(default_factory=list)

    @property
    def card(self) -> Card:
        return self.model.card

    def run(self, output_dir: Path) -> Result:
        """Map the scene into a staging folder, then give the files their names."""
        finals = self._finals(output_dir)
        self._refuse_existing(finals)
        begun = time.perf_counter()
        with (
            Source(self.path, self.card.input.bands, self.options.bands, self.card.name) as source,
            gdal_settings(source.info.width),
        ):
            run = self._plan(source.info)
            measurer = Measurer(
                source.info.crs_wkt, source.info.place(source.info.width / 2, source.info.height / 2)
            )
            tally = Tally(source.info, measurer)
            self._announce(source.info, tally)
            with staging(output_dir, self.path.stem) as folder:
                files, objects = self._map(source, run, tally, folder)
                seconds = {"total": time.perf_counter() - begun, **self.clock.seconds}
                report = build_report(run, tally, objects, seconds, finals, self.warnings)
                _publish(folder, files, finals["report"], report)
        return Result(self.path, finals, report)

    def _finals(self, output_dir: Path) -> dict[str, Path]:
        stem = self.path.stem
        names = {"classes": f"{stem}_classes.tif"}
        if self.options.confidence:
            names["confidence"] = f"{stem}_confidence.tif"
        names |= {form: f"{stem}_objects.{form}" for form in self.options.formats}
        names["report"] = f"{stem}_report.json"
        return {kind: output_dir / name for kind, name in names.items()}

    def _refuse_existing(self, finals: dict[str, Path]) -> None:
        there = [str(path) for path in finals.values() if path.exists()]
        if there and not self.options.overwrite:
            raise TargetError(
                f"{', '.join(there)} exist{'s' * (len(there) == 1)} already: replace with --overwrite, or "
                "choose another folder with --output-dir"
            )

    def _plan(self, scene: SceneInfo) -> Run:
        window = self.card.input.window
        overlap = self.options.overlap if self.options.overlap is not None else window // 8
        if self.options.classes is None:
            wanted = [i for i, spec in enumerate(self.card.classes) if not spec.background]
        else:
            wanted = [index_of(self.card.classes, name) for name in self.options.classes]
        return Run(
            scene=scene,
            grid=Grid.of(scene.height, scene.width, window, overlap),
            model=self.model,
            model_hash=model_hash(self.model),
            options=self.options,
            device=self.device,
            precision=self.precision,
            batch_size=self.options.batch_size or default_batch_size(self.device),
            wanted=wanted,
        )

    def _announce(self, scene: SceneInfo, tally: Tally) -> None:
        """Say what is used, and what looks wrong."""
        name = self.path.name
        self.on_message(f"{name}: {scene.width} x {scene.height} pixels, model {self.card.name}")
        self.on_message(f"computing on {describe(self.device, self.precision)}")
        if not scene.georeferenced:
            self._warn(f"{name} has no georeferencing: mapped in pixels, without a CRS")
        elif scene.crs_wkt is None:
            self._warn(f"{name} has no CRS: areas and lengths are in pixels")
        gsd, (low, high) = tally.gsd, self.card.input.gsd
        if gsd is not None and not low <= gsd <= high:
            self._warn(
                f"{name} has {gsd:.3g} m per pixel, model {self.card.name!r} knows {low:g} to {high:g} m: "
                "expect poor results, or resample the scene with gdalwarp -tr first"
            )

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        self.on_message(f"warning: {text}")

    def _map(
        self, source: Source, run: Run, tally: Tally, folder: Path
    ) -> tuple[list[Path], npt.NDArray[np.int64]]:
        """Compute everything into the staging folder; return the files and the objects per class."""
        scene = source.info
        rasters = self._rasters(run, folder)
        writer = ObjectWriter(
            folder=folder,
            stem=f"{self.path.stem}_objects",
            formats=self.options.formats,
            classes=self.card.classes,
            crs_wkt=scene.crs_wkt,
            transform=scene.transform,
            measurer=tally.measurer,
            min_area=self.options.min_area,
            metadata=run.tags(),
        )
        stitcher = Stitcher(scene.height, scene.width)
        done: list[Span] = []
        mapper = SwathMapper(
            source, run.grid, self._predictor(run), len(self.card.classes),
            self.options.swath_pixels, self.clock, self.on_progress,
        )  # fmt: skip
        with closing(mapper.swaths()) as swaths:
            for swath in swaths:
                tally.add(swath)
                with self.clock.stage("write rasters"):
                    for target, values in zip(rasters, (swath.classes, swath.confidence), strict=False):
                        target.write_swath(swath.rows, values)
                with self.clock.stage("trace"):
                    regions = trace(swath.classes, swath.confidence, run.wanted, swath.rows.start)
                with self.clock.stage("stitch"):
                    objects = stitcher.add(regions, swath.rows)
                with self.clock.stage("write objects"):
                    writer.add(objects)
                done.append(swath.rows)
        if not tally.valid:
            raise SourceError(
                f"{self.path} has no valid pixel: everything is nodata or masked; check its alpha band, "
                "mask and nodata value with gdalinfo"
            )
        with self.clock.stage("write objects"):
            files = writer.finish()
        with self.clock.stage("assemble COG"):
            files += [target.finish(done) for target in rasters]
        return files, writer.counts

    def _rasters(self, run: Run, folder: Path) -> list[RasterTarget]:
        """Set up the output rasters: classes first, then confidence if wanted."""
        scene, stem, tags = run.scene, self.path.stem, run.tags()
        classes = self.card.classes
        rasters = [
            RasterTarget(
                scene, folder, f"{stem}_classes.tif", "mode", tags, class_raster_qml(classes), classes
            )
        ]
        if self.options.confidence:
            name = f"{stem}_confidence.tif"
            rasters.append(RasterTarget(scene, folder, name, "average", tags, confidence_raster_qml()))
        return rasters

    def _predictor(self, run: Run) -> Predictor:
        network = self.model.network
        if isinstance(network, PFNet):
            network = copy.copy(network)  # the same weights; the model's own network stays as it is
            network.factored = True
        return Predictor(network, self.card.input, run.device, run.precision, run.batch_size)


def _publish(folder: Path, files: Sequence[Path], report_final: Path, report: dict[str, Any]) -> None:
    """Give everything its final name: sidecars first, then the files, the report last."""
    report_staged = folder / report_final.name
    report_staged.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    mains = [*files, report_staged]
    sidecars = [path for path in sorted(folder.iterdir()) if path not in mains]
    for path in [*sidecars, *mains]:
        publish(path, report_final.parent / path.name)
