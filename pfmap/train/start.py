"""Where a training begins: the weights of its network, and the processes that share the work."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pfmap.core.card import Card
from pfmap.core.errors import TrainingError
from pfmap.core.files import refuse_unwritable, writing_into
from pfmap.core.resources import free_memory, gigabytes
from pfmap.model.store import Model, fit_bands, load_imagenet_lite0
from pfmap.net.fast import factor_head
from pfmap.net.pfnet import PFNet
from pfmap.train.config import TrainingConfig, TrainingSettings

_CLASSIFIER = "classify."
_PATIENCE = timedelta(hours=4)  # the others wait while the first one validates


def first_network(config: TrainingConfig, data_folder: Path, start_from: Model | None) -> PFNet:
    """Build the network with the weights that training starts from."""
    settings, architecture = config.training, config.card.architecture
    torch.manual_seed(settings.seed)
    network = PFNet(architecture)
    factor_head(network)
    if start_from is not None:
        take_over(network, config.card, start_from)
    elif settings.keep_norms or settings.keep_weight:
        raise TrainingError("keep_norms and keep_weight need a model to start from: name it with start_from=")
    elif settings.encoder_weights:
        if architecture.encoder != "efficientnet_lite0":
            raise TrainingError("encoder_weights are read for efficientnet_lite0 only, so far")
        weights = data_folder / settings.encoder_weights
        load_imagenet_lite0(network.encoder, weights, config.card.input.bands)
    return network


def take_over(network: PFNet, card: Card, model: Model) -> None:
    """Fill a network with a trained model's weights; what both know by name is kept of classes and bands.

    Raises:
        TrainingError: the architectures differ, or the input is scaled differently.
    """
    _refuse_other(card, model.card)
    state = fit_bands(model.network.state_dict(), model.card.input.bands, card.input.bands)
    network.load_state_dict(
        {key: value for key, value in state.items() if not key.startswith(_CLASSIFIER)}, strict=False
    )
    known = {spec.name: index for index, spec in enumerate(model.card.classes)}
    with torch.no_grad():
        for index, spec in enumerate(card.classes):
            if spec.name in known:
                for leaf, parameter in network.classify.named_parameters():
                    parameter[index] = state[f"{_CLASSIFIER}{leaf}"][known[spec.name]]


def _refuse_other(card: Card, model: Card) -> None:
    """Refuse a model whose weights do not fit, or mean something else."""
    mine, theirs = (asdict(one.architecture) for one in (card, model))
    if differ := [
        f"{name} is {value!r}, the model's {theirs[name]!r}"
        for name, value in mine.items()
        if name not in {"classes", "bands", "contact"} and value != theirs[name]
    ]:
        raise TrainingError(
            f"model {model.name!r} has another architecture: {'; '.join(differ)}; give the "
            "configuration the model's [architecture]"
        )
    for name, found in model.input.statistics.items():
        if card.input.statistics.get(name, found) != found:
            raise TrainingError(
                f"model {model.name!r} scales its input {name} by scale {found[0]:g}, mean {found[1]:g}, std "
                f"{found[2]:g}: give the configuration the same [input]"
            )


def refuse_without_memory(config: TrainingConfig) -> int:
    """Return the crops of a batch; a `TrainingError` says that they take more memory than is free."""
    settings = config.training
    crops = sum(source.per_batch for source in config.sources)
    zoom = min([settings.scale[0], *(source.scale[0] for source in config.sources if source.scale)])
    pixel = 4 * len(config.card.input.bands) + 2  # bytes: bands, and labels twice
    needed = pixel * max(crops * settings.crop**2, (settings.crop / zoom) ** 2)
    if needed > (free := free_memory()):
        raise TrainingError(
            f"a batch of {crops} crops of {settings.crop} pixels, zoomed by {zoom:g} or more, takes "
            f"{needed / 1e9:.3g} GB of memory or more, {gigabytes(free)} are free: lower per_batch or "
            "crop, or raise scale"
        )
    return crops


def refuse_without_disk(checkpoint: Path, network: PFNet, settings: TrainingSettings) -> None:
    """Make a checkpoint's folder; a `TargetError` says that it could not be written there."""
    copies = 3 + (2 if settings.optimizer == "adamw" else 1)  # the network, its average, and the best
    needed = copies * sum(4 * value.numel() for value in network.state_dict().values())
    with writing_into(checkpoint.parent):
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
    refuse_unwritable(checkpoint, needed)


@dataclass(frozen=True, slots=True)
class Team:
    """This process's place among those that train together, as torch's own `torchrun` starts them."""

    rank: int
    """Its number; 0 validates and writes."""
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process validates and writes."""
        return self.rank == 0

    def share(self, crops: int) -> slice:
        """Say which crops of a batch this process makes; a `TrainingError` if some differ, or are one."""
        if crops % self.size:
            raise TrainingError(
                f"a batch of {crops} crops cannot be shared evenly by {self.size} processes: change "
                "per_batch in the sources, or --nproc-per-node"
            )
        if crops < 2 * self.size:
            raise TrainingError(
                "a batch of one crop has nothing to be compared with, as batch norm wants: raise per_batch"
            )
        return slice(self.rank, None, self.size)

    def wrap(self, module: nn.Module) -> nn.Module:
        """Have all processes average their gradients in every step."""
        if self.size == 1:
            return module
        on = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=on)

    def wait(self) -> None:
        """Wait until all processes have come here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def gather(device: str) -> Iterator[Team]:
    """Join the processes that `torchrun` started, if it did, each with its own GPU, or a `TrainingError`."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Team(0, 1, torch.device(device))
        return
    place, own = torch.device(device), int(os.environ["LOCAL_RANK"])
    if place.type == "cuda":
        if own >= torch.cuda.device_count():
            raise TrainingError(
                f"torchrun started process {own + 1} on this machine, which has {torch.cuda.device_count()} "
                "GPUs: lower --nproc-per-node"
            )
        place = torch.device("cuda", own)
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Team(dist.get_rank(), size, place)
    finally:
        dist.destroy_process_group()
