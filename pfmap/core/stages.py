"""The stages of a pipeline: each in a thread of its own, and what time each takes.

Stages are generators, each reading ahead from the one before it: then all work at once, at most `depth` items
apart, and an error or an early end anywhere stops them all. A `Feed` is the other way round: it hands items
to a library that wants to iterate over them itself. A `Clock` says which stage the time goes to.
"""

import atexit
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")

_END = object()
_PATIENCE = 0.1  # seconds between looks at whether to stop
_here = threading.local()  # .stop: the event that ends this thread


class _Stopped(BaseException):
    """Ends a stage whose items nobody wants any more."""


def read_ahead(items: Generator[T, None, None], depth: int, *, name: str) -> Generator[T, None, None]:
    """Run an iterator in a thread called `pfmap-` and its `name`; its errors are raised here, in order.

    Up to `depth` items are ready or being worked on, and the thread prepares one more. Nothing here holds on
    to an item after that: some fill a good part of the memory.

    When the caller closes this generator early, the thread stops after the item it is at, and closes `items`
    itself: what they hold, such as GDAL's settings, belongs to that thread. If `items` read ahead too, they
    stop waiting for their own.
    """
    ready: queue.SimpleQueue[object] = queue.SimpleQueue()
    free = threading.Semaphore(depth)
    stop = threading.Event()

    def put(item: object) -> bool:
        while not stop.is_set():
            if free.acquire(timeout=_PATIENCE):
                ready.put(item)
                return True
        return False

    def work() -> None:
        _here.stop = stop
        try:
            for item in items:
                if not put(item):
                    return
                del item
            put(_END)
        except BaseException as error:
            put(error)
        finally:
            items.close()

    thread = threading.Thread(target=work, name=f"pfmap-{name}", daemon=True)
    thread.start()
    try:
        while (item := _take(ready)) is not _END:
            if isinstance(item, BaseException):
                raise item
            yield item  # type: ignore[misc]
            del item
            free.release()
    finally:
        stop.set()
        thread.join()


def _take(ready: "queue.SimpleQueue[object]") -> object:
    """Wait for the next item, unless this thread is itself to stop."""
    stop: threading.Event | None = getattr(_here, "stop", None)
    while stop is None or not stop.is_set():
        try:
            return ready.get(timeout=_PATIENCE)
        except queue.Empty:
            continue
    raise _Stopped


class Feed(Generic[T]):
    """Hands items to a function that iterates over them in a thread.

    Whoever feeds is at most one item ahead. A feed that is given up must be cancelled, else its thread stays
    until the process ends. Errors of the function are raised by the next `put` or `finish`.
    """

    def __init__(self, consume: Callable[[Iterator[T]], None]) -> None:
        self._ready: queue.Queue[object] = queue.Queue(maxsize=1)
        self._stop = threading.Event()
        self._error: BaseException | None = None

        def work() -> None:
            try:
                consume(self._items())
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=work, name="pfmap-feed", daemon=True)
        self._thread.start()
        atexit.register(self.cancel)  # a thread in the midst of GDAL must not see Python go

    def put(self, item: T) -> None:
        """Hand over an item, as soon as the one before has been taken."""
        while self._thread.is_alive():
            try:
                self._ready.put(item, timeout=_PATIENCE)
            except queue.Full:
                continue
            return
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Say that there are no more items, and wait for the function's end."""
        self.put(_END)  # type: ignore[arg-type]
        self._thread.join()
        self.cancel()
        if self._error is not None:
            raise self._error

    def cancel(self) -> None:
        """End the items early, whatever becomes of it, and wait for the function's end."""
        self._stop.set()
        self._thread.join()
        atexit.unregister(self.cancel)

    def _items(self) -> Iterator[T]:
        while not self._stop.is_set():
            try:
                item = self._ready.get(timeout=_PATIENCE)
            except queue.Empty:
                continue
            if item is _END:
                return
            yield item  # type: ignore[misc]
            del item


class Clock:
    """Adds up seconds of work per stage; stages may run in threads of their own, and in several at once."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        """Of work per stage, so far."""
        self._lock = threading.Lock()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time spent inside to `name`."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.add({name: time.perf_counter() - begun})

    def add(self, seconds: Mapping[str, float]) -> None:
        """Count seconds of work per stage that were spent elsewhere."""
        with self._lock:
            for name, spent in seconds.items():
                self.seconds[name] = self.seconds.get(name, 0.0) + spent
