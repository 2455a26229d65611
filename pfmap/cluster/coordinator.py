"""Have a scene's swaths computed by the workers of a Dask cluster, and fetch each as soon as it is there."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from pfmap.cluster.dispatch import Dispatcher
from pfmap.cluster.handover import Abilities, ClusterJob, Handover, await_answer, signed
from pfmap.cluster.link import Link, LinkLostError, ResultLostError, outcome
from pfmap.cluster.worker import enter_job, look_around, measure_piece
from pfmap.core.errors import ClusterError, PfmapError
from pfmap.core.files import read_text
from pfmap.core.grid import Span
from pfmap.core.stages import Clock
from pfmap.mapping.plan import Plan
from pfmap.mapping.runtime import PRECISIONS, Probe, choose_precision
from pfmap.mapping.swaths import lead_rows
from pfmap.mapping.work import RUN_NAME, Work
from pfmap.version import __version__

_PATIENCE = 60.0  # seconds that workers have to appear, and to answer
_LOOK = 0.1


class Cluster:
    """The workers of a Dask cluster, as mapping asks for them (`pfmap.mapping.runtime.Workers`).

    Threads may map several scenes with it: each waits until all swaths of the one before are on disk. The
    device is given where the workers are processes of this machine.
    """

    def __init__(self, link: Link, say: Callable[[str], None], device: torch.device | None = None) -> None:
        self._link, self._say, self._device = link, say, device
        self._turn = threading.Lock()

    def settle(self, device: str, precision: str) -> tuple[torch.device, torch.dtype]:
        """Find out on what and in what arithmetic the workers run the network: all of them alike.

        A `ClusterError` says that none answers, that they differ, or that one has a GPU that is not declared.
        """
        if self._device is not None:
            return self._device, choose_precision(precision, self._device)
        refuse_numbered(device)
        with self._needed():
            workers = self._present()
            _refuse_other_versions(self._link, workers)
            found = list(self._ask(workers, look_around, device, precision).values())
        _refuse_unlike(found)
        first = found[0]
        self._say(
            f"cluster  {len(found)} worker{'s' * (len(found) != 1)} at {self._link.name}, each with "
            f"{first.about}"
        )
        return torch.device(first.device), PRECISIONS[first.precision]

    def probe(self, plan: Plan, stem: str, on_step: Callable[[], None]) -> Probe:
        """Have a worker map a piece of a scene, and say what it takes all of them, or raise its error."""
        job = ClusterJob.of(plan, stem)
        with self._needed(), self._own_turn(on_step):
            workers = self._present()
            answers = self._ask([min(workers)], measure_piece, job, resources=job.resources, on_wait=on_step)
        probe: Probe = next(iter(answers.values()))
        return replace(probe, window_seconds=probe.window_seconds / len(workers))

    def compute(
        self,
        work: Work,
        plan: Plan,
        stem: str,
        swaths: Mapping[Span, Span],
        clock: Clock,
        on_pixels: Callable[[int], None],
    ) -> Generator[Span]:
        """Give the output rows of each swath, top to bottom, as soon as it is on disk.

        A `ClusterError` says that a worker cannot do it, none is left, or a swath ends all that compute it.
        """
        if not swaths:
            return
        todo = list(swaths.items())
        # Workers on other machines need not see this one's disk.
        folder = (work.path if self._device is not None else work.shared).absolute()
        run = read_text(work.path / RUN_NAME)
        handover = Handover(folder, run)
        width = plan.geobox.width
        done = plan.geobox.height - sum(rows.size for _, rows in todo)
        on_wait = partial(on_pixels, done * width)
        with ExitStack() as turn:
            turn.enter_context(self._own_turn(on_wait))
            handover.begin()
            job = ClusterJob.of(plan, stem, folder, run)
            turn.enter_context(signed(job))
            workers = self._entered(job, on_wait)
            dispatcher = turn.enter_context(
                Dispatcher(self._link, job, handover, todo, lead_rows(plan), workers, clock, self._say)
            )
            for index, (_, rows) in enumerate(todo):
                ready = False
                while not ready:
                    ready = dispatcher.wait(index, _LOOK)
                    on_pixels((done + dispatcher.rows_written) * width)
                if dispatcher.finished:
                    turn.close()  # the next scene need not wait until these are read
                handover.fetch(rows, work)
                yield rows

    @contextmanager
    def _own_turn(self, on_wait: Callable[[], None]) -> Iterator[None]:
        """Wait until no other scene is in work."""
        while not self._turn.acquire(timeout=_LOOK):
            on_wait()
        try:
            yield
        finally:
            self._turn.release()

    def _entered(self, job: ClusterJob, on_wait: Callable[[], None]) -> frozenset[str]:
        """Show the job to all workers before any of them starts, and return those that can do it: all."""
        with self._needed():
            workers = self._present()
            _refuse_other_versions(self._link, workers)
            hosts = Counter(address.rpartition("://")[2].rpartition(":")[0] for address in workers)
            answers = self._ask(
                workers, enter_job, job, max(hosts.values()), resources=job.resources, on_wait=on_wait
            )
        for address in answers:
            await_answer(job, address, _PATIENCE)
        return frozenset(answers)

    def _present(self) -> frozenset[str]:
        """Return the workers, as soon as there are some."""
        end, told = time.monotonic() + _PATIENCE, False
        while not (workers := self._link.workers()):
            if time.monotonic() > end:
                raise ClusterError(
                    f"the scheduler at {self._link.name} has no workers: start some with dask worker, as "
                    "many as there are GPUs"
                )
            if not told:
                self._say(f"waiting for workers at {self._link.name}")
                told = True
            time.sleep(_LOOK)
        return workers

    def _ask(
        self,
        workers: Iterable[str],
        function: Callable[..., Any],
        *arguments: Any,
        resources: Mapping[str, float] | None = None,
        on_wait: Callable[[], None] = lambda: None,
    ) -> dict[str, Any]:
        """Have workers call a function, side by side, and return what each gave, by address.

        Those that are busy or gone for long are left out, unless all are. `on_wait` may raise to stop.
        """
        futures = {
            worker: self._link.submit(function, *arguments, worker=worker, resources=resources)
            for worker in sorted(workers)
        }
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end and not all(future.done() for future in futures.values()):
            on_wait()
            time.sleep(_LOOK)
        answers = {worker: outcome(future) for worker, future in futures.items() if future.done()}
        for answer in answers.values():
            if isinstance(answer, LinkLostError | ResultLostError):
                raise LinkLostError from answer
        if not answers:
            raise ClusterError(
                f"none of the workers at {self._link.name} answered within {_PATIENCE:.0f} s: other work "
                "keeps them busy, or they lack the resource GPU; wait, or start workers of their own, with "
                'dask worker --resources "GPU=1" for GPUs'
            )
        for address, answer in answers.items():
            if isinstance(answer, PfmapError):
                raise ClusterError(f"worker {address}: {answer}") from answer
            if isinstance(answer, BaseException):
                raise answer
        return answers

    @contextmanager
    def _needed(self) -> Iterator[None]:
        """A scheduler that goes before there is anything to lose ends the run."""
        try:
            yield
        except LinkLostError as error:
            raise ClusterError(
                f"the scheduler at {self._link.name} is gone: start it again, and run the same command again"
            ) from error


def refuse_numbered(device: str) -> None:
    """Refuse one GPU by its number."""
    if device.startswith("cuda:"):
        raise ClusterError(
            f"device {device!r} names one GPU of this machine; workers have a GPU each: use device='cuda'"
        )


def _refuse_other_versions(link: Link, workers: Collection[str]) -> None:
    """Refuse workers with another pfmap than this one, before anything of it is sent to them."""

    def tell() -> str | None:  # sent as it is, for a worker may have no pfmap
        try:
            from pfmap import version
        except ImportError:
            return None
        return version.__version__

    versions = link.run(tell, workers=workers)
    others = sorted(address for address, version in versions.items() if version != __version__)
    if not others:
        return
    has = versions[others[0]]
    words = f"has pfmap {has}" if has else "has no pfmap"
    if isinstance(has, BaseException):
        words = f"cannot say which pfmap it has ({' '.join(str(has).split())}): is its Python another?"
    more = f" ({len(others)} of {len(versions)} workers differ)" if len(others) > 1 else ""
    raise ClusterError(
        f"worker {others[0]} {words}, this machine has pfmap {__version__}{more}: install "
        f"pfmap[dask] {__version__} in the workers' environment"
    )


def _refuse_unlike(found: Sequence[Abilities]) -> None:
    """Refuse workers that would not give the same pixels, or run more than one swath on a GPU."""
    first = found[0]
    for other in found:
        if (other.device, other.precision) != (first.device, first.precision):
            raise ClusterError(
                f"worker {first.address} would run on {first.device} in {first.precision}, worker "
                f"{other.address} on {other.device} in {other.precision}: all have to do alike; say how with "
                "device= and precision=, or leave out one kind"
            )
        if other.device == "cuda" and other.gpus < 1:
            raise ClusterError(
                f"worker {other.address} has a GPU that was not declared, so that nothing keeps it to one "
                'swath at a time: start it with dask worker --resources "GPU=1", one worker per GPU'
            )
