"""Small made-up data to train on: chips with squares of three classes, and a configuration for them."""

from pathlib import Path

import numpy as np
import pytest
import rasterio

CONFIG = """
name = "tiny"
title = "a tiny model"
[architecture]
encoder = "efficientnet_lite0"
width = 16
embedding = 8
[input]
bands = ["red", "green", "blue"]
scale = 255.0
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
window = 64
gsd = [0.1, 1.0]
[[classes]]
name = "roof"
color = "#ff0000"
[[classes]]
name = "grass"
color = "#00ff00"
[[classes]]
name = "sand"
color = "#ffff00"
[provenance]
data = "made up"
licence = "none"
attribution = "nobody"
[training]
steps = 6
crop = 64
encoder_rate = 1e-3
warmup = 2
ema = 0.5
[[sources]]
name = "whole"
images = "whole/*.png"
per_batch = 2
validation.stems = "3$"
layers = [{ path = "labels/{stem}.png", values = { 0 = "roof", 1 = "grass", 2 = "sand" } }]
[[sources]]
name = "partial"
images = "partial/scene.png"
per_batch = 2
validation.columns = [96, 128]
green = { name = "grass", above = 0.12, below = 0.02 }
layers = [
    { path = "partial/labels.png", values = { 1 = "roof", 0 = ["grass", "sand"] } },
    { path = "partial/sparse.png", values = { 2 = "sand" }, weight = 3.0 },
]
"""

COLORS = np.array([[200, 40, 40], [40, 180, 40], [200, 190, 130]], dtype=np.uint8)


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    array = array if array.ndim == 3 else array[None]
    count, height, width = array.shape
    with rasterio.open(
        path, "w", driver="PNG", count=count, height=height, width=width, dtype="uint8"
    ) as dst:
        dst.write(array)


def scene(height: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Squares of three classes, each of its own colour with noise."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 3, (height // 16, width // 16))
    classes = np.kron(small, np.ones((16, 16), int)).astype(np.uint8)
    noise = rng.integers(-15, 16, (height, width, 3))
    image = np.clip(COLORS[classes].astype(int) + noise, 0, 255).astype(np.uint8)
    return image.transpose(2, 0, 1), classes


def make_data(folder: Path) -> Path:
    """Write the images, their labels and the configuration."""
    for index in range(4):
        image, classes = scene(96, 96, index)
        write(folder / f"whole/chip{index}.png", image)
        write(folder / f"labels/chip{index}.png", classes)
    image, classes = scene(96, 128, 9)
    write(folder / "partial/scene.png", image)
    write(folder / "partial/labels.png", (classes == 0).astype(np.uint8))
    sparse = np.full_like(classes, 255)
    sparse[10:14][classes[10:14] == 2] = 2
    write(folder / "partial/sparse.png", sparse)
    (folder / "train.toml").write_text(CONFIG)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_data(tmp_path)
