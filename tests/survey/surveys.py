"""Figures of surveys for tests: made up ones, and those of scenes that were really mapped.

    python tests/survey/surveys.py FOLDER

writes two reports for ``make test-browser``: of the scene that was mapped into FOLDER/banepa, and into
FOLDER/many of a survey of 200 with failures among them.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyproj

from pfmap.card import Card, read_card
from pfmap.geobox import GeoBox
from pfmap.survey.facts import model_facts
from pfmap.survey.figures import ClassFigures, SceneFigures, SurveyFigures
from pfmap.survey.reports import write_reports
from pfmap.survey.thumbnail import scene_thumbnail, thumbnail_limit

ROOT = Path(__file__).parents[2]
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
        model=model_facts(CARD, "ca6e53c8230705842eb9a4700582d8a1b250b2df9488331e92e33410613d829e"),
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
    ring = ((west, south), (west + 0.0042, south), (west + 0.0042, south + 0.0031), (west, south + 0.0031))
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
    scenes, reports = (
        [],
        sorted(path for path in folder.rglob("*_report.json") if path.stem != "survey_report"),
    )
    for path in reports:
        report = json.loads(path.read_text())
        scenes.append(_mapped_scene(report, path.relative_to(folder), card))
    classes = tuple(
        ClassFigures(k, spec.name, spec.color, *(sum(values) for values in zip(*(
            (s.classes[k].pixels, s.classes[k].area, s.classes[k].objects) for s in scenes
        ), strict=True)))
        for k, spec in enumerate(card.classes)
    )  # fmt: skip
    return SurveyFigures(
        title=folder.name,
        version=report["pfmap"],
        started=min(s.finished for s in scenes),
        finished=max(s.finished for s in scenes),
        seconds=sum(s.seconds["total"] for s in scenes),
        unit="m2" if all(s.footprint for s in scenes) else "px",
        model=model_facts(card, report["model"]["sha256"]),
        settings=report["options"],
        crs=scenes[0].crs,
        classes=classes,
        scenes=tuple(scenes),
    )


def _mapped_scene(report: dict[str, Any], path: Path, card: Card) -> SceneFigures:
    scene, parent = report["scene"], path.parent
    box = GeoBox(scene["width"], scene["height"], scene["crs"], tuple(scene["transform"]))
    unit = "area_m2" if "area_m2" in report["classes"][0] else "area_px"
    return SceneFigures(
        scene=scene["path"],
        name=(parent / path.stem.removesuffix("_report")).as_posix(),
        state="done",
        width=scene["width"],
        height=scene["height"],
        gsd=scene["gsd_m"],
        crs=box.crs_name if scene["crs"] else "",
        footprint=_footprint(box),
        classes=tuple(
            ClassFigures(k, spec.name, spec.color, item["pixels"], item[unit], item["objects"])
            for k, (spec, item) in enumerate(zip(card.classes, report["classes"], strict=True))
        ),
        valid_pixels=scene["valid_pixels"],
        mean_confidence=71.3,
        seconds=report["seconds"],
        warnings=tuple(report["warnings"]),
        outputs={kind: (parent / name).as_posix() for kind, name in report["outputs"].items()},
        finished=report["finished"],
    )


def _footprint(box: GeoBox) -> tuple[tuple[float, float], ...]:
    if box.crs_wkt is None:
        return ()
    degrees = pyproj.Transformer.from_crs(box.crs_wkt, "OGC:CRS84", always_xy=True)
    corners = [(0, 0), (0, box.height), (box.width, box.height), (box.width, 0), (0, 0)]
    return tuple(degrees.transform(*box.place(col, row)) for col, row in corners)


def report(survey: SurveyFigures, folder: Path, card: Card = CARD) -> dict[str, str]:
    """Write all reports of a survey, with pictures of the scenes that can be read."""
    limit = thumbnail_limit(len(survey.scenes))
    pictures = {s.name: scene_thumbnail(s, folder, card.classes, limit) for s in survey.scenes}
    return write_reports(survey, folder, pictures)


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
    survey = mapped(folder / "banepa")
    report(survey, folder / "banepa")
    (folder / "many").mkdir()
    pictures = {s.name: scene_thumbnail(s, folder / "banepa", CARD.classes) for s in survey.scenes}
    many = repeated(survey, 200)
    write_reports(many, folder / "many", {s.name: next(iter(pictures.values())) for s in many.scenes})


if __name__ == "__main__":
    main()
