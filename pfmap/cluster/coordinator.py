"""Swaths on the workers of a Dask cluster: processes of this machine, or a cluster that runs already."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from pfmap.cluster import worker as there
from pfmap.cluster.dispatch import Dispatcher
from pfmap.cluster.handover import Handover
from pfmap.cluster.link import Link, LinkLostError, local_cluster, quiet
from pfmap.cluster.task import Abilities, ClusterJob
from pfmap.core.errors import ClusterError, PfmapError
from pfmap.core.files import file_names, read_text, remove, write_text
from pfmap.core.grid import Span
from pfmap.core.stages import Clock
from pfmap.mapping.plan import Plan
from pfmap.mapping.runtime import Probe
from pfmap.mapping.swaths import lead_rows
from pfmap.mapping.work import RUN_NAME, Work
from pfmap.model.device import PRECISIONS, choose_device, choose_precision

_PATIENCE = 60.0  # seconds that workers have to appear, and to answer
_LOOK = 0.1

T = TypeVar("T")


class Cluster:
    """A cluster that maps scenes, one after the other. Made by `running_cluster` and `local_workers`.

    Threads may map several scenes with it: each waits until all swaths of the one before are on disk.

    Args:
        link: to its scheduler.
        say: called with lines for people.
        device: what its workers run the network on, where they are processes of this machine.
    """

    def __init__(self, link: Link, say: Callable[[str], None], device: torch.device | None = None) -> None:
        self._link, self._say, self._device = link, say, device
        self._local = device is not None
        self._turn = threading.Lock()

    def settle(self, device: str, precision: str) -> tuple[torch.device, torch.dtype]:
        """Find out on what and in what arithmetic the workers run the network: all of them alike.

        Args:
            device: auto, cpu, cuda or mps.
            precision: auto, or by name.

        Raises:
            ClusterError: no worker answers, they differ, or one has a GPU that was not declared.
        """
        if self._device is not None:
            return self._device, choose_precision(precision, self._device)
        _refuse_numbered(device)
        with self._needed():
            workers = self._present()
            self._link.refuse_other_versions(workers)
            answers = self._link.ask(
                there.look_around,
                device,
                precision,
                workers=workers,
                seconds=_PATIENCE,
                resources={},
                on_wait=lambda: None,
            )
        found = self._agreed(answers)
        _refuse_unlike(found)
        first = found[0]
        self._say(
            f"cluster  {len(found)} worker{'s' * (len(found) != 1)} at {self._link.name}, each with "
            f"{first.about}"
        )
        return torch.device(first.device), PRECISIONS[first.precision]

    def probe(self, plan: Plan, stem: str, on_step: Callable[[], None]) -> Probe:
        """Have a worker map a piece of a scene, and say what it takes all of them.

        Args:
            plan: how the scene is to be mapped.
            stem: what the outputs' names begin with.
            on_step: called often; it may raise to stop.

        Raises:
            PfmapError: the worker cannot do it.
        """
        job = ClusterJob.of(plan, stem, None)
        with self._needed(), self._own_turn(on_step):
            workers = self._present()
            first = sorted(workers)[:1]
            answers = self._link.ask(
                there.measure, job, workers=first, seconds=_PATIENCE, resources=job.resources, on_wait=on_step
            )
        probe: Probe = self._agreed(answers)[0]
        return replace(probe, window_seconds=probe.window_seconds / len(workers))

    def compute(
        self,
        work: Work,
        plan: Plan,
        stem: str,
        swaths: Mapping[Span, Span],
        clock: Clock,
        on_pixels: Callable[[int], None],
    ) -> Generator[Span, None, None]:
        """Give the output rows of each swath, top to bottom, as soon as it is on disk.

        Args:
            work: the opened work folder.
            plan: what is being done.
            stem: what the outputs' names begin with.
            swaths: output rows by window rows of those that are not on disk yet.
            clock: where the workers' times go.
            on_pixels: called often, with the pixels of the outputs that are done; it may raise to stop.

        Raises:
            ClusterError: a worker cannot do it, none is left, or a swath ends every worker that computes it.
            PfmapError: the scene cannot be read, or the work folder not be written.
        """
        if not swaths:
            return
        todo = list(swaths.items())
        handover = Handover(self._folder(work), read_text(work.path / RUN_NAME))
        done = plan.geobox.height - sum(rows.size for _, rows in todo)
        with ExitStack() as turn:
            turn.enter_context(self._own_turn(lambda: on_pixels(done * plan.geobox.width)))
            dispatcher = turn.enter_context(
                self._dispatching(work, handover, plan, stem, todo, clock, on_pixels, done)
            )
            for index, (_, rows) in enumerate(todo):
                ready = False
                while not ready:
                    ready = dispatcher.wait(index, _LOOK)
                    on_pixels((done + dispatcher.rows_written) * plan.geobox.width)
                if dispatcher.finished:
                    turn.close()  # the next scene need not wait until these are read
                handover.fetch(rows, work)
                yield rows

    @contextmanager
    def _dispatching(
        self,
        work: Work,
        handover: Handover,
        plan: Plan,
        stem: str,
        todo: Sequence[tuple[Span, Span]],
        clock: Clock,
        on_pixels: Callable[[int], None],
        done: int,
    ) -> Iterator[Dispatcher]:
        """Have workers compute these swaths."""
        folder = self._folder(work)
        handover.begin()
        job = ClusterJob.of(plan, stem, folder)
        try:
            write_text(folder / job.sign_name, job.sign)
            workers = self._entered(job, lambda: on_pixels(done * plan.geobox.width))
            dispatcher = Dispatcher(self._link, job, todo, lead_rows(plan), workers, clock, self._say)
            dispatcher.start()
            try:
                yield dispatcher
            finally:
                dispatcher.stop()
        finally:
            with suppress(OSError):  # whatever ended the run says more
                for name in file_names(folder, job.id):
                    remove(folder / name)

    def _folder(self, work: Work) -> Path:
        """Return where swaths are handed over: workers on other machines need not see this one's disk."""
        return (work.path if self._local else work.shared).absolute()

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
        assert job.folder is not None
        with self._needed():
            workers = self._present()
            self._link.refuse_other_versions(workers)
            hosts = Counter(_host(address) for address in workers)
            answers = self._link.ask(
                there.enter, job, max(hosts.values()),
                workers=workers, seconds=_PATIENCE, resources=job.resources, on_wait=on_wait,
            )  # fmt: skip
        self._agreed(answers)
        for address in answers:
            _await_answer(job, address)
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

    def _agreed(self, answers: Mapping[str, T]) -> Sequence[T]:
        """Return what workers gave, unless one refused, or none answered."""
        if not answers:
            raise ClusterError(
                f"none of the workers at {self._link.name} answered within {_PATIENCE:.0f} s: other work "
                "keeps them busy, or they lack the resource GPU; wait, or start workers of their own, with "
                'dask worker --resources "GPU=1" for GPUs'
            )
        for address, answer in sorted(answers.items()):
            if isinstance(answer, PfmapError):
                raise ClusterError(f"worker {address}: {answer}") from answer
            if isinstance(answer, BaseException):
                raise answer
        return [answers[address] for address in sorted(answers)]

    @contextmanager
    def _needed(self) -> Iterator[None]:
        """A scheduler that goes before there is anything to lose ends the run."""
        try:
            yield
        except LinkLostError as error:
            raise ClusterError(
                f"the scheduler at {self._link.name} is gone: start it again, and run the same command again"
            ) from error


@contextmanager
def running_cluster(where: str, say: Callable[[str], None]) -> Iterator[Cluster]:
    """Use a cluster that runs already.

    Args:
        where: its scheduler's address, such as tcp://10.0.0.1:8786, or its scheduler file.
        say: called with lines for people.

    Raises:
        ClusterError: nobody answers there.
    """
    with quiet():
        link = Link(where, say)
        try:
            yield Cluster(link, say)
        finally:
            link.close()


@contextmanager
def local_workers(workers: int, device: str, say: Callable[[str], None]) -> Iterator[Cluster]:
    """Start worker processes on this machine; they end with this process at the latest.

    Args:
        workers: how many.
        device: auto, cpu, cuda or mps.
        say: called with lines for people.

    Raises:
        ClusterError: more than there are GPUs.
    """
    _refuse_numbered(device)
    chosen = choose_device(device)
    with quiet(), local_cluster(workers, chosen) as cluster:
        link = Link(cluster, say)
        try:
            for address in link.workers():  # torch loads there while the scene is being looked at here
                link.submit(there.look_around, device, "auto", worker=address).add_done_callback(
                    lambda _: None
                )
            yield Cluster(link, say, chosen)
        finally:
            link.close()


def _refuse_numbered(device: str) -> None:
    if device.startswith("cuda:"):
        raise ClusterError(
            f"device {device!r} names one GPU of this machine; workers have a GPU each: use device='cuda'"
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
                "swath "
                'at a time: start it with dask worker --resources "GPU=1", one worker per GPU'
            )


def _await_answer(job: ClusterJob, address: str) -> None:
    """See what a worker left in the work folder."""
    assert job.folder is not None
    name = there.answer_name(job, address)
    end = time.monotonic() + _PATIENCE
    while name not in file_names(job.folder, job.id):
        if time.monotonic() > end:
            raise ClusterError(
                f"worker {address}: what it writes into {job.folder.parent} does not arrive here: choose a "
                "folder on storage that all machines share with output_dir="
            )
        time.sleep(_LOOK)


def _host(address: str) -> str:
    return address.rpartition("://")[2].rpartition(":")[0]
