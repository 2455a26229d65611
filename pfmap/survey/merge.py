"""One map of a survey, and its objects across the borders of its scenes.

The scenes' class rasters are shown as one, and that one is traced as any class raster is: an object that two
scenes share becomes one, what two scenes show counts once, and areas are those of the raster. Or the scenes
themselves are, so that windows too go on across their borders, and that mosaic is mapped as any scene is.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pfmap.core.arrays import Floats, Longs
from pfmap.core.card import Card
from pfmap.core.classes import NODATA, RGB, class_raster_style, percent_style, qml
from pfmap.core.errors import PfmapError, SourceError, few
from pfmap.core.files import make_folder, write_bytes, write_text
from pfmap.core.grid import GeoBox
from pfmap.core.resources import UNDATED
from pfmap.mapping.job import Progress, Result, look_behind
from pfmap.mapping.mapper import Tally, class_target, rasters_of
from pfmap.mapping.objects import Chosen
from pfmap.mapping.options import PredictOptions
from pfmap.mapping.plan import chosen_classes, wanted_classes
from pfmap.mapping.polygonize import Vectorizer
from pfmap.raster import mosaic
from pfmap.raster.classmap import ClassMap
from pfmap.raster.extra import own_bands
from pfmap.raster.location import locate
from pfmap.raster.mosaic import Look, Part
from pfmap.raster.scene import GUESSES, SceneInfo
from pfmap.raster.source import Source
from pfmap.report.project import Map, map_project
from pfmap.survey.find import Sheet
from pfmap.survey.run import SheetResult
from pfmap.vector.footprints import Footprints, clusters
from pfmap.vector.geodesy import Measurer

Named = tuple[str, Result]
"""A mapped scene: what its outputs are called, and what mapping it gave."""

STEM = "survey"
"""What the names of a survey's own files begin with."""

MOSAIC = "survey_mosaic"
"""What the virtual scene is called."""

_APART = "it is no part of the survey's own outputs"
_SAID = 5


@dataclass(frozen=True, slots=True)
class Merged:
    """What one map of a survey gave."""

    grid: GeoBox
    """Of the survey's rasters."""
    outputs: Mapping[str, Path]
    pixels: Longs
    """``(256,)`` per value of the class raster; where scenes overlap, each place counts once."""
    areas: Floats
    """``(256,)`` the same in square metres, or pixels where there is no CRS."""
    objects: Mapping[str, int]
    """Per class name."""
    scenes: Mapping[tuple[str, int], int]
    """Objects by name of the scene that shows them and value of the class."""
    warnings: Sequence[str]
    """About scenes that have no place among the others, or another grid."""


def merge(
    results: Sequence[SheetResult],
    folder: Path,
    card: Card,
    options: PredictOptions,
    on_progress: Progress,
    on_message: Callable[[str], None],
    footprints: Footprints | None = None,
    moment: datetime = UNDATED,
) -> Merged | None:
    """Make one map of what scenes gave; None where none has a place that others could share.

    Of the `results` those that are shown over others come last. `footprints` say which scene shows an object,
    by default those of the results themselves; `moment` is when the vector files say they were written.
    """
    scenes = [(one.sheet.name, one.result) for one in results if one.result is not None]
    placed, warnings = _with_place(scenes)
    boxes = [result.facts.grid for _, result in placed]
    if boxes:
        grid = mosaic.common_grid(boxes)
        warnings += _about_grids(boxes, grid)
    for text in warnings:
        on_message(f"warning: {text}")
    if not boxes:
        return None
    chosen = chosen_classes(card, options, _scale(placed, grid))
    looks = _looks(card, chosen)
    styles = {"classes": class_raster_style(card.classes)}
    rasters = {
        kind: _join(kind, placed, grid, folder, looks[kind], styles.get(kind, percent_style()))
        for kind in rasters_of(options, chosen)
    }
    sums, look = Tally(grid, Measurer(grid.crs_wkt, grid.center)), looks["classes"]
    target = None
    if options.sieve == "raster":
        target = class_target(grid, f"{STEM}_classes.tif", look.tags, card.classes)
    with ExitStack() as opened:
        single = dict(rasters)
        single.pop("probabilities", None)
        maps = {kind: opened.enter_context(ClassMap(locate(path), None)) for kind, path in single.items()}
        vectorizer = Vectorizer(
            maps.pop("classes"),
            maps,
            folder,
            STEM,
            card.by_index,
            chosen,
            options.shapes,
            footprints or Footprints(boxes, [*dict(placed)], grid.crs_wkt),
            on_progress,
            sums.add_rows,
            target,
            clusters([mosaic.extent(box, grid) for box in boxes]),
            moment,
        )
        vectorized = vectorizer.write(str(rasters["classes"]))
    if target is not None:
        parts = [Part(str(folder / one.name), one.geobox) for one, _ in vectorizer.sieved]
        mosaic.write_mosaic(rasters["classes"], grid, parts, look)
    outputs, shapes = rasters | vectorized.outputs, options.shapes
    wanted = wanted_classes(card, options.classes)
    files = {kind: [path] for kind, path in rasters.items()} | vectorizer.files
    made = Map(STEM, files, grid, card.classes, wanted, shapes.formats, shapes.split_by_class)
    outputs["project"] = folder / f"{STEM}.qgz"
    write_bytes(outputs["project"], map_project(made))
    return Merged(grid, outputs, sums.pixels, sums.areas, vectorized.counts, vectorized.scenes, warnings)


def _looks(card: Card, chosen: Chosen) -> dict[str, Look]:
    """Say what the survey's rasters are like, by kind."""
    names, apart = [spec.name for spec in card.classes], chosen.separation
    tags = {
        "PFMAP_MODEL": card.name,
        "PFMAP_CLASSES": ",".join(names),
        "PFMAP_ATTRIBUTION": card.provenance.attribution,
    }
    return {
        "classes": Look("uint8", ("Palette",), NODATA, card.classes, tags),
        "confidence": Look("uint8", ("Gray",), NODATA),
        "contact": Look("uint8", ("Gray",), NODATA, tags=apart.tags(card.by_index) if apart else {}),
        "probabilities": Look("uint8", ("Gray",) * len(names), NODATA, names=names),
    }


def _with_place(scenes: Sequence[Named]) -> tuple[list[Named], list[str]]:
    """Leave out scenes that have no place among the others, and say so."""
    some = any(result.facts.grid.crs_wkt is not None for _, result in scenes)
    lacks = "CRS as the others have" if some else "georeferencing"
    there, kept, warnings = [], [], []
    for name, result in scenes:
        box = result.facts.grid
        if box.crs_wkt is not None if some else box.georeferenced:
            there.append((name, result))
        else:
            warnings.append(f"{name} has no {lacks}: {_APART}")
    crs = mosaic.common_crs([result.facts.grid for _, result in there]) if there else None
    for name, result in there:
        box = result.facts.grid
        if mosaic.has_place_in(box, crs):
            kept.append((name, result))
        else:
            warnings.append(f"{name} cannot be brought from {box.crs_name} into the CRS of most: {_APART}")
    return kept, warnings


def _about_grids(boxes: Sequence[GeoBox], grid: GeoBox) -> list[str]:
    """Say so where scenes had to be brought to the grid of others."""
    if not (moved := sum(not mosaic.on_grid(box, grid) for box in boxes)):
        return []
    names = sorted({box.crs_name for box in boxes})
    some = f"{len(names)} CRSs ({few(names)})" if len(names) > 1 else "pixels of several sizes"
    return [
        f"the scenes have {some}: the survey's own outputs are in {grid.crs_name} with pixels of "
        f"{grid.transform[0]:.5g}, as most have; {moved} of {len(boxes)} scenes are brought there"
    ]


def _scale(placed: Sequence[Named], grid: GeoBox) -> float:
    """Return how many pixels of a grid are one that the network saw, as the first scene on it has it."""
    first = next((one for _, one in placed if mosaic.on_grid(one.facts.grid, grid)), placed[0][1])
    with ClassMap(locate(first.outputs["classes"]), None) as classes:
        return classes.scale


def _join(kind: str, placed: Sequence[Named], grid: GeoBox, folder: Path, look: Look, style: str) -> Path:
    """Show one raster of all scenes as one, with a style for QGIS beside it."""
    if without := [name for name, result in placed if kind not in result.outputs]:
        remedy = {"contact": "with separate='none'", "probabilities": "without probabilities=True"}
        raise SourceError(
            f"{without[0]} was mapped without {kind}: map it again with overwrite=True, or the survey "
            + remedy.get(kind, f"with {kind}=False")
        )
    bands = tuple(range(1, 1 + len(look.colors)))
    parts = [Part(str(result.outputs[kind]), result.facts.grid, bands) for _, result in placed]
    path = mosaic.write_mosaic(folder / f"{STEM}_{kind}.vrt", grid, parts, look)
    write_text(path.with_suffix(".qml"), qml(style))
    return path


def make_mosaic(
    sheets: Sequence[Sheet], folder: Path, card: Card, options: PredictOptions
) -> tuple[Sheet, Footprints, list[SheetResult]]:
    """Write a VRT that shows all sheets on one grid; where they overlap, the later one has the say.

    It has the bands that the model of this card takes of scenes, in their order. Returns it as a scene, with
    what says which sheet shows an object, and the sheets that cannot be opened.
    """
    opened: list[tuple[Sheet, SceneInfo, str]] = []
    needs = own_bands(options.extra or (), card.input.bands, card.name)
    failed: list[SheetResult] = []
    said: list[str] = []
    for sheet in sheets:
        try:
            _refuse_alone(sheet)
            with Source(sheet.location, needs, options.bands, card.name) as source:
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
    grid = mosaic.common_grid(boxes)
    colors = tuple(name.title() if name in RGB else "Undefined" for name in needs)
    # Whoever maps it knows by this that a sheet has changed.
    signs = hashlib.sha256("".join(sign for _, _, sign in opened).encode()).hexdigest()
    tags = {"PFMAP_SHEETS": signs}
    if said:
        said[_SAID:] = [f"{len(said) - _SAID} more was guessed of other sheets"] * (len(said) > _SAID)
        tags[GUESSES] = "\n".join(said)
    look = Look(infos[0].dtype, colors, tags=tags, smooth=True)
    make_folder(folder)
    path = mosaic.write_mosaic(folder / f"{MOSAIC}.vrt", grid, [_part(info) for info in infos], look)
    footprints = Footprints(boxes, [sheet.name for sheet, _, _ in opened], grid.crs_wkt)
    return Sheet(locate(path), folder, MOSAIC), footprints, failed


def _refuse_alone(sheet: Sheet) -> None:
    """Refuse a sheet that is none, or that no other file may name."""
    if sheet.fault:
        raise SourceError(sheet.fault)
    if no := sheet.location.unfit:
        raise SourceError(f"{sheet.location.text} can be no part of a mosaic ({no}): map it alone")


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
