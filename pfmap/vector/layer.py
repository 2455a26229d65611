"""Vector layers of any format: what they have, and their features in chunks."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyogrio
import pyproj
import shapely
from pyarrow import parquet
from pyogrio.errors import DataLayerError, DataSourceError
from shapely.errors import GEOSException

from pfmap.core import bucket
from pfmap.core.errors import SourceError, UsageError, quietly

VECTOR_FAILURES = (
    DataSourceError,
    DataLayerError,
    pa.ArrowException,
    GEOSException,
    OSError,
    ValueError,
    RuntimeError,
)
"""What the libraries for vector files raise."""

_CHUNK = 50_000

Shapes = npt.NDArray[np.object_]


@dataclass(frozen=True, slots=True)
class Layer:
    """A vector layer that is read in chunks.

    Attributes:
        path: of the file.
        name: of the layer, or None.
        fields: its columns.
        crs: its CRS, or None.
        count: number of features.
        driver: GDAL's name of the format, or "" for GeoParquet.
    """

    path: Path
    name: str | None
    fields: list[str]
    crs: pyproj.CRS | None
    count: int
    driver: str = ""

    def chunks(self, columns: Sequence[str]) -> Iterator[tuple[Shapes, dict[str, npt.NDArray[np.object_]]]]:
        """Yield geometries and columns."""
        if self.path.suffix == ".parquet":
            geometry = _geo(self.path)["primary_column"]
            batches = parquet.ParquetFile(self.path).iter_batches(_CHUNK, columns=[*columns, geometry])
            yield from (_unpacked(batch, geometry, columns) for batch in batches)
            return
        with pyogrio.raw.open_arrow(
            self.path, layer=self.name, columns=list(columns), batch_size=_CHUNK, use_pyarrow=True
        ) as (meta, reader):
            geometry = meta["geometry_name"] or "wkb_geometry"
            for batch in reader:
                yield _unpacked(batch, geometry, columns)

    def values(self, column: str) -> dict[object, int]:
        """Return the different values of a column, and how often each occurs."""
        counts: dict[object, int] = {}
        if self.path.suffix == ".parquet":
            for batch in parquet.ParquetFile(self.path).iter_batches(_CHUNK, columns=[column]):
                _count(batch.column(column), counts)
            return counts
        with pyogrio.raw.open_arrow(
            self.path,
            layer=self.name,
            columns=[column],
            read_geometry=False,
            batch_size=_CHUNK,
            use_pyarrow=True,
        ) as (_, reader):
            for batch in reader:
                _count(batch.column(column), counts)
        return counts


def _count(values: pa.Array, counts: dict[object, int]) -> None:
    for entry in values.value_counts().to_pylist():
        counts[entry["values"]] = counts.get(entry["values"], 0) + entry["counts"]


def _unpacked(
    batch: pa.RecordBatch, geometry: str, columns: Sequence[str]
) -> tuple[Shapes, dict[str, npt.NDArray[np.object_]]]:
    shapes = np.asarray(shapely.from_wkb(batch.column(geometry).to_numpy(zero_copy_only=False)), dtype=object)
    return shapes, {name: np.asarray(batch.column(name).to_pylist(), dtype=object) for name in columns}


def _geo(path: Path) -> dict[str, str]:
    notes = parquet.read_schema(path).metadata or {}
    geo: dict[str, str] = json.loads(notes.get(b"geo", b"{}"))
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
        what: the file is, for messages.

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
    try:
        if path.suffix == ".parquet":
            column = _geo(path)["columns"][_geo(path)["primary_column"]]  # type: ignore[index]
            wkt = column.get("crs", "OGC:CRS84")  # type: ignore[attr-defined]
            file = parquet.ParquetFile(path)
            fields = [field for field in file.schema_arrow.names if field != _geo(path)["primary_column"]]
            return Layer(path, None, fields, pyproj.CRS(wkt) if wkt else None, file.metadata.num_rows)
        with quietly():
            if name is None:
                layers = [str(layer) for layer, kind in pyogrio.list_layers(path) if kind is not None]
                if len(layers) > 1:
                    raise UsageError(
                        f"{path} has layers {', '.join(layers)}: name one, as in {path}:{layers[0]}"
                    )
                if not layers:
                    raise SourceError(f"{what} {text} has no geometry: polygons are needed")
                name = layers[0]
            info = pyogrio.read_info(path, layer=name, force_feature_count=True)
    except VECTOR_FAILURES as error:
        if isinstance(error, UsageError):
            raise
        raise SourceError(f"{what} {text} cannot be read ({' '.join(str(error).split())})") from error
    crs = pyproj.CRS(info["crs"]) if info["crs"] else None
    return Layer(
        path, name, [str(field) for field in info["fields"]], crs, int(info["features"]), str(info["driver"])
    )
