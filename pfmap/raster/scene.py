"""What a scene is, apart from its pixels: its place, its type of values, and which bands the network sees."""

import contextlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags

from pfmap.core.errors import SourceError, UsageError, reason
from pfmap.core.grid import IDENTITY, UNPLACED, GeoBox
from pfmap.raster.gdal import GDAL_ERRORS, Location

RGB = ("red", "green", "blue")
_NAMES = {
    "near infrared": "nir",
    "near-infrared": "nir",
    "infrared": "nir",
    "r": "red",
    "g": "green",
    "b": "blue",
}
_CACHE_MIN, _CACHE_TILED = 64 << 20, 256 << 20
_KINDS = "uif"  # numpy's letters: unsigned, signed, floating point


_DRIVERS = {
    ".ecw": ("ECW",),
    ".sid": ("MrSID",),
    ".jp2": ("JP2OpenJPEG", "JP2KAK", "JP2ECW", "JP2MrSID"),
    ".nc": ("netCDF",),
    ".h5": ("HDF5",),
    ".hdf": ("HDF4", "HDF5"),
    ".jxl": ("JPEGXL",),
    ".heic": ("HEIF",),
}
"""GDAL's names of the drivers that open files of these endings; not every build of it has all."""

_ARCHIVES = frozenset({".tar", ".tgz", ".gz", ".7z", ".rar"})


@dataclass(frozen=True, slots=True)
class SceneInfo:
    """What is known of a scene without reading its pixels."""

    location: Location
    geobox: GeoBox
    bands: tuple[int, ...]
    """1-based numbers of the bands that are read, in the model's order."""
    count: int
    """Bands in the file."""
    dtype: str
    """Of the bands that are read, such as uint16; the widest where they differ."""
    alpha: int | None
    """1-based number of the alpha band, or None."""
    palette: bool
    """Whether the band holds indices into a colour table."""
    has_mask: bool
    """Whether some pixels may be invalid by nodata value, alpha or mask."""
    block: tuple[int, int]
    """Height and width of the file's own blocks."""
    band_interleaved: bool
    """Whether each band has blocks of its own."""
    driver: str
    """GDAL's name of the format."""
    compression: str
    """GDAL's name of it, or "none"."""
    files: tuple[Path, ...]
    """All files of this machine that it consists of."""

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
    """Gather what is known of an opened scene, of which the bands of these numbers, from 1, are read.

    Raises:
        SourceError: values that are no real numbers, or georeferencing that cannot be used.
    """
    colors, structure = src.colorinterp, src.tags(ns="IMAGE_STRUCTURE")
    return SceneInfo(
        location=location,
        dtype=_dtype(src, location, chosen),
        geobox=geobox_of(src, location),
        bands=chosen,
        count=src.count,
        alpha=colors.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in colors else None,
        palette=len(set(chosen)) == 1 and colors[chosen[0] - 1] == ColorInterp.palette,
        has_mask=any(flags != [MaskFlags.all_valid] for flags in src.mask_flag_enums),
        block=max(src.block_shapes[band - 1] for band in chosen),
        band_interleaved=structure.get("INTERLEAVE", "BAND") == "BAND",
        driver=src.driver,
        compression=structure.get("COMPRESSION", "none").lower(),
        files=_files(src, location),
    )


def _dtype(src: rasterio.DatasetReader, location: Location, chosen: tuple[int, ...]) -> str:
    """Return the type that holds the values of all chosen bands."""
    kinds = {src.dtypes[band - 1] for band in chosen}
    if any(kind.startswith("complex") for kind in kinds) or np.result_type(*kinds).kind not in _KINDS:
        raise SourceError(
            f"{location.text} holds {', '.join(sorted(kinds))} values; whole or floating-point numbers are "
            "needed: convert it with gdal_translate -ot Float32"
        )
    return str(np.result_type(*kinds))


def geobox_of(src: rasterio.DatasetReader, location: Location) -> GeoBox:
    """Return the grid of an opened raster.

    Raises:
        SourceError: it is not orthorectified, or its georeferencing cannot be used.
    """
    _refuse_unrectified(src, location.text)
    transform = tuple(float(v) for v in src.transform)[:6]
    if not np.isfinite(transform).all() or transform[0] * transform[4] == transform[1] * transform[3]:
        raise SourceError(
            f"{location.text} has a transform {transform} that gives pixels no extent: correct it with "
            "gdal_edit.py -a_ullr"
        )
    try:
        crs = horizontal(src.crs).to_wkt() if src.crs else None
    except GDAL_ERRORS as error:
        raise SourceError(f"{location.text} has a CRS that cannot be read ({reason(error)})") from error
    if crs is None and transform == IDENTITY:
        transform = UNPLACED
    return GeoBox(src.width, src.height, crs, transform)  # type: ignore[arg-type]


def _refuse_unrectified(src: rasterio.DatasetReader, scene: str) -> None:
    """Refuse a scene whose pixels lie on no regular grid on the ground."""
    if tuple(src.transform)[:6] != IDENTITY:
        return
    points, crs = src.gcps
    out = f"{Path(scene).stem}_ortho.tif"
    if points:
        to = f"-t_srs {crs.to_string()}" if crs is not None and crs.to_epsg() else "-t_srs EPSG:..."
        raise SourceError(
            f"{scene} has {len(points)} ground control points and no transform; an orthophoto is needed: "
            f"orthorectify it first, with gdalwarp -tps -r bilinear {to} {scene} {out}"
        )
    if src.rpcs is not None:
        raise SourceError(
            f"{scene} has a camera model (RPC) and no transform; an orthophoto is needed: orthorectify it "
            f"first, with gdalwarp -rpc -to RPC_DEM=dem.tif -r bilinear -t_srs EPSG:... {scene} {out}"
        )


def _files(src: rasterio.DatasetReader, location: Location) -> tuple[Path, ...]:
    """Return the files of this machine that a scene consists of."""
    files = {Path(name) for name in src.files} if not location.remote else set()
    if location.local is not None:
        files.add(location.local)
    return tuple(sorted(path for path in files if path.is_file()))


def choose_bands(
    src: rasterio.DatasetReader,
    scene: str,
    names: tuple[str, ...],
    bands: Sequence[int] | None,
    model: str,
) -> tuple[int, ...]:
    """Choose bands by number, or by what the file says they are: colour interpretation, then descriptions.

    A grey scene serves a model for red, green and blue with the same band three times; a palette has one
    band, whose colours are expanded when it is read.

    Args:
        src: the opened scene.
        scene: its name, for messages.
        names: what the model needs, in its order.
        bands: 1-based numbers given by the user, or None.
        model: the model's name, for messages.

    Returns:
        1-based band numbers, as many as `names`.

    Raises:
        UsageError: too few bands, bands that do not exist, or a band that only the user can name.
    """
    wanted = f"model {model!r} needs {len(names)} ({', '.join(names)})"
    if bands is not None:
        return _given(src, scene, bands, wanted, len(names))
    kinds = [color.name for color in src.colorinterp]
    for labels in (kinds, [_plain(text) for text in src.descriptions]):
        if all(labels.count(name) == 1 for name in names):
            return tuple(labels.index(name) + 1 for name in names)
    colors = [number for number, kind in enumerate(kinds, 1) if kind != "alpha"]
    if names == RGB and len(colors) == 1 and kinds[colors[0] - 1] in ("gray", "palette"):
        return (colors[0],) * 3
    if len(colors) < len(names):
        raise UsageError(
            f"{scene} has {len(colors)} band{'s' * (len(colors) != 1)}; {wanted}: choose them with bands="
        )
    if names != RGB:
        raise UsageError(
            f"{scene} does not say which of its {len(colors)} bands are {', '.join(names)}, as model "
            f"{model!r} needs them: name them with bands=, such as bands=(1, 2, 3) for this order"
        )
    return tuple(colors[: len(names)])


def _given(
    src: rasterio.DatasetReader, scene: str, bands: Sequence[int], wanted: str, count: int
) -> tuple[int, ...]:
    """Check the bands that the user gave."""
    if len(bands) != count:
        raise UsageError(f"bands= names {len(bands)} bands; {wanted}")
    absent = [str(band) for band in bands if not 1 <= band <= src.count]
    if absent:
        raise UsageError(f"{scene} has bands 1 to {src.count}, not {', '.join(absent)}: correct bands=")
    return tuple(bands)


def _plain(description: str | None) -> str:
    """Reduce a band's description to a name of the model's language: "Near Infrared (B8)" to nir."""
    text = re.sub(r"\(.*?\)|[\d_]", " ", description or "").strip().lower()
    text = re.sub(r"\s+band$|^band\s+", "", " ".join(text.split()))
    return _NAMES.get(text, text)


def read_palette(src: rasterio.DatasetReader, band: int) -> npt.NDArray[np.uint8]:
    """Return a band's colour table as ``(3, values)``: red, green and blue of each value."""
    table = np.zeros((3, 256 if src.dtypes[band - 1] == "uint8" else 65536), dtype=np.uint8)
    for value, color in src.colormap(band).items():
        if value < table.shape[1]:
            table[:, value] = color[:3]
    return table


def horizontal(crs: CRS) -> CRS:
    """Leave out the heights of a CRS: a map has none, and not every file has a place for them."""
    with contextlib.suppress(*GDAL_ERRORS):  # one that has no other form stays as it is
        table = crs.to_dict(projjson=True)
        if (flat := _without_heights(table)) != table:
            crs = CRS.from_string(json.dumps(flat))
            known = CRS.from_epsg(crs.to_epsg() or 0)  # with its number, if it has one
            crs = known if known == crs else crs
    return crs


def _without_heights(table: dict[str, Any]) -> dict[str, Any]:
    """Take the third axis out of a CRS in PROJJSON, and those it is made of."""
    if "components" in table:
        return _without_heights(table["components"][0])
    flat = table | {key: _without_heights(table[key]) for key in ("base_crs", "source_crs") if key in table}
    system = table.get("coordinate_system", {})
    if len(system.get("axis", ())) > 2:
        flat["coordinate_system"] = system | {"axis": system["axis"][:2]}
        flat.pop("id", None)
    return flat


def not_opened(location: Location, error: Exception) -> SourceError:
    """Say why GDAL does not open a raster, as far as that can be told."""
    ending = PurePosixPath(location.name).suffix.lower()
    drivers = _DRIVERS.get(ending, ())
    with rasterio.Env() as env:
        lacking = drivers and not set(drivers) & set(env.drivers())
    if lacking:
        why = (
            f"is in a format that GDAL has no driver for here ({' or '.join(drivers)}): convert it to GeoTIFF"
            " with a program that has one, such as QGIS"
        )
    elif ending in _ARCHIVES:
        why = f"is an archive: unpack it, or name the raster in it, as /vsitar/{location.text}/scene.tif"
    elif location.remote:
        why = f"cannot be opened ({reason(error)})"
    else:
        why = f"is not a raster that GDAL can open ({reason(error)})"
    return SourceError(f"{location.text} {why}")
