"""A model on its device, for one scene after another."""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pfmap.mapping.estimate import Probe
from pfmap.model.device import choose_device, choose_precision, default_batch_size
from pfmap.model.predictor import Predictor
from pfmap.model.store import WEIGHTS_NAME, Model, file_hash, load_model
from pfmap.net.fast import for_inference
from pfmap.net.pfnet import PFNet

if TYPE_CHECKING:
    from pfmap.cluster.coordinator import Cluster


@dataclass(slots=True)
class Runtime:
    """A loaded model and where it runs; what is made of it is made once, for all scenes.

    Attributes:
        model: the model.
        device: where it runs.
        precision: type of the heavy arithmetic.
        batch_size: windows per pass.
        on_message: called with lines for people.
        cluster: whose workers compute instead of this process, if any.
        threads: of a CPU, as torch has it where the runtime is set up.
    """

    model: Model
    device: torch.device
    precision: torch.dtype
    batch_size: int
    on_message: Callable[[str], None]
    cluster: "Cluster | None" = None
    threads: int = field(default_factory=torch.get_num_threads)
    _probe: Probe | None = None
    _probing: threading.Lock = field(default_factory=threading.Lock)
    _hash: str = ""
    _predictor: Predictor | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(
        cls,
        model: str | Path | Model,
        device: str,
        precision: str,
        batch_size: int | None,
        on_message: Callable[[str], None],
        cluster: "Cluster | None" = None,
    ) -> "Runtime":
        """Find model and device.

        Args:
            model: a model's name, folder, or a loaded `Model`.
            device: auto, cpu, cuda, cuda:N or mps.
            precision: auto, float32, bfloat16 or float16.
            batch_size: windows per pass; None for what suits the device.
            on_message: called with lines for people.
            cluster: whose workers compute; they decide on device and precision.

        Raises:
            ModelError: the model cannot be loaded.
            DeviceError: the device or precision is not to be had.
        """
        if cluster is not None:
            chosen, kind = cluster.settle(device, precision)
        else:
            chosen = choose_device(device)
            kind = choose_precision(precision, chosen)
        return cls(
            model=model if isinstance(model, Model) else load_model(model),
            device=chosen,
            precision=kind,
            batch_size=batch_size or default_batch_size(chosen),
            on_message=on_message,
            cluster=cluster,
        )

    def probed(self, measure: Callable[[], Probe]) -> Probe:
        """Return what a piece of a scene took: of the first that asks, which then is measured.

        Raises:
            PfmapError: it cannot be measured.
        """
        with self._probing:
            self._probe = self._probe or measure()
            return self._probe

    @property
    def model_hash(self) -> str:
        """SHA-256 of the model's weights."""
        with self._lock:
            self._hash = self._hash or _model_hash(self.model)
            return self._hash

    @property
    def predictor(self) -> Predictor:
        """The network on its device, rebuilt for speed."""
        with self._lock:
            if self._predictor is None:
                network = self.model.network
                if isinstance(network, PFNet):
                    network = for_inference(network, self.device, self.precision)
                self._predictor = Predictor(
                    network,
                    self.model.card.input,
                    self.device,
                    self.precision,
                    self.batch_size,
                    self.on_message,
                    self.threads,
                )
            return self._predictor


def _model_hash(model: Model) -> str:
    """Return the SHA-256 of a model's weights file, or of the weights of a model that was never a file."""
    path = model.folder / WEIGHTS_NAME
    if path.is_file():
        return file_hash(path)
    digest = hashlib.sha256()
    for name, value in model.network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
