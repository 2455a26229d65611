"""A finished swath on disk: its rasters, what has to be known of its pixels, and the sums over all swaths."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pfmap.core.classes import NODATA
from pfmap.core.files import write_failed
from pfmap.core.grid import GeoBox, Span
from pfmap.mapping.swaths import Swath
from pfmap.raster.target import RasterTarget
from pfmap.vector.geodesy import Measurer, pixel_area

_FACTS = "swath.json"


@dataclass(frozen=True, slots=True)
class Record:
    """What the rest of the pipeline needs of a swath, apart from its pixels."""

    rows: Span
    """Pixel rows of the outputs."""
    pixels: npt.NDArray[np.int64]
    """``(256,)`` pixels per value of the class raster."""
    confidence: int
    """Sum over all pixels with a class, percent."""
    unreadable: frozenset[tuple[int, int, int, int]]
    """(column, row, width, height) of the scene's blocks that count as nodata."""


def write_record(
    folder: Path,
    swath: Swath,
    rasters: Sequence[RasterTarget],
    unreadable: frozenset[tuple[int, int, int, int]],
) -> Record:
    """Write a swath into a folder: classes and confidence, in this order of `rasters`.

    Raises:
        TargetError: the folder cannot be written.
    """
    for target, values in zip(rasters, (swath.classes, swath.confidence), strict=True):
        target.write_swath(folder, values)
    # Numpy's would make eight bytes of each pixel first.
    pixels = torch.bincount(torch.from_numpy(swath.classes).ravel(), minlength=256).numpy()
    confidence = int(swath.confidence.sum(dtype=np.int64)) - NODATA * int(pixels[NODATA])
    record = Record(swath.rows, pixels, confidence, unreadable)
    facts = {
        "rows": [swath.rows.start, swath.rows.stop],
        "pixels": record.pixels.tolist(),
        "confidence": record.confidence,
        "unreadable": sorted(unreadable),
    }
    try:
        (folder / _FACTS).write_text(json.dumps(facts), encoding="utf-8")
    except OSError as error:
        raise write_failed(folder / _FACTS, error) from error
    return record


def read_record(folder: Path, rasters: Sequence[RasterTarget]) -> tuple[Record, Swath]:
    """Read what `write_record` left."""
    facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    rows = Span(*facts["rows"])
    record = Record(
        rows,
        np.array(facts["pixels"], dtype=np.int64),
        facts["confidence"],
        frozenset((block[0], block[1], block[2], block[3]) for block in facts["unreadable"]),
    )
    classes, confidence = (target.read_swath(folder) for target in rasters)
    return record, Swath(rows, classes, confidence)


@dataclass(slots=True)
class Tally:
    """What the records of all swaths come to: pixels and ground area per class, and blocks that are lost."""

    geobox: GeoBox
    """The grid of the outputs."""
    measurer: Measurer
    pixels: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, dtype=np.int64))
    """``(256,)`` pixels per value of the class raster."""
    areas: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(256))
    """``(256,)`` the same in square metres, or pixels where the scene has no CRS."""
    confidence: int = 0
    """Sum over all pixels with a class, percent."""
    unreadable: set[tuple[int, int, int, int]] = field(default_factory=set)
    """(column, row, width, height) of the scene's blocks that count as nodata."""

    def add(self, record: Record) -> None:
        """Count a swath; its pixels are as large as the one in its middle."""
        self.pixels += record.pixels
        self.confidence += record.confidence
        self.unreadable |= record.unreadable
        middle = (record.rows.start + record.rows.stop) / 2
        self.areas += record.pixels * pixel_area(self.geobox, self.measurer, middle)

    @property
    def valid(self) -> int:
        """Number of pixels with a class."""
        return int(self.pixels[:NODATA].sum())

    @property
    def mean_confidence(self) -> float:
        """Mean confidence of the pixels with a class, percent."""
        return self.confidence / max(self.valid, 1)
