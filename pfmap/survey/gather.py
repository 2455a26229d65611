"""From what was mapped to the figures that reports show."""

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np

from pfmap.core.card import Card
from pfmap.core.classes import NODATA
from pfmap.core.grid import GeoBox, Span
from pfmap.mapping.options import PredictOptions
from pfmap.mapping.runtime import Runtime
from pfmap.raster.classmap import ClassMap
from pfmap.raster.gdal import locate
from pfmap.raster.mosaic import extent
from pfmap.report.survey_figures import ClassFigures, SceneFigures, State, SurveyFigures, class_figures
from pfmap.survey.find import Sheet
from pfmap.survey.merge import Merged, Tally
from pfmap.survey.run import SheetResult
from pfmap.vector.footprints import lonlat_ring
from pfmap.version import __version__

Unit = Literal["m2", "px"]


class _Place(TypedDict, total=False):
    """Where a scene lies, as `SceneFigures` has it."""

    width: int
    height: int
    footprint: tuple[tuple[float, float], ...]
    crs: str


def scene_figures(
    result: SheetResult, box: GeoBox | None, card: Card, folder: Path, unit: Unit
) -> SceneFigures:
    """Gather what is known of a scene.

    Args:
        result: what became of it.
        box: its grid, where it could be opened.
        card: of the model.
        folder: that its outputs' names are relative to.
        unit: of the survey's areas; those of a scene that has none in it are 0.
    """
    name, text, place = result.sheet.name, result.sheet.location.text, _place(box)
    done = result.result
    if done is None:
        return SceneFigures(text, name, "failed", result.reason, **place)
    report = done.report
    scene = report["scene"]
    return SceneFigures(
        text,
        name,
        "skipped" if done.skipped else "done",
        **place,
        gsd=scene["gsd_m"],
        classes=tuple(_class(row, card, unit) for row in report["classes"]),
        valid_pixels=scene["valid_pixels"],
        mean_confidence=scene["mean_confidence"] if scene["valid_pixels"] else None,
        seconds=report["seconds"],
        warnings=tuple(report["warnings"]),
        outputs=_relative(done.outputs, folder),
        finished=report["finished"],
    )


def sheet_figures(
    sheet: Sheet, whole: SheetResult, box: GeoBox | None, merged: Merged | None, card: Card
) -> SceneFigures:
    """Gather what is known of a sheet that was mapped as a part of a mosaic: what that shows of it.

    Args:
        sheet: the sheet.
        whole: the mosaic.
        box: the sheet's grid, where it can still be opened.
        merged: the one map, if there is one.
        card: of the model.
    """
    done, name = whole.result, sheet.name
    state: State = "failed" if done is None else "skipped" if done.skipped else "done"
    figures = SceneFigures(sheet.location.text, name, state, whole.reason, **_place(box))
    if done is None or box is None or merged is None:
        return figures
    part = part_of(merged, name, box, card)
    return replace(
        figures,
        gsd=done.report["scene"]["gsd_m"],
        classes=part.classes,
        valid_pixels=part.valid_pixels,
        mean_confidence=part.mean_confidence,
    )


def survey_figures(
    title: str,
    scenes: Sequence[SceneFigures],
    merged: Merged | None,
    runtime: Runtime,
    options: PredictOptions,
    folder: Path,
    times: tuple[str, str, float],
    warnings: Sequence[str],
) -> SurveyFigures:
    """Gather what is known of a survey.

    Args:
        title: for people.
        scenes: in order.
        merged: the one map of all, if there is one.
        runtime: what they were mapped with.
        options: how they were mapped.
        folder: that outputs' names are relative to.
        times: when it was started and finished, ISO 8601, and the seconds it took.
        warnings: about the survey as a whole.
    """
    card = runtime.model.card
    return SurveyFigures(
        title=title,
        version=__version__,
        started=times[0],
        finished=times[1],
        seconds=round(times[2], 3),
        unit=unit_of(merged),
        model=model_facts(card, runtime.model_hash),
        settings=_settings(runtime, options),
        crs="" if merged is None or merged.grid.crs_wkt is None else merged.grid.crs_name,
        classes=() if merged is None else _classes(merged, card),
        scenes=tuple(scenes),
        warnings=tuple(warnings),
        outputs={} if merged is None else _relative(merged.outputs, folder),
    )


def unit_of(merged: Merged | None) -> Unit:
    """Return the unit of a survey's areas."""
    return "m2" if merged is not None and merged.grid.crs_wkt is not None else "px"


def title_of(sheets: Sequence[Sheet]) -> str:
    """Name a survey: by the folder that all its scenes lie in."""
    homes = [os.path.realpath(sheet.location.folder) for sheet in sheets]
    return Path(os.path.commonpath(homes)).name or "survey"


def _place(box: GeoBox | None) -> _Place:
    if box is None:
        return {}
    crs = box.crs_name if box.crs_wkt is not None else ""
    return {"width": box.width, "height": box.height, "footprint": lonlat_ring(box), "crs": crs}


def _class(row: Mapping[str, Any], card: Card, unit: Unit) -> ClassFigures:
    spec = card.classes[row["class_id"]]
    area = row.get(f"area_{unit}", 0.0)
    return ClassFigures(row["class_id"], spec.name, spec.color, row["pixels"], area, row["objects"])


def _classes(merged: Merged, card: Card) -> tuple[ClassFigures, ...]:
    objects = [merged.objects.get(spec.name, 0) for spec in card.classes]
    return class_figures(card.classes, merged.pixels, merged.areas, objects)


def _settings(runtime: Runtime, options: PredictOptions) -> dict[str, Any]:
    """Return what a reader of the report wants to know of the options: not how the work was done."""
    facts = asdict(options)
    shapes = facts.pop("shapes")
    for name in ("overwrite", "resume", "swath_pixels", "batch_size"):
        facts.pop(name)
    precision = str(runtime.precision).removeprefix("torch.")
    return {"device": str(runtime.device), "precision": precision, **facts, **shapes}


def _relative(outputs: Mapping[str, Path], folder: Path) -> dict[str, str]:
    return {kind: Path(os.path.relpath(path, folder)).as_posix() for kind, path in outputs.items()}


def model_facts(card: Card, sha256: str) -> dict[str, Any]:
    """Return what the reports say of a model; `pfmap.report.stac` describes it to catalogues by these.

    Args:
        card: of the model.
        sha256: of its weights.
    """
    spec = card.input
    return {
        "name": card.name,
        "title": card.title,
        "task": "semantic segmentation",
        "architecture": f"PFNet, {card.architecture.encoder}",
        "framework": "PyTorch",
        "sha256": sha256,
        "window": spec.window,
        "gsd_range_m": list(spec.gsd),
        "bands": list(spec.bands),
        "scale": spec.scale,
        "mean": list(spec.mean),
        "std": list(spec.std),
        "data": card.provenance.data,
        "limits": card.provenance.limits,
        "licence": card.provenance.licence,
        "attribution": card.provenance.attribution,
    }


@dataclass(frozen=True, slots=True)
class Part:
    """Figures of a part of the map.

    Attributes:
        classes: what it shows; where sheets overlap, each of them shows it.
        valid_pixels: pixels of the map with a class.
        mean_confidence: percent, or None.
    """

    classes: tuple[ClassFigures, ...]
    valid_pixels: int
    mean_confidence: float | None


def part_of(merged: Merged, name: str, box: GeoBox, card: Card) -> Part:
    """Add up what the map shows in the outline of a sheet.

    Args:
        merged: the map.
        name: of the sheet.
        box: its grid.
        card: of the model.

    Raises:
        PfmapError: the map cannot be read.
    """
    within = _clipped(extent(box, merged.grid), merged.grid)
    tally, top = Tally(merged.grid), within[0].start
    with ClassMap(locate(merged.outputs["classes"]), None) as source, closing(source.rows(within)) as strips:
        for values in strips:
            tally.add(top, values)
            top += len(values)
    valid = int(tally.pixels[:NODATA].sum())
    objects = [merged.scenes.get((name, index), 0) for index in range(len(card.classes))]
    classes = class_figures(card.classes, tally.pixels, tally.areas, objects)
    return Part(classes, valid, _confidence(merged, within) if valid else None)


def _clipped(place: tuple[Span, Span], grid: GeoBox) -> tuple[Span, Span]:
    rows, cols = place
    return (
        Span(max(0, rows.start), min(grid.height, rows.stop)),
        Span(max(0, cols.start), min(grid.width, cols.stop)),
    )


def _confidence(merged: Merged, within: tuple[Span, Span]) -> float | None:
    if "confidence" not in merged.outputs:
        return None
    counts = np.zeros(256, dtype=np.int64)
    with (
        ClassMap(locate(merged.outputs["confidence"]), None) as source,
        closing(source.rows(within)) as strips,
    ):
        for values in strips:
            counts += np.bincount(values.ravel(), minlength=256)
    return round(float(counts[:NODATA] @ np.arange(NODATA) / counts[:NODATA].sum()), 2)
