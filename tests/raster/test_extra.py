"""Bands by name, from the scene's file and from others: as the network sees them, pixel by pixel."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from conftest import UTM, Write, stand_in
from rasterio.enums import ColorInterp
from rasterio.warp import transform

from pfmap.core.card import Card, InputSpec
from pfmap.core.errors import PfmapError, SourceError, UsageError
from pfmap.core.grid import Span
from pfmap.mapping.job import open_scene
from pfmap.mapping.options import PredictOptions
from pfmap.raster.location import locate
from pfmap.raster.scaling import known_scaling, sampled_scaling

HEIGHT, WIDTH = 40, 50
PLACE = Affine(0.5, 0, 300000, 0, -0.5, 3000000)
FIVE = ("red", "green", "blue", "nir", "dsm")
WHOLE = Span(0, HEIGHT), Span(0, WIDTH)


VIRTUAL = """<VRTDataset rasterXSize="8" rasterYSize="8"><SRS>{crs}</SRS>
<GeoTransform>300000, 0.5, 0, 3000000, 0, -0.5</GeoTransform><VRTRasterBand dataType="Float32" band="1">
<SimpleSource><SourceFilename relativeToVRT="1">{name}</SourceFilename><SourceBand>1</SourceBand>
<SrcRect xOff="0" yOff="0" xSize="4" ySize="8"/><DstRect xOff="0" yOff="0" xSize="4" ySize="8"/>
</SimpleSource></VRTRasterBand></VRTDataset>"""


def card_of(bands: Sequence[str], scale: float = 255.0, **scales: float) -> Card:
    """A card of a model with these bands, some of which have a scale of their own."""
    card, count = stand_in().card, len(bands)
    spec = InputSpec(tuple(bands), scale, (0.0,) * count, (1.0,) * count, 64, (0.01, 10.0), scales)
    architecture = dataclasses.replace(card.architecture, bands=count)
    return dataclasses.replace(card, input=spec, architecture=architecture)


def seen(path: Path, card: Card, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """What the network sees of a whole scene, and which pixels have data."""
    given = PredictOptions.of(**options)
    with open_scene(locate(path), card, given) as source:
        known = known_scaling(source.info, card.input.scale, given.scale)
        source.scaling = known or sampled_scaling(source.sample(values=True), source.info)
        return source.read(*WHOLE)


def eight_bit(values: np.ndarray, scale: float) -> np.ndarray:
    """The oracle of scaling: 0 to a scale becomes 0 to 255, rounded."""
    return np.floor(np.clip(values.astype(float) / scale, 0, 1) * 255 + 0.5)


def bilinear(values: np.ndarray, known: np.ndarray, x: float, y: float) -> float | None:
    """The oracle of interpolation: between the four nearest centres of those that are known."""
    height, width = values.shape
    if not (0 <= x < width and 0 <= y < height and known[int(y), int(x)]):
        return None
    total = weights = 0.0
    for row in (int(np.floor(y - 0.5)), int(np.floor(y - 0.5)) + 1):
        for col in (int(np.floor(x - 0.5)), int(np.floor(x - 0.5)) + 1):
            weight = (1 - abs(y - 0.5 - row)) * (1 - abs(x - 0.5 - col))
            if 0 <= row < height and 0 <= col < width and known[row, col]:
                total, weights = total + weight * values[row, col], weights + weight
    return total / weights


def heights(height: int, width: int) -> np.ndarray:
    rows, cols = np.mgrid[:height, :width]
    return (12 + 10 * np.sin(rows / 5) + 6 * np.cos(cols / 4)).astype(np.float32)


@pytest.mark.parametrize(
    ("dtype", "scale", "high"), [("uint8", 255.0, 256), ("uint16", 10000.0, 12000), ("float32", 0.4, 1)]
)
@pytest.mark.parametrize("bands", [("grey",), ("red", "nir"), ("red", "green", "blue", "nir"), FIVE])
def test_bands_are_found_by_name_and_scaled_as_the_card_says(
    bands: tuple[str, ...], dtype: str, scale: float, high: float, write_scene: Write
) -> None:
    values = (np.random.default_rng(0).random((5, HEIGHT, WIDTH)) * high).astype(dtype)
    order = [4, 2, 0, 1, 3] if len(bands) > 1 else [0]  # dsm, blue, red, green, nir
    path = write_scene(values[order], photometric="minisblack")
    with rasterio.open(path, "r+") as dst:
        dst.colorinterp = [ColorInterp.undefined] * len(order)
        dst.descriptions = ["DSM (m)", "Blue", "Red", "Green", "NIR"] if len(bands) > 1 else [None]
    each = [scale / 4 if name == "dsm" else scale for name in bands]
    pixels, valid = seen(path, card_of(bands, scale, **({"dsm": scale / 4} if "dsm" in bands else {})))
    wanted = {name: values[k] for k, name in enumerate(("grey",) if len(bands) == 1 else FIVE)}
    assert valid.all()
    for name, one, found in zip(bands, each, pixels, strict=True):
        assert np.abs(found - eight_bit(wanted[name], one)).max() <= (dtype == "float32"), name


@pytest.mark.parametrize(("crs", "dtype"), [(UTM, "float32"), (UTM, "int16"), ("EPSG:32644", "float32")])
def test_a_band_of_its_own_file_is_brought_to_the_grid_bilinearly(
    crs: str, dtype: str, write_scene: Write
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, HEIGHT, WIDTH), dtype=np.uint8)
    scene = write_scene(image, transform=PLACE)
    values, known = heights(30, 40).astype(dtype), np.ones((30, 40), bool)
    known[8:12, 10:14] = False
    x, y = transform(UTM, crs, [300003.0], [2999997.0]) if crs != UTM else ([300003.0], [2999997.0])
    place = Affine(0.7, 0, x[0], 0, -0.7, y[0])
    dsm = write_scene(np.where(known, values, -9999).astype(dtype)[None], "dsm.tif", crs, place, nodata=-9999)
    pixels, valid = seen(scene, card_of(("dsm", "red", "green", "blue"), dsm=30), extra={"dsm": str(dsm)})
    at = [
        (PLACE.c + (col + 0.5) / 2, PLACE.f - (row + 0.5) / 2)
        for row in range(HEIGHT)
        for col in range(WIDTH)
    ]
    xs, ys = transform(UTM, crs, *zip(*at, strict=True))
    places = [((x - place.c) / 0.7, (place.f - y) / 0.7) for x, y in zip(xs, ys, strict=True)]
    found = [bilinear(values, known, *place) for place in places]
    wanted = np.array([np.nan if one is None else one for one in found]).reshape(HEIGHT, WIDTH)
    assert 0.2 < np.isnan(wanted).mean() < 0.8
    assert (valid == ~np.isnan(wanted)).mean() > (0.999 if crs == UTM else 0.99)
    both = valid & ~np.isnan(wanted)
    assert np.abs(pixels[0] - eight_bit(np.nan_to_num(wanted), 30.0))[both].max() <= 1
    assert np.array_equal(pixels[1:], image)


def test_a_file_on_the_scenes_own_grid_is_read_as_it_is(write_scene: Write) -> None:
    image = np.random.default_rng(0).integers(0, 4000, (4, HEIGHT, WIDTH), dtype=np.uint16)
    scene, nir = write_scene(image[:3], photometric="rgb"), write_scene(image[3:], "nir.tif", nodata=7)
    card = card_of(("red", "nir", "green", "blue"), 10000.0)
    pixels, valid = seen(scene, card, extra={"nir": str(nir)})
    assert np.array_equal(pixels, eight_bit(image[[0, 3, 1, 2]], 10000.0))
    assert np.array_equal(valid, image[3] != 7)


def test_what_the_user_says_of_values_counts_for_bands_of_one_scale(write_scene: Write) -> None:
    values = np.random.default_rng(0).integers(0, 4000, (3, HEIGHT, WIDTH), dtype=np.uint16)
    dsm = write_scene(heights(HEIGHT, WIDTH)[None], "dsm.tif")
    scene, card = write_scene(values, photometric="rgb"), card_of((*FIVE[:3], "dsm"), 10000, dsm=30)
    pixels, _ = seen(scene, card, extra={"dsm": str(dsm)}, scale=(0, 2000))
    assert np.abs(pixels[:3] - eight_bit(values, 2000)).max() == 0
    assert np.abs(pixels[3] - eight_bit(heights(HEIGHT, WIDTH), 30)).max() <= 1


@pytest.mark.parametrize("nodata", [-9999, None])
def test_a_height_that_is_unknown_in_the_scenes_own_file_makes_a_pixel_so(
    nodata: float | None, write_scene: Write
) -> None:
    """Of colours one that is known is enough: another may have the nodata value by chance."""
    values = np.full((4, HEIGHT, WIDTH), 9, np.float32)
    values[3, :5], values[0, 9] = -9999, -9999
    path = write_scene(values, photometric="minisblack", nodata=nodata)
    _, valid = seen(path, card_of((*FIVE[:3], "dsm"), 30, dsm=30), bands=(1, 2, 3, 4))
    assert valid[9].all()
    assert valid[:5].any() == (nodata is None)


def test_percentiles_are_those_of_the_bands_that_they_are_for(write_scene: Write) -> None:
    """A band that the card knows better, as heights, has no say in how the others are stretched."""
    values = np.random.default_rng(0).uniform(0, 1, (4, HEIGHT, WIDTH)).astype(np.float32)
    values[3] *= 5000
    path = write_scene(values, photometric="minisblack")
    pixels, _ = seen(path, card_of((*FIVE[:3], "dsm"), dsm=5000), bands=(1, 2, 3, 4))
    low, high = np.percentile(values[:3], [2, 98])
    assert np.abs(pixels[:3] - eight_bit(values[:3] - low, high - low)).max() <= 1
    assert np.abs(pixels[3] - eight_bit(values[3], 5000)).max() <= 1


def refused(write_scene: Write, tmp_path: Path, case: str) -> None:
    scene = write_scene(np.zeros((3, 8, 8), np.uint8), photometric="rgb")
    one = np.ones((1, 8, 8), np.float32)
    place = PLACE @ Affine.translation(500, 0) if case == "apart" else PLACE
    crs = None if case == "no CRS" else UTM
    count = 2 if case == "several" else 1
    dsm = write_scene(one.repeat(count, 0), "dsm.tif", crs, place)
    if case in ("gaps", "gone"):
        shown = "dsm.tif" if case == "gaps" else "gone.tif"
        dsm = dsm.with_name("dsm.vrt")
        dsm.write_text(VIRTUAL.format(name=shown, crs=UTM))
    scales = {} if case == "unscaled" else {"dsm": 30.0}
    extra = {"absent": {"dsm": str(tmp_path / "x.tif")}, "lacking": None, "stranger": {"dem": str(dsm)}}
    every = dict.fromkeys((*FIVE[:3], "dsm"), str(dsm))
    seen(
        scene,
        card_of((*FIVE[:3], "dsm"), **scales),
        extra=extra.get(case, every if case == "all" else {"dsm": str(dsm)}),
    )


@pytest.mark.parametrize(
    ("case", "kind", "words"),
    [
        ("no CRS", SourceError, r"dsm.tif has no CRS, and .*scene.tif lies in .*gdal_edit.py -a_srs"),
        ("apart", SourceError, "dsm.tif and .*scene.tif do not overlap"),
        ("several", SourceError, "dsm.tif has 2 bands; a file for extra= has one: .*-b 1"),
        (
            "gaps",
            SourceError,
            "dsm.vrt has places where nothing was written.* nodata value with gdal_edit.py",
        ),
        ("gone", SourceError, "dsm.vrt .*put back what is gone"),
        ("unscaled", UsageError, "dsm.tif holds float32 values, .* has 255 as scale of dsm: state there"),
        ("absent", SourceError, "x.tif does not exist"),
        ("stranger", UsageError, "extra= names dem; model 'stand_in' sees red, green, blue, dsm, of which"),
        (
            "all",
            UsageError,
            "extra= names red, green, blue, dsm; model 'stand_in' sees red, green, blue, dsm",
        ),
        (
            "lacking",
            UsageError,
            r"scene.tif has 3 bands; model 'stand_in' needs 4 \(red, green, blue, dsm\): choose them with "
            r"bands=, or give a file of its own with extra=\{'dsm': 'FILE'\}",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_a_clear_refusal(
    case: str, kind: type[PfmapError], words: str, write_scene: Write, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=words):
        refused(write_scene, tmp_path, case)


def test_a_pattern_names_a_file_beside_each_scene_and_none_that_leads_elsewhere(write_scene: Write) -> None:
    scene, card = write_scene(np.zeros((3, 8, 8), np.uint8), "a.tif"), card_of((*FIVE[:3], "dsm"), 30.0)
    write_scene(np.full((1, 8, 8), 15, np.float32), "a_dsm.tif")
    with open_scene(locate(scene), card, PredictOptions(extra={"dsm": "{stem}_dsm.tif"})) as source:
        assert (source.read(Span(0, 8), Span(0, 8))[0][3] == 128).all()
    (scene.parent / "far").mkdir()
    (scene.parent / "a_dsm.tif").rename(scene.parent / "far" / "a.tif")
    (scene.parent / "a_dsm.tif").symlink_to(scene.parent / "far" / "a.tif")
    with pytest.raises(SourceError, match="left alone"):
        open_scene(locate(scene), card, PredictOptions(extra={"dsm": "{stem}_dsm.tif"}))


def test_another_file_is_another_run(write_scene: Write) -> None:
    scene, card = write_scene(np.zeros((3, 8, 8), np.uint8)), card_of((*FIVE[:3], "dsm"), 30.0)
    prints = set()
    for level in (1, 2):
        dsm = write_scene(np.full((1, 8, 8), level, np.float32), "dsm.tif")
        with open_scene(locate(scene), card, PredictOptions(extra={"dsm": str(dsm)})) as source:
            prints.add(source.fingerprint())
    assert len(prints) == 2


@pytest.mark.parametrize(
    ("level", "words"),
    [(1300, "100% of the values of dsm in .*dsm.tif lie outside 0 to 30"), (-1, "dsm.tif has no dsm in any")],
)
def test_heights_that_are_none_of_the_cards_are_said(level: float, words: str, write_scene: Write) -> None:
    scene, card = write_scene(np.zeros((3, 40, 50), np.uint8)), card_of((*FIVE[:3], "dsm"), dsm=30)
    for value, expected in ((level, 1), (12, 0)):
        dsm = write_scene(np.full((1, 40, 50), value, np.float32), "dsm.tif", nodata=-1)
        with open_scene(locate(scene), card, PredictOptions(extra={"dsm": str(dsm)})) as source:
            said = source.sample(values=False).notes
        assert len([note for note in said if re.search(words, note)]) == expected
