"""Counting a network's parameters and the multiply-adds of one window, part by part.

Counted are convolutions and the products of the points' attention, as in the paper's Table 6; normalisation,
activations, pooling and resizing are left out: they are under one per cent. The network is never
filled with weights: it runs on torch's meta device, where tensors have shapes and no values.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from pfmap.core.card import ENCODERS, Architecture, read_card
from pfmap.core.errors import ModelError, UsageError
from pfmap.core.tables import build
from pfmap.model.store import CARD_NAME, find_model
from pfmap.net.fast import factor_head
from pfmap.net.pfnet import PFNet

_ISAID_CLASSES = 16
_PARTS = {"ppm": "context", "flows": "flow modules", "flows_up": "flow modules"}
"""What people are told of parts for which the network has another name."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one part of a network costs."""

    name: str
    parameters: int
    multiply_adds: int
    """Of one window."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a network costs."""

    architecture: Architecture
    size: int
    """Side of the window, pixels."""
    parts: tuple[Part, ...]
    factored: int
    """Multiply-adds of the whole as pfmap computes it, with the factored head."""

    @property
    def parameters(self) -> int:
        """Of the whole network."""
        return sum(part.parameters for part in self.parts)

    @property
    def multiply_adds(self) -> int:
        """Of the whole network, operation by operation as published."""
        return sum(part.multiply_adds for part in self.parts)


def find_architecture(name: str, changes: Sequence[str] = ()) -> Architecture:
    """Find an architecture by a model's name or folder, and make `changes` to it, each ``KEY=VALUE``.

    The name of an encoder stands for the paper's network with that encoder and iSAID's 16 classes. A list's
    values are separated by commas. A `ModelError` says that there is neither such a model nor such an
    encoder, or no such setting; a `UsageError` that a change is no ``KEY=VALUE``.
    """
    try:
        folder = find_model(name)
    except ModelError as error:
        if name not in ENCODERS:
            raise ModelError(
                f"{error}; or name an encoder for the paper's network: {', '.join(ENCODERS)}"
            ) from error
        architecture = Architecture(name, _ISAID_CLASSES)  # type: ignore[arg-type]  # it is one of them
    else:
        architecture = read_card(folder / CARD_NAME).architecture
    settings = dataclasses.asdict(architecture)
    return build(Architecture, {**settings, **dict(map(_change, changes))}, "architecture")


def _change(text: str) -> tuple[str, Any]:
    """Take ``KEY=VALUE`` apart."""
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise UsageError(f"{text!r} is no setting: write KEY=VALUE, such as flow=none or flow_levels=4,8")
    parts = map(str.strip, value.strip("[]").split(","))
    values = [int(part) if part.isdecimal() else part for part in parts]
    return key, values if key in {"flow_levels", "contact"} else values[0] if len(values) == 1 else value


def cost_of(architecture: Architecture, size: int) -> Cost:
    """Count parameters, and multiply-adds of a window of `size` pixels a side, or raise a `ModelError`."""
    with torch.device("meta"):
        network = PFNet(architecture).eval()
    parts = {name: _PARTS.get(name, name) for name, _ in network.named_children()}
    parameters = dict.fromkeys(parts.values(), 0)
    for name, weight in network.named_parameters():
        parameters[parts[name.split(".")[0]]] += weight.numel()
    plain = _by_part(_counted(network, size))
    factor_head(network)
    costs = tuple(Part(name, count, plain[name]) for name, count in parameters.items())
    return Cost(architecture, size, costs, int(_counted(network, size).get_total_flops()) // 2)


def _counted(network: PFNet, size: int) -> FlopCounterMode:
    """Run a network on the meta device; counted are two operations for each multiply-add."""
    # torch counts the product that is added to something else, but not where it is added in place.
    products = {torch.ops.aten.baddbmm_: lambda _out, one, other, **_: 2 * one.numel() * other[-1]}
    counter = FlopCounterMode(display=False, custom_mapping=products)
    with counter, torch.inference_mode():
        network(torch.empty(1, network.architecture.bands, size, size, device="meta"))
    return counter


def _by_part(counter: FlopCounterMode) -> Counter[str]:
    """Return the multiply-adds of each part: of what runs outermost in the network itself."""
    counts = counter.get_flop_counts()  # of every module, with what runs in it
    operations: Counter[str] = Counter()
    for module, found in counts.items():
        root, *path = module.split(".")
        around = (f"{root}.{'.'.join(path[:depth])}" for depth in range(1, len(path)))
        if path and not any(outer in counts for outer in around):
            operations[_PARTS.get(path[0], path[0])] += sum(found.values())
    return Counter({part: count // 2 for part, count in operations.items()})
