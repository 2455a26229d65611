"""Checkpoints of others: read as far as they are data, and called what they are where they are not."""

import gzip
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file

import pfmap
from pfmap.core.errors import CheckpointError, ModelError, TrainingError
from pfmap.model.checkpoint import read_tensors
from pfmap.model.store import load_imagenet_lite0
from pfmap.net.layers import EfficientNetLite0

STATE = {"layer0.0.0.weight": torch.zeros(1), "head.x": torch.zeros(2)}


def saved(content: Any, **how: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **how)
    return file.getvalue()


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("best.pth", b"x")
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("best.pth"))
    return file.getvalue()


def scripted() -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.zeros(1)), file)
    return file.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0d71028bf8b6\nsize 133000000\n"
PAGE = b"\n<!DOCTYPE html>\n<html><head><title>Virus scan warning</title></head></html>\n"
ODD: dict[str, tuple[Callable[[], bytes], str]] = {
    "a web page": (lambda: PAGE, "is a web page.*download it again"),
    "a pointer": (lambda: LFS, "is a Git LFS pointer.*git lfs pull"),
    "an answer": (lambda: b'{"message": "Not Found"}', "is a text that begins with '{\"message\""),
    "nothing": (lambda: b"", "is empty"),
    "zeros": (lambda: bytes(5000), "is empty, or all zeros"),
    "half a download": (lambda: saved(STATE)[:-100], "is incomplete"),
    "half an old one": (lambda: saved(STATE, _use_new_zipfile_serialization=False)[:-30], "incomplete"),
    "a zip": (zipped, r"is a zip archive of best\.pth: name the unpacked file"),
    "a tar": (tarred, "is packed: unpack it"),
    "a gzip": (lambda: gzip.compress(saved(STATE)), "is packed: unpack it"),
    "an ONNX model": (lambda: b"\x08\x07\x12\x07pytorch\x1a\x05", "is an ONNX model"),
    "TorchScript": (scripted, "is a TorchScript program"),
    "a whole module": (lambda: saved(torch.nn.Linear(2, 2)), "without running code.*torch.nn.modules.linear"),
    "a page with a mark": (lambda: b"\xef\xbb\xbf" + PAGE, "is a web page"),
    "a page in UTF-16": (lambda: PAGE.decode().encode("utf-16"), "is a web page"),
    "a page without a head": (lambda: b"<body>Quota exceeded</body>", "is a web page"),
    "a pointer with a mark": (lambda: b"\xef\xbb\xbf" + LFS.replace(b"\n", b"\r\n"), "is a Git LFS pointer"),
    "a text in UTF-16": (lambda: "Not found".encode("utf-16"), "is a text that begins with 'Not found'"),
    "a text with umlauts": (lambda: "größer\n".encode() * 90, "is a text that begins with 'größer größer"),
    "a picture": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(90), "is an image"),
    **{f"a pickle of protocol {number}": (partial(pickle.dumps, {"a": [1.0]}, number), "is a plain pickle")
       for number in range(6)},
    "half safetensors": (lambda: save(STATE)[:-4], "is a safetensors file that was cut short"),
    "damaged safetensors": (lambda: b"\x10\0\0\0\0\0\0\0{\"a\"", "is a safetensors file that was cut short"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ODD)
def test_a_file_that_is_no_checkpoint_is_called_what_it_is(kind: str, tmp_path: Path) -> None:
    make, words = ODD[kind]
    path = tmp_path / "best.pth"
    path.write_bytes(make())
    with pytest.raises(CheckpointError, match=words) as caught:
        pfmap.import_checkpoint(path, preset="isaid", name="x", models_dir=tmp_path / "m")
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 600
    # torch's own advice is to have the file's code run after all
    assert "weights_only" not in message
    assert "safe_globals" not in message
    assert not (tmp_path / "m").exists()
    with pytest.raises(TrainingError, match=words):
        load_imagenet_lite0(EfficientNetLite0(), path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (LFS, "is a Git LFS pointer"),
        (save(STATE)[:-4], "cut short"),
        (saved(STATE), "is no safetensors file"),
    ],
)
def test_weights_of_a_model_that_are_none_say_so(content: bytes, words: str, tmp_path: Path) -> None:
    folder = tmp_path / "landcover"
    folder.mkdir()
    card = pfmap.load_model("landcover").folder / "model.toml"
    (folder / "model.toml").write_bytes(card.read_bytes())
    (folder / "weights.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=rf"weights\.safetensors .*{words}"):
        pfmap.load_model(folder)


@pytest.mark.parametrize("before", ["", "module.", "_orig_mod.", "module._orig_mod.", "model.net.", "a.b."])
@pytest.mark.parametrize("nest", [(), ("state_dict",), ("model",), ("model_state_dict",), ("net", "params")])
def test_weights_are_found_whatever_is_around_them(
    before: str, nest: tuple[str, ...], tmp_path: Path
) -> None:
    content: Any = {before + key: value for key, value in STATE.items()}
    for key in reversed(nest):
        content = {"epoch": 3, key: content, "optimizer": {"lr": 0.1}}
    torch.save(content, tmp_path / "c.pth")
    assert list(read_tensors(tmp_path / "c.pth")) == [before + key for key in STATE]
    # What it lacks is named, and what it has has its published name.
    with pytest.raises(CheckpointError, match=r"layer0\.0\.0\.weight is \(1,\), needs") as caught:
        pfmap.import_checkpoint(tmp_path / "c.pth", preset="isaid", name="x", models_dir=tmp_path / "m")
    assert f"; {before}layer0" not in str(caught.value) or not before
    assert len(str(caught.value)) < 2000


def test_safetensors_are_read_and_several_networks_are_not_mixed(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "c.safetensors")
    assert set(read_tensors(tmp_path / "c.safetensors")) == set(STATE)
    both = {f"{name}.{key}": value for name in ("student", "teacher") for key, value in STATE.items()}
    torch.save(both, tmp_path / "both.pth")
    with pytest.raises(CheckpointError, match=r"several networks.*student\., teacher\."):
        pfmap.import_checkpoint(tmp_path / "both.pth", preset="isaid", name="x", models_dir=tmp_path)
