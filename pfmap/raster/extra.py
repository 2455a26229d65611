"""Scenes with all bands that a model sees: those of their own file, and those of rasters of one band."""

from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any, cast

from rasterio.enums import Resampling

from pfmap.core.card import InputSpec
from pfmap.core.errors import SourceError, UsageError
from pfmap.core.grid import GeoBox
from pfmap.core.resources import times_of
from pfmap.raster.align import moved, warped
from pfmap.raster.gdal import Validity, alpha_bands
from pfmap.raster.location import Location, locate
from pfmap.raster.parts import Parts, find_parts, found_file
from pfmap.raster.scaling import known_scaling
from pfmap.raster.scene import SceneInfo
from pfmap.raster.source import Source

STEM = "{stem}"
"""In the name of a file: the stem of the scene, in whose folder it lies then."""


def locate_extra(files: Mapping[str, str], scene: Location) -> dict[str, Location]:
    """Find the files of a scene's further bands; what a pattern finds may not lead to others.

    A `SourceError` says that there is none, or that it does.
    """
    found = {}
    for name, file in files.items():
        path = file.replace(STEM, PurePosixPath(scene.name).stem)
        beside = STEM in file and "://" not in file
        found[name] = found_file(scene.folder / path, file) if beside else locate(path)
    return found


def own_bands(extra: Collection[str], names: tuple[str, ...], model: str) -> tuple[str, ...]:
    """Return which of a model's bands come from scenes themselves; a `UsageError` refuses other names."""
    if not set(extra) < set(names):
        raise UsageError(
            f"extra= names {', '.join(extra)}; model {model!r} sees {', '.join(names)}, of which the scene "
            "itself has to have one: correct the names"
        )
    return tuple(name for name in names if name not in extra)


def open_bands(
    location: Location,
    seen: InputSpec,
    bands: tuple[int, ...] | None,
    model: str,
    files: Mapping[str, str] | None = None,
    *,
    skip_unreadable: bool = False,
) -> Source:
    """Open a scene as a model sees it, with the files of further bands; other arguments as of `Source`."""
    own, extra = own_bands(files or {}, seen.bands, model), locate_extra(files or {}, location)
    source = Source(location, own, bands, model, scales=seen.scales, skip_unreadable=skip_unreadable)
    with ExitStack() as stack:
        stack.push(source)
        for name, file in extra.items():
            source.add(Extra(name, file, seen, source.info))
        stack.pop_all()
    source.names = seen.bands
    return source


def glance(location: Location) -> GeoBox:
    """Look up how large a scene is and where it lies, or raise a `SourceError`; its pixels are not read."""
    with Source(location, ("any",), (1,)) as source:
        return source.info.geobox


class Extra(Source):
    """A raster of one band, read on the grid of a scene, bilinearly where the two differ.

    What lies beyond it, or is nodata there, is invalid. A `SourceError` says too that it has several bands,
    or cannot be brought to that grid; a `UsageError` that nothing says what its values mean.
    """

    def __init__(self, name: str, location: Location, seen: InputSpec, scene: SceneInfo) -> None:
        super().__init__(location, (name,), (1,))
        info, file, scale = self.info, location.text, seen.scales.get(name, seen.scale)
        own, grid = info.geobox, scene.geobox
        kinds = [(one.dtype, one.bits, one.white_is_zero) for one in (info, scene)]
        alike = name not in seen.scales and kinds[0] == kinds[1]
        known = None if alike else known_scaling(info, scale, None)
        with ExitStack() as stack:
            stack.push(self)
            if (bands := {*self._src.indexes} - {*alpha_bands(self._src)}) != {1}:
                raise SourceError(
                    f"{file} has {len(bands)} bands; a file for extra= has one: take one of them with "
                    "gdal_translate -b 1"
                )
            if not (alike or known):
                raise UsageError(
                    f"{file} holds {info.dtype} values, {scene.name} {scene.dtype}, and the model's card has "
                    f"{scale:g} as scale of {name}: state there which value of it becomes 1"
                )
            if own.crs_wkt is None and grid.crs_wkt is not None:
                raise SourceError(
                    f"{file} has no CRS, and {scene.name} lies in {grid.crs_name}: say where it lies with "
                    "gdal_edit.py -a_srs"
                )
            parts = find_parts(info, needed=False)[0] if info.driver == "VRT" else Parts()
            self.times |= times_of(parts.files)
            if parts.gone or (not info.validity.decides and len(self.empty) + len(parts.empty)):
                raise SourceError(
                    f"{file} has places where nothing was written, or shows a file that is gone, or none: "
                    "give it a nodata value with gdal_edit.py -a_nodata, and put back what is gone"
                )
            apart, note = moved(file, own, scene.name, grid)
            if apart:
                how = {"own": own, "other": scene.name, "target": grid, "resampling": Resampling.bilinear}
                cast(Any, self._src).show(partial(warped, file, **how))
            notes = *filter(None, [note]), *info.guesses * own.georeferenced
            self.info = replace(info, geobox=grid, validity=Validity.of(self._src, (1,)), guesses=notes)
            self._each = [(name, 0, known)]
            self._own = self._each[: known is not None]
            stack.pop_all()
