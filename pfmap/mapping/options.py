"""How a scene is to be mapped, apart from the model and the device."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict, Unpack, get_args

from pfmap.core.errors import UsageError
from pfmap.mapping.objects import ShapeOptions

SWATH_PIXELS = 4 << 20
"""Pixels of the outputs per swath: few, so that a scene's last ones do not keep most stages waiting."""

SHARED_SWATH_PIXELS = 1 << 20
"""The same where workers share a scene: at its end they wait for the one with a swath in work."""

OutputGrid = Literal["scene", "model"]
OnReadError = Literal["fail", "nodata"]


class Settings(TypedDict, total=False):
    """Keyword arguments that say how scenes are mapped; `pfmap.predict` explains them."""

    overlap: int | None
    batch_size: int | None
    bands: Sequence[int] | None
    scale: tuple[float, float] | None
    gsd: float | None
    resample: bool
    grid: OutputGrid
    aoi: str | os.PathLike[str] | None
    bbox: tuple[float, float, float, float] | None
    formats: Sequence[str]
    classes: Sequence[str] | None
    simplify: float | None
    regularize: Sequence[str]
    min_area: float
    fill_holes: float
    drop_small: bool
    split_large: int
    split_by_class: bool
    confidence: bool
    on_read_error: OnReadError
    overwrite: bool
    resume: bool
    swath_pixels: int


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """How to map a scene.

    Attributes:
        overlap: pixels that windows share, on the network's grid; None for an eighth of the window.
        batch_size: windows per pass; None for what suits the device.
        bands: 1-based band numbers in the model's order; None to choose by colour interpretation.
        scale: pixel values that become 0 and 1; None for 0 and 255 of 8-bit scenes, and for others the
            percentiles 2 and 98 of the scene.
        gsd: metres per pixel of the scene; None to take it from the georeferencing.
        resample: whether a scene outside the model's range of resolution is resampled; else it is refused.
        grid: on which grid the outputs lie where the scene is resampled: the scene's or the model's.
        aoi: vector file whose polygons are mapped, or ``FILE:layer``; None for all.
        bbox: xmin, ymin, xmax, ymax in the scene's CRS that is mapped; None for all.
        classes: names of the classes that become polygons; None for all but the background.
        shapes: what the polygons are to be like.
        confidence: whether to write the confidence raster.
        on_read_error: fail, or count what cannot be read as nodata.
        overwrite: whether existing outputs may be replaced.
        resume: whether to take over what earlier runs with the same scene, model and options made.
        swath_pixels: pixels of the outputs per swath.
    """

    overlap: int | None = None
    batch_size: int | None = None
    bands: tuple[int, ...] | None = None
    scale: tuple[float, float] | None = None
    gsd: float | None = None
    resample: bool = True
    grid: OutputGrid = "scene"
    aoi: str | None = None
    bbox: tuple[float, float, float, float] | None = None
    classes: tuple[str, ...] | None = None
    shapes: ShapeOptions = field(default_factory=ShapeOptions)
    confidence: bool = True
    on_read_error: OnReadError = "fail"
    overwrite: bool = False
    resume: bool = True
    swath_pixels: int = SWATH_PIXELS

    @classmethod
    def of(cls, **settings: Unpack[Settings]) -> "PredictOptions":
        """Sort settings into those of the polygons and all others, with defaults for what is not said."""
        given: dict[str, Any] = dict(settings)
        for name in ("bands", "classes", "regularize"):
            if given.get(name) is not None:
                given[name] = tuple(given[name])
        if given.get("aoi") is not None:
            given["aoi"] = os.fspath(given["aoi"])
        if "formats" in given:
            given["formats"] = tuple(dict.fromkeys(given["formats"]))
        shapes = {name: given.pop(name) for name in ShapeOptions.__slots__ if name in given}
        return cls(shapes=ShapeOptions(**shapes), **given)

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError(f"batch size {self.batch_size} is not possible: use 1 or more")
        if self.scale is not None and not (
            all(map(math.isfinite, self.scale)) and self.scale[0] < self.scale[1]
        ):
            raise UsageError(f"scale {self.scale[0]:g},{self.scale[1]:g} is not possible: give MIN below MAX")
        if self.gsd is not None and not (math.isfinite(self.gsd) and self.gsd > 0):
            raise UsageError(f"gsd {self.gsd} is not possible: give metres per pixel, above 0")
        for value, kind in ((self.grid, OutputGrid), (self.on_read_error, OnReadError)):
            if value not in get_args(kind):
                raise UsageError(f"{value!r} is unknown: use {' or '.join(get_args(kind))}")
