"""Write objects to GIS files, chunk by chunk."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pyproj
import shapely

from pfmap.core.classes import ClassSpec, objects_style, qml
from pfmap.core.errors import UsageError
from pfmap.core.grid import GeoBox
from pfmap.core.regions import Regions
from pfmap.vector.attributes import Chunk, SceneNames, attributes
from pfmap.vector.formats import LAYER, Sink, sink
from pfmap.vector.geodesy import Measurer
from pfmap.vector.regularize import Regularizer

Coords = npt.NDArray[np.float64]

_CHUNK = 20_000
"""Objects that are written together."""

_CHUNK_POINTS = 1_000_000
"""Vertices that are written together: the pieces of a background have thousands each."""


@dataclass(slots=True)
class ObjectWriter:
    """Collects closed regions and appends them, as objects, to all wanted files in chunks.

    Attributes:
        folder: staging folder.
        stem: file names without their endings.
        formats: which files to write.
        classes: their names and colours, by their value in the class raster.
        wanted: values that become objects, which get a file even where there are none; None if not known.
        geobox: the grid of the regions' coordinates.
        measurer: gives areas and lengths.
        scene: name of the scene, or what says it for each object.
        min_area: smaller objects are left out; square metres, or pixels without a CRS.
        metadata: run parameters, kept in the files that have a place for them.
        by_class: whether each class gets files of its own.
        has_confidence: whether the regions' confidences are known.
        regularizer: squares some of the objects, if any.
        counts: objects written so far, per class.
        areas: their area, per class.
    """

    folder: Path
    stem: str
    formats: Sequence[str]
    classes: Mapping[int, ClassSpec]
    wanted: frozenset[int] | None
    geobox: GeoBox
    measurer: Measurer
    scene: str | SceneNames
    min_area: float
    metadata: Mapping[str, str]
    by_class: bool = False
    has_confidence: bool = True
    regularizer: Regularizer | None = None
    counts: dict[int, int] = field(init=False)
    areas: dict[int, float] = field(init=False)
    scenes: Counter[tuple[str, int]] = field(default_factory=Counter)
    _crs: pyproj.CRS | None = field(init=False)
    _sinks: dict[str, list[Sink]] = field(default_factory=dict)
    _waiting: list[Regions] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = dict.fromkeys(sorted(self.wanted or ()), 0)
        self.areas = dict.fromkeys(self.counts, 0.0)
        wkt = self.geobox.crs_wkt
        self._crs = None if wkt is None else pyproj.CRS.from_wkt(wkt).to_2d()

    def _sinks_of(self, value: int | None) -> list[Sink]:
        """Return the files that objects of a class go to; of all classes for None."""
        name = "" if value is None else self.classes[value].name
        if name not in self._sinks:
            stem = f"{self.stem}_{file_part(name)}" if name else self.stem
            for other in self._sinks:
                if file_part(other) == file_part(name):
                    raise UsageError(
                        f"classes {other!r} and {name!r} would have the same file {stem}: rename one"
                    )
            self._sinks[name] = [
                sink(form, self.folder, stem, self._crs, self.metadata) for form in self.formats
            ]
        return self._sinks[name]

    def add(self, regions: Regions) -> None:
        """Take closed regions.

        Raises:
            TargetError: a file cannot be written.
        """
        for first in range(0, len(regions), _CHUNK):
            self._waiting.append(regions.part(first, first + _CHUNK))
            points = sum(len(part.coords) for part in self._waiting)
            if sum(map(len, self._waiting)) >= _CHUNK or points >= _CHUNK_POINTS:
                self._flush()

    def finish(self) -> dict[str, list[Path]]:
        """Write what is left, and return all files by format; where they are split, by format and class.

        A scene without objects gives empty layers.

        Raises:
            TargetError: a file cannot be written.
        """
        self._flush()
        style = qml(objects_style([self.classes[value] for value in sorted(self.counts)]))
        if self.by_class:
            for value in self.counts:
                self._sinks_of(value)
        else:
            self._sinks_of(None)
        files = {}
        for name, sinks in self._sinks.items():
            for form, one in zip(self.formats, sinks, strict=True):
                kind = f"{form}.{name}" if name else form
                files[kind] = one.finish(lambda: self._frame(Regions.none()), style)
        return files

    def close(self) -> None:
        """Let go of the files, complete or not."""
        for sinks in self._sinks.values():
            for one in sinks:
                one.close()

    def _frame(self, regions: Regions) -> gpd.GeoDataFrame:
        a, b, c, d, e, f = self.geobox.transform
        matrix = np.array([[a, d], [b, e]])

        squared = None if self.regularizer is None else self.regularizer(polygons(regions), regions)

        def placed(place: Callable[[Coords], Coords]) -> npt.NDArray[np.object_]:
            if squared is None:
                return polygons(replace(regions, coords=place(regions.coords)))
            return np.asarray(shapely.transform(squared, place))

        geometry = placed(lambda xy: xy @ matrix + (c, f))
        # Without a CRS pixels are the measure, and north is up.
        measured = geometry if self.measurer.units == "m" else placed(lambda xy: xy * (1, -1))
        names = {value: self.classes[value].name for value in np.unique(regions.classes).tolist()}
        scene = self.scene if isinstance(self.scene, str) else self.scene(geometry)
        chunk = Chunk(regions, self.measurer.ground(measured), names, scene, self.has_confidence)
        columns = attributes(chunk, self.measurer)
        frame = gpd.GeoDataFrame(columns, geometry=geometry, crs=None).rename_geometry("geom")
        if self.min_area:
            frame = frame[shapely.area(chunk.ground) >= self.min_area]
        return frame

    def _flush(self) -> None:
        if not self._waiting:
            return
        frame = self._frame(Regions.join(self._waiting))
        self._waiting = []
        area = frame["area_m2" if self.measurer.units == "m" else "area_px"]
        for value, part in area.groupby(frame["class_id"]):
            self.counts[int(value)] = self.counts.get(int(value), 0) + len(part)
            self.areas[int(value)] = self.areas.get(int(value), 0.0) + float(part.sum())
        if not isinstance(self.scene, str):
            self.scenes.update(zip(frame["scene"].tolist(), frame["class_id"].tolist(), strict=True))
        if self.by_class:
            for value, part in frame.groupby("class_id"):
                for one in self._sinks_of(int(value)):
                    one.append(part)
        else:
            for one in self._sinks_of(None):
                one.append(frame)


def file_part(name: str) -> str:
    """Return a class's name as it may stand in a file name."""
    return "".join(char if char.isalnum() or char in "-_" else "_" for char in name)


def polygons(regions: Regions) -> npt.NDArray[np.object_]:
    """Build polygons in pixel coordinates, x the column and y the row of pixel corners."""
    if not len(regions):
        return np.zeros(0, dtype=object)
    return np.asarray(
        shapely.from_ragged_array(
            shapely.GeometryType.POLYGON, regions.coords, (regions.ring_offsets, regions.region_offsets)
        ),
        dtype=object,
    )


__all__ = ["LAYER", "ObjectWriter", "file_part", "polygons"]
