"""The program pfmap, as QGIS runs it: found, started, followed, stopped. Nothing here needs QGIS."""

from __future__ import annotations

import json
import os
import queue
import re
import shlex
import shutil
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Callable

NEEDED = (0, 2)
"""The first version of pfmap with the options and events that are used here."""

INSTALLED = Path(__file__).with_name("program.json")
"""Words that start the pfmap that installed this plugin."""

WHERE = "Settings > Options > Processing > Providers > pfmap"

_USUAL = ("~/.local/bin", "/opt/homebrew/bin", "/usr/local/bin")  # QGIS may not have them on its path
_OURS = re.compile("PYTHON|GDAL_|PROJ_|QT_|QGIS")
"""Variables that lead QGIS to its own libraries, which are not those of another program."""

_SEPARATORS = ("", "/", "\\")
_QUICK = 60.0  # seconds that a question may take
_PATIENCE = 30.0  # seconds for pfmap to stop by itself, tidy up, and say so


class ProgramError(Exception):
    """pfmap cannot be run, or failed; the text says why, and what to do."""


class Stopped(Exception):
    """The user stopped pfmap."""


class Place(str):
    """A path on this machine: where pfmap runs elsewhere, it may have another name."""

    layer: str

    def __new__(cls, path: str, layer: str = "") -> Place:
        """Return a file or folder, or a layer in a file."""
        made = super().__new__(cls, path)
        made.layer = layer and f":{layer}"
        return made


@dataclass(frozen=True)
class Ended:
    """What a run gave."""

    result: dict[str, Any]
    """Its `result` event; its outputs' paths are those of this machine."""
    error: str
    """Why a part of it failed, or ""."""


@dataclass(frozen=True)
class Program:
    """The words that start pfmap, here or elsewhere, and how paths are named there."""

    words: tuple[str, ...]
    prefixes: tuple[tuple[str, str], ...] = ()
    """Beginnings of paths here, and what stands there in their place."""

    @classmethod
    def of(cls, command: str, paths: str) -> Program:
        """Read the settings: a program or a command line, and lines of HERE=THERE; empty ones find it."""
        prefixes = []
        for line in filter(None, (part.strip() for part in re.split(r"[;\n]", paths))):
            here, mark, there = (part.strip() for part in line.rpartition("="))
            if not (mark and here and there):
                raise ProgramError(f"'{line}' is no pair of paths such as /home/me/data=/data: see {WHERE}")
            prefixes.append((here.rstrip("/\\") or here, there.rstrip("/\\") or there))
        prefixes.sort(key=lambda pair: -len(pair[0]))
        command = command.strip()
        if not command:
            return cls(_found(), tuple(prefixes))
        whole = os.path.expanduser(command)
        return cls((whole,) if os.path.isfile(whole) else tuple(split(command)), tuple(prefixes))

    def missing(self) -> str:
        """Say what is wrong where there is no such program, else nothing."""
        if self.words and shutil.which(self.words[0]):
            return ""
        what = (
            f"'{self.words[0]}' is no program here" if self.words else "pfmap was not found on this machine"
        )
        return f"{what}: install it (pip install pfmap) and run 'pfmap qgis install', or name it in {WHERE}"

    def there(self, path: str) -> str:
        """Name a path of this machine as pfmap knows it."""
        for here, there in self.prefixes:
            rest = path[len(here) :]
            if os.path.normcase(path[: len(here)]) == os.path.normcase(here) and rest[:1] in _SEPARATORS:
                return there + re.sub(r"[/\\]", r"\\" if "\\" in there else "/", rest)
        if self.prefixes and "://" not in path and not path.startswith("/vsi"):
            known = ", ".join(here for here, _ in self.prefixes)
            raise ProgramError(
                f"{path} has no name where pfmap runs: it is in none of {known}; move it there, or add its "
                f"folder to the paths in {WHERE}"
            )
        return path

    def here(self, path: str) -> str:
        """Name a path that pfmap told as this machine knows it."""
        for here, there in sorted(self.prefixes, key=lambda pair: -len(pair[1])):
            rest = path[len(there) :]
            if path.startswith(there) and rest[:1] in _SEPARATORS:
                return here + rest.replace("/", os.sep)
        return path

    def ask(self, *arguments: str, is_canceled: Callable[[], bool] | None = None) -> str:
        """Run a command that just prints, and return what; one that cannot be canceled has a minute."""
        process = self._start(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        canceled, end = is_canceled or (lambda: False), time.monotonic() + _QUICK
        while True:
            try:
                out, err = process.communicate(timeout=0.5)
                break
            except subprocess.TimeoutExpired:
                if canceled() or (is_canceled is None and time.monotonic() > end):
                    process.kill()
                    process.communicate()
                    if canceled():
                        raise Stopped("Canceled.") from None
                    what = " ".join([self.words[0], *arguments])
                    raise ProgramError(f"'{what}' did not end within a minute: see {WHERE}") from None
        if process.returncode:
            raise ProgramError(_last(err.splitlines()) or f"{self.words[0]} ended with {process.returncode}")
        return out

    def models(self) -> list[str]:
        """Return the names of the models that pfmap knows."""
        try:
            return [row["name"] for row in json.loads(self.ask("models", "list", "--json"))]
        except (ValueError, TypeError, KeyError) as error:
            what = f"'{' '.join(self.words)} models list --json' gave no list"
            raise ProgramError(f"{what}: see {WHERE}") from error

    def refuse_old(self) -> None:
        """Refuse what is not there, is not pfmap, or does not know what is used here."""
        if missing := self.missing():
            raise ProgramError(missing)
        said = self.ask("--version").strip()
        if not (version := re.fullmatch(r"pfmap (\d+)\.(\d+)\S*", said)):
            raise ProgramError(f"{' '.join(self.words)} is not pfmap: it says '{said[:80]}'; see {WHERE}")
        if (int(version[1]), int(version[2])) < NEEDED:
            least = ".".join(map(str, NEEDED))
            raise ProgramError(f"{said} is too old, {least} is needed: pip install --upgrade pfmap")

    def run(
        self,
        arguments: list[str],
        on_event: Callable[[dict[str, Any]], None],
        is_canceled: Callable[[], bool],
    ) -> Ended:
        """Run a command to its end, telling each event; `Stopped` says that it was canceled."""
        self.refuse_old()
        follow = ["--progress", "json", "--stop-on-input"]
        process = self._start([*arguments, *follow], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_pass_on, args=(process.stderr, lines), daemon=True).start()
        heard, until = _Heard(on_event), None
        try:
            while (line := _next(lines, process)) is not None:
                if is_canceled() and until is None:
                    until = time.monotonic() + _PATIENCE
                    _say(process, "stop\n")
                if until is not None and time.monotonic() > until:
                    break
                heard.add(line)
        finally:
            status = _ended(process)
        if until is not None and status:
            raise Stopped(heard.error)
        error = heard.error
        if status and not error:
            error = _last(heard.plain) or f"pfmap ended with status {status}, and did not say why"
        if heard.result is None:
            raise ProgramError(error or f"{' '.join(self.words)} ended without a result: see {WHERE}")
        outputs = {kind: self.here(path) for kind, path in heard.result.get("outputs", {}).items()}
        return Ended({**heard.result, "outputs": outputs}, error)

    def _start(self, arguments: Any, **streams: Any) -> subprocess.Popen[str]:
        words = [self.there(one) + one.layer if isinstance(one, Place) else one for one in arguments]
        if PurePath(self.words[0]).stem.lower() in ("ssh", "plink"):  # a shell there takes them apart
            words = [shlex.quote(word) for word in words]
        kept = {name: value for name, value in os.environ.items() if not _OURS.match(name)}
        try:
            return subprocess.Popen(
                [*self.words, *words],
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                env={**kept, "PYTHONUTF8": "1"},
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
                **streams,
            )
        except OSError as error:
            raise ProgramError(
                f"{self.words[0]} cannot be started ({error.strerror}): see {WHERE}"
            ) from error


def split(text: str) -> list[str]:
    """Take a command line apart; on Windows backslashes are those of paths."""
    return [word.strip("\"'") for word in shlex.split(text, posix=os.name != "nt")]


def _found() -> tuple[str, ...]:
    """Find pfmap: what installed this plugin, else the first on the path or where programs lie."""
    with suppress(OSError, ValueError, TypeError):
        words = tuple(json.loads(INSTALLED.read_text(encoding="utf-8")))
        if shutil.which(words[0]):
            return words
    usual = os.pathsep.join([os.environ.get("PATH", ""), *map(os.path.expanduser, _USUAL)])
    found = shutil.which("pfmap", path=usual)
    return (found,) if found else ()


def _pass_on(stream: Any, lines: queue.Queue[str | None]) -> None:
    """Put the lines of a stream into a queue, and None at its end."""
    with stream:
        for line in stream:
            lines.put(line.rstrip("\r\n"))
    lines.put(None)


def _next(lines: queue.Queue[str | None], process: subprocess.Popen[str]) -> str | None:
    """Return the next line, "" if there is none yet, None after the last."""
    with suppress(queue.Empty):
        return lines.get(timeout=0.2)
    if process.poll() is None:
        return ""
    with suppress(queue.Empty):
        return lines.get(timeout=2.0)
    return None  # what else has its standard error open does not keep this waiting


class _Heard:
    """What was said on standard error so far, by pfmap or by what is between, such as ssh."""

    def __init__(self, on_event: Callable[[dict[str, Any]], None]) -> None:
        self.result: dict[str, Any] | None = None
        self.error = ""
        self.plain: list[str] = []
        self._tell = on_event

    def add(self, line: str) -> None:
        """Take a line, and tell what happened if it is no end."""
        if not line:
            return
        event: Any = None
        with suppress(ValueError):
            event = json.loads(line)
        if not isinstance(event, dict) or not isinstance(event.get("event"), str):
            event = {"event": "other", "text": line}
            self.plain.append(line)
        if event["event"] == "result":
            self.result = event
        elif event["event"] == "error":
            self.error = str(event.get("text"))
        else:
            self._tell(event)


def _last(lines: list[str]) -> str:
    """Return the end of what was said, which mostly tells why."""
    return "\n".join(line for line in lines[-5:] if line.strip())


def _say(process: subprocess.Popen[str], text: str) -> None:
    """Write to a process as the last that it hears, unless it ended by itself."""
    with suppress(OSError, ValueError):
        if process.stdin is not None:
            process.stdin.write(text)
            process.stdin.close()


def _ended(process: subprocess.Popen[str]) -> int:
    """Wait for a process, by force if need be; return its status."""
    _say(process, "")
    for patience, force in ((5.0, process.terminate), (5.0, process.kill)):
        with suppress(subprocess.TimeoutExpired):
            return process.wait(patience)
        force()
    return process.wait()
