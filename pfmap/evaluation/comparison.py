"""Compare a scene with its truth, row by row: the counts from which all figures follow, and a map of errors.

Everything is counted in one pass, top to bottom, in memory that does not grow with the scene's height.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from pfmap.core.arrays import Bools, Bytes, Longs
from pfmap.core.classes import ClassSpec, default_color
from pfmap.evaluation.metrics import BOUNDARY_DISTANCES
from pfmap.trace.compare import CODES, NO_CODE, Boundaries, Marks, Matcher, count_pixels, paint

_PICTURE_WIDTH, _PICTURE_HEIGHT = 1500, 3000  # at most
_RIGHT_SHARE = 0.35  # of its class's colour in a right pixel of the map of errors; the rest is white

WRONG = "#b2182b"
MISSED = "#e08214"
FALSE_ALARM = "#7b3294"
"""Colours of errors: of any, or where one class is told from the rest, of its two kinds."""

FATES = {
    "no object": "#ffffff",
    "predicted only": "#dcdcdc",
    "missed": "#e08214",
    "found": "#92c5de",
    "split": "#7b3294",
    "merged": "#b2182b",
}
"""Colours of the map of objects."""


def _zeros(*shape: int) -> Longs:
    return np.zeros(shape, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts over any number of scenes; the first index is a code."""

    counts: Longs = field(default_factory=lambda: _zeros(CODES, CODES))
    """``(256, 256)`` pixels by label and predicted class, `NO_CODE` for none."""
    levels: Longs = field(default_factory=lambda: _zeros(CODES, 101, 2))
    """``(256, 101, 2)`` pixels by predicted class, confidence in percent, and whether right."""
    predicted_lines: Longs = field(default_factory=lambda: _zeros(CODES, len(BOUNDARY_DISTANCES) + 1))
    """``(256, T + 1)`` predicted boundary pixels by the first of T distances that reaches a true one of the
    class; the last column is for none."""
    true_lines: Longs = field(default_factory=lambda: _zeros(CODES, len(BOUNDARY_DISTANCES) + 1))
    """The same of true boundary pixels."""
    objects: Longs = field(default_factory=lambda: _zeros(CODES, 8))
    """``(256, 8)`` objects, as `Matcher` counts them."""

    def add(self, other: "Tally") -> None:
        """Add the counts of others."""
        for name in self.__slots__:
            mine: Longs = getattr(self, name)
            mine += getattr(other, name)


@dataclass(frozen=True, slots=True)
class Labels:
    """What codes mean."""

    classes: tuple[ClassSpec, ...]
    """By code; with `other`, the last is all the others."""
    partial: tuple[frozenset[int], ...] = ()
    """Labels that leave classes open, with the codes after those of the classes."""
    other: bool = False
    """Whether the last class is all but the chosen ones."""

    @property
    def names(self) -> list[str]:
        """Names of all labels, in the order of their codes."""
        names = [spec.name for spec in self.classes]
        return names + [" or ".join(names[k] for k in sorted(members)) for members in self.partial]

    def allowed(self) -> Bools:
        """Return ``(256, 256)``: which classes each label allows. Codes without a meaning are classes."""
        table = np.eye(CODES, dtype=bool)
        for k, members in enumerate(self.partial, len(self.classes)):
            table[k] = False
            table[k, sorted(members)] = True
        return table

    def colors(self) -> Bytes:
        """Return the ``(256, 256, 3)`` colours of the map of errors, by label and predicted class."""
        unnamed = [_rgb(default_color(code)) for code in range(len(self.classes), CODES)]
        right = np.array([*(spec.rgb for spec in self.classes), *unnamed])
        muted = (255 - _RIGHT_SHARE * (255 - right)).round()
        colors: Bytes = np.where(self.allowed()[..., None], muted, _rgb(WRONG)).astype(np.uint8)
        if self.binary:
            colors[0, 1], colors[1, 0] = _rgb(MISSED), _rgb(FALSE_ALARM)
        colors[NO_CODE], colors[:, NO_CODE] = 255, 255
        return colors

    @property
    def binary(self) -> bool:
        """Whether one class is told from all the others."""
        return self.other and len(self.classes) == 2 and not self.partial


class Comparison:
    """Takes rows of one scene, top to bottom, and counts into a tally.

    Objects are matched of the classes with the codes `objects`, of `least` pixels or more; `colors` are those
    of the map of errors, or None for no maps.
    """

    def __init__(
        self,
        height: int,
        width: int,
        labels: Labels,
        tally: Tally,
        objects: Sequence[int],
        colors: Bytes | None,
        least: int = 1,
    ) -> None:
        self._height, self._width, self._row, self._tally = height, width, 0, tally
        self._allowed = labels.allowed()
        self._boundaries = Boundaries(height, BOUNDARY_DISTANCES, tally.predicted_lines, tally.true_lines)
        self._chosen = np.full(CODES, NO_CODE, dtype=np.uint8)
        self._chosen[list(objects)] = list(objects)
        self._colors = colors
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="pfmap-compare")
        self._step = max(1, -(-width // _PICTURE_WIDTH), -(-height // _PICTURE_HEIGHT))
        shape = (-(-height // self._step), -(-width // self._step)) if colors is not None else (0, 0)
        self._sums = _zeros(*shape, 3)
        step = self._step if colors is not None else 0
        self._matcher = Matcher(height, width, least, step) if objects else None

    def add(
        self,
        truth: Bytes,
        predicted: Bytes,
        confidence: Bytes | None,
        of_true: Marks | None = None,
        of_predicted: Marks | None = None,
    ) -> None:
        """Take the next rows, all ``(rows, width)``.

        Truth has codes of labels, the prediction those of classes, confidence percent, above 100 for unknown;
        marks tell their objects apart. Codes are changed.
        """
        tally = self._tally
        percent = np.zeros((0, 0), dtype=np.uint8) if confidence is None else np.ascontiguousarray(confidence)
        count_pixels(truth, predicted, percent, self._allowed, tally.counts, tally.levels)
        jobs = [self._pool.submit(self._boundaries.add, truth, predicted)]
        if self._matcher is not None:
            codes = self._chosen[truth], self._chosen[predicted]
            jobs.append(self._pool.submit(self._matcher.add, *codes, of_true, of_predicted))
        if self._colors is not None:
            paint(truth, predicted, self._row, self._sums, self._colors, self._step)
        for job in jobs:  # compiled loops run side by side
            job.result()
        self._row += len(truth)
        if self._row == self._height:
            self._pool.shutdown()
            if self._matcher is not None:
                tally.objects[:] += self._matcher.counts

    def picture(self) -> Bytes:
        """Return the map of errors, ``(h, w, 3)``: each pixel the mean colour of those that it stands for."""
        rows = np.diff(np.minimum(np.arange(len(self._sums) + 1) * self._step, self._height))
        cols = np.diff(np.minimum(np.arange(self._sums.shape[1] + 1) * self._step, self._width))
        pixels = (rows[:, None] * cols)[..., None]
        picture: Bytes = ((self._sums + pixels // 2) // pixels).astype(np.uint8)
        return picture

    def object_map(self) -> Bytes | None:
        """Return the map of objects, ``(h, w, 3)``: what becomes of true ones; None if none were matched."""
        if self._matcher is None:
            return None
        return np.array([_rgb(color) for color in FATES.values()], dtype=np.uint8)[self._matcher.picture]


def _rgb(color: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(color[1:]))
