"""Import published PFNet checkpoints as model folders; presets say what each was trained for."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from pfmap.core.card import Architecture, Card, Encoder, InputSpec, Provenance
from pfmap.core.classes import RGB, ClassSpec
from pfmap.core.errors import CheckpointError
from pfmap.model.checkpoint import read_tensors, some_of
from pfmap.model.store import CARD_NAME, check_name, misfits, rename_key, user_models, write_model
from pfmap.net.layers import BLOCKS
from pfmap.net.pfnet import PFNet

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Preset:
    """What a published checkpoint was trained for."""

    title: str
    classes: tuple[ClassSpec, ...]
    bands: tuple[str, str, str]
    """In file order."""
    window: int
    """Side of the training crops."""
    gsd: tuple[float, float]
    """Metres per pixel of the training images, smallest and largest."""
    data: str
    """What it was trained on, with its terms."""


def _classes(**colors: str) -> tuple[ClassSpec, ...]:
    return tuple(ClassSpec(name, color, background=name == "background") for name, color in colors.items())


_ISAID = _classes(
    background="#000000", ship="#00003f", storage_tank="#003f3f", baseball_diamond="#003f00",
    tennis_court="#003f7f", basketball_court="#003fbf", ground_track_field="#003fff", bridge="#007f3f",
    large_vehicle="#007f7f", small_vehicle="#00007f", helicopter="#0000bf", swimming_pool="#0000ff",
    roundabout="#00bf7f", soccer_ball_field="#007fbf", plane="#007fff", harbor="#00649b",
)  # fmt: skip
_ISPRS = _classes(
    impervious_surface="#ffffff", building="#0000ff", low_vegetation="#00ffff", tree="#00ff00", car="#ffff00",
    clutter="#ff0000",
)  # fmt: skip

PRESETS: Mapping[str, Preset] = {
    "isaid": Preset(
        "PFNet on iSAID: ships, planes, vehicles, courts, fields, harbours from aerial and satellite RGB",
        _ISAID, RGB, 896, (0.1, 4.5),
        "iSAID (Waqas Zamir et al., CVPR Workshops 2019) on DOTA images: academic use only",
    ),
    "potsdam": Preset(
        "PFNet on ISPRS Potsdam: urban land cover at 5 cm from RGB",
        _ISPRS, RGB, 896, (0.04, 0.07),
        "ISPRS 2D semantic labelling, Potsdam: research use",
    ),
    "vaihingen": Preset(
        "PFNet on ISPRS Vaihingen: urban land cover at 9 cm from near infrared, red, green",
        _ISPRS, ("nir", "red", "green"), 768, (0.07, 0.12),
        "ISPRS 2D semantic labelling, Vaihingen: research use",
    ),
}  # fmt: skip

# The published names, as patterns, and ours. Levels are numbered fine to coarse in both.
_RENAMES = (
    *(
        (rf"layer0\.0\.{position}\.", f"encoder.stem.{ours}.")
        for position, ours in {0: "0.0", 1: "0.1", 3: "1.0", 4: "1.1", 6: "2.0"}.items()
    ),
    (r"layer0\.1\.", "encoder.stem.2.1."),
    *((rf"layer{number + 1}\.", f"encoder.stages.{number}.") for number in range(4)),
    (r"head\.ppm\.stages\.(\d)\.1\.", r"ppm.projections.\1.0."),
    (r"head\.ppm\.stages\.(\d)\.2\.", r"ppm.projections.\1.1."),
    (r"head\.ppm\.bottleneck\.", "ppm.fuse."),
    (r"head\.fpn_in\.", "laterals."),
    (r"head\.fpn_out\.(\d)\.0\.", r"smooth.\1."),
    (r"head\.fpn_out_align\.(\d)\.point_matcher\.match_conv\.", r"flows.\1.match."),
    (r"head\.fpn_out_align\.(\d)\.down_h\.", r"flows.\1.embed_coarse."),
    (r"head\.fpn_out_align\.(\d)\.down_l\.", r"flows.\1.embed_fine."),
    (r"head\.fpn_out_align\.(\d)\.edge_final\.", r"flows.\1.edge."),
    (r"head\.conv_last\.0\.", "head."),
    (r"head\.conv_last\.1\.", "classify."),
)

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
        preset: isaid, potsdam or vaihingen.
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
    chosen = PRESETS[preset]
    state = _state_dict(path)
    architecture = _read_architecture(state, path)
    if architecture.classes != len(chosen.classes):
        raise CheckpointError(
            f"{path} has {architecture.classes} classes, preset {preset!r} has {len(chosen.classes)}: "
            "choose the preset it was trained for"
        )
    network = PFNet(architecture)
    network.load_state_dict({rename(key): value.float() for key, value in state.items()}, strict=False)
    card = Card(
        name=name,
        title=chosen.title,
        architecture=architecture,
        input=InputSpec(chosen.bands, 255.0, _MEAN, _STD, chosen.window, chosen.gsd),
        classes=chosen.classes,
        provenance=Provenance(
            data=chosen.data,
            licence="as its publisher says; imported, not checked by pfmap",
            attribution="Li et al., PointFlow, CVPR 2021",
            limits="Imported checkpoint: its accuracy was not measured here.",
        ),
    )
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
