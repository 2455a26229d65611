"""Where a raster's pixels lie on the ground."""

from dataclasses import dataclass, replace

from pfmap.core.grid import Span

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
    """The grid of a raster: its size, and where it lies.

    Attributes:
        width: pixels.
        height: pixels.
        crs_wkt: coordinate reference system as WKT, or None.
        transform: pixel to CRS.
    """

    width: int
    height: int
    crs_wkt: str | None
    transform: Affine

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
