"""Read the weights in files of others as data, and say what a file really is that holds none.

Nothing that a pickle asks to execute is executed, and nobody is told how to have it executed after all.
"""

import re
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pfmap.core.errors import CheckpointError, reason
from pfmap.core.resources import what_it_is

AGAIN = "download it again"
"""What to do about most files that are no checkpoints of somebody else."""
_TORCH = rb"PK\x03\x04|\x80.{0,10}\x8a\x0al\xfc"
"""How torch's own files begin: those of today are zip archives."""
_KINDS = (
    (rb"\x89HDF", "it is an HDF5 file, as Keras writes it: PyTorch's weights are needed"),
    (rb"\x08.*(pytorch|onnx)", "it is an ONNX model: the state dict that it was exported from is needed"),
    (
        rb"\x80[\2-\5]|\(d[pq]|}q\0",
        "it is a plain pickle, not to be read without running code: save its weights where that is at home, "
        "with torch.save",
    ),
)
"""How files of other programs begin, as patterns, and what they are."""

_NESTS = ("state_dict", "model_state_dict", "model", "network", "net", "params")
"""Keys under which training programs keep the weights among other things."""

_MOST = 8  # problems that a message lists


def no_weights(path: Path) -> str:
    """Say what a file is that holds no weights, and what to do about it; "" where it may hold some."""
    with path.open("rb") as file:
        head = file.read(512)
    if re.match(_TORCH, head, re.DOTALL):
        return _zipped(path) if head.startswith(b"PK") else ""
    return what_it_is(path, "", _KINDS)


def _zipped(path: Path) -> str:
    """Say the same of a zip archive, which is how torch itself writes."""
    try:
        with zipfile.ZipFile(path) as content:
            names = content.namelist()
            unpacked = sum(member.file_size for member in content.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return f"it is incomplete, for its end is missing or damaged: {AGAIN}"
    if any(name.endswith("/constants.pkl") for name in names):
        return (
            "it is a TorchScript program: save its weights alone, with "
            "torch.save(torch.jit.load(FILE).state_dict(), OTHER)"
        )
    if not any(name.endswith("data.pkl") for name in names):
        return f"it is a zip archive of {', '.join(names[:3])[:120] or 'nothing'}: name the unpacked file"
    if unpacked > path.stat().st_size:
        return "it is packed, as torch never writes it: unpack it, and save it with torch.save"
    return ""


def read_data(path: Path) -> Any:
    """Read what torch saved: tensors, containers, and the numpy scalar that published files carry.

    A `CheckpointError` says that the file is something else, damaged, or holds more than data.
    """
    try:
        if what := no_weights(path):
            raise CheckpointError(f"{path} cannot be read: {what}")
        # The scalar is named differently by numpy 1 and 2; both names mean the same harmless constructor.
        scalar = np.float64(0).__reduce__()[0]
        allowed: list[Any] = [
            (scalar, "numpy.core.multiarray.scalar"),
            (scalar, "numpy._core.multiarray.scalar"),
            np.dtype,
            type(np.dtype(np.float64)),
            type(np.dtype(np.float32)),
        ]
        with torch.serialization.safe_globals(allowed):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (CheckpointError, OSError):
        raise
    except Exception as failed:  # torch raises many kinds; the file is the cause of all of them
        if found := re.search(r"GLOBAL ([\w.]+)", str(failed)):
            raise CheckpointError(
                f"{path} cannot be read without running code of its own ({found[1][:80]}): save the weights "
                "alone where that code is at home, with torch.save(model.state_dict(), FILE)"
            ) from failed
        raise CheckpointError(
            f"{path} cannot be read as data, without running code: it is damaged or incomplete "
            f"({type(failed).__name__}), or none of torch's; {AGAIN}"
        ) from failed


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a state dict of torch's or safetensors', wherever in the file, or raise a `CheckpointError`."""
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist or is no file: check the path")
    try:
        content = load_file(path) if _is_safetensors(path) else read_data(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise no_safetensors(path, error) from error
    while isinstance(content, Mapping) and (
        inner := [content[key] for key in _NESTS if isinstance(content.get(key), Mapping)]
    ):
        content = inner[0]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path} holds no state dict: a published PFNet checkpoint is needed")
    if others := [str(k) for k, v in content.items() if not (isinstance(k, str) and isinstance(v, Tensor))]:
        raise CheckpointError(f"{path} holds more than tensors: {some_of(others, ', ')}")
    return dict(content)


def _is_safetensors(path: Path) -> bool:
    with suppress(OSError), path.open("rb") as file:
        return file.read(9)[8:] == b"{"  # after the length of a header in JSON
    return False


def no_safetensors(path: Path, error: Exception) -> CheckpointError:
    """Say why a file was not read as safetensors."""
    if isinstance(error, OSError):
        return CheckpointError(f"{path} cannot be read ({error.strerror or error})")
    kind = "a safetensors file that was cut short" if _is_safetensors(path) else "no safetensors file"
    what = no_weights(path) or f"it is {kind} ({reason(error).rpartition(': ')[2]}): {AGAIN}"
    return CheckpointError(f"{path} cannot be read: {what}")


def some_of(problems: Sequence[str], separator: str = "; ") -> str:
    """List the first few of what may be hundreds."""
    more = len(problems) - _MOST
    listed = [problem[:200] for problem in problems[:_MOST]] + [f"and {more} more"] * (more > 0)
    return separator.join(listed)
