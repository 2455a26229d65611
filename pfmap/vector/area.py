"""Bring the area of interest, polygons of a file or a bounding box, into a scene's pixel coordinates."""

from dataclasses import dataclass, field

import numpy as np
import pyproj
import shapely
from shapely.geometry.base import BaseGeometry

from pfmap.core.errors import OutsideError, SourceError, UsageError, quietly, reason
from pfmap.core.grid import GeoBox, Span
from pfmap.vector.layer import explained, open_layer, polygons_of

Bounds = tuple[float, float, float, float]
_PIXEL = 1e-6  # bounds this close to a pixel's edge lie on it
_EDGE = 64  # pieces of an edge of a box, which is curved in another CRS
_STRAIGHT = 1e-9  # share of its area that a box with edges along the axes may lack


@dataclass(frozen=True, slots=True)
class Area:
    """An area of interest over a scene, and the scene's rows and columns that it reaches."""

    geometry: BaseGeometry
    """Polygon or multipolygon, in pixels of the scene (x is the column)."""
    rows: Span
    cols: Span
    rectangle: bool
    """Whether it is exactly those rows and columns."""
    note: str = ""
    _tree: shapely.STRtree = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_tree", shapely.STRtree(shapely.get_parts(self.geometry)))

    def pieces(self, rows: Span, cols: Span) -> list[BaseGeometry]:
        """Return the polygons that reach these rows and columns, cut to their surroundings."""
        box = cols.start - 1.0, rows.start - 1.0, cols.stop + 1.0, rows.stop + 1.0
        near = self._tree.geometries[self._tree.query(shapely.box(*box))]
        cut = shapely.clip_by_rect(near, *box)
        return [piece for piece in cut if not piece.is_empty and piece.area > 0]

    def scaled(self, top: float, left: float, height: float, width: float) -> list[BaseGeometry]:
        """Return the polygons in cells of this many pixels, counted from row `top` and column `left`."""
        parts = shapely.get_parts(self.geometry)
        return list(shapely.transform(parts, lambda xy: (xy - (left, top)) / (width, height)))

    def digest(self) -> bytes:
        """Return bytes that differ for different areas."""
        return bytes(shapely.to_wkb(shapely.normalize(self.geometry)))


def read_area(
    text: str | None, bbox: Bounds | None, geobox: GeoBox, scene: str, bbox_crs: str | None = None
) -> Area:
    """Bring an area of interest into the pixels of a scene, whose grid is given, and whose name for messages.

    It is all polygons of a vector file, or ``FILE:layer``, holes included; or a bbox, xmin, ymin, xmax, ymax
    in the scene's CRS, or in `bbox_crs`, x before y; or what both cover.

    Raises:
        SourceError: the file cannot be read, or has no polygons.
        UsageError: the area does not touch the scene, or their CRSs cannot be brought together.
    """
    shapes, note, straight = [], "", False
    if text is not None:
        shape, note = _read_polygons(text, geobox, scene)
        shapes.append(shape)
    if bbox is not None:
        box = _box(bbox, bbox_crs, geobox, scene)
        shapes.append(box)
        straight = text is None and box.area >= shapely.box(*box.bounds).area * (1 - _STRAIGHT)
    geometry = _in_pixels(shapes, geobox)
    if geometry.is_empty or geometry.area == 0:
        named = " and ".join(filter(None, (text, bbox and f"bbox={bbox}")))
        extent = ",".join(f"{value:.10g}" for value in geobox.bounds)
        raise OutsideError(f"{named} does not touch {scene}, which covers {extent} in its CRS")
    x0, y0, x1, y1 = geometry.bounds
    rows = Span(int(np.floor(y0 + _PIXEL)), int(np.ceil(y1 - _PIXEL)))
    cols = Span(int(np.floor(x0 + _PIXEL)), int(np.ceil(x1 - _PIXEL)))
    upright = straight and geobox.transform[1] == geobox.transform[3] == 0
    if upright:  # a box along the axes takes whole pixels: those whose centre it covers
        rows = _centres(y0, y1, geobox.height)
        cols = _centres(x0, x1, geobox.width)
    return Area(geometry, rows, cols, upright, note)


def _box(bbox: Bounds, crs: str | None, geobox: GeoBox, scene: str) -> BaseGeometry:
    """Make a box, of another CRS or a scene's own, in the scene's."""
    if not np.isfinite(bbox).all() or bbox[0] >= bbox[2] or bbox[1] >= bbox[3]:
        raise UsageError(f"bbox={bbox} has no extent: give xmin,ymin,xmax,ymax in the scene's CRS")
    if crs is None:
        return shapely.box(*bbox)
    if geobox.crs_wkt is None:
        raise UsageError(f"{scene} has no CRS: give bbox= in its pixels, and leave out bbox_crs={crs!r}")
    try:
        target = pyproj.CRS.from_wkt(geobox.crs_wkt).to_2d()
        way = pyproj.Transformer.from_crs(pyproj.CRS.from_user_input(crs).to_2d(), target, always_xy=True)
    except pyproj.exceptions.ProjError as error:
        raise UsageError(
            f"bbox_crs={crs!r} cannot be brought into the CRS of {scene} ({reason(error)}): write it as "
            "EPSG:4326"
        ) from error
    edges = shapely.segmentize(shapely.box(*bbox), max(bbox[2] - bbox[0], bbox[3] - bbox[1]) / _EDGE)
    moved = shapely.transform(edges, lambda xy: np.column_stack(way.transform(xy[:, 0], xy[:, 1])))
    if not np.isfinite(shapely.get_coordinates(moved)).all():
        raise UsageError(
            f"bbox={bbox} reaches beyond where {scene} has a CRS: is it in bbox_crs={crs!r}, x before y?"
        )
    return moved


def _in_pixels(shapes: list[BaseGeometry], geobox: GeoBox) -> BaseGeometry:
    """Return what all shapes, and the scene, cover: in pixels of the scene."""
    a, b, c, d, e, f = geobox.inverse()
    matrix, shift = np.array([[a, d], [b, e]]), np.array([c, f])
    geometry: BaseGeometry = shapely.box(0, 0, geobox.width, geobox.height)
    for shape in shapes:
        pixels = shapely.transform(shape, lambda xy: xy @ matrix + shift)
        geometry = geometry.intersection(shapely.make_valid(pixels))
    return polygons_of(np.array([geometry], dtype=object))


def _centres(low: float, high: float, size: int) -> Span:
    """Return the pixels along one axis whose centre lies in a range; if there is none, the one around it."""
    start = int(np.ceil(low - 0.5 - _PIXEL))
    stop = int(np.ceil(high - 0.5 - _PIXEL))
    if stop <= start:  # thinner than a pixel: the one it lies in
        start = min(size - 1, int(np.floor((low + high) / 2)))
        stop = start + 1
    return Span(max(0, start), min(size, stop))


def _read_polygons(text: str, geobox: GeoBox, scene: str) -> tuple[BaseGeometry, str]:
    """Return all polygons of a file, united, in the CRS of the scene; and what to tell the user of it."""
    layer = open_layer(text, "area")
    way, note = layer.way_onto(geobox, scene)
    with explained(f"area {text}"), quietly():
        shapes = shapely.force_2d(layer.everything([])[0])
        if way is not None:
            shapes = shapely.transform(shapes, lambda xy: np.column_stack(way.transform(xy[:, 0], xy[:, 1])))
        # Bounds of nothing, and of what is empty, are no numbers.
        finite = np.isfinite(shapely.bounds(shapes)).all(axis=1)
        shape = polygons_of(shapely.make_valid(shapes[finite]))
    if shape.is_empty:
        raise SourceError(f"area {text} has no polygon: {layer.count} features without an area")
    return shape, note
