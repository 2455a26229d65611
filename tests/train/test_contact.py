"""Learning where objects meet: labels with ids, the loss, and a head that is trained alone."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rasterio.features import shapes
from scipy import ndimage
from shapely.geometry import shape
from test_data import CARD, noise, place, source, write_scene

import pfmap
from pfmap.core.errors import PfmapError, TrainingError
from pfmap.core.grid import Span
from pfmap.mapping.swaths import map_array
from pfmap.model.store import write_model
from pfmap.net.losses import contact_loss
from pfmap.net.pfnet import PFNet
from pfmap.train.config import Split, TrainingConfig, TrainingSettings, parse_config
from pfmap.train.data import load_data
from pfmap.train.loop import train
from pfmap.train.optimise import Objective
from pfmap.train.quick import QuickOptions, quick_config
from pfmap.train.validate import measure, predictor_of

CARD = CARD | {"architecture": CARD["architecture"] | {"contact": ["roof"]}}


def config_of(layer: dict, card: dict = CARD, **training: object) -> TrainingConfig:
    settings = {"steps": 2, "crop": 64, **training}
    return parse_config(
        {**card, "training": settings, "sources": [source("scene.tif", layer)]}, Path("t.toml")
    )


@pytest.fixture
def ids(tmp_path: Path) -> np.ndarray:
    """A town of 60 houses, of which many touch; it lies over a scene."""
    write_scene(tmp_path / "scene.tif", noise(120, 160))
    town = np.zeros((120, 160), np.int32)
    rng = np.random.default_rng(1)
    for k in range(60):
        row, col = rng.integers(100), rng.integers(140)
        # Ids that float32 does not tell apart.
        town[row : row + rng.integers(8, 20), col : col + rng.integers(8, 20)] = 2**24 + k
    write_scene(tmp_path / "ids.tif", town[None])
    return town


def in_contact(ids: np.ndarray, near: int) -> np.ndarray:
    """Whether ids differ, 0 left out, within so many pixels of each."""
    padded = np.pad(ids, near)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * near + 1, 2 * near + 1))
    return np.array([[len(set(np.unique(one)) - {0}) > 1 for one in row] for row in windows])


@pytest.mark.parametrize("drawn", [False, True])
def test_labels_say_where_two_objects_are_near(tmp_path: Path, ids: np.ndarray, drawn: bool) -> None:
    layer: dict = {"path": "ids.tif", "instances": "roof", "rest": ["grass", "sand"], "near": 2}
    if drawn:
        houses = [shape(geometry) for geometry, value in shapes(ids, connectivity=4) if value]
        ids = ndimage.label(ids)[0] * 0  # pieces of a house that another cuts are houses of their own
        for k, house in enumerate(houses):
            ids += (k + 1) * np.array(_burnt(house), dtype=ids.dtype)
        place(houses, ["roof"] * len(houses), tmp_path / "houses.gpkg")
        layer |= {"path": "houses.gpkg", "field": "kind"}
    data = load_data(config_of(layer), tmp_path)
    scene = data.sources[0].train[0].scene
    labels = scene.read(*scene.box)[1]
    np.testing.assert_array_equal(data.sets.contacts()[labels] == 1, in_contact(ids, 2))
    assert not np.isnan(data.sets.contacts()[labels]).any()
    np.testing.assert_array_equal(data.sets.table()[labels, 0], ids > 0)
    # Read in parts, what lies beyond a part counts too.
    for layer_read in scene.layers:
        part = layer_read.read(Span(31, 77), Span(50, 133))
        np.testing.assert_array_equal(part, labels[31:77, 50:133])


def _burnt(polygon: object) -> np.ndarray:
    from rasterio.features import rasterize

    return rasterize([polygon], (120, 160))


def test_other_layers_know_of_no_contact_or_that_there_is_none(tmp_path: Path, ids: np.ndarray) -> None:
    write_scene(tmp_path / "mask.tif", np.uint8(ids > 0)[None])
    told = {"path": "ids.tif", "instances": "roof"}
    for apart, expected in ((False, np.nan), (True, 0.0)):
        mask = {"path": "mask.tif", "values": {"0": ["grass", "sand"], "1": "roof"}, "apart": apart}
        config = config_of(told)
        sources = (dataclasses.replace(config.sources[0], layers=config_of_mask(mask)),)
        data = load_data(dataclasses.replace(config, sources=sources), tmp_path)
        sample = data.sources[0].train[0]
        np.testing.assert_array_equal(np.unique(data.sets.contacts()[sample.read()[1]]), expected)


def config_of_mask(layer: dict) -> tuple:
    plain = CARD | {"architecture": CARD["architecture"] | {"contact": []}}
    return config_of(layer, plain).sources[0].layers


def test_the_contact_loss_is_cross_entropy_and_dice_of_what_is_known() -> None:
    logits = torch.randn(2, 1, 6, 8, generator=torch.manual_seed(0), requires_grad=True)
    target = (torch.rand(2, 6, 8) < 0.3).float()
    target[0, :3] = torch.nan
    known = ~target.isnan()
    shown, true = torch.sigmoid(logits[:, 0][known]), target[known]
    entropy = -(true * shown.log() + (1 - true) * (1 - shown).log()).mean()
    dice = 2 * (shown * true).sum() / (shown.sum() + true.sum())
    torch.testing.assert_close(contact_loss(logits, target), entropy + 1 - dice)
    nothing = contact_loss(logits, torch.full_like(target, torch.nan))
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert not logits.grad.any()


def test_walls_are_contours_for_point_flow() -> None:
    """Within one class nothing but the contact draws a line, also where the class is not certain."""
    torch.manual_seed(0)
    card = config_of({"path": "x", "instances": "roof"}).card
    network = PFNet(card.architecture).eval()
    sets, weights = torch.tensor([[True, False, False], [True, True, False]]), torch.ones(2)
    labels = torch.zeros(1, 64, 64, dtype=torch.uint8)
    labels[:, :, 30:34] = 1
    settings = TrainingSettings(steps=1, contact_weight=0.0)
    images = torch.randn(1, 3, 64, 64)

    def loss(second: float) -> torch.Tensor:
        return Objective(network, sets, weights, torch.tensor([0.0, second]), settings)(
            images, labels, labels
        )

    walls = (labels == 1).float()[:, None]
    expected = loss(0.0)
    share = walls.mean()
    for edges in network.compute(images).edges:
        at = F.interpolate(edges, (64, 64), mode="bilinear", align_corners=True)
        weight = torch.where(walls > 0, 1 - share, share)
        expected = expected + F.binary_cross_entropy_with_logits(at, walls, weight)
    torch.testing.assert_close(loss(1.0), expected)


def test_a_contact_head_is_put_on_a_trained_model_and_changes_no_class(
    tmp_path: Path, ids: np.ndarray
) -> None:
    plain = CARD | {"architecture": CARD["architecture"] | {"contact": []}}
    card = config_of({"path": "ids.tif"}, plain).card
    torch.manual_seed(3)
    write_model(tmp_path / "first", card, PFNet(card.architecture))
    layer = {"path": "ids.tif", "instances": "roof", "rest": ["grass"]}
    config = config_of(layer, trained="contact", ema=0.0)
    held = dataclasses.replace(config.sources[0], validation=Split(columns=(96, 160)))
    config = dataclasses.replace(config, sources=(held,))
    train(config, tmp_path, tmp_path / "next", start_from=str(tmp_path / "first"))
    first, second = (pfmap.load_model(tmp_path / name) for name in ("first", "next"))
    assert second.card.architecture.contact == ("roof",)
    assert 0 <= second.card.accuracy["here_contact_iou"] <= 1
    assert "| mean | right | contact |" in (tmp_path / "next" / "README.md").read_text()
    image = torch.randn(1, 3, 64, 96)
    before, after = first.network(image), second.network(image)
    scale = second.card.temperature
    torch.testing.assert_close(after[:, :3] * scale, before)
    assert after.shape[1] == 4
    # Fine-tuned on polygons it learns from these; masks tell no objects apart.
    houses = [shape(geometry) for geometry, value in shapes(ids, connectivity=4) if value]
    place(houses, ["roof"] * len(houses), tmp_path / "houses.gpkg")
    write_scene(tmp_path / "mask.tif", np.uint8(ids > 0)[None])
    scene = tmp_path / "scene.tif"
    options = QuickOptions(scene, str(tmp_path / "houses.gpkg"), field="kind")
    assert quick_config(options, second, tmp_path / "x", write=False).sources[0].instances == {"roof"}
    options = QuickOptions(scene, str(tmp_path / "mask.tif"))
    assert quick_config(options, second, tmp_path / "x", write=False).card.architecture.contact == ()


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ({"path": "ids.tif", "values": {"1": "roof"}}, "names roof, instances in the layers none"),
        ({"path": "ids.tif", "instances": "barn"}, "names unknown classes: barn"),
        ({"path": "ids.tif", "instances": "sand"}, "names roof, instances in the layers sand"),
        ({"path": "ids.tif", "instances": "roof", "values": {"1": "roof"}}, "ids of one class's objects"),
        (
            {"path": "ids.tif", "instances": "roof", "apart": True},
            "has instances, or its objects lie apart",
        ),
        ({"path": "ids.tif", "instances": "roof", "near": 0}, "near is 0: it has to be 1 or more"),
        ({"path": "far.tif", "instances": "roof"}, "far.tif and .*scene.tif do not overlap"),
    ],
)
def test_ids_that_teach_nothing_are_refused(tmp_path: Path, ids: np.ndarray, layer: dict, words: str) -> None:
    write_scene(tmp_path / "far.tif", ids[None], col=300_000)
    with pytest.raises((TrainingError, PfmapError), match=words):
        load_data(config_of(layer), tmp_path)


def test_a_contact_of_no_class_is_refused() -> None:
    card = CARD | {"architecture": CARD["architecture"] | {"contact": ["barn"]}}
    with pytest.raises(PfmapError, match="contact names barn: the classes are roof, grass, sand"):
        config_of({"path": "ids.tif", "instances": "roof"}, card)


def test_figures_say_how_well_contact_is_found_where_there_is_some(tmp_path: Path, ids: np.ndarray) -> None:
    class Half(torch.nn.Module):
        """Sees contact in the right half of each window."""

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            out = image.new_zeros(len(image), 4, *image.shape[2:])
            out[:, 3] = torch.linspace(-9, 9, image.shape[3])
            return out

    layer = {"path": "ids.tif", "instances": "roof", "rest": ["grass"]}
    config = config_of(layer)
    held = dataclasses.replace(config.sources[0], validation=Split(columns=(96, 160)))
    data = load_data(dataclasses.replace(config, sources=(held,)), tmp_path)
    (sample,) = data.sources[0].validation
    walls = data.sets.contacts()[sample.read()[1]] == 1
    card = dataclasses.replace(config.card, input=dataclasses.replace(config.card.input, window=64))
    found = measure(Half(), data, card, torch.device("cpu"))["here"].contact
    predictor = predictor_of(Half(), card, torch.device("cpu"))
    *_, contact = map_array(predictor, sample.read()[0], 3, 64, 8)
    assert 0.2 < (contact >= 50).mean() < 0.8
    assert found == ((contact >= 50) & walls).sum() / ((contact >= 50) | walls).sum()
    write_scene(tmp_path / "mask.tif", np.uint8(ids > 0)[None])
    mask = {"path": "mask.tif", "values": {"0": ["grass", "sand"], "1": "roof"}, "apart": True}
    held = dataclasses.replace(held, layers=config_of_mask(mask))
    data = load_data(dataclasses.replace(config, sources=(held,)), tmp_path)
    assert measure(Half(), data, card, torch.device("cpu"))["here"].contact is None
