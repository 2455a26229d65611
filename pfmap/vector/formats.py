"""Write vector files piece by piece: one class for each way in which a format can be written."""

import contextlib
import json
import sqlite3
import struct
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyogrio
import pyproj
import shapely
from pyarrow import parquet

from pfmap.core.errors import TargetError, UsageError, quietly, reason
from pfmap.core.files import write_failed
from pfmap.core.stages import Feed
from pfmap.vector.geodesy import in_degrees, same_place
from pfmap.vector.layer import open_layer

LAYER = "objects"
"""Name of the layer in formats that name it."""

FORMATS = ("gpkg", "shp", "fgb", "geojson", "parquet")

SHAPEFILE_BYTES = 2_000_000_000
"""A shapefile's parts stay below this: many programs read offsets as signed 32-bit numbers."""

PART = "_part"
"""Before the number of a further part of a shapefile."""

_SHORT = {
    "perimeter_m": "perim_m",
    "perimeter_px": "perim_px",
    "azimuth_deg": "azimuth",
    "confidence_mean": "conf_mean",
    "confidence_min": "conf_min",
    "touches_edge": "at_edge",
}
"""Shapefile field names have at most ten characters: these are the longer ones."""

_BATCH = 2000
"""Objects that GDAL takes at a time: Python's other threads wait while it does."""

# GDAL builds a spatial index in memory, 45 bytes an object, by default in up to a tenth of the machine's.
pyogrio.set_gdal_config_options({"OGR_GPKG_MAX_RAM_USAGE_RTREE": 128_000_000})

_FAILURES = (pa.ArrowException, sqlite3.Error, RuntimeError, OSError)

_TEXT_BYTES = 254
"""What a text in a shapefile's table has room for."""

_DATED = {"gpkg_contents": "last_change", "gpkg_metadata_reference": "timestamp", "layer_styles": "update_time"}
"""Tables of a GeoPackage that say when it was written, and where."""

_fit: set[tuple[str, str]] = set()  # formats that were tried, with the CRS


@dataclass(frozen=True, slots=True)
class Notes:
    """What a vector file says apart from its objects."""

    crs: pyproj.CRS | None
    """Of the geometries."""
    center: tuple[float, float]
    """x, y in it, among the objects."""
    metadata: Mapping[str, str]
    """Run parameters."""
    moment: datetime
    """When the file says it was written, in UTC: the same input gives the same bytes."""


@dataclass(slots=True)
class Sink(ABC):
    """A vector file, or one in parts, while it is being written; it has to be closed, also after an error."""

    folder: Path
    """Where it goes."""
    stem: str
    """Its name without the ending."""
    notes: Notes
    """What it says besides."""
    begun: bool = field(default=False, init=False)
    _count: int = field(default=0, init=False)

    def append(self, frame: gpd.GeoDataFrame) -> None:
        """Add objects: polygons in the CRS, and columns of attributes.

        Raises:
            TargetError: the file cannot be written.
        """
        with self._explained():
            self._append(frame)
        self.begun = True
        self._count += len(frame)

    def finish(self, empty: Callable[[], gpd.GeoDataFrame], qml: str) -> list[Path]:
        """Complete the file, with its style, read it back, and return its paths, without those of sidecars.

        Args:
            empty: makes a table with all fields and no objects: what is written where there are none.
            qml: QGIS style.

        Raises:
            TargetError: the file cannot be written, or does not say what was written to it.
        """
        with self._explained():
            if not self.begun:
                self._append(empty())
                self.begun = True
            paths = self._finish(qml)
            if lost := self._lost(paths):
                raise TargetError(
                    f"{paths[0].name} could not be written as it should be: read back, {lost}; choose another "
                    "format with formats="
                )
            return paths

    def _lost(self, paths: Sequence[Path]) -> str:
        """Say what finished files do not hold though it was written to them, or "".

        GeoJSON can lose nothing but by an error: it has one CRS, and looking means to read it all.
        """
        if paths[0].suffix == ".geojson":
            return ""
        layers = [open_layer(str(path), "objects") for path in paths]
        if (count := sum(layer.count for layer in layers)) != self._count:
            return f"it has {count} objects, not {self._count}"
        found, crs = layers[0].crs, self.notes.crs
        if same_place(crs, found, self.notes.center):
            return ""
        return f"its CRS is {found.name if found else 'none'}, not {crs.name if crs else 'none'}"

    def close(self) -> None:  # noqa: B027 - most have nothing to do
        """Let go of a file that may not be complete."""

    @abstractmethod
    def _append(self, frame: gpd.GeoDataFrame) -> None: ...

    @abstractmethod
    def _finish(self, qml: str) -> list[Path]: ...

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            with quietly():
                yield
        except TargetError:
            raise
        except _FAILURES as error:
            raise write_failed(self.folder / self.stem, error) from error

    def _path(self, ending: str) -> Path:
        return self.folder / f"{self.stem}.{ending}"

    @staticmethod
    def _style(path: Path, qml: str) -> None:
        path.with_suffix(".qml").write_text(qml, encoding="utf-8")

    def _set_crs(self, frame: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
        crs = self.notes.crs
        return frame if crs is None else frame.set_crs(crs, allow_override=True)


@dataclass(slots=True)
class _Shapefile(Sink):
    """In numbered parts if it grows too large; that is decided before anything is written to a part."""

    limit: int = field(default_factory=lambda: SHAPEFILE_BYTES)
    _parts: list[Path] = field(default_factory=list)
    _shapes: int = 0
    _records: int = 0

    def _append(self, frame: gpd.GeoDataFrame) -> None:
        frame = self._set_crs(frame.rename(columns=_SHORT))
        points = shapely.get_num_coordinates(frame.geometry.array)
        rings = 1 + shapely.get_num_interior_rings(frame.geometry.array)
        sizes = 52 + 4 * rings + 16 * points
        if not self._parts:
            self._next_part()
        first = 0
        while first < len(frame) or not self._records:
            room = int(np.searchsorted(np.cumsum(sizes[first:]), self.limit - self._shapes, side="right"))
            if self._records:
                table = self._parts[-1].with_suffix(".dbf").stat().st_size if self._shapes else 0
                room = min(room, max(0, self.limit - table) // self._records)
            if not room and self._shapes:
                self._next_part()
                continue
            stop = first + max(1, room)
            path = self._parts[-1]
            pyogrio.write_dataframe(
                frame.iloc[first:stop], path, driver="ESRI Shapefile", append=path.exists(),
                geometry_type="Polygon", encoding="UTF-8",
            )  # fmt: skip
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
        moment = self.notes.moment
        for path in self._parts:
            self._style(path, qml)
            with path.with_suffix(".dbf").open("rb+") as file:
                file.seek(1)
                file.write(bytes((moment.year - 1900, moment.month, moment.day)))
        return list(self._parts)


@dataclass(slots=True)
class _Parquet(Sink):
    """GeoParquet 1.1, a row group per chunk."""

    _writer: parquet.ParquetWriter | None = None

    def _append(self, frame: gpd.GeoDataFrame) -> None:
        table = _table(self._set_crs(frame))
        if self._writer is None:
            crs = None if self.notes.crs is None else self.notes.crs.to_json_dict()
            column = {"encoding": "WKB", "geometry_types": ["Polygon"], "crs": crs}
            geo = {"version": "1.1.0", "primary_column": "geom", "columns": {"geom": column}}
            schema = table.schema.with_metadata({"geo": json.dumps(geo), **self.notes.metadata})
            self._writer = parquet.ParquetWriter(self._path("parquet"), schema, compression="zstd")
        self._writer.write_table(table.cast(self._writer.schema))

    def _finish(self, qml: str) -> list[Path]:
        assert self._writer is not None
        self._writer.close()
        self._style(self._path("parquet"), qml)
        return [self._path("parquet")]

    def close(self) -> None:
        with contextlib.suppress(*_FAILURES):  # one that was not finished is given up
            if self._writer is not None:
                self._writer.close()


@dataclass(slots=True)
class _Streamed(Sink):
    """A file that GDAL writes in one go, in a thread that takes chunk after chunk.

    A GeoPackage could be appended to, but then its spatial index grows object by object.
    """

    driver: str = ""
    ending: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    _schema: pa.Schema | None = None
    _feed: Feed[pa.Table] | None = None

    def _append(self, frame: gpd.GeoDataFrame) -> None:
        frame, crs = self._set_crs(frame), self.notes.crs
        if self.driver == "GeoJSON" and crs is not None:  # RFC 7946 knows no CRS but one
            shapes = in_degrees(np.asarray(frame.geometry, dtype=object), crs)
            frame = frame.assign(geom=gpd.GeoSeries(shapes, frame.index, crs=4326))
        table = _table(frame)
        if self._feed is None:
            self._schema = table.schema
            self._feed = Feed(self._write)
        self._feed.put(table.cast(self._schema))

    def _write(self, tables: Iterator[pa.Table]) -> None:
        crs = self.notes.crs.to_wkt() if self.notes.crs is not None else None
        if crs is not None and self.driver == "GeoJSON":
            crs = "OGC:CRS84"
        batches = (batch for table in tables for batch in table.to_batches(_BATCH))
        pyogrio.write_arrow(
            pa.RecordBatchReader.from_batches(self._schema, batches), self._path(self.ending),
            driver=self.driver, layer=LAYER, geometry_name="geom", geometry_type="Polygon", crs=crs,
            **self.options,
        )  # fmt: skip

    def _finish(self, qml: str) -> list[Path]:
        assert self._feed is not None
        self._feed.finish()
        path = self._path(self.ending)
        if self.driver == "GPKG":
            _add_default_style(path, qml, self.notes.moment)
        else:
            self._style(path, qml)
        return [path]

    def close(self) -> None:
        if self._feed is not None:
            self._feed.cancel()


def refuse_unfit(form: str, folder: Path, classes: Sequence[str], notes: Notes) -> None:
    """Refuse a format that cannot hold what is going to be written, before anything is computed.

    Whether it has a place for the CRS is tried, in the folder, once for each CRS.

    Raises:
        UsageError: names of classes are too long for it, or it would lose the CRS.
        TargetError: the folder cannot be written.
    """
    for name in classes if form == "shp" else ():
        if len(name.encode()) > _TEXT_BYTES:
            raise UsageError(
                f"class {name[:40]!r}... has {len(name.encode())} bytes in its name; a shapefile holds "
                f"{_TEXT_BYTES}: give it a shorter name, or choose another format with formats="
            )
    if notes.crs is None or (form, notes.crs.to_wkt()) in _fit:
        return
    x, y = notes.center
    shape = shapely.box(x, y, x + 1e-6 * max(1, abs(x)), y + 1e-6 * max(1, abs(y)))
    frame = gpd.GeoDataFrame({"class": ["any"]}, geometry=[shape]).rename_geometry("geom")
    with tempfile.TemporaryDirectory(dir=folder) as name:
        one = sink(form, Path(name), "trial", notes)
        try:
            with one._explained():
                one._append(frame)
                one._count = 1
                lost = one._lost(one._finish(""))
        except TargetError as error:
            if not isinstance(error.__cause__, (pyproj.exceptions.ProjError, pyogrio.errors.CRSError)):
                raise
            lost = reason(error.__cause__)
        finally:
            one.close()
    if lost:
        raise UsageError(
            f"{form} files cannot hold objects in CRS {notes.crs.name} ({lost}): choose another format with "
            "formats="
        )
    _fit.add((form, notes.crs.to_wkt()))


def sink(form: str, folder: Path, stem: str, notes: Notes) -> Sink:
    """Begin a file of a format, one of `FORMATS`."""
    common = (folder, stem, notes)
    if form == "gpkg":
        # The layer's metadata, not the file's: of the latter GDAL leaves a copy beside what it reads.
        # Later versions than 1.3 make QGIS of 2022 and 2023 doubt the file.
        options = {"layer_metadata": dict(notes.metadata), "VERSION": "1.3"}
        return _Streamed(*common, driver="GPKG", ending="gpkg", options=options)
    if form == "shp":
        return _Shapefile(*common)
    if form == "parquet":
        return _Parquet(*common)
    if form == "fgb":
        return _Streamed(*common, driver="FlatGeobuf", ending="fgb")
    options = {} if notes.crs is None else {"RFC7946": "YES"}
    return _Streamed(*common, driver="GeoJSON", ending="geojson", options=options)


def _table(frame: gpd.GeoDataFrame) -> pa.Table:
    """Return a table with the geometries as WKB, without notes on its columns."""
    table = pa.table(frame.to_arrow(index=False, geometry_encoding="WKB"))
    fields = [pa.field(column.name, _plain(column.type)) for column in table.schema]
    return table.cast(pa.schema(fields))


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return one type for texts, however pandas keeps them: a chunk without rows has none."""
    return pa.string() if pa.types.is_large_string(kind) or pa.types.is_null(kind) else kind


def _add_default_style(path: Path, qml: str, moment: datetime) -> None:
    """Put a QGIS style into a GeoPackage, so that the layer opens coloured and named; and date all of it."""
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute(
            """CREATE TABLE layer_styles (
                id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
                f_table_catalog TEXT(256), f_table_schema TEXT(256), f_table_name TEXT(256),
                f_geometry_column TEXT(256), styleName TEXT(30), styleQML TEXT, styleSLD TEXT,
                useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30),
                update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')))"""
        )
        db.execute(
            "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, "
            "styleName, styleQML, styleSLD, useAsDefault, description, owner) "
            "VALUES ('', '', ?, 'geom', 'pfmap classes', ?, '', 1, 'Classes in the model''s colours', '')",
            (LAYER, qml),
        )
        # Registered, because QGIS finds the table through GDAL, which lists registered tables.
        db.execute(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier) "
            "VALUES ('layer_styles', 'attributes', 'layer_styles')"
        )
        when = f"{moment:%Y-%m-%dT%H:%M:%S}.000Z"
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        for table, column in _DATED.items():
            if table in tables:
                db.execute(f"UPDATE {table} SET {column} = ?", (when,))
