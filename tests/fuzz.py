"""What the fuzz test runs in a process of its own: mutated files of one kind, one after the other.

`python fuzz.py KIND SEED COUNT FOLDER [FIRST]` prints a line per attempt: the kind of error, or "ok". It ends
by a traceback with anything but a `PfmapError`, with whatever is written outside the outputs' folder, left
half written, or takes more memory than it may.
"""

import dataclasses
import faulthandler
import hashlib
import json
import os
import random
import re
import resource
import shutil
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import chips
import geopandas as gpd
import numpy as np
import pyogrio
import rasterio
import shapely
import torch
from conftest import NORTH_UP, UTM, blobs, stand_in
from runs import PowerError, breaking, small_model

import pfmap
from pfmap.core.resources import resident_memory
from pfmap.mapping import estimate
from pfmap.mapping.work import Work
from pfmap.model.store import load_model
from pfmap.model.upstream import import_checkpoint
from pfmap.train import loop
from pfmap.train.config import read_config
from pfmap.train.data import load_data
from pfmap.train.loop import train
from pfmap.train.quick import QuickOptions, quick_config
from pfmap.vector.zones import summarize

STUCK = 200
"""Seconds after which an attempt counts as a hang: each takes a moment."""
MEMORY = 1 << 30
"""Bytes that the plan believes free, and that an attempt may take beyond what the process has."""
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
TEXTS = (".vrt", ".geojson", ".kml", ".toml", ".json", ".csv", ".prj", ".cpg")
HEADS = {".tif": 700, ".safetensors": 4000, ".png": 120, ".jp2": 300}
"""Where what describes a file's content lies, bytes."""
SCENE: dict[str, Any] = {"driver": "GTiff", "dtype": "uint8", "crs": UTM, "transform": NORTH_UP}
RUN: dict[str, Any] = {"device": "cpu", "swath_pixels": 5000, "formats": ("gpkg", "geojson")}


class Room(NamedTuple):
    """Where an attempt takes place: nothing but what is in `out` may change."""

    made: Path
    """What was made once, for all attempts."""
    inputs: Path
    out: Path

    def lay(self, name: str) -> Path:
        """Copy what was made into the inputs."""
        source, target = self.made / name, self.inputs / name
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)
        return target


class Kind(NamedTuple):
    """One kind of file that others may give pfmap."""

    lay: Callable[[Room, random.Random], list[Path]]
    """Lays out the inputs; one of the files that it returns is mutated."""
    run: Callable[[Room, random.Random], None]
    make: Callable[[Path], None] = lambda _made: None
    """Makes once what all attempts need."""
    check: Callable[[Room], None] = lambda _room: None
    """Looks at what came of an attempt that ended well."""


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
        if not tokens:
            break
        token = chance.choice(tokens)
        value = chance.choice(VALUES if token[0][-1:].isdigit() else WORDS)
        content = content[: token.start()] + value + content[token.end() :]
    return content


def mutate_tag(content: bytes, chance: random.Random) -> bytes:
    """Give a tag of a classic TIFF another number, type, count or value: what is left is still a TIFF."""
    data = bytearray(content)
    at = int.from_bytes(data[4:8], "little")
    entries = int.from_bytes(data[at : at + 2], "little")
    if data[:4] != b"II*\0" or not 0 < entries < 100:
        return mutate(content, chance)
    entry = at + 2 + 12 * chance.randrange(entries)
    part, width = chance.choice(((0, 2), (2, 2), (4, 4), (8, 2), (8, 4), (8, 4)))
    old = int.from_bytes(data[entry + part : entry + part + width], "little")
    most = 1 << 8 * width
    new = chance.choice(
        (0, 1, 2, 3, 8, 16, 255, old + 1, old * 2, most - 1, most >> 1, chance.randrange(most))
    )
    data[entry + part : entry + part + width] = (new % most).to_bytes(width, "little")
    return bytes(data)


def spoil(path: Path, chance: random.Random) -> None:
    """Mutate a file as suits it; now and then it is cut off, emptied or gone."""
    content = path.read_bytes()
    whole = chance.random()
    if whole < 0.02:
        path.unlink()
        return
    if whole < 0.06:
        content = content[: chance.choice((0, len(content) // 2, max(0, len(content) - 1)))]
    elif path.suffix in TEXTS and chance.random() < 0.8:
        content = mutate_text(content, chance)
    elif path.suffix == ".safetensors" and chance.random() < 0.5:
        head = HEADS[path.suffix]
        content = mutate_text(content[:head], chance) + content[head:]
    elif path.suffix == ".tif" and chance.random() < 0.5:
        content = mutate_tag(content, chance)
    else:
        content = mutate(content, chance, HEADS.get(path.suffix))
    path.write_bytes(content)


def write_raster(path: Path, values: np.ndarray, **profile: Any) -> Path:
    count, height, width = values.shape
    settings = SCENE | {"dtype": values.dtype} | profile
    with rasterio.open(path, "w", width=width, height=height, count=count, **settings) as dst:
        dst.write(values)
    return path


def scene_layout(path: Path, chance: random.Random) -> Path:
    """Write a small GeoTIFF of some layout."""
    image = blobs(80, 90, smooth=15)
    layouts: list[dict[str, Any]] = [
        {"compress": "deflate", "tiled": True, "blockxsize": 32, "blockysize": 32},
        {"compress": "lzw", "interleave": "pixel", "predictor": 2},
        {"compress": "jpeg", "photometric": "ycbcr", "interleave": "pixel"},
        {"compress": "zstd", "dtype": "uint16", "nodata": 0},
        {"nodata": 0, "bigtiff": "yes"},
        {"alpha": "yes"},
        {"dtype": "float32", "nodata": -9999},
    ]
    profile = chance.choice(layouts)
    values = image.astype(profile.get("dtype", "uint8"))
    if "alpha" in profile:
        values = np.concatenate([image, np.full_like(image[:1], 255)])
    return write_raster(path, values, **profile)


def scenes(room: Room, chance: random.Random) -> list[Path]:
    return [scene_layout(room.inputs / "scene.tif", chance)]


def mosaics(room: Room, chance: random.Random) -> list[Path]:
    """Lay a virtual raster of two sheets, one of them an archive's."""
    image = blobs(80, 90, smooth=15)
    sheet = write_raster(room.inputs / "sheet.tif", image)
    with zipfile.ZipFile(room.inputs / "sheet.zip", "w") as archive:
        archive.write(sheet, "sheet.tif")
    other = f"/vsizip/{room.inputs}/sheet.zip/sheet.tif"
    sources = [(1, "sheet.tif", 0), (0, other, 60)][: chance.choice((1, 2))]
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}"><NoDataValue>0</NoDataValue>'
        + "".join(
            f'<{kind}><SourceFilename relativeToVRT="{near}">{name}</SourceFilename>'
            f'<SourceBand>{band}</SourceBand><SrcRect xOff="0" yOff="0" xSize="90" ySize="80"/>'
            f'<DstRect xOff="{col}" yOff="0" xSize="90" '
            f'ySize="80"/></{kind}>'
            for near, name, col in sources
            for kind in [chance.choice(("SimpleSource", "ComplexSource"))]
        )
        + "</VRTRasterBand>"
        for band in (1, 2, 3)
    )
    path = room.inputs / "scene.vrt"
    path.write_text(
        f'<VRTDataset rasterXSize="150" rasterYSize="80"><SRS>{UTM}</SRS>'
        f"<GeoTransform>300000, 0.5, 0, 3000000, 0, -0.5</GeoTransform>{bands}</VRTDataset>"
    )
    return [path] if chance.random() < 0.9 else [sheet]


def containers(room: Room, chance: random.Random) -> list[Path]:
    """Lay a scene in another format, or in an archive."""
    suffix = chance.choice(("zip", "png", "jpg", "jp2"))
    path = room.inputs / f"scene.{suffix}"
    image = blobs(80, 90, smooth=15)
    if suffix == "zip":
        inner = write_raster(room.made / "inner.tif", image, compress="deflate")
        with zipfile.ZipFile(path, "w", chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
            archive.write(inner, "scene.tif")
    else:
        drivers = {"png": "PNG", "jpg": "JPEG", "jp2": "JP2OpenJPEG"}
        write_raster(path, image, driver=drivers[suffix])
    return sorted(room.inputs.glob("scene.*"))


def run_scene(room: Room, chance: random.Random) -> None:
    found = [p for p in room.inputs.glob("scene.*") if not p.name.endswith(".aux.xml")]
    scene = found[0] if found else room.inputs / "scene.tif"
    on_read_error = chance.choice(("fail", "nodata"))
    pfmap.predict(scene, room.out, model=stand_in(), on_read_error=on_read_error, **RUN)


def shapes() -> gpd.GeoDataFrame:
    """Two polygons over the scene, with a class and a name."""
    corners = [NORTH_UP @ point for point in ((10, 10), (70, 15), (60, 70), (20, 60))]
    hole = shapely.Polygon(corners).buffer(-5)
    rest = shapely.box(*(NORTH_UP @ (75, 75)), *(NORTH_UP @ (85, 65)))
    table = {
        "class": ["class_1", "class_2"],
        "name": ["north", "süd"],
        "object_id": [1, 2],
        "region_id": [1, 2],
    }
    return gpd.GeoDataFrame(table, geometry=[shapely.Polygon(corners) - hole, rest], crs=UTM)


def vector_file(path: Path, chance: random.Random, *, with_table: bool = True) -> list[Path]:
    """Write the polygons in some format; the files that it has."""
    suffix = chance.choice(("geojson", "gpkg", "shp", "parquet", "fgb", *([] if with_table else ["kml"])))
    path, frame = path.with_suffix(f".{suffix}"), shapes()
    if suffix == "kml":
        ring = " ".join(f"{x},{y}" for x, y in frame.to_crs(4326).geometry[1].exterior.coords)
        path.write_text(
            '<?xml version="1.0"?><kml xmlns="http://www.opengis.net/kml/2.2"><Placemark><Polygon>'
            f"<outerBoundaryIs><LinearRing><coordinates>{ring}</coordinates></LinearRing></outerBoundaryIs>"
            "</Polygon></Placemark></kml>"
        )
    elif suffix == "parquet":
        frame.to_parquet(path)
    else:
        (frame.to_crs(4326) if suffix == "geojson" else frame).to_file(path)
    files = sorted(path.parent.glob(f"{path.stem}.*"))
    return files if chance.random() < 0.5 else [path]


def vector_in(room: Room, stem: str) -> Path:
    """Return the file of this stem that a user names."""
    found = {p.suffix: p for p in room.inputs.glob(f"{stem}.*")}
    return found.get(".shp") or next(iter(found.values()), room.inputs / f"{stem}.shp")


def make_scene(made: Path) -> None:
    write_raster(made / "scene.tif", blobs(80, 90, smooth=15))


def areas(room: Room, chance: random.Random) -> list[Path]:
    room.lay("scene.tif")
    return vector_file(room.inputs / "area", chance, with_table=False)


def run_area(room: Room, chance: random.Random) -> None:
    del chance
    pfmap.predict(room.inputs / "scene.tif", room.out, model=stand_in(), aoi=vector_in(room, "area"), **RUN)


def make_map(made: Path) -> None:
    """Make a scene, its map, and the objects that were found."""
    make_scene(made)
    pfmap.predict(made / "scene.tif", made / "map", model=stand_in(), **RUN)
    for name in ("scene_classes.tif", "scene_confidence.tif"):
        shutil.copy(made / "map" / name, made / name)


def labels(room: Room, chance: random.Random) -> list[Path]:
    room.lay("scene.tif")
    room.lay("scene_classes.tif")
    return vector_file(room.inputs / "labels", chance)


def run_labels(room: Room, chance: random.Random) -> None:
    """As the truth of a map, or to train on."""
    drawn = str(vector_in(room, "labels"))
    if chance.random() < 0.5:
        pfmap.evaluate(room.inputs / "scene_classes.tif", drawn, objects=("class_1",)).page()
    else:
        config = quick_config(QuickOptions(room.inputs / "scene.tif", drawn), stand_in(), room.out)
        load_data(config, room.inputs)


def zones(room: Room, chance: random.Random) -> list[Path]:
    shutil.copy(room.made / "map/scene_objects.gpkg", room.inputs / "objects.gpkg")
    return vector_file(room.inputs / "zones", chance)


def run_zones(room: Room, chance: random.Random) -> None:
    del chance
    summarize(str(room.inputs / "objects.gpkg"), str(vector_in(room, "zones")))


def objects(room: Room, chance: random.Random) -> list[Path]:
    return vector_file(room.inputs / "objects", chance)


def run_objects(room: Room, chance: random.Random) -> None:
    del chance
    summarize(str(vector_in(room, "objects")))


def class_rasters(room: Room, chance: random.Random) -> list[Path]:
    """Lay our own map, or another's, with confidence beside it."""
    room.lay("scene_confidence.tif")
    mine = room.lay("scene_classes.tif")
    if chance.random() < 0.5:
        with rasterio.open(mine) as src:
            values = src.read()
        kind = chance.choice(("uint8", "int16", "uint32", "float32"))
        write_raster(mine, values.astype(kind), nodata=chance.choice((None, 255)))
    return [mine, mine, room.inputs / "scene_confidence.tif"]


def run_class_raster(room: Room, chance: random.Random) -> None:
    """Trace it, or compare it with itself as it was."""
    raster = room.inputs / "scene_classes.tif"
    if chance.random() < 0.7:
        pfmap.vectorize(raster, room.out, formats=("gpkg", "geojson"), min_area=3)
    else:
        pfmap.evaluate(raster, room.made / "scene_classes.tif").page()


def make_model(made: Path) -> None:
    make_scene(made)
    small_model(made / "model")


def models(name: str) -> Callable[[Room, random.Random], list[Path]]:
    def lay(room: Room, chance: random.Random) -> list[Path]:
        del chance
        room.lay("scene.tif")
        return [room.lay("model") / name]

    return lay


def run_model(room: Room, chance: random.Random) -> None:
    del chance
    model = load_model(room.inputs / "model")
    pfmap.predict(room.inputs / "scene.tif", room.out, model=model, **RUN)


def checkpoints(room: Room, chance: random.Random) -> list[Path]:
    """Lay a published checkpoint, zip or legacy pickle."""
    path = room.inputs / "best.pth"
    state = {"state_dict": {f"module.layer{i}.weight": torch.zeros(2, 2) for i in range(20)}, "epoch": 3}
    torch.save(state, path, _use_new_zipfile_serialization=chance.random() < 0.5)
    return [path]


def run_checkpoint(room: Room, chance: random.Random) -> None:
    del chance
    import_checkpoint(room.inputs / "best.pth", preset="isaid", name="fuzzed")


class Enough(pfmap.PfmapError):
    """Training went well as far as was wanted."""


def make_training(made: Path) -> None:
    """Make small data, and the checkpoint of a training that was stopped."""
    chips.make_data(made)
    config = read_config(made / "train.toml")
    config = dataclasses.replace(
        config, training=dataclasses.replace(config.training, checkpoint_minutes=0.0)
    )

    def stop(progress: Any) -> None:
        if progress.step == 3:
            raise PowerError

    try:
        train(config, made, made / "stopped", on_step=stop)
    except PowerError:
        return
    raise AssertionError("it was to be stopped")


def configs(room: Room, chance: random.Random) -> list[Path]:
    del chance
    for name in ("whole", "labels", "partial"):
        room.lay(name)
    return [room.lay("train.toml")]


def run_config(room: Room, chance: random.Random) -> None:
    """Train a step: most of what a configuration says has been used by then."""
    del chance

    def enough(progress: Any) -> None:
        raise Enough(f"step {progress.step}")

    try:
        train(read_config(room.inputs / "train.toml"), room.inputs, room.out / "model", on_step=enough)
    except Enough:
        return


def trainings(room: Room, chance: random.Random) -> list[Path]:
    configs(room, chance)
    shutil.copytree(room.made / "stopped", room.out / "model")
    return [room.out / "model/checkpoint.pt"]


def run_training(room: Room, chance: random.Random) -> None:
    del chance
    train(read_config(room.inputs / "train.toml"), room.inputs, room.out / "model", resume=True)


def check_training(room: Room) -> None:
    load_model(room.out / "model")


def make_works(made: Path) -> None:
    """Make the work folders of runs that were stopped: while computing, and before files got their names."""
    scene = write_raster(made / "scene.tif", blobs(260, 90, smooth=15))
    pfmap.predict(scene, made / "whole", model=breaking(None), **RUN)

    def stop(_work: Work) -> None:
        raise PowerError

    finish, Work.finish_publishing = Work.finish_publishing, stop  # type: ignore[method-assign]
    for name, at in (("computing", 9), ("publishing", None)):
        try:
            pfmap.predict(scene, made / name, model=breaking(at), **RUN)
        except PowerError:
            continue
        raise AssertionError("it was to be stopped")
    Work.finish_publishing = finish  # type: ignore[method-assign]


def works(room: Room, chance: random.Random) -> list[Path]:
    """Lay a work folder; now and then two of its files are exchanged."""
    shutil.copy2(room.made / "scene.tif", room.inputs)  # its time is part of what it is known by
    name = chance.choice(("computing", "computing", "publishing"))
    shutil.copytree(room.made / name, room.out, dirs_exist_ok=True)
    files = sorted(p for p in room.out.rglob("*") if p.is_file() and p.name != "lock")
    one, other = chance.sample(files, 2)
    if chance.random() < 0.1:
        content = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(content)
    if chance.random() < 0.1:  # another swath's place
        folders = sorted(p for p in (room.out / ".scene.pfmap").iterdir() if p.is_dir() and p.name[0] == "0")
        here, there = chance.sample(folders, 2)
        spare = here.with_name("spare")
        here.rename(spare)
        there.rename(here)
        spare.rename(there)
        files = [p for p in files if p.is_file()]
    return files


def run_work(room: Room, chance: random.Random) -> None:
    del chance
    pfmap.predict(room.inputs / "scene.tif", room.out, model=breaking(None), **RUN)


def check_work(room: Room) -> None:
    """Whatever lay there, the map is the one of a run that was never stopped."""
    for name in ("scene_classes.tif", "scene_confidence.tif"):
        assert (room.out / name).read_bytes() == (room.made / "whole" / name).read_bytes(), name
    frames = [gpd.read_file(folder / "scene_objects.gpkg") for folder in (room.out, room.made / "whole")]
    assert frames[0].equals(frames[1]), "other objects"


def make_reports(made: Path) -> None:
    """Make a survey of two scenes, and a third that failed."""
    make_scene(made)
    (made / "survey").mkdir()
    for name in ("a", "b"):
        shutil.copy(made / "scene.tif", made / f"survey/{name}.tif")
    (made / "survey/c.tif").write_bytes(b"no raster")
    shutil.copytree(made / "survey", made.parent / "room/inputs/survey")  # reports name scenes by their paths
    pfmap.batch(made.parent / "room/inputs/survey", made / "maps", model=stand_in(), **RUN)


def reports(room: Room, chance: random.Random) -> list[Path]:
    for path in sorted((room.made / "survey").iterdir()):
        (room.inputs / "survey").mkdir(exist_ok=True)
        shutil.copy2(path, room.inputs / "survey")
    shutil.copytree(room.made / "maps", room.out, dirs_exist_ok=True)
    names = ["a_report.json", "b_report.json", "survey_report.json", "failures.csv"]
    return [
        room.out / name for name in (names if chance.random() < 0.9 else ["a_classes.tif", "a_objects.gpkg"])
    ]


def run_report(room: Room, chance: random.Random) -> None:
    """What is done is left alone, what failed is tried again, all is joined."""
    how = chance.choice(({}, {"retry_failed": True}, {"overwrite": True}))
    pfmap.batch(room.inputs / "survey", room.out, model=stand_in(), **RUN, **how)


KINDS: dict[str, Kind] = {
    "scene": Kind(scenes, run_scene),
    "mosaic": Kind(mosaics, run_scene),
    "container": Kind(containers, run_scene),
    "area": Kind(areas, run_area, make_scene),
    "labels": Kind(labels, run_labels, make_map),
    "zones": Kind(zones, run_zones, make_map),
    "objects": Kind(objects, run_objects),
    "classes": Kind(class_rasters, run_class_raster, make_map),
    "card": Kind(models("model.toml"), run_model, make_model),
    "weights": Kind(models("weights.safetensors"), run_model, make_model),
    "checkpoint": Kind(checkpoints, run_checkpoint),
    "config": Kind(configs, run_config, make_training),
    "training": Kind(trainings, run_training, make_training, check_training),
    "work": Kind(works, run_work, make_works, check_work),
    "report": Kind(reports, run_report, make_reports),
}


def contents(folder: Path, leaving_out: Path) -> dict[str, str]:
    """Say what is in a folder: names, and a hash of each file's content or where a link leads."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path == leaving_out or leaving_out in path.parents:
            continue
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link {path.readlink()}"
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
    return found


def readable(path: Path) -> None:
    """Read a finished file as others would."""
    if path.suffix == ".tif":
        with rasterio.open(path) as src:
            src.read()
    elif path.suffix in (".gpkg", ".geojson", ".fgb"):
        for name, _ in pyogrio.list_layers(path):
            gpd.read_file(path, layer=name)
    elif path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))


def check_outputs(room: Room, before: dict[str, str], *, failed: bool) -> None:
    """Nothing is left under a temporary name, nor half written under a final one."""
    after = contents(room.out, room.made)
    for name, sign in after.items():
        parts = Path(name).parts
        assert not name.endswith(".part"), name
        if any(part.startswith(".") for part in parts):
            assert failed, f"{name} is left over"
            continue
        if before.get(name) != sign and (room.out / name).is_file():
            readable(room.out / name)
    if failed:  # a survey's files may stand; a scene's come all at once
        assert all(name in after for name in before if not name.startswith("."))


def peak() -> int:
    """Return the most memory that this process held since it was last asked, bytes."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) << 10  # type: ignore[index]


def attempt(kind: Kind, room: Room, chance: random.Random, *, spoilt: bool = True) -> str:
    """Try one mutation; return what pfmap said of it."""
    for folder in (room.inputs, room.out):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    files = kind.lay(room, chance)
    if spoilt:
        spoil(chance.choice(files), chance)
    (room.inputs / "keep.txt").write_text("another's")
    here = room.inputs.parent
    before, outputs = contents(here, room.out), contents(room.out, room.made)
    free = resident_memory() + MEMORY
    estimate.free_memory = loop.free_memory = lambda: free
    Path("/proc/self/clear_refs").write_text("5")
    faulthandler.dump_traceback_later(STUCK, exit=True)
    said = ""
    try:
        kind.run(room, chance)
    except pfmap.PfmapError as error:
        said = str(error)
        assert said.strip(), "an error without a word"
        assert "\n" not in said, said
        assert len(re.sub("Z{50,}", "Z", said)) < 2000, said
        said = f"{type(error).__name__} {said[:150]}"
    faulthandler.cancel_dump_traceback_later()
    took = peak() - free
    assert took < 0, f"{took >> 20} MB of memory more than there were"
    changed = set(contents(here, room.out).items()) ^ set(before.items())
    assert not changed, f"written outside the outputs' folder: {changed}"
    check_outputs(room, outputs, failed=bool(said))
    if not said:
        kind.check(room)
    return said or "ok"


def main(name: str, seed: int, count: int, folder: Path, first: int = 0) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    kind, here = KINDS[name], folder / "room"
    room = Room(folder / "made", here / "inputs", here / "out")
    for path in (room.made, here / "home", here / "temp"):
        path.mkdir(parents=True)
    for variable in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        os.environ[variable] = str(here / "home")
    os.environ |= {"TMPDIR": str(here / "temp"), "PFMAP_MODELS": str(room.out / "models")}
    os.environ["MPLCONFIGDIR"] = str(room.made)  # what it keeps of fonts is its own matter
    os.chdir(here / "home")
    kind.make(room.made)
    said = attempt(kind, room, random.Random(0), spoilt=False)  # libraries load, and keep memory
    assert said == "ok" or name == "checkpoint", said
    most = resident_memory() + MEMORY + (24 << 30)  # address space is not memory
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for index in range(first, first + count):
        print(index, end=" ", flush=True)
        print(attempt(kind, room, random.Random(f"{name} {seed} {index}")), flush=True)


if __name__ == "__main__":
    main(
        sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]).resolve(), *map(int, sys.argv[5:])
    )
