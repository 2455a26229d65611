"""Write vector files that programs read in part: GeoParquet along a curve, and vector tiles for web maps."""

import gzip
import json
import math
import struct
import tempfile
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import IO

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyproj
import shapely
from pyarrow import parquet

from pfmap.core.grid import mean_size
from pfmap.vector.formats import GEOMETRY, LAYER, Sink, Streamed
from pfmap.vector.geodesy import in_degrees, pixel_size, to_degrees

_BOX, _PLACE = ("xmin", "ymin", "xmax", "ymax"), "place"
"""Bounds of an object in GeoParquet, and its place on the curve while it is sorted."""

_BATCHES = 20
"""Batches that a chunk is sorted in, and that a group of rows of a GeoParquet file has."""

_TILED = ("object_id", "class", "area_m2", "confidence_mean")
"""What tiles say of an object, besides the colour of its class: they are looked at, over and over."""

_TILE, _EQUATOR = 4096, 40_075_016.69
"""Units across a vector tile, and metres around the Earth, which is a tile's width at zoom 0."""

_ZOOMS, _CLOSEST = 5, 22
"""How many zooms a file of tiles has, and the closest that programs know."""

_TILE_BYTES = 2_000_000
"""A tile stays below this: GDAL writes one that has more in less detail."""


@dataclass(slots=True)
class Parquet(Sink):
    """GeoParquet 1.1 along a Hilbert curve and with bounds, so that readers skip groups that lie elsewhere.

    Chunks are sorted into a file without a name, a batch of rows at a time, and merged in the end: memory
    does not grow with the file.
    """

    _spill: IO[bytes] | None = None
    _sorted: pa.RecordBatchFileWriter | None = None
    _ends: list[tuple[int, int]] = field(default_factory=list)
    """The first and the last place on the curve of each batch."""

    def _append(self, table: pa.Table) -> None:
        shapes = gpd.GeoSeries.from_wkb(table[GEOMETRY].to_numpy())
        box = pa.StructArray.from_arrays([*shapes.bounds.to_numpy(np.float64).T], _BOX)
        place = shapes.hilbert_distance(total_bounds=self.geobox.bounds).to_numpy(np.uint32)
        table = table.append_column("bbox", box).append_column(_PLACE, pa.array(place))
        table = table.take(np.argsort(place, kind="stable"))
        if self._sorted is None:
            self._spill = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115 - closed with the sink
            options = pa.ipc.IpcWriteOptions(compression="zstd")
            self._sorted = pa.ipc.new_file(self._spill, table.schema, options=options)
        for batch in table.to_batches(-(-len(table) // _BATCHES) or 1):
            self._sorted.write(batch)
            some = batch.column(_PLACE)
            self._ends.append((some[0].as_py(), some[-1].as_py()))

    def _finish(self, qml: str) -> list[Path]:
        assert self._sorted is not None
        self._sorted.close()
        crs = None if self.crs is None else self.crs.to_json_dict()
        covering = {"bbox": {side: ["bbox", side] for side in _BOX}}
        column = {"encoding": "WKB", "geometry_types": ["Polygon"], "crs": crs, "covering": covering}
        geo = {"version": "1.1.0", "primary_column": GEOMETRY, "columns": {GEOMETRY: column}}
        source = pa.ipc.open_file(self._spill)
        schema = source.schema.remove(source.schema.get_field_index(_PLACE))
        schema = schema.with_metadata({"geo": json.dumps(geo), **self.metadata})
        first, last = np.array(self._ends, dtype=np.int64).reshape(-1, 2).T
        limits = np.unique([0, *np.sort(first)[_BATCHES::_BATCHES], 1 << 32])
        with parquet.ParquetWriter(self._path("parquet"), schema, compression="zstd") as writer:
            for low, high in pairwise(limits):
                near = np.flatnonzero((first < high) & (last >= low)).tolist()
                some = pa.Table.from_batches(map(source.get_batch, near), source.schema).combine_chunks()
                place = some[_PLACE].to_numpy()
                order = np.argsort(place, kind="stable")
                order = order[(place[order] >= low) & (place[order] < high)]
                writer.write_table(some.drop_columns(_PLACE).take(order).cast(schema))
        self._style(self._path("parquet"), qml)
        return [self._path("parquet")]

    def close(self) -> None:
        """Let go of the file without a name, which is gone then."""
        if self._spill is not None:
            self._spill.close()


@dataclass(slots=True)
class Tiles(Streamed):
    """PMTiles with vector tiles; the closest zoom has no unit of a tile larger than a pixel of the map."""

    driver: str = "PMTiles"
    ending: str = "pmtiles"
    _way: pyproj.Transformer = field(init=False)

    def __post_init__(self) -> None:
        assert self.crs is not None
        way, pixel = to_degrees(self.crs), pixel_size(self.geobox)
        assert way is not None
        assert pixel is not None
        self._way = way
        around = _EQUATOR * math.cos(math.radians(way.transform(*self.geobox.center)[1]))
        closest = min(max(math.ceil(math.log2(around / _TILE / mean_size(pixel))), 0), _CLOSEST)
        zooms = {"MINZOOM": max(0, closest - _ZOOMS + 1), "MAXZOOM": closest, "MAX_SIZE": _TILE_BYTES}
        self.options = {"DESCRIPTION": json.dumps(self.metadata), **zooms}

    def _append(self, table: pa.Table) -> None:
        if not len(table):
            return
        assert self.crs is not None
        shapes = in_degrees(shapely.from_wkb(table[GEOMETRY].to_numpy()), self.crs)
        # GDAL looks at all tiles between the parts of what is cut at 180 degrees: around the Earth.
        parts, whose = shapely.get_parts(shapes, return_index=True)
        colors = [self.classes[value].color for value in table["class_id"].to_pylist()]
        table = table.select([name for name in _TILED if name in table.column_names])
        table = table.append_column("color", pa.array(colors)).take(whose)
        geometry = pa.array(shapely.to_wkb(parts), pa.binary())
        Streamed._append(self, table.append_column(GEOMETRY, geometry))

    def _finish(self, qml: str) -> list[Path]:  # noqa: ARG002 - programs that read tiles know no such style
        path = self._path(self.ending)
        if self._feed is not None:
            self._feed.finish()
        else:  # GDAL fails without any object
            path.write_bytes(self._nothing())
        return [path]

    def _nothing(self) -> bytes:
        """Return a file without tiles: its header, a list of none, and what it says of itself.

        Source: PMTiles specification, version 3.
        """
        about = {"vector_layers": [{"id": LAYER, "fields": {}}], "description": self.options["DESCRIPTION"]}
        none, said = (gzip.compress(content, mtime=0) for content in (b"\0", json.dumps(about).encode()))
        sizes = 127, len(none), 127 + len(none), len(said), 127 + len(none) + len(said)
        zooms = self.options["MINZOOM"], self.options["MAXZOOM"]
        bounds = [round(1e7 * value) for value in self._way.transform_bounds(*self.geobox.bounds)]
        middle = [round(1e7 * value) for value in self._way.transform(*self.geobox.center)]
        numbers = *sizes, 0, sizes[-1], *[0] * 4, 1, 2, 2, 1, *zooms, *bounds, zooms[0], *middle
        return struct.pack("<7sB11Q6B4iB2i", b"PMTiles", 3, *numbers) + none + said
