"""Several processes on one training, as torch's own `torchrun` starts them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pfmap.core.errors import TrainingError

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
