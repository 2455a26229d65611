"""A scene on disk: what it is, and its pixels, as the network is to see them: 8-bit, and which are valid."""

import contextlib
import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from pfmap.errors import SourceError
from pfmap.geobox import IDENTITY, GeoBox
from pfmap.grid import Span
from pfmap.raster.bands import RGB, choose_bands
from pfmap.raster.gdal import GDAL_ERRORS, gdal_settings, reason
from pfmap.raster.location import Location
from pfmap.raster.sampling import Sample, small_enough, spots

_CACHE_MIN, _CACHE_TILED = 64 << 20, 256 << 20
_SAMPLE = 768
_KINDS = "uif"  # numpy's letters: unsigned, signed, floating point


@dataclass(frozen=True, slots=True)
class SceneInfo:
    """What a scene is, apart from its pixels.

    Attributes:
        location: where it is.
        geobox: its size and place.
        bands: 1-based numbers of the bands that are read, in the model's order.
        count: bands in the file.
        dtype: of the bands that are read, such as uint16.
        palette: whether the band holds indices into a colour table.
        has_mask: whether some pixels may be invalid by nodata value, alpha or mask.
        block: height and width of the file's own blocks.
        band_interleaved: whether each band has blocks of its own.
        driver: GDAL's name of the format.
        compression: GDAL's name of it, or "none".
        files: all files of this machine that it consists of.
    """

    location: Location
    geobox: GeoBox
    bands: tuple[int, ...]
    count: int
    dtype: str
    palette: bool
    has_mask: bool
    block: tuple[int, int]
    band_interleaved: bool
    driver: str
    compression: str
    files: tuple[Path, ...]

    @property
    def name(self) -> str:
        """The scene as the user named it."""
        return self.location.text

    @property
    def block_bytes(self) -> int:
        """Bytes of one decoded block."""
        bands = 1 if self.band_interleaved else self.count
        return self.block[0] * self.block[1] * bands * np.dtype(self.dtype).itemsize

    def cache_bytes(self, rows: int) -> int:
        """Return how much of GDAL's block cache reading windows of this many rows wants.

        Windows of a row lie side by side: a file in strips is decoded once per window row only if a whole
        window row stays in the cache. It does not grow with the scene's height.
        """
        strip = self.geobox.width * self.count * np.dtype(self.dtype).itemsize
        wanted = strip * (rows + 2 * self.block[0])
        limit = wanted if self.block[1] >= self.geobox.width else _CACHE_TILED
        return max(_CACHE_MIN, min(wanted, limit), 2 * self.block_bytes)


@dataclass(frozen=True, slots=True)
class Scaling:
    """How pixel values become 0..1: `low` is 0, `high` is 1; one for the whole scene.

    Attributes:
        low: value that becomes 0.
        high: value that becomes 1.
        origin: where it comes from, for the report.
    """

    low: float
    high: float
    origin: str

    @property
    def plain(self) -> bool:
        """Whether 8-bit values stay as they are."""
        return (self.low, self.high) == (0.0, 255.0)

    def apply(self, values: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
        """Turn values into 8 bits: 0..1 becomes 0..255, rounded."""
        if self.plain and values.dtype == np.uint8:
            return values  # type: ignore[return-value]
        stretched: npt.NDArray[np.floating[Any]] = values.astype(
            np.float32 if values.dtype.itemsize <= 2 else np.float64
        )
        stretched -= self.low
        stretched *= 255 / (self.high - self.low)
        np.nan_to_num(stretched, copy=False, nan=0.0, posinf=255.0, neginf=0.0)
        np.clip(stretched, 0, 255, out=stretched)
        stretched += 0.5
        return stretched.astype(np.uint8)


EIGHT_BIT = Scaling(0.0, 255.0, "8-bit values")


class Source:
    """An opened scene. A context manager; one per thread.

    Args:
        location: where it is.
        names: the bands that the model needs, in its order.
        bands: 1-based band numbers that override the choice by colour interpretation.
        model: the model's name, for messages.
        skip_unreadable: whether blocks that cannot be read count as nodata; they are listed in
            `unreadable` then.

    Attributes:
        info: what the scene is.
        scaling: how values become 8-bit; set it before reading other than 8-bit scenes.
        unreadable: (column, row, width, height) of blocks that could not be read, since last emptied.

    Raises:
        SourceError: missing, no raster, not orthorectified, or a data type that cannot be mapped.
        UsageError: too few bands, or bands that do not exist.
    """

    def __init__(
        self,
        location: Location,
        names: tuple[str, ...] = RGB,
        bands: tuple[int, ...] | None = None,
        model: str = "",
        *,
        skip_unreadable: bool = False,
    ) -> None:
        self.scaling = EIGHT_BIT
        self.unreadable: set[tuple[int, int, int, int]] = set()
        self._skip = skip_unreadable
        with contextlib.ExitStack() as stack:
            stack.enter_context(gdal_settings(remote=location.remote))
            self._src = stack.enter_context(_open(location))
            try:
                chosen = choose_bands(self._src, location.text, names, bands, model)
                self.info = _describe(self._src, location, chosen)
                _check_place(self._src, location.text)
                self._palette = _palette(self._src, chosen[0]) if self.info.palette else None
            except GDAL_ERRORS as error:
                raise SourceError(
                    f"{location.text} has a header that GDAL cannot make sense of ({reason(error)})"
                ) from error
            self._distinct = sorted(set(chosen))
            self._pick = [self._distinct.index(band) for band in chosen]
            self._stack = stack.pop_all()

    def __enter__(self) -> "Source":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def read(self, rows: Span, cols: Span) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Read a part of the scene.

        Args:
            rows: pixel rows, within the scene.
            cols: pixel columns, within the scene.

        Returns:
            ``(bands, h, w)`` uint8 in the model's order, and the ``(h, w)`` valid mask.

        Raises:
            SourceError: the pixels cannot be read.
        """
        try:
            return self._read(rows, cols)
        except GDAL_ERRORS as error:
            if self._skip:
                return self._read_by_blocks(rows, cols)
            raise SourceError(
                f"{self.info.name} cannot be read at column {cols.start}, row {rows.start}: the source is "
                f"damaged, incomplete or gone ({reason(error)}); mend or copy it again, or count what "
                "cannot be read as nodata with --on-read-error nodata"
            ) from error

    def _read(self, rows: Span, cols: Span) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        window = Window(cols.start, rows.start, cols.size, rows.size)
        if self.info.has_mask:
            valid = self._src.dataset_mask(window=window) > 0
            if not valid.any():
                return np.zeros((len(self._pick), rows.size, cols.size), dtype=np.uint8), valid
        else:
            valid = np.ones((rows.size, cols.size), dtype=bool)
        values = self._values(window=window)
        if values.dtype.kind == "f":
            valid &= np.isfinite(values).all(axis=0)
        if self._palette is not None:
            pixels = self._palette[:, values[0]]
        else:
            pixels = self.scaling.apply(values)
            if len(self._distinct) != len(self._pick) or self._pick != list(range(len(self._pick))):
                pixels = pixels[self._pick]
        return pixels, valid

    def _values(self, **options: Any) -> npt.NDArray[np.generic]:
        """Read the bands in use, in the file's own type; the widest where they differ."""
        if len({self._src.dtypes[band - 1] for band in self._distinct}) == 1:
            if "out_shape" in options:
                options["out_shape"] = (len(self._distinct), *options["out_shape"])
            values: npt.NDArray[np.generic] = self._src.read(self._distinct, **options)
            return values
        return np.stack([self._src.read(band, **options) for band in self._distinct]).astype(self.info.dtype)

    def _read_by_blocks(self, rows: Span, cols: Span) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Read the file's blocks one by one; those that cannot be read are invalid, and noted."""
        pixels = np.zeros((len(self._pick), rows.size, cols.size), dtype=np.uint8)
        valid = np.zeros((rows.size, cols.size), dtype=bool)
        high, wide = self.info.block
        for top in range(rows.start // high * high, rows.stop, high):
            for left in range(cols.start // wide * wide, cols.stop, wide):
                y = Span(max(top, rows.start), min(top + high, rows.stop))
                x = Span(max(left, cols.start), min(left + wide, cols.stop))
                box = np.s_[
                    y.start - rows.start : y.stop - rows.start, x.start - cols.start : x.stop - cols.start
                ]
                try:
                    pixels[:, *box], valid[box] = self._read(y, x)
                except GDAL_ERRORS:
                    size = self.info.geobox
                    self.unreadable.add(
                        (left, top, min(wide, size.width - left), min(high, size.height - top))
                    )
        return pixels, valid

    def sample(self, *, values: bool) -> Sample:
        """Read a few pixels from all over the scene: from an overview, the whole of a small scene, or spots.

        Args:
            values: whether the values are needed. If not, and every pixel is valid, nothing is read.

        Raises:
            SourceError: nothing can be read.
        """
        box, count = self.info.geobox, len(self._distinct)
        if not (values or self.info.has_mask or np.dtype(self.info.dtype).kind == "f"):
            return Sample(np.zeros((count, 1, 1), dtype=np.uint8), np.ones((1, 1), dtype=bool))
        whole = small_enough(box.width * box.height * count) and not self.info.location.remote
        try:
            if not self._skip and (self._src.overviews(self._distinct[0]) or whole):
                shape = min(box.height, _SAMPLE), min(box.width, _SAMPLE)
                pixels = self._values(out_shape=shape)
                valid = self._src.dataset_mask(out_shape=shape) > 0
                return Sample(self._expand(pixels), valid & np.isfinite(pixels).all(axis=0))
            return self._sample_spots()
        except GDAL_ERRORS as error:
            raise SourceError(
                f"{self.info.name} cannot be read: the source is damaged, incomplete or gone "
                f"({reason(error)}); mend or copy it again, or count what cannot be read as nodata with "
                "--on-read-error nodata"
            ) from error

    def _sample_spots(self) -> Sample:
        box, remote = self.info.geobox, self.info.location.remote
        values, masks = [], []
        for y in spots(box.height, few=remote):
            windows = [Window(x.start, y.start, x.size, y.size) for x in spots(box.width, few=remote)]
            row = [self._sample_spot(window) for window in windows]
            values.append(np.concatenate([pixels for pixels, _ in row], axis=2))
            masks.append(np.concatenate([valid for _, valid in row], axis=1))
        pixels, valid = np.concatenate(values, axis=1), np.concatenate(masks, axis=0)
        return Sample(self._expand(pixels), valid & np.isfinite(pixels).all(axis=0))

    def _sample_spot(self, window: Window) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.bool_]]:
        try:
            return self._values(window=window), self._src.dataset_mask(window=window) > 0
        except GDAL_ERRORS:
            if not self._skip:
                raise
            none = np.zeros((len(self._distinct), window.height, window.width), dtype=self.info.dtype)
            return none, np.zeros((window.height, window.width), dtype=bool)

    def _expand(self, values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        return values if self._palette is None else self._palette[:, values[0].astype(np.intp)]

    def fingerprint(self) -> str:
        """Return a hash that changes when the scene does: its description, its files, some of its pixels.

        Size and time of every file of this machine that it consists of, the sheets of a VRT included; for
        what lies elsewhere the pixels of a few blocks stand in.
        """
        digest = hashlib.sha256()
        src = self._src
        facts = [src.width, src.height, src.dtypes, src.nodatavals, str(src.crs), list(src.transform)]
        digest.update(json.dumps(facts, default=str).encode())
        for path in self.info.files:
            stat = path.stat()
            digest.update(f"{path}|{stat.st_size}|{stat.st_mtime_ns}".encode())
        if not self.info.files:
            rows, cols = spots(src.height), spots(src.width)
            for share in (0, 2, 4):
                y, x = rows[(len(rows) - 1) * share // 4], cols[(len(cols) - 1) * share // 4]
                window = Window(x.start, y.start, min(x.size, 32), min(y.size, 32))
                with contextlib.suppress(*GDAL_ERRORS):
                    digest.update(self._values(window=window).tobytes())
        return digest.hexdigest()


@contextlib.contextmanager
def _open(location: Location) -> Iterator[rasterio.DatasetReader]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            src = rasterio.open(location.gdal)
    except (*GDAL_ERRORS, ValueError, UnicodeError) as error:
        kind = "cannot be opened" if location.remote else "is not a raster that GDAL can open"
        raise SourceError(f"{location.text} {kind} ({reason(error)})") from error
    with src:
        yield src


def _describe(src: rasterio.DatasetReader, location: Location, chosen: tuple[int, ...]) -> SceneInfo:
    kinds = {src.dtypes[band - 1] for band in chosen}
    dtype = np.result_type(*(np.dtype(kind) for kind in kinds if not kind.startswith("complex_int")))
    if dtype.kind not in _KINDS or any(kind.startswith("complex") for kind in kinds):
        raise SourceError(
            f"{location.text} holds {', '.join(sorted(kinds))} values; whole or floating-point numbers are "
            "needed: convert it with gdal_translate -ot Float32"
        )
    transform = tuple(float(v) for v in src.transform)[:6]
    if not np.isfinite(transform).all() or transform[0] * transform[4] == transform[1] * transform[3]:
        raise SourceError(
            f"{location.text} has a transform {transform} that gives pixels no extent: correct it with "
            "gdal_edit.py -a_ullr"
        )
    try:
        crs = src.crs.to_wkt() if src.crs else None
    except GDAL_ERRORS as error:
        raise SourceError(f"{location.text} has a CRS that cannot be read ({reason(error)})") from error
    shapes = [src.block_shapes[band - 1] for band in chosen]
    files = [Path(name) for name in src.files] if not location.remote else []
    if location.local is not None:
        files.append(location.local)
    return SceneInfo(
        location=location,
        geobox=GeoBox(src.width, src.height, crs, transform),  # type: ignore[arg-type]
        bands=chosen,
        count=src.count,
        dtype=str(dtype),
        palette=len(set(chosen)) == 1 and src.colorinterp[chosen[0] - 1] == ColorInterp.palette,
        has_mask=any(flags != [MaskFlags.all_valid] for flags in src.mask_flag_enums),
        block=max(shapes),
        band_interleaved=src.tags(ns="IMAGE_STRUCTURE").get("INTERLEAVE", "BAND") == "BAND",
        driver=src.driver,
        compression=src.tags(ns="IMAGE_STRUCTURE").get("COMPRESSION", "none").lower(),
        files=tuple(sorted({path for path in files if path.is_file()})),
    )


def _check_place(src: rasterio.DatasetReader, scene: str) -> None:
    """Refuse a scene that is not orthorectified: its pixels lie on no regular grid on the ground."""
    if src.crs is not None and tuple(src.transform)[:6] != IDENTITY:
        return
    points, crs = src.gcps
    out = f"{Path(scene).stem}_ortho.tif"
    if points:
        to = f"-t_srs {crs.to_string()}" if crs is not None and crs.to_epsg() else "-t_srs EPSG:..."
        raise SourceError(
            f"{scene} has {len(points)} ground control points and no transform; an orthophoto is needed: "
            f"orthorectify it first, with gdalwarp -tps -r bilinear {to} {os.fspath(scene)} {out}"
        )
    if src.rpcs is not None:
        raise SourceError(
            f"{scene} has a camera model (RPC) and no transform; an orthophoto is needed: orthorectify it "
            f"first, with gdalwarp -rpc -to RPC_DEM=dem.tif -r bilinear -t_srs EPSG:... {scene} {out}"
        )


def _palette(src: rasterio.DatasetReader, band: int) -> npt.NDArray[np.uint8]:
    """Return the colour table as ``(3, values)``."""
    table = np.zeros((3, 256 if src.dtypes[band - 1] == "uint8" else 65536), dtype=np.uint8)
    for value, color in src.colormap(band).items():
        if value < table.shape[1]:
            table[:, value] = color[:3]
    return table
