"""What coordinator and workers tell each other: the job, what a worker has, and what it did; never pixels."""

import dataclasses
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from pfmap.core.errors import ClusterError
from pfmap.core.grid import Span
from pfmap.mapping.job import look_behind, open_scene
from pfmap.mapping.plan import Plan
from pfmap.model.store import CARD_NAME, Model, bundled_models
from pfmap.raster.scaling import Sample
from pfmap.raster.source import Source
from pfmap.version import __version__

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
    """What the outputs' names begin with."""
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

        Raises:
            ClusterError: the model is not on disk, where workers could load it from.
            SourceError: the scene cannot be opened any more.
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
        light = dataclasses.replace(
            plan, scene=scene, model=Model(plan.card, nn.Identity(), known), sample=_thinned(plan.sample)
        )
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
    """Name of the arithmetic that it would use."""
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
