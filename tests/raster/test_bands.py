"""Which bands the network sees: numbers, colours, names, in this order, and what is said of a guess."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import rasterio
from conftest import Write
from rasterio.enums import ColorInterp

from pfmap.core.classes import RGB
from pfmap.core.errors import UsageError
from pfmap.raster.scene import choose_bands

IRRG = ("nir", "red", "green")
C = ColorInterp
DEFAULT = [C.red, C.green, C.blue]
Choose = Callable[..., tuple[tuple[int, ...], list[str]]]


@pytest.fixture
def choose(write_scene: Write) -> Choose:
    def choose(
        descriptions: Sequence[str | None],
        names: tuple[str, ...] = RGB,
        bands: Sequence[int] | None = None,
        colors: Sequence[ColorInterp] = (),
        tags: Sequence[dict[str, str]] = (),
        **profile: str,
    ) -> tuple[tuple[int, ...], list[str]]:
        image = np.zeros((len(descriptions), 4, 4), np.uint8)
        path = write_scene(image, **{"photometric": "minisblack", **profile})
        with rasterio.open(path, "r+") as dst:
            dst.descriptions = descriptions
            dst.colorinterp = list(colors) or [C.undefined] * len(descriptions)
            for band, of_band in enumerate(tags, 1):
                dst.update_tags(band, **of_band)
        with rasterio.open(path) as src:
            return choose_bands(src, "scene.tif", names, bands, "m")

    return choose


@pytest.mark.parametrize(
    ("descriptions", "names", "expected"),
    [
        (["Blue (B2)", "Green", "Red_665", "Near Infrared (B8)"], RGB, (3, 2, 1)),
        (["Blue (B2)", "Green", "Red_665", "Near Infrared (B8)"], IRRG, (4, 3, 2)),
        (["red band", "Band green", "NIR"], IRRG, (3, 1, 2)),
        (["Blue-475", "Green-560", "Red-668", "Red edge-717", "NIR-840"], RGB, (3, 2, 1)),
        (["Blue-475", "Green-560", "Red-668", "Red edge-717", "NIR-840"], IRRG, (5, 3, 2)),
        (["B2 - blue", "B3 - green", "B4 - red", "B8 - NIR"], RGB, (3, 2, 1)),
        (["B", "G", "R", "RE", "N"], RGB, (3, 2, 1)),
        (
            ["band_1_coastal", "band_2_blue", "band_3_green", "band_4_red", "band_5_near-infrared"],
            RGB,
            (4, 3, 2),
        ),
        (["Band 4 (Red)", "Band 3 (Green)", "Band 2 (Blue)", "SWIR1 (shortwave infrared)"], RGB, (1, 2, 3)),
        (["490 nm", "560 nm", "665.5 nm", "705 nm", "842 nm"], RGB, (3, 2, 1)),
        (["490 nm", "560 nm", "665.5 nm", "705 nm", "842 nm"], IRRG, (5, 3, 2)),
        (["DeepBlue", "LightGreen", "RedBand", "NearInfraRed", "RedEdge"], IRRG, (4, 3, 2)),
        (["0.49 um", "0.56 um", "0.665 um"], RGB, (3, 2, 1)),
    ],
)
def test_names_are_understood_as_people_write_them(choose: Choose, descriptions, names, expected) -> None:
    assert choose(descriptions, names) == (expected, [])


@pytest.mark.parametrize("key", ["wavelength", "CentralWavelength"])
def test_wavelengths_in_metadata_name_bands(choose: Choose, key: str) -> None:
    tags = [{key: value, "wavelength_units": "nm"} for value in ("475", "560", "668", "717", "840")]
    assert choose([None] * 5, tags=tags)[0] == (3, 2, 1)
    assert choose([None] * 5, IRRG, tags=tags)[0] == (5, 3, 2)


@pytest.mark.parametrize(
    ("descriptions", "names", "expected"),
    [
        (["B02", "B03", "B04", "B08"], RGB, (3, 2, 1)),
        (["B02", "B03", "B04", "B08"], IRRG, (4, 3, 2)),
        (["B4", "B3", "B2"], RGB, (1, 2, 3)),
        (["Band 2", "Band 3", "Band 4"], RGB, (3, 2, 1)),
        ([f"T45RUL_20260101_B{n}" for n in ("02", "03", "04", "8A")], RGB, (3, 2, 1)),
        (["SR_B2", "SR_B3", "SR_B4", "SR_B5"], RGB, (3, 2, 1)),
        ([f"SR_B{n}" for n in range(1, 8)], RGB, (4, 3, 2)),
        ([f"SR_B{n}" for n in range(1, 8)], IRRG, (5, 4, 3)),
        ([f"B{n}" for n in (1, 2, 3, 4, 5, 6, 7, 8, "8A", 9, 11, 12)], RGB, (4, 3, 2)),
    ],
)
def test_numbers_of_satellites_are_read_and_said(choose: Choose, descriptions, names, expected) -> None:
    bands, (note,) = choose(descriptions, names)
    assert bands == expected
    assert f"{', '.join(map(str, expected))} are taken for {', '.join(names)}" in note
    assert "Landsat" in note or "Sentinel" in note


@pytest.mark.parametrize(
    "descriptions",
    [
        ["one", None, "three"],
        [None] * 5,
        ["Band 1", "Band 2", "Band 3", "Band 4"],  # counted
        [f"Band {number}" for number in range(1, 8)],
        ["SR_B1", "SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B7"],  # of Landsat 5 or 7, or of 8
        ["B03", "B04", "B05"],
    ],
)
def test_what_does_not_name_colours_is_a_guess_and_said(choose: Choose, descriptions) -> None:
    bands, (note,) = choose(descriptions)
    assert bands == (1, 2, 3)
    assert "do not say which colours they are: 1, 2, 3 are taken for red, green, blue" in note
    assert "bands=" in note


def test_what_the_user_says_comes_first_then_colours(choose: Choose) -> None:
    colors = [C.blue, C.green, C.red]
    bands, (note,) = choose(["red", "green", "blue"], colors=colors)
    assert bands == (3, 2, 1)
    assert "are called red, green, blue but tagged blue, green, red" in note
    assert choose(["red", "green", "blue"], bands=(2, 2, 1), colors=colors) == ((2, 2, 1), [])
    assert choose([None], colors=[C.gray]) == ((1, 1, 1), [])
    assert choose([None] * 2, colors=[C.alpha, C.gray]) == ((2, 2, 2), [])
    assert choose([None] * 3, colors=DEFAULT) == ((1, 2, 3), [])
    for called in ("Layer_{}", "Band {}", "band{:02}", "{}"):
        assert choose([called.format(n) for n in (1, 2, 3)], colors=DEFAULT) == ((1, 2, 3), [])


def test_names_count_more_than_the_interpretation_of_any_file_without_one(choose: Choose) -> None:
    bands, (note,) = choose(["Blue", "Green", "Red"], colors=DEFAULT)
    assert bands == (3, 2, 1)
    assert "are called Blue, Green, Red but tagged red, green, blue: 3, 2, 1 are taken" in note
    bands, (note,) = choose(["NIR", "Red", "Green", "Blue"], IRRG, colors=[*DEFAULT, C.alpha])
    assert bands == (1, 2, 3)
    assert "tagged" in note


@pytest.mark.parametrize(
    "descriptions",
    [
        ["bleu", "vert", "rouge"],
        ["Rot", "Grün", "Blau"],
        ["R490", "R560", "R665"],
        ["SR_B1", "SR_B2", "SR_B3"],  # Landsat 7: blue first
        ["Red", "Vert", None, "NIR"],
    ],
)
def test_names_that_are_not_understood_are_said(choose: Choose, descriptions) -> None:
    bands, (note,) = choose(descriptions, colors=[*DEFAULT, *[C.undefined] * (len(descriptions) - 3)])
    assert bands == (1, 2, 3)
    assert "which is not understood" in note
    assert str(descriptions[1]) in note


@pytest.mark.parametrize(
    "descriptions",
    [["BandBlue", "BandGreen", "BandRed"], ["490 nm", "560 nm", "665 nm"], ["B02", "B03", "B04"]],
)
def test_names_that_are_understood_count_more_than_the_default(choose: Choose, descriptions) -> None:
    assert choose(descriptions, colors=DEFAULT)[0] == (3, 2, 1)


def test_names_and_interpretation_may_each_say_a_part(choose: Choose) -> None:
    assert choose([None, None, None, "NIR"], IRRG, colors=[*DEFAULT, C.undefined]) == ((4, 1, 2), [])


def test_a_grey_scene_whose_zero_is_white_is_grey(choose: Choose) -> None:
    assert choose([None], photometric="miniswhite") == ((1, 1, 1), [])


@pytest.mark.parametrize(
    ("descriptions", "colors"),
    [
        ([None] * 3, [C.nir, C.red, C.green]),
        (["NIR", "Red", "Green"], DEFAULT),
        (["NIR", "Red", "Green"], []),
        (["red", "red", "green", "blue"], []),
        (["Red", "Green", "NIR"], DEFAULT),
        (["443 nm", "705 nm", "842 nm"], []),
        ([None] * 4, [C.cyan, C.magenta, C.yellow, C.black]),
        ([None] * 3, [C.Y, C.Cb, C.Cr]),
        ([None] * 3, [C.hue, C.saturation, C.lightness]),
    ],
)
def test_bands_that_are_known_to_be_others_are_never_taken(choose: Choose, descriptions, colors) -> None:
    with pytest.raises(UsageError, match=r"does not say which of its . bands are red, green, blue.*bands="):
        choose(descriptions, colors=colors)


def test_what_does_not_fit_is_refused_with_the_numbers(choose: Choose) -> None:
    for arguments, words in (
        ((["x", "y"], RGB), "has 2 bands; model 'm' needs 3"),
        ((["x", "y", "z"], IRRG), "does not say which of its 3 bands are nir, red, green"),
        ((["x", "y", "z"], RGB, (1, 2)), "2 bands; model 'm' needs 3"),
        ((["x", "y", "z"], RGB, (1, 2, 4)), "has bands 1 to 3, not 4"),
    ):
        with pytest.raises(UsageError, match=words):
            choose(*arguments)
