"""How a scene is to be mapped, apart from the model and the device."""

from dataclasses import dataclass

from pfmap.errors import UsageError
from pfmap.vector.write import FORMATS

SWATH_PIXELS = 16 << 20
"""Pixels of the scene per swath: memory for class and confidence is twice this in bytes."""


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """How to map a scene.

    Attributes:
        overlap: pixels that windows share; None for an eighth of the window.
        batch_size: windows per pass; None for what suits the device.
        bands: 1-based band numbers in the model's order; None to choose by colour interpretation.
        formats: vector files to write: gpkg, shp, geojson.
        classes: names of the classes that become polygons; None for all but the background.
        min_area: smaller objects are left out, square metres (pixels where the scene has no CRS).
        confidence: whether to write the confidence raster.
        overwrite: whether existing outputs may be replaced.
        swath_pixels: pixels of the scene per swath.
    """

    overlap: int | None = None
    batch_size: int | None = None
    bands: tuple[int, ...] | None = None
    formats: tuple[str, ...] = ("gpkg",)
    classes: tuple[str, ...] | None = None
    min_area: float = 0.0
    confidence: bool = True
    overwrite: bool = False
    swath_pixels: int = SWATH_PIXELS

    def __post_init__(self) -> None:
        unknown = [form for form in self.formats if form not in FORMATS]
        if unknown:
            raise UsageError(f"format {unknown[0]!r} is unknown: use {', '.join(FORMATS)}")
        if not self.formats:
            raise UsageError(f"no vector format is named: use one or more of {', '.join(FORMATS)}")
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError(f"batch size {self.batch_size} is not possible: use 1 or more")
        if self.min_area < 0:
            raise UsageError(f"min area {self.min_area} is not possible: use 0 or more")
