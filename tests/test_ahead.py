"""Threads that read ahead: order, errors, and stopping."""

import threading
import time
import weakref
from collections.abc import Generator

import pytest

from pfmap.ahead import read_ahead
from pfmap.errors import SourceError


def test_errors_of_the_reading_thread_arrive_in_order() -> None:
    def items() -> Generator[int, None, None]:
        yield 1
        yield 2
        raise SourceError("broken")

    ahead = read_ahead(items(), 8)
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(SourceError, match="broken"):
        next(ahead)


def test_stopping_early_closes_the_items_in_their_own_thread() -> None:
    threads = []

    def items() -> Generator[int, None, None]:
        try:
            yield from range(10**9)
        finally:
            threads.append(threading.current_thread().name)

    ahead = read_ahead(items(), 2)
    assert next(ahead) == 0
    ahead.close()
    assert threads == ["pfmap-ahead"]
    assert not any(t.name == "pfmap-ahead" for t in threading.enumerate())


@pytest.mark.parametrize("depth", [1, 3])
def test_no_more_items_are_alive_than_said(depth: int) -> None:
    class Item:
        pass

    alive: weakref.WeakSet[Item] = weakref.WeakSet()
    most = 0

    def items() -> Generator[Item, None, None]:
        nonlocal most
        for _ in range(40):
            item = Item()
            alive.add(item)
            most = max(most, len(alive))
            yield item
            del item

    count = 0
    for item in read_ahead(items(), depth):
        time.sleep(0.002)
        count += 1
        del item
    assert count == 40
    assert 2 <= most <= depth + 1
