"""What Windows lacks and forbids, for a process of Linux: `sitecustomize.py` in a folder of its PYTHONPATH.

Gone are fork, fcntl, resource and the like. Folders cannot be opened; files that are open, or mapped into
memory, keep their names, and so do the folders around them. Only what Python itself calls is held to that.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

os.supports_dir_fd = os.supports_fd = set()  # before shutil is imported
import platformdirs  # noqa: E402, F401 - while it can
import psutil  # noqa: E402


def _in_use(*paths: Any) -> str:
    """Which of these, or what is in it, this process has open."""
    there = [file.path for file in psutil.Process().open_files()]
    there += [mapped.path for mapped in psutil.Process().memory_maps()]
    for path in map(os.path.realpath, paths):
        for name in there:
            if f"{name}/".startswith(f"{path}/"):
                return name
    return ""


def _closed(call: Callable[..., Any]) -> Callable[..., Any]:
    def refusing(*paths: Any, **more: Any) -> Any:
        if name := _in_use(*paths):
            raise PermissionError(13, f"in use: {name}", str(paths[0]))
        return call(*paths, **more)

    return refusing


def _open(path: Any, flags: int, *how: Any, real: Callable[..., int] = os.open, **more: Any) -> int:
    if os.path.isdir(path) and not flags & os.O_TMPFILE:  # noqa: PTH112 - as whoever calls it
        raise PermissionError(13, "a folder", str(path))
    return real(path, flags, *how, **more)


for name in (
    "fork",
    "O_NOFOLLOW",
    "O_DIRECTORY",
    "O_NONBLOCK",
    "geteuid",
    "getuid",
    "killpg",
    "pathconf",
    "set_blocking",
):
    delattr(os, name)
for name in ("SIGHUP", "SIGPIPE", "SIGKILL", "SIGQUIT"):
    delattr(signal, name)
for name in ("fcntl", "resource", "pwd", "grp"):
    sys.modules[name] = None  # type: ignore[assignment]
for name in ("rename", "replace", "unlink", "remove", "rmdir"):
    setattr(os, name, _closed(getattr(os, name)))
os.open = _open
