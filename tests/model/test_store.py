"""Model folders: finding, reading, refusing."""

import dataclasses
from pathlib import Path

import pytest
import torch
from conftest import stand_in

import pfmap
from pfmap.core.card import read_card
from pfmap.core.errors import ModelError, TargetError
from pfmap.model.store import list_models, user_models, write_model
from pfmap.net.pfnet import PFNet


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    card = stand_in().card
    narrow, learned = dataclasses.replace(card.architecture, width=16), {"gsd": ((0.1, 0.5),)}
    card = dataclasses.replace(card, architecture=narrow, learned=learned)
    torch.manual_seed(0)
    write_model(tmp_path / "small", card, PFNet(card.architecture), torch.float32)
    return tmp_path / "small"


def test_a_written_model_comes_back_the_same(folder: Path) -> None:
    model = pfmap.load_model(folder)
    torch.manual_seed(0)
    original = PFNet(model.card.architecture).eval()
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(model.network(image), original(image))
    assert not model.network.training
    assert read_card(folder / "model.toml") == model.card
    modes = {path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert len(modes) == 1  # whoever may read the card may read the weights


def test_float16_weights_are_close(folder: Path) -> None:
    model = pfmap.load_model(folder)
    write_model(folder, model.card, model.network, torch.float16)
    halved = pfmap.load_model(folder)
    for key, value in model.network.state_dict().items():
        torch.testing.assert_close(halved.network.state_dict()[key], value, atol=1e-3, rtol=1e-3)


def test_models_are_found_by_name_and_listed(folder: Path) -> None:
    root = user_models()
    root.mkdir(exist_ok=True)
    folder.rename(root / "small")
    (root / "broken").mkdir()
    (root / "broken" / "model.toml").write_text("name = ")
    assert pfmap.load_model("small").card.name == "stand_in"
    listed = {path.name: entry for path, entry in list_models()}
    assert isinstance(listed["broken"], ModelError)
    with pytest.raises(ModelError, match=r"available are .*small"):
        pfmap.load_model("large")


@pytest.mark.parametrize("name", ["../small", "no/such", "landcover/../../x"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(ModelError, match="unknown"):
        pfmap.load_model(name)


def test_a_model_without_weights_says_so(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights"):
        pfmap.load_model(folder)


def test_weights_that_do_not_fit_are_listed(folder: Path) -> None:
    card = (folder / "model.toml").read_text()
    (folder / "model.toml").write_text(card.replace("width = 16", "width = 24"))
    with pytest.raises(ModelError, match=r"projections\.0\.1\.bias is \(16,\), needs \(24,\).* and \d+ more"):
        pfmap.load_model(folder)
    (folder / "weights.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(ModelError, match="is empty, or all zeros"):
        pfmap.load_model(folder)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("window = 64", "window = 65", "multiples of 32"),
        ("window = 64", "windwo = 64", "unknown keys: windwo"),
        ("window = 64", 'window = "64"', "has to be int"),
        ('encoder = "efficientnet_lite0"', 'encoder = "vgg"', "vgg"),
        ('color = "#d7301f"', 'color = "red"', "#rrggbb"),
        ("[provenance]", "[provenence]", "provenance"),
        ('    "red",', "    1,", "list of texts"),
        ('name = "class_1"', 'name = "class_0"', "twice"),
        ('name = "class_1"', 'name = "a\\u001b[2Jb"', r"class is called 'a\\x1b\[2Jb'.*without control"),
        ('name = "class_1"', 'name = "a\\nb"', "without control characters"),
        ('name = "class_1"', 'name = "a\\u202eb"', "without control characters"),
        ('name = "class_1"', 'name = "oak, beech"', "'oak, beech' has a comma"),
        ('attribution = "', 'attribution = "\\u001b]0;', "a text has control characters"),
        ("[learned]", "[learned]\nmean = [[0.1, 0.9]]", r"learned\.mean is .*for each band"),
        ("[learned]", "[learned]\nhue = [[0, 1]]", r"learned\.hue is .*mean, std, chroma, tint list"),
        ("        0.5,\n", "        0.05,\n", r"learned\.gsd is \[\[0\.1, 0\.05\]\]: "),
        ("        0.5,\n", "        nan,\n", r"learned\.gsd is"),
        ("[learned]\ngsd = ", "[learned]\ntint = 1\ngsd = ", "learned.*tint.* has to be a list"),
        ("temperature = ", 'accuracy_note = "x"\ntemperature = ', "unknown keys: accuracy_note"),
    ],
)
def test_a_bad_card_names_file_and_key(folder: Path, old: str, new: str, words: str) -> None:
    path = folder / "model.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ModelError, match=words) as caught:
        pfmap.load_model(folder)
    assert str(path) in str(caught.value)


def test_a_model_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    card = stand_in().card
    with pytest.raises(TargetError, match=r"model cannot be made \(Not a directory\)"):
        write_model(tmp_path / "file" / "model", card, PFNet(card.architecture))


def test_new_weights_never_lie_beside_an_old_card(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = pfmap.load_model(folder)

    def stopped(path: Path, _text: str) -> None:
        raise KeyboardInterrupt(path)

    monkeypatch.setattr("pfmap.model.store.write_text", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_model(folder, model.card, model.network)
    with pytest.raises(ModelError, match="is unknown"):
        pfmap.load_model(folder)
