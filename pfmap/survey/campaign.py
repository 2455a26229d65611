"""A survey while it is made: its scenes are mapped, their maps joined, and reports of all of them written."""

import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from pfmap.core.errors import PfmapError, SourceError, UsageError, few, worded
from pfmap.core.files import make_folder, write_bytes, writing
from pfmap.core.grid import GeoBox
from pfmap.core.resources import moment_of
from pfmap.core.stages import stage
from pfmap.core.system import common_folder
from pfmap.mapping.job import Result
from pfmap.mapping.plan import chosen_classes
from pfmap.mapping.run_report import earlier_report
from pfmap.raster.extra import glance, own_bands
from pfmap.report.scene_report import Unit
from pfmap.report.survey_figures import SceneFigures, SurveyFigures, class_figures, survey_csv, survey_json
from pfmap.report.thumbnail import thumbnail, thumbnail_limit
from pfmap.survey import gather
from pfmap.survey.choice import write_failures
from pfmap.survey.find import Sheet
from pfmap.survey.merge import Merged, make_mosaic, merge
from pfmap.survey.run import Runner, SheetResult
from pfmap.vector.footprints import Footprints
from pfmap.vector.layer import open_layer
from pfmap.version import __version__

REPORTS = {kind: f"survey_report.{kind}" for kind in ("html", "json", "csv")}
"""The reports' names by kind."""

_LOOKS = 8  # scenes looked at at a time: servers take their time
_PICTURES = 2  # drawn at a time


@dataclass(frozen=True, slots=True)
class SurveyResult:
    """What mapping a survey gave."""

    scenes: Sequence[SheetResult]
    outputs: Mapping[str, Path]
    """The survey's own files by kind: classes, confidence, each vector format, and the reports."""
    figures: SurveyFigures
    """All that the reports show."""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(slots=True)
class Survey:
    """A survey while it is made: map its scenes in one round or in several, and `finish` after each."""

    folder: Path
    listed: Path
    """Folder of the list of failures."""
    runner: Runner
    results: dict[Sheet, SheetResult] = field(default_factory=dict)
    _begun: float = field(default_factory=time.perf_counter)
    _started: str = field(default_factory=_now)
    _boxes: dict[Sheet, GeoBox] = field(default_factory=dict)
    _pictures: dict[tuple[str, str, int], bytes] = field(default_factory=dict)
    """By a scene's name, when it was mapped, and how many bytes it may have."""
    _sheets: Sequence[Sheet] = ()
    """Of a mosaic."""
    _footprints: Footprints | None = None
    """Of these sheets."""

    def __post_init__(self) -> None:
        """Refuse once what is wrong for every scene."""
        card, options = self.runner.runtime.model.card, self.runner.options
        chosen_classes(card, options)
        own_bands(options.extra or (), card.input.bands, card.name)
        if options.aoi is not None:
            open_layer(options.aoi, "area")

    def map_as_one(self, sheets: Sequence[Sheet]) -> None:
        """Map scenes as one virtual scene."""
        card, options = self.runner.runtime.model.card, self.runner.options
        whole, self._footprints, failed = make_mosaic(sheets, self.folder, card, options)
        count = len(card.input.bands) - len(options.extra or ())
        own = replace(options, bands=tuple(range(1, count + 1)))
        self.map([whole], replace(self.runner, options=own))
        self._sheets = sheets
        self.results |= {result.sheet: result for result in failed}

    def map(self, sheets: Sequence[Sheet], runner: Runner | None = None) -> None:
        """Map scenes one by one."""
        boxes = look_at(sheets)
        self._boxes |= boxes
        sizes = {sheet: box.width * box.height for sheet, box in boxes.items()}
        self.results |= {done.sheet: done for done in (runner or self.runner).run(sheets, sizes)}

    def list_failures(self) -> None:
        """Keep the list of the scenes that failed."""
        failed = {one.sheet.location.text: one.reason for one in self.results.values() if one.reason}
        write_failures(self.listed, failed)

    def refuse_if_all_left_out(self) -> None:
        """Refuse a survey of which all scenes lie outside the area of interest, or none has a valid pixel."""
        if not self.results or not all(result.left_out for result in self.results.values()):
            return
        if self._empty():
            raise SourceError(
                f"none of the {len(self.results)} scenes has a valid pixel to map: check their alpha bands, "
                "masks and nodata values with gdalinfo"
            )
        raise UsageError(
            f"the area of interest touches none of the {len(self.results)} scenes: check aoi= and "
            "bbox=, whose numbers are in the scenes' CRS, or in bbox_crs="
        )

    def add_earlier(self, sheets: Sequence[Sheet]) -> None:
        """Add what earlier runs made of other scenes."""
        for sheet in sheets:
            if sheet in self.results:
                continue
            report = earlier_report(sheet.folder / f"{sheet.location.stem}_report.json")
            if report is None:
                reason, result = worded("it is not mapped yet: run without retry_failed=True"), None
            else:
                reason, result = "", Result.of(sheet.location.text, report, sheet.folder, skipped=True)
            self.results[sheet] = SheetResult(sheet, result, reason)
        self.results = {sheet: self.results[sheet] for sheet in sheets}

    def finish(self) -> SurveyResult:
        """Make the survey's own files of what is mapped so far."""
        results = [result for result in self.results.values() if not result.left_out]
        folder, runtime, options = self.folder, self.runner.runtime, self.runner.options
        card = runtime.model.card
        self.refuse_if_all_left_out()
        self.list_failures()
        say = self.runner.on_message
        say(stage("join", "joining the maps of all scenes"))
        sheets = self._sheets or [result.sheet for result in results]
        whole = results[0].result if self._sheets and results else None  # its sheets are shown instead
        moment = moment_of(filter(None, (sheet.location.local for sheet in sheets)))
        merged = merge(results, folder, card, options, self.runner.on_progress, say, self._footprints, moment)
        unit: Unit = "m2" if merged is not None and merged.grid.crs_wkt is not None else "px"
        scenes = self._scenes(sheets, results, merged, unit)
        figures = SurveyFigures(
            title=_title(sheets),
            version=__version__,
            started=self._started,
            finished=_now(),
            seconds=round(time.perf_counter() - self._begun, 3),
            unit=unit,
            model=card,
            model_sha256=runtime.model_hash,
            settings=gather.settings_facts(runtime, options),
            crs="",
            classes=(),
            scenes=tuple(scenes),
            warnings=(*(whole.facts.warnings if whole else ()), *self._about_empty()),
        )
        outputs: dict[str, Path] = {}
        if merged is not None:
            outputs |= merged.outputs
            objects = [merged.objects.get(spec.name, 0) for spec in card.classes]
            figures = replace(
                figures,
                crs="" if merged.grid.crs_wkt is None else merged.grid.crs_name,
                classes=class_figures(card.classes, merged.pixels, merged.areas, objects),
                warnings=(*merged.warnings, *figures.warnings),
                outputs=gather.relative_names(outputs, folder),
            )
        reports = write_reports(figures, folder, self._draw(scenes, merged))
        outputs |= {kind: folder / name for kind, name in reports.items()}
        return SurveyResult(results, outputs, figures)

    def _empty(self) -> list[str]:
        """Name the scenes that are left out though they are in the folder."""
        return [result.sheet.name for result in self.results.values() if result.left_out == "empty"]

    def _about_empty(self) -> list[str]:
        """Say that scenes were left out though they are in the folder, if any were."""
        names = self._empty()
        text = f"{len(names)} scene{'s' * (len(names) != 1)} without a valid pixel left out: {few(names)}"
        return [text] if names else []

    def _scenes(
        self, sheets: Sequence[Sheet], results: Sequence[SheetResult], merged: Merged | None, unit: Unit
    ) -> list[SceneFigures]:
        """Gather what is known of each scene; of a mosaic, of its sheets."""
        self._boxes |= look_at([sheet for sheet in sheets if sheet not in self._boxes])
        boxes, card = self._boxes, self.runner.runtime.model.card
        found = {result.sheet: result for result in results}
        return [
            gather.scene_figures(found[sheet], boxes.get(sheet), card, self.folder, unit)
            if sheet in found
            else gather.sheet_figures(sheet, results[0], boxes.get(sheet), merged, card)
            for sheet in sheets
        ]

    def _draw(self, scenes: Sequence[SceneFigures], merged: Merged | None) -> dict[str, bytes]:
        """Draw small pictures of the scenes; of those that were drawn already only what has changed."""
        limit, classes = thumbnail_limit(len(scenes)), self.runner.runtime.model.card.classes
        sheets = {sheet.name: sheet for sheet in (*self.results, *self._sheets)}
        whole = next((one.result for one in self.results.values() if one.result is not None), None)

        def draw_new(sheet: Sheet) -> bytes:
            done = whole if self._sheets else self.results[sheet].result
            assert done is not None
            raster, part = done.outputs["classes"], None
            bands: tuple[int, ...] | None = done.facts.scene.bands
            if self._sheets:  # of a mosaic: each shows its part of the one map
                if merged is None or (part := self._boxes.get(sheet)) is None:
                    return b""
                raster, bands = merged.outputs["classes"], self.runner.options.bands
            look, place = done.facts.scene.scale, sheet.location
            return thumbnail(place, raster, classes, scaling=look, bands=bands, part=part, limit=limit)

        def draw(scene: SceneFigures) -> bytes:
            key = scene.name, scene.finished, limit
            if key not in self._pictures:
                self._pictures[key] = draw_new(sheets[scene.name])
            return self._pictures[key]

        drawn = [scene for scene in scenes if scene.state != "failed"]
        with ThreadPoolExecutor(_PICTURES, "pfmap-draw") as pool:
            pictures = pool.map(draw, drawn)
            return {scene.name: picture for scene, picture in zip(drawn, pictures, strict=True) if picture}


def _title(sheets: Sequence[Sheet]) -> str:
    """Call a survey as the folder that all its sheets lie in."""
    homes = [os.path.realpath(sheet.location.folder) for sheet in sheets]
    return Path(common_folder(homes)).name or "survey"


def look_at(sheets: Sequence[Sheet]) -> dict[Sheet, GeoBox]:
    """Return the grids of those scenes that can be opened."""

    def look(sheet: Sheet) -> GeoBox | None:
        try:
            return glance(sheet.location)
        except PfmapError:
            return None

    with ThreadPoolExecutor(_LOOKS, "pfmap-look") as pool:
        found = zip(sheets, pool.map(look, sheets), strict=True)
        return {sheet: box for sheet, box in found if box is not None}


def write_reports(
    figures: SurveyFigures, output_dir: Path, thumbnails: Mapping[str, bytes]
) -> dict[str, str]:
    """Write the page, the tables and the catalogue of a survey, replacing those that are there.

    The JSON comes last: it says that all others are there. Thumbnails go by the scenes' names. Returns the
    files' names by kind: html, json, csv, stac (the collection).
    """
    # Mapping single scenes imports this module too, and does without pystac and jinja2.
    from pfmap.report.stac import survey_catalogue
    from pfmap.report.survey_page import survey_page

    stac = survey_catalogue(figures, {**figures.outputs, **REPORTS})
    names = {**REPORTS, "stac": list(stac)[-1]}
    whole = replace(figures, outputs={**figures.outputs, **names})
    files = {name: text.encode() for name, text in stac.items()}
    files[REPORTS["html"]] = survey_page(whole, thumbnails).encode()
    files |= {REPORTS["csv"]: survey_csv(whole), REPORTS["json"]: survey_json(whole)}
    for name, content in files.items():
        path = output_dir / name
        with writing(path):
            make_folder(path.parent, output_dir)
        write_bytes(path, content)
    return names
