"""What training reads: scenes of any size, labels from rasters and polygons, and what is held out."""

import dataclasses
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from rasterio import features
from shapely.geometry import Point, box

import pfmap
from pfmap.train import data as data_module
from pfmap.train import labelled_image
from pfmap.train.augment import Batches
from pfmap.train.config import TrainingConfig, parse_config
from pfmap.train.data import TrainingData, load_data
from pfmap.train.label_layers import LabelSet
from pfmap.train.split import cells
from pfmap.train.validate import Calibration, calibrate

CRS = "EPSG:32645"
ORIGIN = (500_000.0, 3_060_000.0)
SIZE = 0.5
CARD = {
    "name": "tiny",
    "title": "a tiny model",
    "architecture": {"encoder": "efficientnet_lite0", "width": 16, "embedding": 8},
    "input": {
        "bands": ["red", "green", "blue"], "scale": 255.0, "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5], "window": 64, "gsd": [0.1, 1.0],
    },
    "classes": [
        {"name": "roof", "color": "#ff0000"},
        {"name": "grass", "color": "#00ff00"},
        {"name": "sand", "color": "#ffff00"},
    ],
    "provenance": {"data": "made up", "licence": "none", "attribution": "nobody"},
}  # fmt: skip


def write_scene(
    path: Path, image: np.ndarray, col: int = 0, row: int = 0, crs: str | None = CRS, **options: object
) -> Path:
    """Write bands whose first pixel is `col`, `row` pixels from the common origin."""
    transform = Affine(SIZE, 0, ORIGIN[0] + col * SIZE, 0, -SIZE, ORIGIN[1] - row * SIZE)
    count, height, width = image.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=image.dtype, crs=crs,
        transform=transform, **options,
    ) as dst:  # fmt: skip
        dst.write(image)
    return path


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 255, (3, height, width), dtype=np.uint8)


def place(shapes: list, names: list[str], path: Path, crs: str = CRS) -> Path:
    """Write polygons that are given in pixels."""
    from shapely.affinity import affine_transform

    placed = [affine_transform(s, [SIZE, 0, 0, -SIZE, *ORIGIN]) for s in shapes]
    gpd.GeoDataFrame({"kind": names}, geometry=placed, crs=CRS).to_crs(crs).to_file(path)
    return path


def config_of(sources: list[dict], **training: object) -> TrainingConfig:
    return parse_config(
        {**CARD, "training": {"steps": 2, "crop": 64, **training}, "sources": sources}, Path("t.toml")
    )


def source(images: Path | str, layer: dict, **more: object) -> dict:
    return {"name": "here", "images": str(images), "per_batch": 4, "layers": [layer], **more}


def all_labels(loaded: TrainingData, part: str = "train") -> list[np.ndarray]:
    return [sample.read()[1] for source in loaded.sources for sample in getattr(source, part)]


def classes_of(loaded: TrainingData, labels: np.ndarray) -> np.ndarray:
    """Return the class of sure labels, -1 of others."""
    table = loaded.sets.table()
    return np.where(table.sum(1) == 1, table.argmax(1), -1)[labels]


@pytest.fixture
def blobs() -> tuple[list, list[str]]:
    rng = np.random.default_rng(1)
    shapes = [Point(*rng.uniform(0, 300, 2)).buffer(rng.uniform(8, 30)) for _ in range(25)]
    return shapes, ["roof", "grass", "sand"] * 8 + ["roof"]


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson"])
@pytest.mark.parametrize("crs", [CRS, "EPSG:4326"])
def test_polygons_become_the_labels_that_burning_them_all_gives(
    tmp_path: Path, blobs: tuple[list, list[str]], suffix: str, crs: str
) -> None:
    shapes, names = blobs
    write_scene(tmp_path / "scene.tif", noise(300, 320))
    layer = {"path": str(place(shapes, names, tmp_path / f"drawn{suffix}", crs)), "field": "kind"}
    loaded = load_data(config_of([source(tmp_path / "scene.tif", layer)]), tmp_path)
    (sample,) = loaded.sources[0].train
    order = ["roof", "grass", "sand"]
    truth = features.rasterize(
        [(s, order.index(n)) for s, n in zip(shapes, names, strict=True)], (300, 320), fill=99
    )
    read, labels = sample.scene.read(*sample.scene.box)
    found = classes_of(loaded, labels)
    found[labels == 0] = 99
    # Through degrees and back a border may pass a pixel's centre on the other side.
    assert (found != truth).mean() < (0.001 if crs != CRS else 1e-9)
    assert np.array_equal(read, noise(300, 320))


def test_what_lies_outside_the_polygons_may_be_said(tmp_path: Path) -> None:
    write_scene(tmp_path / "scene.tif", noise(100, 100))
    drawn = place([box(20, 20, 50, 60)], ["house"], tmp_path / "drawn.gpkg")
    layer = {
        "path": str(drawn), "field": "kind", "values": {"house": "roof"}, "rest": ["grass", "sand"],
    }  # fmt: skip
    loaded = load_data(config_of([source(tmp_path / "scene.tif", layer)]), tmp_path)
    (labels,) = all_labels(loaded)
    inside = np.zeros((100, 100), bool)
    inside[20:60, 20:50] = True
    members = [entry.members for entry in loaded.sets.entries]
    assert {members[k] for k in np.unique(labels[inside])} == {frozenset({0})}
    assert {members[k] for k in np.unique(labels[~inside])} == {frozenset({1, 2})}


def test_a_scene_that_stays_on_disk_gives_the_same_as_one_in_memory(
    tmp_path: Path, blobs: tuple[list, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.concatenate([noise(300, 320), np.full((1, 300, 320), 255, np.uint8)])
    image[3, :40] = 0  # transparent
    write_scene(
        tmp_path / "scene.tif",
        image,
        tiled=True,
        blockxsize=64,
        blockysize=64,
        photometric="rgb",
        ALPHA="YES",
    )
    layer = {"path": str(place(*blobs, tmp_path / "drawn.gpkg")), "field": "kind", "rest": ["sand"]}
    config = config_of([source(tmp_path / "scene.tif", layer, validation={"rows": [200, 300]})])
    near = load_data(config, tmp_path)
    monkeypatch.setattr(data_module, "_SHARE", 1 << 60)
    # As if the scene were too large to be looked at whole.
    monkeypatch.setattr(labelled_image.survey, "__defaults__", ((), 2))
    far = load_data(config, tmp_path)
    assert near.sources[0].train[0].scene.kept
    assert not far.sources[0].train[0].scene.kept
    one, two = near.sources[0].train[0], far.sources[0].train[0]
    rows, cols = one.rows.start, one.cols.start
    for got, wanted in zip(two.cut(rows, cols, *one.shape), one.cut(0, 0, *one.shape), strict=True):
        assert np.array_equal(got, wanted)
    assert not two.read()[1][200:].any()
    assert not two.read()[1][:40].any()
    assert (two.read()[0][:, :40] == 128).all()  # what prediction shows the network there
    for index, points in two.anchors.items():
        assert (two.read()[1][points[:, 0], points[:, 1]] == index).all()
    assert set(two.anchors) == set(one.anchors)
    images, labels, _ = Batches(far, config)[0]
    assert images.shape == (4, 3, 64, 64)
    assert labels.any()


def test_a_rare_class_is_in_every_other_crop(tmp_path: Path) -> None:
    labels = np.ones((1, 512, 512), np.uint8)
    labels[0, 300:306, 40:46] = 0
    write_scene(tmp_path / "scene.tif", noise(512, 512))
    write_scene(tmp_path / "labels.tif", labels)
    layer = {"path": str(tmp_path / "labels.tif"), "values": {"0": "roof", "1": "grass"}}
    config = config_of([source(tmp_path / "scene.tif", layer)], scale=[1.0, 1.0])
    loaded = load_data(config, tmp_path)
    batches = Batches(loaded, config)
    rare = loaded.sets.add(LabelSet(frozenset({0}), 1.0))
    share = np.mean([(crop == rare).any().item() for k in range(15) for crop in batches[k][2]])
    assert share > 0.2  # half of a half; by chance it would be 0.02


def test_coarsened_crops_lose_their_detail_and_keep_their_labels(tmp_path: Path) -> None:
    write_scene(tmp_path / "scene.tif", noise(128, 128))
    labels = np.arange(128 * 128, dtype=np.uint8).reshape(1, 128, 128) % 3
    write_scene(tmp_path / "labels.tif", labels)
    layer = {"path": str(tmp_path / "labels.tif"), "values": {"0": "roof", "1": "grass", "2": "sand"}}

    def detail(coarsen: float) -> list[float]:
        one = source(tmp_path / "scene.tif", layer, coarsen=coarsen)
        config = config_of([one], scale=[1.0, 1.0])
        batches = Batches(load_data(config, tmp_path), config)
        crops = [crop for step in range(6) for crop in zip(*batches[step][:2], strict=True)]
        assert all(len(labels.unique()) == 3 for _, labels in crops)
        return [float((image[:, 1:] - image[:, :-1]).abs().mean() / image.std()) for image, _ in crops]

    assert min(detail(1.0)) > 0.4
    smooth = np.array(detail(8.0)) < 0.4
    assert 0.05 < smooth.mean() < 0.5


def test_what_is_painted_gets_its_label_and_only_on_its_ground(tmp_path: Path) -> None:
    write_scene(tmp_path / "scene.tif", noise(128, 128))
    labels = np.repeat(np.uint8([1, 2]), 64)[None, None].repeat(128, 1)
    write_scene(tmp_path / "labels.tif", labels)
    layer = {"path": str(tmp_path / "labels.tif"), "values": {"1": "grass", "2": "sand"}}

    def shares(**paint: list[str]) -> np.ndarray:
        config = config_of([source(tmp_path / "scene.tif", layer, paint=paint)], scale=[1.0, 1.0])
        loaded = load_data(config, tmp_path)
        crops = [
            classes_of(loaded, crop.numpy()) for k in range(10) for crop in Batches(loaded, config)[k][2]
        ]
        return np.bincount(np.array(crops).ravel(), minlength=3) / np.size(crops)

    plain, roofs = shares(), shares(roofs=["roof", "grass"])
    assert plain[0] == 0 < roofs[0]
    assert roofs[2] == pytest.approx(plain[2])
    assert roofs[1] == pytest.approx(plain[1] - roofs[0])
    for paint, words in [({"roofs": []}, "no classes for roofs"), ({"rivers": ["sand"]}, "rivers")]:
        with pytest.raises(pfmap.PfmapError, match=words):
            config_of([source(tmp_path / "scene.tif", layer, paint=paint)])


def test_blocks_of_ground_are_held_out_whatever_sheets_show_them(tmp_path: Path) -> None:
    """Two sheets overlap by half: no pixel of the ground is trained on in one and measured in the other."""
    rng = np.random.default_rng(0)
    ground = np.kron(rng.integers(0, 3, (40, 60)), np.ones((16, 16), int)).astype(np.uint8)
    for name, left in (("a", 0), ("b", 320)):
        sheet = ground[:, left : left + 640]
        write_scene(tmp_path / f"{name}.tif", noise(*sheet.shape), col=left)
        write_scene(tmp_path / f"{name}_labels.tif", sheet[None], col=left)
    layer = {
        "path": str(tmp_path / "{stem}_labels.tif"), "values": {"0": "roof", "1": "grass", "2": "sand"},
    }  # fmt: skip
    loaded = load_data(
        config_of([source(tmp_path / "?.tif", layer, validation={"share": 0.25, "block": 128})]), tmp_path
    )
    trained, held = np.zeros((640, 960), int), np.zeros((640, 960), int)
    for part, seen in (("train", trained), ("validation", held)):
        for sample in getattr(loaded.sources[0], part):
            left = (0 if sample.scene.path.name == "a.tif" else 320) + sample.cols.start
            top = sample.rows.start
            seen[top : top + sample.shape[0], left : left + sample.shape[1]] += sample.read()[1] > 0
    assert not (trained.astype(bool) & held.astype(bool)).any()
    assert ((trained + held) > 0).all()
    assert 0.2 < held.astype(bool).mean() < 0.3
    for klass in range(3):
        assert 0.15 < (held > 0)[ground == klass].mean() < 0.35


def test_parts_of_a_large_sample_are_spread_over_it(tmp_path: Path) -> None:
    write_scene(tmp_path / "scene.tif", noise(100, 4000))
    labels = np.tile(np.arange(2, dtype=np.uint8), (1, 100, 2000))
    write_scene(tmp_path / "labels.tif", labels)
    layer = {"path": str(tmp_path / "labels.tif"), "values": {"0": "roof", "1": "grass"}}
    samples = load_data(config_of([source(tmp_path / "scene.tif", layer)]), tmp_path).sources[0].train
    assert data_module.spread(samples, 400_000) is samples
    parts = data_module.spread(samples, 200_000)
    assert [(p.cols.start, p.cols.stop) for p in parts] == [(0, 1024), (3072, 4000)]
    assert np.array_equal(parts[1].read()[0], samples[0].read()[0][:, :, 3072:])


def test_chips_of_one_place_stay_together() -> None:
    from pfmap.core.grid import UNPLACED, GeoBox

    def blocks(col: int, number: int) -> set:
        geobox = GeoBox(256, 256, "WKT", (0.5, 0.0, 1000.0 + col * 0.5, 0.0, -0.5, 2000.0))
        return {cell for cell, _ in cells(geobox, 1024, number)}

    same = [blocks(col, k) for k, col in enumerate(range(0, 2048, 256))]
    assert len(set.union(*same)) in (2, 3)  # of eight chips in a row
    unplaced = [GeoBox(256, 256, None, UNPLACED)] * 24
    groups = [cells(g, 1024, k)[0][0] for k, g in enumerate(unplaced)]
    assert [groups.index(g) // 8 for g in groups] == [k // 8 for k in range(24)]


def test_sixteen_bits_are_stretched_as_in_prediction(tmp_path: Path) -> None:
    wide = noise(128, 128).astype(np.uint16) * 40
    write_scene(tmp_path / "scene.tif", wide)
    labels = np.arange(128 * 128, dtype=np.uint8).reshape(1, 128, 128) % 3
    write_scene(tmp_path / "labels.tif", labels)
    layer = {"path": str(tmp_path / "labels.tif"), "values": {"0": "roof", "1": "grass", "2": "sand"}}
    loaded = load_data(config_of([source(tmp_path / "scene.tif", layer)]), tmp_path)
    image = loaded.sources[0].train[0].read()[0]
    low, high = np.percentile(wide, [2, 98])
    expected = np.clip((wide - low) / (high - low) * 255, 0, 255)
    assert np.abs(image - expected).max() <= 1


def bad(tmp_path: Path, layer: dict, **more: object) -> str:
    config = config_of([source(tmp_path / "scene.tif", layer, **more)])
    with pytest.raises(pfmap.PfmapError) as caught:
        load_data(config, tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_bad_data_gets_one_clear_line(tmp_path: Path) -> None:
    write_scene(tmp_path / "scene.tif", noise(128, 128))
    roof = box(10, 10, 40, 40)
    far = place([box(5000, 10, 5040, 40)], ["roof"], tmp_path / "far.gpkg")
    assert "is a polygon on" in bad(tmp_path, {"path": str(far), "field": "kind", "rest": ["sand"]})
    odd = place([roof], ["igloo"], tmp_path / "odd.gpkg")
    message = bad(tmp_path, {"path": str(odd), "field": "kind"})
    assert "classes igloo in column kind" in message
    assert "roof, grass, sand" in message
    assert "has no field 'klass'" in bad(tmp_path, {"path": str(odd), "field": "klass"})
    assert "has no column class" in bad(tmp_path, {"path": str(odd)})
    one = place([roof], ["roof"], tmp_path / "one.gpkg")
    assert "may be 'roof': there is nothing to tell it from" in bad(
        tmp_path, {"path": str(one), "field": "kind"}
    )
    with rasterio.open(
        tmp_path / "small.png", "w", driver="PNG", count=1, height=64, width=128, dtype="uint8"
    ):
        pass
    small = {"path": str(tmp_path / "small.png"), "values": {"0": "roof"}}
    assert "small.png has 128 x 64 pixels" in bad(tmp_path, small)
    two = place([roof, box(60, 60, 90, 90)], ["roof", "sand"], tmp_path / "two.gpkg")
    layer = {"path": str(two), "field": "kind"}
    assert "all labels lie in one block" in bad(tmp_path, layer, validation={"share": 0.2, "block": 4096})
    unplaced = gpd.GeoDataFrame({"kind": ["roof"]}, geometry=[box(0, 0, 9, 9)])
    unplaced.set_crs(CRS).to_file(tmp_path / "lost.geojson", driver="GeoJSON")
    assert "is a polygon on" in bad(tmp_path, {"path": str(tmp_path / "lost.geojson"), "field": "kind"})


def test_invalid_polygons_are_mended(tmp_path: Path) -> None:
    from shapely.geometry import Polygon

    write_scene(tmp_path / "scene.tif", noise(100, 100))
    bow = Polygon([(10, 10), (60, 60), (60, 10), (10, 60)])  # crosses itself
    drawn = place([bow, box(70, 70, 90, 90)], ["roof", "sand"], tmp_path / "drawn.gpkg")
    loaded = load_data(
        config_of([source(tmp_path / "scene.tif", {"path": str(drawn), "field": "kind"})]), tmp_path
    )
    assert 1100 < (classes_of(loaded, all_labels(loaded)[0]) == 0).sum() < 1400


def test_crops_do_not_leave_the_training_part(tmp_path: Path) -> None:
    """Labels that are held out never reach a batch."""
    write_scene(tmp_path / "scene.tif", noise(256, 256))
    labels = np.zeros((1, 256, 256), np.uint8)
    labels[:, :, 128:] = 1  # held out
    labels[:, ::2, :64] = 2
    write_scene(tmp_path / "labels.tif", labels)
    layer = {"path": str(tmp_path / "labels.tif"), "values": {"0": "roof", "1": "grass", "2": "sand"}}
    config = config_of([source(tmp_path / "scene.tif", layer, validation={"columns": [128, 256]})])
    loaded = load_data(config, tmp_path)
    small = dataclasses.replace(config.training, crop=96)
    batches = Batches(loaded, dataclasses.replace(config, training=small))
    grass = loaded.sets.add(LabelSet(frozenset({1}), 1.0))
    for step in range(5):
        assert not torch.eq(batches[step][1], grass).any()


def calibrated(tmp_path: Path, wrong: np.ndarray) -> Calibration:
    """Calibrate a network that is 97 % sure of what the red band says, where some labels say else."""
    rng = np.random.default_rng(0)
    image = noise(512, 512)
    said = rng.integers(0, 3, (512, 512))
    image[0] = said * 100
    write_scene(tmp_path / "scene.tif", image)
    write_scene(tmp_path / "labels.tif", np.where(wrong, (said + 1) % 3, said).astype(np.uint8)[None])
    layer = {"path": str(tmp_path / "labels.tif"), "values": {"0": "roof", "1": "grass", "2": "sand"}}
    config = config_of([source(tmp_path / "scene.tif", layer, validation={"rows": [256, 512]})])

    class Sure:
        spec = config.card.input

        def probabilities(self, windows: list[np.ndarray], _valid: object) -> torch.Tensor:
            number = torch.from_numpy(windows[0][0] // 100).long()
            return torch.tensor([0.97, 0.015, 0.015])[(torch.arange(3)[:, None, None] - number[None]) % 3][
                None
            ]

    found = calibrate(Sure(), load_data(config, tmp_path))
    assert found is not None
    return found


def test_a_network_that_is_too_sure_is_cooled_until_it_is_right(tmp_path: Path) -> None:
    """In a quarter of the pixels the label says else."""
    fitted = calibrated(tmp_path, np.random.default_rng(1).random((512, 512)) < 0.25)
    # Cooled, the most probable class is right in 75 %: log(0.75 / 0.125) = log(0.97 / 0.015) / T.
    assert fitted.temperature == pytest.approx(np.log(0.97 / 0.015) / np.log(0.75 / 0.125), rel=0.05)
    assert fitted.error_before == pytest.approx(0.22, abs=0.02)
    assert fitted.error < 0.02


def test_a_temperature_that_does_not_help_on_other_windows_is_not_kept(tmp_path: Path) -> None:
    """Labels err in the windows that are fitted on, and not in those between."""
    side = 64
    fitted_on = (np.arange(512) // side % 2 == 0)[None, :]
    fitted = calibrated(tmp_path, fitted_on & (np.random.default_rng(1).random((512, 512)) < 0.25))
    assert fitted.temperature == 1
    assert fitted.error == fitted.error_before == pytest.approx(0.03, abs=0.01)


def test_one_polygon_file_may_serve_two_layers(tmp_path: Path) -> None:
    write_scene(tmp_path / "scene.tif", noise(100, 100))
    drawn = place([box(10, 10, 40, 40), box(50, 50, 90, 90)], ["house", "dune"], tmp_path / "drawn.gpkg")
    houses = {"path": str(drawn), "field": "kind", "values": {"house": "roof", "dune": []}}
    dunes = {"path": str(drawn), "field": "kind", "values": {"dune": "sand", "house": []}, "weight": 2.0}
    one = {"name": "here", "images": str(tmp_path / "scene.tif"), "per_batch": 4, "layers": [houses, dunes]}
    loaded = load_data(config_of([one]), tmp_path)
    (labels,) = all_labels(loaded)
    sets = loaded.sets
    assert labels[20, 20] == sets.add_named(("roof",), 1.0)
    assert labels[70, 70] == sets.add_named(("sand",), 2.0)


def test_how_images_look_is_learned_from_what_is_trained_on_alone(tmp_path: Path) -> None:
    dark = noise(96, 96) // 4
    write_scene(tmp_path / "a.tif", np.concatenate([dark[..., :48], 255 - dark, dark[..., 48:]], axis=2))
    write_scene(tmp_path / "m.tif", np.tile(np.arange(192, dtype=np.uint8) // 8 % 2, (1, 96, 1)))
    layer = {"path": "m.tif", "values": {"0": "roof", "1": "grass"}}
    config = config_of([source("a.tif", layer, validation={"columns": [48, 144]}, scale=[0.5, 1.25])])
    learned = load_data(config, tmp_path).learned((0.1, 9.0))
    image = dark.reshape(3, -1) / 255
    apart = image - image.mean(axis=0)
    tint = np.percentile(apart, 3, axis=1) + np.percentile(apart, 97, axis=1)
    figures = {
        "mean": image.mean(axis=1),
        "std": image.std(axis=1),
        "chroma": apart.std(axis=1),
        "tint": tint,
    }
    for name, values in figures.items():
        for end in np.transpose(learned.pop(name)):  # of one image both ends are the same
            np.testing.assert_allclose(end, values, atol=0.02)  # of one pixel in four
    assert list(learned) == ["gsd"]
    np.testing.assert_allclose(learned["gsd"], [[0.4, 1.0]], rtol=1e-3)
