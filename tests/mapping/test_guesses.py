"""What is guessed of a scene - bands, values, place - is said, and what it says of itself is heeded."""

import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine
from conftest import NORTH_UP, Write, blobs, pointwise_reference, stand_in
from rasterio.enums import ColorInterp, Resampling

import pfmap
from pfmap.core.errors import SourceError, UsageError
from pfmap.core.grid import UNPLACED, Span
from pfmap.mapping.options import PredictOptions
from pfmap.raster.location import locate
from pfmap.raster.preview import read_preview
from pfmap.raster.scaling import EIGHT_BIT, Scaling, known_scaling, sampled_scaling
from pfmap.raster.source import Source
from pfmap.survey.scenes import batch
from pfmap.survey.single import inspect

C = ColorInterp
NODATA = 255


def run(scene: Path, tmp_path: Path, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """The classes, and the report as it lies on disk; what is said before is what it says."""
    said: list[str] = []
    result = pfmap.predict(
        scene,
        tmp_path / "out",
        model=stand_in(),
        device="cpu",
        overwrite=True,
        on_message=said.append,
        **options,
    )
    report = json.loads(result.outputs["report"].read_text())
    assert [f"warning: {text}" for text in report["warnings"]] == [x for x in said if x.startswith("warning")]
    with rasterio.open(result.outputs["classes"]) as src:
        return src.read(1), report


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(
    "lost", [(1, 0, 0, 0, 1, 0), (1, 0, 0, 0, -1, 0), (0, 1, 0, 1, 0, 0), (1, 0, 0, 0, -1, 70)]
)
def test_a_scene_that_lost_its_transform_is_mapped_in_pixels(
    lost: tuple[float, ...], write_scene: Write, tmp_path: Path
) -> None:
    image = blobs(70, 80)
    scene = write_scene(image, transform=Affine(*lost))
    classes, report = run(scene, tmp_path)
    assert np.array_equal(classes, pointwise_reference(image))
    assert "has a CRS but no transform: mapped in pixels" in report["warnings"][0]
    assert (report["scene"]["crs"], report["scene"]["transform"]) == (None, list(UNPLACED))
    assert sum(row["area_px"] for row in report["classes"]) == 70 * 80
    with rasterio.open(scene) as src:
        assert src.crs is not None
    for name in ("classes", "confidence"):
        path = tmp_path / "out" / f"scene_{name}.tif"
        with rasterio.open(path) as src:
            assert (src.crs, src.transform) == (None, Affine.identity())
    frame = gpd.read_file(tmp_path / "out" / "scene_objects.gpkg", layer="objects")
    assert frame.crs is None
    assert frame["area_px"].sum() == pytest.approx(70 * 80)
    _, report = run(scene, tmp_path / "other", gsd=0.5)
    assert report["scene"]["gsd_m"] == 0.5


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (Affine(1, 0, 300000, 0, -1, 3000000), False),
        (Affine(0.15, 0, 0, 0, -0.15, 3000000), False),
        (Affine(0.15, 0, 0, 0, -0.15, 0), True),
        (Affine(0.15, 0, 0, 0, 0.15, 0), True),
        (Affine(2, 0, 0, 0, -2, 40), True),
    ],
)
def test_a_transform_that_only_looks_lost_is_kept_but_said(
    place: Affine, said: bool, write_scene: Write
) -> None:
    with Source(locate(write_scene(blobs(20, 20), photometric="rgb", transform=place))) as source:
        assert source.info.geobox.crs_wkt is not None
        assert ["a corner at exactly 0, 0" in text for text in source.info.guesses] == [True] * said


def test_scales_and_offsets_of_bands_are_not_applied_which_is_said(write_scene: Write) -> None:
    scene = write_scene(blobs(20, 20), photometric="rgb")
    with rasterio.open(scene, "r+") as dst:
        dst.scales, dst.offsets = (0.0001,) * 3, (0.0, 0.0, -0.1)
    with Source(locate(scene)) as source:
        assert ["they are read as stored" in text for text in source.info.guesses] == [True]


@pytest.mark.parametrize("bits", [1, 2, 4, 7, 10, 12, 15])
def test_the_bits_of_values_say_which_are_bright(bits: int, write_scene: Write, tmp_path: Path) -> None:
    values = (blobs(70, 80).astype(int) * (2**bits - 1) // 255).astype("uint8" if bits < 8 else "uint16")
    classes, report = run(write_scene(values, nbits=bits, photometric="rgb"), tmp_path)
    assert np.array_equal(classes, pointwise_reference(values.astype(float) * 255 / (2**bits - 1)))
    scale = report["scene"]["scale"]
    assert (scale["min"], scale["max"]) == (0, 2**bits - 1)
    assert any(f"({bits} bits per value)" in text and "scale=" in text for text in report["warnings"])
    scene = write_scene(values, nbits=bits, photometric="rgb")
    assert not [x for x in run(scene, tmp_path, scale=(0, 9))[1]["warnings"] if "scale=" in x]


def test_half_floats_have_bits_that_say_nothing(write_scene: Write) -> None:
    with Source(locate(write_scene(blobs(20, 20).astype("float32"), nbits=16))) as source:
        assert source.info.bits == 0


def test_every_scaling_that_is_guessed_is_said(write_scene: Write, tmp_path: Path) -> None:
    scene = write_scene(blobs(70, 80).astype("uint16") * 40, photometric="rgb")
    text = (
        "does not say which of its uint16 values are dark and bright: 400 and 9800 are taken (percentiles 2"
    )
    assert [text in warning for warning in run(scene, tmp_path)[1]["warnings"]] == [True]
    assert [text in warning for warning in inspect(scene, model=stand_in(), device="cpu")["warnings"]] == [
        True
    ]
    assert run(scene, tmp_path, scale=(0, 9800))[1]["warnings"] == []


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("options", [{}, {"scale": (0, 255)}, {"bands": (1, 1, 1)}])
@pytest.mark.parametrize("alpha", [True, False])
def test_a_negative_is_mapped_as_a_positive(
    dtype: str, options: dict[str, Any], alpha: bool, write_scene: Write, tmp_path: Path
) -> None:
    image = blobs(70, 80)
    grey = (255 - image[:1]).astype(dtype)
    valid = np.ones((70, 80), bool)
    if alpha:
        valid[:, :20] = False
        grey = np.concatenate([grey, valid[None].astype(dtype)])
    scene = write_scene(grey, photometric="miniswhite", **({"alpha": "yes"} if alpha else {}))
    classes, report = run(scene, tmp_path, **options)
    if dtype == "uint8" or "scale" in options:
        assert np.array_equal(classes, np.where(valid, pointwise_reference(image), NODATA))
        assert (report["scene"]["scale"]["min"], report["scene"]["scale"]["max"]) == (255, 0)
    else:
        assert np.array_equal(classes == 0, (image[0] == 10) & valid)
        assert np.array_equal(classes == 2, (image[0] == 245) & valid)
    assert any("low values are bright (MINISWHITE)" in text for text in report["warnings"])


@pytest.mark.parametrize(
    ("low", "high", "bad"),
    [(0.0, 1.0, [np.inf, -np.inf, np.nan]), (-1e308, 0.5e308, [1.7e308]), (0, 1e-300, [1e30, 1e200])],
)
def test_what_is_no_number_after_scaling_is_nodata(
    low: float, high: float, bad: list[float], write_scene: Write, tmp_path: Path
) -> None:
    image = blobs(70, 80)
    values = image / 255 * (high / 2 - low / 2) * 2 + low
    for row, value in enumerate(bad):
        values[row % 3, row, 10:20] = value
    classes, _ = run(write_scene(values, photometric="rgb"), tmp_path, scale=(low, high))
    assert (classes[: len(bad), 10:20] == NODATA).all()
    assert (classes == NODATA).sum() == 10 * len(bad)


@pytest.mark.parametrize("value", [-3.4028235e38, 1e25, np.inf])
def test_values_that_cannot_be_stretched_are_refused(
    value: float, write_scene: Write, tmp_path: Path
) -> None:
    with pytest.raises((UsageError, SourceError), match=r"cannot be stretched.*scale=|no valid pixel"):
        run(write_scene(np.full((3, 70, 80), value, "float32")), tmp_path)
    for scale in ((0.0, 1e-320), (-1.7e308, 1.7e308), (-np.inf, 0.0)):
        with pytest.raises(UsageError, match="MIN below MAX"):
            PredictOptions(scale=scale)


def test_guesses_stand_in_the_report_of_a_survey(write_scene: Write, tmp_path: Path) -> None:
    image = blobs(70, 80)
    for number in range(2):
        place = NORTH_UP @ Affine.translation(80 * number, 0)
        path = write_scene(image, f"{number}.tif", photometric="minisblack", transform=place)
        with rasterio.open(path, "r+") as dst:
            dst.descriptions = ("B02", "B03", "B04")
    alpha = np.concatenate([image, np.random.default_rng(0).integers(1, 255, (1, 70, 80), dtype="uint8")])
    place = NORTH_UP @ Affine.translation(160, 0)
    write_scene(alpha, "2.tif", photometric="rgb", alpha="yes", transform=place)
    paths = [tmp_path / f"{number}.tif" for number in range(3)]
    for mosaic in (False, True):
        out = tmp_path / f"out{mosaic}"
        result = batch(paths, out, model=stand_in(), device="cpu", mosaic=mosaic)
        report = json.loads(result.outputs["json"].read_text())
        scenes = [text for scene in report["scenes"] for text in scene.get("warnings", [])]
        said = [*report["warnings"], *scenes]
        assert sum("read as those of Sentinel-2: 3, 2, 1 are taken" in text for text in said) == 2
        assert sum("looks like data" in text for text in said) == 1


def test_sheets_whose_values_a_mosaic_cannot_show_are_refused(write_scene: Write, tmp_path: Path) -> None:
    image = blobs(70, 80)
    for name, values, profile in (
        ("negative", image[:1], {"photometric": "miniswhite"}),
        ("few", image >> 4, {"nbits": 4}),
    ):
        scene = write_scene(values, f"{name}.tif", **profile)
        with pytest.raises(SourceError, match="which a mosaic cannot show"):
            batch([scene], tmp_path / name, model=stand_in(), device="cpu", mosaic=True)


@pytest.fixture
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples of few pixels, so that those of small scenes come from overviews."""
    monkeypatch.setattr("pfmap.raster.source._SAMPLE", 150)


def lying(write_scene: Write, image: np.ndarray, shown: np.ndarray, *, internal: bool = False) -> Path:
    """A scene with overviews of another image; a fourth band is an alpha band."""
    tiles = {"tiled": True, "blockxsize": 128, "blockysize": 128, "photometric": "rgb"}
    tiles |= {"alpha": "yes"} if len(image) == 4 else {}
    scene = write_scene(image, **tiles)
    if internal:
        with rasterio.open(scene, "r+") as dst:
            dst.write(shown.astype(image.dtype))
            dst.build_overviews([2, 4, 8], Resampling.average)
            dst.write(image)
        return scene
    other = write_scene(shown, "other.tif", **tiles)
    with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(other, "r+") as dst:
        dst.build_overviews([2, 4, 8], Resampling.nearest)
    (scene.parent / "other.tif.ovr").rename(scene.parent / "scene.tif.ovr")
    return scene


def terrain(seed: int) -> np.ndarray:
    return (blobs(500, 600, seed=seed, smooth=60).astype("uint16") * 30 + 100).astype("uint16")


def stripes() -> np.ndarray:
    rows = np.arange(500)[:, None]
    return np.any([(rows > top) & (rows < top + 70) for top in (40, 155, 275, 393)], axis=0)


LIES = {
    "stripes": (lambda image: np.where(stripes(), terrain(4), image), True),
    "black": (lambda image: image * 0, False),
    "8-bit": (lambda image: (image // 60).astype("uint8"), False),
    "older": (lambda _: terrain(1), True),
    "partly older": (lambda image: np.where(np.arange(600) < 300, image, terrain(3)), True),
}


@pytest.mark.usefixtures("_few")
@pytest.mark.parametrize("kind", LIES)
def test_overviews_that_show_something_else_are_not_used(kind: str, write_scene: Write) -> None:
    image, (other, internal) = terrain(0), LIES[kind]
    scene = lying(write_scene, image, other(image), internal=internal)
    with Source(locate(scene)) as source:
        sample = source.sample(values=True)
        scaling = sampled_scaling(sample, source.info)
    assert ["overviews that show something else" in note for note in sample.notes] == [True]
    assert (scaling.low, scaling.high) == pytest.approx(np.percentile(image, [2, 98]), rel=0.02)
    codes = write_scene(np.zeros((1, 500, 600), "uint8"), "codes.tif")
    pixels, _, _ = read_preview(locate(scene), codes, 60, Scaling(0.0, 7500.0, "here"))
    assert pixels is not None
    assert np.abs(pixels - image[:, 5::10, 5::10] / 7500 * 255).max() < 1


@pytest.mark.usefixtures("_few")
def test_of_a_large_scene_only_spots_are_read_instead(
    write_scene: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pfmap.raster.source._WHOLE", 1000)
    monkeypatch.setattr("pfmap.raster.preview._MOST", 1000)
    image = terrain(0)
    scene = lying(write_scene, image, image * 0)
    with Source(locate(scene)) as source:
        sample = source.sample(values=True)
    assert sample.pixels.shape == image.shape  # the spots are so many that they are the scene
    assert np.array_equal(sample.pixels, image)
    codes = write_scene(np.zeros((1, 500, 600), "uint8"), "codes.tif")
    assert read_preview(locate(scene), codes, 60, EIGHT_BIT)[0] is None


@pytest.mark.usefixtures("_few")
@pytest.mark.parametrize("count", [3, 4])
def test_overviews_that_no_map_needs_are_said_to_lie_too(count: int, write_scene: Write) -> None:
    """Of 8-bit scenes, with an alpha band and without one: pictures of the scene come from them."""
    image = np.concatenate([blobs(500, 600), np.full((1, 500, 600), 255, "uint8")])[:count]
    scene = lying(write_scene, image, image * 0)
    with Source(locate(scene)) as source:
        sample = source.sample(values=False)
    assert sample.valid.all()
    assert len(sample.notes) == 1


@pytest.mark.usefixtures("_few")
def test_overviews_below_a_vrt_are_compared_too(write_scene: Write, tmp_path: Path) -> None:
    image = terrain(0)
    lying(write_scene, image, image * 0)
    bands = "".join(
        f'<VRTRasterBand dataType="UInt16" band="{band}"><ColorInterp>{color}</ColorInterp>'
        + "".join(
            f'<SimpleSource><SourceFilename relativeToVRT="1">scene.tif</SourceFilename><SourceBand>{band}'
            f'</SourceBand><SrcRect xOff="{x}" yOff="0" xSize="300" ySize="500"/><DstRect xOff="{x}" '
            'yOff="0" xSize="300" ySize="500"/></SimpleSource>'
            for x in (0, 300)
        )
        + "</VRTRasterBand>"
        for band, color in enumerate(("Red", "Green", "Blue"), 1)
    )
    vrt = tmp_path / "scene.vrt"
    vrt.write_text(f'<VRTDataset rasterXSize="600" rasterYSize="500">{bands}</VRTDataset>')
    with Source(locate(vrt)) as source:
        scaling = sampled_scaling(source.sample(values=True), source.info)
    assert (scaling.low, scaling.high) == pytest.approx(np.percentile(image, [2, 98]), rel=0.02)


RNG, SHAPE = np.random.default_rng(0), (3, 500, 600)
IMAGES: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "noise": (RNG.integers(0, 4000, SHAPE), {}),
    "stripes": (np.tile(np.arange(600) % 7 // 4 * 3000, (3, 500, 1)), {}),
    "points": ((RNG.random(SHAPE) > 0.999) * 5000 + 300, {}),
    "even": (np.full(SHAPE, 700), {}),
    "collar": (RNG.integers(1, 4000, SHAPE) * (np.hypot(*np.mgrid[-250:250, -300:300]) < 200), {"nodata": 0}),
    "lossy": (RNG.integers(0, 255, SHAPE), {"dtype": "uint8", "compress": "jpeg", "tiled": True}),
}


@pytest.mark.usefixtures("_few")
@pytest.mark.parametrize("resampling", ["nearest", "average", "cubic", "lanczos", "mode", "gauss", "rms"])
@pytest.mark.parametrize("kind", IMAGES)
def test_true_overviews_are_used_however_they_were_made(
    resampling: str, kind: str, write_scene: Write
) -> None:
    image, profile = IMAGES[kind]
    scene = write_scene(image.astype(profile.get("dtype", "uint16")), photometric="rgb", **profile)
    with rasterio.open(scene, "r+") as dst:
        dst.build_overviews([2, 4], Resampling[resampling])
    with Source(locate(scene)) as source:
        assert source.sample(values=True).notes == ()
        assert source.thinned(Span(0, 500), Span(0, 600), (100, 120), 0, smooth=True) is not None


def test_training_reads_scenes_as_mapping_does(write_scene: Write) -> None:
    """The same scaling comes out, whoever asks."""
    with Source(locate(write_scene(blobs(20, 20)[:1], photometric="miniswhite"))) as source:
        known = known_scaling(source.info, stand_in().card.input.scale, None)
    assert known is not None
    assert (known.low, known.high) == (255, 0)
