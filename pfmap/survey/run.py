"""Map many scenes: one after another on the device, side by side everywhere else.

Of three scenes that are in work one has the device, the next is planned and has its first windows ready, and
the last one's outputs are being finished: however small the scenes are, the device does not wait for disks.
"""

import logging
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any, Literal

from pfmap.core.card import UNLIKE
from pfmap.core.errors import EmptyError, OutsideError, PfmapError, redacted, refused
from pfmap.core.stages import stage
from pfmap.mapping.job import Job, Progress, Result
from pfmap.mapping.options import PredictOptions
from pfmap.mapping.runtime import Runtime
from pfmap.survey.find import Sheet

log = logging.getLogger(__name__)

_AT_ONCE = 3


@dataclass(frozen=True, slots=True)
class SheetResult:
    """What became of a scene."""

    sheet: Sheet
    result: Result | None
    reason: str = ""
    """Why it failed, or ""."""
    left_out: Literal["", "outside", "empty"] = ""
    """Why it is no part of the survey though nothing failed: "outside" the area of interest, or "empty",
    without a valid pixel."""


class _Stopped(BaseException):
    """Ends the scenes that are in work once the caller wants no more."""


@dataclass(slots=True)
class Runner:
    """Maps scenes with one model."""

    runtime: Runtime
    options: PredictOptions
    on_scene: Callable[[SheetResult], None]
    """Called when a scene is finished, whether it is mapped or failed; one call at a time."""
    on_progress: Progress
    """Called with (pixels done, pixels in all) of the whole survey; it may raise to stop."""
    on_message: Callable[[str], None]
    """Called with lines for people, which begin with the scene they are about."""
    _pixels: dict[Sheet, tuple[int, int]] = field(default_factory=dict)
    """Done and in all, of each scene that takes time."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    """Of these: several scenes are in work at once."""
    _unlike: threading.Lock = field(default_factory=threading.Lock)
    """Taken, for good, by the first scene that looks unlike all that was learned: one is told of."""
    _stop: BaseException | None = None

    def run(self, sheets: Sequence[Sheet], sizes: Mapping[Sheet, int]) -> list[SheetResult]:
        """Map scenes; say what became of each, in their order.

        One that fails does not keep the others from being mapped. `sizes` are in pixels, of those known.
        """
        self._pixels = {sheet: (0, sizes.get(sheet, 0)) for sheet in sheets}
        results: dict[Sheet, SheetResult] = {}
        self.on_message(stage("map", "mapping"))
        with ThreadPoolExecutor(_AT_ONCE, "pfmap-scene") as pool:
            try:
                for future in as_completed([pool.submit(self._map, sheet) for sheet in sheets]):
                    done = future.result()
                    if done.result is None or done.result.skipped:
                        with self._lock:  # it takes no time any more
                            self._pixels.pop(done.sheet, None)
                    results[done.sheet] = done
                    self.on_scene(done)
            except BaseException as error:
                self._stop = self._stop or error
                pool.shutdown(wait=False, cancel_futures=True)
                raise self._stop from None
        return [results[sheet] for sheet in sheets]

    def _map(self, sheet: Sheet) -> SheetResult:
        if sheet.fault:
            return SheetResult(sheet, None, sheet.fault)
        job = Job(sheet.location, self.runtime, self.options, lambda line: self._say(sheet, line))
        try:
            result = job.run(sheet.folder, lambda done, total: self._advance(sheet, done, total))
        except (OutsideError, EmptyError) as error:
            left_out: Any = "outside" if isinstance(error, OutsideError) else "empty"
            return SheetResult(sheet, None, left_out=left_out)
        except PfmapError as error:
            return SheetResult(sheet, None, str(error))
        except OSError as error:
            return SheetResult(sheet, None, refused(error))
        except Exception as error:  # a bug, or a library's: the others are still to be mapped
            log.debug("%s failed", sheet.location.text, exc_info=True)
            where = traceback.extract_tb(error.__traceback__)[-1]
            reason = f"unexpected {type(error).__name__}: {error} ({where.filename}, line {where.lineno})"
            return SheetResult(sheet, None, redacted(" ".join(reason.split())))
        return SheetResult(sheet, result)

    def _say(self, sheet: Sheet, line: str) -> None:
        """Pass on what is wrong with a scene; what is planned with each of 2,000 nobody wants to read."""
        if UNLIKE in line and not self._unlike.acquire(blocking=False):
            return
        if line.startswith("warning: "):
            text = line.removeprefix("warning: ").removeprefix(f"{sheet.location.text} ")
            self.on_message(f"warning: {sheet.location.text}: {text}")

    def _advance(self, sheet: Sheet, done: int, total: int) -> None:
        if self._stop is not None:
            raise _Stopped
        with self._lock:
            self._pixels[sheet] = done, total
            everywhere, whole = (sum(each) for each in zip(*self._pixels.values(), strict=True))
        try:
            self.on_progress(everywhere, whole)
        except BaseException as error:
            self._stop = self._stop or error
            raise _Stopped from error
