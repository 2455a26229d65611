"""A finished swath on disk: its rasters, its traced regions, and what has to be known of its pixels."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pfmap.engine.swaths import Clock, Swath
from pfmap.files import write_failed
from pfmap.grid import Span
from pfmap.raster.target import RasterTarget
from pfmap.raster.tracing import trace
from pfmap.regions import Regions

_FACTS = "swath.json"
# Tracing cannot be interrupted, so it is done in strips of so many pixels or borders between them.
_STRIP_PIXELS, _STRIP_BORDERS, _STRIP_ROWS = 4 << 20, 300_000, 16


@dataclass(frozen=True, slots=True)
class Record:
    """What the rest of the pipeline needs of a swath; the rasters stay on disk.

    Attributes:
        rows: pixel rows of the outputs.
        pixels: ``(256,)`` pixels per value of the class raster.
        strips: rows and traced regions of each strip, top to bottom.
        unreadable: (column, row, width, height) of the scene's blocks that count as nodata.
    """

    rows: Span
    pixels: npt.NDArray[np.int64]
    strips: Sequence[tuple[Span, Regions]]
    unreadable: frozenset[tuple[int, int, int, int]]


def write_record(
    folder: Path,
    swath: Swath,
    rasters: Sequence[RasterTarget],
    wanted: Collection[int],
    unreadable: frozenset[tuple[int, int, int, int]],
    clock: Clock,
) -> Record:
    """Trace a swath and write it into a folder.

    Raises:
        TargetError: the folder cannot be written.
    """
    with clock.stage("write rasters"):
        for target, values in zip(rasters, (swath.classes, swath.confidence), strict=False):
            target.write_swath(folder, values)
    with clock.stage("trace"):
        strips = []
        for rows in _strips(swath):
            at = slice(rows.start - swath.rows.start, rows.stop - swath.rows.start)
            strips.append((rows, trace(swath.classes[at], swath.confidence[at], wanted, rows.start)))
    record = Record(
        swath.rows, np.bincount(swath.classes.ravel(), minlength=256).astype(np.int64), strips, unreadable
    )
    facts = {
        "rows": [swath.rows.start, swath.rows.stop],
        "pixels": record.pixels.tolist(),
        "strips": [[rows.start, rows.stop] for rows, _ in strips],
        "unreadable": sorted(unreadable),
    }
    with clock.stage("write rasters"):
        try:
            for rows, regions in strips:
                regions.save(_regions_path(folder, rows))
            (folder / _FACTS).write_text(json.dumps(facts), encoding="utf-8")
        except OSError as error:
            raise write_failed(folder / _FACTS, error) from error
    return record


def read_record(folder: Path) -> Record:
    """Read what `write_record` left."""
    facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    spans = [Span(*rows) for rows in facts["strips"]]
    return Record(
        Span(*facts["rows"]),
        np.array(facts["pixels"], dtype=np.int64),
        [(rows, Regions.load(_regions_path(folder, rows))) for rows in spans],
        frozenset((block[0], block[1], block[2], block[3]) for block in facts["unreadable"]),
    )


def _regions_path(folder: Path, rows: Span) -> Path:
    return folder / f"regions.{rows.start:010d}.npz"


def _strips(swath: Swath) -> list[Span]:
    """Cut a swath into pieces that are traced in about a second each, as busy as they may be."""
    height, width = swath.classes.shape
    borders = np.count_nonzero(swath.classes[:, 1:] != swath.classes[:, :-1], axis=1).cumsum()
    strips: list[Span] = []
    top = 0
    while top < height:
        before = borders[top - 1] if top else 0
        calm = int(np.searchsorted(borders, before + _STRIP_BORDERS, side="right"))
        stop = min(height, top + max(_STRIP_ROWS, min(calm - top, _STRIP_PIXELS // width)))
        strips.append(Span(swath.rows.start + top, swath.rows.start + stop))
        top = stop
    return strips
