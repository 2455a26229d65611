"""Turn regions into objects with attributes, and write them to GIS files, chunk by chunk."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyproj
import shapely

from pfmap.core.arrays import Array, Bools, Floats, Longs, Objects
from pfmap.core.classes import ClassSpec, objects_style, qml
from pfmap.core.errors import UsageError
from pfmap.core.grid import GeoBox
from pfmap.core.resources import UNDATED
from pfmap.core.stages import Regions
from pfmap.vector.formats import GEOMETRY, Shapefile, Sink, Streamed, as_wkb, refuse_unfit
from pfmap.vector.geodesy import Measurer, rectangles, sizes
from pfmap.vector.regularize import Regularizer

SceneNames = Callable[[Objects], Objects]
"""Says for ``(n,)`` polygons in the CRS which scene shows each."""

Common = tuple[Path, str, pyproj.CRS | None, Mapping[str, str], datetime, GeoBox, Mapping[int, ClassSpec]]
"""The first fields of every `Sink`."""

_TEXTS = dict.fromkeys(("class", "scene"), pa.string())
"""Fields whose type their values do not say where there are none."""

_CHUNK = 20_000
"""Objects that are written together."""

_CHUNK_POINTS = 1_000_000
"""Vertices that are written together: the pieces of a background have thousands each."""

_WAITING_POINTS = 8_000_000
"""Vertices that wait for the rest of a region that is squared together, or of an object that is cut."""


@dataclass(slots=True)
class ObjectWriter:
    """Collects closed regions and appends them, as objects, to all wanted files in chunks.

    It has to be closed, also after an error: some files are written by a thread.
    """

    folder: Path
    """Staging folder."""
    stem: str
    """File names without their endings."""
    formats: Sequence[str]
    classes: Mapping[int, ClassSpec]
    """Their names and colours, by their value in the class raster."""
    wanted: frozenset[int] | None
    """Values that become objects, which get a file even where there are none; None if not known."""
    geobox: GeoBox
    """The grid of the regions' coordinates."""
    measurer: Measurer
    scene: str | SceneNames
    """Name of the scene, or what says it for each object."""
    min_area: Sequence[float]
    """Smaller objects are left out: for all, of each class, or () for none; m2, or pixels without a CRS."""
    metadata: Mapping[str, str]
    """Run parameters, kept in the files that have a place for them."""
    by_class: bool = False
    """Whether each class gets files of its own."""
    apart: frozenset[int] = frozenset()
    """Values whose objects are taken apart: each piece of one says what the whole object is like."""
    has_confidence: bool = True
    regularizer: Regularizer | None = None
    """Squares some of the objects, if any."""
    moment: datetime = UNDATED
    """When the files say they were written."""
    counts: dict[int, int] = field(init=False)
    """Objects written so far, per class."""
    areas: dict[int, float] = field(init=False)
    """Their area, per class."""
    scenes: Counter[tuple[str, int]] = field(default_factory=Counter)
    """Objects per scene and class, where `scene` says it for each."""
    _crs: pyproj.CRS | None = field(init=False)
    _sinks: dict[str, list[Sink]] = field(default_factory=dict)
    _waiting: list[Regions] = field(default_factory=list)
    _pieces: Counter[int] = field(default_factory=Counter)
    """Pieces so far of each object that is cut."""
    _torn: int = -1
    """A region that is not written together, for it has too many vertices: its objects stay as they are."""

    def __post_init__(self) -> None:
        self.counts = dict.fromkeys(sorted(self.wanted or ()), 0)
        self.areas = dict.fromkeys(self.counts, 0.0)
        wkt = self.geobox.crs_wkt
        self._crs = None if wkt is None else pyproj.CRS.from_wkt(wkt).to_2d()
        names = [spec.name for spec in self.classes.values()]
        for form in self.formats:
            refuse_unfit(form, self.folder, names, self._crs, self.geobox.center)

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
            common = self.folder, stem, self._crs, self.metadata, self.moment, self.geobox, self.classes
            self._sinks[name] = [_sink(form, *common) for form in self.formats]
        return self._sinks[name]

    def add(self, regions: Regions) -> None:
        """Take closed regions; a `TargetError` where a file cannot be written."""
        self._waiting.append(regions)
        points = sum(len(part.coords) for part in self._waiting)
        if sum(map(len, self._waiting)) < _CHUNK and points < _CHUNK_POINTS:
            return
        # Cut by the objects alone, not by how they came: files have a piece for each chunk.
        whole, first = Regions.join(self._waiting), 0
        ends = whole.ring_offsets[whole.region_offsets]
        together = self._going_on(whole)  # with the one before
        if self.regularizer is not None:
            together[1:] |= whole.whole[1:] & (whole.region_ids[1:] == whole.region_ids[:-1])
        while True:
            full = int(np.searchsorted(ends, ends[first] + _CHUNK_POINTS))
            stop = min(first + _CHUNK, full)
            if stop > len(whole):
                break
            apart = np.flatnonzero(~together[stop:])
            if len(apart):
                stop += int(apart[0])
            elif self.apart or self.regularizer is not None:  # the last object or region may go on
                if ends[-1] - ends[first] < _WAITING_POINTS:
                    break
                self._torn = int(whole.region_ids[-1])
            self._write(whole.part(first, stop))
            first = stop
        self._waiting = [whole.part(first, len(whole))] if first < len(whole) else []

    def finish(self) -> dict[str, list[Path]]:
        """Write what is left, and return all files by format; where they are split, by format and class.

        A scene without objects gives empty layers, a file that cannot be written a `TargetError`.
        """
        self._write(Regions.join(self._waiting))
        style = qml(objects_style([self.classes[value] for value in sorted(self.counts)]))
        for value in self.counts if self.by_class else (None,):
            self._sinks_of(value)
        files = {}
        for name, sinks in self._sinks.items():
            for form, one in zip(self.formats, sinks, strict=True):
                kind = f"{form}.{name}" if name else form
                files[kind] = one.finish(lambda: self._table(Regions.none())[0], style)
        return files

    def close(self) -> None:
        """Let go of the files, complete or not."""
        for one in [one for sinks in self._sinks.values() for one in sinks]:
            one.close()

    def _going_on(self, regions: Regions) -> Bools:
        """Say which of ``(n,)`` are further pieces of the object before, and have its attributes."""
        further = ~regions.whole & np.isin(regions.classes, list(self.apart))
        further[:1] = False
        further[1:] &= regions.object_ids[1:] == regions.object_ids[:-1]
        further &= regions.region_ids != self._torn
        return further

    def _table(self, regions: Regions) -> tuple[pa.Table, Longs]:
        """Make objects of regions, polygons in the CRS with their attributes; and say of which they are."""
        outlines = regions
        if self.regularizer is not None and len(regions):
            entire = regions.whole & (regions.region_ids != self._torn)
            squared = self.regularizer(polygons(regions), replace(regions, whole=entire))
            _, coords, offsets = shapely.to_ragged_array(squared)
            rings, first = (part.astype(np.int64) for part in offsets)
            outlines = replace(regions, coords=coords, ring_offsets=rings, region_offsets=first)

        def placed(points: Floats) -> Floats:
            return np.stack(self.geobox.place(*points.T), axis=1)

        def true(points: Floats) -> Floats:
            # Without a CRS pixels are the measure, and north is up.
            return self.measurer.ground(placed(points) if self.measurer.units == "m" else points * (1, -1))

        starts = np.flatnonzero(~self._going_on(regions))
        pieces = np.diff(starts, append=len(regions))
        scene: Any = self.scene
        if pieces.max(initial=1) > 1 or not isinstance(scene, str):
            every = polygons(outlines)
            shapes = every[starts]
            for index in np.flatnonzero(pieces > 1):
                shapes[index] = shapely.union_all(every[starts[index] :][: pieces[index]])
            scene = scene if isinstance(scene, str) else scene(shapely.transform(shapes, placed))
            ground: Any = shapely.transform(shapes, true)
            measures = shapely.area(ground), shapely.length(ground)
        else:
            points, ends = true(outlines.coords), outlines.ring_offsets[outlines.region_offsets]
            ground = shapely.linestrings(points, indices=np.repeat(np.arange(len(regions)), np.diff(ends)))
            measures = sizes(replace(outlines, coords=points))
        said = self._attributes(regions.united(starts), ground, measures, scene)
        columns = {name: np.repeat(column, pieces) for name, column in said.items()}
        for index in np.flatnonzero(~regions.whole):
            self._pieces[owner := int(regions.object_ids[index])] += 1
            columns["piece"][index] = self._pieces[owner]
        values = {name: pa.array(one, _TEXTS.get(name), from_pandas=True) for name, one in columns.items()}
        least = np.take(self.min_area or (0.0,), regions.classes, mode="clip")
        small = (np.repeat(measures[0], pieces) < least) & regions.whole
        geometry = as_wkb(replace(outlines, coords=placed(outlines.coords)))
        kept, table = np.flatnonzero(~small), pa.table(values | {GEOMETRY: geometry})
        return (table.take(kept) if small.any() else table), kept

    def _attributes(self, regions: Regions, ground: Objects, sizes: Any, scene: Any) -> dict[str, Array]:
        """Return ``(n,)`` what is said of every object, by the names of the fields, in their order.

        Ground has their outlines where lengths are true, sizes their areas and perimeters.
        """
        unit = self.measurer.units
        values, which = np.unique(regions.classes, return_inverse=True)
        names = np.array([self.classes[value].name for value in values.tolist()], dtype=object)
        lengths, longer = rectangles(ground)
        columns: dict[str, Array] = {
            # The place of its first pixel in reading order, row * width of the class raster + column: a
            # number that stays the same as long as the class raster does.
            "object_id": regions.object_ids,
            "piece": np.ones(len(regions), dtype=np.int32),  # from 1 on, where an object is cut
            # The same of the connected region of its class.
            "region_id": regions.region_ids,
            "class_id": regions.classes,  # the value in the class raster
            "class": names[which],
            # Of the polygon on the ground, without its holes; the outline has them.
            f"area_{self.measurer.area_units}": sizes[0].round(6),
            f"perimeter_{unit}": sizes[1].round(6),
            # The sides of the smallest rectangle around it, and where the longer one points there: degrees
            # clockwise from true north, 0 to below 180; without a CRS from up in the raster.
            f"length_{unit}": lengths.max(axis=1).round(6),
            f"width_{unit}": lengths.min(axis=1).round(6),
            "azimuth_deg": self.measurer.azimuths(longer).round(2) % 180,
        }
        if self.has_confidence:  # of the blended probability over its pixels, 0 to 1
            mean = regions.confidence_sum / np.maximum(regions.pixels, 1) / 100
            columns |= {"confidence_mean": mean.round(4), "confidence_min": regions.confidence_min / 100}
        # At the scene's edge or at nodata it may go on.
        return columns | {
            "touches_edge": regions.at_edge,
            "scene": np.full(len(regions), scene, dtype=object),
        }

    def _write(self, regions: Regions) -> None:
        """Write objects, and count them."""
        if not len(regions):
            return
        table, kept = self._table(regions)
        wanted = f"area_{self.measurer.area_units}", "class_id", "piece"
        area, values, pieces = (table[name].to_numpy() for name in wanted)
        own, first = ~self._going_on(regions)[kept], pieces == 1
        for value in np.unique(values[own]).tolist():
            mine = own & (values == value)
            self.counts[value] = self.counts.get(value, 0) + int(np.count_nonzero(mine & first))
            self.areas[value] = self.areas.get(value, 0.0) + float(area[mine].sum())
        if not isinstance(self.scene, str):
            shown = table["scene"].filter(first).to_pylist()
            self.scenes.update(zip(shown, values[first].tolist(), strict=True))
        for value in np.unique(values).tolist() if self.by_class else (None,):
            part = table if value is None else table.filter(values == value)
            for one in self._sinks_of(value):
                one.append(part)


def _sink(form: str, *common: *Common) -> Sink:
    """Begin a file of a format, one of `FORMATS`."""
    crs, metadata = common[2:4]
    if form == "gpkg":
        # The layer's metadata, not the file's: of the latter GDAL leaves a copy beside what it reads.
        # Later versions than 1.3 make QGIS of 2022 and 2023 doubt the file.
        options = {"layer_metadata": dict(metadata), "VERSION": "1.3"}
        return Streamed(*common, driver="GPKG", ending="gpkg", options=options)
    if form == "shp":
        return Shapefile(*common)
    if form in ("parquet", "pmtiles"):
        from pfmap.vector.partial import Parquet, Tiles  # geopandas takes half a second

        return Parquet(*common) if form == "parquet" else Tiles(*common)
    if form == "fgb":
        return Streamed(*common, driver="FlatGeobuf", ending="fgb")
    options = {} if crs is None else {"RFC7946": "YES"}
    return Streamed(*common, driver="GeoJSON", ending="geojson", options=options)


def file_part(name: str) -> str:
    """Return a class's name as it may stand in a file name."""
    return "".join(char if char.isalnum() or char in "-_" else "_" for char in name)


def polygons(regions: Regions) -> Objects:
    """Build ``(n,)`` polygons in pixel coordinates, x the column and y the row of pixel corners."""
    if not len(regions):
        return np.zeros(0, dtype=object)
    return np.asarray(
        shapely.from_ragged_array(
            shapely.GeometryType.POLYGON, regions.coords, (regions.ring_offsets, regions.region_offsets)
        ),
        dtype=object,
    )
