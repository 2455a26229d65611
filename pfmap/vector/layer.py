"""Read a layer of any vector file in chunks, and turn what the libraries raise into clear errors."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyogrio
import pyproj
import shapely
from pyarrow import parquet
from shapely.errors import GEOSException

from pfmap.core import bucket
from pfmap.core.errors import PfmapError, SourceError, UsageError, quietly, reason

VECTOR_FAILURES = (pa.ArrowException, GEOSException, OSError, ValueError, RuntimeError, LookupError)
"""What the libraries for vector files raise; pyogrio's own errors are of the last kind but one, and the last
is what it says of a file without layers."""

_CHUNK = 50_000  # features that are read at a time

Shapes = npt.NDArray[np.object_]

POLYGONS = (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)


@contextmanager
def explained(file: str) -> Iterator[None]:
    """Name the file in errors of the libraries that read it.

    Raises:
        SourceError: it cannot be read.
    """
    try:
        yield
    except PfmapError:
        raise
    except VECTOR_FAILURES as error:
        raise SourceError(f"{file} cannot be read ({reason(error)})") from error


@dataclass(frozen=True, slots=True)
class Layer:
    """A vector layer that is read in chunks."""

    path: Path
    """The file."""
    name: str | None
    """None where the file has but one without a name."""
    fields: list[str]
    """Its columns without the geometry."""
    crs: pyproj.CRS | None
    count: int
    """Number of features."""
    driver: str = ""
    """GDAL's name of the format; empty for GeoParquet."""

    def chunks(self, columns: Sequence[str]) -> Iterator[tuple[Shapes, dict[str, npt.NDArray[np.object_]]]]:
        """Yield ``(n,)`` geometries and these columns of the features, some at a time."""
        for batch, geometry in self._batches(columns, geometry=True):
            shapes = shapely.from_wkb(batch.column(geometry).to_numpy(zero_copy_only=False))
            values = {name: np.asarray(batch.column(name).to_pylist(), dtype=object) for name in columns}
            yield np.asarray(shapes, dtype=object), values

    def values(self, column: str) -> dict[object, int]:
        """Return the different values of a column, and how often each occurs."""
        counts: dict[object, int] = {}
        for batch, _ in self._batches([column], geometry=False):
            for entry in batch.column(column).value_counts().to_pylist():
                counts[entry["values"]] = counts.get(entry["values"], 0) + entry["counts"]
        return counts

    def _batches(self, columns: Sequence[str], *, geometry: bool) -> Iterator[tuple[pa.RecordBatch, str]]:
        """Yield record batches, and the name of the column with their geometries as WKB."""
        if self.path.suffix == ".parquet":
            name = _geo(self.path)["primary_column"]
            wanted = [*columns, name] if geometry else list(columns)
            with parquet.ParquetFile(self.path) as file:
                yield from ((batch, name) for batch in file.iter_batches(_CHUNK, columns=wanted))
            return
        with pyogrio.raw.open_arrow(
            self.path, layer=self.name, columns=list(columns), read_geometry=geometry, batch_size=_CHUNK,
            use_pyarrow=True,
        ) as (meta, reader):  # fmt: skip
            yield from ((batch, meta["geometry_name"] or "wkb_geometry") for batch in reader)


def _geo(path: Path) -> Mapping[str, Any]:
    """Return what a GeoParquet file says of its geometries."""
    notes = parquet.read_schema(path).metadata or {}
    geo: dict[str, Any] = json.loads(notes.get(b"geo", b"{}"))
    if "primary_column" not in geo:
        raise SourceError(f"{path} is no GeoParquet file: it does not say where its geometries are")
    return geo


def _is_there(path: Path) -> bool:
    if not bucket.is_inside(path):
        return path.exists()
    pyogrio.set_gdal_config_options(bucket.gdal_endpoint())
    try:
        return bucket.exists(path)
    except OSError as error:
        raise SourceError(f"{path} cannot be opened ({error.strerror})") from error


def open_layer(text: str, what: str) -> Layer:
    """Find a layer and say what it has.

    Args:
        text: a vector file, or ``FILE:layer``.
        what: what the file is, for messages.

    Raises:
        SourceError: it cannot be read, or has no geometries.
        UsageError: there are several layers.
    """
    path, name = bucket.plain(text), None
    if not _is_there(path) and ":" in path.name:
        head, _, name = path.as_posix().rpartition(":")
        path = Path(head)
    if not _is_there(path):
        raise SourceError(f"{what} {text} does not exist: check the path")
    with explained(f"{what} {text}"), quietly():
        if path.suffix == ".parquet":
            return _open_parquet(path)
        if name is None:
            name = only_layer(path)
        if name is None:
            raise SourceError(f"{what} {text} has no geometry: polygons are needed")
        info = pyogrio.read_info(path, layer=name, force_feature_count=True)
        crs = pyproj.CRS(info["crs"]) if info["crs"] else None
    return Layer(path, name, list(map(str, info["fields"])), crs, int(info["features"]), str(info["driver"]))


def only_layer(path: Path | str) -> str | None:
    """Return the name of the only layer with geometries; None if there is none.

    Raises:
        UsageError: there are several.
    """
    layers = [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]
    if len(layers) > 1:
        raise UsageError(f"{path} has layers {', '.join(layers)}: name one, as in {path}:{layers[0]}")
    return layers[0] if layers else None


def _open_parquet(path: Path) -> Layer:
    geo = _geo(path)
    wkt = geo["columns"][geo["primary_column"]].get("crs", "OGC:CRS84")
    with parquet.ParquetFile(path) as file:
        fields = [field for field in file.schema_arrow.names if field != geo["primary_column"]]
        return Layer(path, None, fields, pyproj.CRS(wkt) if wkt else None, file.metadata.num_rows)
