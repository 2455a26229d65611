"""From rows of a class raster to finished vector files: what polygons are to be like, and making them."""

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from pfmap.classes import ClassSpec
from pfmap.errors import UsageError
from pfmap.geobox import GeoBox
from pfmap.regions import Regions
from pfmap.trace.tracer import Tracer
from pfmap.vector.formats import FORMATS, PART
from pfmap.vector.measure import Measurer
from pfmap.vector.write import ObjectWriter, file_part

_SIMPLIFY_PIXELS = 1.25
"""Default of `simplify`: enough that the steps of a slanted edge vanish, and its noise of one pixel."""


SPLIT_LARGE = 100_000
"""Default of `split_large`: larger polygons make GIS programs slow."""


@dataclass(frozen=True, slots=True)
class ShapeOptions:
    """What polygons are to be like. Lengths and areas are in pixels where the scene has no CRS.

    Attributes:
        formats: vector files to write.
        simplify: how far outlines may be moved, metres; 0 leaves them as the pixels are; None for 1.25
            pixels.
        min_area: smaller objects are left out, square metres.
        split_large: objects of more vertices are cut along a grid; 0 never cuts.
        split_by_class: whether each class gets files of its own.
    """

    formats: tuple[str, ...] = ("gpkg",)
    simplify: float | None = None
    min_area: float = 0.0
    split_large: int = SPLIT_LARGE
    split_by_class: bool = False

    def __post_init__(self) -> None:
        unknown = [form for form in self.formats if form not in FORMATS]
        if unknown:
            raise UsageError(f"format {unknown[0]!r} is unknown: use {', '.join(FORMATS)}")
        if not self.formats:
            raise UsageError(f"no vector format is named: use one or more of {', '.join(FORMATS)}")
        for name, value in (("simplify", self.simplify), ("min area", self.min_area)):
            if value is not None and not 0 <= value < math.inf:
                raise UsageError(f"{name} {value} is not possible: use 0 or more")
        if self.split_large < 0:
            raise UsageError(f"split large {self.split_large} is not possible: use 0 or more")

    def tolerance(self, gsd: float) -> float:
        """Return `simplify` in pixels.

        Args:
            gsd: side of a pixel on the ground, metres, or 1 without a CRS.
        """
        return _SIMPLIFY_PIXELS if self.simplify is None else self.simplify / gsd


def vector_names(stem: str, options: ShapeOptions, wanted: Iterable[ClassSpec]) -> dict[str, str]:
    """Return the names of the vector files by kind, apart from further parts of shapefiles."""
    if not options.split_by_class:
        return {form: f"{stem}.{form}" for form in options.formats}
    return {
        f"{form}.{spec.name}": f"{stem}_{file_part(spec.name)}.{form}"
        for spec in wanted
        for form in options.formats
    }


def clear_parts(folder: Path, stem: str) -> None:
    """Delete further parts of shapefiles that an earlier run left: no new ones would replace them."""
    for path in folder.glob(f"{stem}*{PART}*"):
        if re.fullmatch(rf"{re.escape(stem)}.*{PART}\d+\.(shp|shx|dbf|prj|cpg|qml)", path.name):
            path.unlink()


class Shaper:
    """Makes vector files of a class raster that comes in rows, top to bottom. Use it as a context manager.

    Args:
        folder: where the files go.
        stem: what their names begin with.
        geobox: the grid of the class raster.
        classes: names and colours, by the value in the raster.
        wanted: values that become polygons.
        nodata: value that is no class, or None.
        measurer: gives areas and lengths.
        gsd: side of a pixel on the ground, metres, or 1 without a CRS.
        options: what the polygons are to be like.
        scene: name of the scene.
        metadata: run parameters, kept in the files.
        has_confidence: whether confidences are known.
    """

    def __init__(
        self,
        folder: Path,
        stem: str,
        geobox: GeoBox,
        classes: Mapping[int, ClassSpec],
        wanted: frozenset[int],
        *,
        nodata: int | None,
        measurer: Measurer,
        gsd: float,
        options: ShapeOptions,
        scene: str,
        metadata: Mapping[str, str],
        has_confidence: bool = True,
    ) -> None:
        self._tracer = Tracer(
            geobox.height,
            geobox.width,
            nodata=nodata,
            wanted=wanted,
            tolerance=options.tolerance(gsd),
            split=options.split_large,
            workers=os.cpu_count() or 1,
            spool=folder,
        )
        self.writer = ObjectWriter(
            folder=folder,
            stem=stem,
            formats=options.formats,
            classes={index: classes[index] for index in sorted(wanted)},
            geobox=geobox,
            measurer=measurer,
            scene=scene,
            min_area=options.min_area,
            metadata=metadata,
            by_class=options.split_by_class,
            has_confidence=has_confidence,
        )

    def __enter__(self) -> "Shaper":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tracer.__exit__(kind, error, trace)

    def trace(self, classes: npt.NDArray[Any], confidence: npt.NDArray[np.uint8] | None) -> Iterator[Regions]:
        """Take the next rows, and give the regions that are closed then; `writer` takes them."""
        return self._tracer.add(classes, confidence)
