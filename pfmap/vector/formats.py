"""Write vector files piece by piece: one class for each way in which a format can be written."""

import contextlib
import sqlite3
import struct
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyogrio
import pyproj
import shapely

from pfmap.core.arrays import Array, Longs
from pfmap.core.classes import ClassSpec, add_default_style
from pfmap.core.errors import TargetError, UsageError, quietly
from pfmap.core.files import writing
from pfmap.core.grid import GeoBox
from pfmap.core.resources import PART
from pfmap.core.stages import Feed, Regions
from pfmap.vector.geodesy import in_degrees, same_place, to_degrees

LAYER, GEOMETRY = "objects", "geom"
"""Names of the layer and of its geometry, in formats that name them."""

FORMATS = ("gpkg", "shp", "fgb", "geojson", "parquet", "pmtiles")

SHAPEFILE_BYTES = 2_000_000_000
"""A shapefile's parts stay below this: many programs read offsets as signed 32-bit numbers."""

_TEXT_BYTES = 254
"""What a text in a shapefile's table has room for."""

_SHORT = {
    "perimeter_m": "perim_m",
    "perimeter_px": "perim_px",
    "azimuth_deg": "azimuth",
    "confidence_mean": "conf_mean",
    "confidence_min": "conf_min",
    "touches_edge": "at_edge",
}
"""Shapefile field names have at most ten characters: these are the longer ones."""

_MORE_THAN_WKB = 43
"""Bytes that a polygon has more in a shapefile than as well-known binary: bounds, sizes, its place."""

_BATCH = 2000
"""Objects that GDAL takes at a time: Python's other threads wait while it does."""

# GDAL builds a spatial index in memory, 45 bytes an object, by default in up to a tenth of the machine's.
pyogrio.set_gdal_config_options({"OGR_GPKG_MAX_RAM_USAGE_RTREE": 128_000_000})

_FAILURES = (pa.ArrowException, sqlite3.Error, RuntimeError)


@dataclass(slots=True)
class Sink(ABC):
    """A vector file, or one in parts, while it is being written; it has to be closed, also after an error."""

    folder: Path
    stem: str
    """Its name without the ending."""
    crs: pyproj.CRS | None
    metadata: Mapping[str, str]
    moment: datetime
    """When it says it was written, UTC."""
    geobox: GeoBox
    """The grid that its objects come from."""
    classes: Mapping[int, ClassSpec]
    begun: bool = field(default=False, init=False)
    _count: int = field(default=0, init=False)

    def append(self, table: pa.Table) -> None:
        """Add objects, attributes and WKB polygons in the CRS; a `TargetError` if that cannot be done."""
        with quietly(), writing(self.folder / self.stem, *_FAILURES):
            self._append(table)
        self.begun = True
        self._count += table.num_rows

    def finish(self, empty: Callable[[], pa.Table], qml: str) -> list[Path]:
        """Complete the file, with its QGIS style, and return its paths, without those of sidecars.

        `empty` makes a table with all fields and no objects: what is written where there are none. A
        `TargetError` says that the file cannot be written, or does not say what was written to it.
        """
        with quietly(), writing(self.folder / self.stem, *_FAILURES):
            if not self.begun:
                self._append(empty())
                self.begun = True
            paths = self._finish(qml)
            self._check(paths)
            return paths

    def _check(self, paths: Sequence[Path]) -> None:
        """Read back what GDAL wrote: it leaves out without a word what a format has no place for."""
        if paths[0].suffix in (".geojson", ".parquet", ".pmtiles"):
            return  # has one CRS, and is read as a whole; is ours; has objects once in each tile
        layer = LAYER if paths[0].suffix == ".gpkg" else None
        found = [pyogrio.read_info(path, layer=layer, force_feature_count=True) for path in paths]
        count, crs = sum(info["features"] for info in found), found[0]["crs"]
        if count != self._count or (crs is None) != (self.crs is None):
            raise TargetError(
                f"{paths[0].name} could not be written: read back, it has {count} objects in CRS {crs}, not "
                f"{self._count} in {self.crs}; choose another format with formats="
            )

    def close(self) -> None:  # noqa: B027 - most have nothing to do
        """Let go of a file that may not be complete."""

    @abstractmethod
    def _append(self, table: pa.Table) -> None: ...

    @abstractmethod
    def _finish(self, qml: str) -> list[Path]: ...

    def _path(self, ending: str) -> Path:
        return self.folder / f"{self.stem}.{ending}"

    @staticmethod
    def _style(path: Path, qml: str) -> None:
        path.with_suffix(".qml").write_text(qml, encoding="utf-8")


@dataclass(slots=True)
class Shapefile(Sink):
    """In numbered parts if it grows too large; that is decided before anything is written to a part."""

    _parts: list[Path] = field(default_factory=list)
    _shapes: int = 0
    _records: int = 0

    def _append(self, table: pa.Table) -> None:
        table = table.rename_columns([_SHORT.get(name, name) for name in table.column_names])
        sizes = _MORE_THAN_WKB + pc.binary_length(table[GEOMETRY]).to_numpy()
        if not self._parts:
            self._next_part()
        first = 0
        while first < len(sizes) or not self._records:
            left = SHAPEFILE_BYTES - self._shapes
            room = int(np.searchsorted(np.cumsum(sizes[first:]), left, side="right"))
            if self._records:
                attributes = self._parts[-1].with_suffix(".dbf").stat().st_size if self._shapes else 0
                room = min(room, max(0, SHAPEFILE_BYTES - attributes) // self._records)
            if not room and self._shapes:
                self._next_part()
                continue
            stop = first + max(1, room)
            path = self._parts[-1]
            some = table.slice(first, stop - first)
            write_arrow(some, path, "ESRI Shapefile", self.crs, append=path.exists(), encoding="UTF-8")
            with path.with_suffix(".dbf").open("rb") as file:
                self._records = struct.unpack("<H", file.read(12)[10:])[0]
            self._shapes += int(sizes[first:stop].sum())
            first = stop

    def _next_part(self) -> None:
        number = len(self._parts) + 1
        further = f"{PART}{number}" if number > 1 else ""
        self._parts.append(self.folder / f"{self.stem}{further}.shp")
        self._shapes = 0

    def _finish(self, qml: str) -> list[Path]:
        day = bytes((self.moment.year - 1900, self.moment.month, self.moment.day))
        for path in self._parts:
            self._style(path, qml)
            with path.with_suffix(".dbf").open("rb+") as file:
                file.seek(1)
                file.write(day)
        return list(self._parts)


@dataclass(slots=True)
class Streamed(Sink):
    """A file that GDAL writes in one go, in a thread that takes chunk after chunk.

    A GeoPackage could be appended to, but then its spatial index grows object by object.
    """

    driver: str = ""
    ending: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    _schema: pa.Schema | None = None
    _feed: Feed[pa.Table] | None = None

    def _append(self, table: pa.Table) -> None:
        if self.driver == "GeoJSON" and self.crs is not None:
            shapes = in_degrees(shapely.from_wkb(table[GEOMETRY].to_numpy()), self.crs)
            column = pa.array(shapely.to_wkb(shapes), pa.binary())
            table = table.drop_columns(GEOMETRY).append_column(GEOMETRY, column)
        if self._feed is None:
            self._schema = table.schema
            self._feed = Feed(self._write)
        self._feed.put(table)

    def _write(self, tables: Iterator[pa.Table]) -> None:
        batches = (batch for table in tables for batch in table.to_batches(_BATCH))
        reader = pa.RecordBatchReader.from_batches(self._schema, batches)
        with quietly():  # in this thread it may begin once the one that feeds it is elsewhere
            path = self._path(self.ending)
            write_arrow(reader, path, self.driver, self.crs, layer=LAYER, **self.options)

    def _finish(self, qml: str) -> list[Path]:
        assert self._feed is not None
        self._feed.finish()
        path = self._path(self.ending)
        if self.driver == "GPKG":
            add_default_style(path, LAYER, qml, self.moment)
        else:
            self._style(path, qml)
        return [path]

    def close(self) -> None:
        """Have the thread give up."""
        if self._feed is not None:
            self._feed.cancel()


def write_arrow(
    objects: Any, path: Path, driver: str, crs: pyproj.CRS | None, kind: str = "Polygon", **options: Any
) -> None:
    """Have GDAL write objects of a kind of geometry that come as Arrow's: a table, or what reads one."""
    text = None if crs is None else crs.to_wkt()
    if text is not None and driver in ("GeoJSON", "PMTiles"):  # RFC 7946 knows no CRS but one
        text = "OGC:CRS84"
    options |= {"driver": driver, "geometry_name": GEOMETRY, "geometry_type": kind, "crs": text}
    pyogrio.write_arrow(objects, path, **options)


def refuse_unfit(
    form: str, folder: Path, classes: Iterable[str], crs: pyproj.CRS | None, center: tuple[float, float]
) -> None:
    """Refuse a format that cannot hold long names or the CRS, before anything is computed, by a `UsageError`.

    Shapefiles, GeoJSON and tiles do not hold everything; whether the first keep the CRS is tried in `folder`.
    """
    lost, way = "", None if crs is None else to_degrees(crs)
    if form == "shp" and any(len(name.encode()) > _TEXT_BYTES for name in classes):
        lost = f"a class with a name of more than {_TEXT_BYTES} bytes"
    elif form in ("geojson", "pmtiles") and crs is not None and way is None:
        lost = f"CRS {crs.name}: they are in WGS 84 or Web Mercator, and there is no way there"
    elif form == "pmtiles" and (way is None or abs(way.transform(*center)[1]) > 85.05):
        lost = "objects without a CRS, or nearer to a pole than Web Mercator reaches"
    elif form == "shp" and crs is not None and not _keeps(crs, folder, center):
        lost = f"CRS {crs.name}"
    if lost:
        raise UsageError(f"{form} files cannot hold {lost}: choose another format with formats=")


def _keeps(crs: pyproj.CRS, folder: Path, center: tuple[float, float]) -> bool:
    """Whether a shapefile keeps a CRS."""
    table, found = pa.table({"class": ["any"], GEOMETRY: [shapely.Point(center).wkb]}), None
    unknown = contextlib.suppress(pyproj.exceptions.ProjError, pyogrio.errors.CRSError)
    with tempfile.TemporaryDirectory(dir=folder) as name, quietly(), unknown:
        write_arrow(table, Path(name, "trial.shp"), "ESRI Shapefile", crs, "Point")
        found = pyogrio.read_info(f"{name}/trial.shp")["crs"]
    return found is not None and same_place(crs, pyproj.CRS(found), center)


def as_wkb(regions: Regions) -> pa.Array:
    """Return ``(n,)`` outlines as Arrow's well-known binary of polygons, without an object for each."""
    count, rings, first = len(regions), regions.ring_offsets, regions.region_offsets
    ends = np.arange(count + 1) * 9 + first * 4 + rings[first] * 16
    data = np.empty(ends[-1] + 16, dtype=np.uint8)

    def put(places: Longs, items: Array) -> None:
        np.ndarray(len(data) - 16, f"V{items.itemsize}", data, strides=1)[places] = items.view("V")

    heads = np.full(count, 1, dtype=[("order", "u1"), ("kind", "<u4"), ("rings", "<u4")])
    heads["kind"], heads["rings"] = 3, np.diff(first)  # a polygon
    put(ends[:-1], heads)
    sizes = np.diff(rings).astype("<u4")
    before = np.repeat(np.arange(count) * 9 + 9, np.diff(first)) + np.arange(len(sizes)) * 4
    put(before + rings[:-1] * 16, sizes)
    points = np.ascontiguousarray(regions.coords, dtype="<f8").view("V16")[:, 0]
    put(np.repeat(before + 4, sizes) + np.arange(len(points)) * 16, points)
    buffers = [None, pa.array(ends, pa.int32()).buffers()[1], pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.binary(), count, buffers)
