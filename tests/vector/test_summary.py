"""Sums per class and zone equal plain geometry."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely
from click.testing import CliRunner

from pfmap.cli.main import cli
from pfmap.core.errors import PfmapError
from pfmap.vector import layer
from pfmap.vector.zones import OUTSIDE, Row, summarize

UTM = 32645


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer, "_CHUNK", 7)


def squares(crs: int | None = UTM) -> gpd.GeoDataFrame:
    """A row of thirty squares of 10 m, a house and a tree in turn."""
    left = 300_000 + 10.0 * np.arange(30)
    return gpd.GeoDataFrame(
        {"class": ["house", "tree"] * 15, "object_id": np.arange(30), "region_id": np.arange(30)},
        geometry=shapely.box(left, 3_000_000, left + 10, 3_000_010), crs=crs,
    )  # fmt: skip


def save(frame: gpd.GeoDataFrame, path: Path) -> str:
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_file(path, engine="pyogrio")
    return str(path)


def said(rows: list[Row]) -> dict[tuple[str, str], tuple[int, float]]:
    return {(row.zone, row.klass): (row.objects, pytest.approx(row.area, rel=2e-3)) for row in rows}


@pytest.mark.parametrize("suffix", ["gpkg", "shp", "fgb", "geojson", "parquet"])
def test_classes_are_counted_and_measured_in_any_format(suffix: str, tmp_path: Path) -> None:
    frame = squares() if suffix != "geojson" else squares().to_crs(4326)
    result = summarize(save(frame, tmp_path / f"objects.{suffix}"))
    assert result.unit == "m2"
    assert said(result.rows) == {("", "house"): (15, 1500.0), ("", "tree"): (15, 1500.0)}


def test_zones_cut_objects_and_count_them_once(tmp_path: Path) -> None:
    objects = save(squares(), tmp_path / "objects.gpkg")
    south, north = (
        shapely.box(299_990, 2_999_990, 300_014, 3_000_020),
        shapely.box(300_100, 2e6, 300_120, 4e6),
    )
    zones = gpd.GeoDataFrame({"nr": [7, 8], "owner": ["Süd", "Nord"]}, geometry=[south, north], crs=UTM)
    path = save(zones.to_crs(4326), tmp_path / "zones.geojson")
    found = {(row.zone, row.klass): (row.objects, round(row.area)) for row in summarize(objects, path).rows}
    assert found == {
        ("Süd", "house"): (1, 100), ("Süd", "tree"): (0, 40), ("Nord", "house"): (1, 100),
        ("Nord", "tree"): (1, 100), (OUTSIDE, "house"): (13, 1300), (OUTSIDE, "tree"): (14, 1360),
    }  # fmt: skip
    assert {row.zone for row in summarize(objects, path, "nr").rows} == {"7", "8", OUTSIDE}


def test_the_pieces_of_a_cut_object_count_once(tmp_path: Path) -> None:
    frame = squares().assign(piece=lambda f: f["object_id"] % 4 + 1)
    found = said(summarize(save(frame, tmp_path / "objects.gpkg")).rows)
    assert found == {("", "house"): (8, 1500.0), ("", "tree"): (0, 1500.0)}


def test_areas_are_true_whatever_the_crs(tmp_path: Path) -> None:
    mercator = summarize(save(squares().to_crs(3857), tmp_path / "objects.gpkg"))
    assert mercator.rows[0].area == pytest.approx(1500, rel=2e-3)
    plain = summarize(save(squares(None).set_crs(None, allow_override=True), tmp_path / "plain.parquet"))
    assert (plain.unit, plain.rows[0].area) == ("px", 1500)


BAD: dict[str, tuple[Any, str]] = {
    "no class": (squares().drop(columns="class"), "has no field class"),
    "empty": (squares().iloc[:0], "has no objects"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_summed_up_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    frame, message = BAD[name]
    path = save(frame, tmp_path / "objects.gpkg")
    with pytest.raises(PfmapError, match=message) as caught:
        summarize(path)
    assert "\n" not in str(caught.value)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PfmapError, match="does not exist"):
        summarize(str(tmp_path / "none.gpkg"))
    (tmp_path / "text.gpkg").write_text("no")
    (tmp_path / "text.parquet").write_text("no")
    for name in ("text.gpkg", "text.parquet"):
        with pytest.raises(PfmapError, match="cannot be read"):
            summarize(str(tmp_path / name))
    objects = save(squares(), tmp_path / "objects.gpkg")
    with pytest.raises(PfmapError, match="has no CRS and"):
        summarize(objects, save(squares(None), tmp_path / "zones.parquet"))
    with pytest.raises(PfmapError, match="has no field 'x'"):
        summarize(objects, objects, "x")
    points = gpd.GeoDataFrame({"a": [1]}, geometry=[shapely.Point(0, 0)], crs=UTM)
    with pytest.raises(PfmapError, match="has no polygon"):
        summarize(objects, save(points, tmp_path / "points.gpkg"))


def test_the_command_prints_a_table_csv_and_json(tmp_path: Path) -> None:
    objects = save(squares(), tmp_path / "objects.gpkg")
    outputs = [CliRunner().invoke(cli, ["summary", objects, *flags]) for flags in ([], ["--csv"], ["--json"])]
    assert [done.exit_code for done in outputs] == [0, 0, 0]
    assert "house" in outputs[0].output
    rows = list(csv.DictReader(io.StringIO(outputs[1].output)))
    assert rows[0] == {"class": "house", "objects": "15", "area_m2": rows[0]["area_m2"]}
    assert json.loads(outputs[2].output)[1]["objects"] == 15
    assert CliRunner().invoke(cli, ["summary", objects, "--zone-field", "a"]).exit_code == 2
