"""Which pixels are valid: an alpha band decides, else only the bands in use; the same wherever it is read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from conftest import NORTH_UP, UTM, Write, stand_in
from rasterio.enums import ColorInterp

from pfmap.core.grid import Span
from pfmap.mapping.options import PredictOptions
from pfmap.raster.classmap import ClassMap
from pfmap.raster.location import locate
from pfmap.raster.preview import read_preview
from pfmap.raster.scaling import Scaling, sampled_scaling
from pfmap.raster.source import Source
from pfmap.survey.find import Sheet
from pfmap.survey.merge import make_mosaic

C = ColorInterp
ROWS, COLS = Span(0, 60), Span(0, 80)
VALID = np.zeros((60, 80), dtype=bool)
VALID[:, 25:] = True


def photo(dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(0).integers(50, 200, (3, 60, 80)).astype(dtype)


def written(write_scene: Write, image: np.ndarray, colors: list[ColorInterp], **profile: Any) -> Path:
    path = write_scene(image, **{"photometric": "minisblack", **profile})
    with rasterio.open(path, "r+") as dst:
        dst.colorinterp = colors
    return path


def everywhere(path: Path, bands: tuple[int, ...] | None = None) -> np.ndarray:
    """The mask of a scene: read whole, in parts, sampled, and in its preview."""
    with Source(locate(path), bands=bands) as source:
        source.scaling = Scaling(0.0, 255.0, "here")
        _, valid = source.read(ROWS, COLS)
        _, part = source.read(Span(7, 30), Span(20, 50))
        assert np.array_equal(part, valid[7:30, 20:50])
        assert np.array_equal(source.sample(values=True).valid, valid)
        thinned = source.thinned(ROWS, COLS, (60, 80), 1e9, smooth=True)
        assert thinned is not None
        assert np.array_equal(source.shown(*thinned)[1], valid)
    codes = path.with_name("codes.tif")
    with rasterio.open(
        codes, "w", driver="GTiff", width=80, height=60, count=1, dtype="uint8", crs=UTM, transform=NORTH_UP
    ) as dst:
        dst.write(np.zeros((1, 60, 80), np.uint8))
    _, seen, _ = read_preview(locate(path), codes, 80, Scaling(0.0, 255.0, "here"), bands)
    assert np.array_equal(seen, valid)
    return np.asarray(valid)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "float32", "float64"])
@pytest.mark.parametrize(
    "colors",
    [
        [C.red, C.green, C.blue, C.alpha],
        [C.red, C.green, C.blue, C.nir, C.alpha],
        [C.alpha, C.red, C.green, C.blue],
        [C.blue, C.green, C.red, C.undefined, C.undefined, C.alpha, C.undefined],
    ],
)
def test_an_alpha_band_decides_wherever_it_stands(
    dtype: str, colors: list[ColorInterp], write_scene: Write
) -> None:
    image = np.full((len(colors), 60, 80), 77).astype(dtype)
    top = 1 if dtype.startswith("float") else np.iinfo(dtype).max
    image[colors.index(C.alpha)] = VALID * np.array(top).astype(dtype)
    image[colors.index(C.alpha), :10, 40:] = 1 if dtype[0] != "f" else 0.25  # half transparent is valid
    assert np.array_equal(everywhere(written(write_scene, image, colors)), VALID)


def test_an_alpha_of_minus_one_is_opaque(write_scene: Write) -> None:
    image = np.stack([*photo("int16"), -VALID.astype("int16")])
    assert np.array_equal(everywhere(written(write_scene, image, [C.red, C.green, C.blue, C.alpha])), VALID)


def test_an_alpha_that_is_no_number_is_invalid(write_scene: Write) -> None:
    alpha = np.where(VALID, 1.0, np.nan).astype("float32")
    path = written(write_scene, np.stack([*photo("float32"), alpha]), [C.red, C.green, C.blue, C.alpha])
    assert np.array_equal(everywhere(path), VALID)


def test_of_several_alpha_bands_the_last_decides_which_is_said(write_scene: Write) -> None:
    alphas = np.stack([~VALID, VALID]).astype(np.uint8) * 255
    colors = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha, ColorInterp.alpha]
    path = written(write_scene, np.concatenate([photo(), alphas]), colors)
    assert np.array_equal(everywhere(path), VALID)
    for bands, count in ((None, 1), ((1, 2, 4), 0)):
        with Source(locate(path), bands=bands) as source:
            assert (
                sum("the last, band 5, says what is valid" in text for text in source.info.guesses) == count
            )


@pytest.mark.parametrize("nodata", [0, 77, 255])
def test_nodata_values_say_nothing_beside_an_alpha_band(nodata: int, write_scene: Write) -> None:
    """Also no warning: warnings are errors here."""
    image = np.stack([*photo(), VALID * np.uint8(255)])
    image[:3, 20:40] = nodata
    image[:3, ~VALID] = 255
    path = written(write_scene, image, [C.red, C.green, C.blue, C.alpha], nodata=nodata)
    assert np.array_equal(everywhere(path), VALID)


def test_only_the_bands_in_use_count(write_scene: Write) -> None:
    """A surface model that reaches farther than the photo, and has holes where that has none."""
    image = np.concatenate([photo("float32"), np.full((1, 60, 80), 1432.5, "float32")])
    image[:3, ~VALID] = -9999
    image[3, 10:20, 40:60] = -9999
    path = written(write_scene, image, [C.gray] + [C.undefined] * 3, nodata=-9999)
    assert np.array_equal(everywhere(path), VALID)
    with Source(locate(path)) as source:
        scaling = sampled_scaling(source.sample(values=True), source.info)
    assert (scaling.low, scaling.high) == pytest.approx(np.percentile(image[:3, VALID], [2, 98]))
    holes = np.ones_like(VALID)
    holes[10:20, 40:60] = False
    assert np.array_equal(everywhere(path, bands=(4, 4, 4)), holes)


def test_an_alpha_band_that_the_user_names_is_a_colour(write_scene: Write) -> None:
    image = np.stack([*photo(), VALID * np.uint8(255)])
    path = written(write_scene, image, [C.red, C.green, C.blue, C.alpha])
    assert everywhere(path, bands=(4, 1, 2)).all()
    with Source(locate(path), bands=(4, 1, 2)) as source:
        assert np.array_equal(source.read(ROWS, COLS)[0], image[[3, 0, 1]])


@pytest.mark.parametrize("internal", [True, False])
@pytest.mark.parametrize("alpha", [True, False])
def test_a_mask_of_the_raster_always_counts(alpha: bool, internal: bool, write_scene: Write) -> None:
    mask = np.ones_like(VALID)
    mask[40:] = False
    image = np.stack([*photo(), VALID * np.uint8(255)]) if alpha else photo()
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal):
        path = write_scene(image, mask=mask, photometric="rgb", **({"alpha": "yes"} if alpha else {}))
    assert np.array_equal(everywhere(path), mask & VALID if alpha else mask)


def test_a_palette_without_colours_is_grey(write_scene: Write, tmp_path: Path) -> None:
    write_scene(photo()[:1], "grey.tif")
    scene = tmp_path / "scene.vrt"
    scene.write_text(
        '<VRTDataset rasterXSize="80" rasterYSize="60"><VRTRasterBand dataType="Byte" band="1">'
        "<ColorInterp>Palette</ColorInterp><SimpleSource>"
        '<SourceFilename relativeToVRT="1">grey.tif</SourceFilename><SourceBand>1</SourceBand>'
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with Source(locate(scene)) as source:
        assert any("is grey" in text for text in source.info.guesses)
        assert np.array_equal(source.read(ROWS, COLS)[0], photo()[[0, 0, 0]])


@pytest.mark.parametrize("dtype", ["Byte", "UInt16", "Float32"])
def test_transparent_colours_of_a_palette_are_nodata(dtype: str, write_scene: Write, tmp_path: Path) -> None:
    """And so is what is no number."""
    indices = np.where(VALID, 3, np.arange(80) % 2)[None].astype(
        "uint8" if dtype == "Byte" else dtype.lower()
    )
    if dtype == "Float32":
        indices[0, :, 2:9] = np.array([np.nan, np.inf, -np.inf] * 2 + [np.nan])
    write_scene(indices, "indices.tif")
    colors = "".join(f'<Entry c1="9" c2="99" c3="199" c4="{c4}"/>' for c4 in (0, 0, 255, 40))
    scene = tmp_path / "scene.vrt"
    scene.write_text(
        '<VRTDataset rasterXSize="80" rasterYSize="60"><GeoTransform>300000, 0.5, 0, 3000000, 0, -0.5'
        f'</GeoTransform><SRS>{UTM}</SRS><VRTRasterBand dataType="{dtype}" band="1"><ColorInterp>Palette'
        f"</ColorInterp><ColorTable>{colors}</ColorTable><SimpleSource><SourceFilename "
        'relativeToVRT="1">indices.tif</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>'
    )
    assert np.array_equal(everywhere(scene), VALID)
    with Source(locate(scene)) as source:
        assert source.read(ROWS, COLS)[0][:, 0, -1].tolist() == [9, 99, 199]


def noisy(low: int, high: int) -> np.ndarray:
    return np.random.default_rng(1).integers(low, high, (60, 80))


@pytest.mark.parametrize(
    ("alpha", "said"),
    [
        (noisy(0, 256), True),
        (noisy(0, 256) * VALID, True),
        (noisy(1, 40), True),
        (VALID * 255, False),
        (VALID * 100, False),
        (VALID * noisy(250, 256), False),  # lossy compression
        (np.where(noisy(0, 100) < 15, noisy(1, 255), 255), False),  # soft edges
    ],
)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_an_alpha_band_that_looks_like_data_decides_but_is_said(
    alpha: np.ndarray, said: bool, dtype: str, write_scene: Write
) -> None:
    image = np.stack([*photo(dtype), alpha.astype(dtype) / (1 if dtype == "uint8" else 255)]).astype(dtype)
    path = written(write_scene, image, [C.red, C.green, C.blue, C.alpha])
    with Source(locate(path)) as source:
        notes = source.sample(values=False).notes
        assert np.array_equal(source.read(ROWS, COLS)[1], alpha > 0)
    assert [("looks like data" in note and "-colorinterp_4 undefined" in note) for note in notes] == [
        True
    ] * said
    with Source(locate(path), bands=(4, 1, 2)) as source:
        assert source.sample(values=False).notes == ()


def with_fill(dtype: str, value: float, spare: int = 0) -> np.ndarray:
    """Bands whose left third holds one value, and so many more that would say so."""
    rng = np.random.default_rng(2)
    image = np.where(np.arange(300) < 100, np.array(value, dtype), rng.integers(50, 200, (3, 60, 300)))
    mask = np.broadcast_to((np.arange(300) >= 100) * 255, (spare, 60, 300))
    return np.concatenate([image, mask]).astype(dtype)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("uint8", 0), ("uint8", 255), ("uint16", 0), ("uint16", 65535), ("int16", -32768), ("int16", -9999),
        ("float32", -9999), ("float32", np.finfo("float32").min), ("float64", -1.7e308), ("float64", 1e38),
    ],
)  # fmt: skip
def test_areas_of_a_usual_nodata_value_are_said_and_not_in_the_scale(
    dtype: str, value: float, write_scene: Write
) -> None:
    with Source(locate(write_scene(with_fill(dtype, value), photometric="rgb"))) as source:
        sample = source.sample(values=dtype != "uint8")
        scaling = sampled_scaling(source.sample(values=True), source.info)
    assert 50 <= scaling.low < scaling.high < 200
    (note,) = sample.notes
    assert f"are {value:.9g} in about 25 %" in note
    assert f"gdal_edit.py -a_nodata {value:.9g}" in note


@pytest.mark.parametrize("kind", ["nodata", "mask", "alpha", "77 everywhere"])
def test_areas_that_are_marked_or_may_be_ground_need_no_word(kind: str, write_scene: Write) -> None:
    image = with_fill("uint8", 77 if "77" in kind else 0, spare=int(kind == "alpha"))
    mask = np.broadcast_to(np.arange(300) >= 100, (60, 300)) if kind == "mask" else None
    profile = {"nodata": 0} if kind == "nodata" else {"alpha": "yes"} if kind == "alpha" else {}
    with Source(locate(write_scene(image, photometric="rgb", mask=mask, **profile))) as source:
        assert source.sample(values=True).notes == ()


@pytest.mark.parametrize("kind", ["opaque alpha beside nodata", "nodata of one band"])
def test_areas_that_are_marked_in_vain_are_said(kind: str, write_scene: Write, tmp_path: Path) -> None:
    image = with_fill("uint8", 0, spare=1)
    image[3] = 255
    if kind == "opaque alpha beside nodata":
        scene = written(write_scene, image, [C.red, C.green, C.blue, C.alpha], nodata=0)
    else:
        write_scene(image[:3], "scene.tif", photometric="rgb")
        scene = tmp_path / "scene.vrt"
        with rasterio.open(tmp_path / "scene.tif") as src:
            rasterio.shutil.copy(src, scene, driver="VRT")
        scene.write_text(
            scene.read_text().replace("<ColorInterp>Red", "<NoDataValue>0</NoDataValue><ColorInterp>Red")
        )
    with Source(locate(scene)) as source:
        (note,) = source.sample(values=False).notes
    assert "are 0 in about 25 %" in note
    assert ("correct alpha band 4" in note) == (kind == "opaque alpha beside nodata")


@pytest.mark.parametrize("top", [1, 255])
def test_a_band_that_looks_like_an_alpha_band_is_said(top: int, write_scene: Write) -> None:
    image = with_fill("uint8", 77, spare=1)
    image[3] //= 255 // top
    path = written(write_scene, image, [C.red, C.green, C.blue, C.undefined])
    with Source(locate(path)) as source:
        (note,) = source.sample(values=False).notes
    assert f"band 4 of {path} has only 0 and {top}" in note
    assert "-colorinterp_4 alpha" in note


def test_label_rasters_have_the_same_mask(write_scene: Write) -> None:
    labels = np.arange(60 * 80).reshape(60, 80) % 100  # 77 is a class where alpha says so
    image = np.stack([labels, VALID * 255]).astype(np.uint8)
    path = written(write_scene, image, [C.gray, C.alpha], nodata=77)
    with ClassMap(locate(path), None) as source:
        values = source.read(ROWS, COLS)
        assert np.array_equal(values == source.nodata, ~VALID)
    assert np.array_equal(values[VALID], labels[VALID])


@pytest.mark.parametrize("scale", [1.0, 1.5], ids=["on the grid", "warped"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("kind", ["five bands", "nodata", "alpha and mask", "named", "near infrared"])
def test_sheets_of_a_mosaic_have_the_same_mask(
    kind: str, dtype: str, scale: float, write_scene: Write, tmp_path: Path
) -> None:
    """What lies under a sheet shows where that is not valid, and nowhere else."""
    image = np.stack([*photo(dtype), (VALID * np.iinfo(dtype).max).astype(dtype)])
    colors, mask = [C.red, C.green, C.blue, C.alpha], np.ones_like(VALID)
    if kind == "five bands":
        image, colors = image[[0, 1, 2, 0, 3]], [*colors[:3], C.nir, C.alpha]
    if kind == "near infrared":
        image, colors = image[[0, 1, 2, 0]], [*colors[:3], C.nir]
    if kind in ("alpha and mask", "near infrared"):
        mask[40:] = False
    sheets = []
    for name, pixels, place in (
        ("below", np.full_like(image, 9), NORTH_UP),
        ("above", image, NORTH_UP @ Affine.scale(scale)),
    ):
        own = mask if name == "above" and not mask.all() else None
        nodata = 255 if kind == "nodata" else None
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            path = write_scene(
                pixels, f"{name}.tif", transform=place, mask=own, photometric="minisblack", nodata=nodata
            )
        with rasterio.open(path, "r+") as dst:
            dst.colorinterp = colors
        sheets.append(Sheet(locate(path), tmp_path, name))
    options = PredictOptions(bands=(4, 1, 2) if kind == "named" else None)
    mosaic, _, _ = make_mosaic(sheets, tmp_path / "out", stand_in().card, options)
    with Source(mosaic.location, bands=(1, 2, 3)) as source:
        box = source.info.geobox
        source.scaling = Scaling(0.0, 255.0, "here")
        pixels, valid = source.read(Span(0, box.height), Span(0, box.width))
    expected = VALID & mask
    if kind in ("named", "near infrared"):
        expected = mask
    if scale == 1:
        assert valid.all()
        assert np.array_equal((pixels != 9).any(axis=0), expected)
        return
    shown = pixels[1] != 9
    assert valid[:60, :80].all()
    inside = np.kron(expected, np.ones((3, 3), bool))[::2, ::2]
    assert (shown[:60, :80] == inside[:60, :80]).mean() > 0.97
    assert (valid[60:] == inside[60:]).mean() > 0.97
