"""Model folders, each a card (model.toml) and weights (safetensors): find, load and write them.

Weights are checked key by key before they are taken, so that a file that does not fit says where.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import tomli_w
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from pfmap.core.card import Card, card_table, read_card
from pfmap.core.classes import RGB
from pfmap.core.errors import CheckpointError, ModelError, TargetError, TrainingError, saying
from pfmap.core.files import draft, write_text
from pfmap.model.checkpoint import no_safetensors, read_tensors, some_of
from pfmap.net.pfnet import PFNet

CARD_NAME = "model.toml"
WEIGHTS_NAME = "weights.safetensors"
DEFAULT_MODEL = "landcover"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded model."""

    card: Card
    network: nn.Module
    """In evaluation mode; normalised ``(B, bands, H, W)`` float32 to logits ``(B, classes, H, W)``, which are
    divided by the card's temperature."""
    folder: Path
    sha256: str = ""
    """Of the weights file that it was loaded from, as hexadecimal digits; "" of one that never was a file."""


def bundled_models() -> Path:
    """Return the folder of the models that come with pfmap: in the package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "models"
    return inside if inside.is_dir() else package.parent / "models"


def user_models() -> Path:
    """Return the user's model folder: `PFMAP_MODELS`, or the platform's data directory."""
    given = os.environ.get("PFMAP_MODELS")
    return Path(given) if given else Path(platformdirs.user_data_dir("pfmap", appauthor=False)) / "models"


def check_name(name: str) -> None:
    """Refuse a model name that could leave its folder, with a `ModelError`."""
    if not _NAME.fullmatch(name):
        raise ModelError(
            f"model name {name!r} is not possible: use letters, digits, '.', '_' and '-', starting "
            "with a letter or digit"
        )


def list_models() -> list[tuple[Path, Card | ModelError]]:
    """List all models by folder, bundled ones first; a broken card is listed with its error."""
    found: dict[str, tuple[Path, Card | ModelError]] = {}
    for root in (bundled_models(), user_models()):
        for path in sorted(root.glob(f"*/{CARD_NAME}")):
            try:
                entry: Card | ModelError = read_card(path)
            except ModelError as error:
                entry = error
            found.setdefault(path.parent.name, (path.parent, entry))
    return list(found.values())


def find_model(name_or_path: str | os.PathLike[str]) -> Path:
    """Find a model's folder by name, bundled ones first, or by path; a `ModelError` lists those there are."""
    text = os.fspath(name_or_path)
    if _NAME.fullmatch(text):
        for root in (bundled_models(), user_models()):
            if (root / text / CARD_NAME).is_file():
                return root / text
    if ((path := Path(text)) / CARD_NAME).is_file():
        return path
    if path.name == CARD_NAME and path.is_file():
        return path.parent
    names = ", ".join(folder.name for folder, _ in list_models()) or "none"
    raise ModelError(
        f"model '{text}' is unknown: available are {names}; or give the path of a folder with a {CARD_NAME}"
    )


def load_model(name_or_path: str | os.PathLike[str] = DEFAULT_MODEL, device: str = "cpu") -> Model:
    """Load a bundled or imported model by name, or from a folder, onto a device.

    Raises:
        ModelError: unknown model, broken card, or weights that are missing or do not fit.
    """
    folder = find_model(name_or_path)
    card = read_card(folder / CARD_NAME)
    network = PFNet(card.architecture)
    sha256 = load_weights(network, folder / WEIGHTS_NAME)
    network.cool(card.temperature)
    network.requires_grad_(requires_grad=False)
    return Model(card, network.eval().to(torch.device(device)), folder, sha256)


def write_model(folder: Path, card: Card, network: nn.Module, dtype: torch.dtype = torch.float16) -> None:
    """Write a model folder: weights first, so that a folder with a card is complete.

    Floating-point tensors are stored as `dtype`, or as float32 where that cannot hold them. A `TargetError`
    says that it cannot be written, a `ModelError` that weights are NaN or infinite.
    """
    weights = _without_counters(network.state_dict())
    if problems := [f"{key} {why}" for key, value in weights.items() if (why := _useless(key, value))]:
        raise ModelError(f"{folder} cannot be written: {some_of(problems)}")
    with saying(f"{folder} cannot be made", TargetError, remedy="choose another folder"):
        folder.mkdir(parents=True, exist_ok=True)
    state = {
        key: (value.to(dtype) if value.to(dtype).isfinite().all() else value).detach().cpu().contiguous()
        for key, value in weights.items()
    }
    # Written here and not by safetensors, which would let nobody but the owner read it.
    with draft(folder / WEIGHTS_NAME) as part:
        part.write_bytes(save(state))
        (folder / CARD_NAME).unlink(missing_ok=True)  # or weights might lie beside the card of others
    write_text(folder / CARD_NAME, tomli_w.dumps(card_table(card)))


def load_weights(network: nn.Module, path: Path) -> str:
    """Fill a network with weights, as float32; return the SHA-256 of just what was read.

    A `ModelError` says that the file is missing, no safetensors, that its keys or shapes differ, or that it
    holds numbers that are none; the first of them are listed.
    """
    if not path.is_file():
        raise ModelError(
            f"{path} is missing: the model has no weights; train it with pfmap train or import a "
            "checkpoint with pfmap models import"
        )
    try:
        content = path.read_bytes()
        state = load(content)
    except (OSError, SafetensorError, ValueError) as error:
        raise no_safetensors(path, error) from error
    if problems := misfits(network, state):
        raise ModelError(f"{path} does not fit its card: {some_of(problems)}")
    network.load_state_dict({key: value.float() for key, value in state.items()}, strict=False)
    return hashlib.sha256(content).hexdigest()


def misfits(network: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """List every missing, unexpected, misshapen and useless key; `num_batches_tracked` may be absent."""
    wanted, given = (
        {key: tuple(value.shape) for key, value in _without_counters(tensors).items()}
        for tensors in (network.state_dict(), state)
    )
    return [
        *(f"{key} {why}" for key in wanted if key in given and (why := _useless(key, state[key]))),
        *(
            f"{key} is {given[key]}, needs {shape}"
            for key, shape in wanted.items()
            if given.get(key, shape) != shape
        ),
        *(f"{key} is unexpected" for key in given if key not in wanted),
        *(f"{key} is missing" for key in wanted if key not in given),
    ]


def _useless(key: str, value: Tensor) -> str:
    """Say why no map can be made with a weight; "" if one can."""
    if not value.is_floating_point():
        return f"is of {str(value.dtype).removeprefix('torch.')}, needs floating-point numbers"
    if not (numbers := value.float()).isfinite().all():
        return "holds NaN or infinite numbers: did its training diverge?"
    if numbers.ndim > 1 and not numbers.any():  # as in a file that was made before its content came
        return "holds nothing but zeros: is the file complete?"
    return "is a variance below 0" if key.endswith("running_var") and (numbers < 0).any() else ""


def _without_counters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out batch norm's counters of training batches, which nothing reads."""
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


def rename_key(key: str, renames: Iterable[tuple[str, str]]) -> str:
    """Put our names where patterns find how a published key begins; a key that none knows stays as it is."""
    for pattern, ours in renames:
        if match := re.match(pattern, key):
            return match.expand(ours) + key[match.end() :]
    return key


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_OF_IMAGES = re.compile(r"((encoder\.)?stem\.0(\.0)?|contact\.lines\.0)\.weight")


def fit_bands(state: Mapping[str, Tensor], known: Sequence[str], wanted: Sequence[str]) -> dict[str, Tensor]:
    """Fit the convolutions of images among weights, ``(O, known, k, k)``, to other bands, by name.

    One that they do not know begins as the mean of red, green and blue; without any of these, of all.
    """
    colors = [k for k, name in enumerate(known) if name in RGB] or list(range(len(known)))
    fitted = dict(state)
    for key, weight in state.items():
        if _OF_IMAGES.fullmatch(key) and weight.shape[1:2] == (len(known),):
            each = dict(zip(known, weight.unbind(1), strict=True))
            bands = [each.get(name, weight[:, colors].mean(dim=1)) for name in wanted]
            fitted[key] = torch.stack(bands, dim=1)
    return fitted


def load_imagenet_lite0(encoder: nn.Module, path: Path, bands: Sequence[str] = RGB) -> None:
    """Fill an EfficientNet-Lite0 encoder from the published ImageNet file, or raise a `TrainingError`.

    What the file has for red, green and blue is fitted to its `bands`.
    """
    try:
        published = read_tensors(path)
    except CheckpointError as error:
        raise TrainingError(f"encoder weights {error}") from error
    keys = (key.split(".") for key in encoder.state_dict() if key.startswith("stages."))
    blocks = dict.fromkeys(f"stages.{stage}.{index}" for _, stage, index, *_ in keys)
    renames = [(r"_conv_stem\.", "stem.0."), (r"_bn0\.", "stem.1.")]
    for number, block in enumerate(blocks):  # numbered throughout there, by stage here
        for k, part in enumerate(("expand", "depthwise", "project")):
            renames.append((rf"_blocks\.{number}\._{part}_conv\.", f"{block}.{part}.0."))
            renames.append((rf"_blocks\.{number}\._bn{k}\.", f"{block}.{part}.1."))
    named = {key: rename_key(key, renames) for key in published}
    state = fit_bands({ours: published[key] for key, ours in named.items() if ours != key}, RGB, bands)
    if problems := misfits(encoder, state):
        raise TrainingError(f"encoder weights {path} do not fit: {some_of(problems)}")
    encoder.load_state_dict(state, strict=False)
