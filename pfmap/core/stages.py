"""The stages of a pipeline: each in a thread of its own, what time each takes, and what tracing hands on.

Stages are generators, each reading ahead from the one before it: then all work at once, at most `depth` items
apart, and an error or an early end anywhere stops them all. A `Feed` is the other way round: it hands items
to a library that wants to iterate over them itself. A `Clock` says which stage the time goes to. `Regions`
are what tracing hands to the writing of objects.
"""

import atexit
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, TypeVar

import numpy as np

from pfmap.core.arrays import Bools, Bytes, Floats, Ints, Longs

T = TypeVar("T")

_END = object()
_PATIENCE = 0.1  # seconds between looks at whether to stop
_here = threading.local()  # .stop: the event that ends this thread


class _Stopped(BaseException):
    """Ends a stage whose items nobody wants any more."""


def read_ahead(items: Generator[T], depth: int, *, name: str) -> Generator[T]:
    """Run an iterator in a thread called `pfmap-` and its `name`; its errors are raised here, in order.

    Up to `depth` items are ready or being worked on, and the thread prepares one more. Nothing here holds on
    to an item after that: some fill a good part of the memory. When the caller closes this generator early,
    the thread stops after the item it is at, and closes `items` itself: what they hold, such as GDAL's
    settings, belongs to that thread. If `items` read ahead too, they stop waiting for their own.
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


class Message(str):
    """A line for people, which programs that follow a run understand too."""

    def __new__(cls, text: str, event: str, facts: Mapping[str, Any]) -> "Message":
        """Return `text` as a message about a kind of `event`, with what it says as a table for JSON."""
        made = super().__new__(cls, text)
        made.event, made.facts = event, facts
        return made

    event: str
    """What happened: see docs/programs.md; "" where a message before this one said it to programs."""
    facts: Mapping[str, Any]


def stage(name: str, text: str) -> Message:
    """Return the message that a run is at a stage now: its name for programs, its text for people."""
    return Message(text, "stage", {"stage": name, "text": text})


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

    def timed(self, name: str, items: Iterator[T]) -> Iterator[T]:
        """Give items, and count the time that each takes to come to `name`."""
        while True:
            with self.stage(name):
                item = next(items, _END)
            if item is _END:
                return
            yield item  # type: ignore[misc]
            del item

    def add(self, seconds: Mapping[str, float]) -> None:
        """Count seconds of work per stage that were spent elsewhere."""
        with self._lock:
            for name, spent in seconds.items():
                self.seconds[name] = self.seconds.get(name, 0.0) + spent


@dataclass(frozen=True, slots=True)
class Regions:
    """4-connected regions of equal class, or objects in one that touch, in pixels; mostly ``(n,)`` arrays."""

    classes: Ints
    coords: Floats
    """``(points, 2)`` columns and rows (x, y) of pixel corners; rings are closed."""
    ring_offsets: Longs
    """``(rings + 1,)``: where each ring starts in `coords`."""
    region_offsets: Longs
    """``(n + 1,)``: where each region starts in the rings; the first ring is the outer one."""
    ids: Longs
    """Place of the first pixel in reading order: row * width + column."""
    object_ids: Longs
    """The same of the object, such as one of the houses in a row, where this is a piece of it; else `ids`."""
    region_ids: Longs
    """The same of the connected region of the class, in which several objects may touch."""
    whole: Bools
    """Whether it is a whole object, not a piece of one."""
    pixels: Longs
    confidence_sum: Longs
    """Of the pixels, in percent."""
    confidence_min: Bytes
    """The least, in percent."""
    at_edge: Bools
    """Whether it touches nodata or the raster's edge."""

    @classmethod
    def none(cls) -> "Regions":
        """Return no region."""
        kinds = {"classes": "int32", "confidence_min": "uint8", "whole": "bool", "at_edge": "bool"}
        arrays: dict[str, Any] = {n.name: np.zeros(0, kinds.get(n.name, "int64")) for n in fields(cls)}
        start = np.zeros(1, dtype=np.int64)
        return cls(**arrays | {"coords": np.zeros((0, 2)), "ring_offsets": start, "region_offsets": start})

    @classmethod
    def join(cls, parts: Sequence["Regions"]) -> "Regions":
        """Put several into one."""
        if len(parts := list(filter(len, parts))) <= 1:
            return parts[0] if parts else cls.none()
        offsets = {"ring_offsets": "coords", "region_offsets": "ring_offsets"}
        joined = {}
        for item in fields(cls):
            arrays = [getattr(part, item.name) for part in parts]
            if item.name in offsets:
                ends = np.cumsum([0] + [array[-1] for array in arrays])
                arrays = [arrays[0][:1], *(array[1:] + end for array, end in zip(arrays, ends, strict=False))]
            joined[item.name] = np.concatenate(arrays)
        return cls(**joined)

    def part(self, start: int, stop: int) -> "Regions":
        """Return those from `start` to before `stop`; their arrays are views, apart from the offsets."""
        rings = self.region_offsets[start : stop + 1]
        points = self.ring_offsets[rings[0] : rings[-1] + 1]
        special = {
            "coords": self.coords[points[0] : points[-1]],
            "ring_offsets": points - points[0],
            "region_offsets": rings - rings[0],
        }
        names = [item.name for item in fields(self) if item.name not in special]
        return Regions(**special, **{name: getattr(self, name)[start:stop] for name in names})

    def moved(self, row: int, col: int, narrow: int, wide: int) -> "Regions":
        """Return them as regions of a `wide` raster in which their own, `narrow`, begins at row and col."""
        moved: dict[str, Any] = {"coords": self.coords + np.array([col, row])}
        for name in ("ids", "object_ids", "region_ids"):
            y, x = np.divmod(getattr(self, name), narrow)
            moved[name] = (y + row) * wide + x + col
        return replace(self, **moved)

    def united(self, starts: Longs) -> "Regions":
        """Return what is said of ``(m,)`` objects, of which each is the pieces from one of the starts on.

        Outlines stay those of the pieces.
        """
        first = {name: getattr(self, name)[starts] for name in ("classes", "object_ids", "region_ids")}
        sums = {name: np.add.reduceat(getattr(self, name), starts) for name in ("pixels", "confidence_sum")}
        least = np.minimum.reduceat(self.confidence_min, starts)
        at_edge = np.logical_or.reduceat(self.at_edge, starts)
        return replace(self, **first, **sums, confidence_min=least, at_edge=at_edge)

    def __len__(self) -> int:
        return len(self.classes)
