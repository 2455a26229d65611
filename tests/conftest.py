"""Stand-in networks and small scenes, made on the fly."""

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import torch
from affine import Affine
from torch import Tensor, nn

from pfmap.core import bucket
from pfmap.core.card import Architecture, Card, InputSpec, Provenance
from pfmap.core.classes import ClassSpec
from pfmap.model.store import Model, user_models

pytest.register_assert_rewrite("chips", "commands", "pictures", "rasters", "runs", "sheets", "surveys")

if "PYTEST_XDIST_WORKER" in os.environ:  # a process per core: more threads would be in each other's way
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)

SHARED = Path(__file__).parents[2] / "shared"
UTM = "EPSG:32645"
NORTH_UP = Affine(0.5, 0, 300000, 0, -0.5, 3000000)
COLORS = ("#d7301f", "#4daf4a", "#377eb8", "#6e6e6e")


class Pointwise(nn.Module):
    """A network without a view: the class is the nearest of fixed grey levels."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("levels", torch.linspace(0, 1, classes).view(1, classes, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        return -40 * (image.mean(dim=1, keepdim=True) - self.levels) ** 2


class Walled(Pointwise):
    """Sees classes in the first two bands, and in the third where objects touch."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([super().forward(image[:, :2]), 16 * image[:, 2:] - 8], dim=1)


def stand_in(
    classes: int = 3, window: int = 64, network: nn.Module | None = None, contact: tuple[str, ...] = ()
) -> Model:
    """A model around a stand-in network; its input is value / 255."""
    card = Card(
        name="stand_in",
        title="stand-in",
        architecture=Architecture("efficientnet_lite0", classes, contact=contact),
        input=InputSpec(("red", "green", "blue"), 255.0, (0.0,) * 3, (1.0,) * 3, window, (0.01, 10.0)),
        classes=tuple(ClassSpec(f"class_{i}", COLORS[i]) for i in range(classes)),
        provenance=Provenance("none", "none", "nobody"),
    )
    return Model(card, network or (Walled if contact else Pointwise)(classes), Path("nowhere"))


def pointwise_reference(image: npt.NDArray[np.uint8], classes: int = 3) -> npt.NDArray[np.uint8]:
    """What the pointwise network says of ``(3, h, w)`` pixels, one pixel at a time."""
    grey = image.astype(np.float64).mean(axis=0) / 255
    levels = np.linspace(0, 1, classes)[:, None, None]
    return np.abs(grey - levels).argmin(axis=0).astype(np.uint8)


def blobs(height: int, width: int, seed: int = 0, smooth: int = 5) -> npt.NDArray[np.uint8]:
    """A ``(3, h, w)`` image with regions of several pixels, away from ties between classes."""
    from scipy.ndimage import uniform_filter

    rng = np.random.default_rng(seed)
    noise = uniform_filter(rng.standard_normal((height, width)), smooth, mode="wrap")
    low, high = np.quantile(noise, [0.35, 0.7]) if noise.size > 2 else (0.0, 0.0)
    grey = np.select([noise < low, noise < high], [10, 120], 245).astype(np.uint8)
    return np.repeat(grey[None], 3, axis=0)


def houses(height: int, width: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """A ``(3, h, w)`` image for `Walled`: houses in rows, of class 2, and their ids from 1 on."""
    from scipy.ndimage import maximum_filter, minimum_filter

    rng = np.random.default_rng(0)
    ids = np.zeros((height, width), np.int64)
    for top in range(5, height - 26, 34):
        left = 5
        while left < width - 90:
            for _ in range(rng.integers(1, 4)):
                right = left + rng.integers(22, 29)
                ids[top : top + 26, left:right] = ids.max() + 1
                left = right
            left += 8
    least = minimum_filter(np.where(ids, ids, ids.max() + 1), 3)
    walls = (ids > 0) & (maximum_filter(ids, 3) > least)
    grey = np.where(ids, 245, 10).astype(np.uint8)
    return np.stack([grey, grey, np.where(walls, 240, 15).astype(np.uint8)]), ids


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have each process begin its share with slow tests: at its end are those that idle ones take over."""
    kinds: tuple[list[pytest.Item], ...] = ([], [])
    for item in items:
        kinds[item.get_closest_marker("slow") is None].append(item)
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    bounds = [(k / count, (k + 1) / count) for k in range(count)]
    items[:] = [
        item
        for start, stop in bounds
        for kind in kinds
        for item in kind[round(start * len(kind)) : round(stop * len(kind))]
    ]


Write = Callable[..., Path]


@pytest.fixture
def write_scene(tmp_path: Path) -> Write:
    """Write a GeoTIFF scene: ``write_scene(image, name=..., crs=..., mask=..., **profile)``."""

    def write(
        image: npt.NDArray[Any],
        name: str = "scene.tif",
        crs: str | None = UTM,
        transform: Affine | None = NORTH_UP,
        mask: npt.NDArray[np.bool_] | None = None,
        **profile: Any,
    ) -> Path:
        path = tmp_path / name
        count, height, width = image.shape
        settings = {
            "driver": "GTiff",
            "dtype": image.dtype,
            "crs": crs,
            "transform": transform,
            **profile,
        }
        settings = {key: value for key, value in settings.items() if value is not None}
        with rasterio.open(path, "w", width=width, height=height, count=count, **settings) as dst:
            dst.write(image)
            if mask is not None:
                dst.write_mask(mask)
        return path

    return write


@pytest.fixture(autouse=True)
def _own_models(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the tests away from the user's model folder."""
    monkeypatch.setenv("PFMAP_MODELS", str(tmp_path_factory.mktemp("models")))


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Host and port of an S3 server of this machine.

    In a process of its own: GDAL keeps this one's threads from running while it waits for an answer.
    """
    command = [sys.executable, "-W", "ignore", "-c", _SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.kill()


_SERVER = """
import logging, sys
from moto.server import ThreadedMotoServer
logging.disable(logging.CRITICAL)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(*server.get_host_and_port(), sep=":", flush=True)
sys.stdin.read()  # until whoever started it is gone
"""


def server_settings(server: str) -> dict[str, str]:
    """What the environment says of an S3 server."""
    return {
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_S3_ENDPOINT": server,
        "AWS_HTTPS": "NO",
        "AWS_VIRTUAL_HOSTING": "FALSE",
    }


@pytest.fixture
def store(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty bucket, by GDAL's name, on a server that is named as GDAL has it named."""
    for name, value in server_settings(s3_server).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bucket._client.cache_clear()
    name = f"bucket-{secrets.token_hex(4)}"
    bucket._client().create_bucket(Bucket=name)
    yield Path(f"/vsis3/{name}")
    bucket._client.cache_clear()


def shared(name: str) -> Path:
    """A file of the reference data beside the checkout; skips the test where that is not there."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return path


@pytest.fixture
def small() -> str:
    """A real PFNet with random weights among the user's models."""
    from runs import small_model  # it imports this module

    small_model(user_models() / "small")
    return "small"
