"""The training configuration: a model card to be, how to train it, and on what.

One TOML file holds the card's tables (see `pfmap.core.card`), ``[training]``, and one ``[[sources]]`` per
data set. Paths are relative to the data folder given on the command line, by default the file's own.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NewType

from pfmap.core.card import Card, parse_card
from pfmap.core.classes import RGB
from pfmap.core.errors import ModelError, TrainingError
from pfmap.core.tables import CONVERTER, build, check_values, read_toml

CONFIG_NAME = "train.toml"
"""The configuration that lies beside a model."""

Trained = Literal["all", "decoder", "head", "contact"]
"""What of a network is trained: all, all but the encoder, only what reads the finished pyramid, or only the
contact map, which changes no class."""

Paint = Literal["rows", "roads", "roofs", "pools"]

Names = NewType("Names", tuple[str, ...])
"""Names of classes; in TOML a single one may stand without brackets."""
CONVERTER.register_structure_hook(
    Names, lambda value, _: CONVERTER.structure([value] if isinstance(value, str) else value, tuple[str, ...])
)


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How to train. The defaults suit small data and few steps; the paper's recipe is sgd and poly."""

    steps: int
    crop: int = 256
    """Side of the square training crops, pixels."""
    start_from: str = ""
    """Name or folder of the model to start from; "" for none."""
    encoder_weights: str = ""
    """ImageNet weights of the encoder, relative to the data folder; "" starts from chance."""
    trained: Trained = "all"
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """The second with momentum 0.9."""
    schedule: Literal["cosine", "poly"] = "cosine"
    """Of the learning rate after the warm-up; "poly" with power 0.9."""
    encoder_rate: float = 3e-4
    """Peak learning rate of the encoder."""
    decoder_rate: float = 1e-3
    """The same for the rest."""
    weight_decay: float = 1e-2
    warmup: int = 50
    """Steps over which the rates rise."""
    edge_weight: float = 1.0
    """Weight of the edge losses against the segmentation loss."""
    overlap_weight: float = 0.0
    """Weight of the soft Dice loss, which counts every class alike, however rare."""
    contact_weight: float = 1.0
    """Weight of the contact map's losses, where there is one."""
    keep_norms: bool = False
    """Whether batch norm goes on with the statistics of the model that training starts from. Those of a few
    crops around sparse labels are not those of scenes."""
    keep_weight: float = 0.0
    """Weight of staying, where there is no label, with what the model says that training starts from."""
    hard_pixels: int = 0
    """Online hard example mining: at least so many pixels of a batch count, the hardest; 0 for all."""
    hard_probability: float = 0.7
    """With mining, pixels whose label is less probable than this count as well."""
    ema: float = 0.998
    """Decay of the averaged weights, which are the ones validated and shipped."""
    scale: tuple[float, ...] = (0.5, 2.0)
    """Smallest and largest random zoom."""
    looks: Literal["similar", "any"] = "similar"
    """How scenes to map may look: as those learned from but for light and white balance, or as from any
    camera, season and place, for which crops are recoloured much more."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """With "auto", bfloat16 on GPUs and float32 elsewhere."""
    validations: int = 4
    """How often to validate, spread evenly over the steps; the best weights are kept."""
    checkpoint_minutes: float = 5.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_values(self, TrainingError)
        _refuse_below(self, 1, "steps", "crop", "validations")
        _refuse_below(self, 0, "encoder_rate", "decoder_rate", "weight_decay", "warmup")
        _refuse_below(self, 0, "edge_weight", "overlap_weight", "contact_weight", "keep_weight")
        _refuse_below(self, 0, "hard_pixels", "ema")
        if self.ema > 1:
            raise TrainingError(f"ema is {self.ema:g}: it has to be 0 to 1")
        _check_zoom(self.scale)


def _refuse_below(settings: object, least: int, *names: str) -> None:
    for name in names:
        if not least <= (value := getattr(settings, name)) < math.inf:
            raise TrainingError(f"{name} is {value:g}: it has to be {least} or more")


def _check_zoom(scale: tuple[float, ...]) -> None:
    if len(scale) != 2 or not 0 < scale[0] <= scale[1] < math.inf:
        raise TrainingError(f"scale is [smallest, largest] zoom, not {list(scale)}")


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """Labels of the images; later layers lie over earlier ones."""

    path: str
    """A raster on the image's grid, or polygons: a vector file, or ``FILE:layer``. Relative to the data
    folder; ``{stem}`` stands for the image's stem."""
    values: Mapping[str, Names] = field(default_factory=dict)
    """Raster value, or text in the polygons' column, -> names of the classes it may be; ``*`` stands for any
    text. Other raster values are ignored. Without any, the texts are the class names."""
    field: str = ""
    """The polygons' column; "" for `class`."""
    checked: str = ""
    """The polygons' column that says which of them count; the others are unknown. "" if all do."""
    rest: tuple[str, ...] = ()
    """Names of the classes that pixels outside all polygons, or of other values, may be; () if nothing is
    known of them."""
    weight: float = 1.0
    """How much a pixel of this layer counts."""
    instances: Names = Names(())
    """Classes whose objects the layer tells apart: each of its polygons is one, and a raster, which has one
    class then, holds their ids, 0 for none. Where two of them meet is what the contact map learns."""
    near: int = 3
    """Pixels of the image within which two objects are in contact."""
    apart: bool = False
    """Whether no object of the layer touches another, so that it shows where there is no contact."""

    def __post_init__(self) -> None:
        _refuse_below(self, 0, "weight")
        _refuse_below(self, 1, "near")
        if self.instances and self.apart:
            raise TrainingError("a layer has instances, or its objects lie apart: choose one")


@dataclass(frozen=True, slots=True)
class GreenRule:
    """Tell vegetation from the rest by colour, where labels leave it open.

    Excess green is 2g - r - b of the colour's shares (r + g + b = 1). Above `above` a partial label loses
    every class but this one, below `below` it loses this one. Labels that say one class are never touched.
    """

    name: str
    above: float
    below: float = -1.0

    def __post_init__(self) -> None:
        check_values(self, TrainingError)


@dataclass(frozen=True, slots=True)
class Split:
    """What is held out for validation: images by stem, a part of each scene, or a share of the ground."""

    stems: str = ""
    """Regular expression searched in the stem; matching images are for validation."""
    columns: tuple[int, ...] = ()
    """First and one past the last validation column."""
    rows: tuple[int, ...] = ()
    """The same for rows."""
    share: float = 0.0
    """Of the labels, 0 to 0.9, held out in whole blocks of ground, whatever images show them. Images without
    a place go by eight, in the order of their names."""
    block: int = 1024
    """Side of the blocks in pixels."""

    def __post_init__(self) -> None:
        try:
            re.compile(self.stems)
        except re.error as error:
            raise TrainingError(f"stems {self.stems!r} is no regular expression: {error}") from error
        if not 0 <= self.share <= 0.9 or self.block < 1:
            raise TrainingError(f"share {self.share:g} and block {self.block} are none: use 0 to 0.9")
        for part in (self.columns, self.rows):
            if part and not (len(part) == 2 and 0 <= part[0] < part[1]):
                raise TrainingError(f"columns and rows are [first, one past the last], not {list(part)}")
        if sum(map(bool, (self.stems, self.columns or self.rows, self.share))) > 1:
            raise TrainingError("by stems, by rows or columns, or by share: choose one")


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """One data set."""

    name: str
    """For the log."""
    images: str
    """Glob pattern, relative to the data folder."""
    per_batch: int
    """Crops of it in every batch."""
    layers: tuple[LayerSpec, ...]
    validation: Split = Split()
    green: GreenRule | None = None
    scale: tuple[float, ...] = ()
    """Smallest and largest random zoom of this source; () for that of the training."""
    coarsen: float = 1.0
    """Largest factor by which crops are coarsened and enlarged again, as scenes are when they are read whose
    resolution is coarser than the model's; 1 for never."""
    paint: Mapping[Paint, Names] = field(default_factory=dict)
    """What is painted over some of the crops (rows of plants with the soil between them, roads, roofs, pools)
    -> classes of the ground on which it may lie, the first of which is its own."""
    bands: tuple[int, ...] = ()
    """Numbers, from 1, of the images' bands that the model sees; () for those that the card names."""
    extra: Mapping[str, str] = field(default_factory=dict)
    """Files of further bands, by name, relative to the data folder; ``{stem}`` as in a layer's path."""

    def __post_init__(self) -> None:
        if not self.layers:
            raise TrainingError("there are no layers: name at least one label raster, or polygons")
        _refuse_below(self, 1, "per_batch", "coarsen")
        if bare := [kind for kind, names in self.paint.items() if not names]:
            raise TrainingError(
                f"paint has no classes for {bare[0]}: name its own, and those that it lies over"
            )
        if self.scale:
            _check_zoom(self.scale)

    @property
    def classes(self) -> set[str]:
        """Names of all classes that its labels and its colour rule speak of."""
        groups = [
            names for layer in self.layers for names in (*layer.values.values(), layer.rest, layer.instances)
        ]
        return set().union(*groups, *self.paint.values(), [self.green.name] if self.green else ())

    @property
    def instances(self) -> set[str]:
        """Names of the classes whose objects its labels tell apart."""
        return {name for layer in self.layers for name in layer.instances}


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
    return parse_config(read_toml(path, TrainingError), path)


def parse_config(tables: Mapping[str, Any], path: Path) -> TrainingConfig:
    """Build a configuration from parsed TOML.

    Raises:
        TrainingError: the tables do not fit; the message names the file.
    """
    left = dict(tables)
    try:
        training = build(TrainingSettings, left.pop("training", {}), "training")
        sources = build(tuple[SourceSpec, ...], left.pop("sources", []), "sources")
        card = parse_card(left, path)
    except ModelError as error:
        raise TrainingError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error
    if not sources:
        raise TrainingError(f"{path} has no [[sources]]: name at least one data set")
    known = {spec.name for spec in card.classes}
    for source in sources:
        where = f"{path}: source {source.name!r}"
        if unknown := source.classes - known:
            raise TrainingError(f"{where} names unknown classes: {', '.join(sorted(unknown))}")
        if (source.green or source.paint) and not {*RGB} <= {*card.input.bands}:
            raise TrainingError(f"{where} has green or paint, and [input] not red, green and blue")
    contact, told = set(card.architecture.contact), set().union(*(source.instances for source in sources))
    if contact != told:
        raise TrainingError(
            f"{path}: contact in [architecture] names {', '.join(sorted(contact)) or 'no class'}, instances "
            f"in the layers {', '.join(sorted(told)) or 'none'}: name the same classes in both"
        )
    if training.trained == "contact" and not contact:
        raise TrainingError(f"{path}: trained is 'contact', and [architecture] names no contact")
    return TrainingConfig(card, training, sources)
