"""A scene that looks unlike all that a model learned is told, and no scene that looks like it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from conftest import Write, shared, stand_in
from torch import nn

from pfmap.core.card import UNLIKE, Card, read_card
from pfmap.mapping.options import PredictOptions
from pfmap.mapping.plan import make_plan
from pfmap.model.store import Model, bundled_models
from pfmap.raster.location import locate
from pfmap.raster.source import Source

EXAMPLE = Path(__file__).parents[2] / "examples" / "banepa.tif"
CARD = read_card(bundled_models() / "landcover" / "model.toml")


def told(scene: Path, card: Card = CARD, **options: Any) -> list[str]:
    """What is said of the looks of a scene that a model, the shipped one, is to map."""
    with Source(locate(scene), model=card.name) as source:
        model, device = Model(card, nn.Identity(), Path()), torch.device("cpu")
        plan = make_plan(source, model, "", PredictOptions(**options), device, torch.float32, 1)
    return [text for text in plan.warnings if UNLIKE in text]


def pixels() -> np.ndarray:
    with rasterio.open(EXAMPLE) as src:
        return src.read([1, 2, 3])


def warm(image: np.ndarray) -> np.ndarray:
    """As through a camera that sees little blue."""
    return np.stack([image[0], image[1], image[2] // 2])


def infrared(image: np.ndarray) -> np.ndarray:
    """Near infrared, red and green: plants are bright in the first and dark in the second."""
    red, green, blue = image.astype(int)
    plants = 2 * green - red - blue > 12
    return np.stack([np.where(plants, green + 110, red), np.where(plants, red // 2, red), green]).clip(0, 255)


CHANGES = {
    "night": (lambda image: image // 9, {}, "mean of red is 0.0"),
    "thermal": (lambda image: image[:1].repeat(3, axis=0), {}, "chroma of red is 0, not about 0.0"),
    "negative": (lambda image: 255 - warm(image), {}, "tint of green"),
    "false colour": (infrared, {}, "tint of green"),
    "16 bits": (lambda image: image.astype(np.uint16) * 12, {"scale": (0, 65535)}, "mean of red"),
}


@pytest.mark.parametrize(("change", "options", "words"), CHANGES.values(), ids=CHANGES)
def test_a_scene_unlike_all_that_was_learned_is_told(
    write_scene: Write, change: Callable[[np.ndarray], np.ndarray], options: dict[str, Any], words: str
) -> None:
    image = change(pixels())
    scene = write_scene(image.astype(image.dtype if image.dtype == np.uint16 else np.uint8))
    (text,) = told(scene, **options)
    assert text.startswith(f"{scene} looks unlike all that model 'landcover' learned: {words}")
    assert text.endswith("or train a model on such images with pfmap train")


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image,
        warm,
        lambda image: image // 2,
        lambda image: np.where(np.arange(image.shape[2]) < 600, 0, image),
        lambda image: image[:, :30, :30],
    ],
    ids=["as it is", "warm", "dim", "black where it has no data", "hardly a pixel"],
)
def test_a_scene_like_those_learned_is_not_told(
    write_scene: Write, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    assert told(write_scene(change(pixels()).astype(np.uint8))) == []


def test_a_resolution_that_was_not_learned_is_told(write_scene: Write) -> None:
    card = dataclasses.replace(stand_in().card, learned={"gsd": ((0.1, 0.3),)})
    (text,) = told(write_scene(pixels()), card)  # of 0.5 m
    assert "gsd is 0.5, not about 0.1 to 0.3; expect poor results; check bands=, scale= and gsd=" in text
    assert told(write_scene(pixels()), card, gsd=0.4) == []


@pytest.mark.parametrize(
    ("pattern", "unlike"),
    [
        ("dubai/images/*00[38].jpg", 0),
        ("newzealand/images/*[05].webp", 0),
        ("monterey/images/*[05].webp", 0),
        ("flair/images/z0[04]*.webp", 0),
        ("oam/images/zanzibar_b.webp", 0),
        ("obx/images/*[05]-N7251F.jpg", 0),
        ("vaihingen/images/*0.webp", 0.7),  # infrared, red, green
    ],
)
def test_nothing_that_was_held_out_is_told_but_infrared_is(pattern: str, unlike: float) -> None:
    folder, names = pattern.rsplit("/", 1)
    scenes = sorted(shared(f"data/{folder}").glob(names))[::4]
    share = np.mean([bool(told(scene)) for scene in scenes])
    assert share >= unlike if unlike else share == 0
