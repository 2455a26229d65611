"""The report that lies beside a mapped scene's outputs: fields are keys of its JSON, in this order."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pfmap.core.grid import Affine, GeoBox
from pfmap.raster.scaling import Scaling

Unit = Literal["m2", "px"]
"""Of areas: square metres, or pixels where there is no CRS."""


@dataclass(frozen=True, slots=True)
class SceneFacts:
    """What was mapped, and how much of it."""

    path: str
    """As it was named."""
    width: int
    height: int
    bands: tuple[int, ...]
    """1-based numbers of the scene's own bands that were mapped."""
    dtype: str
    crs: str | None
    """WKT."""
    transform: Affine
    gsd_m: float | None
    """Metres per pixel."""
    scale: Scaling
    valid_pixels: int
    """Of the outputs."""
    mean_confidence: float
    """Percent; 0 without a valid pixel."""
    unreadable_blocks: tuple[tuple[int, ...], ...]
    """Column, row, width and height of each."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The model that mapped it."""

    name: str
    sha256: str
    """Of its weights."""
    attribution: str


@dataclass(frozen=True, slots=True)
class MapFacts:
    """The grid of the outputs."""

    width: int
    height: int
    transform: Affine


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRow:
    """How much there is of a class."""

    class_id: int
    name: str = field(metadata={"key": "class"})
    pixels: int
    area_m2: float | None = None
    """One of the two areas is there, in the report's unit."""
    area_px: float | None = None
    objects: int
    merged_regions: int = 0
    """Those too small for objects that became a part of a neighbour, and their pixels."""
    merged_pixels: int = 0

    @property
    def area(self) -> float:
        """In the report's unit."""
        return self.area_m2 if self.area_m2 is not None else self.area_px or 0.0


@dataclass(frozen=True, slots=True)
class Swaths:
    """How many there were."""

    whole: int = field(metadata={"key": "all"})
    from_earlier_runs: int


@dataclass(frozen=True, slots=True)
class SceneReport:
    """What a run says of a scene that it mapped."""

    pfmap: str
    """Its version."""
    finished: str
    """ISO 8601 in UTC."""
    scene: SceneFacts
    model: ModelFacts
    options: Mapping[str, Any]
    """Facts by name, for people."""
    map: MapFacts
    classes: tuple[ClassRow, ...]
    """In the order of their values."""
    warnings: tuple[str, ...]
    outputs: Mapping[str, str]
    """Names of files by kind."""
    identity: Mapping[str, str]
    """By it a later run knows what is done."""
    swaths: Swaths
    seconds: Mapping[str, float]
    """Of work per stage, and "total" on the clock."""
    pixels_per_second: int
    peak_memory_bytes: int | None
    versions: Mapping[str, str]

    @property
    def unit(self) -> Unit:
        """Of its areas."""
        return "px" if any(row.area_m2 is None for row in self.classes) else "m2"

    @property
    def grid(self) -> GeoBox:
        """The grid of the outputs."""
        return GeoBox(self.map.width, self.map.height, self.scene.crs, self.map.transform)
