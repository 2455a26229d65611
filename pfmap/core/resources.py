"""What this machine and process have: memory, disk, folders to themselves; what lies in files and beside."""

import os
import platform
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import filelock
import psutil

from pfmap.core import bucket
from pfmap.core.errors import TargetError
from pfmap.core.files import DRAFT, clear_drafts, file_names, in_bucket, private_folder, remove, writing_into
from pfmap.core.system import NO_LINK, POSIX, RSS_UNIT, c_library, enter, leave, limits, locks, user

LOCK_NAME = "lock"
PART = "_part"
"""Before the number of a further part of a shapefile."""

_BESIDE = {
    ".gpkg": "gpkg-wal gpkg-shm gpkg-journal gpkg.aux.xml",
    ".shp": "shx dbf prj cpg qpj qix sbn sbx idm ind ain aih atx fbn fbx ixs mxs",
    ".tif": "tif.aux.xml tif.ovr tif.msk tif.msk.ovr tif.vat.dbf tfw tifw wld tab aux rrd ovr",
    ".vrt": "vrt.aux.xml vrt.ovr vrt.msk vrt.msk.ovr",
}
"""By the ending of a file: those of what programs take for a part of it."""

_SQLITE_LOCKS = (("", 1 << 30, 512), ("-shm", 128, 1))
"""Files of a database by their ending, and the bytes of them that SQLite locks while it is open."""

UNDATED = datetime(1980, 1, 1, tzinfo=UTC)
"""What is written where no time is known: the first that all formats have."""
_TRIES = 9


def resident_memory() -> int:
    """Return the bytes of memory that this process holds now."""
    return int(psutil.Process().memory_info().rss)


def free_memory() -> int:
    """Return how much memory this process may use in all: what it has, and what is free within its limits."""
    free = min([psutil.virtual_memory().available, *_left_in_groups(), *_left_in_limits()])
    return int(resident_memory() + max(0, free))


def _left_in_groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Return what limits of containers and services leave, of every group of either version of Linux's.

    The system's figures do not show them. The cache of files is reclaimed.
    """
    left = []
    lines = own.read_text().splitlines() if own.is_file() else ["0::/"]
    for _, kinds, path in (line.split(":", 2) for line in lines):
        if kinds and "memory" not in kinds.split(","):
            continue
        base, most, used, of = root, "max", "current", ""
        if kinds:  # version 1, which has a tree for each kind of limit
            base, most, used, of = root / "memory", "limit_in_bytes", "usage_in_bytes", "total_"
        inside = Path(path.lstrip("/"))
        for folder in (base / one for one in (inside, *inside.parents)):
            with suppress(OSError, ValueError, KeyError):
                facts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                cache = int(facts[f"{of}active_file"]) + int(facts[f"{of}inactive_file"])
                held = int((folder / f"memory.{used}").read_text()) - cache
                left.append(int((folder / f"memory.{most}").read_text()) - held)
    return left


def _left_in_limits() -> list[int]:
    """Return what `ulimit` leaves of address space and of data, where one is set."""
    used = psutil.Process().memory_info()
    kinds = ((limits.RLIMIT_AS, used.vms + _UNUSED), (limits.RLIMIT_DATA, getattr(used, "data", 0)))
    most = [(limits.getrlimit(kind)[0], size) for kind, size in kinds]
    return [limit - size for limit, size in most if limit != limits.RLIM_INFINITY]


_UNUSED = 640 << 20
"""Address space that threads' stacks and pools, and compiled code, still take without being memory."""

_LACK = re.compile(r"out of memory|(cannot|can't|unable to) allocate|bad_alloc|new thread", re.I)
_AMOUNT = re.compile(r"(\d+) bytes|([\d.]+ [KMGT]iB)")


def lacks_memory(error: BaseException) -> bool:
    """Whether a library means that memory ran out."""
    return isinstance(error, MemoryError) or bool(_LACK.search(str(error)))


def lack_of(error: BaseException) -> str:
    """Say that memory ran out, how much was asked for as far as the library says it, and what is free."""
    if "new thread" in str(error):
        return "no more threads can be started: memory ran out, or what ulimit -u allows"
    amount = _AMOUNT.search(str(error))
    more = "" if amount is None else f" when {amount[2] or gigabytes(int(amount[1]))} more were needed"
    return f"memory ran out{more}, {gigabytes(free_memory() - resident_memory())} are free"


def free_disk(folder: Path) -> int:
    """Return the bytes free where a folder is, or will be."""
    there = folder.resolve()
    path = next(path for path in (there, *there.parents) if path.exists())
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return 0 if not os.access(path, os.R_OK) else 1 << 62


def give_back_memory() -> None:
    """Return what is free to the system: glibc keeps it, in a pool for each thread, for what may come."""
    trim = getattr(c_library(), "malloc_trim", None)
    if trim is not None:  # absent from other C libraries on Linux
        trim(0)


def folder_size(folder: Path) -> int:
    """Return the bytes of all files in a folder; 0 if it does not exist, or while another run removes it."""
    files = (Path(path, name) for path, _, names in os.walk(folder) for name in names)
    return sum(size for size, *_ in times_of(files).values())


def times_of(files: Iterable[Path]) -> dict[Path, tuple[int, int, int]]:
    """Return size, and times of change of content and of all, nanoseconds, of those files that are there."""
    found = {}
    for path in sorted(files):
        with suppress(FileNotFoundError):
            about = path.stat()
            found[path] = about.st_size, about.st_mtime_ns, about.st_ctime_ns
    return found


def gigabytes(count: int) -> str:
    """Write bytes for people."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1e3:.0f} kB"


def peak_memory() -> int:
    """Return the process's peak resident memory in bytes."""
    return int(limits.getrusage(limits.RUSAGE_SELF).ru_maxrss * RSS_UNIT)


@contextmanager
def claimed(path: Path, output_dir: Path, what: str) -> Iterator[Callable[[], object]]:
    """Make a hidden folder of this machine, if it is not there, and have it alone; also in a bucket.

    `what` is mapped by whoever has it, for the message. What it gives has the folder go at the end.
    """
    with ExitStack() as after, ExitStack() as held:  # the lock is closed: open files stay on some disks

        def give_up() -> None:
            with suppress(OSError):  # then it stays, finished; without its name nobody begins in what goes
                away = path.rename(path.with_name(f"{DRAFT}{secrets.token_hex(4)}"))
                after.callback(shutil.rmtree, away, ignore_errors=True)

        with writing_into(output_dir):
            try:
                if not any(_lock(path, held) for _ in range(_TRIES)):
                    raise filelock.Timeout(str(path))
                if in_bucket(output_dir):
                    holder = f"{platform.node() or 'an unnamed machine'} {path}"
                    held.enter_context(bucket.leased(output_dir / f"{path.name}.{LOCK_NAME}", holder))
            except (filelock.Timeout, BlockingIOError) as error:
                # A bucket knows who has it, and has it for a while from a run that was killed.
                by = f" ({error.strerror}, or was until {bucket.LEASE:.0f} s ago)" * bool(error.strerror)
                raise TargetError(
                    f"another pfmap maps {what} into {output_dir} now{by}: wait for it, or choose another "
                    "folder with output_dir="
                ) from error
            clear_drafts(output_dir)
        # On Windows it keeps its name while its lock is open.
        yield give_up if POSIX else partial(after.callback, give_up)


def _lock(path: Path, held: ExitStack) -> bool:
    """Lock a folder until the end of `held`; not if it has just been given up by somebody else."""
    refuse_foreign(path)
    path.mkdir(parents=True, exist_ok=True)
    with ExitStack() as attempt, suppress(FileNotFoundError):
        folder = enter(path)  # so that no other folder is taken for it
        attempt.callback(leave, folder)
        lock = filelock.FileLock(path / LOCK_NAME)
        lock.acquire(timeout=0)
        attempt.callback(lock.release)
        if os.path.samestat(os.stat(folder), path.lstat()):  # noqa: PTH116 - of a number
            held.push(attempt.pop_all())
            return True
    return False


def refuse_foreign(path: Path) -> None:
    """Refuse a work folder that another put there: a link, another user's, or with a lock that is one."""
    what = ""
    with suppress(OSError):  # whoever makes it says why it cannot
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode):
            what = "is a link" if stat.S_ISLNK(found.st_mode) else "is no folder"
        elif found.st_uid != user() and found.st_uid != _owner_of_new(path):
            what = f"belongs to another user (number {found.st_uid})"
        else:
            lock = (path / LOCK_NAME).lstat()
            if not stat.S_ISREG(lock.st_mode) or lock.st_nlink > 1:
                what = f"holds a {LOCK_NAME} that is no plain file"
    if what:
        raise TargetError(
            f"{path.parent} cannot be written: {path.name} there {what}, and is no folder that pfmap made: "
            "delete it, or choose another folder with output_dir="
        )


def _owner_of_new(folder: Path) -> int:
    """Return who owns what this process makes in a folder: on some shares always the same user."""
    with private_folder(folder) as made:
        return made.stat().st_uid


def beside(name: str) -> list[str]:
    """Return the names of files that programs take for a part of one of this name, such as pyramids."""
    path = Path(name)
    return [f"{path.stem}.{ending}" for ending in _BESIDE.get(path.suffix, "").split()]


def clear_beside(folder: Path, names: Iterable[str]) -> None:
    """Delete what belongs to files that are going to be replaced by some of these names, and is none of them.

    Else the old content would show beside the new, or get into it. An open database among them is refused.
    """
    new = set(names)
    start = os.path.commonprefix([Path(name).stem for name in new])  # noqa: RUF071 - of letters
    there = set(file_names(folder, start))
    for name in sorted(new & there):
        refuse_open(folder / name)
    old = new | {name for name in there if re.sub(rf"{PART}\d+\.shp$", ".shp", name) in new}
    for name in (old | {one for each in old for one in beside(each)}) & (there - new):
        remove(folder / name)


def refuse_open(path: Path) -> None:
    """Refuse to replace a GeoPackage that a program has open: it would write what it has into the new one."""
    for ending, start, size in _SQLITE_LOCKS if path.suffix == ".gpkg" else ():
        try:
            opened = os.open(f"{path}{ending}", os.O_RDWR | NO_LINK)
        except OSError:  # it is not there, or another's
            continue
        try:
            locks.lockf(opened, locks.LOCK_EX | locks.LOCK_NB, size, start)
        except (BlockingIOError, PermissionError) as error:
            raise TargetError(
                f"{path} is open in another program, such as QGIS: close it there, or choose another folder "
                "with output_dir="
            ) from error
        except OSError:  # no locks on this file system
            continue
        finally:
            os.close(opened)


IMAGE, VECTOR = "it is an image", "it is a vector file"
_KINDS = (
    (rb"\0*\Z", "it is empty, or all zeros: download it again"),
    (rb"version https://git-lfs", "it is a Git LFS pointer, not the file it stands for: run git lfs pull"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|\(\xb5/\xfd|7z\xbc\xaf|Rar!|PK\x03|.{257}ustar", "it is packed: unpack it"),
    (rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF|II[*+]\0|MM\0[*+]|<VRT", IMAGE),
    (rb"SQLite|fgb\x03|\0\0\x27\x0a|PAR1|\{.*\"(features|geometry|topology)\"|<(kml|gml|osm)", VECTOR),
    (rb"<(!|html|head|body)", "it is a web page, such as a login, not the file behind it: download it again"),
    (rb"%PDF|\xd0\xcf\x11\xe0|\{\\rtf", "it is a document for people"),
)
"""How files begin, as patterns, and what they are."""


def what_it_is(path: str | os.PathLike[str], wanted: str, kinds: Iterable[tuple[bytes, str]] = ()) -> str:
    """Say what a file really is, by how it begins, these `kinds` first; "" if that is what is `wanted`."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - of any name
            head = file.read(512)
    except (OSError, ValueError):
        return ""
    wide = head.startswith((b"\xff\xfe", b"\xfe\xff"))
    text = " ".join(head.decode("utf-16" if wide else "utf-8-sig", "replace").split()).rstrip("\ufffd")
    plain = text.isprintable() and "\ufffd" not in text
    other = f"it is a text that begins with {text[:40]!r}" if plain else ""
    begin, every = text.encode() if plain else head, (*kinds, *_KINDS)
    found = next((what for like, what in every if re.match(like, begin, re.DOTALL | re.IGNORECASE)), other)
    if wide and wanted and found in (IMAGE, VECTOR, other):
        return "it is a text in UTF-16: save it as UTF-8"
    return "" if found == wanted else found


def moment_of(sources: Iterable[Path]) -> datetime:
    """Return the time that what is made of these files says it was written: theirs, the newest one's.

    So the same input gives the same bytes, whenever it is mapped. Where SOURCE_DATE_EPOCH is set, it is that
    (reproducible-builds.org). A VRT only shows other files.
    """
    times = [path.stat().st_mtime for path in sources if path.suffix != ".vrt" and path.is_file()]
    said = os.environ.get("SOURCE_DATE_EPOCH", "")
    newest = int(said) if said.isdecimal() else int(max(times, default=0.0))
    return datetime.fromtimestamp(min(max(newest, int(UNDATED.timestamp())), 1 << 32), UTC)
