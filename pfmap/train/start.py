"""Fine-tuning: what a new network takes over from a trained model."""

import dataclasses

import torch

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
