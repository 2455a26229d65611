"""Random crops for training: zoomed, turned, flipped, recoloured; labels follow.

Every crop depends on the seed, the step's number and its own alone, so that a resumed run sees what an
uninterrupted one would have seen, and several processes together what a single one would.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pfmap.core.classes import RGB
from pfmap.train.config import TrainingConfig
from pfmap.train.data import Source, TrainingData
from pfmap.train.label_layers import Labels
from pfmap.train.labelled_image import Image, Sample
from pfmap.train.looks import PAINTERS, elsewhere, recolor, tint

# Shares of the crops.
_COARSENED = 0.3
_PAINTED = 0.25  # with each of what may be painted
_TINTED = 0.2

_LIGHT = (*RGB, "nir", "rededge", "pan", "grey", "gray")
"""Bands whose values change with camera, sun and air; the first three that a model has are recoloured."""
_SPOT = 96  # side of what lends its colours

Batch = tuple[Tensor, Tensor, Tensor]
"""Images, labels with the colour rules applied, labels as annotated; see `Batches`."""


class Batches:
    """Training batches by step number: the same number gives the same batch.

    An item is the normalised image ``(B, bands, crop, crop)`` float32, the labels ``(B, crop, crop)`` uint8
    with the colour rules applied, and the labels as annotated, whose contours are real. Where several
    processes train together, `share` says which crops of the first batch this one makes, by number; of the
    next one those of the process after it, and so on. Together they make the batch that one alone would.
    """

    def __init__(self, data: TrainingData, config: TrainingConfig, share: slice = slice(None)) -> None:
        self._plan = [source for source in data.sources for _ in range(source.spec.per_batch)]
        self._first, _, self._every = share.indices(len(self._plan))
        self._settings = config.training
        self._class_of = torch.tensor(
            [min(each.members) if len(each.members) == 1 else -1 for each in data.sets.entries]
        )
        bands = config.card.input.bands
        self._light = [bands.index(name) for name in _LIGHT if name in bands][:3]
        self._mean = torch.tensor(config.card.input.mean).view(-1, 1, 1)
        self._std = torch.tensor(config.card.input.std).view(-1, 1, 1)

    def __getitem__(self, step: int) -> Batch:
        # Each process meets all sources in turn: batch norm keeps the statistics of the first one.
        mine = range((self._first + step) % self._every, len(self._plan), self._every)
        crops = [
            self._crop(self._plan[item], np.random.default_rng((self._settings.seed, step, item)))
            for item in mine
        ]
        images, labels, annotated = zip(*crops, strict=True)
        return torch.stack(images), torch.stack(labels), torch.stack(annotated)

    def _crop(self, source: Source, rng: np.random.Generator) -> Batch:
        side = max(32, round(self._settings.crop / self._zoom(source, rng)))
        image, annotated = map(torch.from_numpy, _cut(source, side, rng))
        image = _resize(image.float() / 255, self._settings.crop)
        if source.spec.coarsen > 1 and rng.random() < _COARSENED:
            factor = math.exp(rng.uniform(0, math.log(source.spec.coarsen)))
            image = _resize(_resize(image, round(self._settings.crop / factor)), self._settings.crop)
        nearest = ((torch.arange(self._settings.crop) + 0.5) * side / self._settings.crop).long()
        annotated = annotated[nearest][:, nearest]
        turns = int(rng.integers(4))
        image, annotated = image.rot90(turns, (1, 2)), annotated.rot90(turns, (0, 1))
        if rng.integers(2):
            image, annotated = image.flip(2), annotated.flip(1)
        colors = self._colors(image)
        for kind, over in source.paint.items():
            if rng.random() < _PAINTED:
                where = torch.isin(annotated, torch.tensor(over, dtype=torch.uint8))
                colors, painted = PAINTERS[kind](colors, where, rng)
                annotated = annotated.masked_fill(painted, over[0])
        labels = _apply_green(colors, annotated, source)
        if self._light and self._settings.looks == "any":
            if rng.random() < _TINTED:
                colors = tint(colors, self._some_class(annotated, rng), rng)
            colors = elsewhere(colors, self._colors(self._spot(rng)), rng)
        elif self._light:
            colors = recolor(colors, rng)
        for band, color in zip(self._light, colors, strict=False):
            image[band] = color
        image = (image - self._mean) / self._std
        return image.contiguous(), labels.contiguous(), annotated.contiguous()

    def _colors(self, image: Tensor) -> Tensor:
        """Take ``(3, n, n)`` bands of light out of an image; one or two stand for three."""
        return image[:3] if self._light == [0, 1, 2] else image[(self._light * 3)[:3]]

    def _spot(self, rng: np.random.Generator) -> Tensor:
        """Cut a spot from any source, for its colours."""
        spot, _ = _cut(self._plan[int(rng.integers(len(self._plan)))], _SPOT, rng)
        return torch.from_numpy(spot).float() / 255

    def _some_class(self, labels: Tensor, rng: np.random.Generator) -> Tensor:
        """Return where the labels say one class, drawn from those that they say."""
        classes = self._class_of[labels.long()]
        named = np.unique(classes[classes >= 0])
        return classes == (int(named[rng.integers(len(named))]) if len(named) else 0)

    def _zoom(self, source: Source, rng: np.random.Generator) -> float:
        """Draw a zoom: half the time from all that the source allows, else close to its own resolution.

        A wide range alone would seldom show an image as it is, which is how most scenes will come.
        """
        low, high = source.spec.scale or self._settings.scale
        if rng.random() < 0.5:
            low, high = max(low, 0.75), min(high, 4 / 3)
        return math.exp(rng.uniform(math.log(low), math.log(high)))


def _cut(source: Source, side: int, rng: np.random.Generator) -> tuple[Image, Labels]:
    """Cut a square of `side` pixels; small images are tiled until they suffice.

    Half of the squares hold a pixel of a random class, however rare that is; the others any labelled pixel.
    """
    if source.holders and rng.random() < 0.5:
        index = int(rng.choice(list(source.holders)))
        holders = source.holders[index]
        sample = source.train[holders[int(rng.integers(len(holders)))]]
        points = sample.anchors[index]
    else:
        sample = source.train[int(rng.choice(len(source.train), p=source.chances))]
        points = np.concatenate(list(sample.anchors.values()))
    height, width = sample.shape
    if height < side or width < side:
        return _tile(source, sample, side, rng)
    row, col = points[int(rng.integers(len(points)))]
    top = int(np.clip(row - rng.integers(side), 0, height - side))
    left = int(np.clip(col - rng.integers(side), 0, width - side))
    return sample.cut(top, left, side, side)


def _tile(source: Source, first: Sample, side: int, rng: np.random.Generator) -> tuple[Image, Labels]:
    """Lay images of the source side by side, `first` and then random ones, until `side` pixels are filled."""
    image: Image = np.zeros((first.scene.bands, side, side), dtype=np.uint8)
    labels = np.zeros((side, side), dtype=np.uint8)
    top, sample = 0, first
    while top < side:
        left, tall = 0, side
        while left < side:
            height, width = min(sample.shape[0], side - top), min(sample.shape[1], side - left)
            at = np.s_[top : top + height, left : left + width]
            image[:, *at], labels[at] = sample.cut(0, 0, height, width)
            left += width
            tall = min(tall, height)
            sample = source.train[int(rng.choice(len(source.train), p=source.chances))]
        top += tall
    return image, labels


def _resize(image: Tensor, side: int) -> Tensor:
    """Resize ``(bands, n, n)`` in 0..1 to ``(bands, side, side)``: down by area, up bilinearly."""
    if image.shape[1] == side:
        return image
    scaled = F.interpolate(image[None], size=(side, side), mode="bilinear", antialias=True)
    return scaled[0].clamp(0, 1)


def _apply_green(image: Tensor, labels: Tensor, source: Source) -> Tensor:
    rule = source.spec.green
    if rule is None:
        return labels
    above, below = map(torch.from_numpy, source.green)
    red, green, blue = image
    excess = (2 * green - red - blue) / (red + green + blue).clamp(min=1e-3)
    number = labels.long()
    out = torch.where(excess > rule.above, above[number], labels)
    return torch.where(excess < rule.below, below[number], out)
