"""Prepare the next items in a thread while the ones before are being worked on."""

import queue
import threading
from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")

_END = object()


def read_ahead(items: Generator[T, None, None], depth: int) -> Generator[T, None, None]:
    """Run an iterator in a thread, `depth` items ahead; its errors are raised here, in order.

    When the caller closes this generator early, the thread stops after the item it is at, and closes `items`
    itself: what they hold, such as GDAL's settings, belongs to that thread.
    """
    ready: queue.Queue[object] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def put(item: object) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item):
                    return
            put(_END)
        except BaseException as error:
            put(error)
        finally:
            items.close()

    thread = threading.Thread(target=work, name="pfmap-ahead", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not _END:
            if isinstance(item, BaseException):
                raise item
            yield item  # type: ignore[misc]
    finally:
        stop.set()
        thread.join()
