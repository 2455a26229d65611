"""A progress bar around a long call that Ctrl-C stops."""

import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn, TypeVar

import click
from tqdm import tqdm

T = TypeVar("T")
Call = Callable[[Callable[[int, int], None], Callable[[str], None]], T]


def run_with_progress(call: Call[T], *, quiet: bool) -> T:
    """Run a call that reports progress and messages, and show them on stderr.

    Args:
        call: takes two callbacks: pixels done and in all, and lines for people.
        quiet: shows nothing.
    """
    with tqdm(
        total=None, unit="px", unit_scale=True, disable=quiet or None, file=sys.stderr, leave=False
    ) as bar:

        def work(stop: Stop) -> T:
            def on_progress(done: int, total: int) -> None:
                stop.check()
                bar.total = total
                bar.update(done - bar.n)

            def on_message(text: str) -> None:
                if not quiet:
                    bar.write(text, file=sys.stderr)

            return call(on_progress, on_message)

        return run_interruptibly(work)


_PATIENCE = 1.0


class Stop:
    """Tells work in another thread to stop at its next step.

    Attributes:
        asked: whether to stop.
    """

    def __init__(self) -> None:
        self.asked = False

    def check(self) -> None:
        """Stop here if asked to.

        Raises:
            KeyboardInterrupt: it was asked.
        """
        if self.asked:
            raise KeyboardInterrupt


def run_interruptibly(work: Callable[[Stop], T]) -> T:
    """Run work in a thread while this one waits for Ctrl-C.

    After Ctrl-C the work has a second to stop and tidy up; then the process ends all the same. That is safe,
    because all that is written has a temporary name until it is complete, and a rerun goes on from there.
    """
    stop = Stop()
    results: list[T] = []
    errors: list[BaseException] = []
    ended = threading.Event()  # Thread.join, once interrupted, takes the thread for dead (bpo-45274)

    def target() -> None:
        try:
            results.append(work(stop))
        except BaseException as error:
            errors.append(error)
        finally:
            ended.set()

    threading.Thread(target=target, name="pfmap-work", daemon=True).start()
    try:
        while not ended.wait(0.2):
            pass
    except KeyboardInterrupt:
        stop.asked = True
        if not ended.wait(_PATIENCE):
            _leave()
        if not errors:
            errors.append(KeyboardInterrupt())
    if errors:
        raise errors[0]
    return results[0]


def _leave() -> NoReturn:
    """End the process without waiting for threads that are deep in a library."""
    click.echo("\nInterrupted: the same command goes on from the last finished swath.", err=True)
    os._exit(130)
