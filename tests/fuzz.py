"""What the fuzz test runs in a process of its own: mutated files of one kind, one after the other.

`python fuzz.py KIND SEED COUNT FOLDER` prints a line per attempt: the kind of error, or "ok". It ends with
anything but a `PfmapError` by its traceback.
"""

import os
import random
import re
import resource
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import rasterio
import shapely
import torch
from conftest import NORTH_UP, UTM, blobs, stand_in
from runs import small_model

import pfmap
from pfmap.core.card import read_card
from pfmap.model.store import load_model
from pfmap.model.upstream import import_checkpoint

MEMORY = 6 << 30
VALUES = (
    b"0",
    b"-1",
    b"1",
    b"3",
    b"2147483647",
    b"4294967296",
    b"99999999999999999999",
    b"1e308",
    b"nan",
    b"-5e9",
)
WORDS = (
    b"",
    b"Float64",
    b"UInt16",
    b"CFloat32",
    b"null",
    b"true",
    b"a",
    b"EPSG:4326",
    b"/etc/passwd",
    b"Z" * 5000,
)
INTERESTING = (0, 1, 2, 3, 4, 5, 16, 127, 128, 255)


def mutate(content: bytes, chance: random.Random, head: int | None = None) -> bytes:
    """Change, insert, remove or repeat a few bytes; mostly within the first `head` ones."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        if not data:
            break
        limit = min(len(data), head) if head and chance.random() < 0.9 else len(data)
        at = chance.randrange(limit)
        kind = chance.randrange(6)
        if kind == 0:
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            data[at] = chance.choice(INTERESTING)
        elif kind == 2:
            width = chance.choice((2, 4, 8))
            value = chance.choice(
                (0, 1, (1 << 8 * width) - 1, 1 << (8 * width - 1), chance.getrandbits(8 * width))
            )
            data[at : at + width] = value.to_bytes(width, "little")
        elif kind == 3:
            del data[at : at + chance.randrange(1, 64)]
        elif kind == 4:
            data[at:at] = chance.randbytes(chance.randrange(1, 16))
        else:
            data[at : at + 8] = data[max(0, at - 8) : at]
    return bytes(data)


def mutate_text(content: bytes, chance: random.Random) -> bytes:
    """Put extreme values where numbers and words are: what is left can still be parsed."""
    for _ in range(chance.choice((1, 1, 2))):
        tokens = list(re.finditer(rb"-?\d+(\.\d+)?|[A-Za-z_]{3,}", content))
        token = chance.choice(tokens)
        value = chance.choice(VALUES if token[0][-1:].isdigit() else WORDS)
        content = content[: token.start()] + value + content[token.end() :]
    return content


def scenes(folder: Path, chance: random.Random) -> tuple[bytes, str, int | None]:
    """A small GeoTIFF of some layout; its header is at the front, its directory follows."""
    path = folder / "seed.tif"
    profile: dict[str, Any] = chance.choice(
        [
            {"compress": "deflate", "tiled": True, "blockxsize": 32, "blockysize": 32},
            {"compress": "lzw", "interleave": "pixel"},
            {"compress": "jpeg", "photometric": "ycbcr", "interleave": "pixel"},
            {"nodata": 0, "bigtiff": "yes"},
        ]
    )
    with rasterio.open(
        path, "w", driver="GTiff", width=90, height=80, count=3, dtype="uint8", crs=UTM,
        transform=NORTH_UP, **profile,
    ) as dst:  # fmt: skip
        dst.write(blobs(80, 90, smooth=15))
    return path.read_bytes(), "scene.tif", 700


def vrts(folder: Path, chance: random.Random) -> tuple[bytes, str, int | None]:
    """A mosaic of one sheet."""
    del chance
    sheet = folder / "sheet.tif"
    with rasterio.open(
        sheet, "w", driver="GTiff", width=90, height=80, count=3, dtype="uint8", crs=UTM, transform=NORTH_UP
    ) as dst:
        dst.write(blobs(80, 90, smooth=15))
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{b}"><SimpleSource><SourceFilename relativeToVRT="1">sheet.tif'
        f'</SourceFilename><SourceBand>{b}</SourceBand><SrcRect xOff="0" yOff="0" xSize="90" ySize="80"/>'
        '<DstRect xOff="0" yOff="0" xSize="90" ySize="80"/></SimpleSource></VRTRasterBand>'
        for b in (1, 2, 3)
    )
    text = (
        f'<VRTDataset rasterXSize="90" rasterYSize="80"><SRS>{UTM}</SRS>'
        f"<GeoTransform>300000, 0.5, 0, 3000000, 0, -0.5</GeoTransform>{bands}</VRTDataset>"
    )
    return text.encode(), "scene.vrt", None


def run_scene(path: Path) -> None:
    pfmap.predict(path, path.parent / "out", model=stand_in(), device="cpu", overwrite=True)


def areas(folder: Path, chance: random.Random) -> tuple[bytes, str, int | None]:
    """A vector file of some format."""
    suffix = chance.choice(["geojson", "gpkg", "shp", "kml"])
    corners = [NORTH_UP @ point for point in ((10, 10), (70, 15), (60, 70), (20, 60))]
    frame = gpd.GeoSeries([shapely.Polygon(corners)], crs=UTM)
    path = folder / f"seed.{suffix}"
    if suffix == "kml":
        ring = " ".join(f"{x},{y}" for x, y in frame.to_crs(4326)[0].exterior.coords)
        path.write_text(
            '<?xml version="1.0"?><kml xmlns="http://www.opengis.net/kml/2.2"><Placemark><Polygon>'
            f"<outerBoundaryIs><LinearRing><coordinates>{ring}</coordinates></LinearRing></outerBoundaryIs>"
            "</Polygon></Placemark></kml>"
        )
    else:
        (frame.to_crs(4326) if suffix == "geojson" else frame).to_file(path)
    return path.read_bytes(), f"area.{suffix}", None


def run_area(path: Path) -> None:
    scene = path.parent / "good.tif"
    if not scene.exists():
        with rasterio.open(
            scene, "w", driver="GTiff", width=90, height=80, count=3, dtype="uint8", crs=UTM,
            transform=NORTH_UP,
        ) as dst:  # fmt: skip
            dst.write(blobs(80, 90, smooth=15))
    pfmap.predict(scene, path.parent / "out", model=stand_in(), device="cpu", aoi=path, overwrite=True)


def model_in(folder: Path) -> Path:
    if not (folder / "model").exists():
        small_model(folder / "model")
    return folder / "model"


def cards(folder: Path, chance: random.Random) -> tuple[bytes, str, int | None]:
    """A model's card."""
    del chance
    return (model_in(folder) / "model.toml").read_bytes(), "model.toml", None


def run_card(path: Path) -> None:
    read_card(path)


def weights(folder: Path, chance: random.Random) -> tuple[bytes, str, int | None]:
    """A model's weights: the header is JSON, at the front."""
    del chance
    return (model_in(folder) / "weights.safetensors").read_bytes(), "weights.safetensors", 4000


def run_weights(path: Path) -> None:
    target = path.parent / "mutated"
    target.mkdir(exist_ok=True)
    (target / "model.toml").write_bytes((path.parent / "model" / "model.toml").read_bytes())
    (target / "weights.safetensors").write_bytes(path.read_bytes())
    load_model(target)


def checkpoints(folder: Path, chance: random.Random) -> tuple[bytes, str, int | None]:
    """A published checkpoint, zip or legacy pickle."""
    path = folder / "seed.pth"
    state = {"state_dict": {f"module.layer{i}.weight": torch.zeros(2, 2) for i in range(20)}, "epoch": 3}
    torch.save(state, path, _use_new_zipfile_serialization=chance.random() < 0.5)
    return path.read_bytes(), "best.pth", None


def run_checkpoint(path: Path) -> None:
    import_checkpoint(path, preset="isaid", name="fuzzed")


Seed = Callable[[Path, random.Random], tuple[bytes, str, int | None]]
KINDS: dict[str, tuple[Seed, Callable[[Path], None]]] = {
    "scene": (scenes, run_scene),
    "mosaic": (vrts, run_scene),
    "area": (areas, run_area),
    "card": (cards, run_card),
    "weights": (weights, run_weights),
    "checkpoint": (checkpoints, run_checkpoint),
}


def main(kind: str, seed: int, count: int, folder: Path) -> None:
    warnings.simplefilter("ignore")
    os.environ["PFMAP_MODELS"] = str(folder / "models")
    make, run = KINDS[kind]
    chance = random.Random(seed)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY + (8 << 30), MEMORY + (8 << 30)))
    for index in range(count):
        content, name, head = make(folder, chance)
        path = folder / name
        textual = name.endswith((".vrt", ".geojson", ".kml", ".toml")) or (kind == "weights" and index % 2)
        if textual and chance.random() < 0.8:
            path.write_bytes(mutate_text(content[:head], chance) + (content[head:] if head else b""))
        else:
            path.write_bytes(mutate(content, chance, head))
        print(index, end=" ", flush=True)
        try:
            run(path)
        except pfmap.PfmapError as error:
            text = str(error)
            assert text.strip(), "an error without a word"
            assert "\n" not in text, text
            print(type(error).__name__, text[:150], flush=True)
        else:
            print("ok", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    assert peak < MEMORY, f"{peak} bytes of memory"


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
