"""The folder in which workers hand over finished swaths: on a disk that all machines share, or in a bucket.

Whether a worker sees the same folder as the machine where the run was started is tried before the first
swath: each finds a sign there, and leaves an answer.
"""

import hashlib
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pfmap.cluster.task import ClusterJob
from pfmap.core import bucket
from pfmap.core.errors import ClusterError, SourceError, TargetError
from pfmap.core.files import file_names, in_bucket, read_text, remove, write_text, writing
from pfmap.core.grid import Span
from pfmap.mapping.work import RUN_NAME, Work

_LOOK = 0.1


class Handover:
    """Finished swaths, each there as a whole or not at all; what cannot be done there raises a `TargetError`.

    On a disk they are folders, and the folder is the scene's work folder; in a bucket each is one archive,
    named after its run, so that what a left-over worker of another run still brings is not taken for its own.
    """

    def __init__(self, folder: Path, run: str) -> None:
        self._folder, self._run = folder, run
        self._ending = f"-{hashlib.sha256(run.encode()).hexdigest()[:12]}.zip"
        self._work = Work(folder, folder.parent, run)
        self._on_disk = not in_bucket(folder)

    @property
    def look(self) -> float:
        """Seconds between looks at what is there: a bucket is asked over the network."""
        return 0.1 if self._on_disk else 0.5

    def begin(self) -> None:
        """Make the folder the run's; what others left there goes."""
        if self._on_disk:
            return
        path = self._folder / RUN_NAME
        write_text(path, self._run)
        with writing(path):
            for name in bucket.names(self._folder):
                if name.endswith(".zip") and not name.endswith(self._ending):
                    bucket.remove(self._folder / name)

    def has(self, rows: Span) -> bool:
        """Whether a swath is finished."""
        if self._on_disk:
            return self._work.swath(rows).is_dir()
        with writing(self._archive(rows)):
            return bucket.exists(self._archive(rows))

    def missing(self, swaths: Sequence[Span]) -> list[Span]:
        """Return those swaths that are not finished, as the storage itself has it."""
        if self._on_disk:
            names = {path.name for path in self._folder.iterdir()}  # has the system ask the server again
            return [rows for rows in swaths if self._work.swath(rows).name not in names]
        return [rows for rows in swaths if not self.has(rows)]

    @contextmanager
    def writing(self, rows: Span) -> Iterator[Path]:
        """Give a folder to write a swath into; at the end the swath is finished."""
        if self._on_disk:
            with self._work.writing(rows) as folder:
                yield folder
            return
        with tempfile.TemporaryDirectory(prefix="pfmap-") as name:
            folder, archive = Path(name) / "swath", Path(name) / "swath.zip"
            folder.mkdir()
            yield folder
            self._work.seal(folder, rows)
            with writing(self._archive(rows)):
                with zipfile.ZipFile(archive, "w") as packed:  # rasters are compressed already
                    for path in sorted(folder.iterdir()):
                        packed.write(path, path.name)
                bucket.upload(archive, self._archive(rows))

    def fetch(self, rows: Span, work: Work) -> None:
        """Have a finished swath in the work folder; a `SourceError` says that it cannot be read."""
        if self._on_disk or work.swath(rows).is_dir():
            return
        with work.writing(rows) as folder, tempfile.TemporaryDirectory(dir=work.path) as name:
            archive = Path(name) / "swath.zip"
            try:
                bucket.download(self._archive(rows), archive)
                with zipfile.ZipFile(archive) as packed:
                    packed.extractall(folder)
                if not self._work.is_sealed(folder, rows):
                    raise zipfile.BadZipFile("it is damaged, or another swath's")
            except (OSError, zipfile.BadZipFile) as error:
                why = getattr(error, "strerror", None) or error
                raise SourceError(
                    f"{self._archive(rows)} of a worker cannot be read ({why}): the same command goes on"
                ) from error

    def _archive(self, rows: Span) -> Path:
        return self._folder / f"{rows.start:010d}-{rows.stop:010d}{self._ending}"


@contextmanager
def signed(job: ClusterJob) -> Iterator[None]:
    """Leave a job's sign in its folder; at the end it goes, and what workers answered there."""
    try:
        write_text(job.folder / job.sign_name, job.sign)
        yield
    finally:
        with suppress(OSError):  # whatever ended the run says more
            for name in file_names(job.folder, job.id):
                remove(job.folder / name)


def answer_sign(job: ClusterJob, address: str) -> None:
    """Look for a job's sign in its folder, and leave the answer of the worker at an address.

    Raises:
        ClusterError: the worker sees no such folder, or another one, or cannot write there.
    """
    try:
        sign = read_text(job.folder / job.sign_name)
    except OSError as error:
        why = error.strerror or error
        raise ClusterError(
            f"does not see the folder that the run writes into, {job.folder.parent} ({why}): choose one that "
            "all machines have under this name with output_dir="
        ) from error
    if sign != job.sign:
        raise ClusterError(
            f"sees another folder {job.folder.parent} than the machine where the run was started"
        )
    try:
        write_text(job.folder / job.answer_name(address), job.sign)
    except TargetError as error:
        why = getattr(error.__cause__, "strerror", error)
        raise ClusterError(
            f"cannot write into {job.folder.parent} ({why}): give its user the right to, or choose another "
            "folder with output_dir="
        ) from error


def await_answer(job: ClusterJob, address: str, seconds: float) -> None:
    """Wait until what a worker left in the folder is seen here; a `ClusterError` after so many seconds."""
    name = job.answer_name(address)
    end = time.monotonic() + seconds
    while name not in file_names(job.folder, job.id):
        if time.monotonic() > end:
            raise ClusterError(
                f"worker {address}: what it writes into {job.folder.parent} does not arrive here: choose a "
                "folder on storage that all machines share with output_dir="
            )
        time.sleep(_LOOK)
