"""Hand runs of swaths to workers until all are on disk, even if workers or the scheduler fail on the way.

What is on disk is the truth: a swath is finished when its folder is there. Dask is told of one run per worker
at a time, by name and address; its scheduler never holds more than that, however many swaths there are.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Self

from distributed import Future
from distributed.scheduler import KilledWorker

from pfmap.cluster.handover import AbandonedError, ClusterJob, Done, Handover, UnknownJobError
from pfmap.cluster.link import PATIENCE, Link, LinkLostError, ResultLostError, outcome
from pfmap.cluster.runs import Run, Runs
from pfmap.cluster.worker import compute_swaths, enter_job, shorten_run
from pfmap.core.errors import ClusterError, PfmapError
from pfmap.core.grid import Span
from pfmap.core.stages import Clock

_DEATHS = 3
"""Workers that a swath may cost before it is taken for the cause."""
_LOOK = 0.1
_COUNT = 1.0  # seconds between looks at which workers are there
_VISIBLE = 60.0  # seconds that shared storage may take to show what another machine wrote


class Dispatcher:
    """Has swaths computed, in a thread of its own, as long as its context lasts.

    Each swath is its window rows and its output rows; `lead` window rows above a run are computed again. The
    workers were checked, and may be given runs; the clock gets their seconds.
    """

    def __init__(
        self,
        link: Link,
        job: ClusterJob,
        handover: Handover,
        swaths: Sequence[tuple[Span, Span]],
        lead: int,
        workers: frozenset[str],
        clock: Clock,
        say: Callable[[str], None],
    ) -> None:
        self._link, self._job, self._swaths, self._lead = link, job, swaths, lead
        self._handover, self._clock, self._say = handover, clock, say
        self.rows_written = 0
        """Output rows of the swaths that are on disk."""
        self._runs = Runs([span.size for span, _ in swaths], job.id)
        self._alive = self._allowed = workers
        self._refused: set[str] = set()
        self._entering: dict[str, Future[Any]] = {}
        self._computing: dict[str, Future[Any]] = {}
        self._deaths: Counter[int] = Counter()
        self._counted = time.monotonic()
        self._seen = self._counted  # when a worker was last there
        self._wake, self._stop = threading.Event(), threading.Event()
        self._news = threading.Condition()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work_off, name="pfmap-dispatch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Give up what is in work."""
        self._stop.set()
        self._wake.set()
        self._thread.join()
        for future in (*self._computing.values(), *self._entering.values()):
            with suppress(Exception):  # of a scheduler that is gone
                future.cancel()

    @property
    def finished(self) -> bool:
        """Whether all swaths are on disk."""
        return self._error is None and not self._runs.left and not self._thread.is_alive()

    def wait(self, index: int, seconds: float) -> bool:
        """Wait for a swath, so long at most; say whether it is on disk, or raise why it never will be."""
        with self._news:
            if not self._runs.written[index] and self._error is None:
                self._news.wait(seconds)
            if self._runs.written[index]:
                return True
            if self._error is not None:
                raise self._error
        return False

    def _work_off(self) -> None:
        try:
            while self._runs.left and not self._stop.is_set():
                try:
                    self._step()
                except LinkLostError:
                    self._start_over()
                # Many workers are looked after less often: each look is a question to the storage.
                self._wake.wait(max(1, len(self._computing) / 50) * self._handover.look)
                self._wake.clear()
            self._settle_up()
        except BaseException as error:
            with self._news:
                self._error = error
                self._news.notify_all()

    def _settle_up(self) -> None:
        """Wait a moment for the tasks whose last swath is on disk, to know where their time went."""
        end = time.monotonic() + _COUNT
        while self._computing and time.monotonic() < end and not self._stop.is_set():
            for address, future in list(self._computing.items()):
                if future.done():
                    answer = outcome(self._computing.pop(address))
                    if isinstance(answer, Done):
                        self._clock.add(answer.seconds)
            self._stop.wait(0.01)

    def _step(self) -> None:
        self._count_workers()
        for address, future in list(self._entering.items()):
            if future.done():
                self._admit(address, self._entering.pop(address))
        for address, run in list(self._runs.running.items()):
            self._look_at(run)
            if self._computing[address].done():
                self._end(run, outcome(self._computing.pop(address)))
        self._hand_out()

    def _count_workers(self) -> None:
        """See which workers are there, and what that changes."""
        now = time.monotonic()
        if now - self._counted < _COUNT and self._alive:
            return
        self._counted = now
        self._alive = self._link.workers()
        for address in [a for a in self._computing if a not in self._alive]:
            if self._computing[address].done():
                continue  # it ended before it went
            future, run = self._computing.pop(address), self._runs.running[address]
            self._say(f"warning: worker {address} is gone: others go on from its last finished swath")
            self._give_back(run, blame=True)
            future.cancel()
        for address in [a for a in self._entering if a not in self._alive]:
            self._entering.pop(address).cancel()
        self._allowed &= self._alive
        self._refused &= self._alive
        new = self._alive - self._allowed - self._refused - set(self._entering)
        for address in new:
            self._entering[address] = self._submit(address, enter_job, self._job, 1)
        if self._allowed:
            self._seen = now
        elif now - self._seen > PATIENCE:
            raise ClusterError(
                f"no worker that can be used has been at {self._link.name} for {PATIENCE / 60:.0f} minutes: "
                "start some; the same command goes on from the last finished swath"
            )

    def _admit(self, address: str, future: "Future[Any]") -> None:
        """Use a worker that came later, if it can do the job."""
        answer = outcome(future)
        if isinstance(answer, LinkLostError):
            raise answer
        if isinstance(answer, KilledWorker | ResultLostError):
            return
        if isinstance(answer, BaseException):
            self._refused |= {address}
            self._say(f"warning: worker {address} is not used: it {answer}")
        else:
            self._allowed |= {address}

    def _look_at(self, run: Run) -> None:
        """Note what has been written of a run."""
        new = list(self._runs.advance(run, lambda index: self._handover.has(self._swaths[index][1])))
        if new:
            with self._news:
                self.rows_written += sum(self._swaths[index][1].size for index in new)
                self._news.notify_all()

    def _end(self, run: Run, answer: Any) -> None:
        """See to a run whose task has ended, one way or the other."""
        if isinstance(answer, Done):
            self._await_storage(run, answer)
            self._clock.add(answer.seconds)
        elif isinstance(answer, UnknownJobError):  # the worker is a new one, at the old one's address
            self._allowed -= {run.worker}
        elif isinstance(answer, PfmapError):
            raise type(answer)(f"{answer} (on worker {run.worker})") from answer
        elif not isinstance(answer, KilledWorker | AbandonedError | ResultLostError):
            raise answer
        self._give_back(run, blame=isinstance(answer, KilledWorker))

    def _give_back(self, run: Run, *, blame: bool = False) -> None:
        self._look_at(run)
        self._runs.end(run)
        if not blame or run.next >= run.stop:
            return
        self._deaths[run.next] += 1
        if self._deaths[run.next] > _DEATHS:
            rows = self._swaths[run.next][1]
            raise ClusterError(
                f"{self._deaths[run.next]} workers in a row ended while they mapped rows {rows.start:,} to "
                f"{rows.stop:,} of the map, {run.worker} last: see what their logs say, such as too little "
                "memory (dask worker --memory-limit 0 leaves it to the system); the same command goes on "
                "from there"
            )

    def _await_storage(self, run: Run, done: Done) -> None:
        """Wait until what a worker says it wrote is seen here: shared storage may take a while."""
        end = time.monotonic() + _VISIBLE
        missing = [rows for rows in done.rows if not self._handover.has(rows)]
        while missing and not self._stop.is_set():
            if time.monotonic() > end:
                raise ClusterError(
                    f"worker {run.worker} has written rows {missing[0].start:,} to {missing[0].stop:,} of "
                    f"the map, and they are not seen here after {_VISIBLE:.0f} s: is the folder on storage "
                    "that all machines share?"
                )
            missing = self._handover.missing(missing)
            time.sleep(_LOOK)
        self._look_at(run)

    def _hand_out(self) -> None:
        """Give runs to workers that have none."""
        idle = sorted(self._allowed - set(self._runs.running))
        for number, address in enumerate(idle):
            if not self._runs.waiting:
                self._take_over()
            run = self._runs.take(address, len(idle) - number)
            if run is None:
                return
            swaths = self._swaths[run.start : run.stop]
            self._computing[address] = self._submit(address, compute_swaths, self._job.id, run.id, swaths)

    def _submit(self, address: str, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        resources = self._job.resources
        return self._link.submit(
            function, *arguments, worker=address, resources=resources, on_done=self._wake.set
        )

    def _take_over(self) -> None:
        """Take the end of a long run from its worker."""
        if found := self._runs.split(self._lead):
            run, stop = found
            answers = self._link.run(shorten_run, run.id, stop - run.start, workers=[run.worker])
            keeps = answers.get(run.worker)
            if isinstance(keeps, int):  # else the worker is gone, or going
                self._runs.shorten(run, run.start + keeps)

    def _start_over(self) -> None:
        """Go on with a scheduler that knows nothing."""
        for run in list(self._runs.running.values()):
            self._give_back(run)
        self._computing.clear()
        self._entering.clear()

        def stopped() -> None:
            if self._stop.is_set():
                raise LinkLostError

        self._link.reconnect(stopped)
        self._alive = self._allowed = frozenset()
        self._seen = time.monotonic()
