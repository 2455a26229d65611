"""A progress bar around a long call that Ctrl-C stops."""

import _thread
import io
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import NoReturn, TypeVar

from tqdm import tqdm

from pfmap.cli import screen
from pfmap.core.errors import redacted, visible, worded
from pfmap.core.files import forsake
from pfmap.core.system import STOPS

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
    with bar_of("px", quiet=quiet, leave=False) as bar:

        def on_progress(done: int, total: int) -> None:
            if stop.is_set():
                raise KeyboardInterrupt
            bar.total = total
            bar.update(done - bar.n)
            if done == total:  # before what is told of the next stage
                bar.refresh()

        def on_message(text: str) -> None:
            if not quiet:
                write(text, bar)

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
                    status = screen.fail(f"Interrupted{more}.", 128 + (heard or [2])[0], shown="\n")
                    screen.close(foreseen=True)
                    os._exit(status)
    failure = made.exception()
    if isinstance(failure, KeyboardInterrupt) or (stop.is_set() and failure is None):
        raise KeyboardInterrupt(*heard)
    return made.result()


class _Told(tqdm):  # type: ignore[type-arg]
    """A bar for programs: lines of JSON, two in a second at most, and one at its end."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:  # noqa: ARG002 - tqdm's own
        """Tell how far the work is, where tqdm draws its bar."""
        if msg is None and self.total and self.n != self._last:
            rate = self.format_dict["rate"] or (self.n and self.n / max(self.format_dict["elapsed"], 1e-9))
            left = round((self.total - self.n) / rate, 1) if rate else None
            screen.tell("progress", done=self.n, total=self.total, unit=self.unit, seconds_left=left)
            self._last = self.n

    _last: float = -1


def bar_of(unit: str, *, quiet: bool, total: int | None = None, leave: bool = True) -> "tqdm[NoReturn]":
    """Make the bar of a command, in the form that is asked for."""
    if screen.progress == "json":
        return _Told(total=total, unit=unit, disable=quiet, mininterval=0.5, file=io.StringIO())
    off = quiet or screen.progress == "none" or None  # None: off where nobody sees it
    return tqdm(
        total=total, unit=unit, unit_scale=unit == "px", disable=off, file=screen.screen(), leave=leave
    )


def stop_on_input() -> None:
    """Have a line on standard input, or its end, stop this process as Ctrl-C does.

    A program elsewhere stops it that way: a signal to ssh, or to a container's client, does not get here.
    """

    def listen() -> None:
        while (letter := os.read(0, 1)) not in (b"", b"\n"):  # sys.stdin would be locked when Python ends
            pass
        if not letter:
            screen.say("standard input ended: stopping (a container needs -i for it to be open)", err=True)
        _thread.interrupt_main()

    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where it was ignored, as under nohup
    threading.Thread(target=listen, name="pfmap-listen", daemon=True).start()


def write(text: str, bar: "tqdm[NoReturn]") -> None:
    """Print a line for people above the bar, as harmless as `say` does, or tell programs what it says."""
    event, facts = getattr(text, "event", None), getattr(text, "facts", {})
    if screen.progress == "json":
        if event:
            screen.tell(event, **facts)
        elif event is None:
            screen.say(worded(text), err=True)
    elif event == "stage":
        bar.set_description_str(text)
    else:
        tqdm.write(visible(redacted(worded(text))), file=screen.screen())


@contextmanager
def _heeded() -> Iterator[list[int]]:
    """Have what asks this process to end interrupt it as Ctrl-C does; give the numbers of what did."""
    heard: list[int] = []

    def heed(number: int, _frame: object) -> None:
        heard.append(number)
        raise KeyboardInterrupt

    asking = STOPS if threading.current_thread() is threading.main_thread() else ()
    wanted = [number for number in asking if signal.getsignal(number) == signal.SIG_DFL]
    for number in wanted:
        signal.signal(number, heed)
    try:
        yield heard
    finally:
        for number in wanted:
            signal.signal(number, signal.SIG_DFL)
