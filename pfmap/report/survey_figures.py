"""What is known of a survey at its end: the figures that all its reports show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pfmap.core.classes import ClassSpec

State = Literal["done", "skipped", "failed"]
"""Of a scene: mapped in this run, mapped by an earlier one, or not mapped."""


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """What there is of a class.

    Attributes:
        class_id: value in the class rasters.
        name: as people call it.
        color: ``#rrggbb``.
        pixels: how many.
        area: of these: square metres, or pixels where there is no CRS.
        objects: polygons, of those classes that become polygons.
    """

    class_id: int
    name: str
    color: str
    pixels: int
    area: float
    objects: int


def class_figures(
    specs: Sequence[ClassSpec],
    pixels: npt.NDArray[np.int64],
    areas: npt.NDArray[np.float64],
    objects: Sequence[int],
) -> tuple[ClassFigures, ...]:
    """Put together what was counted per class.

    Args:
        specs: the classes, by value.
        pixels: per value of the class raster.
        areas: likewise: square metres, or pixels where there is no CRS.
        objects: per class.
    """
    return tuple(
        ClassFigures(
            index, spec.name, spec.color, int(pixels[index]), round(float(areas[index]), 2), objects[index]
        )
        for index, spec in enumerate(specs)
    )


@dataclass(frozen=True, slots=True)
class SceneFigures:
    """One scene of a survey.

    Attributes:
        scene: as it was named or found.
        name: of its outputs, below the output folder and without endings: unique in the survey.
        state: whether it is mapped.
        reason: why it failed, or "".
        width: pixels, 0 if it could not be opened.
        height: pixels, likewise.
        gsd: metres per pixel, or None.
        crs: name of its CRS, or "".
        footprint: closed ring of (longitude, latitude) around its pixels, or empty where there is no CRS.
        classes: what it shows; empty if it failed.
        valid_pixels: pixels with a class.
        mean_confidence: percent, over all valid pixels, or None.
        seconds: of work per stage, and "total" on the clock.
        warnings: what the user was warned of.
        outputs: its files by kind, relative to the output folder.
        finished: when, ISO 8601 in UTC, or "".
        taken: when the image was taken, likewise, or "" where it does not say.
    """

    scene: str
    name: str
    state: State
    reason: str = ""
    width: int = 0
    height: int = 0
    gsd: float | None = None
    crs: str = ""
    footprint: tuple[tuple[float, float], ...] = ()
    classes: tuple[ClassFigures, ...] = ()
    valid_pixels: int = 0
    mean_confidence: float | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    outputs: Mapping[str, str] = field(default_factory=dict)
    finished: str = ""
    taken: str = ""


@dataclass(frozen=True, slots=True)
class SurveyFigures:
    """A survey.

    Attributes:
        title: for people: the name of the folder, or of the first source.
        version: of pfmap.
        started: ISO 8601 in UTC.
        finished: likewise.
        seconds: on the clock.
        unit: of areas, "m2" or "px".
        model: its name, sha256, attribution, task, window, gsd range, as facts by name.
        settings: how it was mapped, as facts by name.
        crs: name of the CRS of the survey's own outputs, or "".
        classes: over the whole survey; where scenes overlap, each place counts once.
        scenes: in order.
        warnings: about the survey as a whole.
        outputs: the survey's own files by kind, relative to the output folder.
    """

    title: str
    version: str
    started: str
    finished: str
    seconds: float
    unit: Literal["m2", "px"]
    model: Mapping[str, Any]
    settings: Mapping[str, Any]
    crs: str
    classes: tuple[ClassFigures, ...]
    scenes: tuple[SceneFigures, ...]
    warnings: tuple[str, ...] = ()
    outputs: Mapping[str, str] = field(default_factory=dict)

    def count(self, state: State) -> int:
        """Return how many scenes are in a state."""
        return sum(scene.state == state for scene in self.scenes)
