"""What is said before a scene is mapped is true, and what cannot end well is refused."""

import json
import subprocess
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from commands import PFMAP
from conftest import NORTH_UP, UTM, Write, blobs, stand_in
from torch import Tensor, nn

import pfmap
from pfmap.core.errors import PfmapError, SourceError, UsageError
from pfmap.core.resources import folder_size
from pfmap.mapping.estimate import estimate, memory_of, windows_with_data
from pfmap.mapping.job import Job
from pfmap.mapping.options import PredictOptions
from pfmap.mapping.runtime import Probe, Runtime
from pfmap.raster.location import locate
from pfmap.survey.single import inspect

ROOT = Path(__file__).parents[2]


def test_the_table_says_what_the_scene_is(write_scene: Write, tmp_path: Path) -> None:
    valid = np.ones((300, 500), dtype=bool)
    valid[:, :125] = False
    scene = write_scene(blobs(300, 500).astype(np.uint16) * 37, mask=valid, tiled=True, compress="deflate")
    table = inspect(scene, tmp_path / "out", model=stand_in(), device="cpu")
    facts = table["scene"]
    assert (facts["width"], facts["height"], facts["bands"], facts["dtype"]) == (500, 300, 3, "uint16")
    assert facts["gsd_m"] == pytest.approx([0.5, 0.5], rel=1e-3)
    assert facts["valid_share"] == pytest.approx(0.75, abs=0.01)
    assert facts["compression"] == "deflate"
    assert "32645" in facts["crs"] or "UTM zone 45N" in facts["crs"]
    assert facts["scale"]["from"].startswith("percentiles")
    assert table["plan"]["windows"] == 9 * 6
    assert table["plan"]["windows_to_compute"] == 7 * 6  # two columns of windows see nothing
    needs = table["estimate"]
    assert needs["seconds"] > 0
    assert needs["memory_free_bytes"] > needs["memory_bytes"] > 10**8
    assert needs["disk_free_bytes"] > needs["disk_bytes"] > needs["output_bytes"] > 0
    assert not (tmp_path / "out").exists()
    json.dumps(table)


class Counts(nn.Module):
    """Counts the windows it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.windows = stand_in().network, 0

    def forward(self, image: Tensor) -> Tensor:
        self.windows += len(image)
        return self.inner(image)


@pytest.mark.parametrize("kind", ["mask", "aoi", "all"])
def test_windows_to_compute_are_those_that_are_computed(
    kind: str, write_scene: Write, tmp_path: Path
) -> None:
    rows, cols = np.mgrid[:700, :900]
    diagonal = np.abs(rows / 700 - cols / 900) < 0.2
    scene = write_scene(blobs(700, 900, smooth=20), mask=diagonal if kind == "mask" else None)
    options = PredictOptions()
    if kind == "aoi":
        corners = [(0, 0), (180, 0), (900, 560), (900, 700), (720, 700), (0, 140)]
        area = tmp_path / "area.gpkg"
        gpd.GeoSeries([shapely.Polygon([NORTH_UP @ c for c in corners])], crs=UTM).to_file(area)
        options = PredictOptions(aoi=str(area))
    network = Counts()
    model = stand_in(network=network)
    job = Job(locate(scene), Runtime.of(model, "cpu", "float32", None, print), options, print)
    with job.planned() as (_, plan):
        estimated = windows_with_data(plan)
    pfmap.predict(scene, tmp_path / "out", model=model, device="cpu", aoi=options.aoi)
    computed = network.windows - (16 if plan.grid.count >= 200 and estimated >= 200 else 0)  # the probe's
    assert 0.85 * computed <= estimated <= 1.15 * computed
    if kind == "all":
        assert estimated == plan.grid.count
    else:
        assert estimated < 0.7 * plan.grid.count


def test_info_prints_what_predict_prints_first(write_scene: Write, tmp_path: Path) -> None:
    scene = write_scene(blobs(100, 120))
    said: list[str] = []
    pfmap.predict(scene, tmp_path, model=stand_in(), device="cpu", on_message=said.append)
    words = [line.split()[0] for line in said]
    assert words[:5] == ["planning", "scene", "pixels", "windows", "map"]
    assert {"device", "memory", "disk"} <= set(words)


def header_only(path: Path, width: int, height: int, **profile: Any) -> Path:
    """A BigTIFF that claims a size, and holds nothing."""
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=3, dtype="uint8", crs=UTM,
        transform=Affine(0.5, 0, 300000, 0, -0.5, 3000000), bigtiff="yes", sparse_ok=True, **profile,
    ):  # fmt: skip
        return path


def test_a_header_that_claims_two_billion_squared_is_refused(tmp_path: Path) -> None:
    huge = tmp_path / "huge.vrt"
    huge.write_text(
        '<VRTDataset rasterXSize="2147483647" rasterYSize="2147483647">'
        + "".join(f'<VRTRasterBand dataType="Byte" band="{b}"/>' for b in (1, 2, 3))
        + "</VRTDataset>"
    )
    with pytest.raises(PfmapError, match=r"2,147,483,647.*needs about .*TB of memory.*bbox="):
        pfmap.predict(huge, tmp_path / "out", model=stand_in(), device="cpu")
    with pytest.raises(PfmapError, match="memory"):
        inspect(huge, tmp_path / "out", model=stand_in(), device="cpu")
    assert not (tmp_path / "out").exists()


def test_a_scene_in_giant_blocks_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = {"tiled": True, "blockxsize": 16_384, "blockysize": 16_384}
    scene = header_only(tmp_path / "blocks.tif", 20_000, 20_000, interleave="pixel", compress="lzw", **blocks)
    monkeypatch.setattr("pfmap.mapping.plan.free_memory", lambda: 1 << 30)
    monkeypatch.setattr("pfmap.raster.source.Source.sample", None)
    with pytest.raises(SourceError, match=r"blocks of 16,384 x 16,384.*805\.3 MB.*TILED=YES"):
        pfmap.predict(scene, tmp_path / "out", model=stand_in(), device="cpu")


@pytest.mark.slow
def test_a_survey_that_no_disk_holds_is_refused(tmp_path: Path) -> None:
    scene = header_only(tmp_path / "tall.tif", 2_000, 300_000_000, tiled=True)
    with pytest.raises(PfmapError, match=r"needs up to .* of disk|of memory"):
        pfmap.predict(scene, tmp_path / "out", model=stand_in(), device="cpu")


def test_too_few_bands_are_refused_by_info_too(write_scene: Write) -> None:
    with pytest.raises(UsageError, match="has 2 bands"):
        inspect(write_scene(blobs(70, 70)[:2]), model=stand_in(), device="cpu")


def test_a_run_is_estimated_from_what_a_piece_of_it_took(write_scene: Write, tmp_path: Path) -> None:
    """A scene of which a half has data takes half of its windows, of its pixels' time, and of its disk."""
    valid = np.ones((256, 512), dtype=bool)
    valid[:, 256:] = False
    scene, options = write_scene(blobs(256, 512), mask=valid), PredictOptions(overlap=0)
    job = Job(locate(scene), Runtime.of(stand_in(), "cpu", "float32", None, print), options, print)
    with job.planned() as (_, plan):
        took = Probe(2.0, 1e-4, temporary=3.0, final=1.0, memory=10**9, planned=memory_of(plan) - 5)
        rough, known = estimate(plan, tmp_path, 0, None), estimate(plan, tmp_path, 0, took)
    assert (plan.grid.count, known.compute) == (32, 16)
    assert rough.seconds is None
    assert known.seconds == pytest.approx(16 * 2.0 + 256 * 256 * 1e-4)
    assert known.memory == 10**9 + 5
    assert known.final == 256 * 256 * 1.0 + (1 << 20)
    assert known.temporary == 256 * 256 * 4.0 + (1 << 20)


@pytest.mark.slow
def test_estimates_hold_on_two_different_scenes(tmp_path: Path) -> None:
    """Whole processes with the default model: the demo scene, and a large one that is mostly nodata."""
    demo = ROOT / "examples" / "banepa.tif"
    with rasterio.open(demo) as src:
        image = np.tile(src.read()[:, :2048], (1, 1, 3))
        rows, cols = np.mgrid[: image.shape[1], : image.shape[2]]
        inside = np.abs(rows / image.shape[1] - cols / image.shape[2]) < 0.25
        strip = tmp_path / "strip.tif"
        with rasterio.open(
            strip, "w", driver="GTiff", width=image.shape[2], height=image.shape[1], count=4, dtype="uint8",
            crs=src.crs, transform=src.transform, photometric="rgb", alpha="yes", compress="lzw",
            interleave="pixel",
        ) as dst:  # fmt: skip
            dst.write(np.concatenate([image * inside, (inside * 255).astype(np.uint8)[None]]))
    for scene in (demo, strip):
        printed = [
            subprocess.run(
                [PFMAP, command, str(scene), "-o", str(tmp_path / "out"), "--device", "cpu", "--json"],
                capture_output=True, text=True, check=True,
            ).stdout
            for command in ("info", "predict")
        ]  # fmt: skip
        needs, report = json.loads(printed[0])["estimate"], json.loads(printed[1])
        time_ratio = needs["seconds"] / report["seconds"]["total"]
        memory_ratio = needs["memory_bytes"] / report["peak_memory_bytes"]
        size = sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
        print(
            scene.name,
            f"time {time_ratio:.2f} memory {memory_ratio:.2f} disk {needs['output_bytes'] / size:.2f}",
        )
        assert 1 / 1.2 < memory_ratio < 1.2
        assert 1 / 20 < time_ratio < 20  # about 1 on an idle machine; what a busy one takes nobody foresees
        assert 1 / 2 < needs["output_bytes"] / size < 2
        for path in (tmp_path / "out").iterdir():
            path.unlink()


def test_a_folders_size_leaves_out_what_vanishes_meanwhile(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "file").write_bytes(b"12345")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert folder_size(tmp_path) == 5
    assert folder_size(tmp_path / "nowhere") == 0
