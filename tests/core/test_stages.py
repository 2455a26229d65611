"""Threads that read ahead: order, errors, and stopping."""

import threading
import weakref
from collections.abc import Generator, Iterator

import pytest
from commands import HANG

from pfmap.core.errors import SourceError
from pfmap.core.stages import Feed, read_ahead


def test_errors_of_the_reading_thread_arrive_in_order() -> None:
    def items() -> Generator[int, None, None]:
        yield 1
        yield 2
        raise SourceError("broken")

    ahead = read_ahead(items(), 8, name="count")
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(SourceError, match="broken"):
        next(ahead)


def test_stopping_early_closes_the_items_in_their_own_thread() -> None:
    threads: list[threading.Thread] = []

    def items() -> Generator[int, None, None]:
        try:
            yield from range(10**9)
        finally:
            threads.append(threading.current_thread())

    ahead = read_ahead(items(), 2, name="count")
    assert next(ahead) == 0
    ahead.close()
    (thread,) = threads
    assert thread.name == "pfmap-count"
    assert not thread.is_alive()


@pytest.mark.parametrize("depth", [1, 3])
def test_no_more_items_are_alive_than_said(depth: int) -> None:
    class Item:
        pass

    alive: weakref.WeakSet[Item] = weakref.WeakSet()
    most, made = 0, threading.Semaphore(0)

    def items() -> Generator[Item, None, None]:
        nonlocal most
        for _ in range(40):
            item = Item()
            alive.add(item)
            most = max(most, len(alive))
            made.release()
            yield item
            del item

    count = seen = 0
    for item in read_ahead(items(), depth, name="count"):
        while seen < min(40, count + 1 + depth):  # all are alive that may be
            assert made.acquire(timeout=HANG)
            seen += 1
        count += 1
        del item
    assert count == 40
    assert most == depth + 1


def test_a_feed_hands_over_all_items_in_order() -> None:
    taken: list[int] = []
    feed = Feed[int](taken.extend)
    for item in range(100):
        feed.put(item)
    feed.finish()
    assert taken == list(range(100))


def test_what_goes_wrong_behind_a_feed_is_raised_before_it() -> None:
    def consume(items: Iterator[int]) -> None:
        for _ in items:
            raise SourceError("broken")

    feed = Feed[int](consume)
    with pytest.raises(SourceError, match="broken"):
        all(feed.put(item) is None for item in range(10))
    with pytest.raises(SourceError, match="broken"):
        feed.finish()


def test_what_goes_wrong_after_the_last_item_is_raised_too() -> None:
    def consume(items: Iterator[int]) -> None:
        assert list(items) == [1]
        raise SourceError("the disk is full")

    feed = Feed[int](consume)
    feed.put(1)
    with pytest.raises(SourceError, match="full"):
        feed.finish()


def test_a_cancelled_feed_ends_its_thread() -> None:
    threads: list[threading.Thread] = []

    def consume(items: Iterator[int]) -> None:
        threads.append(threading.current_thread())
        for _ in items:
            pass

    feed = Feed[int](consume)
    feed.put(1)
    feed.cancel()
    (thread,) = threads
    assert not thread.is_alive()
