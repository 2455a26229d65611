"""The training configuration: a model card to be, how to train it, and on what.

One TOML file holds the card's tables (see `pfmap.core.card`), ``[training]``, and one ``[[sources]]`` per
data set. Paths are relative to the data folder given on the command line, by default the file's own.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pfmap.core.card import Card, build, parse_card, read_toml
from pfmap.core.errors import ModelError, TrainingError

CONFIG_NAME = "train.toml"
"""The configuration that lies beside a model."""


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How to train. The defaults suit small data and few steps; the paper's recipe is sgd and poly.

    Attributes:
        steps: optimiser steps.
        crop: side of the square training crops, pixels.
        start_from: name or folder of the model to start from; "" for none.
        encoder_weights: ImageNet weights of the encoder, relative to the data folder; "" starts from chance.
        trained: "all"; "decoder", all but the encoder; or "head", only what reads the finished pyramid.
        optimizer: "adamw", or "sgd" with momentum 0.9.
        schedule: after the warm-up "cosine", or "poly" with power 0.9.
        encoder_rate: peak learning rate of the encoder.
        decoder_rate: the same for the rest.
        weight_decay: of the optimiser.
        warmup: steps over which the rates rise.
        edge_weight: weight of the edge losses against the segmentation loss.
        overlap_weight: weight of the soft Dice loss, which counts every class alike, however rare.
        hard_pixels: online hard example mining: at least so many pixels of a batch count, the hardest; 0 for
            all.
        hard_probability: with mining, pixels whose label is less probable than this count as well.
        ema: decay of the averaged weights, which are the ones validated and shipped.
        scale: smallest and largest random zoom.
        precision: "auto" is bfloat16 on GPUs and float32 elsewhere.
        validations: how often to validate, spread evenly over the steps; the best weights are kept.
        checkpoint_minutes: minutes between checkpoints.
        seed: of everything random.
    """

    steps: int
    crop: int = 256
    start_from: str = ""
    encoder_weights: str = ""
    trained: Literal["all", "decoder", "head"] = "all"
    optimizer: Literal["adamw", "sgd"] = "adamw"
    schedule: Literal["cosine", "poly"] = "cosine"
    encoder_rate: float = 3e-4
    decoder_rate: float = 1e-3
    weight_decay: float = 1e-2
    warmup: int = 50
    edge_weight: float = 1.0
    overlap_weight: float = 0.0
    hard_pixels: int = 0
    hard_probability: float = 0.7
    ema: float = 0.998
    scale: tuple[float, ...] = (0.5, 2.0)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    validations: int = 4
    checkpoint_minutes: float = 5.0
    seed: int = 0

    def __post_init__(self) -> None:
        for key in dataclasses.fields(self):
            value, choices = getattr(self, key.name), get_args(key.type)
            if choices and isinstance(choices[0], str) and value not in choices:
                raise TrainingError(f"[training] {key.name} is {value!r}: use one of {', '.join(choices)}")
        for name in ("steps", "crop", "validations"):
            if getattr(self, name) < 1:
                raise TrainingError(f"[training] {name} is {getattr(self, name)}: it has to be 1 or more")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise TrainingError(f"[training] scale is [smallest, largest] zoom, not {list(self.scale)}")


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """Labels of the images; later layers lie over earlier ones.

    Attributes:
        path: a raster on the image's grid, or polygons: a vector file, or ``FILE:layer``. Relative to the
            data folder; ``{stem}`` stands for the image's stem.
        values: raster value, or text in the polygons' column, -> names of the classes it may be; ``*`` stands
            for any text. Other raster values are ignored. Without any, the texts are the class names.
        field: the polygons' column; "" for `class`.
        rest: names of the classes that pixels outside all polygons, or of other values, may be; () if nothing
            is known of them.
        weight: how much a pixel of this layer counts.
    """

    path: str
    values: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    field: str = ""
    rest: tuple[str, ...] = ()
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class GreenRule:
    """Tell vegetation from the rest by colour, where labels leave it open.

    Excess green is 2g - r - b of the colour's shares (r + g + b = 1). Above `above` a partial label loses
    every class but this one, below `below` it loses this one. Labels that say one class are never touched.
    """

    name: str
    above: float
    below: float = -1.0


@dataclass(frozen=True, slots=True)
class Split:
    """What is held out for validation: images by stem, a part of each scene, or a share of the ground.

    Attributes:
        stems: regular expression searched in the stem; matching images are for validation.
        columns: first and one past the last validation column.
        rows: the same for rows.
        share: of the labels, 0 to 0.9, held out in whole blocks of ground, whatever images show them. Images
            without a place go by eight, in the order of their names.
        block: side of the blocks in pixels.
    """

    stems: str = ""
    columns: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()
    share: float = 0.0
    block: int = 1024

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 0.9 or self.block < 1:
            raise TrainingError(
                f"validation.share {self.share:g} and block {self.block} are none: use 0 to 0.9"
            )
        if sum(map(bool, (self.stems, self.columns or self.rows, self.share))) > 1:
            raise TrainingError("validation by stems, by rows or columns, or by share: choose one")


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """One data set.

    Attributes:
        name: for the log.
        images: glob pattern, relative to the data folder.
        per_batch: crops of it in every batch.
        layers: its labels.
        validation: what is held out.
        green: the colour rule, or None.
        scale: smallest and largest random zoom of this source; () for that of the training.
        coarsen: largest factor by which crops are coarsened and enlarged again, as scenes are when they are
            read whose resolution is coarser than the model's; 1 for never.
        bands: numbers, from 1, of the bands that the model sees; () for those that the card names.
    """

    name: str
    images: str
    per_batch: int
    layers: tuple[LayerSpec, ...]
    validation: Split
    green: GreenRule | None = None
    scale: tuple[float, ...] = ()
    coarsen: float = 1.0
    bands: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """Everything `pfmap train` needs, apart from where the data lie."""

    card: Card
    training: TrainingSettings
    sources: tuple[SourceSpec, ...]


def read_config(path: Path) -> TrainingConfig:
    """Read a training configuration.

    Raises:
        TrainingError: the file is missing, no TOML, or does not fit; the message names it.
    """
    try:
        tables = read_toml(path)
    except ModelError as error:
        raise TrainingError(str(error)) from error
    return parse_config(tables, path)


def parse_config(tables: Mapping[str, Any], path: Path) -> TrainingConfig:
    """Build a configuration from parsed TOML.

    Args:
        tables: of the file.
        path: for messages.

    Raises:
        TrainingError: they do not fit; the message names the file.
    """
    left = dict(tables)
    try:
        training = build(TrainingSettings, left.pop("training", {}), "training")
        sources = tuple(_source(table) for table in left.pop("sources", []))
        card = parse_card(left, path)
    except (ModelError, TrainingError) as error:
        message = str(error)
        raise TrainingError(message if str(path) in message else f"{path}: {message}") from error
    if not sources:
        raise TrainingError(f"{path} has no [[sources]]: name at least one data set")
    known = {spec.name for spec in card.classes}
    for source in sources:
        used = {
            name
            for layer in source.layers
            for names in (*layer.values.values(), layer.rest)
            for name in names
        }
        used |= {source.green.name} if source.green else set()
        if used - known:
            raise TrainingError(
                f"{path}: source {source.name!r} names unknown classes: {', '.join(sorted(used - known))}"
            )
    return TrainingConfig(card, training, sources)


def _source(table: Mapping[str, Any]) -> SourceSpec:
    values = dict(table)
    where = f"sources.{values.get('name', '?')}"
    try:
        values["layers"] = tuple(_layer(layer, where) for layer in values.pop("layers", []))
        values["validation"] = build(Split, values.pop("validation", {}), f"{where}.validation")
        if "green" in values:
            values["green"] = build(GreenRule, values["green"], f"{where}.green")
        re.compile(values["validation"].stems)
    except (re.error, ValueError, TypeError, AttributeError) as error:
        raise TrainingError(f"[{where}]: {error}") from error
    spec = build(SourceSpec, values, where)
    if not spec.layers:
        raise TrainingError(f"[{where}] has no layers: name at least one label raster")
    return spec


def _layer(table: Mapping[str, Any], where: str) -> LayerSpec:
    values = dict(table)
    names = {
        str(value): tuple([classes] if isinstance(classes, str) else classes)
        for value, classes in values.pop("values", {}).items()
    }
    return build(LayerSpec, {**values, "values": names}, f"{where}.layers")
