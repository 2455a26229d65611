"""What a sheet of a mosaic shows: that part of the one map which lies in its outline."""

from contextlib import closing
from dataclasses import dataclass

import numpy as np

from pfmap.core.card import Card
from pfmap.core.classes import NODATA
from pfmap.core.geobox import GeoBox
from pfmap.core.grid import Span
from pfmap.raster.classmap import ClassMap
from pfmap.raster.location import locate
from pfmap.raster.mosaic import extent
from pfmap.report.survey_figures import ClassFigures, class_figures
from pfmap.survey.merge import Merged, Tally


@dataclass(frozen=True, slots=True)
class Part:
    """Figures of a part of the map.

    Attributes:
        classes: what it shows; where sheets overlap, each of them shows it.
        valid_pixels: pixels of the map with a class.
        mean_confidence: percent, or None.
    """

    classes: tuple[ClassFigures, ...]
    valid_pixels: int
    mean_confidence: float | None


def part_of(merged: Merged, name: str, box: GeoBox, card: Card) -> Part:
    """Add up what the map shows in the outline of a sheet.

    Args:
        merged: the map.
        name: of the sheet.
        box: its grid.
        card: of the model.

    Raises:
        PfmapError: the map cannot be read.
    """
    within = _clipped(extent(box, merged.grid), merged.grid)
    tally, top = Tally(merged.grid), within[0].start
    with ClassMap(locate(merged.outputs["classes"]), None) as source, closing(source.rows(within)) as strips:
        for values in strips:
            tally.add(top, values)
            top += len(values)
    valid = int(tally.pixels[:NODATA].sum())
    objects = [merged.scenes.get((name, index), 0) for index in range(len(card.classes))]
    classes = class_figures(card.classes, tally.pixels, tally.areas, objects)
    return Part(classes, valid, _confidence(merged, within) if valid else None)


def _clipped(place: tuple[Span, Span], grid: GeoBox) -> tuple[Span, Span]:
    rows, cols = place
    return (
        Span(max(0, rows.start), min(grid.height, rows.stop)),
        Span(max(0, cols.start), min(grid.width, cols.stop)),
    )


def _confidence(merged: Merged, within: tuple[Span, Span]) -> float | None:
    if "confidence" not in merged.outputs:
        return None
    counts = np.zeros(256, dtype=np.int64)
    with (
        ClassMap(locate(merged.outputs["confidence"]), None) as source,
        closing(source.rows(within)) as strips,
    ):
        for values in strips:
            counts += np.bincount(values.ravel(), minlength=256)
    return round(float(counts[:NODATA] @ np.arange(NODATA) / counts[:NODATA].sum()), 2)
