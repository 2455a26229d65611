"""Writing without half-written files: everything is made in a folder of its own first, then gets its name.

That folder is new, has a random name and nobody else may enter it, so that no link which lies in an output
folder is ever written through. A path may lie in a bucket, as /vsis3/bucket/key: then a file is made on this
machine, and appears there as a whole. What writes a file or asks whether it exists raises `TargetError` where
it cannot; what makes folders, reads or deletes raises `OSError`.
"""

import errno
import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from io import BufferedReader
from pathlib import Path

import platformdirs

from pfmap.core import bucket
from pfmap.core.errors import UNSEEN, TargetError, reason, saying
from pfmap.core.system import LOOK, NO_LINK, POSIX, enter, leave, limits, locks, replace, user

_TRIES = 3
_LEAST = 1 << 20  # bytes: with fewer left a disk counts as full, whatever a library said

DRAFT = ".pfmap-"
"""What the names of folders begin with in which something is made, or taken apart; eight letters follow."""

_private: set[Path] = set()  # folders of this process


def in_bucket(path: Path) -> bool:
    """Whether a path names something in a bucket."""
    return f"{path.as_posix()}/".startswith(bucket.ROOT)


def scratch(folder: Path) -> Path:
    """Return a folder of this machine to make files in that go to a folder: for a bucket always the same."""
    if not in_bucket(folder):
        return folder
    sign = hashlib.sha256(folder.as_posix().encode()).hexdigest()[:16]
    return _refuse_link(platformdirs.user_cache_path("pfmap") / "buckets" / sign)


@contextmanager
def private_folder(folder: Path) -> Iterator[Path]:
    """Give a new folder in another, that nobody else may enter; at the end it goes with all that is in it.

    What a killed process left there goes first: whoever is alive holds a lock on its own.
    """
    home = scratch(folder)
    if home != folder:
        home.mkdir(parents=True, exist_ok=True)
    clear_drafts(folder)
    path, held = home, -1
    while held < 0:
        path = Path(tempfile.mkdtemp(prefix=DRAFT, dir=home))
        try:
            held = _hold(path)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EAGAIN):  # else somebody takes it for a left-over
                break  # not every file system has locks: left-overs stay there
    _private.add(path)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        _private.discard(path)
        if held >= 0:
            os.close(held)


def forsake() -> None:
    """Delete the private folders of this process, which ends though threads may be at work in them."""
    for path in [*_private] * _TRIES:
        shutil.rmtree(path, ignore_errors=True)


def _hold(folder: Path) -> int:
    """Open and lock a folder, for as long as it is open: an `OSError` if it is a link, gone, or in use."""
    held: int = enter(folder)
    try:
        locks.flock(held, locks.LOCK_EX | locks.LOCK_NB)
        folder.stat()  # still there: whoever held it may have deleted it
    except OSError:
        leave(held)
        raise
    return held


def clear_drafts(folder: Path) -> None:
    """Delete what killed processes left in a folder: what this user made, and no process holds."""
    there: list[Path] = []
    with suppress(OSError):  # nothing to see, nothing to clear
        there += scratch(folder).iterdir()
    for path in there:
        if re.fullmatch(rf"{re.escape(DRAFT)}\w{{8}}", path.name):
            with suppress(OSError):  # a link, a file, or in use
                held = _hold(path)
                try:
                    if os.fstat(held).st_uid == user():
                        shutil.rmtree(path, ignore_errors=True)
                finally:
                    os.close(held)


@contextmanager
def draft(final: Path) -> Iterator[Path]:
    """Give a path to write a file to; at the end the file gets its final name, after an error it is gone."""
    with writing(final), private_folder(final.parent) as folder:
        yield folder / final.name
        publish(folder / final.name, final)


def publish(staged: Path, final: Path, *, settled: bool = False) -> None:
    """Give a finished file or folder its final name, replacing what is there, for a power cut to leave whole.

    A link of that name is replaced, not followed. Whoever has `settled` many files settles their names, too.
    """
    inside = in_bucket(final)
    if not inside and final.exists() and not (final.is_file() or final.is_dir()):
        raise TargetError(f"{final} is a pipe or a device: choose another name")
    with saying(f"{final} cannot be written", TargetError):
        if inside:
            bucket.upload(staged, final)
            staged.unlink()
        else:
            if not settled:
                settle(staged)
            replace(staged, final)
            if not settled:
                settle_names(final.parent)


def refuse_unwritable(path: Path, size: int) -> None:
    """Refuse, before it takes time to make, a file of so many bytes that could not be written."""
    with writing(path):
        with private_folder(path.parent) as folder, (folder / path.name).open("wb") as file:
            file.truncate(size)  # which a limit of this process forbids
        if shutil.disk_usage(path.parent).free < size:
            raise OSError(errno.ENOSPC, f"it takes up to {size / 1e6:,.0f} MB")


def is_bare(name: str) -> bool:
    """Whether it is a name that pfmap gives to a file, and no way to another folder."""
    return Path(name).name == name and bool(name.strip(".")) and not UNSEEN.search(name)


def make_folder(folder: Path, within: Path | None = None) -> None:
    """Make a folder that the user has named, and those around it; or one `within` that, through no link."""
    for made in () if within is None else (folder, *folder.parents)[: -len(within.parents) - 1]:
        _refuse_link(made)
    if not in_bucket(folder):
        folder.mkdir(parents=True, exist_ok=True)


def _refuse_link(folder: Path) -> Path:
    if folder.is_symlink():
        raise TargetError(f"{folder} is a link, which pfmap does not follow to write: delete it")
    return folder


def is_there(path: Path) -> bool:
    """Whether there is a file or folder; an `OSError` where nobody can tell, and Python 3.14 would say no."""
    try:
        path.stat()
    except (OSError, ValueError) as error:
        if getattr(error, "errno", errno.ENOENT) not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        return False
    return True


def existing(folder: Path, names: Iterable[str]) -> list[str]:
    """Return those names that files of a folder have; a bucket is asked once."""
    wanted = list(names)
    if not in_bucket(folder):
        return [name for name in wanted if is_there(folder / name)]
    there = set(file_names(folder, os.path.commonprefix(wanted)))  # noqa: RUF071 - of letters
    return [name for name in wanted if name in there]


def file_names(folder: Path, prefix: str = "") -> list[str]:
    """Return the names in a folder that begin with something, of links to nothing too, in order."""
    if not in_bucket(folder):
        return sorted(path.name for path in folder.glob("*") if path.name.startswith(prefix))
    remedy = "check the bucket's name and the AWS_ settings, or choose another folder with output_dir="
    with saying(f"{folder} cannot be written", TargetError, remedy=remedy):
        return bucket.names(folder, prefix)


@cache
def template(path: Path) -> Callable[..., str]:
    """Return what fills the gaps, in braces, of a text file of this package; what fills them is escaped."""
    return path.read_text(encoding="utf-8").rstrip("\n").format


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """Read a small text file; a `UnicodeError` where it is none, an `OSError` if it is a pipe or a device."""
    if in_bucket(path):
        return bucket.read(path).decode(encoding)
    with _open_plain(path, follow=True) as file:
        return file.read().decode(encoding)


def remove(path: Path) -> None:
    """Delete a file, if it is there."""
    if in_bucket(path):
        bucket.remove(path)
    else:
        path.unlink(missing_ok=True)


def settle(path: Path) -> None:
    """Have the system bring a file, or a folder with its files, onto the disk."""
    if path.is_dir():
        for inside in path.iterdir():
            settle(inside)
        settle_names(path)
        return
    with path.open("rb" if POSIX else "r+b") as file:
        os.fsync(file.fileno())


def settle_names(folder: Path) -> None:
    """Have the system bring the names in a folder onto the disk."""
    if in_bucket(folder) or not POSIX:
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # some file systems cannot
            raise
    finally:
        os.close(opened)


def read_plain(path: Path) -> bytes:
    """Read a small file that must be one: an `OSError` if it is a link or a pipe."""
    with _open_plain(path) as file:
        return file.read()


def checksum(path: Path) -> str:
    """Return a checksum of a file and its name, as digits: an `OSError` if it is a link or a pipe."""
    with _open_plain(path) as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(path.name.encode())).hexdigest()


def _open_plain(path: Path, *, follow: bool = False) -> BufferedReader:
    file = os.fdopen(os.open(path, LOOK if follow else LOOK | NO_LINK), "rb")
    linked = not (follow or NO_LINK) and path.is_symlink()
    if linked or not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "no plain file", str(path))
    return file


def writing_into(folder: Path) -> AbstractContextManager[None]:
    """Have what the system refuses, or has no locks for, be said of the folder where outputs go."""
    what, remedy = f"{folder} cannot be written", "choose another folder with output_dir="
    return saying(what, TargetError, OSError, NotImplementedError, remedy=remedy)


@contextmanager
def writing(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """Have what the system refuses, and such errors, be said of a file that is written, with its cause."""
    caught: tuple[type[Exception], ...] = (OSError, *errors)
    try:
        yield
    except TargetError:
        raise
    except caught as error:
        raise write_failed(path, error) from error


def write_failed(path: Path, error: Exception) -> TargetError:
    """Say that a file could not be written, why, and what to do."""
    if in_bucket(path):
        why = getattr(error, "strerror", None) or reason(error)
        return TargetError(
            f"{path.name} could not be written to {path.parent} ({why}): once that is mended, the same "
            "command goes on"
        )
    why, remedy = reason(error), "mend that and run the same command again"
    number = getattr(error if isinstance(error, OSError) else error.__cause__, "errno", None)
    limited = limits.getrlimit(limits.RLIMIT_FSIZE)[0] != limits.RLIM_INFINITY
    with suppress(OSError):  # a server that is gone does not even say how much is free
        disk = shutil.disk_usage(path.parent)
        number = errno.ENOSPC if disk.free < _LEAST <= disk.total else number
    if not os.path.isdir(path.parent):  # noqa: PTH112 - which never raises
        why = f"the folder is gone; {why}"
    elif number in (errno.ENOSPC, errno.EDQUOT):
        why, remedy = f"the disk is full; {why}", "free some space and run the same command again"
    elif number == errno.EFBIG or (number is None and limited):
        why = f"no file may be that large here, by ulimit -f or the disk's format; {why}"
    return TargetError(
        f"{path.name} could not be written to {path.parent} ({why}): {remedy}, or choose another folder"
    )


def write_text(path: Path, text: str) -> None:
    """Write a small text file as UTF-8, under a temporary name first."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a small file, under a temporary name first."""
    if in_bucket(path):
        with writing(path):
            bucket.write(path, content)
    else:
        with draft(path) as part:
            part.write_bytes(content)
