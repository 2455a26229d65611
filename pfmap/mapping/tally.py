"""Pixels and ground area per class."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pfmap.core.classes import NODATA
from pfmap.core.geobox import GeoBox
from pfmap.mapping.record import Record
from pfmap.vector.geodesy import Measurer, pixel_area


@dataclass(slots=True)
class Tally:
    """Pixels and ground area per class, added up swath by swath.

    Attributes:
        geobox: the grid of the outputs.
        measurer: gives true areas.
        pixels: ``(256,)`` pixels per value of the class raster.
        areas: ``(256,)`` the same in square metres, or pixels where the scene has no CRS.
        confidence: sum over all pixels with a class, percent.
    """

    geobox: GeoBox
    measurer: Measurer
    pixels: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, dtype=np.int64))
    areas: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(256))
    confidence: int = 0

    def add(self, record: Record) -> None:
        """Count a swath; its pixels are as large as the one in its middle."""
        self.pixels += record.pixels
        self.confidence += record.confidence
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
