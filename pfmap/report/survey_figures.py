"""The figures that all reports of a survey show, as JSON for machines and CSV for spreadsheets."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal, get_args

from pfmap.core.arrays import Floats, Longs
from pfmap.core.card import Card
from pfmap.core.classes import ClassSpec
from pfmap.core.errors import csv_text, json_text
from pfmap.core.grid import GeoBox
from pfmap.report.scene_report import Unit

FORMAT = 1
"""Of the JSON: goes up when a name changes its meaning or goes away, not when one is added."""

State = Literal["done", "skipped", "failed"]
"""Of a scene: mapped in this run, mapped by an earlier one, or not mapped."""


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """How much there is of a class."""

    class_id: int
    """Its value in the class rasters."""
    name: str
    color: str
    """``#rrggbb``."""
    pixels: int
    area: float
    """Of these pixels, in the survey's unit."""
    objects: int
    """Polygons, of those classes that become polygons."""


def class_figures(
    specs: Sequence[ClassSpec],
    pixels: Sequence[int] | Longs,
    areas: Sequence[float] | Floats,
    objects: Sequence[int],
) -> tuple[ClassFigures, ...]:
    """Put together what was counted per class: pixels, their area, and objects, all by the class's value."""
    return tuple(
        ClassFigures(
            index, spec.name, spec.color, int(pixels[index]), round(float(areas[index]), 2), objects[index]
        )
        for index, spec in enumerate(specs)
    )


class _Summed:
    """What has figures of classes, and their sums."""

    __slots__ = ()
    classes: tuple[ClassFigures, ...]

    @property
    def area(self) -> float:
        """What has a class, in the survey's unit; where scenes overlap, once."""
        return sum(item.area for item in self.classes)

    @property
    def objects(self) -> int:
        """How many there are, of all classes."""
        return sum(item.objects for item in self.classes)


@dataclass(frozen=True, slots=True)
class SceneFigures(_Summed):
    """One scene of a survey; its fields are keys of the JSON report, in this order, but for the last."""

    scene: str
    """As it was named or found."""
    name: str
    """Of its outputs, below the output folder and without endings: unique in the survey."""
    state: State
    reason: str = ""
    """Why it failed, or ""."""
    width: int = 0
    """Pixels; 0 if it could not be opened, as is the height."""
    height: int = 0
    gsd: float | None = None
    """Metres per pixel."""
    crs: str = ""
    """Name of its CRS, or ""."""
    footprint: tuple[tuple[float, float], ...] = ()
    """Closed ring of (longitude, latitude) around its pixels, or empty where there is no CRS."""
    valid_pixels: int = 0
    """Pixels with a class."""
    mean_confidence: float | None = None
    """Percent, over all valid pixels."""
    taken: str = ""
    """When the image was taken, ISO 8601 in UTC, or "" where it does not say."""
    finished: str = ""
    """When it was mapped, likewise, or ""."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Of work per stage, and "total" on the clock."""
    classes: tuple[ClassFigures, ...] = ()
    """What it shows; empty if it failed."""
    warnings: tuple[str, ...] = ()
    outputs: Mapping[str, str] = field(default_factory=dict)
    """Its files by kind, relative to the output folder."""
    grid: GeoBox | None = None
    """Of its class raster, where it has one of its own."""


@dataclass(frozen=True, slots=True)
class SurveyFigures(_Summed):
    """A survey."""

    title: str
    """For people: the name of the folder, or of the first source."""
    version: str
    """Of pfmap."""
    started: str
    """ISO 8601 in UTC, as is the end."""
    finished: str
    seconds: float
    """On the clock."""
    unit: Unit
    model: Card
    model_sha256: str
    """Of its weights."""
    settings: Mapping[str, object]
    """How it was mapped, as facts by name: reports list them."""
    crs: str
    """Name of the CRS of the survey's own outputs, or ""."""
    classes: tuple[ClassFigures, ...]
    """Over the whole survey; where scenes overlap, each place counts once."""
    scenes: tuple[SceneFigures, ...]
    warnings: tuple[str, ...] = ()
    """About the survey as a whole."""
    outputs: Mapping[str, str] = field(default_factory=dict)
    """The survey's own files by kind, relative to the output folder."""

    def count(self, state: State) -> int:
        """Return how many scenes are in a state."""
        return sum(scene.state == state for scene in self.scenes)

    @property
    def mean_confidence(self) -> float | None:
        """Percent, over the pixels of all scenes of which it is known."""
        known = [(s.mean_confidence, s.valid_pixels) for s in self.scenes if s.mean_confidence is not None]
        pixels = sum(count for _, count in known)
        return sum(value * count for value, count in known) / pixels if pixels else None

    def model_facts(self) -> dict[str, object]:
        """Return what the page and the JSON say of the model, by name."""
        card, spec, rights = self.model, self.model.input, self.model.provenance
        return {
            "name": card.name,
            "title": card.title,
            "task": "semantic segmentation",
            "architecture": f"PFNet, {card.architecture.encoder}",
            "framework": "PyTorch",
            "sha256": self.model_sha256,
            "window": spec.window,
            "gsd_range_m": spec.gsd,
            **{name: getattr(spec, name) for name in ("bands", "scale", "mean", "std")},
            **{name: getattr(rights, name) for name in ("data", "limits", "licence", "attribution")},
        }


def survey_json(figures: SurveyFigures) -> bytes:
    """Return all figures as JSON, with areas as `area_m2` or `area_px`.

    Keys are always there, in the same order; what is not known is null, "" or empty. Numbers that JSON does
    not have (infinite, not a number) become null.
    """
    table = {
        "pfmap": figures.version,
        "format": FORMAT,
        **{name: getattr(figures, name) for name in ("title", "started", "finished", "seconds", "unit")},
        "crs": figures.crs,
        **{f"scenes_{state}": figures.count(state) for state in get_args(State)},
        "classes": [class_row(item, figures.unit) for item in figures.classes],
        "model": figures.model_facts(),
        "settings": figures.settings,
        "warnings": figures.warnings,
        "outputs": figures.outputs,
        "scenes": [_scene_row(scene, figures.unit) for scene in figures.scenes],
    }
    return f"{json_text(table)}\n".encode()


def class_row(item: ClassFigures, unit: str) -> dict[str, object]:
    """Return the figures of a class as reports have them."""
    return {
        "class_id": item.class_id,
        "class": item.name,
        "color": item.color,
        "pixels": item.pixels,
        f"area_{unit}": item.area,
        "objects": item.objects,
    }


def _scene_row(scene: SceneFigures, unit: str) -> dict[str, object]:
    row = asdict(scene) | {"classes": [class_row(item, unit) for item in scene.classes]}
    return {"gsd_m" if key == "gsd" else key: value for key, value in row.items() if key != "grid"}


def survey_csv(figures: SurveyFigures) -> bytes:
    """Return a table with a row per scene, for spreadsheets, which take it for UTF-8 by its mark."""
    classes = figures.model.classes
    heads = [f"{kind}_{spec.name}" for kind in (f"area_{figures.unit}", "objects") for spec in classes]
    rows: list[list[object]] = [[*_cells(SceneFigures("", "", "done")), *heads, "warnings"]]
    for scene in figures.scenes:
        area = {item.class_id: round(item.area, 2) for item in scene.classes}
        count = {item.class_id: item.objects for item in scene.classes}
        figures_of = (found.get(value) for found in (area, count) for value in range(len(classes)))
        rows.append([*_cells(scene).values(), *figures_of, "; ".join(scene.warnings)])
    return csv_text(rows).encode("utf-8-sig")


def _cells(scene: SceneFigures) -> dict[str, object]:
    """Return the first cells of a scene's row by their column; None leaves a cell empty."""
    return {
        "scene": scene.scene,
        "name": scene.name,
        "state": scene.state,
        "reason": scene.reason,
        "width": scene.width or None,
        "height": scene.height or None,
        "gsd_m": scene.gsd,
        "crs": scene.crs,
        "valid_pixels": scene.valid_pixels if scene.classes else None,
        "mean_confidence": None if scene.mean_confidence is None else round(scene.mean_confidence, 2),
        "seconds": round(scene.seconds["total"], 2) if "total" in scene.seconds else None,
        "finished": scene.finished,
    }
