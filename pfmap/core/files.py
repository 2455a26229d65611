"""Writing without half-written files: everything gets a temporary name first, then its own.

A path may lie in a bucket, as /vsis3/bucket/key: then a file is made on this machine, and appears there as a
whole. What writes a file or asks whether it exists raises `TargetError` where it cannot; what makes folders,
reads or deletes raises `OSError`.
"""

import errno
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import platformdirs

from pfmap.core import bucket
from pfmap.core.errors import TargetError, reason

PART = "_part"
"""Before the number of a further part of a shapefile."""

_BESIDE = {
    ".gpkg": "gpkg-wal gpkg-shm gpkg-journal gpkg.aux.xml",
    ".shp": "shx dbf prj cpg qpj qix sbn sbx idm ind ain aih atx fbn fbx ixs mxs",
    ".tif": "tif.aux.xml tif.ovr tif.msk tif.msk.ovr tif.vat.dbf tfw tifw wld tab aux rrd ovr",
    ".vrt": "vrt.aux.xml vrt.ovr vrt.msk vrt.msk.ovr",
}
"""By the ending of a file: those of what programs take for a part of it."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_LEAST = 1 << 20  # bytes: with fewer left a disk counts as full, whatever a library said

_SQLITE_LOCKS = (("", 1 << 30, 512), ("-shm", 128, 1))
"""Files of a database by their ending, and the bytes of them that SQLite locks while it is open."""

UNDATED = datetime(1980, 1, 1, tzinfo=UTC)
"""What is written where no time is known: the first that all formats have."""


def scratch(folder: Path) -> Path:
    """Return a folder of this machine to make files in that go to a folder: that itself, unless in a bucket.

    For a bucket it is one below the user's cache folder, and the same at every call.
    """
    if not bucket.is_inside(folder):
        return folder
    sign = hashlib.sha256(folder.as_posix().encode()).hexdigest()[:16]
    return platformdirs.user_cache_path("pfmap") / "buckets" / sign


def publish(staged: Path, final: Path) -> None:
    """Give a finished file its final name, replacing what is there."""
    try:
        if bucket.is_inside(final):
            bucket.upload(staged, final)
            staged.unlink()
        else:
            staged.replace(final)
    except OSError as error:
        raise TargetError(f"{final} cannot be written ({error.strerror})") from error


def make_folder(folder: Path) -> None:
    """Make a folder, and those around it; in a bucket there are none."""
    if not bucket.is_inside(folder):
        folder.mkdir(parents=True, exist_ok=True)


def exists(path: Path) -> bool:
    """Whether there is such a file."""
    if not bucket.is_inside(path):
        return path.is_file()
    with _asked(path.parent):
        return bucket.exists(path)


def existing(folder: Path, names: Iterable[str]) -> list[str]:
    """Return those names that files of a folder have; a bucket is asked once."""
    wanted = list(names)
    if not bucket.is_inside(folder):
        return [name for name in wanted if (folder / name).exists()]
    with _asked(folder):
        there = set(bucket.names(folder, os.path.commonprefix(wanted)))  # noqa: RUF071 - of letters
    return [name for name in wanted if name in there]


def file_names(folder: Path, prefix: str = "") -> list[str]:
    """Return the names of the files in a folder that begin with something, in order."""
    if bucket.is_inside(folder):
        with _asked(folder):
            return bucket.names(folder, prefix)
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(prefix) and path.is_file())


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """Read a small text file; a `UnicodeError` where it is no text."""
    return bucket.read(path).decode(encoding) if bucket.is_inside(path) else path.read_text(encoding)


def remove(path: Path) -> None:
    """Delete a file, if it is there."""
    if bucket.is_inside(path):
        bucket.remove(path)
    else:
        path.unlink(missing_ok=True)


def remove_all(folder: Path) -> None:
    """Delete a folder with all that is in it, as far as that can be done."""
    if bucket.is_inside(folder):
        with suppress(OSError):
            bucket.remove_all(folder)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def beside(name: str) -> list[str]:
    """Return the names of files that programs take for a part of one of this name, such as pyramids."""
    path = Path(name)
    return [f"{path.stem}.{ending}" for ending in _BESIDE.get(path.suffix, "").split()]


def clear_beside(folder: Path, names: Iterable[str]) -> None:
    """Delete what belongs to files that are going to be replaced by some of these names, and is none of them.

    Otherwise the old content would show beside the new, as from pyramids, or get into it, as from a journal.

    Raises:
        TargetError: a database among them is open elsewhere.
    """
    new = set(names)
    there = set(file_names(folder)) if new else set()
    for name in sorted(new & there):
        refuse_open(folder / name)
    old = set(new)
    for name in new:
        part = re.compile(rf"{re.escape(Path(name).stem)}{PART}\d+\.shp")
        old |= {one for one in there if name.endswith(".shp") and part.fullmatch(one)}
    for name in (old | {one for each in old for one in beside(each)}) & (there - new):
        remove(folder / name)


def refuse_open(path: Path) -> None:
    """Refuse to replace a GeoPackage that a program has open: it would write what it has into the new one.

    Raises:
        TargetError: one has.
    """
    for ending, start, size in _SQLITE_LOCKS if path.suffix == ".gpkg" else ():
        try:
            opened = os.open(f"{path}{ending}", os.O_RDWR | os.O_NOFOLLOW)
        except OSError:  # it is not there, or another's
            continue
        try:
            fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB, size, start)
        except (BlockingIOError, PermissionError) as error:
            raise TargetError(
                f"{path} is open in another program, such as QGIS: close it there, or choose another folder "
                "with output_dir="
            ) from error
        except OSError:  # no locks on this file system
            continue
        finally:
            os.close(opened)


@contextmanager
def _asked(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TargetError(
            f"{folder} cannot be written ({error.strerror}): check the bucket's name and the AWS_ settings, "
            "or choose another folder with output_dir="
        ) from error


def settle(folder: Path) -> None:
    """Have the system bring all files of a folder onto the disk, for a power cut to leave them whole."""
    for path in folder.iterdir():
        try:
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise write_failed(path, error) from error


def write_failed(path: Path, error: Exception) -> TargetError:
    """Say that a file could not be written, why, and what to do."""
    if bucket.is_inside(path):
        why = getattr(error, "strerror", None) or reason(error)
        return TargetError(
            f"{path.name} could not be written to {path.parent} ({why}): once that is mended, the same "
            "command goes on"
        )
    why, remedy = reason(error), "mend that and run the same command again"
    cause = error if isinstance(error, OSError) else error.__cause__
    if not path.parent.is_dir():
        why = f"the folder is gone; {why}"
    elif getattr(cause, "errno", None) in _FULL or shutil.disk_usage(path.parent).free < _LEAST:
        why, remedy = f"the disk is full; {why}", "free some space and run the same command again"
    return TargetError(
        f"{path.name} could not be written to {path.parent} ({why}): {remedy}, or choose another folder with "
        "output_dir="
    )


def write_text(path: Path, text: str) -> None:
    """Write a small text file as UTF-8, under a temporary name first."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a small file, under a temporary name first."""
    part = path.with_name(f".{path.name}.part")
    try:
        if bucket.is_inside(path):
            bucket.write(path, content)
            return
        part.write_bytes(content)
    except OSError as error:
        raise write_failed(path, error) from error
    publish(part, path)


def moment_of(sources: Iterable[Path]) -> datetime:
    """Return the time that what is made of these files says it was written: theirs, the newest one's.

    So the same input gives the same bytes, whenever it is mapped and however often a run is stopped. Where
    SOURCE_DATE_EPOCH is set, it is that (reproducible-builds.org). A VRT only shows other files.
    """
    times = [path.stat().st_mtime for path in sources if path.suffix != ".vrt" and path.is_file()]
    said = os.environ.get("SOURCE_DATE_EPOCH", "")
    newest = int(said) if said.isdecimal() else int(max(times, default=0.0))
    return datetime.fromtimestamp(min(max(newest, int(UNDATED.timestamp())), 1 << 32), UTC)
