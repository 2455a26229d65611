"""The figures of a survey's reports, gathered from what mapping its scenes and joining their maps gave."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from pfmap.core.arrays import Array
from pfmap.core.card import Card
from pfmap.core.classes import NODATA
from pfmap.core.grid import GeoBox, Span
from pfmap.mapping.mapper import Tally
from pfmap.mapping.options import PredictOptions
from pfmap.mapping.runtime import Runtime
from pfmap.model.predictor import precision_name
from pfmap.raster.classmap import ClassMap
from pfmap.raster.location import locate
from pfmap.raster.mosaic import extent
from pfmap.report.scene_report import Unit
from pfmap.report.survey_figures import SceneFigures, State, class_figures
from pfmap.survey.find import Sheet
from pfmap.survey.merge import Merged
from pfmap.survey.run import SheetResult
from pfmap.vector.footprints import lonlat_ring
from pfmap.vector.geodesy import Measurer


def scene_figures(
    result: SheetResult, box: GeoBox | None, card: Card, folder: Path, unit: Unit
) -> SceneFigures:
    """Gather what is known of a scene, whose grid is `box` where it could be opened.

    Names of outputs are relative to `folder`; areas that are not in the survey's unit become 0.
    """
    done, figures = result.result, _begun(result.sheet, result, box)
    if done is None:
        return figures
    report, rows = done.facts, done.facts.classes
    areas = [row.area if report.unit == unit else 0.0 for row in rows]
    return replace(
        figures,
        gsd=report.scene.gsd_m,
        classes=class_figures(
            card.classes, [row.pixels for row in rows], areas, [row.objects for row in rows]
        ),
        valid_pixels=report.scene.valid_pixels,
        mean_confidence=report.scene.mean_confidence if report.scene.valid_pixels else None,
        seconds=report.seconds,
        warnings=report.warnings,
        outputs=relative_names(done.outputs, folder),
        finished=report.finished,
        grid=report.grid,
    )


def sheet_figures(
    sheet: Sheet, whole: SheetResult, box: GeoBox | None, merged: Merged | None, card: Card
) -> SceneFigures:
    """Gather what is known of a sheet that was mapped as a part of a mosaic: what that shows in its outline.

    Where sheets overlap, each of them shows what is there. `box` is the sheet's grid, where it can still be
    opened, and `whole` is the mosaic.
    """
    figures = _begun(sheet, whole, box)
    if whole.result is None or box is None or merged is None:
        return figures
    rows, cols = extent(box, merged.grid)
    within = rows.clip(Span(0, merged.grid.height)), cols.clip(Span(0, merged.grid.width))
    sums = Tally(merged.grid, Measurer(merged.grid.crs_wkt, merged.grid.center))
    top = within[0].start
    for values in _rows(merged.outputs["classes"], within):
        sums.add_rows(top, values)
        top += len(values)
    objects = [merged.scenes.get((sheet.name, index), 0) for index in range(len(card.classes))]
    return replace(
        figures,
        gsd=whole.result.facts.scene.gsd_m,
        classes=class_figures(card.classes, sums.pixels, sums.areas, objects),
        valid_pixels=sums.valid,
        mean_confidence=_confidence(merged, within) if sums.valid else None,
    )


def _begun(sheet: Sheet, result: SheetResult, box: GeoBox | None) -> SceneFigures:
    """Say what a scene is, what became of it, and where it lies."""
    done = result.result
    state: State = "failed" if done is None else "skipped" if done.skipped else "done"
    figures = SceneFigures(sheet.location.text, sheet.name, state, result.reason)
    if box is None:
        return figures
    crs = box.crs_name if box.crs_wkt is not None else ""
    return replace(figures, width=box.width, height=box.height, footprint=lonlat_ring(box), crs=crs)


def settings_facts(runtime: Runtime, options: PredictOptions) -> dict[str, object]:
    """Return what a reader of the report wants to know of the options: not how the work was done."""
    facts = asdict(options)
    shapes = facts.pop("shapes")
    for name in ("overwrite", "resume", "swath_pixels", "batch_size"):
        facts.pop(name)
    return {"device": str(runtime.device), "precision": precision_name(runtime.precision), **facts, **shapes}


def relative_names(outputs: Mapping[str, Path], folder: Path) -> dict[str, str]:
    """Name files as they are reached from a folder."""
    return {kind: Path(os.path.relpath(path, folder)).as_posix() for kind, path in outputs.items()}


def _rows(raster: Path, within: tuple[Span, Span]) -> Iterator[Array]:
    with ClassMap(locate(raster), None) as source:
        for strip in source.strips(*within):
            yield source.read(strip, within[1])


def _confidence(merged: Merged, within: tuple[Span, Span]) -> float | None:
    """Return the mean confidence of a part of the map in percent, where the survey has it."""
    if "confidence" not in merged.outputs:
        return None
    counts = np.zeros(256, dtype=np.int64)
    for values in _rows(merged.outputs["confidence"], within):
        counts += np.bincount(values.ravel(), minlength=256)
    return round(float(counts[:NODATA] @ np.arange(NODATA) / counts[:NODATA].sum()), 2)
