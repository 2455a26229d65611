"""What is said of every object: one function per attribute, and the order in which they are written."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import shapely

from pfmap.core.regions import Regions
from pfmap.vector.geodesy import Measurer

Column = npt.NDArray[np.generic] | npt.NDArray[np.object_]

SceneNames = Callable[[npt.NDArray[np.object_]], npt.NDArray[np.object_]]
"""Says for ``(n,)`` polygons in the CRS which scene shows each."""


@dataclass(slots=True)
class Chunk:
    """Some objects, and all that their attributes are computed from.

    Attributes:
        regions: as traced.
        ground: ``(n,)`` their polygons where lengths and areas are true: metres, or pixels without a CRS.
        names: name of each class.
        scene: name of the scene, of all or of each.
        has_confidence: whether confidences are known.
    """

    regions: Regions
    ground: npt.NDArray[np.object_]
    names: dict[int, str]
    scene: str | npt.NDArray[np.object_]
    has_confidence: bool
    _box: npt.NDArray[np.float64] | None = None

    @property
    def box(self) -> npt.NDArray[np.float64]:
        """``(n, 3)`` length, width and azimuth of the rectangles around the objects."""
        if self._box is None:
            self._box = _rectangles(self.ground)
        return self._box


def object_id(chunk: Chunk) -> Column:
    """Return a number that stays the same as long as the class raster does.

    It is the place of the object's first pixel in reading order: row * width of the class raster + column.
    """
    return chunk.regions.ids


def region_id(chunk: Chunk) -> Column:
    """Return the number that all pieces of one large region share; `object_id` of all others."""
    return chunk.regions.region_ids


def class_id(chunk: Chunk) -> Column:
    """Return the value in the class raster."""
    return chunk.regions.classes


def class_name(chunk: Chunk) -> Column:
    """Return the name of the class."""
    return np.array([chunk.names[value] for value in chunk.regions.classes.tolist()], dtype=object)


def area(chunk: Chunk) -> Column:
    """Return the area of the polygon on the ground, without its holes: square metres, or pixels."""
    return np.asarray(shapely.area(chunk.ground)).round(6)


def perimeter(chunk: Chunk) -> Column:
    """Return the length of the outline on the ground, holes included: metres, or pixels."""
    return np.asarray(shapely.length(chunk.ground)).round(6)


def length(chunk: Chunk) -> Column:
    """Return the longer side of the smallest rectangle around the polygon: metres, or pixels."""
    return chunk.box[:, 0].round(6)


def width(chunk: Chunk) -> Column:
    """Return the shorter side of the smallest rectangle around the polygon: metres, or pixels."""
    return chunk.box[:, 1].round(6)


def azimuth(chunk: Chunk) -> Column:
    """Return where the longer side of that rectangle points: degrees clockwise from north, 0 to below 180.

    North is that of the CRS where it is metric; else true north at the scene's middle, and up in the raster
    without a CRS.
    """
    return chunk.box[:, 2].round(2) % 180


def confidence_mean(chunk: Chunk) -> Column:
    """Return the mean of the blended probability over the object's pixels, 0 to 1."""
    regions = chunk.regions
    return (regions.confidence_sum / np.maximum(regions.pixels, 1) / 100).round(4)


def confidence_min(chunk: Chunk) -> Column:
    """Return the least blended probability among the object's pixels, 0 to 1."""
    return chunk.regions.confidence_min / 100


def touches_edge(chunk: Chunk) -> Column:
    """Return whether the object lies at the scene's edge or at nodata, and so may go on there."""
    return chunk.regions.at_edge


def scene(chunk: Chunk) -> Column:
    """Return the name of the scene."""
    return np.full(len(chunk.regions), chunk.scene, dtype=object)


def attributes(chunk: Chunk, measurer: Measurer) -> dict[str, Column]:
    """Compute all attributes, by the names of their fields."""
    unit = measurer.units
    columns = {
        "object_id": object_id(chunk),
        "region_id": region_id(chunk),
        "class_id": class_id(chunk),
        "class": class_name(chunk),
        "area_m2" if unit == "m" else "area_px": area(chunk),
        f"perimeter_{unit}": perimeter(chunk),
        f"length_{unit}": length(chunk),
        f"width_{unit}": width(chunk),
        "azimuth_deg": azimuth(chunk),
    }
    if chunk.has_confidence:
        columns |= {"confidence_mean": confidence_mean(chunk), "confidence_min": confidence_min(chunk)}
    return columns | {"touches_edge": touches_edge(chunk), "scene": scene(chunk)}


def _rectangles(polygons: npt.NDArray[np.object_]) -> npt.NDArray[np.float64]:
    """Return length, width and azimuth of the rectangles of least area around polygons: ``(n, 3)``."""
    if not len(polygons):
        return np.zeros((0, 3))
    corners = shapely.get_coordinates(shapely.oriented_envelope(polygons)).reshape(-1, 5, 2)
    sides = np.diff(corners[:, :3], axis=1)  # two neighbouring sides
    lengths = np.hypot(sides[..., 0], sides[..., 1])
    longer = lengths.argmax(axis=1)
    along = np.take_along_axis(sides, longer[:, None, None], axis=1)[:, 0]
    degrees = np.degrees(np.arctan2(along[:, 0], along[:, 1])) % 180
    return np.stack([lengths.max(axis=1), lengths.min(axis=1), degrees], axis=1)
