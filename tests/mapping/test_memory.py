"""Memory does not grow with the scene: measured on whole processes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

ROOT = Path(__file__).parents[2]

RUN = """
import json, sys
sys.path.insert(0, sys.argv[3])
from conftest import stand_in
import pfmap
result = pfmap.predict(sys.argv[1], sys.argv[2], model=stand_in(window=512), device="cpu")
print(json.dumps({"peak": result.report["peak_memory_bytes"], "seconds": result.report["seconds"],
                  "objects": sum(row["objects"] for row in result.report["classes"])}))
"""


def tall_scene(path: Path, height: int) -> Path:
    """8,192 pixels wide, full of small objects, written block row by block row."""
    rng = np.random.default_rng(0)
    tile = np.full((512, 8192), 10, np.uint8)
    for _ in range(2000):
        row, col = rng.integers(0, 480), rng.integers(0, 8160)
        tile[row : row + rng.integers(3, 30), col : col + rng.integers(3, 30)] = rng.choice([120, 245])
    tile[:, ::512] = 10
    with rasterio.open(
        path, "w", driver="GTiff", width=8192, height=height, count=3, dtype="uint8", tiled=True,
        blockxsize=512, blockysize=512, compress="deflate", zlevel=1, interleave="pixel",
        crs="EPSG:32645", transform=Affine(0.1, 0, 300000, 0, -0.1, 3000000),
    ) as dst:  # fmt: skip
        for row in range(0, height, 512):
            dst.write(np.broadcast_to(tile, (3, 512, 8192)), window=((row, row + 512), (0, 8192)))
    return path


@pytest.mark.slow
def test_peak_memory_is_flat_in_the_scenes_height(tmp_path: Path) -> None:
    figures = {}
    for height in (8192, 32768):
        scene = tall_scene(tmp_path / f"tall_{height}.tif", height)
        done = subprocess.run(
            [sys.executable, "-c", RUN, str(scene), str(tmp_path / "out"), str(Path(__file__).parents[1])],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        figures[height] = json.loads(done.stdout)
        print(height, figures[height])
    assert figures[32768]["objects"] > 3 * figures[8192]["objects"]
    assert figures[32768]["peak"] <= 1.10 * figures[8192]["peak"]


@pytest.mark.slow
def test_a_background_over_the_whole_raster_is_never_in_memory_at_once() -> None:
    peaks = []
    for height in (16384, 65536):
        command = [
            sys.executable,
            "-m",
            "tests.benchmarks.memory",
            "--width",
            "4000",
            "--height",
            str(height),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        print(done.stdout.splitlines()[-1])
        peaks.append(float(done.stdout.split()[-2]))
    assert peaks[1] <= 1.2 * peaks[0]  # all at once it would be a third more


@pytest.mark.slow
def test_evaluating_a_taller_scene_takes_no_more_memory() -> None:
    peaks = []
    for height in (8192, 32768):
        command = [sys.executable, "-m", "tests.benchmarks.evaluating", "--width", "8000"]
        done = subprocess.run(
            [*command, "--height", str(height), "--coarse"],
            capture_output=True, text=True, check=False, cwd=ROOT,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        print(done.stdout)
        peaks.append(float(done.stdout.split("peak ")[1].split()[0]))
    assert peaks[1] <= 1.25 * peaks[0]  # the two rasters alone would be almost half more
