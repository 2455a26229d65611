"""Scenes of any resolution: measured on the ground, read as the model knows it, mapped where they lie."""

import dataclasses
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from conftest import Pointwise, Write, blobs, houses, pointwise_reference, stand_in
from pyproj import CRS, Geod, Transformer
from rasterio.enums import Resampling
from scipy.ndimage import gaussian_filter, maximum_filter
from torch import Tensor, nn
from torch.nn import functional as F

import pfmap
from pfmap.core.errors import ModelError, UsageError
from pfmap.core.grid import GeoBox, Scale, Span
from pfmap.mapping import plan
from pfmap.model.store import Model
from pfmap.raster.view import resample
from pfmap.vector.geodesy import pixel_size

NODATA = 255
RATIOS = (0.5, 1.0, 2.37, 4.0)


def model_for(
    low: float, high: float, network: nn.Module | None = None, contact: tuple[str, ...] = ()
) -> Model:
    model = stand_in(network=network, contact=contact)
    spec = dataclasses.replace(model.card.input, gsd=(low, high))
    return dataclasses.replace(model, card=dataclasses.replace(model.card, input=spec))


def read(path: Path) -> Any:
    with rasterio.open(path) as src:
        return src.read(1)


def smooth_ground(height: int, width: int) -> Any:
    """Regions with smooth borders, larger than a few pixels at any of the ratios."""
    noise = gaussian_filter(np.random.default_rng(0).standard_normal((height, width)), 9)
    low, high = np.quantile(noise, [0.35, 0.7])
    return np.repeat(np.select([noise < low, noise < high], [10, 120], 245).astype(np.uint8)[None], 3, axis=0)


def at_ratio(image: Any, ratio: float) -> Any:
    """The same ground with `ratio` times as many pixels along each side."""
    height, width = (round(n * ratio) for n in image.shape[1:])
    with rasterio.MemoryFile() as memory, memory.open(
        driver="GTiff", width=image.shape[2], height=image.shape[1], count=3, dtype="uint8",
        transform=Affine(0.5, 0, 300000, 0, -0.5, 3000000), crs="EPSG:32645",
    ) as dst:  # fmt: skip
        dst.write(image)
        return dst.read(
            out_shape=(3, height, width), resampling=Resampling.bilinear if ratio > 1 else Resampling.average
        )


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("grid", ["scene", "model"])
def test_the_same_scene_at_other_resolutions_gives_maps_that_agree(
    ratio: float, grid: str, write_scene: Write, tmp_path: Path
) -> None:
    ground = smooth_ground(400, 500)
    image = at_ratio(ground, ratio)
    height, width = image.shape[1:]
    transform = Affine(0.5 * 500 / width, 0, 300000, 0, -0.5 * 400 / height, 3000000)
    scene = write_scene(image, transform=transform)
    result = pfmap.predict(
        scene, tmp_path / "out", model=model_for(0.5, 0.5), device="cpu", grid=grid, simplify=0
    )
    with rasterio.open(result.outputs["classes"]) as src:
        classes, box = src.read(1), src.bounds
        expected = (height, width) if grid == "scene" else (400, 500)
        assert src.shape == expected
    assert box == pytest.approx((300000, 2999800, 300250, 3000000))
    reference = pointwise_reference(ground)
    # Compared where the ground is at hand: at the centres of its pixels.
    rows = ((np.arange(400) + 0.5) / 400 * classes.shape[0]).astype(int)
    cols = ((np.arange(500) + 0.5) / 500 * classes.shape[1]).astype(int)
    agreement = (classes[np.ix_(rows, cols)] == reference).mean()
    assert agreement > (0.96 if ratio == 0.5 else 0.985)
    if ratio == 1:
        assert agreement == 1
    frame = gpd.read_file(result.outputs["gpkg"], layer="objects")
    areas = frame.groupby("class_id")["area_m2"].sum() / (400 * 500 * 0.25)
    np.testing.assert_allclose(areas, np.bincount(reference.ravel()) / reference.size, atol=0.02)


@pytest.mark.parametrize("ratio", [0.6, 1.37, 2.37, 4.0])
def test_on_the_scenes_grid_probabilities_are_interpolated_before_the_class_is_chosen(
    ratio: float, write_scene: Write, tmp_path: Path
) -> None:
    """Against the whole image at once: resampled, classified pixel by pixel, interpolated by torch."""
    image = np.random.default_rng(0).integers(0, 256, (3, 230, 310), dtype=np.uint8)
    result = pfmap.predict(
        write_scene(image), tmp_path, model=model_for(0.5 * ratio, 0.5 * ratio), device="cpu", overlap=8
    )
    rows, cols = Scale(230, round(230 / ratio)), Scale(310, round(310 / ratio))
    valid = np.ones((230, 310), dtype=bool)
    whole = (rows, Span(0, rows.size)), (cols, Span(0, cols.size))
    seen, _ = resample(image, valid, (0, 0), *whole)
    probabilities = torch.softmax(Pointwise(3)(torch.from_numpy(seen)[None] / 255), dim=1)
    best, classes = F.interpolate(probabilities, size=(230, 310), mode="bilinear")[0].max(dim=0)
    differing = read(result.outputs["classes"]) != classes.numpy()
    assert differing.mean() < 1e-3  # ties
    confidence = read(result.outputs["confidence"]) / 100
    np.testing.assert_allclose(confidence, best.numpy(), atol=0.0051)


class Remembers(nn.Module):
    """Pointwise, and keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Pointwise(3)
        self.seen: list[Tensor] = []

    def forward(self, image: Tensor) -> Tensor:
        self.seen.append(image.clone())
        return self.inner(image)


@pytest.mark.parametrize("ratio", [0.37, 1.6, 3.3, 11.0])
def test_nodata_stays_nodata_pixel_by_pixel_when_resampled(
    ratio: float, write_scene: Write, tmp_path: Path
) -> None:
    image = blobs(250, 330, smooth=9)
    valid = np.ones((250, 330), dtype=bool)
    valid[:, 150:200] = False
    valid[101, 17] = False
    valid[:, 200:] = False
    valid[40, 260] = True  # a single pixel that has data
    scene = write_scene(image, mask=valid)
    model = model_for(0.5 * ratio, 0.5 * ratio)
    result = pfmap.predict(scene, tmp_path / "out", model=model, device="cpu", overlap=8)
    classes, confidence = read(result.outputs["classes"]), read(result.outputs["confidence"])
    assert np.array_equal(classes == NODATA, ~valid)
    assert np.array_equal(confidence == NODATA, ~valid)
    assert confidence[valid].min() > 30
    assert result.report["scene"]["valid_pixels"] == valid.sum()
    assert result.report["options"]["read_at_gsd_m"] == pytest.approx(0.5 * ratio, rel=0.01)


@pytest.mark.parametrize("overlap", [0, 8, 32])
@pytest.mark.parametrize(
    ("ratio", "height"), [(0.6, 290), (1.0, 290), (2.37, 290), (1.0, 1100), (2.37, 1300)]
)
def test_the_cut_into_swaths_changes_nothing(
    overlap: int,
    ratio: float,
    height: int,
    write_scene: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Swaths end with rows of windows or, if they are not tiny, with rows of blocks."""
    monkeypatch.setattr(plan, "SHARED_SWATH_PIXELS", 1 if height > 512 else 10)
    image = np.random.default_rng(0).integers(0, 256, (3, height, 210), dtype=np.uint8)
    scene = write_scene(image)
    whole, cut = (
        pfmap.predict(
            scene, tmp_path / str(pixels), model=model_for(0.5 * ratio, 0.5 * ratio), device="cpu",
            overlap=overlap, swath_pixels=pixels,
        )
        for pixels in (10**9, 1)
    )  # fmt: skip
    for kind in ("classes", "confidence"):
        assert np.array_equal(read(whole.outputs[kind]), read(cut.outputs[kind]))
    assert cut.report["swaths"]["all"] > 1


def test_pixels_that_are_long_on_the_ground_are_made_square(write_scene: Write, tmp_path: Path) -> None:
    network = Remembers()
    image = blobs(128, 256, smooth=9)
    # At 60 degrees north a pixel in degrees is half as wide as high.
    scene = write_scene(image, crs="EPSG:4326", transform=Affine(1e-5, 0, 10, 0, -1e-5, 60))
    result = pfmap.predict(scene, tmp_path, model=model_for(0.1, 5, network), device="cpu", overlap=0)
    read_at = result.report["options"]["read_at_gsd_m"]
    assert read_at == pytest.approx(0.788, rel=0.01)
    assert len(network.seen) == 3 * 3  # 181 x 181 square pixels instead of 256 x 128
    assert read(result.outputs["classes"]).shape == (128, 256)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:3857", Affine(0.15, 0, 9519926, 0, -0.15, 3202940)),
        ("EPSG:4326", Affine(1.3e-6, 0, 85.52, 0, -2.6e-6, 27.63)),
        ("EPSG:32645", Affine.translation(300000, 3000000) @ Affine.rotation(30) @ Affine.scale(0.4, -0.7)),
        ("EPSG:2263", Affine(0.5, 0, 1_000_000, 0, -0.5, 200_000)),  # feet
    ],
)
def test_pixels_are_measured_on_the_ground(crs: str, transform: Affine) -> None:
    width, height = 2000, 1000
    box = GeoBox(width, height, rasterio.CRS.from_user_input(crs).to_wkt(), tuple(transform)[:6])
    across, down = pixel_size(box)
    geod = Geod(ellps="GRS80" if crs == "EPSG:2263" else "WGS84")
    points = [(width / 2, height / 2), (width / 2 + 1, height / 2), (width / 2, height / 2 + 1)]
    to_degrees = Transformer.from_crs(crs, CRS(crs).geodetic_crs, always_xy=True)
    lon, lat = zip(*(to_degrees.transform(*box.place(*point)) for point in points), strict=True)
    assert across == pytest.approx(geod.line_length(lon[:2], lat[:2]), rel=2e-3)
    assert down == pytest.approx(geod.line_length((lon[0], lon[2]), (lat[0], lat[2])), rel=2e-3)


def test_resampling_can_be_refused(write_scene: Write, tmp_path: Path) -> None:
    scene = write_scene(blobs(80, 80))
    with pytest.raises(UsageError, match=r"0\.5 m per pixel, model 'stand_in' knows 1 to 2 m.*gsd="):
        pfmap.predict(scene, tmp_path / "out", model=model_for(1, 2), device="cpu", resample=False)
    assert not (tmp_path / "out").exists()
    inside = pfmap.predict(scene, tmp_path, model=model_for(0.4, 2), device="cpu", resample=False)
    assert inside.report["options"]["read_at_gsd_m"] == pytest.approx(0.5)


def test_a_model_may_want_coarse_scenes_enlarged(write_scene: Write, tmp_path: Path) -> None:
    scene, said = write_scene(blobs(80, 80)), list[str]()
    model = model_for(0.1, 2)
    card = dataclasses.replace(model.card, input=dataclasses.replace(model.card.input, enlarge=0.25))

    def read_at(name: str, **options: Any) -> float:
        wants = dataclasses.replace(model, card=card)
        made = pfmap.predict(
            scene, tmp_path / name, model=wants, device="cpu", on_message=said.append, **options
        )
        assert read(made.outputs["classes"]).shape == (80, 80)
        return float(made.report["options"]["read_at_gsd_m"])

    assert read_at("larger") == pytest.approx(0.25)
    assert read_at("fine", gsd=0.2) == pytest.approx(0.2)
    assert read_at("asis", resample=False) == pytest.approx(0.5)
    assert not any("coarser" in line for line in said)  # it lies within the range
    assert read_at("outside", gsd=4) == pytest.approx(0.25)
    assert any("4 m per pixel, coarser than" in line for line in said)
    with pytest.raises(ModelError, match=r"enlarge is 3: it has to lie within gsd, \[0\.1, 2\]"):
        dataclasses.replace(card.input, enlarge=3)


def test_too_far_apart_is_refused(write_scene: Write, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too far apart"):
        pfmap.predict(write_scene(blobs(80, 80)), tmp_path, model=model_for(1e-3, 2e-3), device="cpu")


def test_the_user_can_state_the_resolution(write_scene: Write, tmp_path: Path) -> None:
    image = smooth_ground(150, 150)
    said: list[str] = []
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        scene = write_scene(image, crs=None, transform=None)
    model = model_for(0.2, 0.2)
    unknown = pfmap.predict(scene, tmp_path / "a", model=model, device="cpu", on_message=said.append)
    assert unknown.report["options"]["read_at_gsd_m"] is None
    assert any("gsd=METRES" in line for line in said)
    known = pfmap.predict(scene, tmp_path / "b", model=model, device="cpu", gsd=0.1)
    assert known.report["options"]["read_at_gsd_m"] == pytest.approx(0.2)
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        agreement = read(known.outputs["classes"]) == pointwise_reference(image)
    assert agreement.mean() > 0.97


@pytest.mark.parametrize("ratio", [0.5, 2.0])
def test_objects_that_touch_are_the_same_at_other_resolutions(
    ratio: float, write_scene: Write, tmp_path: Path
) -> None:
    """Common walls have a gap in their middle, which is closed if lengths grow with the number of pixels."""
    image, ids = houses(110, 200)
    image[2] = maximum_filter(image[2], 3)
    image[2, 14:22], image[2, 48:56] = 15, 15
    scene = write_scene(
        at_ratio(image, ratio), transform=Affine(0.5 / ratio, 0, 300000, 0, -0.5 / ratio, 3000000)
    )
    model = model_for(0.5, 0.5, contact=("class_2",))
    for grid in ("scene", "model"):
        found = pfmap.predict(scene, tmp_path / grid, model=model, device="cpu", grid=grid)
        again = pfmap.vectorize(
            found.outputs["classes"], tmp_path / "again", contact=found.outputs["contact"], overwrite=True
        )
        for counted in (found.outputs["gpkg"], again.outputs["gpkg"]):
            frame = gpd.read_file(counted, layer="objects")
            assert (frame["class"] == "class_2").sum() == ids.max()
