"""A model's card: what `model.toml` says about the weights beside it.

Reading is strict: a missing or unknown key is an error that names the file and the key, so that a typo never
becomes a silent default.
"""

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from pfmap.core.classes import ClassSpec
from pfmap.core.errors import ModelError

Encoder = Literal["resnet50", "resnet101", "efficientnet_lite0"]
Context = Literal["ppm", "aspp", "none"]
Flow = Literal["both", "salient", "boundary", "none"]
SalientPoints = Literal["max_pool", "uniform", "attention"]
EdgeFeatures = Literal["subtraction", "addition", "direct"]
Direction = Literal["top_down", "bottom_up", "both"]

ENCODERS: tuple[str, ...] = get_args(Encoder)

STRIDES = (4, 8, 16, 32)
"""Strides of the pyramid's maps, fine to coarse."""
FLOW_LEVELS = STRIDES[:-1]
"""A level is named by the stride of the finer of the two maps between which it lies."""
WINDOW_MULTIPLE = 32
"""The encoders' output stride: window sides are multiples of it."""
WINDOW_MIN = 64
"""Below this the coarsest map has one row, and resizing with aligned corners is undefined."""

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "encoder": ENCODERS,
    "context": get_args(Context),
    "flow": get_args(Flow),
    "salient_points": get_args(SalientPoints),
    "edge_features": get_args(EdgeFeatures),
    "direction": get_args(Direction),
}
_COUNTS = ("width", "embedding", "salient_bins", "smooth_bins", "edge_points")


@dataclass(frozen=True, slots=True)
class Architecture:
    """Settings of a PFNet (Li et al., CVPR 2021, section 3; defaults as in its published checkpoints).

    The settings after `edge_points` are those that the paper's ablations vary (its Table 2). They also name
    its neighbours: `flow` none is Semantic FPN, with `context` none or ppm; `context` aspp puts the decoder
    behind DeepLabV3, which is why there is no setting for that.

    Attributes:
        encoder: which encoder feeds the decoder.
        classes: number of output classes, two or more.
        width: channels of the decoder (C).
        embedding: channels of the saliency embedding (D).
        salient_bins: side of the max pool that picks salient points: `salient_bins ** 2` per map.
        smooth_bins: side of the average pool that blurs the saliency before edges are sharpened.
        edge_points: boundary points per map (K).
        context: what tops the encoder: pyramid pooling, DeepLabV3's atrous pooling, or a plain lateral.
        flow: which points semantics flow through; with none, maps are resized and added.
        flow_levels: where PointFlow modules sit, as strides of the finer map of each pair of neighbours;
            at the other levels maps are resized and added. Means nothing where `flow` is none.
        salient_points: which points are salient: the maxima of `salient_bins ** 2` cells, as many points on a
            regular grid, or as many that are the largest of the whole map.
        edge_features: where contours are looked for: in the map less its salient bulk, plus it, or as it is.
        direction: from coarse to fine, from fine to coarse, or first down and then up again.
    """

    encoder: Encoder
    classes: int
    width: int = 256
    embedding: int = 64
    salient_bins: int = 14
    smooth_bins: int = 9
    edge_points: int = 128
    context: Context = "ppm"
    flow: Flow = "both"
    flow_levels: tuple[int, ...] = FLOW_LEVELS
    salient_points: SalientPoints = "max_pool"
    edge_features: EdgeFeatures = "subtraction"
    direction: Direction = "top_down"

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ModelError(
                    f"{name} {getattr(self, name)!r} is unknown: use one of {', '.join(choices)}"
                )
        if not 2 <= self.classes <= 255:
            raise ModelError(f"a model has 2 to 255 classes (255 is nodata), not {self.classes}")
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise ModelError(f"{name} is {getattr(self, name)}: it has to be 1 or more")
        levels = self.flow_levels
        if not levels or len(set(levels)) < len(levels) or not set(levels) <= set(FLOW_LEVELS):
            raise ModelError(
                f"flow_levels is {list(levels)}: name one or more of the strides "
                f"{', '.join(map(str, FLOW_LEVELS))}, each once (no flow at all is flow = 'none')"
            )

    def flows_at(self, level: int) -> bool:
        """Say whether a PointFlow module sits at a level."""
        return self.flow != "none" and level in self.flow_levels


def check_window(height: int, width: int) -> None:
    """Refuse a window that the network cannot take.

    Raises:
        ModelError: a side is below 64 pixels or no multiple of 32.
    """
    for side in (height, width):
        if side < WINDOW_MIN or side % WINDOW_MULTIPLE:
            raise ModelError(
                f"window {height} x {width}: both sides have to be multiples of {WINDOW_MULTIPLE}, "
                f"{WINDOW_MIN} or more"
            )


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What the network expects to see.

    Attributes:
        bands: names in order, such as red, green, blue.
        scale: the pixel value that becomes 1.0.
        mean: subtracted per band, in 0..1 units.
        std: divided by per band.
        window: side of the square window in pixels.
        gsd: smallest and largest ground sampling distance the model knows, metres per pixel.
    """

    bands: tuple[str, ...]
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    window: int
    gsd: tuple[float, float]

    def __post_init__(self) -> None:
        if len(self.bands) != 3 or len(self.mean) != 3 or len(self.std) != 3:
            raise ModelError("bands, mean and std have three entries each: the encoders take three bands")
        if self.scale <= 0 or min(self.std) <= 0:
            raise ModelError("scale and std are above 0")
        if len(self.gsd) != 2 or not 0 < self.gsd[0] <= self.gsd[1]:
            raise ModelError(f"gsd is [smallest, largest] in metres, not {list(self.gsd)}")
        check_window(self.window, self.window)


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where the weights come from, and what may be done with them.

    Attributes:
        data: what the model was trained on.
        licence: of the weights.
        attribution: what a map made with the model has to name.
        limits: what the model cannot do, plainly.
    """

    data: str
    licence: str
    attribution: str
    limits: str = ""


@dataclass(frozen=True, slots=True)
class Card:
    """All that is known of a model, apart from its weights.

    Attributes:
        name: short name, as on the command line.
        title: one line for people.
        architecture: settings of the network.
        input: what the network expects to see.
        classes: in index order.
        provenance: source and rights.
        accuracy: measured figures by name, 0 to 1.
        accuracy_note: how they were measured.
        temperature: divides the logits, so that the confidence means what it says.
    """

    name: str
    title: str
    architecture: Architecture
    input: InputSpec
    classes: tuple[ClassSpec, ...]
    provenance: Provenance
    accuracy: Mapping[str, float] = field(default_factory=dict)
    accuracy_note: str = ""
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if len(self.classes) != self.architecture.classes:
            raise ModelError(
                f"the card lists {len(self.classes)} classes, its architecture has "
                f"{self.architecture.classes}"
            )
        if not self.temperature > 0:
            raise ModelError(f"temperature is {self.temperature}: it has to be above 0")
        names = [spec.name for spec in self.classes]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ModelError(f"class names appear twice: {', '.join(twice)}")


def read_card(path: Path) -> Card:
    """Read a `model.toml`.

    Raises:
        ModelError: the file is missing, no TOML, or does not fit; the message names it.
    """
    return parse_card(read_toml(path), path)


def read_toml(path: Path) -> dict[str, Any]:
    """Read any TOML file, with errors that name it.

    Raises:
        ModelError: the file cannot be read or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is not valid TOML: {error}") from error


def parse_card(data: Mapping[str, Any], path: Path) -> Card:
    """Build a card from parsed TOML.

    Args:
        data: the tables of a `model.toml`.
        path: for messages.

    Raises:
        ModelError: a key is missing, unknown or of the wrong kind.
    """
    try:
        tables = dict(data)
        accuracy = dict(tables.pop("accuracy", {}))
        note = str(accuracy.pop("note", ""))
        classes = tuple(build(ClassSpec, item, "classes") for item in tables.pop("classes"))
        architecture = {"classes": len(classes), **tables.pop("architecture")}
        card = Card(
            name=str(tables.pop("name")),
            title=str(tables.pop("title")),
            architecture=build(Architecture, architecture, "architecture"),
            input=build(InputSpec, tables.pop("input"), "input"),
            classes=classes,
            provenance=build(Provenance, tables.pop("provenance"), "provenance"),
            accuracy={key: float(value) for key, value in accuracy.items()},
            accuracy_note=note,
            temperature=float(tables.pop("temperature", 1.0)),
        )
    except KeyError as error:
        raise ModelError(f"{path} lacks {error.args[0]!r}") from error
    except (TypeError, ValueError, AttributeError, ModelError) as error:
        raise ModelError(f"{path}: {error}") from error
    if tables:
        raise ModelError(f"{path} has unknown keys: {', '.join(sorted(tables))}")
    return card


def build(kind: type[T], table: Mapping[str, Any], where: str) -> T:
    """Build a dataclass from a TOML table, lists as tuples; unknown and missing keys are errors.

    Raises:
        ModelError: a key is unknown, missing or of the wrong type.
    """
    if not isinstance(table, Mapping):
        raise ModelError(f"[{where}] has to be a table")
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(table) - set(fields))
    if unknown:
        raise ModelError(f"[{where}] has unknown keys: {', '.join(unknown)}")
    missing = [
        name
        for name, f in fields.items()
        if name not in table and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ModelError(f"[{where}] lacks {', '.join(missing)}")
    values = {key: _coerce(value, fields[key].type, f"[{where}] {key}") for key, value in table.items()}
    return kind(**values)


def _coerce(value: Any, kind: Any, where: str) -> Any:
    """Check a TOML value against a field's type, as far as cards need it."""
    if isinstance(value, list):
        numbers = "float" in str(kind)
        if numbers and not all(isinstance(v, int | float) and not isinstance(v, bool) for v in value):
            raise ModelError(f"{where} has to be a list of numbers")
        if "tuple[str" in str(kind) and not all(isinstance(v, str) for v in value):
            raise ModelError(f"{where} has to be a list of texts")
        if "tuple[int" in str(kind) and not all(type(v) is int for v in value):
            raise ModelError(f"{where} has to be a list of whole numbers")
        return tuple(float(v) for v in value) if numbers else tuple(value)
    if get_origin(kind) is Literal and value not in get_args(kind):
        raise ModelError(f"{where} {value!r} is unknown: use one of {', '.join(get_args(kind))}")
    if get_origin(kind) is tuple and not isinstance(value, tuple):
        raise ModelError(f"{where} has to be a list, not {value!r}")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind in (int, float, str, bool) and type(value) is not kind:
        raise ModelError(f"{where} has to be {kind.__name__}, not {value!r}")
    return value


def card_table(card: Card) -> dict[str, Any]:
    """Turn a card back into the tables of its `model.toml`, ready for a TOML writer."""
    architecture = dataclasses.asdict(card.architecture)
    del architecture["classes"]  # counted from [[classes]]
    return {
        "name": card.name,
        "title": card.title,
        "temperature": card.temperature,
        "architecture": architecture,
        "input": {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(card.input).items()
        },
        "provenance": dataclasses.asdict(card.provenance),
        "accuracy": {"note": card.accuracy_note, **card.accuracy},
        "classes": [
            {k: v for k, v in dataclasses.asdict(spec).items() if v is not False} for spec in card.classes
        ],
    }
