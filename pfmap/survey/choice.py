"""Which scenes of a survey are mapped, and when: all at once, those that failed, or as they appear."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pfmap.core.errors import UsageError
from pfmap.mapping.job import Progress
from pfmap.survey.failures import failures_folder, read_failures, refuse_foreign_list
from pfmap.survey.find import Sheet, find_sheets
from pfmap.survey.watch import arrivals

Sources = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""A scene, a folder or ``@list.txt``, or several of them."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which scenes are mapped.

    Attributes:
        sources: scenes, folders and lists, as `find_sheets` takes them.
        folder: where the outputs go; None for beside each scene.
        pattern: which files of folders are taken.
        retry_failed: whether only those that `failures.csv` names.
        watch: whether to go on with what appears in the folders.
        reserved: what outputs in `folder` itself must not be called, or "".
    """

    sources: Sequence[str | os.PathLike[str]]
    folder: Path | None
    pattern: str | None
    retry_failed: bool
    watch: bool
    reserved: str = ""

    @property
    def listed(self) -> Path:
        """Where the list of failures lies."""
        return failures_folder(self.sources, self.folder)

    def find(self) -> list[Sheet]:
        """Find all scenes that are there now."""
        sheets = find_sheets(self.sources, self.folder, self.pattern, may_be_empty=self.watch)
        return [self._renamed(sheet) for sheet in sheets]

    def rounds(self, on_progress: Progress, on_message: Callable[[str], None]) -> Iterator[list[Sheet]]:
        """Give the scenes that are mapped together; of a folder that is watched, as they come."""
        sheets = self.find()  # what is wrong shows now
        refuse_foreign_list(self.listed)
        if not self.watch:
            if self.retry_failed:
                before = read_failures(self.listed)
                sheets = [sheet for sheet in sheets if sheet.location.text in before]
            return iter([sheets])
        if self.retry_failed:
            raise UsageError("--watch maps again what failed once it changes: leave out --retry-failed")
        on_message(f"watching {', '.join(map(str, self.sources))}: Ctrl-C ends it")
        return arrivals(self.find, lambda: on_progress(0, 0))

    def _renamed(self, sheet: Sheet) -> Sheet:
        """Call the outputs of survey.tif survey_tif, where a survey's own have that name."""
        if sheet.folder != self.folder or sheet.location.stem.casefold() != self.reserved:
            return sheet
        called = sheet.location.name.replace(".", "_")
        return Sheet(replace(sheet.location, called=called), sheet.folder, called)


def several(sources: Sources) -> Sequence[str | os.PathLike[str]]:
    """Return a list also of one source."""
    return [sources] if isinstance(sources, (str, os.PathLike)) else sources
