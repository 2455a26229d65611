"""Import of published checkpoints."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import shared
from golden import golden_state

import pfmap
from pfmap.core.card import read_card
from pfmap.core.errors import CheckpointError, ModelError
from pfmap.model.upstream import PRESETS, rename
from pfmap.net.pfnet import PFNet


def published(network: PFNet) -> dict[str, torch.Tensor]:
    """Give a network's weights their published names, by searching the names that lead to ours."""
    names = published_names(network)
    return {names[key]: value for key, value in network.state_dict().items()}


def published_names(network: PFNet) -> dict[str, str]:
    import json

    spec = json.loads(shared("golden/upstream_state_dict_r50_16c.json").read_text())
    names = {rename(key): key for key in spec}
    for key in network.state_dict():
        if key not in names:  # ResNet-101 has more blocks in its third stage
            assert key.startswith("encoder.stages.2.")
            names[key] = key.replace("encoder.stages.2.", "layer3.")
    return names


def bare(state: dict, path: Path) -> None:
    torch.save(state, path)


def with_module(state: dict, path: Path) -> None:
    torch.save({f"module.{key}": value for key, value in state.items()}, path)


def full(state: dict, path: Path) -> None:
    content = {
        "state_dict": {f"module.{key}": value for key, value in state.items()},
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.007}]},
        "epoch": 15,
        "mean_iu": np.float64(0.669),
        "command": "train.py --lr 0.007",
    }
    torch.save(content, path)


def full_legacy(state: dict, path: Path) -> None:
    content = {"state_dict": state, "epoch": 15, "mean_iu": np.float64(0.669)}
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.mark.golden
@pytest.mark.parametrize("save", [bare, with_module, full, full_legacy])
def test_all_forms_give_the_golden_classes(save, tmp_path: Path) -> None:
    save(golden_state(), tmp_path / "best.pth")
    folder = pfmap.import_checkpoint(
        tmp_path / "best.pth", preset="isaid", name="mine", models_dir=tmp_path / "models"
    )
    model = pfmap.load_model(folder)
    assert model.card.architecture.encoder == "resnet50"
    assert model.card.input.window == 896
    assert model.card.classes[0].background
    golden = np.load(shared("golden/pfnet_r50_16c_256.npz"))
    with torch.inference_mode():
        classes = model.network(torch.from_numpy(golden["image"])).argmax(1)
    assert (classes.numpy() == golden["argmax"]).mean() >= 0.9999


def test_numpy_one_scalars_are_read_too(tmp_path: Path) -> None:
    torch.save({"mean_iu": np.float64(0.5)}, tmp_path / "c.pth", _use_new_zipfile_serialization=False)
    old = (tmp_path / "c.pth").read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    (tmp_path / "c.pth").write_bytes(old)
    with pytest.raises(CheckpointError, match="more than tensors: mean_iu"):
        pfmap.import_checkpoint(tmp_path / "c.pth", preset="isaid", name="x", models_dir=tmp_path)


@pytest.mark.golden
def test_resnet101_and_six_classes_are_read_from_the_shapes(tmp_path: Path) -> None:
    from pfmap.core.card import Architecture

    network = PFNet(Architecture("resnet101", 6))
    bare(published(network), tmp_path / "c.pth")
    folder = pfmap.import_checkpoint(tmp_path / "c.pth", preset="vaihingen", name="v", models_dir=tmp_path)
    model = pfmap.load_model(folder)
    assert model.card.architecture == Architecture("resnet101", 6)
    assert model.card.input.bands == ("nir", "red", "green")
    for key, value in network.state_dict().items():
        if "num_batches" not in key:
            assert torch.equal(model.network.state_dict()[key], value), key
    with pytest.raises(CheckpointError, match="has 6 classes, preset 'isaid' has 16"):
        pfmap.import_checkpoint(tmp_path / "c.pth", preset="isaid", name="w", models_dir=tmp_path)


@pytest.mark.golden
def test_every_misfit_is_listed_at_once(tmp_path: Path) -> None:
    state = golden_state()
    del state["head.fpn_in.0.0.bias"], state["layer4.2.bn3.running_var"]
    state["head.extra.weight"] = torch.zeros(1)
    state["ppm.fuse.0.weight"] = torch.zeros(1)
    state["layer1.0.conv1.weight"] = torch.zeros(64, 64, 1, 1)
    bare(state, tmp_path / "c.pth")
    with pytest.raises(CheckpointError) as caught:
        pfmap.import_checkpoint(tmp_path / "c.pth", preset="isaid", name="x", models_dir=tmp_path / "m")
    message = str(caught.value)
    for words in (
        "laterals.0.0.bias is missing",
        "encoder.stages.3.2.bn3.running_var is missing",
        "head.extra.weight",
        "ppm.fuse.0.weight (not a published name)",
        "layer1.0.conv1.weight is (64, 64, 1, 1), needs (64, 128, 1, 1)",
    ):
        assert words in message
    assert "\n" not in message
    assert not (tmp_path / "m").exists()


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("save", [torch.save, lambda x, p: p.write_bytes(pickle.dumps(x))])
def test_a_pickle_that_wants_to_run_code_does_not(save, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pth"
    save({"state_dict": {"a": torch.zeros(1)}, "epoch": Evil()}, path)
    with pytest.raises(CheckpointError, match="without running code"):
        pfmap.import_checkpoint(path, preset="isaid", name="x", models_dir=tmp_path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"PK\x03\x04broken"])
def test_files_of_something_else_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "c.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"c\.pth"):
        pfmap.import_checkpoint(path, preset="isaid", name="x", models_dir=tmp_path)


def test_names_cannot_leave_the_model_folder(tmp_path: Path) -> None:
    for name in ("../x", "a/b", "", ".hidden", "/abs"):
        with pytest.raises(ModelError, match="name"):
            pfmap.import_checkpoint(tmp_path / "c.pth", preset="isaid", name=name, models_dir=tmp_path)


def test_presets_carry_the_published_classes() -> None:
    isaid, potsdam, vaihingen = (read_card(PRESETS[name]) for name in ("isaid", "potsdam", "vaihingen"))
    assert [c.name for c in isaid.classes][:3] == ["background", "ship", "storage_tank"]
    assert len(isaid.classes) == 16
    assert isaid.classes[15].rgb == (0, 100, 155)
    assert [c.rgb for c in potsdam.classes][4] == (255, 255, 0)
    assert (potsdam.input.window, vaihingen.input.window) == (896, 768)
