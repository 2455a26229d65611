"""Whole surveys from Python: many scenes with one model, and one map of them all."""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Unpack

from pfmap.engine.options import PredictOptions, Settings
from pfmap.engine.pipeline import Progress, Result
from pfmap.engine.report import read_report
from pfmap.engine.runtime import Runtime
from pfmap.engine.store import DEFAULT_MODEL, Model
from pfmap.errors import PfmapError, UsageError
from pfmap.geobox import GeoBox
from pfmap.raster.source import glance
from pfmap.survey.claim import alone
from pfmap.survey.failures import read_failures, write_failures
from pfmap.survey.figures import SurveyFigures
from pfmap.survey.find import Sheet, find_sheets
from pfmap.survey.gather import scene_figures, survey_figures, title_of
from pfmap.survey.merge import STEM, merge
from pfmap.survey.mosaic import make_mosaic
from pfmap.survey.run import Runner, SheetResult

log = logging.getLogger(__name__)

Sources = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""A scene, a folder or ``@list.txt``, or several of them."""

_LOOKS = 8  # scenes looked at at a time: servers take their time


def predict_all(
    sources: Sources,
    output_dir: str | os.PathLike[str] | None = None,
    *,
    pattern: str | None = None,
    retry_failed: bool = False,
    model: str | Path | Model = DEFAULT_MODEL,
    device: str = "auto",
    precision: str = "auto",
    on_scene: Callable[[SheetResult], None] = lambda _result: None,
    on_progress: Progress = lambda _done, _total: None,
    on_message: Callable[[str], None] = log.info,
    **settings: Unpack[Settings],
) -> list[SheetResult]:
    """Map many scenes: for each what `pfmap.predict` makes of it.

    The model is loaded once, and scenes are read ahead while others have the device. What is done already is
    left alone, a run that was killed goes on inside the scene it was in, and a scene that fails does not keep
    the others from being mapped: `failures.csv` in the output folder (or the current one) says which and why.

    Args:
        sources: scenes; folders, which are searched recursively; ``@list.txt`` with a name in each line.
        output_dir: where the files go, in folders like those of the scenes; by default beside each scene.
        pattern: which files of folders are taken, such as ``ortho_*.tif``.
        retry_failed: whether only scenes that `failures.csv` names are mapped.
        model: a model's name, folder, or a loaded `Model`.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, float32, bfloat16 or float16.
        on_scene: called when a scene is finished, mapped or failed.
        on_progress: called with (pixels done, pixels in all) of all scenes; it may raise to stop.
        on_message: called with lines for people: warnings, and which scene they are about.
        settings: as for `pfmap.predict`, for all scenes.

    Returns:
        What became of each scene.

    Raises:
        PfmapError: what concerns all scenes: no scenes, a model or device that is not there, bad settings.
    """
    options = PredictOptions.of(**settings)
    folder = None if output_dir is None else Path(output_dir)
    sheets = find_sheets(_several(sources), folder, pattern)
    runtime = Runtime.of(model, device, precision, options.batch_size, on_message)
    listed = folder or Path()
    if retry_failed:
        sheets = _failed_before(sheets, listed)
    results = map_sheets(sheets, runtime, options, on_scene, on_progress, on_message)
    _list_failures(results, listed)
    return results


@dataclass(frozen=True, slots=True)
class SurveyResult:
    """What mapping a survey gave.

    Attributes:
        scenes: what became of each.
        outputs: the survey's own files by kind: classes, confidence, each vector format, and the reports.
        figures: all that the reports show.
    """

    scenes: Sequence[SheetResult]
    outputs: Mapping[str, Path]
    figures: SurveyFigures


def batch(
    sources: Sources,
    output_dir: str | os.PathLike[str],
    *,
    pattern: str | None = None,
    mosaic: bool = False,
    retry_failed: bool = False,
    model: str | Path | Model = DEFAULT_MODEL,
    device: str = "auto",
    precision: str = "auto",
    on_scene: Callable[[SheetResult], None] = lambda _result: None,
    on_progress: Progress = lambda _done, _total: None,
    on_message: Callable[[str], None] = log.info,
    **settings: Unpack[Settings],
) -> SurveyResult:
    """Map a survey: many scenes, and one map of them all.

    As `predict_all`, and then from all that is mapped: one class raster and its confidence (VRTs over the
    scenes' own), one vector layer in which objects go on across the scenes' borders, and reports.

    Args:
        sources: scenes; folders, which are searched recursively; ``@list.txt`` with a name in each line.
            Where scenes overlap, later ones are shown over earlier ones.
        output_dir: where the files go, those of the scenes in folders like theirs.
        pattern: which files of folders are taken, such as ``ortho_*.tif``.
        mosaic: whether the scenes are mapped as one, brought to one grid: windows are blended across their
            borders, and there are no outputs for each of them.
        retry_failed: whether only scenes that `failures.csv` names are mapped; the survey's own files are
            made of all that is mapped.
        model: a model's name, folder, or a loaded `Model`.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, float32, bfloat16 or float16.
        on_scene: called when a scene is finished, mapped or failed.
        on_progress: called with (pixels done, pixels in all) of all scenes, and then of the one map; it may
            raise to stop.
        on_message: called with lines for people.
        settings: as for `pfmap.predict`, for all scenes.

    Returns:
        What became of the scenes, the survey's files, and its figures.

    Raises:
        PfmapError: what concerns all scenes: no scenes, a model or device that is not there, bad settings,
            files that exist and are not an earlier survey's.
    """
    if mosaic and retry_failed:
        raise UsageError(
            "--retry-failed maps scenes one by one and --mosaic all as one: leave one of them out"
        )
    begun, started = time.perf_counter(), _now()
    options = PredictOptions.of(**settings)
    folder = Path(output_dir)
    sheets = [_not_called_survey(sheet, folder) for sheet in find_sheets(_several(sources), folder, pattern)]
    runtime = Runtime.of(model, device, precision, options.batch_size, on_message)
    callbacks = on_scene, on_progress, on_message
    card = runtime.model.card
    with alone(folder, options):
        footprints = None
        if mosaic:
            whole, footprints, failed = make_mosaic(sheets, folder, card, options)
            own = replace(options, bands=tuple(range(1, len(card.input.bands) + 1)))
            results = [*map_sheets([whole], runtime, own, *callbacks), *failed]
        else:
            chosen = _failed_before(sheets, folder) if retry_failed else sheets
            results = map_sheets(chosen, runtime, options, *callbacks)
            results = _with_earlier(sheets, results) if retry_failed else results
        _list_failures(results, folder)
        on_message("joining the maps of all scenes")
        merged = merge(results, folder, card, options, on_progress, on_message, footprints)
        boxes = look_at([result.sheet for result in results])
        scenes = [scene_figures(result, boxes.get(result.sheet), card, folder) for result in results]
        times = started, _now(), time.perf_counter() - begun
        warnings = [] if merged is None else merged.warnings
        figures = survey_figures(title_of(sheets), scenes, merged, runtime, options, folder, times, warnings)
        outputs = dict(merged.outputs) if merged is not None else {}
    return SurveyResult(results, outputs, figures)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _not_called_survey(sheet: Sheet, folder: Path) -> Sheet:
    """Call the outputs of survey.tif survey_tif: the survey's own have that name."""
    if sheet.folder != folder or sheet.location.stem.casefold() != STEM:
        return sheet
    called = sheet.location.name.replace(".", "_")
    return Sheet(replace(sheet.location, called=called), folder, called)


def _with_earlier(sheets: Sequence[Sheet], results: Sequence[SheetResult]) -> list[SheetResult]:
    """Add what earlier runs made of the other scenes."""
    found = {result.sheet: result for result in results}
    for sheet in sheets:
        if sheet in found:
            continue
        report = read_report(sheet.folder / f"{sheet.location.stem}_report.json")
        if report is None:
            found[sheet] = SheetResult(sheet, None, "not mapped yet: run without --retry-failed")
            continue
        outputs = {kind: sheet.folder / name for kind, name in report["outputs"].items()}
        found[sheet] = SheetResult(sheet, Result(sheet.location.text, outputs, report, skipped=True))
    return [found[sheet] for sheet in sheets]


def map_sheets(
    sheets: Sequence[Sheet],
    runtime: Runtime,
    options: PredictOptions,
    on_scene: Callable[[SheetResult], None],
    on_progress: Progress,
    on_message: Callable[[str], None],
) -> list[SheetResult]:
    """Map scenes that were found."""
    sizes = {sheet: box.width * box.height for sheet, box in look_at(sheets).items()}
    return Runner(runtime, options, on_scene, on_progress, on_message).run(sheets, sizes)


def _failed_before(sheets: Sequence[Sheet], folder: Path) -> list[Sheet]:
    before = read_failures(folder)
    return [sheet for sheet in sheets if sheet.location.text in before]


def _list_failures(results: Sequence[SheetResult], folder: Path) -> None:
    write_failures(folder, {one.sheet.location.text: one.reason for one in results if one.reason})


def look_at(sheets: Sequence[Sheet]) -> Mapping[Sheet, GeoBox]:
    """Return the grids of those scenes that can be opened."""

    def look(sheet: Sheet) -> GeoBox | None:
        try:
            return glance(sheet.location)
        except PfmapError:
            return None

    with ThreadPoolExecutor(_LOOKS, "pfmap-look") as pool:
        found = dict(zip(sheets, pool.map(look, sheets), strict=True))
    return {sheet: box for sheet, box in found.items() if box is not None}


def _several(sources: Sources) -> Sequence[str | os.PathLike[str]]:
    return [sources] if isinstance(sources, (str, os.PathLike)) else sources
