"""Models as ONNX files: the same probabilities, the metadata that other programs read, refusals."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import rasterio
import torch
from click.testing import CliRunner
from conftest import stand_in

import pfmap
from pfmap.cli.main import cli
from pfmap.model.export import export_onnx
from pfmap.model.store import Model
from pfmap.net.pfnet import PFNet

ROOT = Path(__file__).parents[2]


def made(window: int = 96) -> Model:
    """A small network with random weights, whose pooling cells do not divide its maps."""
    card = stand_in(window=window).card
    card = dataclasses.replace(card, architecture=dataclasses.replace(card.architecture, width=16))
    torch.manual_seed(0)
    return Model(card, PFNet(card.architecture).eval(), Path("nowhere"))


@pytest.mark.slow
def test_the_file_computes_the_same_probabilities(tmp_path: Path) -> None:
    model = pfmap.load_model("landcover")
    side = model.card.input.window
    path = export_onnx(model, tmp_path / "landcover.onnx")
    with rasterio.open(ROOT / "examples" / "banepa.tif") as src:
        image = src.read(window=((1200, 1200 + side), (300, 300 + side)))[None].astype(np.float32) / 255
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found, contact = session.run(None, {session.get_inputs()[0].name: image})
    spec = model.card.input
    mean, std = (np.array(values, np.float32).reshape(1, 3, 1, 1) for values in (spec.mean, spec.std))
    with torch.inference_mode():
        logits = model.network(torch.from_numpy((image - mean) / std))
    wanted, walls = torch.softmax(logits[:, :-1], dim=1).numpy(), torch.sigmoid(logits[:, -1:]).numpy()
    assert np.abs(found - wanted).max() < 1e-3
    assert np.abs(contact - walls).max() < 1e-3
    assert (found.argmax(axis=1) == wanted.argmax(axis=1)).mean() > 0.9999


def test_other_programs_find_their_metadata(tmp_path: Path) -> None:
    content = onnx.load(export_onnx(made(), tmp_path / "small.onnx", gsd=0.2))
    facts = {prop.key: prop.value for prop in content.metadata_props}
    assert json.loads(facts["model_type"]) == "Segmentor"
    assert json.loads(facts["class_names"]) == {"0": "class_0", "1": "class_1", "2": "class_2"}
    assert json.loads(facts["min_area"]) == {"class_0": 0, "class_1": 0, "class_2": 0}
    assert json.loads(facts["resolution"]) == 20
    assert json.loads(facts["tiles_overlap"]) == 20
    assert json.loads(facts["seg_thresh"]) == 0
    assert facts["attribution"] == "nobody"
    (entry,) = content.graph.input
    assert [d.dim_value for d in entry.type.tensor_type.shape.dim] == [1, 3, 96, 96]


def test_a_file_names_its_bands_and_takes_as_many(tmp_path: Path) -> None:
    card = made().card
    names = ("red", "green", "blue", "nir", "dsm")
    spec = dataclasses.replace(card.input, bands=names, mean=(0.2,) * 5, std=(0.5,) * 5, scales={"dsm": 30.0})
    architecture = dataclasses.replace(card.architecture, bands=5)
    card = dataclasses.replace(card, input=spec, architecture=architecture)
    model = Model(card, PFNet(architecture).eval(), Path("nowhere"))
    path = export_onnx(model, tmp_path / "five.onnx")
    content = onnx.load(path)
    facts = {prop.key: prop.value for prop in content.metadata_props}
    assert json.loads(facts["bands"]) == list(names)
    assert json.loads(facts["scale"]) == [255.0] * 4 + [30.0]
    (entry,) = content.graph.input
    assert [d.dim_value for d in entry.type.tensor_type.shape.dim] == [1, 5, 96, 96]


def test_what_cannot_be_exported_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    model = made()
    with pytest.raises(pfmap.PfmapError, match=r"does not end in \.onnx"):
        export_onnx(model, tmp_path / "small.pt")
    with pytest.raises(pfmap.PfmapError, match=r"knows 0\.01 to 10 m per pixel, not 20"):
        export_onnx(model, tmp_path / "small.onnx", gsd=20)
    with pytest.raises(pfmap.PfmapError, match="is no folder"):
        export_onnx(model, tmp_path / "gone" / "small.onnx")
    (tmp_path / "there.onnx").write_text("mine")
    with pytest.raises(pfmap.PfmapError, match="exists already"):
        export_onnx(model, tmp_path / "there.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there.onnx"]


@pytest.mark.slow
def test_the_command_exports_and_replaces_only_when_told(small: str, tmp_path: Path) -> None:
    target = str(tmp_path / "small.onnx")
    command = ["models", "export", small, "--onnx", target]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    assert f"wrote {target}" in done.stdout
    assert isinstance(CliRunner().invoke(cli, command).exception, pfmap.PfmapError)
    assert CliRunner().invoke(cli, [*command, "--overwrite"]).exit_code == 0
