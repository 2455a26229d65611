"""What runs on a worker of the cluster: it says what it has, is shown a job, and computes runs of swaths.

Every swath gets its own name on disk as soon as it is finished, so that a worker that is killed loses the one
in work, and nothing else. A worker keeps the networks that it has loaded. It has one run in work at a time,
whoever asks: the next one waits for its turn.
"""

import functools
import json
import logging
import platform
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import ParamSpec, TypeVar

import torch
from distributed import get_worker
from distributed.core import Status

from pfmap.cluster.handover import (
    AbandonedError,
    Abilities,
    ClusterJob,
    Done,
    Handover,
    UnknownJobError,
    answer_sign,
    open_source,
)
from pfmap.core.card import card_table, read_card
from pfmap.core.errors import ClusterError, ModelError, PfmapError, TargetError, named, saying
from pfmap.core.files import read_text
from pfmap.core.grid import Span
from pfmap.core.resources import free_memory, gigabytes, give_back_memory
from pfmap.core.stages import Clock, read_ahead
from pfmap.core.system import c_library
from pfmap.mapping import swaths as way
from pfmap.mapping.blend import blend
from pfmap.mapping.estimate import memory_of, probe
from pfmap.mapping.mapper import raster_targets, view_of
from pfmap.mapping.runtime import Probe, Runtime, choose_device, choose_precision, describe
from pfmap.mapping.swaths import write_record
from pfmap.mapping.work import RUN_NAME
from pfmap.model.predictor import Predictor, precision_name
from pfmap.model.store import CARD_NAME, WEIGHTS_NAME, file_hash, find_model, load_model
from pfmap.raster.gdal import gdal_settings
from pfmap.version import __version__

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_PROBE_SECONDS = 1.0  # all other workers wait for it
_KEPT = 2  # networks, and jobs
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's numbers, malloc.h

_turn = threading.Lock()  # to compute
_length = threading.Lock()  # to say where a run ends
_jobs: OrderedDict[str, ClusterJob] = OrderedDict()
_networks: OrderedDict[str, Predictor] = OrderedDict()
_lengths: dict[str, int] = {}  # of runs, where they were shortened
_reached: dict[str, int] = {}  # by runs in work: the swath being computed


def _plainly(function: Callable[P, T]) -> Callable[P, T]:
    """Have errors leave without what caused them: GDAL's own cannot be sent."""

    @functools.wraps(function)
    def call(*arguments: P.args, **named: P.kwargs) -> T:
        try:
            return function(*arguments, **named)
        except (PfmapError, UnknownJobError, AbandonedError) as error:
            plain = type(error)(str(error))
        raise plain

    return call


@_plainly
def look_around(device: str, precision: str) -> Abilities:
    """Say what this worker has of devices and precisions by name, or auto; a `DeviceError` if it has not."""
    worker = get_worker()
    chosen = choose_device(device)
    kind = choose_precision(precision, chosen)
    _prepare_process()
    gpus = float(worker.state.total_resources.get("GPU", 0))
    return Abilities(worker.address, chosen.type, precision_name(kind), describe(chosen, kind), gpus)


@_plainly
def enter_job(job: ClusterJob, sharers: int) -> None:
    """Check whether this worker can do a job, and load what it needs; so many workers share its memory.

    A `PfmapError` says what is wrong: another version of pfmap, the model or the scene, no such device, too
    little memory, or a work folder that this worker does not see or cannot write.
    """
    answer_sign(job, get_worker().address)
    _admit(job)
    needed = sharers * memory_of(job.plan)
    if needed > (free := free_memory()):
        raise ClusterError(
            f"the {sharers} workers of {platform.node()} need {gigabytes(needed)} of memory for a scene this "
            f"wide, {gigabytes(free)} are free: start fewer, or map a narrower part with bbox="
        )
    with _turn:
        _network(job)
        _jobs[job.id] = job
        _used(_jobs, job.id)


@_plainly
def measure_piece(job: ClusterJob) -> Probe:
    """Map a piece of a scene here, and say what it took; what makes it fail is as for `enter_job`."""
    _admit(job)
    with _turn, open_source(job.plan) as source:
        return probe(source, job.plan, _network(job), _watch(), _PROBE_SECONDS)


@_plainly
def compute_swaths(job_id: str, run_id: str, swaths: Sequence[tuple[Span, Span]]) -> Done:
    """Compute neighbouring swaths, and write each into the work folder; those that are there are left out.

    Each is its window rows and its output rows. `shorten_run` knows the run by its id. An `UnknownJobError`
    says that the job was not shown to this worker, an `AbandonedError` that nobody waits for it any more.
    """
    refuse_abandoned = _watch()
    while not _turn.acquire(timeout=0.5):
        refuse_abandoned()
    try:
        if job_id not in _jobs:
            raise UnknownJobError
        return _compute(_used(_jobs, job_id), run_id, swaths, refuse_abandoned)
    finally:
        _turn.release()
        _reached.pop(run_id, None)
        _lengths.pop(run_id, None)


def shorten_run(run_id: str, length: int) -> int:
    """Have a run that is in work end after so many swaths; return how many it keeps, with that in work."""
    with _length:
        keeps = _lengths[run_id] = max(length, _reached.get(run_id, -1) + 1)
    return keeps


def _compute(
    job: ClusterJob, run_id: str, swaths: Sequence[tuple[Span, Span]], on_window: Callable[[int], None]
) -> Done:
    plan, handover, clock, done = job.plan, Handover(job.folder, job.run), Clock(), []
    _prepare_process()
    predictor = _network(job)
    rasters = raster_targets(plan, job.stem)
    todo = [(number, span, rows) for number, (span, rows) in enumerate(swaths) if not handover.has(rows)]

    with gdal_settings(), open_source(plan) as source:
        runs = way.runs_of(plan, [(span, rows) for _, span, rows in todo])
        chooser = way.chooser_of(plan, predictor.device)
        windows = way.read_windows(view_of(source, plan), plan, chooser, runs, clock)
        ahead = read_ahead(windows, predictor.ahead, name="read")
        blended = blend(predictor, ahead, plan.grid, chooser, clock, plan.options.tta)
        chosen = way.gathered(blended, plan.grid, chooser, plan.geobox.width, runs, clock, on_window)
        with way.out_of_memory_explained(), closing(chosen) as computed:
            for number, _, rows in todo:
                with _length:
                    if number >= _lengths.get(run_id, len(swaths)):
                        break
                    _reached[run_id] = number
                swath = next(computed)
                # Not while the next one is being computed: a kill would cost both.
                with clock.stage("write rasters"), handover.writing(rows) as folder:
                    write_record(folder, swath, rasters, frozenset(source.unreadable))
                    _refuse_another_run(job)
                done.append(rows)
                del swath
    give_back_memory()
    return Done(tuple(done), dict(clock.seconds))


def _prepare_process() -> None:
    """Set up torch and the allocator as in a process of our own: dask uses one thread, and trims memory.

    It sets MALLOC_TRIM_THRESHOLD_, which has every layer's output taken from the system afresh: a window then
    costs a third more time, all of it page faults.
    """
    torch.set_num_threads(get_worker().state.nthreads)
    tune = getattr(c_library(), "mallopt", None)
    if tune is not None:  # glibc
        tune(_MMAP_THRESHOLD, 32 << 20)  # the most that it would come to by itself
        tune(_TRIM_THRESHOLD, 64 << 20)


def _watch() -> Callable[..., None]:
    """Return what raises once nobody waits for this thread's task any more: dask cannot interrupt it."""
    worker = get_worker()
    key = worker.get_current_task()

    def refuse_abandoned(*_progress: object) -> None:
        task = worker.state.tasks.get(key)
        ends = worker.status not in (Status.running, Status.paused, Status.closing_gracefully)
        if ends or task is None or task.state in ("cancelled", "released", "forgotten"):
            raise AbandonedError

    return refuse_abandoned


def _admit(job: ClusterJob) -> None:
    """Check what can be checked without computing."""
    if __version__ != job.version:
        raise ClusterError(
            f"has pfmap {__version__}, the run was started with pfmap {job.version}: install the same version"
        )
    named(job.plan.scene.location.gdal)  # whose secrets messages then leave out
    choose_device(job.plan.device.type)
    _prepare_process()
    _find_model(job)
    with open_source(job.plan) as source:
        if source.fingerprint() != job.scene:
            raise ClusterError(
                f"sees another {job.plan.scene.name} than the machine where the run was started: size, time "
                "or content differ; have all machines read the same file from shared storage"
            )


def _network(job: ClusterJob) -> Predictor:
    """Return the job's network, loaded if it is not yet."""
    plan = job.plan
    card = json.dumps(card_table(plan.card), sort_keys=True)
    key = f"{plan.model_hash} {plan.device} {plan.precision} {plan.batch_size} {plan.layers} {card}"
    if key not in _networks:
        model = load_model(folder := _find_model(job))
        if model.sha256 != plan.model_hash:
            raise ClusterError(f"has just got other weights in {folder}: run the same command again")
        runtime = Runtime(model, plan.device, plan.precision, plan.batch_size, log.warning)
        _networks[key] = runtime.predictor(plan)
    return _used(_networks, key)


def _used(kept: OrderedDict[str, T], key: str) -> T:
    """Return what is used now, and forget what was not used for longest."""
    kept.move_to_end(key)
    while len(kept) > _KEPT:
        kept.popitem(last=False)
    return kept[key]


def _find_model(job: ClusterJob) -> str:
    """Find the job's model by its folder, or by its name, with its weights and its card."""
    plan = job.plan
    found = []
    for place in (str(plan.model.folder), plan.model.folder.name):
        try:
            folder = find_model(place)
            weights = file_hash(folder / WEIGHTS_NAME)
            same = card_table(read_card(folder / CARD_NAME)) == card_table(plan.card)
        except (ModelError, OSError):
            continue
        if weights == plan.model_hash and same:
            return str(folder)
        found.append(f"{weights[:12]}{'' if same else ' with another card'} in {folder}")
    has = f"has weights {' and '.join(found)}"
    if not found:
        has = f"does not have it (looked in {plan.model.folder})"
    raise ClusterError(
        f"{has}, the run was started with model {plan.card.name!r} of weights {plan.model_hash[:12]}: "
        "install the same model there, or keep it where all machines see it and name its folder"
    )


def _refuse_another_run(job: ClusterJob) -> None:
    """Refuse to finish a swath in a folder that has gone over to another run in the meantime."""
    with saying(f"{job.folder.parent} cannot be read any more", TargetError):
        now = read_text(job.folder / RUN_NAME)
    if job.run != now:
        raise AbandonedError
