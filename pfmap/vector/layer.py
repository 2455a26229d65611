"""Read a layer of any vector file in chunks, and turn what the libraries raise into clear errors."""

import codecs
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyogrio
import pyproj
import shapely
from pyarrow import parquet
from shapely.errors import GEOSException
from shapely.geometry.base import BaseGeometry

from pfmap.core import bucket
from pfmap.core.arrays import Objects
from pfmap.core.errors import PfmapError, SourceError, UsageError, quietly, reason, saying
from pfmap.core.files import in_bucket, is_there
from pfmap.core.grid import GeoBox
from pfmap.core.resources import VECTOR, what_it_is
from pfmap.core.tables import parse_json
from pfmap.vector.geodesy import over_180

_FAILURES = (pa.ArrowException, GEOSException, OSError, ValueError, RuntimeError, LookupError)
"""What the libraries for vector files raise; the last is what pyogrio says of a file without layers."""

_CHUNK = 50_000  # features that are read at a time
_REMOTE = ("/vsi", "http:", "https:", "gs:", "az:")
_TILED = ("PMTiles", "MVT", "MBTiles")
_PARQUET, _WESTERN = "Parquet", "CP1252"
OWN_DATA = {
    ".gpkg": rb"SQLite format 3\0", ".fgb": rb"fgb\x03", ".shp": rb"\0\0\x27\x0a", ".parquet": rb"PAR1",
    ".geoparquet": rb"PAR1", ".geojson": rb"\s*\{", ".json": rb"\s*\{",
}  # fmt: skip
"""How files begin, as patterns, in formats that hold their own features, by how their names end."""
_CODE_PAGES = b"\x00\x03\x57"  # of a .dbf: none named, or Windows's own, whichever that was

POLYGONS = (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)


@contextmanager
def explained(file: str, path: str = "") -> Iterator[None]:
    """Have a `SourceError` name the file that libraries cannot read, or find to be none of theirs."""
    try:
        yield
    except PfmapError:
        raise
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{file} has texts in an encoding that it does not name: save it as a GeoPackage or in UTF-8, or "
            "write the encoding, such as CP1252, into a .cpg file beside the shapefile"
        ) from error
    except _FAILURES as error:
        unknown = isinstance(error, pa.ArrowException) or "not recognized" in str(error)
        why = (unknown and what_it_is(path, VECTOR)) or reason(error)
        raise SourceError(f"{file} cannot be read ({why})") from error


@dataclass(frozen=True, slots=True)
class Layer:
    """A vector layer that is read in chunks."""

    path: str
    name: str | None
    """None where the file has but one without a name."""
    fields: list[str]
    """Its columns without the geometry."""
    crs: pyproj.CRS | None
    count: int
    """Number of features."""
    driver: str
    """GDAL's name of the format."""
    encoding: str | None = None
    """Of its texts, where the file does not say it."""
    note: str = ""

    def chunks(self, columns: Sequence[str]) -> Iterator[tuple[Objects, dict[str, Objects]]]:
        """Yield ``(n,)`` geometries and these columns of the features, some at a time; curves as lines."""
        done = 0
        for batch, geometry in self._batches(columns, geometry=True):
            try:
                shapes = shapely.from_wkb(batch.column(geometry).to_numpy(zero_copy_only=False))
            except NotImplementedError:  # curves, which GDAL makes lines of in its other way of reading only
                part = {"skip_features": done, "max_features": batch.num_rows}
                shapes = shapely.from_wkb(
                    pyogrio.raw.read(self.path, layer=self.name, columns=[], force_2d=True, **part)[2]
                )
            done += batch.num_rows
            values = {name: np.asarray(batch.column(name).to_pylist(), dtype=object) for name in columns}
            yield np.asarray(shapes, dtype=object), values

    def everything(self, columns: Sequence[str]) -> tuple[Objects, dict[str, Objects]]:
        """Return all ``(n,)`` geometries, and these columns of theirs."""
        parts = [(np.zeros(0, dtype=object), dict.fromkeys(columns, np.zeros(0, dtype=object)))]
        parts += self.chunks(columns)
        table = {name: np.concatenate([values[name] for _, values in parts]) for name in columns}
        return np.concatenate([shapes for shapes, _ in parts]), table

    def values(self, column: str) -> Counter[object]:
        """Return the different values of a column, and how often each occurs."""
        counts: Counter[object] = Counter()
        for batch, _ in self._batches([column], geometry=False):
            for entry in batch.column(column).value_counts().to_pylist():
                counts[entry["values"]] += entry["counts"]
        return counts

    def way_onto(self, box: GeoBox, raster: str) -> tuple[pyproj.Transformer | None, str]:
        """Return the way from its CRS to a raster's, None if they are one, and what to tell the user of it.

        A `UsageError` says that they cannot be brought together.
        """
        if self.crs is None:
            return None, f"{self.path} names no CRS: taken to be in that of {raster}" * bool(box.crs_wkt)
        if box.crs_wkt is None:
            raise UsageError(f"{self.path} has a CRS and {raster} has none: georeference the raster first")
        try:
            own, target, over = self.crs.to_2d(), pyproj.CRS.from_wkt(box.crs_wkt).to_2d(), over_180(box)
            if own == target:
                beyond = f"{raster} reaches over 180 degrees: of {self.path} only what does so too lies there"
                return None, beyond * over
            if over:
                raise UsageError(
                    f"{raster} reaches over 180 degrees, where its CRS {target.name} ends: to lay "
                    f"{self.path} over it, warp it to a CRS that goes on there, such as UTM, with gdalwarp"
                )
            return pyproj.Transformer.from_crs(own, target, always_xy=True), ""
        except pyproj.exceptions.ProjError as error:
            raise UsageError(
                f"{self.path} cannot be brought into the CRS of {raster}: {reason(error)}"
            ) from error

    def _batches(self, columns: Sequence[str], *, geometry: bool) -> Iterator[tuple[pa.RecordBatch, str]]:
        """Yield record batches, and the name of the column with their geometries as WKB."""
        if self.driver == _PARQUET:
            name, _ = _geometry_of(self.path)
            wanted = [*columns, name] if geometry else list(columns)
            with parquet.ParquetFile(self.path) as file:
                yield from ((batch, name) for batch in file.iter_batches(_CHUNK, columns=wanted))
            return
        with pyogrio.raw.open_arrow(
            self.path, layer=self.name, columns=list(columns), read_geometry=geometry, batch_size=_CHUNK,
            use_pyarrow=True, encoding=self.encoding,
        ) as (meta, reader):  # fmt: skip
            yield from ((batch, meta["geometry_name"] or "wkb_geometry") for batch in reader)


def _geometry_of(path: str) -> tuple[str, Mapping[str, Any]]:
    """Return the column with a GeoParquet file's geometries, and what the file says of it."""
    notes = parquet.read_schema(path).metadata or {}
    try:
        geo = parse_json(notes[b"geo"])
        name, column = geo["primary_column"], geo["columns"][geo["primary_column"]]
        if column["encoding"] == "WKB":
            return name, column
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(
            f"{path} is no GeoParquet file: it does not say where its geometries are"
        ) from error
    raise SourceError(f"{path} has geometries encoded as {column['encoding']}: write it with WKB")


def _is_parquet(path: str) -> bool:
    if Path(path).suffix.lower() in {".parquet", ".geoparquet"}:
        return True
    with suppress(OSError), Path(path).open("rb") as file:
        return file.read(4) == b"PAR1"
    return False


def _is_there(path: Path) -> bool:
    if not in_bucket(path):
        return is_there(path)
    pyogrio.set_gdal_config_options(bucket.gdal_endpoint())
    with saying(f"{path} cannot be opened", SourceError):
        return bucket.exists(path)


def find_layer(text: str, what: str) -> tuple[str, str | None]:
    """Take ``FILE:layer`` apart; a `SourceError` if no file is there. A colon may also belong to its name."""
    path, name = bucket.plain(text), None
    if text.startswith(_REMOTE) and not in_bucket(path):
        head, _, tail = text.rpartition(":")
        return (text, None) if not head or "/" in tail else (head, tail)
    if not _is_there(path) and ":" in path.name:
        head, _, name = path.as_posix().rpartition(":")
        path = Path(head)
    if not _is_there(path):
        raise SourceError(f"{what} {text} does not exist: check the path")
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise SourceError(f"{what} {text} is a pipe or a device: a file is needed")
    return str(path), name


def open_layer(text: str, what: str) -> Layer:
    """Find a layer, ``FILE`` or ``FILE:layer``, and say what it has; `what` the file is, for messages.

    A `SourceError` says that it has no geometries, a `UsageError` that there are several layers.
    """
    path, name = find_layer(text, what)
    with explained(f"{what} {text}", path), quietly():
        if _is_parquet(path):
            return _open_parquet(path)
        if name is None:
            layers = [str(found) for found, kind in pyogrio.list_layers(path) if kind is not None]
            if len(layers) > 1:
                raise UsageError(f"{path} has layers {', '.join(layers)}: name one, as in {path}:{layers[0]}")
            if not layers:
                raise SourceError(f"{what} {text} has no geometry: polygons are needed")
            name = layers[0]
        encoding = _unnamed_encoding(Path(path))
        info = pyogrio.read_info(path, layer=name, force_feature_count=True, encoding=encoding)
        if info["driver"] in _TILED:
            raise SourceError(f"{text} has features cut into tiles: name the file that these were made of")
        crs = pyproj.CRS(info["crs"]) if info["crs"] else None
    fields, count = list(map(str, info["fields"])), int(info["features"])
    note = f"{text} names no encoding: its texts are read as {encoding}" if encoding == _WESTERN else ""
    return Layer(path, name, fields, crs, count, str(info["driver"]), encoding, note)


def _unnamed_encoding(path: Path) -> str | None:
    """Guess the encoding of a shapefile that names none: UTF-8 if its texts are that, else Windows's Western.

    GDAL's own guess, ISO-8859-1, has other letters for dashes and quotation marks, and garbles UTF-8.
    """
    tables = [table for ending in (".dbf", ".DBF") if (table := path.with_suffix(ending)).is_file()]
    named = any(path.with_suffix(ending).exists() for ending in (".cpg", ".CPG"))
    if path.suffix.lower() != ".shp" or named or not tables:
        return None
    decoder = codecs.getincrementaldecoder("utf-8")()
    with tables[0].open("rb") as file:
        head = file.read(32)
        if len(head) < 32 or head[29] not in _CODE_PAGES:
            return None
        file.seek(int.from_bytes(head[8:10], "little"))
        try:
            while part := file.read(1 << 20):
                decoder.decode(part)
        except UnicodeDecodeError:
            return _WESTERN
    return "UTF-8"


def refuse_leads(path: Path) -> None:
    """Refuse a file with one of the endings of `OWN_DATA` for which GDAL would read others, or ask a server.

    Nothing that it names is opened. Nor may it be of another format than its name says.
    """
    ending, home = path.suffix.lower(), path.parent.resolve()
    with explained(str(path)), path.open("rb") as file:
        own = re.match(OWN_DATA[ending], file.read(1024)) is not None
        if own and "json" in ending:  # which may name a CRS by an address
            file.seek(0)
            crs = json.load(file).get("crs")
            own = crs is None or (isinstance(crs, dict) and crs.get("type") == "name")
        parts = [path, *path.parent.glob(f"{escape(path.stem)}.*")]
        own = own and all(part.resolve().parent == home for part in parts)
    if not own:
        raise SourceError(
            f"{path} is not what its name says, or leads to other files or servers: files that are found by "
            "their names must hold what they show; convert it, with ogr2ogr"
        )


def is_vector(text: str) -> bool:
    """Say whether a file, or ``FILE:layer``, is one with vector layers, or would be if it were whole.

    What lies on a server that does not answer is not.
    """
    try:
        path, _ = find_layer(text, "file")
        with quietly():
            return _is_parquet(path) or any(kind is not None for _, kind in pyogrio.list_layers(path))
    except (SourceError, UnicodeEncodeError):
        return False
    except _FAILURES as error:
        return "not recognized" not in str(error) and not text.startswith(_REMOTE)


def _open_parquet(path: str) -> Layer:
    name, column = _geometry_of(path)
    wkt = column.get("crs", "OGC:CRS84")
    with parquet.ParquetFile(path) as file:
        columns = [field for field in file.schema_arrow if not pa.types.is_struct(field.type)]  # bounds are
        fields = [field.name for field in columns if field.name != name]
        return Layer(path, None, fields, pyproj.CRS(wkt) if wkt else None, file.metadata.num_rows, _PARQUET)


def polygons_of(shapes: Objects) -> BaseGeometry:
    """Unite whatever is polygonal."""
    parts = shapely.get_parts(shapely.get_parts(shapes))
    return shapely.union_all(parts[np.isin(shapely.get_type_id(parts), POLYGONS)])
