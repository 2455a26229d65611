"""Runs that break off, runs on workers, and what is equal about their outputs."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import shapely
import torch
from conftest import stand_in
from torch import Tensor, nn

from pfmap.model.store import Model, load_model, write_model
from pfmap.net.pfnet import PFNet

if TYPE_CHECKING:
    from pfmap.cluster.coordinator import Cluster

SWATHS: dict[str, Any] = {"device": "cpu", "precision": "float32", "swath_pixels": 12_000}
TWO_FORMATS: dict[str, Any] = {"device": "cpu", "swath_pixels": 12_000, "formats": ("gpkg", "geojson")}


class PowerError(Exception):
    """Somebody pulled the plug."""


class Breaks(nn.Module):
    """A network that fails at a given pass, and counts windows."""

    def __init__(self, inner: nn.Module, at: int | None = None) -> None:
        super().__init__()
        self.inner, self.at, self.passes = inner, at, 0

    def forward(self, image: Tensor) -> Tensor:
        self.passes += 1
        if self.passes == self.at:
            raise PowerError
        return self.inner(image)


def breaking(at: int | None, model: Model | None = None) -> Model:
    model = model or stand_in()
    return dataclasses.replace(model, network=Breaks(model.network, at))


def equal_outputs(one: Path, other: Path, scene: str = "scene", *, bucket: bool = False) -> None:
    """All files to the byte, apart from reports, which say when and how it was done.

    From a `bucket` a project leads to the scene by another path.
    """
    assert {p.name for p in one.iterdir()} == {p.name for p in other.iterdir()}
    for name in (p.name for p in one.iterdir() if p.is_file() and "_report." not in p.name):
        if bucket and name.endswith(".qgz"):
            continue
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    frames = [gpd.read_file(folder / f"{scene}_objects.gpkg", layer="objects") for folder in (one, other)]
    assert len(frames[0]) == len(frames[1]) > 0
    assert (shapely.to_wkb(frames[0].geometry) == shapely.to_wkb(frames[1].geometry)).all()
    assert frames[0].drop(columns="geometry").equals(frames[1].drop(columns="geometry"))


def small_model(folder: Path, seed: int = 0, window: int = 64, contact: tuple[str, ...] = ()) -> Model:
    """A real PFNet of few channels, in a folder: workers load it from there."""
    card = stand_in(window=window, contact=contact).card
    card = dataclasses.replace(
        card, architecture=dataclasses.replace(card.architecture, width=16, embedding=8)
    )
    torch.manual_seed(seed)
    write_model(folder, card, PFNet(card.architecture).eval())
    return load_model(folder)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, height, width), dtype=np.uint8)


def on_workers(cluster: "Cluster", make: Callable[[], Callable[[], Any]]) -> dict[str, Any]:
    """Have every worker call a function that is sent as it is: these tests cannot be imported there."""
    return cluster._link._client.run(make())


def stop(done: int, total: int) -> None:
    """End a run on its way, as Ctrl-C does."""
    if done > total / 4:
        raise KeyboardInterrupt
