"""The command line, in a process of its own, as a user meets it, or in this one, and other processes."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import forks
import pytest

from pfmap.cli.main import _status

PFMAP = str(Path(sys.executable).with_name("pfmap"))

HANG = 300
"""Seconds after which a test gives up: a guard against hangs alone, far beyond what a busy machine takes."""

_HEED = """
import os, signal, sys
for each in (signal.SIGINT, signal.SIGHUP):
    signal.signal(each, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


def pfmap(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """The command as it is installed."""
    command = [PFMAP, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def forked(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The same without the seconds that Python takes to load libraries."""
    return forks.run([PFMAP, *arguments], HANG)


def here(capsys: pytest.CaptureFixture[str], *arguments: object) -> subprocess.CompletedProcess[str]:
    """The same in this process, which has all libraries loaded."""
    capsys.readouterr()
    status = _status(list(map(str, arguments)))
    return subprocess.CompletedProcess(arguments, status, *capsys.readouterr())


def interruptible(*command: object) -> list[str]:
    """The same command, heeding SIGINT and SIGHUP also where this process ignores them, as under nohup."""
    return [sys.executable, "-c", _HEED, *map(str, command)]


def wait_until(happened: Callable[[], object], process: subprocess.Popen) -> None:
    """Wait for something that a process does; it has to be alive meanwhile."""
    end = time.monotonic() + HANG
    while not happened():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
