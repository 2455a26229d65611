"""A scene on disk: what it is, and its pixels window by window."""

import contextlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from pfmap.errors import SourceError, UsageError
from pfmap.grid import Span

_CACHE_MIN = 64 << 20


@dataclass(frozen=True, slots=True)
class SceneInfo:
    """What a scene is, apart from its pixels.

    Attributes:
        path: as given.
        width: pixels.
        height: pixels.
        bands: 1-based numbers of the bands that are read, in the model's order.
        crs_wkt: coordinate reference system as WKT, or None.
        transform: (a, b, c, d, e, f) of x = a col + b row + c, y = d col + e row + f.
    """

    path: Path
    width: int
    height: int
    bands: tuple[int, ...]
    crs_wkt: str | None
    transform: tuple[float, float, float, float, float, float]

    @property
    def georeferenced(self) -> bool:
        """Whether pixels have a place: a CRS, or at least a transform."""
        return self.crs_wkt is not None or self.transform != (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

    def place(self, col: float, row: float) -> tuple[float, float]:
        """Return x, y in the CRS of a point in pixels."""
        a, b, c, d, e, f = self.transform
        return a * col + b * row + c, d * col + e * row + f


class Source:
    """An opened scene, read by windows. A context manager; one per thread.

    Args:
        path: any raster that GDAL opens.
        names: the bands that the model needs, in its order.
        bands: 1-based band numbers that override the choice by colour interpretation.
        model: the model's name, for messages.

    Raises:
        SourceError: missing, no raster, or a data type that cannot be mapped.
        UsageError: too few bands, or bands that do not exist.
    """

    def __init__(
        self,
        path: Path,
        names: tuple[str, ...] = ("red", "green", "blue"),
        bands: tuple[int, ...] | None = None,
        model: str = "",
    ) -> None:
        with contextlib.ExitStack() as stack:
            self._src = stack.enter_context(_open(path))
            chosen = _choose_bands(self._src, path, names, bands, model)
            _check_type(self._src, path, chosen)
            transform = tuple(float(v) for v in self._src.transform)[:6]
            self.info = SceneInfo(
                path=path,
                width=self._src.width,
                height=self._src.height,
                bands=chosen,
                crs_wkt=self._src.crs.to_wkt() if self._src.crs else None,
                transform=transform,  # type: ignore[arg-type]
            )
            self._all_valid = all(flags == [MaskFlags.all_valid] for flags in self._src.mask_flag_enums)
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
        """Read the part of a window that lies within the scene.

        Args:
            rows: pixel rows; may reach past the scene.
            cols: pixel columns; may reach past the scene.

        Returns:
            ``(3, h, w)`` uint8 and the ``(h, w)`` valid mask, clipped to the scene.

        Raises:
            SourceError: the pixels cannot be read.
        """
        height = min(rows.stop, self.info.height) - rows.start
        width = min(cols.stop, self.info.width) - cols.start
        window = Window(cols.start, rows.start, width, height)
        try:
            if self._all_valid:
                valid = np.ones((height, width), dtype=bool)
            else:
                valid = self._src.dataset_mask(window=window) > 0
            if not valid.any():
                return np.zeros((len(self.info.bands), height, width), dtype=np.uint8), valid
            return self._src.read(list(self.info.bands), window=window), valid
        except RasterioError as error:
            raise SourceError(
                f"{self.info.path} cannot be read at column {cols.start}, row {rows.start}: the file is "
                f"damaged or incomplete ({_reason(error)}); copy or export it again"
            ) from error


@contextlib.contextmanager
def gdal_settings(width: int) -> Iterator[None]:
    """Set up GDAL for streaming a scene of this width: a block cache that does not grow with its height."""
    cache = max(_CACHE_MIN, 4096 * width)
    with rasterio.Env(GDAL_CACHEMAX=cache, GDAL_DISABLE_READDIR_ON_OPEN="FALSE"):
        yield


@contextlib.contextmanager
def _open(path: Path) -> Iterator[rasterio.DatasetReader]:
    text = os.fspath(path)
    if not text.startswith("/vsi") and not path.exists():
        raise SourceError(f"{path} does not exist: check the path")
    if path.is_dir():
        raise SourceError(f"{path} is a folder: name a raster file in it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            src = rasterio.open(path)
    except RasterioError as error:
        raise SourceError(f"{path} is not a raster that GDAL can open ({_reason(error)})") from error
    with src:
        yield src


def _reason(error: Exception) -> str:
    """Return GDAL's own word, which rasterio keeps as the cause, on one line."""
    return " ".join(str(error.__cause__ or error).split())


def _choose_bands(
    src: rasterio.DatasetReader,
    path: Path,
    names: tuple[str, ...],
    bands: tuple[int, ...] | None,
    model: str,
) -> tuple[int, ...]:
    wanted = f"model {model!r} needs {len(names)} ({', '.join(names)})"
    if bands is not None:
        if len(bands) != len(names):
            raise UsageError(f"--bands names {len(bands)} bands; {wanted}")
        absent = [str(b) for b in bands if not 1 <= b <= src.count]
        if absent:
            raise UsageError(f"{path} has bands 1 to {src.count}, not {', '.join(absent)}: correct --bands")
        return bands
    interpretation = [color.name for color in src.colorinterp]
    if all(interpretation.count(name) == 1 for name in names):
        return tuple(interpretation.index(name) + 1 for name in names)
    colors = [i + 1 for i, name in enumerate(interpretation) if name != "alpha"]
    if len(colors) < len(names):
        raise UsageError(
            f"{path} has {len(colors)} band{'s' * (len(colors) != 1)}; {wanted}: choose them with --bands"
        )
    if names != ("red", "green", "blue"):
        raise UsageError(
            f"{path} does not say which of its {len(colors)} bands are {', '.join(names)}, as model "
            f"{model!r} needs them: name them with --bands, such as --bands 1,2,3 for this order"
        )
    return tuple(colors[: len(names)])


def _check_type(src: rasterio.DatasetReader, path: Path, bands: tuple[int, ...]) -> None:
    kinds = {src.dtypes[band - 1] for band in bands}
    if kinds != {"uint8"}:
        raise SourceError(
            f"{path} holds {', '.join(sorted(kinds))} values; 8-bit ones (uint8) are needed: convert it "
            "with gdal_translate -ot Byte -scale"
        )
