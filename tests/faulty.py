"""A disk that fails, and a clock that is wrong, for a process of its own: `faulty.c` below it.

`python faulty.py JOB CALL ERROR FOLDER` maps a scene, or trains, again and again, each time with another call
of a kind failing from there on, as an error's name says. It prints a line per attempt. It ends by a traceback
with anything but a `PfmapError`, with a file under its final name that is not whole, or when the same again
does not give the same once the disk is mended.
"""

import ctypes
import dataclasses
import errno
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import rasterio
import torch
from chips import make_data
from conftest import NORTH_UP, UTM, blobs
from runs import breaking

import pfmap
from pfmap.core.files import private_folder, publish, writing_into
from pfmap.core.grid import UNPLACED, GeoBox, Span
from pfmap.raster.gdal import gdal_settings
from pfmap.raster.target import RasterTarget, finish, halve
from pfmap.train.config import read_config
from pfmap.train.loop import train

HERE = Path(__file__).parent
RUN: dict[str, Any] = {"device": "cpu", "swath_pixels": 5000, "formats": ("gpkg", "geojson")}


def built(folder: Path) -> Path:
    """Compile what stands between a process and its disk; skips the test where that cannot be."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("a failing disk needs Linux and a C compiler")
    library = folder / "faulty.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", library, HERE / "faulty.c", "-ldl"]
    subprocess.run(command, check=True)
    return library


def preloaded(library: Path) -> dict[str, str]:
    """Return the environment of a process that has it."""
    paths = f"{HERE.parent}{os.pathsep}{HERE}"
    return os.environ | {"LD_PRELOAD": str(library), "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


def loaded() -> ctypes.CDLL:
    """Return the library that this process was started with."""
    return ctypes.CDLL(os.environ["LD_PRELOAD"])


@contextmanager
def failing(call: str, number: int, part: str, nth: int) -> Iterator[Callable[[], int]]:
    """Have calls fail within the block; yields what counts those that matched."""
    disk = loaded()
    disk.pfmap_fail(call.encode(), number, part.encode(), nth)
    try:
        yield disk.pfmap_hits
    finally:
        disk.pfmap_fail(b"", 0, b"", 0)


class Job(NamedTuple):
    """What is done again and again while the disk fails."""

    run: Callable[[Path, Path], object]
    """Does it, given what was made for it and a folder to write into; goes on where that was begun."""
    make: Callable[[Path], object]
    """Makes once what it needs, in a folder."""
    exact: tuple[str, ...]
    """How names of files end that are the same to the byte, whenever they are written."""


def make_scene(folder: Path) -> None:
    settings: dict[str, Any] = {"driver": "GTiff", "crs": UTM, "transform": NORTH_UP, "compress": "deflate"}
    image = blobs(260, 90, smooth=15)
    with rasterio.open(
        folder / "scene.tif", "w", width=90, height=260, count=3, dtype="uint8", blockysize=8, **settings
    ) as dst:
        dst.write(image)


def map_scene(made: Path, out: Path) -> None:
    pfmap.predict(made / "scene.tif", out, model=breaking(None), **RUN)


def train_model(made: Path, out: Path) -> None:
    config = read_config(made / "train.toml")
    often = dataclasses.replace(config.training, checkpoint_minutes=0.0, steps=2, validations=1)
    begun = (out / "checkpoint.pt").exists()
    train(dataclasses.replace(config, training=often), made, out, resume=begun, overwrite=True)


def write_raster(_made: Path, out: Path) -> None:
    """Writes a raster of two swaths, of noise: many writes of compressed bytes, and nothing but them.

    Where libtiff tries again after a failed write, the file is whole and its bytes lie elsewhere.
    """
    values = np.random.default_rng(0).integers(0, 100, (700, 1100), dtype=np.uint8)
    target = RasterTarget(GeoBox(1100, 700, None, UNPLACED), "noise.tif", "average", {}, "<qgis/>", 1)
    with writing_into(out), gdal_settings():
        out.mkdir(exist_ok=True)
        with private_folder(out) as staging:
            parts: list[tuple[Span, Path]] = []
            for top in (0, 512):
                target.write_next(staging / "swaths", parts, top, values[top : top + 512])
            (path,) = finish([(target, parts)], staging)
            for level in range(-1, 2):
                with rasterio.open(path, **({"overview_level": level} if level >= 0 else {})) as src:
                    assert np.array_equal(src.read(1), values)
                values = halve(values, "average")
            publish(path, out / path.name)


JOBS = {
    "raster": Job(write_raster, str, ()),
    "map": Job(map_scene, make_scene, (".tif", ".geojson")),
    "train": Job(train_model, make_data, (".safetensors", ".toml", ".csv")),
}


def same(out: Path, whole: Path, exact: tuple[str, ...], *, all_of_it: bool) -> None:
    """Whatever has its final name is whole."""
    names = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    if all_of_it:
        assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}
    for name in names:
        if name.endswith(exact):
            assert (out / name).read_bytes() == (whole / name).read_bytes(), name
        elif name.endswith(".pt"):
            torch.load(out / name, weights_only=True)
        else:
            assert (out / name).stat().st_size > 0, name


def main(job_name: str, call: str, error_name: str, folder: Path) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    job, made, whole, out = JOBS[job_name], folder / "in", folder / "whole", folder / "out"
    made.mkdir()
    job.make(made)
    job.run(made, whole)
    number, nth = getattr(errno, error_name), 1
    while True:
        said = "ok"
        out.mkdir()
        with failing(call, number, "/in/" if call == "read" else "/out/", nth) as count:
            try:
                job.run(made, out)
            except pfmap.PfmapError as error:
                said = f"{type(error).__name__} {error}"
                assert "\n" not in said, said
                assert "None" not in said, said
            hits = count()
        # A folder that cannot be opened or emptied stays until the next run.
        same(out, whole, job.exact, all_of_it=said == "ok" and call not in ("unlink", "open"))
        job.run(made, out)
        same(out, whole, job.exact, all_of_it=True)
        print(nth, said, flush=True)
        shutil.rmtree(out)
        if hits < nth:
            return
        nth += 1 if job_name == "raster" else max(1, nth // 2)


if __name__ == "__main__":
    main(*sys.argv[1:4], Path(sys.argv[4]).resolve())
