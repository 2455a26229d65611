"""A survey's sheets as one virtual scene, so that windows and objects go on across their borders."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pfmap.core.card import Card
from pfmap.core.errors import PfmapError, SourceError
from pfmap.core.files import make_folder
from pfmap.mapping.job import look_behind
from pfmap.mapping.options import PredictOptions
from pfmap.raster.location import locate
from pfmap.raster.mosaic import Look, Part, common_grid, write_mosaic
from pfmap.raster.scene import GUESSES, SceneInfo
from pfmap.raster.source import Source
from pfmap.survey.find import Sheet
from pfmap.survey.run import SheetResult
from pfmap.vector.footprints import Footprints

NAME = "survey_mosaic"
_SAID = 5
_COLORS: dict[tuple[str, ...], tuple[str, ...]] = {("red", "green", "blue"): ("Red", "Green", "Blue")}


def make_mosaic(
    sheets: Sequence[Sheet], folder: Path, card: Card, options: PredictOptions
) -> tuple[Sheet, Footprints, list[SheetResult]]:
    """Write a VRT that shows all sheets on one grid; where they overlap, the later one has the say.

    It has the bands that the model of this card takes, in their order. Returns it as a scene, with what says
    which sheet shows an object, and the sheets that cannot be opened.
    """
    opened: list[tuple[Sheet, SceneInfo, str]] = []
    failed: list[SheetResult] = []
    said: list[str] = []
    for sheet in sheets:
        try:
            if sheet.fault:
                raise SourceError(sheet.fault)
            if no := sheet.location.unfit:
                raise SourceError(f"{sheet.location.text} can be no part of a mosaic ({no}): map it alone")
            with Source(sheet.location, card.input.bands, options.bands, card.name) as source:
                look_behind(source)
                opened.append((sheet, source.info, source.fingerprint()))
                said += source.info.guesses
                said += source.sample(values=False).notes if source.info.validity.alpha is not None else ()
        except PfmapError as error:
            failed.append(SheetResult(sheet, None, str(error)))
    if not opened:
        raise SourceError(f"none of {len(sheets)} sheets can be opened; the first: {failed[0].reason}")
    infos = [info for _, info, _ in opened]
    _refuse_mixed(infos, options)
    boxes = [info.geobox for info in infos]
    grid = common_grid(boxes)
    colors = _COLORS.get(card.input.bands, ("Undefined",) * len(card.input.bands))
    # Whoever maps it knows by this that a sheet has changed.
    signs = hashlib.sha256("".join(sign for _, _, sign in opened).encode()).hexdigest()
    tags = {"PFMAP_SHEETS": signs}
    if said:
        more = [f"{len(said) - _SAID} more was guessed of other sheets"] if len(said) > _SAID else []
        tags[GUESSES] = "\n".join(said[:_SAID] + more)
    look = Look(infos[0].dtype, colors, tags=tags, smooth=True)
    make_folder(folder)
    path = write_mosaic(folder / f"{NAME}.vrt", grid, [_part(info) for info in infos], look)
    footprints = Footprints(boxes, [sheet.name for sheet, _, _ in opened], grid.crs_wkt)
    return Sheet(locate(path), folder, NAME), footprints, failed


def _part(info: SceneInfo) -> Part:
    masked: tuple[int, ...] = ()
    if info.validity.alpha is not None or info.validity.masks:
        masked = info.bands[:1] if info.validity.alpha is not None else tuple(dict.fromkeys(info.bands))
    # GDAL does not see an alpha band that warping adds to more than three.
    seen = info.validity.shared and (info.count <= 3 or info.validity.alpha is not None)
    validity = None if seen else info.validity
    return Part(info.location.vsi, info.geobox, info.bands, masked, info.location.plain, validity)


def _refuse_mixed(infos: Sequence[SceneInfo], options: PredictOptions) -> None:
    """Refuse sheets whose values do not mean the same, or that have no place beside each other."""
    first = infos[0]
    for info in infos:
        why = ""
        if info.palette:
            why = (
                f"{info.name} has a colour table, which a mosaic cannot show: expand it with gdal_translate "
                "-expand rgb"
            )
        elif info.white_is_zero or (info.bits and options.scale is None):
            what = "low values that are bright" if info.white_is_zero else f"values of {info.bits} bits"
            why = f"{info.name} has {what}, which a mosaic cannot show: convert it with gdal_translate -scale"
        elif info.dtype != first.dtype:
            why = (
                f"{first.name} has {first.dtype} values and {info.name} {info.dtype}: a mosaic needs the "
                "same in all; convert them with gdal_translate -ot"
            )
        elif not info.geobox.georeferenced or (info.geobox.crs_wkt is None) != (first.geobox.crs_wkt is None):
            lacking = info if info.geobox.crs_wkt is None else first
            why = (
                f"{lacking.name} has no {'CRS' if lacking.geobox.georeferenced else 'georeferencing'}: a "
                "mosaic needs a place for every sheet; state it with gdal_edit.py -a_srs, leave the sheet out"
            )
        if why:
            raise SourceError(f"{why}, or map the sheets without mosaic=True")
