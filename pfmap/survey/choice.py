"""Which scenes of a survey are mapped, and when: all at once, those that failed before, or as they appear.

The scenes that failed stand in `failures.csv`, for people and for the next run.
"""

import csv
import io
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pfmap.core.errors import UsageError, csv_cell, csv_text
from pfmap.core.files import in_bucket, make_folder, read_text, remove, write_bytes
from pfmap.core.system import common_folder
from pfmap.mapping.job import Progress
from pfmap.mapping.run_options import SurveyOptions
from pfmap.raster.extra import STEM
from pfmap.survey.find import Sheet, find_sheets

Sources = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""A scene, a folder or ``@list.txt``, or several of them."""

NAME = "failures.csv"
"""Of the list of scenes that failed."""
_FIELDS = ("scene", "reason")

CALM = 5.0
"""Seconds for which a file must have stayed as it is: then whoever writes it has finished."""
_PAUSE = 0.2  # seconds


def several(sources: Sources) -> Sequence[str | os.PathLike[str]]:
    """Return a list also of one source."""
    return [sources] if isinstance(sources, (str, os.PathLike)) else sources


@dataclass(frozen=True, slots=True)
class Choice:
    """Which scenes are mapped."""

    sources: Sequence[str | os.PathLike[str]]
    """Scenes, folders and lists, as `find_sheets` takes them."""
    folder: Path | None
    """Where the outputs go; None for beside each scene."""
    options: SurveyOptions
    reserved: str = ""
    """What outputs in `folder` itself must not be called, or ""."""
    extra: Collection[str] = ()
    """Names of files of further bands, which are no scenes."""

    @property
    def listed(self) -> Path:
        """Where the list of failures lies."""
        return failures_folder(self.sources, self.folder)

    def find(self) -> list[Sheet]:
        """Find all scenes that are there now."""
        pattern, watched = self.options.pattern, self.options.watch
        sheets = find_sheets(self.sources, self.folder, pattern, may_be_empty=watched, reserved=self.reserved)
        root = None if self.folder is None or in_bucket(self.folder) else self.folder.resolve()
        for place in {sheet.folder for sheet in sheets}:
            if root is not None and not place.resolve().is_relative_to(root):
                raise UsageError(f"{place} leads out of {self.folder}, where outputs go: delete the link")
        names = [file.replace(STEM, "*") if STEM in file else os.path.realpath(file) for file in self.extra]
        real = [Path(os.path.realpath(sheet.location.gdal)) for sheet in sheets]
        scenes = [one for one, path in zip(sheets, real, strict=True) if not any(map(path.match, names))]
        if sheets and not scenes and not watched:
            raise UsageError(f"{sheets[0].location.text} is a file for extra=, and no scene: name scenes too")
        return scenes

    def rounds(self, on_progress: Progress, on_message: Callable[[str], None]) -> Iterator[list[Sheet]]:
        """Give the scenes that are mapped together; of a folder that is watched, as they come."""
        sheets = self.find()  # what is wrong shows now
        failed = _read_failures(self.listed)
        if self.options.watch and self.options.retry_failed:
            raise UsageError("watch=True maps again what failed once it changes: leave out retry_failed=True")
        if self.options.retry_failed:
            if failed is None:
                raise UsageError(
                    f"{self.listed / NAME} does not exist: no scene failed in an earlier run into this folder"
                )
            names = [csv_cell(sheet.location.text) for sheet in sheets]
            if lost := sorted(failed.difference(names)):
                raise UsageError(
                    f"{self.listed / NAME} lists {lost[0]}, which is none of the scenes found: name all as "
                    "in the run that wrote it, or run without retry_failed=True"
                )
            sheets = [sheet for sheet, name in zip(sheets, names, strict=True) if name in failed]
        if not self.options.watch:
            return iter([sheets])
        on_message(f"watching {', '.join(map(str, self.sources))}: Ctrl-C ends it")
        return _arrivals(self.find, lambda: on_progress(0, 0))


def _arrivals(find: Callable[[], list[Sheet]], on_pause: Callable[[], None]) -> Iterator[list[Sheet]]:
    """Yield those scenes found that have appeared, or changed, and are complete; never ends by itself.

    `on_pause` is called several times a second while nothing happens; it may raise to stop.
    """
    since: dict[Sheet, tuple[tuple[int, int], float]] = {}
    given: dict[Sheet, tuple[int, int]] = {}
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


def _sign(sheet: Sheet) -> tuple[int, int] | None:
    """Return size and time of a file, which change while it is written; None if it is gone."""
    if sheet.location.local is None:
        return 0, 0  # what lies elsewhere counts as complete
    try:
        stat = sheet.location.local.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


def failures_folder(sources: Sequence[str | os.PathLike[str]], output_dir: Path | None) -> Path:
    """Return where the list lies: where the outputs go, or else the folder that holds all sources."""
    if output_dir is not None:
        return output_dir
    places = (Path(os.path.realpath(os.fspath(source).removeprefix("@"))) for source in sources)
    homes = {str(place if place.is_dir() else place.parent) for place in places if place.exists()}
    return Path(common_folder(homes))


def write_failures(folder: Path, failures: Mapping[str, str]) -> None:
    """Write which scenes failed and why, by scene; without any, remove what an earlier run wrote."""
    path = folder / NAME
    if not failures:
        remove(path)
        return
    make_folder(folder)
    content = csv_text([_FIELDS, *failures.items()])
    write_bytes(path, content.encode("utf-8-sig"))  # spreadsheets take it for UTF-8 by its mark


def _read_failures(folder: Path) -> set[str] | None:
    """Return the scenes that failed earlier, as listed; None without a list, an error if it is another's."""
    path = folder / NAME
    try:
        head, *rows = csv.reader(io.StringIO(read_text(path, "utf-8-sig"), newline=""))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, csv.Error):
        head, rows = [], []
    if tuple(head) != _FIELDS:
        raise UsageError(f"{path} is no list that pfmap wrote: rename it, so that pfmap can write its own")
    return {row[0] for row in rows if row}
