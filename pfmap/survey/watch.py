"""Scenes as they appear in a folder."""

import time
from collections.abc import Callable, Iterator

from pfmap.survey.find import Sheet

CALM = 5.0
"""Seconds for which a file must have stayed as it is: then whoever writes it has finished."""

_PAUSE = 0.2

Sign = tuple[int, int]


def arrivals(find: Callable[[], list[Sheet]], on_pause: Callable[[], None]) -> Iterator[list[Sheet]]:
    """Yield scenes that have appeared, or changed, and are complete; never ends by itself.

    Args:
        find: gives all scenes that are there now.
        on_pause: called several times a second while nothing happens; it may raise to stop.
    """
    since: dict[Sheet, tuple[Sign, float]] = {}
    given: dict[Sheet, Sign] = {}
    while True:
        now = time.monotonic()
        ready = []
        for sheet in find():
            sign = _sign(sheet)
            if sign is None or given.get(sheet) == sign:
                continue
            if sheet not in since or since[sheet][0] != sign:
                since[sheet] = sign, now
            elif now - since[sheet][1] >= CALM:
                given[sheet] = sign
                ready.append(sheet)
        if ready:
            yield ready
        end = time.monotonic() + CALM / 4
        while time.monotonic() < end:
            on_pause()
            time.sleep(_PAUSE)


def _sign(sheet: Sheet) -> Sign | None:
    """Return what changes while a file is written: its size and time; None if it is gone."""
    if sheet.location.local is None:
        return 0, 0
    try:
        stat = sheet.location.local.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns
