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

from pfmap.core.architecture import Architecture, check_window
from pfmap.core.classes import ClassSpec
from pfmap.core.errors import ModelError

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
