"""What operating systems do not have in common: here alone, with what stands in for it where it is missing.

On Linux and macOS these are the system's own calls and numbers. Windows has no flag against links, no locks
on folders and no forks: there they do nothing, or fail as on a file system that lacks them.
"""

import ctypes
import errno
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

try:
    import fcntl
    import resource
except ImportError:
    fcntl = resource = None  # type: ignore[assignment]

POSIX = hasattr(os, "fork")
"""Whether folders can be opened, open files be renamed, and processes fork: everywhere but on Windows."""

NO_LINK: int = getattr(os, "O_NOFOLLOW", 0)
LOOK: int = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""How a file is opened for its bytes: a pipe would have whoever opens it wait."""

enter: Any = partial(os.open, flags=os.O_RDONLY | os.O_DIRECTORY | NO_LINK) if POSIX else os.fspath
"""Opens a folder that must be no link, for `os.stat` and locks; elsewhere a path is all there is of it."""
leave: Any = os.close if POSIX else str

user: Callable[[], int] = getattr(os, "geteuid", int)  # to Windows all files are those of user 0
KILL: int = getattr(signal, "SIGKILL", signal.SIGTERM)  # which from another process nobody on Windows heeds
PIPE: int = getattr(signal, "SIGPIPE", 13)
STOPS = tuple(filter(None, map(partial(getattr, signal), ("SIGTERM", "SIGHUP", "SIGBREAK"), (None,) * 3)))
"""What asks a process to end, besides Ctrl-C."""
RSS_UNIT = 1 if sys.platform == "darwin" else 1024
c_library: Callable[[], object] = partial(ctypes.CDLL, None) if sys.platform == "linux" else object
wait_for: Any = select.select
set_blocking: Any = os.set_blocking if POSIX else None  # both are for pipes of processes that forked
longest_name: Any = partial(os.pathconf, name="PC_NAME_MAX") if POSIX else lambda _folder: 255
console_encoding: Any = {}.get if POSIX else os.device_encoding  # a console of Windows need not have Python's


class _NoLocks:
    """What stands for fcntl."""

    LOCK_EX = LOCK_NB = 0

    @staticmethod
    def flock(*_where: object) -> None:
        raise OSError(errno.ENOTSUP, "there are no such locks here")

    lockf = flock


class _NoLimits:
    """What stands for resource."""

    RLIM_INFINITY = sys.maxsize
    RLIMIT_AS = RLIMIT_DATA = RLIMIT_FSIZE = RLIMIT_NOFILE = RUSAGE_SELF = 0

    @staticmethod
    def getrlimit(_kind: int) -> tuple[int, int]:
        return sys.maxsize, sys.maxsize

    @staticmethod
    def getrusage(_who: int) -> SimpleNamespace:
        import psutil

        held = psutil.Process().memory_info()
        return SimpleNamespace(ru_maxrss=getattr(held, "peak_wset", held.rss) // RSS_UNIT)


locks: Any = fcntl or _NoLocks
limits: Any = resource or _NoLimits


def _replace_closed(staged: Path, final: Path) -> None:
    """Rename a file as soon as no program has it open: those that guard a machine look into new ones."""
    for wait in (0.1, 0.2, 0.4, 0.8, None):
        try:
            staged.replace(final)
        except PermissionError as error:
            if wait is None:
                why = "it, or what it replaces, is open in another program, such as QGIS: close it there"
                raise PermissionError(error.errno, why) from error
            time.sleep(wait)
        else:
            return


replace: Callable[[Path, Path], object] = Path.replace if POSIX else _replace_closed


def common_folder(paths: Iterable[str]) -> str:
    """Return the folder around all of these, "" where they lie on several drives."""
    try:
        return os.path.commonpath(paths)
    except ValueError:
        return ""


def detach(work: Callable[[], object], *closed: int) -> None:
    """Do something in a process that is nobody's child and stops on no signal, without these open files."""
    child = os.fork()
    if not child:
        try:
            if not os.fork():  # nobody's child, who would count it among the workers
                for number in closed:
                    os.close(number)
                for each in (signal.SIGINT, *STOPS, signal.SIGQUIT):
                    signal.signal(each, signal.SIG_IGN)
                work()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
