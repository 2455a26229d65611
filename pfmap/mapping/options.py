"""The options of mapping: name, type, default and sentence of each, once.

`Settings` names them again with their types, because type checkers and editors read nothing else; a test
holds the two alike. Nothing heavy is imported here: ``pfmap predict --help`` reads this module.
"""
# ruff: noqa: RUF009 - option() makes a field, as dataclasses.field does

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack, get_args

from pfmap.core.errors import UsageError
from pfmap.core.option import OPTIONS, PYTHON_ONLY, check, option, register, take
from pfmap.mapping.run_options import OpenedCluster, RunOptions, SurveyOptions

if TYPE_CHECKING:
    from pfmap.model.store import Model

SWATH_PIXELS = 4 << 20
"""Pixels of the outputs per swath: few, so that a scene's last ones do not keep most stages waiting."""

SHARED_SWATH_PIXELS = 1 << 20
"""The same where workers share a scene: at its end they wait for the one with a swath in work."""

_SQUARE = "Square metres, or pixels where there is no CRS."
_NAMES = "NAME,NAME"

OutputGrid = Literal["scene", "model"]
OnReadError = Literal["fail", "nodata"]


@dataclass(frozen=True, slots=True)
class ShapeOptions:
    """What polygons are to be like. Lengths and areas are in pixels where the scene has no CRS."""

    formats: tuple[str, ...] = option(
        ("gpkg",),
        "Vector format; may be repeated.",
        flags=("--format",),
        choices=("gpkg", "shp", "fgb", "geojson", "parquet", "pmtiles"),
    )
    simplify: float | None = option(
        None,
        "How far outlines may be moved to simplify them; 0 leaves the pixels' steps.",
        more="Metres, or pixels where there is no CRS.",
        words="1.25 pixels",
        metavar="METRES",
        least=0,
    )
    regularize: tuple[str, ...] = option(
        (), "Classes whose objects are squared: right angles, straight walls.", words="none", metavar=_NAMES
    )
    separate: tuple[str, ...] | None = option(
        None,
        "Classes whose objects are taken apart where they touch, such as houses in a row; none for none.",
        more="A contact map shows where; without one it is guessed from their shape.",
        words="those of the model's contact map, or of the one beside a class raster",
        metavar=_NAMES,
    )
    smooth: tuple[str, ...] = option(
        (), "Classes whose outlines become curves, within simplify=.", words="none", metavar=_NAMES
    )
    min_area: float | None = option(
        None,
        "Merge smaller regions, of whatever class, into the neighbour with the longest border; 0 keeps all.",
        more=_SQUARE,
        words="for each class what the model's card says, 16 pixels or more; 0 where no model is",
        metavar="M2",
        least=0,
    )
    fill_holes: float = option(0.0, "Fill smaller holes.", more=_SQUARE, metavar="M2", least=0)
    drop_small: bool = option(False, "Leave regions below min_area= out instead.")
    split_large: int = option(
        100_000,  # larger polygons make GIS programs slow
        "Cut objects of more than N vertices along a grid; 0 never cuts.",
        metavar="N",
        least=0,
    )
    split_by_class: bool = option(False, "Write vector files for each class.")

    def __post_init__(self) -> None:
        check(self)
        if not self.formats:
            known = ", ".join(OPTIONS["formats"].metadata["option"].choices)
            raise UsageError(f"no vector format is named: use one or more of {known}")
        if both := {*self.smooth} & {*self.regularize}:
            raise UsageError(f"class {min(both)!r} is in smooth= and in regularize=: curves or right angles?")
        if self.smooth and self.simplify == 0:
            raise UsageError("smooth= needs room to move outlines in: leave simplify=0 out")
        if self.drop_small and self.min_area == 0:
            raise UsageError("drop_small=True needs min_area=: how small is small?")

    def tolerance(self, gsd: float) -> float:
        """Return `simplify` in pixels of `gsd` metres, or 1 without a CRS."""
        # By default the steps of a slanted edge vanish, and its noise of one pixel.
        return 1.25 if self.simplify is None else self.simplify / gsd


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """How to map a scene, apart from the model and what computes."""

    overlap: int | None = option(
        None,
        "Pixels that windows share and blend.",
        more="Of the image that the network sees.",
        words="an eighth of the window",
        metavar="PX",
        least=0,
    )
    batch_size: int | None = option(None, "Windows per pass.", words="1 on CPU, 8 on GPU", least=1)
    tta: str = option(
        "none",
        "Test-time augmentation: the mean over 4 flipped (flips) or 8 flipped and turned (d4) views of each "
        "window, in as many times the time.",
        choices=("none", "flips", "d4"),
    )
    bands: tuple[int, ...] | None = option(
        None,
        "Band numbers, from 1, in the model's order.",
        words="by colour interpretation",
        metavar="N,N,N",
        example="1,2,3",
    )
    extra: Mapping[str, str] | None = option(
        None,
        "A band's own file, such as dsm=heights.tif or dsm={stem}_dsm.tif.",
        metavar="NAME=FILE",
        example="dsm=heights.tif",
    )
    scale: tuple[float, float] | None = option(
        None,
        "Pixel values from black to white, of bands without a scale of their own in the card.",
        words="0,255 of 8-bit scenes, percentiles 2 and 98 of others",
        metavar="MIN,MAX",
        example="0,10000",
    )
    gsd: float | None = option(
        None,
        "Size of the scene's pixels on the ground, in metres; of a tile server, how fine a zoom is read.",
        words="from its georeferencing",
        metavar="METRES",
        least=0,
        above=True,
    )
    resample: bool = option(True, "Bring a scene to the resolution that the model wants while reading.")
    grid: OutputGrid = option(
        "scene", "Whose pixels the outputs have where the scene is resampled.", choices=get_args(OutputGrid)
    )
    aoi: str | None = option(
        None, "Map only inside the polygons of a vector file, in any CRS.", metavar="FILE[:LAYER]"
    )
    bbox: tuple[float, float, float, float] | None = option(
        None,
        "Map only inside this box.",
        more="As (xmin, ymin, xmax, ymax).",
        metavar="XMIN,YMIN,XMAX,YMAX",
        example="500000,4100000,500500,4100500",
    )
    bbox_crs: str | None = option(
        None,
        "CRS of the box, such as EPSG:4326: longitude, latitude.",
        words="the scene's CRS",
        metavar="CRS",
    )
    classes: tuple[str, ...] | None = option(
        None, "Classes that become polygons.", words="all; of a model, all but its background", metavar=_NAMES
    )
    shapes: ShapeOptions = field(default_factory=ShapeOptions)
    sieve: str = option(
        "polygons",
        "Merge small regions and fill holes in the polygons alone, or in the class raster too.",
        choices=("polygons", "raster"),
    )
    confidence: bool = option(True, "Write the confidence raster.")
    probabilities: bool = option(False, "Write the probabilities of all classes, a band for each.")
    threshold: Mapping[str, float] | None = option(
        None,
        "Choose a class only where its probability is above P, 0 to 1, else the next best; may be repeated.",
        more="By name of the class. Where no class is above its own, the best of all is chosen.",
        words="none",
        metavar="CLASS=P",
        example="building=0.6",
    )
    on_read_error: OnReadError = option(
        "fail",
        "What to do about blocks that cannot be read.",
        more="With nodata they are listed in the report.",
        choices=get_args(OnReadError),
    )
    overwrite: bool = option(False, "Replace existing outputs.")
    resume: bool = option(True, "Take over what earlier runs of the same command made.")
    swath_pixels: int = option(
        SWATH_PIXELS,
        "Pixels of the outputs that are in work at a time; the result does not depend on it.",
        flags=PYTHON_ONLY,
    )

    @classmethod
    def of(cls, **settings: Unpack["Settings"]) -> "PredictOptions":
        """Make options of settings, with defaults for what is not said; unknown names are errors."""
        shapes, own = take(ShapeOptions, settings)
        return cls(shapes=shapes, **own)

    def __post_init__(self) -> None:
        check(self)
        low, high = self.scale or (0.0, 255.0)
        if not (low < high and 0 < 255 / (high - low) < math.inf):
            raise UsageError(f"scale {low:g},{high:g} is not possible: give MIN below MAX")
        if self.bbox_crs and not self.bbox:
            raise UsageError("bbox_crs= says what the numbers of bbox= are in: give these too")
        for name, least in (self.threshold or {}).items():
            if not 0 <= least <= 1:
                raise UsageError(f"threshold {least:g} of {name!r} is not possible: use 0 to 1, such as 0.6")
        if self.sieve == "raster" and self.shapes.drop_small:
            raise UsageError(
                "drop_small=True leaves gaps, and a class raster has none: leave it out, or sieve='raster'"
            )

    @property
    def decided(self) -> dict[str, str]:
        """What else than the highest probability of one view decides on classes; empty if nothing does."""
        least = ",".join(f"{name}={float(p)}" for name, p in sorted((self.threshold or {}).items()))
        found = {"tta": self.tta.removeprefix("none"), "threshold": least}
        return {name: text for name, text in found.items() if text}


class ShapeSettings(TypedDict, total=False):
    """The keyword arguments of `ShapeOptions`."""

    formats: Sequence[str]
    simplify: float | None
    regularize: Sequence[str]
    separate: Sequence[str] | None
    smooth: Sequence[str]
    min_area: float | None
    fill_holes: float
    drop_small: bool
    split_large: int
    split_by_class: bool


class WindowSettings(TypedDict, total=False):
    """Keyword arguments that say how a single window is read and computed."""

    model: "str | Path | Model"
    device: str
    bands: Sequence[int] | None
    extra: Mapping[str, str] | None
    scale: tuple[float, float] | None
    gsd: float | None


class SceneSettings(WindowSettings, total=False):
    """Keyword arguments that say how a scene is read and computed."""

    precision: str
    overlap: int | None
    batch_size: int | None
    tta: str
    resample: bool
    grid: OutputGrid
    aoi: str | os.PathLike[str] | None
    bbox: tuple[float, float, float, float] | None
    bbox_crs: str | None
    confidence: bool
    probabilities: bool
    threshold: Mapping[str, float] | None
    on_read_error: OnReadError


class Settings(SceneSettings, ShapeSettings, total=False):
    """All keyword arguments of `RunOptions`, `PredictOptions` and `ShapeOptions`."""

    classes: Sequence[str] | None
    sieve: str
    overwrite: bool
    resume: bool
    swath_pixels: int
    workers: int | None
    cluster: "str | OpenedCluster | None"


class SurveySettings(Settings, total=False):
    """The same, and those of `SurveyOptions`."""

    pattern: str | None
    retry_failed: bool
    watch: bool


register(RunOptions, SurveyOptions, ShapeOptions, PredictOptions)
