"""Mapping a scene, and saying what that would take: the functions that people call."""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pfmap.cluster import opened_cluster
from pfmap.core.bucket import output_folder
from pfmap.mapping.job import Job, Progress, Result
from pfmap.mapping.objects import SPLIT_LARGE
from pfmap.mapping.options import SWATH_PIXELS, OnReadError, OutputGrid, PredictOptions
from pfmap.mapping.runtime import Runtime
from pfmap.model.store import DEFAULT_MODEL, Model
from pfmap.raster.gdal import locate

if TYPE_CHECKING:
    from pfmap.cluster.coordinator import Cluster

log = logging.getLogger(__name__)


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
    same scene, model and options; where they gave all outputs already, there is nothing to do.

    Args:
        scene: any raster that GDAL opens, with the bands the model needs: a path, a URL (https, s3, gs), a
            zip archive, or one of GDAL's `/vsi` names.
        output_dir: where the files go, a folder or `s3://bucket/folder`; by default the scene's folder.
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
        resume: whether to take over what earlier runs with the same scene, model and options made.
        swath_pixels: pixels of the outputs that are in work at a time; the result does not depend on it.
        workers: worker processes to start on this machine, one for each GPU or sharing its cores; None
            computes in this process. They import the script that calls: guard the call there by
            ``if __name__ == "__main__":``.
        cluster: address or scheduler file of a Dask cluster whose workers compute; scene, model and outputs
            are on storage that they reach. Or what `pfmap.cluster.opened_cluster` gave, which stays
            open for many scenes.
        on_progress: called with (pixels done, pixels in all); it may raise to stop the run.
        on_message: called with lines for people: the plan, the device in use, warnings.

    Returns:
        The written files and the report.

    Raises:
        PfmapError: bad input, a device that is not there, outputs that exist, a full disk; nothing is left
            under a final name then.
    """
    options = PredictOptions.of(
        overlap=overlap,
        batch_size=batch_size,
        bands=bands,
        scale=scale,
        gsd=gsd,
        resample=resample,
        grid=grid,
        aoi=aoi,
        bbox=bbox,
        formats=formats,
        classes=classes,
        simplify=simplify,
        regularize=regularize,
        min_area=min_area,
        fill_holes=fill_holes,
        drop_small=drop_small,
        split_large=split_large,
        split_by_class=split_by_class,
        confidence=confidence,
        on_read_error=on_read_error,
        overwrite=overwrite,
        resume=resume,
        swath_pixels=swath_pixels,
    )
    folder = None if output_dir is None else output_folder(output_dir)
    with opened_cluster(cluster, workers, device, on_message) as where:
        runtime = Runtime.of(model, device, precision, batch_size, on_message, where)
        job = Job(locate(scene), runtime, options, on_message)
        return job.run(folder if folder is not None else job.location.folder, on_progress)


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
    options = options or PredictOptions()
    runtime = Runtime.of(model, device, precision, options.batch_size, log.info)
    job = Job(locate(scene), runtime, options, log.info)
    folder = output_folder(output_dir) if output_dir is not None else job.location.folder
    with job.planned() as (source, plan):
        return job.foresee(source, plan, folder, lambda: None, always=True)
