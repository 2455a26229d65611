"""Areas of interest: only what lies inside is computed and written."""

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from conftest import NORTH_UP, Pointwise, Write, blobs, pointwise_reference, stand_in
from rasterio import features
from torch import Tensor, nn

import pfmap
from pfmap.core.errors import SourceError, UsageError
from pfmap.core.grid import GeoBox, Span
from pfmap.vector.area import read_area

NODATA = 255
ROTATED = Affine.translation(300000, 3000000) @ Affine.rotation(30) @ Affine.scale(0.5, -0.5)


class Counts(nn.Module):
    """Pointwise, and counts windows."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.windows = Pointwise(3), 0

    def forward(self, image: Tensor) -> Tensor:
        self.windows += len(image)
        return self.inner(image)


def on_ground(polygon: shapely.Geometry, transform: Affine = NORTH_UP) -> shapely.Geometry:
    """Pixel coordinates to the scene's CRS."""
    return shapely.transform(polygon, lambda xy: np.array([transform @ tuple(point) for point in xy]))


PLOTS = shapely.MultiPolygon(
    [
        shapely.Polygon([(60.2, 40.7), (180.3, 60.1), (150.6, 150.9), (70.4, 120.3)], [
            [(90, 70), (120, 70), (120, 100), (90, 100)]
        ]),
        shapely.box(230.4, 160.3, 270.7, 190.6),
    ]
)  # fmt: skip


def expected_map(image: Any, plots: shapely.Geometry) -> tuple[Any, tuple[slice, slice]]:
    """The whole scene's map, nodata outside, cut to the plots' extent."""
    inside = features.rasterize([plots], out_shape=image.shape[1:]) == 1
    x0, y0, x1, y1 = plots.bounds
    box = slice(int(y0), int(np.ceil(y1))), slice(int(x0), int(np.ceil(x1)))
    return np.where(inside, pointwise_reference(image), NODATA)[box], box


@pytest.mark.parametrize("transform", [NORTH_UP, ROTATED])
@pytest.mark.parametrize("crs", ["EPSG:32645", "EPSG:4326", "EPSG:3857"])
@pytest.mark.parametrize("suffix", ["gpkg", "shp", "geojson"])
def test_polygons_of_any_format_and_crs_bound_the_map(
    suffix: str, crs: str, transform: Affine, write_scene: Write, tmp_path: Path
) -> None:
    image = blobs(260, 320)
    scene = write_scene(image, transform=transform)
    if suffix == "geojson" and crs != "EPSG:4326":
        pytest.skip("GeoJSON is in EPSG:4326")
    plots = gpd.GeoSeries([on_ground(p, transform) for p in PLOTS.geoms], crs="EPSG:32645").to_crs(crs)
    area = tmp_path / f"area.{suffix}"
    plots.to_file(area)
    network = Counts()
    result = pfmap.predict(
        scene, tmp_path / "out", model=stand_in(network=network), device="cpu", aoi=area, overlap=0
    )
    expected, box = expected_map(image, PLOTS)
    with rasterio.open(result.outputs["classes"]) as src:
        classes = src.read(1)
        assert src.transform.almost_equals(transform @ Affine.translation(box[1].start, box[0].start))
    assert classes.shape == expected.shape
    # Vertices that went to another CRS and back may lie a hair off a pixel's centre.
    assert np.count_nonzero(classes != expected) <= (0 if crs == "EPSG:32645" else 3)
    frame = gpd.read_file(result.outputs["gpkg"], layer="objects")
    assert frame.area.sum() == pytest.approx((classes != NODATA).sum() * 0.25)
    assert network.windows < 3 * 4  # of the 12 over the plots' extent, some are outside


def test_a_layer_can_be_named(write_scene: Write, tmp_path: Path) -> None:
    image = blobs(260, 320)
    scene = write_scene(image)
    area = tmp_path / "plan: Übersicht.gpkg"
    left = gpd.GeoSeries([on_ground(shapely.box(10, 20, 110, 130))], crs="EPSG:32645")
    left.to_file(area, layer="left plot")
    gpd.GeoSeries([on_ground(shapely.box(200, 20, 300, 130))], crs="EPSG:32645").to_file(area, layer="right")
    out = tmp_path / "out"
    result = pfmap.predict(scene, out, model=stand_in(), device="cpu", aoi=f"{area}:left plot")
    with rasterio.open(result.outputs["classes"]) as src:
        assert np.array_equal(src.read(1), pointwise_reference(image)[20:130, 10:110])
    with pytest.raises(UsageError, match="has layers left plot, right: name one"):
        pfmap.predict(scene, out, model=stand_in(), device="cpu", aoi=area, overwrite=True)
    with pytest.raises(SourceError, match="middle"):
        pfmap.predict(scene, out, model=stand_in(), device="cpu", aoi=f"{area}:middle", overwrite=True)


def test_a_box_takes_whole_pixels(write_scene: Write, tmp_path: Path) -> None:
    image = blobs(260, 320)
    bbox = (300000 + 40.3 * 0.5, 3000000 - 200 * 0.5, 300000 + 100.7 * 0.5, 3000000 - 99.4 * 0.5)
    result = pfmap.predict(write_scene(image), tmp_path, model=stand_in(), device="cpu", bbox=bbox)
    with rasterio.open(result.outputs["classes"]) as src:
        assert np.array_equal(src.read(1), pointwise_reference(image)[99:200, 40:101])
        assert src.transform.almost_equals(NORTH_UP @ Affine.translation(40, 99))


def test_box_and_polygons_together_bound_the_map(write_scene: Write, tmp_path: Path) -> None:
    image = blobs(260, 320)
    area = tmp_path / "area.gpkg"
    gpd.GeoSeries([on_ground(PLOTS)], crs="EPSG:32645").to_file(area)
    x, y = NORTH_UP @ (200, 260)
    result = pfmap.predict(
        write_scene(image), tmp_path, model=stand_in(), device="cpu", aoi=area, bbox=(300000, y, x, 3000000)
    )
    expected, _ = expected_map(image, PLOTS.geoms[0])
    with rasterio.open(result.outputs["classes"]) as src:
        assert np.array_equal(src.read(1), expected)


@pytest.mark.parametrize("ratio", [0.4, 2.6])
def test_areas_hold_pixel_by_pixel_when_resampled(ratio: float, write_scene: Write, tmp_path: Path) -> None:
    import dataclasses

    model = stand_in()
    spec = dataclasses.replace(model.card.input, gsd=(0.5 * ratio, 0.5 * ratio))
    model = dataclasses.replace(model, card=dataclasses.replace(model.card, input=spec))
    image = blobs(260, 320, smooth=11)
    area = tmp_path / "area.gpkg"
    gpd.GeoSeries([on_ground(PLOTS)], crs="EPSG:32645").to_file(area)
    result = pfmap.predict(write_scene(image), tmp_path, model=model, device="cpu", aoi=area)
    expected, _ = expected_map(image, PLOTS)
    with rasterio.open(result.outputs["classes"]) as src:
        assert np.array_equal(src.read(1) == NODATA, expected == NODATA)


def test_unusable_areas_are_clear_errors(write_scene: Write, tmp_path: Path) -> None:
    scene = write_scene(blobs(90, 90))
    far = tmp_path / "far.gpkg"
    gpd.GeoSeries([shapely.box(0, 0, 1, 1)], crs="EPSG:32645").to_file(far)
    lines = tmp_path / "lines.gpkg"
    gpd.GeoSeries([shapely.LineString([(300000, 3000000), (300010, 2999990)])], crs=32645).to_file(lines)
    text = tmp_path / "notes.gpkg"
    text.write_text("no vectors")
    table = tmp_path / "table.csv"
    table.write_text("a,b\n1,2\n")
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"aoi": far}, UsageError, "does not touch"),
        ({"aoi": lines}, SourceError, "no polygon"),
        ({"aoi": text}, SourceError, "notes.gpkg cannot be read"),
        ({"aoi": table}, SourceError, "no geometry"),
        ({"aoi": tmp_path / "missing.shp"}, SourceError, "does not exist"),
        ({"bbox": (5.0, 5.0, 1.0, 9.0)}, UsageError, "no extent"),
        ({"bbox": (0.0, 0.0, 1.0, 1.0)}, UsageError, "which covers 300000,"),
    ]
    for options, kind, words in cases:
        with pytest.raises(kind, match=words) as caught:
            pfmap.predict(scene, tmp_path / "out", model=stand_in(), device="cpu", **options)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_area_without_a_crs_is_taken_to_be_in_the_scenes(write_scene: Write, tmp_path: Path) -> None:
    area = tmp_path / "area.shp"
    with pytest.warns(UserWarning, match="crs"):
        gpd.GeoSeries([on_ground(shapely.box(10, 20, 60, 70))]).to_file(area)
    said: list[str] = []
    result = pfmap.predict(
        write_scene(blobs(90, 90)), tmp_path, model=stand_in(), device="cpu", aoi=area, on_message=said.append
    )
    assert any("names no CRS" in line for line in said)
    assert result.report["map"]["width"] == result.report["map"]["height"] == 50


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857", "EPSG:32644"])
def test_a_box_may_be_in_another_crs(crs: str, write_scene: Write, tmp_path: Path) -> None:
    """Its edges are straight there: it is a polygon with many corners here."""
    image = blobs(260, 320)
    scene = write_scene(image)
    box = on_ground(shapely.box(60, 40, 250, 200))
    bbox = gpd.GeoSeries([box], crs="EPSG:32645").to_crs(crs).total_bounds
    edges = shapely.segmentize(shapely.box(*bbox), np.ptp(bbox[::2]) / 500)
    plots = gpd.GeoSeries([edges], crs=crs).to_crs("EPSG:32645")
    plots.to_file(tmp_path / "area.gpkg")
    options: dict[str, Any] = {"model": stand_in(), "device": "cpu"}
    made = pfmap.predict(scene, tmp_path / "out", bbox=tuple(bbox), bbox_crs=crs, **options)
    same = pfmap.predict(scene, tmp_path / "same", aoi=tmp_path / "area.gpkg", **options)
    with rasterio.open(made.outputs["classes"]) as one, rasterio.open(same.outputs["classes"]) as other:
        assert one.transform == other.transform
        assert np.array_equal(one.read(1), other.read(1))
        assert 0.5 < (one.read(1) != NODATA).mean() < 1
    assert made.report["options"]["bbox_crs"] == crs


def test_a_box_along_the_axes_of_the_scene_is_whole_pixels_in_any_crs() -> None:
    box = gpd.GeoSeries([on_ground(shapely.box(10.4, 5.6, 30.6, 40.4))], crs="EPSG:3857")
    grid = GeoBox(70, 60, box.crs.to_wkt(), tuple(NORTH_UP)[:6])
    areas = [
        read_area(None, tuple(box.to_crs(crs).total_bounds), grid, "scene", crs)
        for crs in ("EPSG:3857", "EPSG:4326")
    ]
    assert {(area.rows, area.cols, area.rectangle) for area in areas} == {(Span(6, 40), Span(10, 31), True)}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bbox_crs": "EPSG:4326"}, "bbox_crs= says what the numbers of bbox= are in"),
        ({"bbox": (85, 27, 86, 28), "bbox_crs": "nonsense"}, "bbox_crs='nonsense' cannot be brought"),
        ({"bbox": (85, 27, 86, 95), "bbox_crs": "EPSG:4326"}, "reaches beyond"),
        ({"bbox": (86, 28, 85, 27), "bbox_crs": "EPSG:4326"}, "has no extent"),
    ],
)
def test_a_box_that_cannot_be_laid_over_the_scene_is_refused(
    options: dict[str, Any], said: str, write_scene: Write, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=said):
        pfmap.predict(write_scene(blobs(60, 70)), tmp_path / "out", model=stand_in(), device="cpu", **options)
    bare = write_scene(blobs(60, 70), "bare.tif", crs=None)
    with pytest.raises(UsageError, match=r"has no CRS.*leave out bbox_crs="):
        pfmap.predict(bare, model=stand_in(), device="cpu", bbox=(0, 0, 1, 1), bbox_crs="EPSG:4326")
