"""Record all that pfmap makes of a few small inputs, to show that a change leaves it as it was.

It maps the demo scene, vectorises the map, maps a survey both ways, trains and evaluates, in float32 on the
CPU, and writes a JSON file with an entry for each thing that can be compared: pixels, geometries, attributes,
reports, weights, help texts. It uses the command line only, so it runs on any layout of the code. Before and
after are compared on one machine, with a clone of the older commit:

    git clone . /tmp/before && git -C /tmp/before checkout <commit>
    (cd /tmp/before && python "$OLDPWD/tests/snapshot.py" /tmp/before.json)
    python -m tests.snapshot /tmp/after.json
    python -m tests.snapshot --compare /tmp/before.json /tmp/after.json

The inputs are those beside this file, the code is that of the folder it is run in. It takes two minutes.
"""

import argparse
import csv
import hashlib
import html
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import geopandas as gpd
import pyogrio
import rasterio
from affine import Affine
from rasterio.windows import Window

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SHEETS = {"a/one": (0, 0, 600, 500), "a/two": (560, 0, 464, 480), "b/three": (0, 440, 1024, 420)}
"""Column, row, width and height of each in the demo scene: all overlap."""

VARYING = {
    *("started", "finished", "created", "datetime", "interval", "seconds", "pixels_per_second"),
    *("identity", "peak_memory_bytes", "versions", "pfmap", "start_from"),
}
"""What reports say of the run rather than of the map."""

FORMATS = [f"--format={name}" for name in ("gpkg", "shp", "fgb", "geojson", "parquet")]
RASTER_FACTS = "dtypes nodata transform crs shape block_shapes descriptions compression"
NUMBERS = re.compile(r"(?s)work for.*?at once|<(style|script).*?</\1>|<[^>]*>|[\d.,:+-]*\d")
"""What a page has besides its words: tags, numbers and stages by their time."""

FLOAT32 = ["--device=cpu", "--precision=float32"]

CONFIG = """
name = "tiny"
title = "a tiny model"
architecture = { encoder = "efficientnet_lite0", width = 16, embedding = 8 }
classes = [{ name = "building", color = "#ff0000" }, { name = "other", color = "#00ff00" }]
provenance = { data = "the demo scene", licence = "none", attribution = "nobody" }
[input]
bands = ["red", "green", "blue"]
scale = 255.0
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
window = 128
gsd = [0.1, 1.0]
[training]
steps = 4
crop = 128
warmup = 2
ema = 0.5
[[sources]]
name = "town"
images = "town.tif"
per_batch = 2
validation.columns = [384, 512]
layers = [{ path = "labels.tif", values = { 0 = "building", 1 = "other" } }]
"""


def pfmap(*arguments: str) -> str:
    """Run a command of its own, with a fixed number of threads and a fixed width of its text."""
    settings = {"OMP_NUM_THREADS": "2", "COLUMNS": "80", "PFMAP_MODELS": str(Path("no_models").resolve())}
    command = [sys.executable, "-m", "pfmap", *arguments]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)}: {done.stderr}")
    return done.stdout


def cut(path: str, column: int, row: int, width: int, height: int, factor: int = 1, **profile: Any) -> None:
    """Cut a scene out of the demo scene, its values multiplied."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open("banepa.tif") as src:
        pixels = src.read(window=Window(column, row, width, height))
        transform = src.transform @ Affine.translation(column, row)
        place = {"width": width, "height": height, "crs": src.crs, "transform": transform}
    values = {"driver": "GTiff", "count": 3, "dtype": "uint8"} | profile
    with rasterio.open(path, "w", **place, **values) as dst:
        dst.write(pixels.astype(values["dtype"]) * factor)


def make_all() -> Iterator[tuple[str, Any]]:
    """Run everything in the current folder; yields names and values of what is to be compared."""
    shutil.copy(EXAMPLES / "banepa.tif", ".")
    shutil.copy(EXAMPLES / "banepa_footprints.gpkg", ".")
    for name, place in SHEETS.items():
        cut(f"sheets/{name}.tif", *place)
    cut("town.tif", 0, 1024, 512, 512)
    cut("deep.tif", 0, 512, 512, 512, factor=9, dtype="uint16", nodata=0)
    Path("train.toml").write_text(CONFIG)

    pfmap("predict", "banepa.tif", "-o", "demo", *FLOAT32)
    shapes = ["--min-area=4", "--fill-holes=4", "--simplify=0.4", "--regularize=building", *FORMATS]
    pfmap("predict", "sheets/a/one.tif", "-o", "options", *shapes, *FLOAT32)
    finer = ["--gsd=0.03", "--drop-small", "--min-area=1", *FLOAT32]
    pfmap("predict", "sheets/a/one.tif", "-o", "finer", *finer)
    pfmap("predict", "deep.tif", "-o", "deep", "--bbox=9520240,3202820,9520300,3202860", *FLOAT32)
    pfmap("vectorize", "demo/banepa_classes.tif", "-o", "vectorize", "--min-area=2", "--split-by-class")
    pfmap("batch", "sheets", "-o", "survey", "--min-area=1", *FLOAT32)
    pfmap("batch", "sheets", "-o", "mosaic", "--mosaic", "--regularize=building", *FLOAT32)

    with rasterio.open("demo/banepa_classes.tif") as src, rasterio.open("town.tif") as town:
        labels = (src.read(window=Window(0, 1024, 512, 512)) != 0).astype("uint8")
        with rasterio.open("labels.tif", "w", **town.profile | {"count": 1}) as dst:
            dst.write(labels)
    pfmap("train", "train.toml", "-o", "tiny", "--device=cpu", "-q")
    labelled = ["--labels=banepa_footprints.gpkg", "--steps=1", "--train=head", "--device=cpu", "-q"]
    pfmap("train", "town.tif", "-o", "tuned", *labelled)
    pfmap("predict", "town.tif", "-o", "mapped_by_tiny", "-m", "./tiny", *FLOAT32)

    Path("pages").mkdir()
    for name, arguments in {
        "map": ("demo/banepa_classes.tif", "banepa_footprints.gpkg", "--only=building", "--objects=building"),
        "rasters": ("survey/survey_classes.vrt", "mosaic/survey_classes.vrt"),
        "model": ("--model=./tiny", "--data=train.toml", "--device=cpu"),
    }.items():
        figures = json.loads(pfmap("evaluate", *arguments, "--json", "-q", f"--html=pages/{name}.html"))
        yield from flat(f"evaluate {name}", figures)
    given = [path for path in Path().iterdir() if path.is_file()] + [*Path("sheets").rglob("*")]
    made = sorted(path for path in Path().rglob("*") if path.is_file() and path not in given)
    yield "files", [str(path) for path in made]
    for path in made:
        yield from ((f"{path} {name}", value) for name, value in of_file(path))
    yield "summary", pfmap("summary", "demo/banepa_objects.gpkg")
    yield from helps()
    code = "import pfmap; print(*sorted(pfmap.__all__))"
    yield "pfmap.__all__", subprocess.check_output([sys.executable, "-c", code], text=True).split()


def helps(*command: str) -> Iterator[tuple[str, str]]:
    """Yield the help of a command and of all below it."""
    text = pfmap(*command, "--help")
    yield " ".join(("pfmap", *command, "--help")), text
    listed = text.partition("\nCommands:\n")[2]
    for name in re.findall(r"^  (\S+)", listed, re.MULTILINE):
        yield from helps(*command, name)


def of_file(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield names and values of what a file says."""
    if path.suffix in {".tif", ".vrt"}:
        yield from of_raster(path)
    elif path.suffix in {".gpkg", ".fgb", ".geojson", ".parquet", ".shp"}:
        yield from of_vector(path)
    elif path.suffix == ".json":
        yield from flat("", json.loads(path.read_text()))
    elif path.suffix == ".toml":
        yield from flat("", tomllib.loads(path.read_text()))
    elif path.suffix == ".csv":
        with path.open(newline="") as file:
            yield from flat("", list(csv.DictReader(file)))
    elif path.suffix == ".html":
        yield "words", NUMBERS.sub(" ", html.unescape(path.read_text())).split()
    elif path.suffix == ".qgz":
        with zipfile.ZipFile(path) as archive:
            yield from ((f"content of {name}", digest([archive.read(name)])) for name in archive.namelist())
    elif path.suffix in {".qml", ".xml", ".safetensors", ".md", ".prj", ".cpg"}:
        yield "content", digest([path.read_bytes()])


def of_raster(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield what a raster is, and a digest of each band."""
    with rasterio.open(path) as src:
        for name in RASTER_FACTS.split():
            yield name, str(getattr(src, name))
        for band in src.indexes:
            yield f"band {band}", digest([src.read(band).tobytes()])
            yield f"band {band} tags", str(src.tags(band))
            yield f"band {band} overviews", str(src.overviews(band))
            if src.colorinterp[band - 1].name == "palette":
                yield f"band {band} colours", digest([repr(src.colormap(band)).encode()])


def of_vector(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield what each layer is, and digests of its geometries and of each of its columns, in their order."""
    parquet = path.suffix == ".parquet"
    for layer in [path.stem] if parquet else pyogrio.list_layers(path)[:, 0]:
        frame = gpd.read_parquet(path) if parquet else gpd.read_file(path, layer=layer)
        yield f"{layer} rows", len(frame)
        for name, column in frame.items():
            if name == "geometry":
                yield f"{layer} crs", str(frame.crs)
                yield f"{layer} geometry", digest(column.to_wkb())
            elif name != "update_time":
                values = (repr(value).encode() for value in column.tolist())
                yield f"{layer} {name} ({column.dtype})", digest(values)


def flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested tables and lists, but for what differs from run to run."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in VARYING:
                yield from flat(f"{name}.{key}", inner)
    elif isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value):
        for index, inner in enumerate(value):
            yield from flat(f"{name}[{index}]", inner)
    else:
        yield name, value.replace(str(Path.cwd()), ".") if isinstance(value, str) else value


def digest(parts: Iterable[bytes]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "big") + part)
    return found.hexdigest()


def compare(before: Path, after: Path) -> int:
    """Print what differs; returns the exit status."""
    old, new = (json.loads(path.read_text()) for path in (before, after))
    differing = [name for name in old | new if (name in old, old.get(name)) != (name in new, new.get(name))]
    for name in differing:
        for sign, found in (("-", old), ("+", new)):
            print(f"{sign} {name}: {found[name]}" if name in found else f"{sign} {name} is not there")
    print(f"{len(differing):,} of {len(old | new):,} differ")
    return int(bool(differing))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, nargs="?", help="JSON file to write")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("BEFORE", "AFTER"), help="two such files")
    chosen = parser.parse_args()
    if chosen.compare:
        return compare(*chosen.compare)
    if chosen.out is None:
        parser.error("name the file to write")
    out = chosen.out.resolve()
    os.environ["PYTHONPATH"] = str(Path.cwd())  # commands run in another folder
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        found = dict(make_all())
        os.chdir(out.parent)
    out.write_text(json.dumps(found, indent=1, default=str) + "\n")
    print(f"wrote {out}: {len(found):,} things to compare")
    return 0


if __name__ == "__main__":
    sys.exit(main())
