"""Import published PFNet checkpoints as model folders; presets say what each was trained for."""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from pfmap.core.card import Architecture, Encoder, read_card
from pfmap.core.errors import CheckpointError
from pfmap.core.tables import read_toml
from pfmap.model.checkpoint import read_tensors, some_of
from pfmap.model.store import CARD_NAME, check_name, misfits, rename_key, user_models, write_model
from pfmap.net.layers import BLOCKS
from pfmap.net.pfnet import PFNet

PRESETS = {path.stem: path for path in sorted((Path(__file__).parent / "presets").glob("*.toml"))}
"""Cards of models that are made of checkpoints published for a data set, by its name."""

_RENAMES = read_toml(Path(__file__).parent / "published_names.toml").items()
"""Patterns for how published names begin, and ours."""

_FIRST = "layer0.0.0.weight"
"""A published name; what stands before it in a checkpoint stands before all."""


def import_checkpoint(
    path: str | Path, *, preset: str, name: str, models_dir: str | Path | None = None
) -> Path:
    """Turn a published PFNet checkpoint into a model folder.

    Accepts the published pickled dict and a bare state dict, also as safetensors, whatever stands before all
    keys, such as ``module.`` or ``model.``. Nothing that a pickle asks to execute is executed. The encoder
    and the number of classes are read from the shapes.

    Args:
        path: the checkpoint.
        preset: isaid, potsdam or vaihingen: what it was trained for.
        name: of the new model.
        models_dir: where it goes; by default the user's model folder.

    Returns the new model folder.

    Raises:
        CheckpointError: not a checkpoint, or not one of PFNet with the preset's classes; the first keys that
            do not fit are listed. Also where the name is taken.
        ModelError: the name is not possible.
    """
    path = Path(path)
    check_name(name)
    if preset not in PRESETS:
        raise CheckpointError(f"preset {preset!r} is unknown: use one of {', '.join(PRESETS)}")
    folder = (Path(models_dir) if models_dir is not None else user_models()) / name
    if (folder / CARD_NAME).exists():
        raise CheckpointError(f"{folder} exists already: choose another name, or delete that folder first")
    card = read_card(PRESETS[preset])
    state = _state_dict(path)
    architecture = _read_architecture(state, path)
    if architecture.classes != len(card.classes):
        raise CheckpointError(
            f"{path} has {architecture.classes} classes, preset {preset!r} has {len(card.classes)}: "
            "choose the preset it was trained for"
        )
    network = PFNet(architecture)
    network.load_state_dict({rename(key): value.float() for key, value in state.items()}, strict=False)
    card = replace(card, name=name, architecture=architecture)
    write_model(folder, card, network, torch.float32)
    return folder


rename = partial(rename_key, renames=_RENAMES)
"""Translate a published key to ours; unknown keys come back as they are."""


def _state_dict(path: Path) -> dict[str, Tensor]:
    """Read the weights, without what training programs put before all their names."""
    state = read_tensors(path)
    before = sorted({key.removesuffix(_FIRST) for key in state if key.endswith(_FIRST)})
    if len(before) > 1:
        raise CheckpointError(
            f"{path} holds several networks, with names that begin with {some_of(before, ', ')}: save the "
            "state dict of one of them"
        )
    return {key.removeprefix(before[0]) if before else key: value for key, value in state.items()}


def _read_architecture(state: Mapping[str, Tensor], path: Path) -> Architecture:
    """Read encoder and classes from the shapes, and refuse on the spot what does not fit."""
    depth = sum(bool(re.fullmatch(r"layer3\.\d+\.conv1\.weight", key)) for key in state)
    # A checkpoint with a wrong number of blocks is compared with the nearer encoder.
    middle = (BLOCKS["resnet50"][2] + BLOCKS["resnet101"][2]) / 2
    encoder: Encoder = "resnet101" if depth > middle else "resnet50"
    last = state.get("head.conv_last.1.weight")
    classes = int(last.shape[0]) if last is not None and last.ndim == 4 else 0
    architecture = Architecture(encoder, classes if 2 <= classes <= 255 else 2)
    with torch.device("meta"):
        network = PFNet(architecture)
    published = {rename(key): key for key in state}
    # A key that is spelled our way is not a published one.
    named = {
        f"{key} (not a published name)" if rename(key) == key else rename(key): value
        for key, value in state.items()
    }
    if problems := misfits(network, named):
        # Each begins with a key: it is named as in the checkpoint, where it stands there.
        split = (problem.split(" ", maxsplit=1) for problem in problems)
        listed = some_of([f"{published.get(key, key)} {rest}" for key, rest in split])
        raise CheckpointError(f"{path} is not a PFNet checkpoint with {encoder}: {listed}")
    return architecture
