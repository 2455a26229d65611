"""Model folders: finding, loading and writing them."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import tomli_w
import torch
from torch import nn

from pfmap.core.card import Card, card_table, read_card
from pfmap.core.errors import ModelError
from pfmap.core.files import write_text
from pfmap.model.weights import load_weights, save_weights
from pfmap.net.pfnet import PFNet

CARD_NAME = "model.toml"
WEIGHTS_NAME = "weights.safetensors"
DEFAULT_MODEL = "landcover"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded model.

    Attributes:
        card: what is known of it.
        network: in evaluation mode; normalised ``(B, 3, H, W)`` float32 to logits ``(B, classes, H, W)``,
            divided by the card's temperature.
        folder: where it lies.
    """

    card: Card
    network: nn.Module
    folder: Path


def bundled_models() -> Path:
    """Return the folder of the models that come with pfmap: in the package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "models"
    return inside if inside.is_dir() else package.parent / "models"


def user_models() -> Path:
    """Return the user's model folder: `PFMAP_MODELS`, or the platform's data directory."""
    given = os.environ.get("PFMAP_MODELS")
    return Path(given) if given else Path(platformdirs.user_data_dir("pfmap", appauthor=False)) / "models"


def check_name(name: str) -> str:
    """Refuse a model name that could leave its folder.

    Raises:
        ModelError: it has anything but letters, digits, dot, underscore and hyphen.
    """
    if not _NAME.fullmatch(name):
        raise ModelError(
            f"model name {name!r} is not possible: use letters, digits, '.', '_' and '-', starting "
            "with a letter or digit"
        )
    return name


def list_models() -> list[tuple[Path, Card | ModelError]]:
    """List all models by folder, bundled ones first; a broken card is listed with its error."""
    found: dict[str, tuple[Path, Card | ModelError]] = {}
    for root in (bundled_models(), user_models()):
        if not root.is_dir():
            continue
        for folder in sorted(p for p in root.iterdir() if (p / CARD_NAME).is_file()):
            try:
                entry: Card | ModelError = read_card(folder / CARD_NAME)
            except ModelError as error:
                entry = error
            found.setdefault(folder.name, (folder, entry))
    return list(found.values())


def find_model(name_or_path: str | os.PathLike[str]) -> Path:
    """Find a model's folder by name, bundled ones first, or by path.

    Raises:
        ModelError: there is none; the message lists those there are.
    """
    text = os.fspath(name_or_path)
    if _NAME.fullmatch(text):
        for root in (bundled_models(), user_models()):
            if (root / text / CARD_NAME).is_file():
                return root / text
    path = Path(text)
    if (path / CARD_NAME).is_file():
        return path
    if path.name == CARD_NAME and path.is_file():
        return path.parent
    names = ", ".join(folder.name for folder, _ in list_models()) or "none"
    raise ModelError(
        f"model {text!r} is unknown: available are {names}; or give the path of a folder with a {CARD_NAME}"
    )


def load_model(name_or_path: str | os.PathLike[str] = DEFAULT_MODEL, device: str = "cpu") -> Model:
    """Load a model by name or path.

    Args:
        name_or_path: name of a bundled or imported model, or a model folder.
        device: where the network goes.

    Raises:
        ModelError: unknown model, broken card, or weights that are missing or do not fit.
    """
    folder = find_model(name_or_path)
    card = read_card(folder / CARD_NAME)
    network = PFNet(card.architecture)
    load_weights(network, folder / WEIGHTS_NAME)
    network.cool(card.temperature)
    network.requires_grad_(requires_grad=False)
    return Model(card, network.eval().to(torch.device(device)), folder)


def write_model(folder: Path, card: Card, network: nn.Module, dtype: torch.dtype = torch.float16) -> None:
    """Write a model folder: weights first, so that a folder with a card is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(network, folder / WEIGHTS_NAME, dtype)
    write_text(folder / CARD_NAME, tomli_w.dumps(card_table(card)))
