"""Figures of surveys for tests: made up ones, and those of scenes that were really mapped.

    python tests/surveys.py FOLDER

writes a report for ``make test-browser``: into FOLDER/many, of the survey that was mapped into FOLDER/maps,
many times over, with failures among its scenes.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from pfmap.core.card import Card, read_card
from pfmap.core.tables import read_json
from pfmap.mapping.job import Result
from pfmap.raster.extra import glance
from pfmap.raster.location import locate
from pfmap.report.scene_report import SceneReport
from pfmap.report.survey_figures import ClassFigures, SceneFigures, SurveyFigures
from pfmap.report.thumbnail import thumbnail
from pfmap.survey.campaign import write_reports
from pfmap.survey.find import Sheet
from pfmap.survey.gather import scene_figures
from pfmap.survey.run import SheetResult

ROOT = Path(__file__).parents[1]
CARD = read_card(ROOT / "models" / "landcover" / "model.toml")


def made_up(count: int = 4, **changes: Any) -> SurveyFigures:
    """A survey of sheets in rows: every seventh fails, every fifth was there; odd names among them."""
    across = max(1, round(count**0.5))
    found = tuple(_sheet(k, *divmod(k, across)) for k in range(count))
    survey = SurveyFigures(
        title='Bridge & Söhne <2026> "north"',
        version="0.1.0",
        started="2026-11-20T08:00:00+00:00",
        finished="2026-11-20T09:30:05+00:00",
        seconds=5405.2,
        unit="m2",
        model=CARD,
        model_sha256="ca6e53c8230705842eb9a4700582d8a1b250b2df9488331e92e33410613d829e",
        settings={"device": "cpu", "overlap": 48, "formats": ["gpkg", "fgb"], "bbox": None},
        crs="WGS 84 / UTM zone 45N",
        classes=_classes(count),
        scenes=found,
        warnings=("2 scenes overlap by more than half",) if count > 1 else (),
        outputs={"mosaic": "survey classes.tif", "gpkg": "survey_objects.gpkg"},
    )
    return replace(survey, **changes)


def _classes(times: float) -> tuple[ClassFigures, ...]:
    return tuple(
        ClassFigures(
            k, spec.name, spec.color, int(1000 * (k + 1) * times), 250.5 * (k + 1) * times, int(7 * k * times)
        )
        for k, spec in enumerate(CARD.classes)
    )


def _sheet(number: int, row: int, col: int) -> SceneFigures:
    west, south = 85.5 + 0.004 * col, 27.6 - 0.003 * row
    east, north = west + 0.0042, south + 0.0031
    ring = ((west, north), (west, south), (east, south), (east, north))
    name = f"north/sheet {number:03d}" if number % 3 else f"a & b <{number}>"
    if number % 7 == 6:
        reason = f"/data/{name}.tif has 1 band; model 'landcover' needs 3: choose them with --bands"
        return SceneFigures(f"/data/{name}.tif", name, "failed", reason=reason)
    return SceneFigures(
        scene=f"/data/{name}.tif",
        name=name,
        state="skipped" if number % 5 == 4 else "done",
        width=20_000,
        height=15_000,
        gsd=0.1042,
        crs="WGS 84 / UTM zone 45N",
        footprint=(*ring, ring[0]),
        classes=_classes(1 + number % 4),
        valid_pixels=15_000 * (1 + number % 4),
        mean_confidence=60.0 + number % 37,
        seconds={"total": 12.5 + number, "read": 3.0, "network": 9.25},
        warnings=("the scene has no alpha band",) if number % 11 == 3 else (),
        outputs={"classes": f"{name}_classes.tif", "gpkg": f"{name}_objects.gpkg"},
        finished="2026-11-20T09:00:00+00:00",
    )


def mapped(folder: Path, card: Card = CARD) -> SurveyFigures:
    """The survey of all scenes whose reports lie below a folder."""
    scenes = [_mapped_scene(path, folder, card) for path in sorted(folder.rglob("*_report.json"))]
    classes = tuple(
        ClassFigures(k, spec.name, spec.color, *(sum(values) for values in zip(*(
            (s.classes[k].pixels, s.classes[k].area, s.classes[k].objects) for s in scenes
        ), strict=True)))
        for k, spec in enumerate(card.classes)
    )  # fmt: skip
    return replace(
        made_up(1),
        title=folder.name,
        unit="m2" if all(s.footprint for s in scenes) else "px",
        crs=scenes[0].crs,
        classes=classes,
        scenes=tuple(scenes),
        warnings=(),
        outputs={},
    )


def _mapped_scene(path: Path, folder: Path, card: Card) -> SceneFigures:
    report = read_json(path, SceneReport)
    assert report is not None
    location = locate(report.scene.path)
    name = (path.parent.relative_to(folder) / path.stem.removesuffix("_report")).as_posix()
    done = SheetResult(Sheet(location, path.parent, name), Result.of(location.text, report, path.parent))
    return scene_figures(done, glance(location), card, folder, report.unit)


def drawn(scene: SceneFigures, folder: Path, card: Card, limit: int = 15_000) -> bytes:
    """The picture of a scene that was mapped below a folder, as its report says it was read."""
    report = read_json(folder / scene.outputs["report"], SceneReport)
    assert report is not None
    look, bands = report.scene.scale, report.scene.bands
    place, raster = locate(report.scene.path), folder / scene.outputs["classes"]
    return thumbnail(place, raster, card.classes, scaling=look, bands=bands, limit=limit)


def read_survey(path: Path, card: Card = CARD) -> SurveyFigures:
    """A survey's figures, read back from its JSON: all of them are there, by the names that are promised."""
    table = json.loads(path.read_text(encoding="utf-8"))
    unit = table["unit"]

    def classes(rows: list[dict[str, Any]]) -> tuple[ClassFigures, ...]:
        names = ("class_id", "class", "color", "pixels", f"area_{unit}", "objects")
        return tuple(ClassFigures(*(row[name] for name in names)) for row in rows)

    scenes = []
    for row in table["scenes"]:
        row["gsd"] = row.pop("gsd_m")
        row["classes"], row["warnings"] = classes(row["classes"]), tuple(row["warnings"])
        row["footprint"] = tuple((lon, lat) for lon, lat in row["footprint"])
        scenes.append(SceneFigures(**row))
    kept = ("title", "started", "finished", "seconds", "unit", "settings", "crs", "outputs")
    return SurveyFigures(
        **{key: table[key] for key in kept},
        version=table["pfmap"],
        model=card,
        model_sha256=table["model"]["sha256"],
        classes=classes(table["classes"]),
        scenes=tuple(scenes),
        warnings=tuple(table["warnings"]),
    )


def repeated(survey: SurveyFigures, times: int) -> SurveyFigures:
    """The same scenes again and again, each time further east, some of them failed or mapped earlier."""
    scenes, made = [], made_up(times * len(survey.scenes)).scenes
    lons = [lon for s in survey.scenes for lon, _ in s.footprint]
    across, step = max(1, round(times**0.5)), max(lons) - min(lons)
    for turn in range(times):
        row, col = divmod(turn, across)
        for k, scene in enumerate(survey.scenes):
            like = made[turn * len(survey.scenes) + k]
            ring = tuple((lon + col * step, lat - row * 1.5 * step) for lon, lat in scene.footprint)
            changed = replace(scene, name=f"{scene.name} {turn + 1}", footprint=ring, state=like.state)
            if like.state == "failed":
                changed = replace(like, name=f"{scene.name} {turn + 1}", footprint=ring)
            scenes.append(changed)
    return replace(survey, scenes=tuple(scenes), title=f"{survey.title} × {times}")


def main() -> None:
    folder = Path(sys.argv[1])
    survey = read_survey(folder / "maps" / "survey_report.json")
    shown = [scene for scene in survey.scenes if scene.state != "failed"]
    (folder / "many").mkdir()
    many = repeated(replace(survey, scenes=tuple(shown)), 200 // len(shown))
    picture = drawn(shown[0], folder / "maps", CARD)
    write_reports(many, folder / "many", {scene.name: picture for scene in many.scenes})


if __name__ == "__main__":
    main()
