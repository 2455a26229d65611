"""Small pictures of mapped scenes."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import Write, blobs, stand_in
from pictures import GAP, panels
from PIL import Image
from surveys import drawn, mapped

import pfmap
from pfmap.core.card import Card
from pfmap.model.store import Model
from pfmap.raster import source
from pfmap.raster.location import locate
from pfmap.raster.scaling import Scaling
from pfmap.report.survey_figures import SceneFigures
from pfmap.report.thumbnail import SIDE, thumbnail, thumbnail_limit


def run(path: Path, out: Path, **options: object) -> tuple[SceneFigures, Card]:
    model: Model = stand_in()
    pfmap.predict(path, out, model=model, **options)  # type: ignore[arg-type]
    return mapped(out, model.card).scenes[0], model.card


def test_the_picture_shows_scene_and_classes(write_scene: Write, tmp_path: Path) -> None:
    """The oracle: the class raster and the scene, one pixel in four of both, away from edges of regions."""
    image = blobs(400, 640, smooth=60)
    mask = np.ones((400, 640), dtype=bool)
    mask[:100, :120] = False
    scene, card = run(write_scene(image, mask=mask), tmp_path / "out")
    content = drawn(scene, tmp_path / "out", card)
    assert 0 < len(content) <= 15_000
    left, right = panels(content)
    assert left.shape == right.shape == (200, SIDE, 4)
    assert (left[5:45, 5:55, 3] < 20).all()
    assert (right[5:45, 5:55, 3] < 20).all()
    grey = image[0, 1::2, 1::2].astype(int)
    calm = np.ones_like(grey, dtype=bool)  # lossy: look where 17 x 17 pixels are the same
    for dy in range(-8, 9):
        for dx in range(-8, 9):
            calm &= np.roll(grey, (dy, dx), (0, 1)) == grey
    calm[:60, :70] = calm[:8] = calm[-8:] = False
    calm[:, :8] = calm[:, -8:] = False
    assert calm.sum() > 2000
    assert np.abs(left[calm][:, :3] - grey[calm][:, None]).max() < 12
    colors = np.array([spec.rgb for spec in card.classes])
    expected = colors[np.select([grey < 60, grey < 200], [0, 1], 2)] * 0.62 + grey[..., None] * 0.38
    assert np.abs(right[calm][:, :3] - expected[calm]).mean() < 6


def test_the_background_class_is_transparent(write_scene: Write, tmp_path: Path) -> None:
    scene, card = run(write_scene(blobs(64, 64, smooth=30)), tmp_path / "out")
    bare = replace(card, classes=tuple(replace(spec, background=True) for spec in card.classes))
    left, right = panels(drawn(scene, tmp_path / "out", bare))
    assert np.abs(left - right).mean() < 3


def test_sixteen_bits_are_stretched_as_the_run_stretched_them(write_scene: Write, tmp_path: Path) -> None:
    image = blobs(200, 200, smooth=60).astype(np.uint16) * 40 + 3000
    path = write_scene(image)
    scene, card = run(path, tmp_path / "out")
    left, _ = panels(drawn(scene, tmp_path / "out", card))
    low, high = np.percentile(image, [2, 98])
    expected = (np.clip((image[0] - low) / (high - low), 0, 1) * 255)[100, 100]
    assert abs(left[100, 100, 0] - expected) < 12
    plain, _ = panels(thumbnail(locate(path), tmp_path / "out/scene_classes.tif", card.classes))
    assert plain[..., :3].min() > 240  # unstretched, all of it is white
    given = thumbnail(
        locate(path), tmp_path / "out/scene_classes.tif", card.classes, scaling=Scaling(0, 65535, "--scale")
    )
    assert panels(given)[0][..., :3].max() < 80


def test_a_part_of_a_scene_is_shown_where_it_lies(write_scene: Write, tmp_path: Path) -> None:
    image = np.full((3, 200, 200), 10, np.uint8)
    image[:, 100:, 100:] = 245
    box = (300050.0, 2999900.0, 300100.0, 2999950.0)  # the lower right quarter
    scene, card = run(write_scene(image), tmp_path / "out", bbox=box)
    left, _ = panels(drawn(scene, tmp_path / "out", card))
    assert left.shape[:2] == (100, 100)
    assert left[..., :3].min() > 230


def test_a_large_scene_without_overviews_is_not_read_again(
    write_scene: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, card = run(write_scene(blobs(100, 150, smooth=40)), tmp_path / "out")
    monkeypatch.setattr("pfmap.raster.preview._MOST", 100)
    with Image.open(io.BytesIO(drawn(scene, tmp_path / "out", card))) as image:
        assert image.size == (150, 100)
    with source.rasterio.open(scene.scene, "r+") as dst:
        dst.build_overviews([2, 4])
    with Image.open(io.BytesIO(drawn(scene, tmp_path / "out", card))) as image:
        assert image.size == (2 * 150 + GAP, 100)


def test_what_cannot_be_read_any_more_gives_no_picture(write_scene: Write, tmp_path: Path) -> None:
    path, out = write_scene(blobs(64, 64)), tmp_path / "out"
    scene, card = run(path, out)
    place, raster = locate(path), out / scene.outputs["classes"]
    assert thumbnail(place, raster, card.classes)
    path.write_bytes(path.read_bytes()[:1000])
    assert not thumbnail(place, raster, card.classes)
    path.unlink()
    assert not thumbnail(place, raster, card.classes)
    assert not thumbnail(locate("http://127.0.0.1:9/x.tif"), raster, card.classes)
    write_scene(blobs(64, 64), transform=source.rasterio.Affine(0.5, 0, 900000, 0, -0.5, 3000000))
    assert not thumbnail(place, raster, card.classes)
    raster.write_bytes(b"II*\x00")
    assert not thumbnail(place, raster, card.classes)


def test_a_scene_without_a_place_has_a_picture(write_scene: Write, tmp_path: Path) -> None:
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        path = write_scene(blobs(64, 96), crs=None, transform=None)
    scene, card = run(path, tmp_path / "out")
    assert panels(drawn(scene, tmp_path / "out", card))[0].shape == (64, 96, 4)


@pytest.mark.parametrize("limit", [15_000, 4_000, 600])
def test_noise_fits_the_limit_too(write_scene: Write, tmp_path: Path, limit: int) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (3, 500, 700)).astype(np.uint8)
    scene, card = run(write_scene(noise), tmp_path / "out")
    assert 0 < len(drawn(scene, tmp_path / "out", card, limit)) <= limit


def test_all_pictures_together_stay_bounded() -> None:
    assert thumbnail_limit(1) == thumbnail_limit(0) == 15_000
    assert all(count * thumbnail_limit(count) <= 16_000_000 for count in (1, 1000, 2000, 100_000))
