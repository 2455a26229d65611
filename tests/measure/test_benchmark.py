"""The benchmark: it measures what it says, on a scene of any kind, and leaves nothing behind."""

import json
import resource
import tempfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner
from conftest import Write, blobs

import pfmap
from pfmap.cli.main import cli
from pfmap.core.errors import PfmapError, TargetError
from pfmap.measure.benchmark import STAGES, bench


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.slow
def test_the_network_and_the_whole_are_measured_on_the_same_windows(temporary: Path) -> None:
    found = bench(size=(700, 500), device="cpu", runs=2)
    assert (found.width, found.height, found.model) == (700, 500, "landcover")
    assert found.windows == 4
    assert len(found.runs) == 2
    for run in found.runs:
        assert [stage.name for stage in run.stages] == list(STAGES)
        busy = {stage.name: stage.busy for stage in run.stages}
        assert all(seconds > 0 for seconds in busy.values())
        # No stage was busy for longer than its threads were there.
        for stage in run.stages:
            assert stage.busy <= stage.workers * run.whole_seconds + 0.1
        assert run.network_seconds > 0
        assert run.memory > 100e6
    table = found.table()["median"]
    network = np.median([run.network_seconds for run in found.runs])
    ratios = [run.whole_seconds / run.network_seconds for run in found.runs]
    assert table["whole_over_network"] == pytest.approx(np.median(ratios))
    assert table["share_of_matrix_peak"] == pytest.approx(4 * found.multiply_adds / network / found.peak)
    assert json.loads(json.dumps(found.table()))["median"] == table
    assert any(line.startswith("whole / network") for line in found.lines())
    assert not list(temporary.glob("*pfmap*"))  # torch leaves a folder of its own


def test_the_cost_of_taking_objects_apart_is_measured_beside_the_whole() -> None:
    found = bench(size=(900, 600), network=False, device="cpu", separate=("building",), runs=2)
    assert len(found.apart) == len(found.runs) == 2
    ratios = [b.whole_seconds / a.whole_seconds for a, b in zip(found.runs, found.apart, strict=True)]
    assert found.table()["median"]["apart_over_whole"] == pytest.approx(np.median(ratios))
    assert any(line.startswith("apart / whole") for line in found.lines())
    for options, words in (({"network": True}, "network=False"), ({"network": False}, "contact names shed")):
        with pytest.raises(PfmapError, match=words):
            bench(size=(500, 500), device="cpu", separate=("shed",), **options)


@pytest.mark.parametrize("kind", ["raw", "sparse"])
def test_without_a_network_the_rest_is_measured(kind: str) -> None:
    found = bench(size=(900, 600), kind=kind, network=False, device="cpu")  # type: ignore[arg-type]
    assert found.model == "none"
    assert found.multiply_adds == 0
    busy = {stage.name: stage.busy for stage in found.runs[0].stages}
    assert busy["trace"] > 0
    assert busy["write objects"] > 0
    assert any(line.startswith("whole predict") for line in found.lines())


def test_a_scene_is_measured_as_it_is_or_repeated(write_scene: Write) -> None:
    scene = write_scene(blobs(300, 280))
    assert bench(str(scene), network=False, device="cpu").width == 280
    found = bench(str(scene), size=(500, 420), network=False, device="cpu", kind="deflate")
    assert (found.width, found.height) == (500, 420)
    assert "stored as deflate" in found.scene


def test_the_command_prints_json() -> None:
    done = CliRunner().invoke(
        cli, ["bench", "--size", "450x400", "--no-network", "--device", "cpu", "--json"]
    )
    assert done.exit_code == 0, done.output
    table = json.loads(done.stdout)
    assert (table["width"], table["height"]) == (450, 400)


def test_what_cannot_be_measured_is_refused(
    write_scene: Write, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = CliRunner().invoke(cli, ["bench", "--size", "big"])
    assert done.exit_code == 2
    assert "no size such as 8192" in done.output
    grey = write_scene(blobs(100, 100)[:1], name="grey.tif")
    with pytest.raises(pfmap.PfmapError, match="three 8-bit bands"):
        bench(str(grey), size=(200, 200))
    with pytest.raises(pfmap.PfmapError, match=r"gone\.tif"):
        bench("gone.tif")
    with pytest.raises(pfmap.PfmapError, match="'zip' is unknown"):
        bench(kind="zip")  # type: ignore[arg-type]
    with monkeypatch.context() as patch:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        patch.setattr("pfmap.measure.benchmark.write_scene", lambda path, *_: path.write_bytes(bytes(5000)))
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
        try:
            with pytest.raises(
                TargetError, match=r"temporary cannot be written \(.*File too large\).*TMPDIR"
            ):
                bench(size=(200, 200))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(temporary.iterdir())


def test_a_made_scene_is_its_pattern_repeated(tmp_path: Path) -> None:
    from pfmap.raster.synthetic import make_pattern, write_scene

    pattern = make_pattern()[:, :700, :300]
    write_scene(tmp_path / "scene.tif", pattern, 1100, 1500, 0.25, "raw")
    with rasterio.open(tmp_path / "scene.tif") as src:
        values = src.read()
        assert src.crs.to_epsg() == 32645
        assert src.res == (0.25, 0.25)
    assert np.array_equal(values, np.tile(pattern, (1, 3, 4))[:, :1500, :1100])
