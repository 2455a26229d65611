"""The work folder of a scene: finished swaths on disk, so that a run that was stopped goes on from there.

It lies hidden beside the outputs, so that renaming into place is atomic and the disk that fills is the one
that was checked; where they go into a bucket it lies on this machine. Whatever is in it under its own name is
complete: everything is written under a temporary name first. A process may be killed at any moment.
"""

import json
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import filelock

from pfmap.core import bucket
from pfmap.core.errors import TargetError
from pfmap.core.files import clear_beside, publish, remove_all, scratch, settle, write_text
from pfmap.core.grid import Span

RUN_NAME, _PUBLISH, _LOCK, _BIN = "run.json", "publish.json", "lock", "bin"
_WORDS = {"scene": "the scene", "model": "the model", "options": "an option", "pfmap": "pfmap"}


@dataclass(slots=True)
class Work:
    """An opened work folder."""

    path: Path
    """The folder, on this machine."""
    target: Path
    """Where finished files go, possibly in a bucket."""
    useless: bool = False
    """Set where going on from here would lead nowhere: then nothing is kept."""

    @property
    def finals(self) -> Path:
        """Where finished files wait for their names."""
        return self.path / "final"

    def swath(self, rows: Span) -> Path:
        """Return the folder of a swath; it exists if the swath is finished."""
        return self.path / f"{rows.start:010d}-{rows.stop:010d}"

    @contextmanager
    def writing(self, rows: Span) -> Iterator[Path]:
        """Give a folder to write a swath into; at the end the swath is finished.

        Two may write the same one, as when a worker that was given up turns out to live: the first one's
        stays.
        """
        final = self.swath(rows)
        part = final.with_name(f"{final.name}.{secrets.token_hex(4)}.part")
        try:
            part.mkdir()
        except OSError as error:
            raise TargetError(f"{self.target} cannot be written any more ({error.strerror})") from error
        yield part
        settle(part)
        try:
            publish(part, final)
        except TargetError:
            if not final.is_dir():
                raise
            shutil.rmtree(part, ignore_errors=True)

    @property
    def shared(self) -> Path:
        """Where workers on other machines leave swaths: here too, unless outputs go into a bucket."""
        return self.target / self.path.name

    @property
    def finished_swaths(self) -> int:
        """How many swaths are on disk."""
        return sum(1 for path in self.path.glob("*-*") if path.is_dir() and path.suffix != ".part")

    @property
    def publishing(self) -> bool:
        """Whether all is computed and some files may have their final names already."""
        return (self.path / _PUBLISH).is_file()

    def is_ready(self, wanted: str) -> bool:
        """Whether an earlier run has computed all that is wanted; what was made for other wishes goes."""
        if not self.publishing:
            return False
        if json.loads((self.path / _PUBLISH).read_text(encoding="utf-8"))["wanted"] == wanted:
            return True
        (self.path / _PUBLISH).unlink()
        shutil.rmtree(self.finals)
        self.finals.mkdir()
        return False

    def ready(self, names: Sequence[str], wanted: str) -> None:
        """Note that all is computed: from here on only names are missing.

        Args:
            names: files in `finals`, in the order in which they get their names.
            wanted: what the files were asked to be, apart from the fingerprint.
        """
        write_text(self.path / _PUBLISH, json.dumps({"names": list(names), "wanted": wanted}))

    def finish_publishing(self) -> None:
        """Give the files that are ready their final names, as far as they have not got them.

        Raises:
            TargetError: a name cannot be taken.
        """
        order = json.loads((self.path / _PUBLISH).read_text(encoding="utf-8"))
        if (self.finals / order["names"][-1]).exists():
            clear_beside(self.target, order["names"])
        for name in order["names"]:
            if (self.finals / name).exists():
                publish(self.finals / name, self.target / name)

    def remove(self) -> None:
        """Delete the folder; what says how far the run came goes last."""
        for path in self.path.iterdir():
            if path.name not in (RUN_NAME, _PUBLISH, _LOCK):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
        for name in (RUN_NAME, _PUBLISH, _LOCK):
            (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)


def work_path(output_dir: Path, stem: str) -> Path:
    """Return where the work folder of a scene is."""
    return scratch(output_dir) / _name(stem)


def _name(stem: str) -> str:
    return f".{stem}.pfmap"


@contextmanager
def opened(
    output_dir: Path, stem: str, fingerprint: Mapping[str, str], *, resume: bool, say: Callable[[str], None]
) -> Iterator[Work]:
    """Open the work folder of a scene, alone; throw away what another scene, model or option left in it.

    At the end of a failed run it stays if a swath is finished, and else goes.

    Args:
        output_dir: where finished files go.
        stem: what their names begin with.
        fingerprint: of scene, model, options and pfmap.
        resume: whether to go on from what an earlier run left.
        say: called with lines for people.

    Raises:
        TargetError: the folder cannot be written, or another process works in it.
    """
    with locked(output_dir, stem, "this scene"):
        work = Work(work_path(output_dir, stem), output_dir)
        try:
            _prepare(work, fingerprint, resume=resume, say=say)
            yield work
        except BaseException:
            _leave(work, say)
            raise
        if work.shared != work.path:
            remove_all(work.shared)
    work.remove()


@contextmanager
def locked(output_dir: Path, stem: str, what: str) -> Iterator[Path]:
    """Make the hidden folder of a scene or survey, if it is not there, and have it alone.

    `what` is mapped by whoever has it, for the message.

    Raises:
        TargetError: it cannot be written, or another process has it.
    """
    path = work_path(output_dir, stem)
    with ExitStack() as held:
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(path / _LOCK)
            lock.acquire(timeout=0)
            held.callback(lock.release)
            if bucket.is_inside(output_dir):
                holder = f"{bucket.this_machine()} {path}"
                held.enter_context(bucket.leased(output_dir / f"{_name(stem)}.{_LOCK}", holder))
        except (filelock.Timeout, BlockingIOError) as error:
            raise TargetError(
                f"another pfmap maps {what} into {output_dir} now{_holder(error)}: wait for it, or choose "
                "another folder with output_dir="
            ) from error
        except (OSError, NotImplementedError) as error:
            raise TargetError(
                f"{output_dir} cannot be written ({getattr(error, 'strerror', error)}): choose another "
                "folder with output_dir="
            ) from error
        yield path


def _holder(error: Exception) -> str:
    """Say who has a place in a bucket, and that a run that was killed has it for a while."""
    if isinstance(error, filelock.Timeout):
        return ""
    return f" ({getattr(error, 'strerror', '')}, or was until {bucket.LEASE:.0f} s ago)"


def _prepare(work: Work, fingerprint: Mapping[str, str], *, resume: bool, say: Callable[[str], None]) -> None:
    run = work.path / RUN_NAME
    try:
        before = json.loads(run.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = None
    try:
        if before == dict(fingerprint) and resume:
            _throw_away(work, "*.part")
            if not work.publishing:
                shutil.rmtree(work.finals, ignore_errors=True)
        else:
            if isinstance(before, dict) and resume and work.finished_swaths:
                changed = [word for key, word in _WORDS.items() if before.get(key) != fingerprint[key]]
                say(
                    f"warning: an unfinished run is thrown away, because {' and '.join(changed)} changed "
                    "since: starting afresh"
                )
            for name in (RUN_NAME, _PUBLISH):
                (work.path / name).unlink(missing_ok=True)
            _throw_away(work, "*")
            write_text(run, json.dumps(dict(fingerprint)))
        work.finals.mkdir(exist_ok=True)
    except OSError as error:
        raise TargetError(
            f"{work.target} cannot be written ({error.strerror}): choose another folder with output_dir="
        ) from error


def _throw_away(work: Work, pattern: str) -> None:
    """Delete folders of the work folder.

    A worker that was given up may still be writing into one, and about to give it the name of a finished
    swath: each loses its name first, so that either the worker finishes it whole, or can finish it no more.
    """
    while folders := [path for path in work.path.glob(pattern) if path.is_dir() and path.name != _BIN]:
        (work.path / _BIN).mkdir(exist_ok=True)
        for folder in folders:
            with suppress(FileNotFoundError):  # it has just got its other name
                folder.rename(work.path / _BIN / secrets.token_hex(8))
    shutil.rmtree(work.path / _BIN, ignore_errors=True)


def _leave(work: Work, say: Callable[[str], None]) -> None:
    """Keep what a rerun can use; leave no trace otherwise."""
    count = work.finished_swaths if work.path.is_dir() else 0
    if work.useless or not (count or work.publishing):
        shutil.rmtree(work.path, ignore_errors=True)
        return
    if not work.publishing:
        shutil.rmtree(work.finals, ignore_errors=True)
    say(f"{count} finished swath{'s' * (count != 1)} kept: the same command goes on from there")
