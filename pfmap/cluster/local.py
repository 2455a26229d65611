"""Worker processes on this machine: one per GPU, or some that share the cores."""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import dask
import torch
from distributed import Nanny, Scheduler
from distributed.deploy.spec import SpecCluster

from pfmap.core.errors import ClusterError

_HOST = "127.0.0.1"  # nobody else's business
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "DASK_LOGGING__DISTRIBUTED": "critical"}
_SILENT = logging.CRITICAL + 1  # what goes wrong is said once, by pfmap


@contextmanager
def local_cluster(workers: int, device: torch.device) -> Iterator[SpecCluster]:
    """Start a scheduler in this process, and worker processes that end with it, however it ends.

    Args:
        workers: how many.
        device: what they run the network on. On CUDA each has a GPU of its own; on a CPU they share the
            threads that this process would have.

    Raises:
        ClusterError: more workers than GPUs.
    """
    gpus = {"cpu": workers, "cuda": torch.cuda.device_count()}.get(device.type, 1)
    if workers > gpus:
        raise ClusterError(
            f"{workers} workers are asked for, and {gpus} device{'s' * (gpus != 1)} {device.type!r} "
            f"{'are' if gpus != 1 else 'is'} here, one for each: use --workers {gpus}, or --device cpu"
        )
    common: dict[str, Any] = {
        "host": _HOST,
        "nthreads": max(1, torch.get_num_threads() // workers) if device.type == "cpu" else 1,
        "memory_limit": 0,  # a scene that does not fit is refused before the start
        "dashboard": False,
        "silence_logs": _SILENT,
        "preload": "pfmap.cluster.preload",
        "config": {"distributed.worker.profile.enabled": False},  # looks at all threads 100 times a second
    }
    specs = {}
    for number in range(workers):
        own: dict[str, Any] = {}
        if device.type == "cuda":
            own = {"resources": {"GPU": 1}, "env": {"CUDA_VISIBLE_DEVICES": _visible(number)}}
        specs[number] = {"cls": Nanny, "options": {**common, **own}}
    scheduler = {
        "cls": Scheduler,
        "options": {"host": _HOST, "port": 0, "dashboard": False, "dashboard_address": f"{_HOST}:0"},
    }
    with dask.config.set({"distributed.nanny.pre-spawn-environ": _ENVIRONMENT}):
        cluster = SpecCluster(scheduler=scheduler, workers=specs, silence_logs=_SILENT, name="pfmap")
    try:
        yield cluster
    finally:
        _kill(cluster)
        cluster.close(timeout=20)


def _kill(cluster: SpecCluster) -> None:
    """End the workers at once: what they finished is on disk, and dask would wait for what is in work."""
    for nanny in cluster.workers.values():
        nanny.auto_restart = False
        if nanny.pid:
            with suppress(ProcessLookupError):
                os.kill(nanny.pid, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)


def _visible(number: int) -> str:
    """Name a GPU as the worker that is to see no other has to be told."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in listed.split(",") if name.strip()]
    return names[number] if names else str(number)
