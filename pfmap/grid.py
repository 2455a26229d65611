"""Where the windows of a scene lie, and what each of them finishes. Integers only.

Windows lie on a regular grid from the scene's top-left corner, `stride` = window - overlap apart; the last
row and column reach past the scene and are padded by reflection, so that all overlaps are equal. Window (r,
c) finishes the block of pixels from its own corner to the next window's: its first `overlap` rows and
columns are blended with the neighbours before it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pfmap.errors import UsageError


@dataclass(frozen=True, slots=True)
class Span:
    """A run of pixels along one axis: `start` included, `stop` not."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of pixels."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Axis:
    """The windows along one axis of a scene.

    Attributes:
        size: pixels of the scene along this axis.
        window: pixels of a window.
        overlap: pixels that neighbouring windows share; at most half a window.
    """

    size: int
    window: int
    overlap: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UsageError(f"a scene of {self.size} pixels has nothing to map")
        if not 0 <= self.overlap <= self.window // 2:
            raise UsageError(
                f"overlap {self.overlap} does not fit window {self.window}: "
                f"choose 0 to {self.window // 2} with --overlap"
            )

    @property
    def stride(self) -> int:
        """Pixels from one window to the next."""
        return self.window - self.overlap

    @property
    def count(self) -> int:
        """Number of windows."""
        return max(1, -(-(self.size - self.overlap) // self.stride))

    def extent(self, index: int) -> Span:
        """Return what window `index` sees; the last one reaches past the scene."""
        return Span(index * self.stride, index * self.stride + self.window)

    def block(self, index: int) -> Span:
        """Return the pixels that window `index` finishes; together they are the scene, each pixel once."""
        last = index == self.count - 1
        return Span(index * self.stride, self.size if last else (index + 1) * self.stride)


@dataclass(frozen=True, slots=True)
class Grid:
    """The windows of a scene: one `Axis` for rows, one for columns."""

    rows: Axis
    cols: Axis

    @classmethod
    def of(cls, height: int, width: int, window: int, overlap: int) -> "Grid":
        """Lay square windows over a scene."""
        return cls(Axis(height, window, overlap), Axis(width, window, overlap))

    @property
    def count(self) -> int:
        """Number of windows."""
        return self.rows.count * self.cols.count

    def swaths(self, pixels: int) -> list[Span]:
        """Cut the window rows into swaths of about `pixels` pixels of the scene each.

        Returns:
            Spans of window rows, top to bottom, at least one row each.
        """
        per_row = self.rows.stride * self.cols.size
        height = max(1, round(pixels / per_row))
        return [Span(top, min(top + height, self.rows.count)) for top in range(0, self.rows.count, height)]

    def swath_rows(self, swath: Span) -> Span:
        """Return the pixel rows that a swath finishes."""
        return Span(self.rows.block(swath.start).start, self.rows.block(swath.stop - 1).stop)

    def windows(self, rows: Span) -> Iterator[tuple[int, int]]:
        """Yield (row, column) of the windows in these window rows, in reading order."""
        for row in range(rows.start, rows.stop):
            for col in range(self.cols.count):
                yield row, col
