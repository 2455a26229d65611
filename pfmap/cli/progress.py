"""A progress bar around a long call that Ctrl-C stops."""

import sys
from collections.abc import Callable
from typing import TypeVar

from tqdm import tqdm

from pfmap.cli.interrupt import Stop, run_interruptibly

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
