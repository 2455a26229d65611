"""A model and where it runs, for one scene after another: on a device here, or by workers elsewhere."""

import hashlib
import threading
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from pfmap.core.errors import DeviceError
from pfmap.core.grid import Span
from pfmap.core.stages import Clock
from pfmap.mapping.plan import Plan
from pfmap.mapping.work import Work
from pfmap.model.lanes import CudaLane
from pfmap.model.predictor import Predictor, precision_name
from pfmap.model.store import Model, load_model
from pfmap.net.fast import for_inference
from pfmap.net.pfnet import PFNet

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Probe:
    """What a small piece of a scene took, from reading to finished files."""

    window_seconds: float
    """Network and blending, per window that is computed."""
    pixel_seconds: float
    """Everything after that, per pixel of the outputs."""
    temporary: float
    """Bytes on disk for swaths, per pixel."""
    final: float
    """Bytes of the outputs, per pixel."""
    memory: int
    """Peak memory of the process with it, bytes."""
    planned: int
    """What `memory_of` said of the piece, bytes."""


class Workers(Protocol):
    """Other processes that compute swaths and write them themselves, such as a cluster's.

    Mapping knows them by this alone; `pfmap.cluster` has them.
    """

    def settle(self, device: str, precision: str) -> tuple[torch.device, torch.dtype]:
        """Find out on what and in what arithmetic all of them run the network."""

    def probe(self, plan: Plan, stem: str, on_step: Callable[[], None]) -> Probe:
        """Map a piece of a scene, and say what it takes all of them; `on_step` may raise to stop."""

    def compute(
        self,
        work: Work,
        plan: Plan,
        stem: str,
        swaths: Mapping[Span, Span],
        clock: Clock,
        on_pixels: Callable[[int], None],
    ) -> Generator[Span]:
        """Give the output rows of each swath, top to bottom, as soon as it is on disk.

        `swaths` are output rows by window rows of those that are not on disk yet. `on_pixels` is called
        often, with the pixels of the outputs that are done; it may raise to stop.
        """


@dataclass(slots=True)
class Runtime:
    """A loaded model and where it runs; what is made of it is made once, for all scenes."""

    model: Model
    device: torch.device
    precision: torch.dtype
    """Type of the heavy arithmetic."""
    batch_size: int
    """Windows per pass."""
    on_message: Callable[[str], None]
    workers: Workers | None = None
    """What computes instead of this process, if anything."""
    threads: int = field(default_factory=torch.get_num_threads)
    """Of a CPU, as torch has it where the runtime is set up."""
    _probe: Probe | None = None
    _probing: threading.Lock = field(default_factory=threading.Lock)
    _hash: str = ""
    _predictors: dict[bool, Predictor] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(
        cls,
        model: str | Path | Model,
        device: str,
        precision: str,
        batch_size: int | None,
        on_message: Callable[[str], None],
        workers: Workers | None = None,
    ) -> "Runtime":
        """Find model and device, named as in `pfmap.mapping.options`; of workers, they decide on the device.

        A `ModelError` or `DeviceError` says that it is not to be had.
        """
        if workers is not None:
            chosen, kind = workers.settle(device, precision)
        else:
            chosen = choose_device(device)
            kind = choose_precision(precision, chosen)
        loaded = model if isinstance(model, Model) else load_model(model)
        windows = batch_size or (8 if chosen.type == "cuda" else 1)  # a CPU gains nothing from more than one
        return cls(loaded, chosen, kind, windows, on_message, workers)

    def probed(self, measure: Callable[[], Probe]) -> Probe:
        """Return what a piece of a scene took: of the first that asks, which then is measured."""
        with self._probing:
            self._probe = self._probe or measure()
            return self._probe

    @property
    def model_hash(self) -> str:
        """SHA-256 of the model's weights."""
        with self._lock:
            self._hash = self._hash or self.model.sha256 or _weights_hash(self.model.network)
            return self._hash

    def predictor(self, plan: Plan) -> Predictor:
        """Return the network on its device, rebuilt for speed; with a contact map only if a plan uses it."""
        contact = "contact" in plan.layers
        with self._lock:
            if contact not in self._predictors:
                network, card = self.model.network, self.model.card
                if isinstance(network, PFNet):
                    network = for_inference(network, self.device, self.precision)
                    network.contact = network.contact if contact else None
                means = self.device, self.precision, self.batch_size, self.on_message, self.threads
                channels = len(card.classes) + contact
                lane = CudaLane(self.device, self.on_message) if self.device.type == "cuda" else None
                made = Predictor(network, card.input, *means, contact=contact, channels=channels, lane=lane)
                self._predictors[contact] = made
            return self._predictors[contact]


def _weights_hash(network: nn.Module) -> str:
    """Return a SHA-256 of the weights of a network that was never a file."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def choose_device(wanted: str) -> torch.device:
    """Turn auto, cpu, cuda, cuda:N or mps into a device; a `DeviceError` says that it is not there."""
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise DeviceError(f"device {wanted!r} is unknown: use auto, cpu, cuda, cuda:N or mps") from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            built = "this torch was built without CUDA" if torch.version.cuda is None else "none answers"
            found = f"{count} CUDA devices are here" if count else f"no CUDA device is here ({built})"
            raise DeviceError(f"device {wanted!r} is asked for, but {found}: use device='cpu' or auto")
    elif device.type == "mps":
        if not torch.backends.mps.is_available():
            raise DeviceError("device 'mps' is asked for, but is not here: use device='cpu' or auto")
    elif device.type != "cpu":
        raise DeviceError(f"device {wanted!r} is not supported: use auto, cpu, cuda, cuda:N or mps")
    return device


def choose_precision(wanted: str, device: torch.device) -> torch.dtype:
    """Turn ``auto`` or a type's name into the type of the heavy arithmetic.

    ``auto`` takes bfloat16 where the device computes in it natively, and float32 elsewhere: emulated,
    it is several times slower. Unknown names raise a `DeviceError`.
    """
    if wanted != "auto":
        if wanted not in PRECISIONS:
            raise DeviceError(f"precision {wanted!r} is unknown: use auto, {', '.join(PRECISIONS)}")
        return PRECISIONS[wanted]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    multiplies = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    if device.type == "cpu" and any(getattr(torch.cpu, name, lambda: False)() for name in multiplies):
        return torch.bfloat16
    return torch.float32


def describe(device: torch.device, precision: torch.dtype) -> str:
    """Name device and precision for people."""
    name = str(device)
    if device.type == "cuda" and torch.cuda.is_available():  # else it is a worker's
        name = f"{device} ({torch.cuda.get_device_name(device)})"
    elif device.type == "cpu":
        name = f"cpu ({torch.get_num_threads()} threads)"
    return f"{name}, {precision_name(precision)}"
