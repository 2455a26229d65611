"""The reference weights of the golden tensors, drawn key by key as their README says."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch


def golden_state(golden: Path | None = None) -> dict[str, torch.Tensor]:
    """Draw the reference weights, key by key, under their published names; skips a test without them."""
    if golden is None:
        from conftest import shared

        golden = shared("golden")
    spec = json.loads((golden / "upstream_state_dict_r50_16c.json").read_text())
    return {key: torch.from_numpy(_draw(key, tuple(shape))) for key, (shape, _) in spec.items()}


def _draw(key: str, shape: tuple[int, ...]) -> np.ndarray:
    r = np.random.RandomState(zlib.crc32(key.encode()))
    if key.endswith("num_batches_tracked"):
        return np.array(1000)
    if key.endswith("running_mean"):
        value = 0.1 * r.standard_normal(shape)
    elif key.endswith("running_var"):
        value = 0.5 + r.random_sample(shape)
    elif len(shape) == 4:
        value = np.sqrt(2 / (shape[1] * shape[2] * shape[3])) * r.standard_normal(shape)
    elif key.endswith(".weight"):
        value = (0.75 + 0.5 * r.random_sample(shape)) * (0.3 if key.endswith("bn3.weight") else 1)
    else:
        value = 0.1 * r.standard_normal(shape)
    return value.astype(np.float32)
