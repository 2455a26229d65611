"""Share swaths out to workers: which run of neighbouring ones each computes next, and who takes over whose.

Workers get runs of neighbouring swaths: the window row above a run is computed twice, once for the swath that
it belongs to and once for the blend below, so that runs of single swaths would nearly double the work. A
worker that has nothing left to do takes over the end of the run that has most ahead of it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

MOST_ROWS = 32
"""Window rows of a run: the one above it is then 3 % of the work, and the first swaths, which the rest of the
pipeline waits for, are not long in coming."""
_LAST_ROWS = 48  # of the last runs, so that no small ones are left over


@dataclass(slots=True)
class Run:
    """Neighbouring swaths that a worker computes."""

    id: str
    worker: str
    start: int
    """The first swath, counted over all that are to be computed."""
    stop: int
    """Behind the last one."""
    next: int
    """The first one that is not known to be on disk."""


class Runs:
    """Keeps track of which swaths wait, are in work, and are on disk; of each its window rows are given."""

    def __init__(self, rows: Sequence[int], name: str) -> None:
        self._rows, self._name, self._given = rows, name, 0
        self.waiting = [(0, len(rows))] if rows else []
        """Swaths that nobody computes, as runs without what is in work or on disk."""
        self.running: dict[str, Run] = {}
        self.written = bytearray(len(rows))
        self.left = len(rows)

    def take(self, worker: str, idle: int) -> Run | None:
        """Give a run to a worker that has none; None if no swath waits.

        So many are `idle`, itself included: together they take what waits, if it is little.
        """
        if not self.waiting:
            return None
        start, end = self.waiting.pop(0)
        waiting = sum(self._height(*gap) for gap in [(start, end), *self.waiting])
        share = -(-waiting // idle)
        wanted = share if share <= _LAST_ROWS else MOST_ROWS
        stop, rows = start, 0
        while stop < end and (stop == start or rows + self._rows[stop] / 2 <= wanted):
            rows += self._rows[stop]
            stop += 1
        if stop < end:
            self.waiting.insert(0, (stop, end))
        self._given += 1
        run = self.running[worker] = Run(f"{self._name}-{self._given}", worker, start, stop, start)
        return run

    def advance(self, run: Run, is_written: Callable[[int], bool]) -> Iterator[int]:
        """Note, and give, the swaths of a run that have been written since the last look."""
        while run.next < run.stop and is_written(run.next):
            if not self.written[run.next]:
                self.written[run.next] = True
                self.left -= 1
                yield run.next
            run.next += 1

    def end(self, run: Run) -> None:
        """Take a run from its worker; what is not on disk waits again."""
        del self.running[run.worker]
        self._put_back(run.next, run.stop)

    def split(self, lead: int) -> tuple[Run, int] | None:
        """Find the run with most ahead, and the first swath that it is to give up to a worker without one.

        None where no run has enough ahead for both to gain: `lead` window rows above it are computed again.
        """
        ahead = {id_: self._height(run.next + 1, run.stop) for id_, run in self.running.items()}
        if not ahead:
            return None
        run = self.running[max(ahead, key=lambda id_: ahead[id_])]
        in_work = self._height(run.next, min(run.next + 1, run.stop)) / 2  # on average
        rows, stop, given = ahead[run.worker] + in_work, run.stop, 0
        while stop > run.next + 1 and 2 * (given + self._rows[stop - 1]) + lead <= rows:
            stop -= 1
            given += self._rows[stop]
        return (run, stop) if given else None

    def shorten(self, run: Run, stop: int) -> None:
        """Have a run end before a swath; those after it wait again."""
        self._put_back(max(stop, run.next), run.stop)
        run.stop = max(stop, run.next)

    def _height(self, start: int, stop: int) -> int:
        return sum(self._rows[start:stop])

    def _put_back(self, start: int, stop: int) -> None:
        if start < stop:
            self.waiting = sorted([*self.waiting, (start, stop)])
