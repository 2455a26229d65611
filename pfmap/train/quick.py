"""A configuration for what users have: images or an orthophoto, and masks or polygons over them.

Nothing is decided in secret: the configuration is written beside the model, to be read, changed and run
again.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from pfmap.core.card import Card, InputSpec, card_table
from pfmap.core.classes import default_color
from pfmap.core.errors import TrainingError
from pfmap.core.files import write_text, writing_into
from pfmap.core.grid import GeoBox, mean_size
from pfmap.core.tables import table_of
from pfmap.model.store import Model
from pfmap.raster.classmap import ClassMap
from pfmap.raster.extra import STEM, locate_extra, open_bands
from pfmap.raster.gdal import opened
from pfmap.raster.location import RASTER_SUFFIXES, locate
from pfmap.raster.parts import found_rasters
from pfmap.train.config import CONFIG_NAME, TrainingConfig, parse_config
from pfmap.train.label_layers import ADVICE
from pfmap.vector.checklist import RANK, TICK, WAS
from pfmap.vector.geodesy import pixel_size
from pfmap.vector.labels import PolygonFile
from pfmap.vector.layer import find_layer, is_vector

IGNORED = 255
OTHER = "other"
_LOOK_AT = 200  # masks whose values are looked at
_CROPS = 8
_USUAL = 0.5, 0.25  # mean and deviation of a new band
_SCALES, _METRES = {"uint8": 255.0, "uint16": 10000.0}, 30.0  # values of one that become 1, by their type
_BLOCKS = 500  # of an orthophoto

Tables = dict[str, Any]


@dataclass(frozen=True, slots=True)
class QuickOptions:
    """What the user says of the data."""

    images: Path
    labels: str
    """Polygons, a label raster, or a folder of masks with the images' stems."""
    field: str | None = None
    """The polygons' column with the classes; None for `class`."""
    classes: tuple[str, ...] | None = None
    """Their names; None for the model's own if they cover the labels, else what the labels name."""
    rest: tuple[str, ...] | None = None
    """Names of the classes outside the polygons; None for the default: if the polygons have one class, all
    others, else unknown."""
    validation: float = 0.2
    """Share of the ground to hold out."""
    bands: tuple[int, ...] | None = None
    """Numbers, from 1, of the images' bands that the model sees; None for those that its card names."""
    inputs: tuple[str, ...] | None = None
    """Names of the bands that the model sees; None for those of the one it starts from, and of `extra`."""
    extra: Mapping[str, str] | None = None
    """Files of further bands, as `pfmap predict` takes them."""
    steps: int = 400
    trained: str | None = None
    """What of the network changes; see `TrainingSettings`. None for the head with a checklist, else all."""
    attribution: str = ""
    """Whom a map made with the model has to name for these data."""


def quick_config(options: QuickOptions, model: Model, output: Path, *, write: bool = True) -> TrainingConfig:
    """Make a configuration for fine-tuning a model of `quick_tables`, and write it beside the model to be.

    The name of the folder `output` becomes the model's.
    """
    tables = quick_tables(options, model, output.resolve().name)
    config = parse_config(tables, output / CONFIG_NAME)
    if write:
        with writing_into(output):
            output.mkdir(parents=True, exist_ok=True)
        write_text(output / CONFIG_NAME, tomli_w.dumps(tables))
    return config


def quick_tables(options: QuickOptions, model: Model, name: str) -> Tables:
    """Write down how to fine-tune a model, under a new name, on a user's data: all paths are absolute.

    A `TrainingError` says that images or labels are missing, or that classes are not in the list.
    """
    images = _rasters(options.images, "image")
    card, known, extra = model.card, model.card.provenance, options.extra or {}
    if is_vector(options.labels):
        classes, layer = _from_polygons(options, card)
        layer["instances"] = [name for name in card.architecture.contact if name in classes]
    else:
        classes, layer = _from_masks(options, card, images)
    # Labels of a few objects are no picture of a scene: what the model knows of the rest it is to keep.
    listed = bool(layer.get("checked"))
    box, seen = _look(images[0], options, card)
    pattern, block = escape(str(options.images.resolve())), 4 * card.input.window
    if options.images.is_dir():
        pattern = f"{pattern}/*{images[0].suffix}"
    else:  # a window, or more where there would be too many blocks
        block = max(card.input.window, math.isqrt(box.width * box.height // _BLOCKS))
    tables = card_table(card)
    own = {table["name"]: table for table in tables["classes"]}
    tables |= {
        "name": name,
        "input": table_of(seen),
        "title": f"{card.title}; fine-tuned on {options.images.name}",
        "classes": [
            {"color": default_color(k), **own.get(c, {}), "name": c, "background": c == OTHER}
            for k, c in enumerate(classes)
        ],
        "provenance": {
            "data": f"{options.images.name} with {Path(options.labels).name}; before that: {known.data}",
            "licence": known.licence,
            "attribution": "; ".join(filter(None, (known.attribution, options.attribution))),
            "limits": f"Fine-tuned for {options.images.name}: expect less elsewhere. {known.limits}".strip(),
        },
        "training": {
            "start_from": str(model.folder),
            "steps": options.steps,
            "trained": options.trained or ("head" if listed else "all"),
            "encoder_rate": 1e-4,
            "decoder_rate": 2e-4 if listed else 5e-4,
            "warmup": min(20, options.steps),
            "overlap_weight": 0.5,
            "ema": 0.99,
            "keep_norms": listed,
            "keep_weight": float(listed),
        },
        "sources": [
            {
                "name": options.images.stem,
                "images": pattern,
                "per_batch": _CROPS,
                "validation": {"share": options.validation, "block": block},
                "bands": list(options.bands or ()),
                "extra": {name: _absolute(file, images[0]) for name, file in extra.items()},
                "layers": [layer],
            }
        ],
    }
    if (size := pixel_size(box)) is not None:  # the images lie within what the model knows from now on
        sizes = *card.input.gsd, mean_size(size)
        tables["input"]["gsd"] = [round(min(sizes), 4), round(max(sizes), 4)]
        if card.input.enlarge:  # what is learned is how they look as they are
            tables["input"]["enlarge"] = round(max(card.input.enlarge, mean_size(size)), 4)
    tables["architecture"]["contact"] = layer.get("instances", [])  # masks do not tell objects apart
    del tables["accuracy"], tables["temperature"]
    tables.pop("learned", None)
    return tables


def _look(image: Path, options: QuickOptions, card: Card) -> tuple[GeoBox, InputSpec]:
    """Look at an image: its grid, and what the model is to see; of what is new to it, as usual."""
    known, extra = card.input, locate_extra(options.extra or {}, place := locate(image))
    names = options.inputs or tuple(dict.fromkeys([*known.bands, *extra]))
    scales = {name: scale for name, scale in known.scales.items() if name in names}
    for name in {*names} & extra.keys() - {*known.bands}:
        with opened(extra[name]) as src:
            scales[name] = _SCALES.get(src.dtypes[0], _METRES)
    mean, std = zip(*(known.statistics.get(name, _USUAL)[-2:] for name in names), strict=True)
    seen = replace(known, bands=names, mean=mean, std=std, scales=scales)
    with open_bands(place, seen, options.bands, card.name, options.extra) as source:
        return source.info.geobox, seen


def _absolute(file: str, image: Path) -> str:
    return str((image.parent if STEM in file else Path()).resolve() / file)


def _rasters(folder: Path, what: str) -> list[Path]:
    """Return a raster, or those of a folder: their names end alike, or masks might be taken for images."""
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        other = {"image": "a configuration", "mask": "polygons"}[what]
        raise TrainingError(f"{folder} does not exist: name a raster, a folder of {what}s, or {other}")
    found = found_rasters(folder, endings=RASTER_SUFFIXES)
    kinds = sorted({path.suffix for path in found})
    if len(kinds) != 1:
        has = f"{what}s of several kinds" if kinds else f"no {what}"
        raise TrainingError(
            f"{folder} has {has} ({', '.join(kinds or sorted(RASTER_SUFFIXES))}): name a folder that holds "
            f"{what}s of one kind"
        )
    return found


def _from_polygons(options: QuickOptions, card: Card) -> tuple[Sequence[str], Tables]:
    """Return the classes and the label layer of a polygon file."""
    polygons = PolygonFile(options.labels, options.field)
    if listed := {RANK, WAS} <= set(polygons.layer.fields):
        polygons = PolygonFile(options.labels, options.field, TICK)
    drawn, given = _drawn(polygons), list(options.classes or ())
    path, name = find_layer(options.labels, "polygon file")
    absolute = f"{Path(path).resolve()}" + f":{name}" * bool(name)
    layer: Tables = {"path": absolute, "field": polygons.field or "", "checked": polygons.checked or ""}
    if polygons.field is None:
        if len(given) != 1:
            raise TrainingError(
                f"{options.labels} has no column class: choose one with field=, or say with classes= what "
                "all its polygons are"
            )
        drawn = given
        layer["values"] = {"*": drawn[0]}
    known = given or [spec.name for spec in card.classes]
    if strange := ", ".join(sorted({*drawn} - {*known})):
        if listed:
            raise TrainingError(
                f"{options.labels} has checked objects of {strange}, which model {card.name!r} does not "
                "know: start from the model that made the map with start_from=, or name all classes with "
                "classes="
            )
        if given:
            raise TrainingError(
                f"{options.labels} has classes {strange}, which classes= does not name: add them, or take "
                "their polygons out"
            )
        known = drawn
    if listed and not options.rest:  # what lies around objects that were checked may be anything
        return known, layer
    return _with_rest(options.rest or (), drawn, known, layer)


def _drawn(polygons: PolygonFile) -> list[str]:
    """Return the classes that polygons name; refuse those that are hardly meant as several."""
    drawn = sorted(value for value in polygons.values if value is not None)
    if polygons.field is not None and not drawn:
        raise TrainingError(f"{polygons.text}: no feature says its class in column {polygons.field}")
    folded = [name.casefold() for name in drawn]
    if alike := [name for name in drawn if folded.count(name.casefold()) > 1]:
        raise TrainingError(
            f"{polygons.text} has classes that differ only in capital letters, {', '.join(alike)}: write "
            "them alike, or say which they are in a configuration"
        )
    return drawn


def _with_rest(
    rest: Sequence[str], drawn: Sequence[str], classes: Sequence[str], layer: Tables
) -> tuple[Sequence[str], Tables]:
    """Say what pixels outside all polygons are; where one class is drawn, they are one of the others."""
    if not rest and len(drawn) == 1:
        classes = classes if len(classes) > 1 else [*classes, OTHER]
        rest = [name for name in classes if name not in drawn]
    if strange := ", ".join(sorted(set(rest) - set(classes))):
        raise TrainingError(f"rest= names {strange}, which is no class: there are {', '.join(classes)}")
    return classes, layer | ({"rest": list(rest)} if rest else {})


def _from_masks(options: QuickOptions, card: Card, images: Sequence[Path]) -> tuple[Sequence[str], Tables]:
    """Return the classes and the label layer of a label raster or a folder of masks."""
    masks, path = _find_masks(Path(options.labels), images)
    values, unknown, names = _values(masks, options.labels)
    known = options.classes or names or tuple(spec.name for spec in card.classes)
    if strange := [value for value in values if value >= len(known) or not known[value]]:
        raise TrainingError(
            f"{options.labels} holds the values {', '.join(map(str, strange))}, but there are {len(known)} "
            f"classes ({', '.join(known)}): name a class for each value, from 0 up, with classes= "
            f"({IGNORED} is ignored)"
        )
    values += [value for value in sorted(unknown) if value < len(known) and known[value]]
    return list(known), {"path": path, "values": {str(v): known[v] for v in values}}


def _find_masks(folder: Path, images: Sequence[Path]) -> tuple[list[Path], str]:
    """Return the masks, one for each image, and their path in a configuration."""
    masks = _rasters(folder, "mask")
    if folder.is_file():
        return masks, str(folder.resolve())
    if absent := sorted({path.stem for path in images} - {path.stem for path in masks}):
        raise TrainingError(
            f"{folder} has no mask for {len(absent)} of {len(images)} images, such as {absent[0]}: masks "
            "have the images' names"
        )
    return masks, f"{folder.resolve()}/{{stem}}{masks[0].suffix}"


def _values(masks: Sequence[Path], labels: str) -> tuple[list[int], set[int], tuple[str, ...]]:
    """Return the values that occur, looking at masks all over the folder, and what these call nodata.

    Also the names that they themselves have for values, "" for those between; () for none.
    """
    chosen = [masks[int(k)] for k in np.unique(np.linspace(0, len(masks) - 1, _LOOK_AT).astype(int))]
    found: set[int] = set()
    nodata: set[int] = set()
    names: dict[int, str] = {}
    for path in chosen:
        with ClassMap(locate(path), None, ADVICE) as mask:
            for value, spec in mask.classes.items():
                if spec.name != str(value) and names.setdefault(value, spec.name) != spec.name:
                    raise TrainingError(
                        f"{path} calls {value} {spec.name}, others in {labels} {names[value]}: make it one"
                    )
            for values in map(mask.read, mask.strips()):
                found |= set(np.unique(values).tolist()) - {mask.nodata}
            nodata |= {int(mask.stated_nodata)} if mask.stated_nodata is not None else set()
    if IGNORED in found and found <= {0, IGNORED}:
        raise TrainingError(
            f"{labels} holds {' and '.join(map(str, sorted(found)))} alone, and {IGNORED} is ignored: write "
            "the classes as 0, 1, 2, ..., or say what 255 is in a configuration: "
            'values = { 0 = "...", 255 = "..." }'
        )
    listed = tuple(names.get(value, "") for value in range(max(names, default=-1) + 1))
    return sorted(found - {IGNORED}), {value for value in nodata - found if value >= 0}, listed
