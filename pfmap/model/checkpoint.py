"""Read the weights in files of others as data, and say what a file really is that holds none.

Nothing that a pickle asks to execute is executed, and nobody is told how to have it executed after all.
"""

import codecs
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

from pfmap.core.errors import UNSEEN, CheckpointError, reason

AGAIN = "download it again"
"""What to do about most files that are no checkpoints of somebody else."""
_UNPACK = "unpack it first, and name the file in it"
_TORCH = rb"PK\x03\x04|\x80.{0,10}\x8a\x0al\xfc"
"""How torch's own files begin: those of today are zip archives."""
_KINDS = (
    (rb"\0*\Z", f"is empty, or all zeros: {AGAIN}"),
    (rb"version https://git-lfs", "is a Git LFS pointer, not the file it stands for: run git lfs pull"),
    (rb"\x1f\x8b", f"is compressed with gzip: {_UNPACK}"),
    (rb"BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!|.{257}ustar", f"is an archive: {_UNPACK}"),
    (rb"\x89HDF", "is an HDF5 file, as Keras writes it: PyTorch's weights are needed"),
    (rb"\x08.*(pytorch|onnx)", "is an ONNX model: the state dict that it was exported from is needed"),
    (rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF|II[*+]\0|MM\0[*+]|%PDF", "is a picture or a document: check the path"),
    (rb"<[a-z!?]", f"is a web page, such as a login, not the file behind it: {AGAIN}"),
    (
        rb"\x80[\2-\5]|\(d[pq]|}q\0",
        "is a plain pickle, not to be read without running code: save its weights where that is at home, "
        "with torch.save",
    ),
)
"""How files begin, as patterns, and what they are."""

_NESTS = ("state_dict", "model_state_dict", "model", "network", "net", "params")
"""Keys under which training programs keep the weights among other things."""

_MOST = 8  # problems that a message lists


def what_it_is(path: Path) -> str:
    """Say what a file is that holds no weights, and what to do about it; "" where it may hold some."""
    with path.open("rb") as file:
        head = file.read(512)
    if re.match(_TORCH, head, re.DOTALL):
        return _zipped(path) if head.startswith(b"PK") else ""
    text = _text(head)
    for pattern, what in _KINDS:
        if re.match(pattern, text.encode() or head, re.DOTALL | re.IGNORECASE):
            return what
    return f"is a text that begins with {text.splitlines()[0][:40]!r}: {AGAIN}" if text else ""


def _text(head: bytes) -> str:
    """Return how a text begins, in UTF-8 or in UTF-16 that says so; "" of what is none."""
    code = "utf-16" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = codecs.getincrementaldecoder(code)().decode(head).strip()
    except UnicodeDecodeError:
        return ""
    return "" if UNSEEN.search(re.sub(r"\s", "", text)) else text


def _zipped(path: Path) -> str:
    """Say the same of a zip archive, which is how torch itself writes."""
    try:
        with zipfile.ZipFile(path) as content:
            names = content.namelist()
            unpacked = sum(member.file_size for member in content.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return f"is incomplete, for its end is missing or damaged: {AGAIN}"
    if any(name.endswith("/constants.pkl") for name in names):
        return (
            "is a TorchScript program: save its weights alone, with "
            "torch.save(torch.jit.load(FILE).state_dict(), OTHER)"
        )
    if not any(name.endswith("data.pkl") for name in names):
        return f"is a zip archive of {', '.join(names[:3])[:120] or 'nothing'}: {_UNPACK}"
    if unpacked > path.stat().st_size:
        return "is packed, as torch never writes it: unpack it, and save it with torch.save"
    return ""


def read_data(path: Path) -> Any:
    """Read what torch saved: tensors, containers, and the numpy scalar that published files carry.

    Raises:
        CheckpointError: the file is something else, damaged, or holds more than data.
    """
    try:
        if what := what_it_is(path):
            raise CheckpointError(f"{path} {what}")
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
    """Read a state dict, as torch or safetensors save it, wherever in the file it is.

    Raises:
        CheckpointError: there is none.
    """
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
    others = [str(k) for k, v in content.items() if not (isinstance(k, str) and isinstance(v, Tensor))]
    if others:
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
    kind = (
        "a safetensors file that was cut short or damaged" if _is_safetensors(path) else "no safetensors file"
    )
    what = what_it_is(path) or f"is {kind} ({reason(error).rpartition(': ')[2]}): {AGAIN}"
    return CheckpointError(f"{path} {what}")


def some_of(problems: Sequence[str], separator: str = "; ") -> str:
    """List the first few of what may be hundreds."""
    more = len(problems) - _MOST
    listed = [problem[:200] for problem in problems[:_MOST]] + [f"and {more} more"] * (more > 0)
    return separator.join(listed)
