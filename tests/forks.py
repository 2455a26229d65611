"""Processes of their own that begin with all libraries loaded, which by itself takes seconds of a core.

They are forked from a process that has loaded them, and does nothing else: no thread runs in it that a fork
could catch half way. What looks at the start of a process, at limits and signals that it inherits, or at what
Python reads of the environment before the first line, starts one as users do.
"""

import atexit
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NoReturn

LIBRARIES = (
    "pytest", "torch", "numba", "rasterio", "geopandas", "pyogrio", "matplotlib.pyplot", "chips", "runs",
    "pfmap.cli.predict", "pfmap.survey.run", "pfmap.survey.single", "pfmap.train.loop", "pfmap.train.quick",
)  # fmt: skip
LONGEST = 1 << 17
"""Bytes of a request: words, folder and environment."""


class Fork:
    """Such a process as `subprocess.Popen` has it; the words are what follows the name of Python.

    Each `library` is preloaded by a process of its own that the others are forked from.
    """

    def __init__(
        self,
        words: Sequence[object],
        *,
        stdout: IO[Any] | int | None = None,
        stderr: IO[Any] | int | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        library: Path | None = None,
    ) -> None:
        request = json.dumps([list(map(str, words)), str(cwd or Path.cwd()), dict(env or os.environ)])
        self._told, tells = os.pipe()
        numbers = [tells, _number(stdout, 1), _number(stderr, 2)]
        self.stdout: IO[str] | None = None
        if stdout == subprocess.PIPE:
            end, numbers[1] = os.pipe()
            self.stdout = os.fdopen(end)
        socket.send_fds(_origin(library), [request.encode()], numbers)
        for number in numbers[: 1 + (stdout == subprocess.PIPE)]:
            os.close(number)
        self.pid, self.returncode = self._read(), None

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status, negative where a signal ended it."""
        if self.returncode is None:
            if not select.select([self._told], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            self.returncode = self._read()
            os.close(self._told)
        return self.returncode

    def kill(self) -> None:
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)

    def __enter__(self) -> "Fork":
        return self

    def __exit__(self, *_: object) -> None:
        if self.stdout is not None:
            self.stdout.close()
        self.wait()

    def _read(self) -> int:
        told = os.read(self._told, 4)
        assert told, "what it is forked from is gone"
        return int.from_bytes(told, "little", signed=True)


def begin(
    words: Sequence[object], *, library: Path | None = None, **options: Any
) -> "Fork | subprocess.Popen[str]":
    """Start such a process; where this is not Linux, as users do."""
    if sys.platform != "linux":
        return subprocess.Popen([sys.executable, *map(str, words)], text=True, **options)
    return Fork(words, library=library, **options)


def run(
    words: Sequence[object], timeout: float | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run such a process to its end, as `subprocess.run` does, and capture what it prints."""
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as noise:
        with begin(words, stdout=said, stderr=noise, **options) as process:
            try:
                status = process.wait(timeout)
            except BaseException:
                process.kill()
                raise
        texts = []
        for file in (said, noise):
            file.seek(0)
            texts.append(file.read().decode())
    return subprocess.CompletedProcess(words, status, *texts)


def _number(stream: IO[Any] | int | None, otherwise: int) -> int:
    return otherwise if stream is None else stream if isinstance(stream, int) else stream.fileno()


@cache
def _origin(library: Path | None) -> socket.socket:
    """Start the process that others are forked from; it ends with this one."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # One thread, also where there are no worker processes of tests, which have as many.
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    if library:
        env["LD_PRELOAD"] = str(library)
    command = [sys.executable, "-W", "ignore", __file__, str(its.fileno())]
    process = subprocess.Popen(command, env=env, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL)
    its.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _serve(asked: socket.socket) -> None:
    """Fork a process for each request, and another that waits for it."""
    for name in LIBRARIES:
        import_module(name)
    warm_up = import_module("pfmap.trace.tracer").warm_up
    warm_up(None)
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    # That one jemalloc ends before a fork, and begins anew after it.
    assert len(threads) - ("jemalloc_bg_thd" in threads) == 1, threads
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those that have ended are gone at once
    while True:
        request, numbers, *_ = socket.recv_fds(asked, LONGEST, 3)
        if not request:
            return
        if os.fork() == 0:
            asked.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _keep(json.loads(request), *numbers)
        for number in numbers:
            os.close(number)


def _keep(request: tuple[list[str], str, dict[str, str]], told: int, *streams: int) -> NoReturn:
    """Fork the process itself; tell its number, and when it has ended its exit status."""
    pid = os.fork()
    if pid == 0:
        os.close(told)
        _become(*request, *streams)
    for number in streams:
        os.close(number)
    os.write(told, pid.to_bytes(4, "little"))
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.write(told, status.to_bytes(4, "little", signed=True))
    os._exit(0)


def _become(words: list[str], folder: str, env: dict[str, str], *streams: int) -> NoReturn:
    """Be what Python with these words would be from their first line on."""
    status = 1
    try:
        for number, stream in enumerate(streams, 1):
            os.dup2(stream, number)
            os.close(stream)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", 1, closefd=False)
        os.environ.clear()
        os.environ.update(env)
        os.chdir(folder)
        if words[0] == "-c":
            sys.argv = ["-c", *words[2:]]
            exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            threading._shutdown()
            atexit._run_exitfuncs()
            sys.stdout.flush()
        os._exit(status)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        _serve(requests)
