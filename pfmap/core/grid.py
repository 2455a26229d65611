"""Grids of pixels: a raster's on the ground (`GeoBox`), and the windows that cover a scene (`Grid`).

Windows lie on a regular grid from the scene's top-left corner, `stride` = window - overlap apart; the last
row and column reach past the scene and are padded by reflection, so that all overlaps are equal. Window (r,
c) finishes the block of pixels from its own corner to the next window's: its first `overlap` rows and
columns are blended with the neighbours before it. All of this is in integers: what one window finishes, no
other does.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product

from pfmap.core.errors import UsageError


@dataclass(frozen=True, slots=True)
class Span:
    """A run of pixels along one axis: `start` included, `stop` not."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of pixels."""
        return self.stop - self.start

    def moved(self, by: int) -> "Span":
        """Return the run that lies so much further on."""
        return Span(self.start + by, self.stop + by)

    def clip(self, limits: "Span") -> "Span":
        """Return those pixels that lie in another run too; there are none if the size is below 1."""
        return Span(max(self.start, limits.start), min(self.stop, limits.stop))

    def within(self, whole: "Span") -> slice:
        """Return where in an array with the pixels of another run these are."""
        return slice(self.start - whole.start, self.stop - whole.start)

    def cut(self, size: int) -> list["Span"]:
        """Cut it into runs of so many pixels; the last one may have fewer."""
        return [Span(start, min(start + size, self.stop)) for start in range(self.start, self.stop, size)]

    @staticmethod
    def hull(spans: Iterable["Span"]) -> "Span":
        """Return the shortest run with all pixels of some runs."""
        starts, stops = zip(*((span.start, span.stop) for span in spans), strict=True)
        return Span(min(starts), max(stops))


Affine = tuple[float, float, float, float, float, float]
"""(a, b, c, d, e, f) of x = a col + b row + c, y = d col + e row + f."""

IDENTITY: Affine = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

UNPLACED: Affine = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
"""Where GIS programs draw a raster without georeferencing: rows count down from 0."""


def mean_size(pixel: tuple[float, float]) -> float:
    """Return the side of a square as large as a pixel of this width and height."""
    return float((pixel[0] * pixel[1]) ** 0.5)


@dataclass(frozen=True, slots=True)
class GeoBox:
    """The grid of a raster: its size in pixels, and where it lies on the ground."""

    width: int
    height: int
    crs_wkt: str | None
    transform: Affine
    """Pixel to CRS."""

    @property
    def georeferenced(self) -> bool:
        """Whether pixels have a place: a CRS, or at least a transform."""
        return self.crs_wkt is not None or self.transform != UNPLACED

    @property
    def crs_name(self) -> str:
        """The CRS as people call it, such as WGS 84 / UTM zone 45N."""
        quoted = (self.crs_wkt or "").split('"', 2)
        return quoted[1] if len(quoted) == 3 else "no CRS"

    @property
    def center(self) -> tuple[float, float]:
        """Return x, y of the middle."""
        return self.place(self.width / 2, self.height / 2)

    def place(self, col: float, row: float) -> tuple[float, float]:
        """Return x, y in the CRS of a point in pixels."""
        a, b, c, d, e, f = self.transform
        return a * col + b * row + c, d * col + e * row + f

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Return xmin, ymin, xmax, ymax in the CRS."""
        corners = [self.place(col, row) for col in (0, self.width) for row in (0, self.height)]
        xs, ys = zip(*corners, strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    def inverse(self) -> Affine:
        """Return the transform from the CRS to pixels: col = a x + b y + c, row = d x + e y + f."""
        a, b, c, d, e, f = self.transform
        determinant = a * e - b * d
        ia, ib, id_, ie = e / determinant, -b / determinant, -d / determinant, a / determinant
        return ia, ib, -ia * c - ib * f, id_, ie, -id_ * c - ie * f

    def crop(self, rows: Span, cols: Span) -> "GeoBox":
        """Return the grid of a part."""
        a, b, _, d, e, _ = self.transform
        x, y = self.place(cols.start, rows.start)
        return replace(self, width=cols.size, height=rows.size, transform=(a, b, x, d, e, y))

    def resized(self, height: int, width: int) -> "GeoBox":
        """Return a grid of other pixels over the same ground."""
        a, b, c, d, e, f = self.transform
        x, y = self.width / width, self.height / height
        return replace(self, width=width, height=height, transform=(a * x, b * y, c, d * x, e * y, f))


@dataclass(frozen=True, slots=True)
class Scale:
    """Two grids over the same ground, along one axis: the scene's pixels, and those the network sees."""

    native: int
    size: int

    @property
    def factor(self) -> float:
        """Scene pixels per pixel of the network's grid: above one, the network sees a coarser image."""
        return self.native / self.size

    @property
    def same(self) -> bool:
        """Whether both grids are one."""
        return self.native == self.size

    def cover(self, span: Span) -> Span:
        """Return the scene pixels that these pixels of the network's grid are made of."""
        if self.native >= self.size:  # averages over what they lie on
            return Span(span.start * self.native // self.size, -(-span.stop * self.native // self.size))
        first, _ = self.taps(span.start)
        _, last = self.taps(span.stop - 1)
        return Span(first, last + 1)

    def taps(self, index: int) -> tuple[int, int]:
        """Return the two scene pixels between whose centres pixel `index` of the network's grid lies."""
        below = ((2 * index + 1) * self.native - self.size) // (2 * self.size)
        return max(0, below), min(self.native - 1, below + 1)

    def finished(self, stop: int) -> int:
        """Say how many scene pixels, from the first on, lie between the first `stop` of the network's grid.

        A scene pixel takes its class from the two pixels of the network's grid around its centre.
        """
        if stop >= self.size:
            return self.native
        if self.same:
            return stop
        reach = (2 * stop - 1) * self.native - self.size
        return min(self.native, max(0, -(-reach // (2 * self.size))))


@dataclass(frozen=True, slots=True)
class Frame:
    """The part of a scene that is mapped, and the two grids over it."""

    top: int
    """The part's first row of the scene."""
    left: int
    """Its first column."""
    rows: Scale
    cols: Scale

    @property
    def resampled(self) -> bool:
        """Whether the network sees other pixels than the scene's."""
        return not (self.rows.same and self.cols.same)


@dataclass(frozen=True, slots=True)
class Axis:
    """The windows along one axis of a scene; all in pixels."""

    size: int
    """Of the scene along this axis."""
    window: int
    overlap: int
    """What neighbouring windows share; at most half a window."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UsageError(f"a scene of {self.size} pixels has nothing to map")
        if not 0 <= self.overlap <= self.window // 2:
            raise UsageError(
                f"overlap {self.overlap} does not fit window {self.window}: "
                f"choose 0 to {self.window // 2} with overlap="
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

    def windows(self, rows: Span) -> Iterator[tuple[int, int]]:
        """Return (row, column) of the windows in these window rows, in reading order."""
        return product(range(rows.start, rows.stop), range(self.cols.count))
