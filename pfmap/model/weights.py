"""Weights on disk: safetensors in and out, and the ImageNet encoder that training starts from."""

import hashlib
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pfmap.core.errors import ModelError, TrainingError
from pfmap.core.files import publish


def save_weights(network: nn.Module, path: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write a network's weights as safetensors, floating-point tensors as `dtype`."""
    state = {
        key: (value.to(dtype) if value.is_floating_point() else value).detach().cpu().contiguous()
        for key, value in network.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    part = path.with_name(f".{path.name}.part")
    # Written here and not by safetensors, which would let nobody but the owner read it.
    part.write_bytes(save(state))
    publish(part, path)


def load_weights(network: nn.Module, path: Path) -> None:
    """Fill a network with weights, as float32, and refuse anything that does not fit.

    Raises:
        ModelError: the file is missing, no safetensors, or its keys or shapes differ; all are listed.
    """
    if not path.is_file():
        raise ModelError(
            f"{path} is missing: the model has no weights; train it with pfmap train or import a "
            "checkpoint with pfmap models import"
        )
    try:
        state = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path} is not a safetensors file: {error}") from error
    problems = misfits(network, state)
    if problems:
        raise ModelError(f"{path} does not fit its card: {'; '.join(problems)}")
    network.load_state_dict({key: value.float() for key, value in state.items()}, strict=False)


def misfits(network: nn.Module, state: dict[str, Tensor]) -> list[str]:
    """List every missing, unexpected and misshapen key; `num_batches_tracked` may be absent."""
    wanted = {
        key: tuple(value.shape)
        for key, value in network.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    given = {
        key: tuple(value.shape) for key, value in state.items() if not key.endswith("num_batches_tracked")
    }
    missing = [f"{key} is missing" for key in wanted if key not in given]
    unexpected = [f"{key} is unexpected" for key in given if key not in wanted]
    misshapen = [
        f"{key} is {given[key]}, needs {shape}"
        for key, shape in wanted.items()
        if key in given and given[key] != shape
    ]
    return missing + unexpected + misshapen


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


_LITE0_REPEATS = (1, 2, 2, 3, 3, 4, 1)
_LITE0_PARTS = {
    "_expand_conv": "expand.0",
    "_bn0": "expand.1",
    "_depthwise_conv": "depthwise.0",
    "_bn1": "depthwise.1",
    "_project_conv": "project.0",
    "_bn2": "project.1",
}


def load_imagenet_lite0(encoder: nn.Module, path: Path) -> None:
    """Fill an EfficientNet-Lite0 encoder from the published ImageNet file; its classifier is left out.

    Raises:
        TrainingError: the file cannot be read or does not fit.
    """
    try:
        published = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds; the file is the cause of all of them
        raise TrainingError(f"encoder weights {path} cannot be read: {error}") from error
    blocks = [f"stages.{stage}.{index}" for stage, n in enumerate(_LITE0_REPEATS) for index in range(n)]
    state = {}
    for key, value in published.items():
        if key.startswith("_conv_stem."):
            state[key.replace("_conv_stem", "stem.0")] = value
        elif key.startswith("_bn0."):
            state[key.replace("_bn0", "stem.1")] = value
        elif match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key):
            number, part, leaf = match.groups()
            state[f"{blocks[int(number)]}.{_LITE0_PARTS[part]}.{leaf}"] = value
    problems = misfits(encoder, state)
    if problems:
        raise TrainingError(f"encoder weights {path} do not fit: {'; '.join(problems[:5])}")
    encoder.load_state_dict(state, strict=False)
