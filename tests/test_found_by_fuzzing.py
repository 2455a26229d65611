"""What mutated files have shown, each by a file of its own."""

import dataclasses
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import geopandas as gpd
import pytest
import shapely
import torch
from chips import data
from conftest import NORTH_UP, UTM, Write, blobs, stand_in

import pfmap
from pfmap.core.errors import CheckpointError, SourceError, TargetError, TrainingError
from pfmap.mapping.run_report import earlier_report
from pfmap.train.config import read_config
from pfmap.train.loop import train
from pfmap.vector.layer import open_layer

__all__ = ["data"]  # the fixture

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

LIES: dict[str, dict[str, Any]] = {
    "no CRS": {"scene": {"crs": 'PROJCS["of nowhere'}},
    "another CRS": {"scene": {"crs": "EPSG:32646"}},
    "another place": {"map": {"transform": [0.5, 0, 300100, 0, -0.5, 3000000]}},
    "another size": {"map": {"width": 90}},
    "a file elsewhere": {"outputs": {"classes": "../scene.tif"}},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_report_that_is_not_of_the_map_beside_it_is_not_believed(
    lie: str, write_scene: Write, tmp_path: Path
) -> None:
    """A survey is put together by what reports say, and its map would lie elsewhere."""
    path = pfmap.predict(
        write_scene(blobs(100, 100)), tmp_path / "out", model=stand_in(), device="cpu"
    ).outputs["report"]
    assert earlier_report(path) is not None
    report = json.loads(path.read_text(encoding="utf-8"))
    for table, changes in LIES[lie].items():
        report[table] |= changes
    path.write_text(json.dumps(report), encoding="utf-8")
    assert earlier_report(path) is None


def test_maps_without_confidence_are_not_joined_with_it(write_scene: Write, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_scene(blobs(100, 100), "in/a.tif")
    (tmp_path / "in/b.tif").write_bytes(b"no raster")
    options: dict[str, Any] = {"model": stand_in(), "device": "cpu"}
    pfmap.batch(tmp_path / "in", tmp_path / "out", confidence=False, **options)
    with pytest.raises(SourceError, match=r"a was mapped without confidence.*confidence=False"):
        pfmap.batch(tmp_path / "in", tmp_path / "out", retry_failed=True, **options)


def test_a_raster_may_name_what_no_file_can_be_called(write_scene: Write, tmp_path: Path) -> None:
    write_scene(blobs(50, 50), "sheet.tif")
    path = tmp_path / "scene.vrt"
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}"><SimpleSource>'
        f"<SourceFilename>/vsizip/{'Z' * 5000}/a.tif</SourceFilename>"
        f"<SourceBand>{band}</SourceBand></SimpleSource></VRTRasterBand>"
        for band in (1, 2, 3)
    )
    path.write_text(f'<VRTDataset rasterXSize="50" rasterYSize="50">{bands}</VRTDataset>')
    with pytest.raises(SourceError):
        pfmap.predict(path, tmp_path / "out", model=stand_in(), device="cpu")


def test_a_vector_file_without_layers_is_none_to_read(write_scene: Write, tmp_path: Path) -> None:
    area = tmp_path / "area.kml"
    area.write_text('<?xml version="1.0"?><kml xmlns="http://www.opengis.net/kml/2.2"><Document/></kml>')
    with pytest.raises(SourceError, match=r"area\.kml"):
        pfmap.predict(write_scene(blobs(80, 80)), tmp_path / "out", model=stand_in(), device="cpu", aoi=area)


def test_what_a_library_says_at_length_is_cut(tmp_path: Path) -> None:
    """A projection that is none is quoted in full, and may be as long as anyone likes."""
    path = tmp_path / "zones.parquet"
    box = shapely.box(*(NORTH_UP @ (0, 50)), *(NORTH_UP @ (50, 0)))
    gpd.GeoDataFrame({"name": ["a" * 3]}, geometry=[box], crs=UTM).to_parquet(path)
    from pyarrow import parquet

    table = parquet.read_table(path)
    notes = table.schema.metadata
    geo = json.loads(notes[b"geo"])
    geo["columns"]["geometry"]["crs"] = {"type": "ProjectedCRS", "name": "Z" * 5000}
    parquet.write_table(table.replace_schema_metadata(notes | {b"geo": json.dumps(geo).encode()}), path)
    with pytest.raises(SourceError, match=r"zones\.parquet cannot be read") as caught:
        open_layer(str(path), "zones")
    assert len(str(caught.value)) < 700


def test_why_something_could_not_be_written_is_said_also_around_it() -> None:
    """Whoever catches an `OSError` says why by its `strerror`."""
    error: OSError = TargetError("a cannot be written (Input/output error)")
    assert error.strerror == "a cannot be written (Input/output error)"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"crop": 2**31 - 1}, "lower per_batch or crop"),
        ({"scale": (1e-9, 1.0)}, "or raise scale"),
        ({"scale": (1.0, float("inf"))}, "numbers have to be finite"),
        ({"scale": (float("nan"), 1.0)}, "numbers have to be finite"),
    ],
)
def test_crops_that_fit_into_no_memory_are_refused_before_training(
    changes: dict[str, Any], words: str, data: Path, tmp_path: Path
) -> None:
    config = read_config(data / "train.toml")

    def run() -> None:
        settings = dataclasses.replace(config.training, **changes)
        train(dataclasses.replace(config, training=settings), data, tmp_path / "model")

    with pytest.raises(TrainingError, match=words):
        run()


def test_a_damaged_checkpoint_of_a_training_is_refused(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for content in (b"", b"PK\3\4", b"\x80\2."):
        (folder / "checkpoint.pt").write_bytes(content)
        with pytest.raises(TrainingError, match=r"damaged.*overwrite=True"):
            train(read_config(data / "train.toml"), data, folder, resume=True)


def test_a_checkpoint_that_is_packed_is_not_unpacked(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(100_000)}}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(CheckpointError, match="packed"):
        pfmap.import_checkpoint(tmp_path / "packed.pth", preset="isaid", name="packed")


def test_a_class_raster_too_wide_for_memory_is_refused_before_it_is_traced(
    write_scene: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raster = write_scene(blobs(100, 100)[:1])
    monkeypatch.setattr("pfmap.raster.classmap.free_memory", lambda: 8 * 100 * 100 - 1)
    with pytest.raises(SourceError, match=r"100 pixels wide.*gdal_translate"):
        pfmap.vectorize(raster, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "out")
    assert pfmap.vectorize(raster, tmp_path / "out").counts
