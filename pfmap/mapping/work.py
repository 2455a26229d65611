"""The work folder of a scene: finished swaths on disk, so that a run that was stopped goes on from there.

It lies hidden beside the outputs, so that renaming into place is atomic and the disk that fills is the one
that was checked; where they go into a bucket it lies on this machine. Whatever is in it under its own name is
complete: everything is written under a temporary name first. A process may be killed at any moment.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pfmap.core import bucket
from pfmap.core.errors import TargetError
from pfmap.core.files import (
    DRAFT,
    checksum,
    in_bucket,
    is_bare,
    private_folder,
    publish,
    read_plain,
    scratch,
    settle,
    settle_names,
    write_text,
    writing,
    writing_into,
)
from pfmap.core.grid import Span
from pfmap.core.resources import LOCK_NAME, claimed, clear_beside
from pfmap.core.tables import parse_json

RUN_NAME, _PUBLISH, _FINALS, _SEAL = "run.json", "publish.json", "final", "seal"
_SWATH = r"\d+-\d+"
_WORDS = {"scene": "the scene", "model": "the model", "options": "an option", "pfmap": "pfmap, torch or GDAL"}


@dataclass(slots=True)
class Work:
    """An opened work folder."""

    path: Path
    """The folder, on this machine."""
    target: Path
    """Where finished files go, possibly in a bucket."""
    run: str = ""
    """What the run's file says: what swaths and finished files have to be of."""
    say: Callable[[str], object] = str
    useless: bool = False
    """Set where going on from here would lead nowhere: then nothing is kept."""
    half_named: bool = False
    """Whether files of this run that have their final names already have to be made again."""

    @property
    def finals(self) -> Path:
        """Where finished files wait for their names."""
        return self.path / _FINALS

    def swath(self, rows: Span) -> Path:
        """Return the folder of a swath; it exists if the swath is finished."""
        return self.path / f"{rows.start:010d}-{rows.stop:010d}"

    def has(self, rows: Span) -> bool:
        """Whether a swath is finished, and as it was written; a damaged one goes, to be computed again."""
        folder = self.swath(rows)
        if not folder.is_dir():
            return False
        if self.is_sealed(folder, rows):
            return True
        self.say(
            f"warning: rows {rows.start} to {rows.stop} of an earlier run are damaged in {self.path}: they "
            "are computed again"
        )
        with writing_into(self.target), private_folder(self.path) as away:
            folder.rename(away / folder.name)
        return False

    @contextmanager
    def writing(self, rows: Span) -> Iterator[Path]:
        """Give a folder to write a swath into; at the end the swath is finished.

        Two may write the same one, as when a worker that was given up turns out to live: the first one's
        stays.
        """
        final = self.swath(rows)
        part = final.with_name(f"{final.name}.{secrets.token_hex(4)}.part")
        with writing_into(self.target):
            part.mkdir(mode=0o755)  # nobody else is to put something there
        yield part
        self.seal(part, rows)
        try:
            publish(part, final)
        except TargetError:
            if not final.is_dir():
                raise
            shutil.rmtree(part, ignore_errors=True)

    def seal(self, folder: Path, rows: Span) -> None:
        """Note in a folder that the files in it are a swath: a checksum of them, and of whose they are."""
        with writing(folder / _SEAL):
            (folder / _SEAL).write_text(self._sum(folder, rows), encoding="ascii")

    def is_sealed(self, folder: Path, rows: Span) -> bool:
        """Whether a folder is as it was sealed: these files and no others, of the same swath and run."""
        try:
            return read_plain(folder / _SEAL) == self._sum(folder, rows).encode()
        except OSError:
            return False

    def _sum(self, folder: Path, rows: Span) -> str:
        files = sorted(path for path in folder.iterdir() if path.name != _SEAL)
        lines = [f"rows {rows.start} to {rows.stop} of {self.run}", *map(checksum, files)]
        return hashlib.blake2b("\n".join(lines).encode()).hexdigest()

    @property
    def shared(self) -> Path:
        """Where workers on other machines leave swaths: here too, unless outputs go into a bucket."""
        return self.target / self.path.name

    @property
    def finished_swaths(self) -> int:
        """How many swaths are on disk."""
        return sum(1 for path in self.path.iterdir() if re.fullmatch(_SWATH, path.name))

    @property
    def publishing(self) -> bool:
        """Whether all is computed and some files may have their final names already."""
        return (self.path / _PUBLISH).is_file()

    def is_ready(self, wanted: str) -> bool:
        """Whether an earlier run has computed all that is wanted; what was made for other wishes goes.

        So does what is damaged. What has its name already is looked at there.
        """
        if not self.publishing:
            return False
        order = self._order()
        other = order is not None and order["wanted"] != wanted
        if order is not None and not other and all(self._is_there(*file) for file in order["files"].items()):
            return True
        if not other:
            self.say(f"warning: files of an earlier run are damaged in {self.path}: they are made again")
            self.half_named = True
        with writing_into(self.target):
            (self.path / _PUBLISH).unlink()
            shutil.rmtree(self.finals)
            self.finals.mkdir(mode=0o755)
        return False

    def ready(self, names: Sequence[str], wanted: str) -> None:
        """Note that all is computed: from here on only names are missing, which files get in this order.

        `wanted` is what the files were asked to be, apart from the fingerprint.
        """
        with writing(self.target / names[-1]):
            settle(self.finals)
            files = {name: checksum(self.finals / name) for name in names}
        write_text(self.path / _PUBLISH, json.dumps({"run": self.run, "wanted": wanted, "files": files}))

    def finish_publishing(self) -> None:
        """Give the files that are ready their final names, as far as they have not got them."""
        order = self._order()
        if order is None:
            raise TargetError(f"{self.path / _PUBLISH} is damaged: run the same command again")
        names = list(order["files"])
        with writing_into(self.target):
            if (self.finals / names[-1]).exists():
                clear_beside(self.target, names)
            for name in names:
                if (self.finals / name).exists():
                    publish(self.finals / name, self.target / name, settled=True)
            settle_names(self.target)

    def _order(self) -> dict[str, Any] | None:
        """Read which files are ready; None where that was not written by this run, or not by pfmap."""
        try:
            order = parse_json(read_plain(self.path / _PUBLISH))
            files = order["files"]
            plain = isinstance(files, dict) and files and all(map(is_bare, files))
            return order if plain and order["run"] == self.run and "wanted" in order else None
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def _is_there(self, name: str, sign: str) -> bool:
        """Whether a finished file is as it was made, with its final name or still without."""
        path = self.finals / name
        if not os.path.lexists(path):
            path = self.target / name
        with suppress(OSError):
            return bucket.exists(path) if in_bucket(path) else checksum(path) == sign
        return False


def work_path(output_dir: Path, stem: str) -> Path:
    """Return where the work folder of a scene or survey is."""
    return scratch(output_dir) / f".{stem}.pfmap"


@contextmanager
def opened(
    output_dir: Path, stem: str, fingerprint: Mapping[str, str], *, resume: bool, say: Callable[[str], None]
) -> Iterator[Work]:
    """Open the work folder of a scene, alone; throw away what another scene, model or option left in it.

    At the end of a failed run it stays if a swath is finished, and else goes. The `fingerprint` is of scene,
    model, options and pfmap; `stem` is what the names of finished files begin with.
    """
    path = work_path(output_dir, stem)
    with claimed(path, output_dir, "this scene") as give_up:
        work = Work(path, output_dir, json.dumps(dict(fingerprint)), say)
        try:
            _prepare(work, fingerprint, resume=resume)
            yield work
        except BaseException:
            if not _keeps_something(work):
                give_up()
            raise
        if work.shared != work.path:
            with suppress(OSError):
                bucket.remove_all(work.shared)
        give_up()


def _prepare(work: Work, fingerprint: Mapping[str, str], *, resume: bool) -> None:
    run = work.path / RUN_NAME
    try:
        before = parse_json(read_plain(run))
    except (OSError, ValueError):
        before = None
    with writing_into(work.target):
        # What a power cut took, swaths and finished files know themselves.
        if resume and (before is None or before == dict(fingerprint)):
            _sweep(work, rf"{_SWATH}|{RUN_NAME}|{_PUBLISH}|{_FINALS}")
            if not work.publishing:
                shutil.rmtree(work.finals, ignore_errors=True)
        else:
            if isinstance(before, dict) and resume and work.finished_swaths:
                changed = [word for key, word in _WORDS.items() if before.get(key) != fingerprint[key]]
                work.say(
                    f"warning: an unfinished run is thrown away, because {' and '.join(changed)} changed "
                    "since: starting afresh"
                )
            _sweep(work, "")
        if before != dict(fingerprint) or not run.exists():
            write_text(run, work.run)
        work.finals.mkdir(mode=0o755, exist_ok=True)


def _sweep(work: Work, kept: str) -> None:
    """Delete what is in the work folder, but what is called so; links go, and are not followed.

    A worker that was given up may still be writing into a folder, and about to give it the name of a finished
    swath: each loses its name first, so that either the worker finishes it whole, or can finish it no more.
    """

    def stays(entry: os.DirEntry[str]) -> bool:
        is_file = entry.name in (LOCK_NAME, RUN_NAME, _PUBLISH)
        fits = entry.is_file(follow_symlinks=False) if is_file else entry.is_dir(follow_symlinks=False)
        # What a disk does not let go of stays where it was put to be deleted.
        return fits and bool(re.fullmatch(rf"{LOCK_NAME}|{re.escape(DRAFT)}.*|{kept}", entry.name))

    while found := [entry.path for entry in os.scandir(work.path) if not stays(entry)]:
        with private_folder(work.path) as away:
            for number, path in enumerate(found):
                with suppress(FileNotFoundError):  # it has just got its other name
                    Path(path).rename(away / str(number))


def _keeps_something(work: Work) -> bool:
    """Whether a rerun can use what is in a work folder; say so."""
    count = work.finished_swaths if work.path.is_dir() else 0
    if work.useless or not (count or work.publishing):
        return False
    if not work.publishing:
        shutil.rmtree(work.finals, ignore_errors=True)
    work.say(f"{count} finished swath{'s' * (count != 1)} kept: the same command goes on from there")
    return True
