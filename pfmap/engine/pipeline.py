"""One scene from opened raster to finished files.

open -> windows -> read ahead -> network -> blend -> class and confidence -> swath files -> COG, and
polygons across the swaths' seams. Nothing here grows with the scene's height but what is on disk and the
regions that are still open.
"""

import json
import logging
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pfmap.card import Card
from pfmap.classes import NODATA, index_of
from pfmap.engine.blend import Blender
from pfmap.engine.device import choose_device, choose_precision, default_batch_size, describe
from pfmap.engine.predictor import Predictor, Window, pad_to
from pfmap.engine.store import DEFAULT_MODEL, WEIGHTS_NAME, Model, load_model
from pfmap.engine.weights import file_hash
from pfmap.errors import DeviceError, SourceError, TargetError, UsageError
from pfmap.files import publish, staging
from pfmap.grid import Grid, Span
from pfmap.net.pfnet import PFNet
from pfmap.raster.ahead import read_ahead
from pfmap.raster.source import SceneInfo, Source, gdal_settings, scene_width
from pfmap.raster.target import RasterTarget
from pfmap.raster.tracing import trace
from pfmap.style import class_raster_qml, confidence_raster_qml
from pfmap.vector.measure import Measurer
from pfmap.vector.stitch import Stitcher
from pfmap.vector.write import FORMATS, ObjectWriter
from pfmap.version import __version__

log = logging.getLogger(__name__)

SWATH_PIXELS = 16 << 20
"""Pixels of the scene per swath: memory for class and confidence is twice this in bytes."""

Progress = Callable[[int, int], None]
"""Called with the pixels done and the pixels in all."""


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """How to map a scene; what the command line offers.

    Attributes:
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
        swath_pixels: pixels of the scene per swath.
    """

    device: str = "auto"
    precision: str = "auto"
    overlap: int | None = None
    batch_size: int | None = None
    bands: tuple[int, ...] | None = None
    formats: tuple[str, ...] = ("gpkg",)
    classes: tuple[str, ...] | None = None
    min_area: float = 0.0
    confidence: bool = True
    overwrite: bool = False
    swath_pixels: int = SWATH_PIXELS

    def __post_init__(self) -> None:
        unknown = [form for form in self.formats if form not in FORMATS]
        if unknown:
            raise UsageError(f"format {unknown[0]!r} is unknown: use {', '.join(FORMATS)}")
        if not self.formats:
            raise UsageError(f"no vector format is named: use one or more of {', '.join(FORMATS)}")
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError(f"batch size {self.batch_size} is not possible: use 1 or more")
        if self.min_area < 0:
            raise UsageError(f"min area {self.min_area} is not possible: use 0 or more")


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
    on_progress: Progress = lambda _done, _total: None,
    on_message: Callable[[str], None] = log.info,
    **options: Any,
) -> Result:
    """Map a scene: a class raster, its confidence, object polygons and a report.

    Args:
        scene: any raster that GDAL opens, with the bands the model needs.
        output_dir: where the files go; by default the scene's folder.
        model: a model's name, folder, or a loaded `Model`.
        on_progress: called with (pixels done, pixels in all).
        on_message: called with lines for people: device in use, warnings.
        **options: the fields of `PredictOptions`, such as ``formats=("shp",)`` or ``device="cuda"``.

    Returns:
        The written files and the report.

    Raises:
        PfmapError: bad input, a device that is not there, outputs that exist, a full disk; nothing is left
            under a final name then.
    """
    settings = PredictOptions(**options)
    source_path = Path(scene)
    device = choose_device(settings.device)
    precision = choose_precision(settings.precision, device)
    loaded = model if isinstance(model, Model) else load_model(model)
    job = _Job(source_path, loaded, settings, device, precision, on_progress, on_message)
    return job.run(Path(output_dir) if output_dir is not None else source_path.parent)


@dataclass(slots=True)
class _Clock:
    """Adds up seconds per stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun


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
    clock: _Clock = field(default_factory=_Clock)
    warnings: list[str] = field(default_factory=list)
    pixels: npt.NDArray[np.int64] = field(init=False)
    areas: npt.NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.pixels = np.zeros(256, dtype=np.int64)
        self.areas = np.zeros(256, dtype=np.float64)

    @property
    def card(self) -> Card:
        return self.model.card

    def run(self, output_dir: Path) -> Result:
        finals = self._finals(output_dir)
        self._refuse_existing(finals)
        begun = time.perf_counter()
        with (
            gdal_settings(scene_width(self.path)),
            Source(self.path, self.card.input.bands, self.options.bands, self.card.name) as source,
        ):
            scene = source.info
            window = self.card.input.window
            overlap = self.options.overlap if self.options.overlap is not None else window // 8
            grid = Grid.of(scene.height, scene.width, window, overlap)
            measurer = Measurer(scene.crs_wkt, _at(scene, scene.width / 2, scene.height / 2))
            self._look_at(scene, measurer)
            with staging(output_dir, self.path.stem) as folder:
                files, objects = self._map(source, grid, measurer, folder)
                report = self._report(scene, grid, measurer, objects, begun, finals)
                with self.clock.stage("publish"):
                    self._publish(folder, files, finals, report)
        return Result(self.path, finals, report)

    def _finals(self, output_dir: Path) -> dict[str, Path]:
        stem = self.path.stem
        names = {"classes": f"{stem}_classes.tif"}
        if self.options.confidence:
            names["confidence"] = f"{stem}_confidence.tif"
        names |= {form: f"{stem}_objects.{form}" for form in dict.fromkeys(self.options.formats)}
        names["report"] = f"{stem}_report.json"
        return {kind: output_dir / name for kind, name in names.items()}

    def _refuse_existing(self, finals: dict[str, Path]) -> None:
        there = [str(path) for path in finals.values() if path.exists()]
        if there and not self.options.overwrite:
            raise TargetError(
                f"{', '.join(there)} exist{'s' * (len(there) == 1)} already: replace with --overwrite, or "
                "choose another folder with --output-dir"
            )
        if any(path.resolve() == self.path.resolve() for path in finals.values()):
            raise TargetError(f"{self.path} would be replaced by its own map: choose another --output-dir")

    def _look_at(self, scene: SceneInfo, measurer: Measurer) -> None:
        """Say what is used, and what looks wrong."""
        self.on_message(f"{self.path.name}: {scene.width} x {scene.height} pixels, model {self.card.name}")
        self.on_message(f"computing on {describe(self.device, self.precision)}")
        if not scene.georeferenced:
            self._warn(f"{self.path.name} has no georeferencing: mapped in pixels, without a CRS")
        elif scene.crs_wkt is None:
            self._warn(f"{self.path.name} has no CRS: areas and lengths are in pixels")
        gsd = np.sqrt(_pixel_area(scene, measurer, scene.height / 2))
        low, high = self.card.input.gsd
        if measurer.units == "m" and not low <= gsd <= high:
            self._warn(
                f"{self.path.name} has {gsd:.3g} m per pixel, model {self.card.name!r} knows {low:g} to "
                f"{high:g} m: expect poor results, or resample the scene with gdalwarp -tr first"
            )

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        self.on_message(f"warning: {text}")

    def _map(
        self, source: Source, grid: Grid, measurer: Measurer, folder: Path
    ) -> tuple[list[Path], npt.NDArray[np.int64]]:
        """Compute everything into the staging folder; return the files and the objects per class."""
        scene, stem = source.info, self.path.stem
        tags = self._tags(grid)
        rasters = [RasterTarget(scene, folder, f"{stem}_classes.tif", "mode", tags, self.card.classes)]
        if self.options.confidence:
            rasters.append(RasterTarget(scene, folder, f"{stem}_confidence.tif", "average", tags))
        writer = ObjectWriter(
            folder,
            f"{stem}_objects",
            tuple(dict.fromkeys(self.options.formats)),
            self.card.classes,
            scene.crs_wkt,
            scene.transform,
            measurer,
            self.options.min_area,
            tags,
        )
        stitcher = Stitcher(scene.height, scene.width)
        wanted = self._wanted()
        done: list[Span] = []
        for rows, classes, confidence in self._swaths(source, grid):
            counts = np.bincount(classes.ravel(), minlength=256)
            self.pixels += counts
            self.areas += counts * _pixel_area(scene, measurer, (rows.start + rows.stop) / 2)
            with self.clock.stage("write rasters"):
                for target, values in zip(rasters, (classes, confidence), strict=False):
                    target.write_swath(rows, values)
            with self.clock.stage("trace"):
                regions = trace(classes, confidence, wanted, rows.start)
            with self.clock.stage("stitch"):
                objects = stitcher.add(regions, rows)
            with self.clock.stage("write objects"):
                writer.add(objects)
            done.append(rows)
        if self.pixels[:NODATA].sum() == 0:
            raise SourceError(
                f"{self.path} has no valid pixel: everything is nodata or masked; check its alpha band, "
                "mask and nodata value with gdalinfo"
            )
        with self.clock.stage("write objects"):
            files = writer.finish()
        with self.clock.stage("assemble COG"):
            for target in rasters:
                files.append(target.finish(done))
        styles = (class_raster_qml(self.card.classes), confidence_raster_qml())
        for target, qml in zip(rasters, styles, strict=False):
            (folder / target.name).with_suffix(".qml").write_text(qml, encoding="utf-8")
        return files, writer.counts

    def _swaths(
        self, source: Source, grid: Grid
    ) -> Iterator[tuple[Span, npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]:
        """Run the network over the scene, and give class and confidence swath by swath."""
        batch_size = self.options.batch_size or default_batch_size(self.device)
        network = self.model.network
        if isinstance(network, PFNet):
            network.factored = True
        predictor = Predictor(network, self.card.input, self.device, self.precision, batch_size)
        blender = Blender(grid, len(self.card.classes), self.device)
        scene = source.info
        total = scene.width * scene.height
        finished = 0
        windows = read_ahead(self._windows(source, grid), depth=2 * batch_size + 2)
        stream = predictor.stream(windows)
        for swath in grid.swaths(self.options.swath_pixels):
            rows = grid.swath_rows(swath)
            classes = np.empty((rows.size, scene.width), dtype=np.uint8)
            confidence = np.empty_like(classes)
            for _ in range(swath.size * grid.cols.count):
                with self.clock.stage("network"), _out_of_memory_explained(batch_size):
                    row, col, probabilities, valid = next(stream)
                with self.clock.stage("blend"):
                    if col == 0:
                        blender.begin_row(row)
                    block = blender.add(col, probabilities)
                    box = np.s_[
                        block.rows.start - rows.start : block.rows.stop - rows.start,
                        block.cols.start : block.cols.stop,
                    ]
                    invalid = ~valid[: block.rows.size, : block.cols.size]
                    classes[box] = block.classes.cpu().numpy()
                    classes[box][invalid] = NODATA
                    confidence[box] = block.confidence.cpu().numpy()
                    confidence[box][invalid] = NODATA
                finished += block.rows.size * block.cols.size
                self.on_progress(finished, total)
            yield rows, classes, confidence

    def _windows(self, source: Source, grid: Grid) -> Iterator[Window]:
        """Read all windows in order, padded by reflection where they reach past the scene."""
        side = grid.rows.window
        with gdal_settings(source.info.width):  # GDAL's settings are per thread
            for row, col in grid.windows(Span(0, grid.rows.count)):
                with self.clock.stage("read"):
                    pixels, valid = source.read(grid.rows.extent(row), grid.cols.extent(col))
                    padded = pad_to(pixels, valid, side, side)
                yield row, col, *padded

    def _wanted(self) -> list[int]:
        if self.options.classes is None:
            return [i for i, spec in enumerate(self.card.classes) if not spec.background]
        return [index_of(self.card.classes, name) for name in self.options.classes]

    def _tags(self, grid: Grid) -> dict[str, str]:
        weights = self.model.folder / WEIGHTS_NAME
        return {
            "PFMAP_VERSION": __version__,
            "PFMAP_MODEL": self.card.name,
            "PFMAP_MODEL_SHA256": file_hash(weights) if weights.is_file() else "",
            "PFMAP_WINDOW": str(grid.rows.window),
            "PFMAP_OVERLAP": str(grid.rows.overlap),
            "PFMAP_PRECISION": str(self.precision).removeprefix("torch."),
            "PFMAP_CLASSES": ",".join(spec.name for spec in self.card.classes),
            "PFMAP_ATTRIBUTION": self.card.provenance.attribution,
        }

    def _report(
        self,
        scene: SceneInfo,
        grid: Grid,
        measurer: Measurer,
        objects: npt.NDArray[np.int64],
        begun: float,
        finals: dict[str, Path],
    ) -> dict[str, Any]:
        unit = "m2" if measurer.units == "m" else "px"
        gsd = np.sqrt(_pixel_area(scene, measurer, scene.height / 2))
        seconds = time.perf_counter() - begun
        return {
            "pfmap": __version__,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "scene": {
                "path": str(scene.path),
                "width": scene.width,
                "height": scene.height,
                "bands": list(scene.bands),
                "crs": scene.crs_wkt,
                "transform": list(scene.transform),
                "gsd_m": round(float(gsd), 5) if unit == "m2" else None,
                "valid_pixels": int(self.pixels[:NODATA].sum()),
            },
            "model": {
                "name": self.card.name,
                "sha256": self._tags(grid)["PFMAP_MODEL_SHA256"],
                "attribution": self.card.provenance.attribution,
            },
            "options": {
                "device": str(self.device),
                "precision": str(self.precision).removeprefix("torch."),
                "window": grid.rows.window,
                "overlap": grid.rows.overlap,
                "batch_size": self.options.batch_size or default_batch_size(self.device),
                "formats": list(self.options.formats),
                "classes": [self.card.classes[i].name for i in self._wanted()],
                "min_area": self.options.min_area,
            },
            "classes": [
                {
                    "class_id": index,
                    "class": spec.name,
                    "pixels": int(self.pixels[index]),
                    f"area_{unit}": round(float(self.areas[index]), 2),
                    "objects": int(objects[index]),
                }
                for index, spec in enumerate(self.card.classes)
            ],
            "warnings": self.warnings,
            "outputs": {kind: path.name for kind, path in finals.items()},
            "seconds": {
                "total": round(seconds, 3),
                **{name: round(value, 3) for name, value in self.clock.seconds.items()},
            },
            "pixels_per_second": round(scene.width * scene.height / seconds),
            "peak_memory_bytes": _peak_memory(),
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
            },
        }

    def _publish(
        self, folder: Path, files: Sequence[Path], finals: dict[str, Path], report: dict[str, Any]
    ) -> None:
        """Give everything its final name: sidecars and rasters first, the report last."""
        output_dir = finals["report"].parent
        report_path = folder / finals["report"].name
        report_path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        mains = {path.name for path in files}
        sidecars = [p for p in sorted(folder.iterdir()) if p.name not in mains and p != report_path]
        for path in [*sidecars, *files, report_path]:
            publish(path, output_dir / path.name)


@contextmanager
def _out_of_memory_explained(batch_size: int) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            f"the device ran out of memory with {batch_size} windows per pass: lower --batch-size, or use "
            "--device cpu"
        ) from error


def _at(scene: SceneInfo, col: float, row: float) -> tuple[float, float]:
    a, b, c, d, e, f = scene.transform
    return a * col + b * row + c, d * col + e * row + f


def _pixel_area(scene: SceneInfo, measurer: Measurer, row: float) -> float:
    """Return the ground area of a pixel in the middle of a row: square metres, or 1 without a CRS."""
    if measurer.units == "px":
        return 1.0
    x = scene.width / 2
    corners = [_at(scene, x + dx, row + dy) for dx, dy in ((0, 0), (1, 0), (1, 1), (0, 1))]
    return measurer.area(np.array(corners))


def _peak_memory() -> int | None:
    """Return the process's peak resident memory in bytes, where the system tells."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if platform.system() == "Darwin" else peak * 1024)
