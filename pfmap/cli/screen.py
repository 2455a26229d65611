"""What stands on the terminal: what pfmap says, and what libraries say besides only where it helps.

Libraries, those in C too, write to this process's standard error. That leads to a keeper, a process of its
own that holds the last lines: it passes all on with ``--verbose``, and what it holds if this process ends as
nobody foresaw, be it in C or by a signal. What pfmap itself says goes where standard error led before.
"""

import io
import logging
import os
import sys
from contextlib import suppress
from typing import Any, TextIO

import click

from pfmap.core.errors import TargetError, json_text, redacted, visible
from pfmap.core.system import PIPE, POSIX, console_encoding, detach, set_blocking, wait_for
from pfmap.version import __version__

_BYTES = 1 << 16  # that the keeper holds


class _Screen(io.FileIO):
    """Standard error as it was; that it is full or closed is no reason for the work to fail."""

    def write(self, content: Any) -> int:
        with suppress(OSError):
            super().write(content)
        return len(content)


class _Results(io.FileIO):
    """Standard output: whoever writes there learns in pfmap's words that it cannot be printed."""

    def write(self, content: Any) -> int:
        try:
            return super().write(content)
        except BrokenPipeError:  # whoever reads no more of it, as head, ends the process
            raise SystemExit(128 + PIPE) from None  # as the signal would have
        except OSError as error:
            raise TargetError(
                f"the result cannot be printed ({error.strerror}): files that were to be made are there; run "
                "the same command again, and print elsewhere"
            ) from error


_screen: TextIO | None = None
_orders: int | None = None  # where the keeper is told what to do
progress = "bar"
"""How progress is shown: as a bar, as lines of JSON for programs, or not ("none")."""
_FORMAT = 1  # of these lines; a number more where what read them would misread them
_WARNS = "warning: "
verbose = False
"""Whether more is said: how long stages took, and what libraries say."""


def screen() -> TextIO:
    """Return the stream of what is said besides results."""
    return _screen or sys.stderr


def say(*lines: str, err: bool = False) -> None:
    """Print lines of a result, or with `err` of what is said besides, without secrets and control codes."""
    for line in lines:
        if err and progress == "json":
            tell("warning" if line.startswith(_WARNS) else "message", text=line.removeprefix(_WARNS))
        else:
            click.echo(visible(redacted(line)), file=screen() if err else None)


def tell(event: str, **facts: Any) -> bool:
    """Print an event as a line of JSON on standard error, if programs are to follow; say whether they are."""
    if progress == "json":
        if isinstance(text := facts.get("text"), str):
            facts["text"] = redacted(text)
        click.echo(json_text({"event": event, **facts}, indent=None), file=screen())
    return progress == "json"


def show_progress(how: str, command: str) -> None:
    """Show progress as a bar, as JSON or not at all, from now on; `command` is what runs."""
    global progress  # noqa: PLW0603 - of the whole process
    progress = how
    if tell("start", format=_FORMAT, pfmap=__version__, command=command):
        _tell(b"j")


def fail(text: str, status: int, shown: str = "Error: ") -> int:
    """Say what went wrong, behind what it begins with for people; return the exit status."""
    if not tell("error", text=text, status=status):
        say(*f"{shown}{text}".split("\n"), err=True)
    return status


def show(table: Any, *, plain: bool = False) -> None:
    """Print a result as JSON; `plain` has letters of all languages as they are."""
    emit(json_text(table, plain=plain) + "\n")


def emit(text: str) -> None:
    """Print a result that is harmless already."""
    click.echo(text, nl=False)


def separate() -> None:
    """Part what pfmap says from what libraries say, for the rest of this process."""
    global _screen, _orders  # noqa: PLW0603 - of the whole process, as its standard error is
    for number, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:  # closed: the next file that is opened would get its number, and what is printed
            os.open(os.devnull, mode)
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    encoding, own = console_encoding(1) or (sys.stdout or sys.stderr).encoding, os.dup(2)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Results(1, "w", closefd=False)), encoding, "backslashreplace"
    )
    _screen = io.TextIOWrapper(
        io.BufferedWriter(_Screen(own, "w", closefd=False)),
        console_encoding(2) or sys.stderr.encoding,
        "backslashreplace",
        line_buffering=True,
    )
    with suppress(OSError):  # no process, no pipe to be had
        _orders = _keeper(own)
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    log = logging.getLogger("pfmap")
    log.addHandler(_Said())
    log.propagate = False


class _Said(logging.Handler):
    """Says what pfmap itself logs."""

    def emit(self, record: logging.LogRecord) -> None:
        say(*self.format(record).splitlines(), err=True)


def speak_up() -> None:
    """Say more from now on, and what the keeper holds."""
    global verbose  # noqa: PLW0603 - as above
    verbose = True
    logging.getLogger("pfmap").setLevel(logging.DEBUG)
    _tell(b"v")


def close(*, foreseen: bool) -> None:
    """Let the keeper go; it passes on what it holds unless this end was foreseen."""
    global _orders  # noqa: PLW0603 - as above
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    try:
        sys.stdout.flush()
    except (TargetError, SystemExit):  # Python would try it again, and complain in its own words
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if foreseen:
        _tell(b"q")
    if _orders is not None:
        os.close(_orders)
    _orders = None


def _tell(order: bytes) -> None:
    if _orders is not None:
        with suppress(OSError):
            os.write(_orders, order)


def _keeper(own: int) -> int | None:
    """Start the keeper of all that goes to standard error; return the pipe for its orders."""
    if not POSIX:  # nobody can hold what libraries say
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        return None
    (noise, into), (heard, tell) = os.pipe(), os.pipe()
    detach(lambda: _keep(noise, heard, own), 0, 1, 2, into, tell)
    os.dup2(into, 2)
    for number in (noise, into, heard):
        os.close(number)
    return tell


def _keep(noise: int, heard: int, own: int) -> None:
    """Hold the last lines until told to pass them on, or to end, or until whoever tells is gone."""
    global progress  # noqa: PLW0603 - of this process
    held, loud, ended = b"", False, False
    set_blocking(noise, False)
    watched = [noise, heard]
    while not ended:
        ready, _, _ = wait_for(watched, [], [])
        if heard in ready:
            order = os.read(heard, 1)
            progress = "json" if order == b"j" else progress
            loud = loud or order not in (b"q", b"j")
            ended = order not in (b"v", b"j")
        with suppress(BlockingIOError):
            while got := os.read(noise, _BYTES):
                held = _passed_on(held + got, own) if loud else held + got
                if len(held) > _BYTES:  # whole lines alone: a part of one could show a part of a secret
                    held = held[-_BYTES:].partition(b"\n")[2]
            watched = [heard]  # nobody writes any more
        if loud:
            held = _passed_on(held + b"\n" * (ended and held[-1:] not in (b"", b"\n")), own)


def _passed_on(held: bytes, own: int) -> bytes:
    """Print the lines that are whole; return the rest."""
    *lines, rest = held.split(b"\n")
    for line in lines:
        text = visible(redacted(line.decode(errors="surrogateescape")), "\t")
        if progress == "json":
            text = json_text({"event": "library", "text": text}, indent=None)
        with suppress(OSError):  # nobody reads on: whoever writes must not notice
            os.write(own, f"{text}\n".encode(errors="backslashreplace"))
    return rest
