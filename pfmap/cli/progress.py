"""A progress bar around a long call that Ctrl-C stops."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import TypeVar

from tqdm import tqdm

from pfmap.cli.screen import close, say, screen
from pfmap.core.errors import redacted, visible, worded
from pfmap.core.files import forsake

T = TypeVar("T")

_PATIENCE = 1.0  # seconds for the work to stop by itself after Ctrl-C


def run_with_progress(call: Callable[..., T], *, quiet: bool, goes_on: bool = False) -> T:
    """Run a call in a thread that shows its progress and messages on stderr, while this one waits for Ctrl-C.

    After Ctrl-C the call has a second to stop and tidy up; then the process ends all the same. That is safe,
    because all that is written has a temporary name until it is complete. `goes_on` is whether the same again
    goes on from there.
    """
    stop = threading.Event()
    ended = threading.Event()  # Thread.join, once interrupted, takes the thread for dead (bpo-45274)
    made: Future[T] = Future()
    with tqdm(
        total=None, unit="px", unit_scale=True, disable=quiet or None, file=screen(), leave=False
    ) as bar:

        def on_progress(done: int, total: int) -> None:
            if stop.is_set():
                raise KeyboardInterrupt
            bar.total = total
            bar.update(done - bar.n)

        def on_message(text: str) -> None:
            if not quiet:
                write(worded(text))

        def work() -> None:
            try:
                made.set_result(call(on_progress=on_progress, on_message=on_message))
            except BaseException as error:
                made.set_exception(error)
            finally:
                ended.set()

        with _heeded() as heard:
            try:
                threading.Thread(target=work, name="pfmap-work", daemon=True).start()
                while not ended.wait(0.2):
                    pass
            except KeyboardInterrupt:
                stop.set()
                with suppress(KeyboardInterrupt):  # a second one wants no patience
                    ended.wait(_PATIENCE)
                if not ended.is_set():  # threads are deep in a library, and not waited for
                    forsake()
                    more = ": the same command goes on from the last finished swath" * goes_on
                    say("", f"Interrupted{more}.", err=True)
                    close(foreseen=True)
                    os._exit(128 + (heard or [2])[0])
    failure = made.exception()
    if isinstance(failure, KeyboardInterrupt) or (stop.is_set() and failure is None):
        raise KeyboardInterrupt(*heard)
    return made.result()


def write(text: str) -> None:
    """Print a line for people above the bar, if there is one, as harmless as `say` does."""
    tqdm.write(visible(redacted(text)), file=screen())


@contextmanager
def _heeded() -> Iterator[list[int]]:
    """Have what asks this process to end interrupt it as Ctrl-C does; give the numbers of what did."""
    heard: list[int] = []

    def heed(number: int, _frame: object) -> None:
        heard.append(number)
        raise KeyboardInterrupt

    asking = (signal.SIGTERM, signal.SIGHUP) if threading.current_thread() is threading.main_thread() else ()
    wanted = [number for number in asking if signal.getsignal(number) == signal.SIG_DFL]
    for number in wanted:
        signal.signal(number, heed)
    try:
        yield heard
    finally:
        for number in wanted:
            signal.signal(number, signal.SIG_DFL)
