"""What a worker has to know of a run, and what it says of itself: small, and no pixels."""

import dataclasses
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from pfmap.core.errors import ClusterError
from pfmap.core.files import read_text
from pfmap.core.grid import Span
from pfmap.mapping.plan import Plan
from pfmap.mapping.work import RUN_NAME
from pfmap.model.store import Model, bundled_models
from pfmap.raster.bands import Sample
from pfmap.raster.source import Source
from pfmap.version import __version__

_SAMPLE = 64  # pixels of the scene's sample along a side: enough to know where it has data


@dataclass(frozen=True, slots=True)
class ClusterJob:
    """A scene that is mapped by workers.

    Attributes:
        id: its own name.
        version: pfmap's.
        plan: what to do; without the network, and with little of the scene's sample.
        stem: what the outputs' names begin with.
        scene: the scene's fingerprint, as seen from where the run was started.
        folder: where finished swaths are handed over, absolute; None while there is none yet.
        run: what its run file says: which run it belongs to.
        sign: what a file in it says, whose name is `sign_name`: proof that the worker sees the same folder.
    """

    id: str
    version: str
    plan: Plan
    stem: str
    scene: str
    folder: Path | None
    run: str
    sign: str

    @classmethod
    def of(cls, plan: Plan, stem: str, folder: Path | None) -> "ClusterJob":
        """Describe a run so that it can be sent.

        Raises:
            ClusterError: the model is not on disk, where workers could load it from.
            SourceError: the scene cannot be opened any more.
        """
        model = plan.model
        if not (model.folder / "model.toml").is_file():
            raise ClusterError(
                f"model {plan.card.name!r} is in no folder that workers could load it from: save it as a "
                "model folder first, and name that"
            )
        inside = model.folder.resolve().parent == bundled_models().resolve()
        known = Path(model.folder.name) if inside else model.folder.absolute()
        scene = dataclasses.replace(plan.scene, location=plan.scene.location.absolute(), files=())
        light = dataclasses.replace(
            plan,
            scene=scene,
            model=Model(plan.card, nn.Identity(), known),
            sample=_thinned(plan.sample),
        )
        with open_source(light) as source:
            fingerprint = source.fingerprint()
        sign = secrets.token_hex(8)
        run = "" if folder is None else read_text(folder / RUN_NAME)
        return cls(f"pfmap-{sign}", __version__, light, stem, fingerprint, folder, run, sign)

    @property
    def sign_name(self) -> str:
        """Name of the file that holds the sign."""
        return f"{self.id}.sign"

    @property
    def resources(self) -> dict[str, float]:
        """What a task needs of a worker beside a thread."""
        return {"GPU": 1} if self.plan.device.type == "cuda" else {}


def open_source(plan: Plan) -> Source:
    """Open a plan's scene as the plan was made for it."""
    options, card = plan.options, plan.card
    source = Source(
        plan.scene.location,
        card.input.bands,
        options.bands,
        card.name,
        skip_unreadable=options.on_read_error == "nodata",
    )
    source.scaling = plan.scaling
    return source


def _thinned(sample: Sample) -> Sample:
    step = max(1, -(-max(sample.valid.shape) // _SAMPLE))
    valid = sample.valid[::step, ::step]
    return Sample(np.zeros((sample.pixels.shape[0], 1, 1), dtype=np.uint8), np.ascontiguousarray(valid))


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a worker has.

    Attributes:
        address: its own.
        host: name of its machine.
        device: type of the device that it would use: cpu, cuda or mps.
        precision: name of the arithmetic that it would use.
        about: the device by name.
        threads: threads that a run on a CPU takes.
        gpus: the resource GPU that was declared for it.
    """

    address: str
    host: str
    device: str
    precision: str
    about: str
    threads: int
    gpus: float


@dataclass(frozen=True, slots=True)
class Done:
    """What a worker's run of swaths gave: references, never pixels.

    Attributes:
        rows: output rows of the swaths that it wrote.
        seconds: of work per stage.
    """

    rows: tuple[Span, ...]
    seconds: Mapping[str, float]
