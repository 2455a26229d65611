"""Fine-tuning: what a new network takes over from a trained model."""

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pfmap.core.card import Card
from pfmap.core.errors import TrainingError
from pfmap.model.store import Model
from pfmap.net.pfnet import PFNet

_CLASSIFIER = "classify."


def take_over(network: PFNet, card: Card, model: Model) -> tuple[str, ...]:
    """Fill a network with a trained model's weights; the classifier keeps the classes that both know by name.

    Args:
        network: the network to be trained.
        card: its card; all of its architecture but the number of classes is the model's.
        model: the trained model.

    Returns:
        The classes that start from chance.

    Raises:
        TrainingError: the architectures differ, or the input is scaled differently.
    """
    mine, theirs = card.architecture, model.card.architecture
    if mine != dataclasses.replace(theirs, classes=mine.classes):
        differ = [
            f"{f.name} is {getattr(mine, f.name)!r}, the model's {getattr(theirs, f.name)!r}"
            for f in dataclasses.fields(mine)
            if f.name != "classes" and getattr(mine, f.name) != getattr(theirs, f.name)
        ]
        raise TrainingError(
            f"model {model.card.name!r} has another architecture: {'; '.join(differ)}; give the "
            "configuration the model's [architecture]"
        )
    one, other = card.input, model.card.input
    if (one.scale, one.mean, one.std) != (other.scale, other.mean, other.std):
        raise TrainingError(
            f"model {model.card.name!r} scales its input by scale {other.scale:g}, mean {list(other.mean)}, "
            f"std {list(other.std)}: give the configuration the same [input]"
        )
    state = model.network.state_dict()
    network.load_state_dict(
        {key: value for key, value in state.items() if not key.startswith(_CLASSIFIER)}, strict=False
    )
    known = {spec.name: index for index, spec in enumerate(model.card.classes)}
    with torch.no_grad():
        for index, spec in enumerate(card.classes):
            if spec.name in known:
                for leaf in ("weight", "bias"):
                    value = state[f"{_CLASSIFIER}{leaf}"][known[spec.name]]
                    network.classify.get_parameter(leaf)[index] = value
    return tuple(spec.name for spec in card.classes if spec.name not in known)


_PATIENCE = timedelta(hours=4)  # the others wait while the first one validates


@dataclass(frozen=True, slots=True)
class Team:
    """This process's place among those that train together.

    Attributes:
        rank: its number; 0 validates and writes.
        size: how many there are.
        device: the one it computes on.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process validates and writes."""
        return self.rank == 0

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
    """Join the processes that `torchrun` started, if it did; alone otherwise.

    Args:
        device: torch device; of several GPUs each process takes its own.

    Raises:
        TrainingError: there are more processes than GPUs.
    """
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
