"""Map one scene, and say what that would take."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Unpack

from pfmap.core.option import explained, take
from pfmap.mapping.job import Job, Progress, Result
from pfmap.mapping.options import PredictOptions, SceneSettings, Settings
from pfmap.mapping.run_options import RunOptions
from pfmap.mapping.run_report import Preflight
from pfmap.mapping.runtime import Runtime
from pfmap.raster.location import locate, output_folder
from pfmap.trace.tile import warn_unkept

log = logging.getLogger(__name__)


@explained
def predict(
    scene: str | os.PathLike[str],
    output_dir: str | os.PathLike[str] | None = None,
    *,
    on_progress: Progress = lambda _done, _total: None,
    on_message: Callable[[str], None] = log.info,
    **settings: Unpack[Settings],
) -> Result:
    """Map a scene: a class raster, its confidence, object polygons, a QGIS project and a report.

    A run that was stopped, even killed, goes on from its last finished swath when it is called again with the
    same scene, model and options; where they gave all outputs already, there is nothing to do.

    Args:
        scene: any raster that GDAL opens, with the bands the model needs: a path, a URL (https, s3, gs, az),
            a zip archive, a map service, or one of GDAL's `/vsi` names.
        output_dir: where the files go, a folder or `s3://bucket/folder`; by default the scene's folder.
        on_progress: called with (pixels done, pixels in all); it may raise to stop the run.
        on_message: called with lines for people: the plan, the device in use, warnings.
        **settings: how the scene is mapped, by what; each by its name:

    Returns:
        The written files and the report.

    Raises:
        PfmapError: bad input, a device that is not there, outputs that exist, a full disk; nothing is left
            under a final name then.
    """
    run, own = take(RunOptions, settings)
    options = PredictOptions.of(**own)
    folder = None if output_dir is None else output_folder(output_dir)
    with started(run, options.batch_size, on_message) as runtime:
        job = Job(locate(scene), runtime, options, on_message)
        return job.run(folder if folder is not None else job.location.folder, on_progress)


@explained
def inspect(
    scene: str | os.PathLike[str],
    output_dir: str | os.PathLike[str] | None = None,
    **settings: Unpack[SceneSettings],
) -> dict[str, Any]:
    """Say what mapping a scene would take, after mapping a small piece of it; nothing is kept.

    Args:
        scene: as for `predict`.
        output_dir: where the outputs would go; by default the scene's folder.
        **settings: those of `predict` that matter for it:

    Returns:
        The scene, how it would be mapped, estimates of time, memory and disk, and warnings.

    Raises:
        PfmapError: what would make `predict` fail at once.
    """
    return foresee(scene, output_dir, **settings).table()


def foresee(
    scene: str | os.PathLike[str],
    output_dir: str | os.PathLike[str] | None = None,
    **settings: Unpack[SceneSettings],
) -> Preflight:
    """Say what mapping a scene would take, as `inspect`, in a form that people can be shown too."""
    run, own = take(RunOptions, settings)
    options = PredictOptions.of(**own)
    with started(run, options.batch_size, log.info) as runtime:
        job = Job(locate(scene), runtime, options, log.info)
        folder = output_folder(output_dir) if output_dir is not None else job.location.folder
        with job.planned() as (source, plan):
            return job.foresee(source, plan, folder, lambda: None, always=True)


@contextmanager
def started(run: RunOptions, batch_size: int | None, say: Callable[[str], None]) -> Iterator[Runtime]:
    """Load the model, and find or start what computes: `batch_size` windows at once, or what suits it."""
    warn_unkept(say)
    if run.cluster is None and run.workers is None:
        yield Runtime.of(run.model, run.device, run.precision, batch_size, say)
        return
    from pfmap.cluster import opened_cluster

    with opened_cluster(run.cluster, run.workers, run.device, say) as workers:
        yield Runtime.of(run.model, run.device, run.precision, batch_size, say, workers)
