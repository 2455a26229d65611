"""The link to a Dask scheduler: made, lost and made again, and what is asked of the workers through it."""

import logging
import os
import pickle
import secrets
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dask
import torch
from distributed import Client, Future, Nanny, Scheduler
from distributed.deploy.spec import SpecCluster

from pfmap.core.errors import ClusterError
from pfmap.version import __version__

CONNECT_SECONDS = 10.0
"""How long a scheduler has to answer the first time."""
PATIENCE = 300.0
"""Seconds that a run waits for a scheduler or workers that have gone to come back."""
_LOOK = 0.05


class LinkLostError(Exception):
    """The scheduler has gone, and with it all that it knew."""


class ResultLostError(Exception):
    """A task has ended, and what it gave is gone with its worker or scheduler."""


class Link:
    """A link to a scheduler.

    Args:
        where: its address, or the name of its scheduler file; or a cluster of this process.
        say: called with lines for people.
    """

    def __init__(self, where: "str | SpecCluster", say: Callable[[str], None]) -> None:
        self._where, self._say = where, say
        self.name = where if isinstance(where, str) else "this machine"
        try:
            self._client = self._connected(CONNECT_SECONDS)
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ClusterError(
                f"no Dask scheduler answers at {self.name} ({reason}): start one with dask scheduler, or "
                "check the address, the network and, for tls://, the certificates in Dask's configuration"
            ) from error

    def close(self) -> None:
        """Let go of the scheduler, and of what it does for us."""
        _close(self._client)

    def reconnect(self, on_wait: Callable[[], None]) -> None:
        """Wait for the scheduler to come back, or for another one at its address.

        Args:
            on_wait: called often; it may raise to stop.

        Raises:
            ClusterError: it does not within `PATIENCE`.
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
        """Return the addresses of the workers that are there now.

        Raises:
            LinkLostError: the scheduler does not answer.
        """
        with self._lost():
            found: Mapping[str, int] = self._client.nthreads()
        return frozenset(found)

    def submit(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        worker: str,
        resources: Mapping[str, float] | None = None,
        on_done: Callable[[], None] | None = None,
    ) -> "Future[Any]":
        """Have one worker, and no other, call a function of `pfmap.cluster.worker`.

        Raises:
            LinkLostError: the scheduler does not answer.
        """
        with self._lost():
            future = self._client.submit(
                _caller(),
                function.__name__,
                pickle.dumps(arguments),
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

    def now(self, function: Callable[..., Any], *arguments: Any, worker: str) -> Any:
        """Call a short function on a worker at once, beside what it computes; None if the worker is gone.

        Raises:
            LinkLostError: the scheduler does not answer.
        """
        with self._lost():
            answers = self._client.run(function, *arguments, workers=[worker], on_error="return")
        answer = answers.get(worker)
        return None if isinstance(answer, BaseException) else answer

    def ask(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        workers: Iterable[str],
        seconds: float,
        resources: Mapping[str, float],
        on_wait: Callable[[], None],
    ) -> dict[str, Any]:
        """Have workers call a function, side by side.

        Args:
            function: what they call.
            arguments: what it takes.
            workers: their addresses.
            seconds: how long to wait for those that are busy or gone.
            resources: what the call needs beside a thread.
            on_wait: called often; it may raise to stop.

        Returns:
            What each gave, or the error that it raised; a worker that did not answer in time is left out.

        Raises:
            LinkLostError: the scheduler does not answer.
        """
        futures = {
            worker: self.submit(function, *arguments, worker=worker, resources=resources)
            for worker in workers
        }
        end = time.monotonic() + seconds
        while time.monotonic() < end and not all(future.done() for future in futures.values()):
            on_wait()
            time.sleep(_LOOK)
        answers = {worker: outcome(future) for worker, future in futures.items() if future.done()}
        for answer in answers.values():
            if isinstance(answer, LinkLostError | ResultLostError):
                raise LinkLostError from answer
        return answers

    def refuse_other_versions(self, workers: Collection[str]) -> None:
        """Refuse workers with another pfmap than this one, before anything of it is sent to them.

        Raises:
            ClusterError: there is such a worker.
            LinkLostError: the scheduler does not answer.
        """
        with self._lost():
            versions = self._client.run(_version_teller(), workers=list(workers), on_error="return")
        others = sorted(address for address, version in versions.items() if version != __version__)
        if others:
            has = versions[others[0]]
            if isinstance(has, BaseException):
                words = (
                    f"cannot say which pfmap it has ({' '.join(str(has).split())}): is its Python another?"
                )
            else:
                words = f"has {f'pfmap {has}' if has else 'no pfmap'}"
            more = f" ({len(others)} of {len(versions)} workers differ)" if len(others) > 1 else ""
            raise ClusterError(
                f"worker {others[0]} {words}, this machine has pfmap {__version__}{more}: install "
                f"pfmap[dask] {__version__} in the workers' environment"
            )

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


def _version_teller() -> Callable[[], str | None]:
    """Make the function that says which pfmap a worker has: sent as it is, for the worker may have none."""

    def tell() -> str | None:
        try:
            from pfmap import version
        except ImportError:
            return None
        return version.__version__

    return tell


def _caller() -> Callable[[str, bytes], Any]:
    """Make the function that calls another on a worker.

    The scheduler unpacks what it is given: so it gets nothing but a name and bytes, and has to have neither
    pfmap nor torch, nor the memory for them.
    """

    def call(name: str, arguments: bytes) -> Any:
        import pickle

        from pfmap.cluster import worker

        return getattr(worker, name)(*pickle.loads(arguments))

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
    before = [(logger, logger.level) for logger in map(logging.getLogger, ["distributed", *names])]

    def restore() -> None:
        for logger, level in before:
            logger.setLevel(level)

    for logger, level in before:
        if level or logger.name == "distributed":
            logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    except Exception:
        restore()
        raise
    restore()


def _close(client: Client) -> None:
    with suppress(Exception):  # a scheduler that is gone cannot be told
        client.close(timeout=5)


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
            f"{'are' if gpus != 1 else 'is'} here, one for each: use workers={gpus}, or device='cpu'"
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
