"""Which bands the network sees: numbers, colours, descriptions, in this order."""

from collections.abc import Sequence

import numpy as np
import pytest
import rasterio
from conftest import Write
from rasterio.enums import ColorInterp

from pfmap.core.errors import UsageError
from pfmap.raster.scene import RGB, choose_bands

IRRG = ("nir", "red", "green")


@pytest.fixture
def chosen(write_scene: Write):
    def choose(
        descriptions: Sequence[str | None],
        names: tuple[str, ...],
        bands: Sequence[int] | None = None,
        colors: Sequence[ColorInterp] = (),
    ) -> tuple[int, ...]:
        path = write_scene(np.zeros((len(descriptions), 4, 4), np.uint8), photometric="minisblack")
        with rasterio.open(path, "r+") as dst:
            dst.descriptions = descriptions
            dst.colorinterp = list(colors) or [ColorInterp.undefined] * len(descriptions)
        with rasterio.open(path) as src:
            return choose_bands(src, "scene.tif", names, bands, "m")

    return choose


@pytest.mark.parametrize(
    ("descriptions", "names", "expected"),
    [
        (["Blue (B2)", "Green", "Red_665", "Near Infrared (B8)"], RGB, (3, 2, 1)),
        (["Blue (B2)", "Green", "Red_665", "Near Infrared (B8)"], IRRG, (4, 3, 2)),
        (["red band", "Band green", "NIR"], IRRG, (3, 1, 2)),
        (["one", None, "three"], RGB, (1, 2, 3)),
        (["red", "red", "green", "blue"], RGB, (1, 2, 3)),  # a name that stands twice says nothing
    ],
)
def test_descriptions_name_bands_as_people_write_them(chosen, descriptions, names, expected) -> None:
    assert chosen(descriptions, names) == expected


def test_what_the_user_says_comes_first_then_colours(chosen) -> None:
    colors = [ColorInterp.blue, ColorInterp.green, ColorInterp.red]
    assert chosen(["red", "green", "blue"], RGB, colors=colors) == (3, 2, 1)
    assert chosen(["red", "green", "blue"], RGB, bands=(2, 2, 1), colors=colors) == (2, 2, 1)
    assert chosen([None], RGB, colors=[ColorInterp.gray]) == (1, 1, 1)
    assert chosen([None] * 2, RGB, colors=[ColorInterp.alpha, ColorInterp.gray]) == (2, 2, 2)


def test_what_does_not_fit_is_refused_with_the_numbers(chosen) -> None:
    for arguments, words in (
        ((["x", "y"], RGB), "has 2 bands; model 'm' needs 3"),
        ((["x", "y", "z"], IRRG), "does not say which of its 3 bands are nir, red, green"),
        ((["x", "y", "z"], RGB, (1, 2)), "2 bands; model 'm' needs 3"),
        ((["x", "y", "z"], RGB, (1, 2, 4)), "has bands 1 to 3, not 4"),
    ):
        with pytest.raises(UsageError, match=words):
            chosen(*arguments)
