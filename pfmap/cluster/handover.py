"""What coordinator and workers hand each other: the job, what a worker has and did, and finished swaths.

These go through a folder on a disk that all machines share, or in a bucket. Whether a worker sees the same
one as the machine where the run was started is tried before the first swath: each finds a sign there, and
leaves an answer.
"""

import dataclasses
import hashlib
import secrets
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from pfmap.core import bucket
from pfmap.core.errors import ClusterError, SourceError, TargetError, saying
from pfmap.core.files import file_names, in_bucket, read_text, remove, write_text, writing
from pfmap.core.grid import Span
from pfmap.mapping.job import look_behind, open_scene
from pfmap.mapping.plan import Plan
from pfmap.mapping.work import RUN_NAME, Work
from pfmap.model.store import CARD_NAME, Model, bundled_models
from pfmap.raster.extra import locate_extra
from pfmap.raster.scaling import Sample
from pfmap.raster.source import Source
from pfmap.version import __version__

_LOOK = 0.1
_SAMPLE = 64  # pixels of the scene's sample along a side: enough to know where it has data


class UnknownJobError(Exception):
    """The worker has not been shown the job, or has forgotten it."""


class AbandonedError(Exception):
    """Nobody waits for the run any more."""


@dataclass(frozen=True, slots=True)
class ClusterJob:
    """A scene that is mapped by workers."""

    id: str
    version: str
    plan: Plan
    """What to do; without the network, and with little of the scene's sample."""
    stem: str
    scene: str
    """The scene's fingerprint, as seen from where the run was started."""
    folder: Path
    """Where finished swaths are handed over, absolute; the current one while there is none yet."""
    run: str
    """What its run file says: which run it belongs to."""
    sign: str
    """What the file `sign_name` in it says: proof that a worker sees the same folder."""

    @classmethod
    def of(cls, plan: Plan, stem: str, folder: Path = Path(), run: str = "") -> "ClusterJob":
        """Describe a run so that it can be sent; `run` is what its run file says.

        A `ClusterError` says that the model is on no disk that workers could load it from.
        """
        model = plan.model
        if not (model.folder / CARD_NAME).is_file():
            raise ClusterError(
                f"model {plan.card.name!r} is in no folder that workers could load it from: save it as a "
                "model folder first, and name that"
            )
        inside = model.folder.resolve().parent == bundled_models().resolve()
        known = Path(model.folder.name) if inside else model.folder.absolute()
        scene = dataclasses.replace(plan.scene, location=plan.scene.location.absolute(), files=())
        files = locate_extra(plan.options.extra or {}, plan.scene.location)
        extra = {name: file.absolute().gdal for name, file in files.items()}
        options = dataclasses.replace(plan.options, extra=extra)
        model, sample = Model(plan.card, nn.Identity(), known), _thinned(plan.sample)
        light = dataclasses.replace(plan, scene=scene, model=model, sample=sample, options=options)
        with open_source(light) as source:
            fingerprint = source.fingerprint()
        sign = secrets.token_hex(8)
        return cls(f"pfmap-{sign}", __version__, light, stem, fingerprint, folder, run, sign)

    @property
    def sign_name(self) -> str:
        """Name of the file that holds the sign."""
        return f"{self.id}.sign"

    def answer_name(self, address: str) -> str:
        """Name the file that a worker leaves where it found the sign."""
        return f"{self.id}.{''.join(c if c.isalnum() else '-' for c in address)}"

    @property
    def resources(self) -> dict[str, float]:
        """What a task needs of a worker beside a thread."""
        return {"GPU": 1} if self.plan.device.type == "cuda" else {}


def open_source(plan: Plan) -> Source:
    """Open a plan's scene as the plan was made for it."""
    source = open_scene(plan.scene.location, plan.card, plan.options)
    source.scaling = plan.scaling
    look_behind(source)
    return source


def _thinned(sample: Sample) -> Sample:
    step = max(1, -(-max(sample.valid.shape) // _SAMPLE))
    valid = sample.valid[::step, ::step]
    return Sample(np.zeros((sample.pixels.shape[0], 1, 1), dtype=np.uint8), np.ascontiguousarray(valid))


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a worker has."""

    address: str
    device: str
    """Type of the device that it would use: cpu, cuda or mps."""
    precision: str
    about: str
    gpus: float
    """The resource GPU that was declared for it."""


@dataclass(frozen=True, slots=True)
class Done:
    """What a worker's run of swaths gave: references, never pixels."""

    rows: tuple[Span, ...]
    """Output rows of the swaths that it wrote."""
    seconds: Mapping[str, float]
    """Of work per stage."""


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
            what = f"{self._archive(rows)} of a worker cannot be read"
            with saying(what, SourceError, OSError, zipfile.BadZipFile, remedy="the same command goes on"):
                bucket.download(self._archive(rows), archive)
                with zipfile.ZipFile(archive) as packed:
                    packed.extractall(folder)
                if not self._work.is_sealed(folder, rows):
                    raise zipfile.BadZipFile("it is damaged, or another swath's")

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

    A `ClusterError` says that the worker sees no such folder, or another one, or cannot write there.
    """
    what = f"does not see the folder that the run writes into, {job.folder.parent}"
    with saying(
        what, ClusterError, remedy="choose one that all machines have under this name with output_dir="
    ):
        sign = read_text(job.folder / job.sign_name)
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
