"""An image with its labels, of any size: kept in memory where it fits, else read window by window."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from pfmap.core.card import Card
from pfmap.core.grid import GeoBox, Span
from pfmap.raster.bands import known_scaling, sampled_scaling
from pfmap.raster.gdal import locate
from pfmap.raster.source import Source
from pfmap.train.label_layers import LabelLayer, Labels

Image = npt.NDArray[np.uint8]


class LabelledScene:
    """An image and what is known of its pixels.

    Args:
        path: the image.
        bands: 1-based band numbers, or None for what the model's card names.
        card: of the model to be.

    Attributes:
        path: as given.
        geobox: the image's grid.
        layers: where its labels come from; later ones lie over earlier ones. Filled by the caller, who needs
            the grid for that.

    Raises:
        SourceError: it cannot be opened, or has no valid pixel.
        UsageError: the bands do not fit.
    """

    def __init__(self, path: Path, bands: tuple[int, ...] | None, card: Card) -> None:
        self.path = path
        self.layers: list[LabelLayer] = []
        self._open = locate(path), card.input.bands, bands, card.name
        # What prediction shows the network where a scene has no data: the mean colour.
        self._neutral = (np.array(card.input.mean) * 255).round().astype(np.uint8)[:, None]
        self._kept: tuple[Image, Labels] | None = None
        with Source(*self._open) as source:
            self.geobox: GeoBox = source.info.geobox
            known = known_scaling(source.info, card, None)
            self._scaling = known or sampled_scaling(source.sample(values=True), source.info)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.geobox.height, self.geobox.width

    @property
    def size(self) -> int:
        """Bytes that image and labels take in memory."""
        return 4 * self.geobox.height * self.geobox.width

    def keep(self) -> None:
        """Read everything into memory: the scene is small."""
        self._kept = self._load(Span(0, self.geobox.height), Span(0, self.geobox.width))

    @property
    def kept(self) -> bool:
        """Whether the scene is in memory."""
        return self._kept is not None

    def read(self, rows: Span, cols: Span) -> tuple[Image, Labels]:
        """Read a part: ``(3, rows, cols)`` as the network is to see it, and ``(rows, cols)`` label sets."""
        if self._kept is None:
            return self._load(rows, cols)
        box = np.s_[rows.start : rows.stop, cols.start : cols.stop]
        image, labels = self._kept
        return image[:, *box], labels[box]

    def _load(self, rows: Span, cols: Span) -> tuple[Image, Labels]:
        # Opened each time: training reads in one thread and validates in another.
        with Source(*self._open) as source:
            source.scaling = self._scaling
            image, valid = source.read(rows, cols)
        labels = np.zeros(valid.shape, dtype=np.uint8)
        for layer in self.layers:
            found = layer.read(rows, cols)
            np.copyto(labels, found, where=found > 0)
        labels[~valid] = 0
        image[:, ~valid] = self._neutral
        return image, labels
