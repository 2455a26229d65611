"""The connection to a Dask scheduler, which may be lost and made again; and one with workers of this machine.

What runs on a worker is named by module and function, so that the scheduler needs nothing of pfmap.
"""

import logging
import os
import pickle
import secrets
import time
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import dask
import torch
from distributed import Client, Future, Nanny, Scheduler
from distributed.deploy.spec import SpecCluster

from pfmap.core.errors import ClusterError, named
from pfmap.core.system import KILL

CONNECT_SECONDS = 10.0
"""How long a scheduler has to answer the first time."""
PATIENCE = 300.0
"""Seconds that a run waits for a scheduler or workers that have gone to come back."""

_HOST = "127.0.0.1"  # nobody else's business
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "DASK_LOGGING__DISTRIBUTED": "critical"}
_SILENT = logging.CRITICAL + 1  # what goes wrong is said once, by pfmap


class LinkLostError(Exception):
    """The scheduler has gone, and with it all that it knew."""


class ResultLostError(Exception):
    """A task has ended, and what it gave is gone with its worker or scheduler."""


class Link:
    """A connection to a scheduler; use it as a context manager.

    `where` is a scheduler's address, or the name of its file, or a cluster of this process; a `ClusterError`
    says that none answers there. Whatever asks one that has gone raises `LinkLostError`.
    """

    def __init__(self, where: "str | SpecCluster", say: Callable[[str], None]) -> None:
        self._where, self._say = where, say
        self.name = named(where) if isinstance(where, str) else "this machine"
        try:
            self._client = self._connected(CONNECT_SECONDS)
        except (OSError, ValueError, ImportError, RuntimeError, TypeError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ClusterError(
                f"no Dask scheduler answers at {self.name} ({reason}): start one with dask scheduler, or "
                "check the address, the network and, for tls://, the certificates in Dask's configuration"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        """Let go of the scheduler, and of what it does for us."""
        _close(self._client)

    def reconnect(self, on_wait: Callable[[], None]) -> None:
        """Wait for the scheduler, or another one at its address, to come back; `on_wait` may raise to stop.

        A `ClusterError` says that it does not.
        """
        _close(self._client)
        self._say(
            f"warning: the scheduler at {self.name} is gone: waiting up to {PATIENCE / 60:.0f} minutes for "
            "it; what is finished is on disk"
        )
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            on_wait()
            with suppress(OSError, ValueError, RuntimeError):
                self._client = self._connected(2.0)
                self._say(f"the scheduler at {self.name} is back")
                return
            time.sleep(0.5)
        raise ClusterError(
            f"the scheduler at {self.name} did not come back within {PATIENCE / 60:.0f} minutes: start it "
            "again; the same command goes on from the last finished swath"
        )

    def workers(self) -> frozenset[str]:
        """Return the addresses of the workers that are there now."""
        with self._lost():
            return frozenset(self._client.nthreads())

    def submit(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        worker: str,
        resources: Mapping[str, float] | None = None,
        on_done: Callable[[], None] | None = None,
    ) -> "Future[Any]":
        """Have one worker, and no other, call a function of a module of pfmap."""
        with self._lost():
            future = self._client.submit(
                _caller(),
                function.__module__,
                function.__name__,
                zlib.compress(pickle.dumps(arguments)),  # logs of workers show it, with addresses of scenes
                key=f"pfmap-{function.__name__}-{secrets.token_hex(8)}",
                workers=[worker],
                allow_other_workers=False,
                resources=dict(resources or {}),
                pure=False,
                retries=0,
            )
            if on_done is not None:
                future.add_done_callback(lambda _future: on_done())
        return future

    def run(
        self, function: Callable[..., Any], *arguments: Any, workers: Collection[str]
    ) -> Mapping[str, Any]:
        """Call a short function on workers at once, beside what they compute.

        Return what each gave, or the error that it raised, by address; one that is gone may be missing.
        """
        with self._lost():
            answers: Mapping[str, Any] = self._client.run(
                function, *arguments, workers=list(workers), on_error="return"
            )
        return answers

    def _connected(self, seconds: float) -> Client:
        if isinstance(self._where, str) and Path(self._where).is_file():
            return Client(scheduler_file=self._where, timeout=seconds, set_as_default=False)
        return Client(self._where, timeout=seconds, set_as_default=False)

    @contextmanager
    def _lost(self) -> Iterator[None]:
        """Turn what dask raises without a scheduler into one error."""
        try:
            if self._client.status != "running":
                raise LinkLostError
            yield
        except (OSError, CancelledError) as error:
            raise LinkLostError from error
        except (RuntimeError, ValueError) as error:
            if self._client.status == "running":
                raise
            raise LinkLostError from error


def _caller() -> Callable[[str, str, bytes], Any]:
    """Make the function that calls another on a worker.

    The scheduler unpacks what it is given: so it gets nothing but names and bytes, and has to have neither
    pfmap nor torch, nor the memory for them.
    """

    def call(module: str, name: str, arguments: bytes) -> Any:
        import importlib
        import pickle
        import zlib

        return getattr(importlib.import_module(module), name)(*pickle.loads(zlib.decompress(arguments)))

    return call


def outcome(future: "Future[Any]") -> Any:
    """Return what a finished task gave, or the error that it raised.

    `LinkLostError` if nobody knows of the task any more, `ResultLostError` if only what it gave is gone.
    """
    if future.status in ("cancelled", "lost"):
        return LinkLostError()
    if future.status == "error":
        return future.exception()
    try:
        return future.result(timeout=CONNECT_SECONDS)
    except (OSError, CancelledError) as error:  # worker or scheduler went before it could be fetched
        return ResultLostError(str(error))


@contextmanager
def quiet() -> Iterator[None]:
    """Keep dask's own lines to itself: what matters of them is said by pfmap.

    After an interruption they are kept to the end: dask's threads have a word about everything that goes.
    """
    names = [name for name in logging.root.manager.loggerDict if name.startswith("distributed.")]
    with ExitStack() as levels:
        for logger in map(logging.getLogger, ["distributed", *names]):
            levels.callback(logger.setLevel, logger.level)
            if logger.level or logger.name == "distributed":
                logger.setLevel(_SILENT)
        try:
            yield
        except BaseException as error:
            if not isinstance(error, Exception):
                levels.pop_all()
            raise


def _close(client: Client) -> None:
    with suppress(Exception):  # a scheduler that is gone cannot be told
        client.close(timeout=5)


@contextmanager
def local_cluster(workers: int, device: torch.device) -> Iterator[SpecCluster]:
    """Start a scheduler in this process, and worker processes that end with it, however it ends.

    On CUDA each has a GPU of its own, or there is a `ClusterError`; on a CPU they share the threads that this
    process would have.
    """
    gpus = {"cpu": workers, "cuda": torch.cuda.device_count()}.get(device.type, 1)
    if workers > gpus:
        raise ClusterError(
            f"{workers} workers are asked for, and {gpus} device{'s' * (gpus != 1)} {device.type!r} "
            f"{'are' if gpus != 1 else 'is'} here, one for each: use workers={gpus}, or device='cpu'"
        )
    common: dict[str, Any] = {
        "host": _HOST,
        "nthreads": max(1, torch.get_num_threads() // workers) if device.type == "cpu" else 1,
        "memory_limit": 0,  # a scene that does not fit is refused before the start
        "dashboard": False,
        "silence_logs": _SILENT,
        "preload": "pfmap.cluster",
        "config": {"distributed.worker.profile.enabled": False},  # looks at all threads 100 times a second
    }
    specs = {number: {"cls": Nanny, "options": common} for number in range(workers)}
    if device.type == "cuda":
        listed = [
            name for name in map(str.strip, os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")) if name
        ]
        for number, spec in specs.items():
            visible = listed[number] if listed else str(number)
            own = {"resources": {"GPU": 1}, "env": {"CUDA_VISIBLE_DEVICES": visible}}
            spec["options"] = common | own
    scheduler = {
        "cls": Scheduler,
        "options": {"host": _HOST, "port": 0, "dashboard": False, "dashboard_address": f"{_HOST}:0"},
    }
    with dask.config.set({"distributed.nanny.pre-spawn-environ": _ENVIRONMENT}):
        cluster = SpecCluster(scheduler=scheduler, workers=specs, silence_logs=_SILENT, name="pfmap")
    try:
        yield cluster
    finally:  # at once: what they finished is on disk, and dask would wait for what is in work
        for nanny in cluster.workers.values():
            nanny.auto_restart = False
            if nanny.pid:
                with suppress(OSError):
                    os.kill(nanny.pid, KILL)
        cluster.close(timeout=20)
