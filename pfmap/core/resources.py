"""What this machine and this process have: memory and disk."""

import ctypes
import os
import platform
import shutil
import sys
from contextlib import suppress
from pathlib import Path

import psutil

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's numbers, malloc.h


def resident_memory() -> int:
    """Return the bytes of memory that this process holds now."""
    return int(psutil.Process().memory_info().rss)


def free_memory() -> int:
    """Return how much memory this process may use in all: what it has, and what is free."""
    own = resident_memory()
    free = psutil.virtual_memory().available
    root = Path("/sys/fs/cgroup")
    try:  # a container's limit, which the system's figures do not show; its file cache can be reclaimed
        stat = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
        used = int((root / "memory.current").read_text()) - int(stat["file"])
        free = min(free, int((root / "memory.max").read_text()) - used)
    except (OSError, ValueError, KeyError):
        pass
    return int(own + max(0, free))


def free_disk(folder: Path) -> int:
    """Return the bytes free where a folder is, or will be."""
    path = folder.resolve()
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return 0 if not os.access(path, os.R_OK) else 1 << 62


def give_back_memory() -> None:
    """Return what is free to the system: glibc keeps it, in a pool for each thread, for what may come."""
    # Absent from other systems, and from other C libraries on Linux.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def keep_memory() -> None:
    """Have glibc keep what is freed for what comes next, as it does unless it is told otherwise.

    Dask starts its workers with MALLOC_TRIM_THRESHOLD_ set, which has every layer's output taken from the
    system afresh: a window then costs a third more time, all of it page faults.
    """
    tune = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if tune is not None:
        tune(_MMAP_THRESHOLD, 32 << 20)  # the most that glibc would come to by itself
        tune(_TRIM_THRESHOLD, 64 << 20)


def folder_size(folder: Path) -> int:
    """Return the bytes of all files in a folder; 0 if it does not exist, or while another run removes it."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(path, name).stat().st_size
    return total


def gigabytes(count: int) -> str:
    """Write bytes for people."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1e3:.0f} kB"


def peak_memory() -> int | None:
    """Return the process's peak resident memory in bytes, where the system tells."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if platform.system() == "Darwin" else peak * 1024)
