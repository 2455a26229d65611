"""What a scene is, apart from its pixels."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import ColorInterp, MaskFlags

from pfmap.core.errors import SourceError
from pfmap.core.grid import IDENTITY, UNPLACED, GeoBox
from pfmap.raster.gdal import GDAL_ERRORS, Location, reason

_CACHE_MIN, _CACHE_TILED = 64 << 20, 256 << 20
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
        alpha: 1-based number of the alpha band, or None.
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
    alpha: int | None
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


def describe(src: rasterio.DatasetReader, location: Location, chosen: tuple[int, ...]) -> SceneInfo:
    """Gather what is known of an opened scene.

    Args:
        src: the opened scene.
        location: where it is.
        chosen: 1-based numbers of the bands that are read.

    Raises:
        SourceError: values that are no real numbers, or georeferencing that cannot be used.
    """
    kinds = {src.dtypes[band - 1] for band in chosen}
    complex_values = any(kind.startswith("complex") for kind in kinds)
    dtype = np.result_type(*kinds) if not complex_values else np.dtype(complex)
    if dtype.kind not in _KINDS:
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
    if crs is None and transform == IDENTITY:
        transform = UNPLACED
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
        alpha=src.colorinterp.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in src.colorinterp else None,
        palette=len(set(chosen)) == 1 and src.colorinterp[chosen[0] - 1] == ColorInterp.palette,
        has_mask=any(flags != [MaskFlags.all_valid] for flags in src.mask_flag_enums),
        block=max(shapes),
        band_interleaved=src.tags(ns="IMAGE_STRUCTURE").get("INTERLEAVE", "BAND") == "BAND",
        driver=src.driver,
        compression=src.tags(ns="IMAGE_STRUCTURE").get("COMPRESSION", "none").lower(),
        files=tuple(sorted({path for path in files if path.is_file()})),
    )


def check_place(src: rasterio.DatasetReader, scene: str) -> None:
    """Refuse a scene that is not orthorectified: its pixels lie on no regular grid on the ground."""
    if tuple(src.transform)[:6] != IDENTITY:
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


def read_palette(src: rasterio.DatasetReader, band: int) -> npt.NDArray[np.uint8]:
    """Return a band's colour table as ``(3, values)``: red, green and blue of each value."""
    table = np.zeros((3, 256 if src.dtypes[band - 1] == "uint8" else 65536), dtype=np.uint8)
    for value, color in src.colormap(band).items():
        if value < table.shape[1]:
            table[:, value] = color[:3]
    return table
