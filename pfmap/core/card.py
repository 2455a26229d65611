"""A model's card: what `model.toml` says about the weights beside it.

Reading is strict: a key that is missing, unknown or of the wrong kind is an error that names the file and the
key, so that a typo never becomes a silent default.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from pfmap.core.classes import ClassSpec
from pfmap.core.errors import UNSEEN, ModelError, worded
from pfmap.core.tables import build, check_values, read_toml, table_of

Encoder = Literal["resnet50", "resnet101", "efficientnet_lite0"]
Context = Literal["ppm", "aspp", "none"]
ENCODERS: tuple[str, ...] = get_args(Encoder)

FLOW_LEVELS = (4, 8, 16)
"""A level lies between two maps of the pyramid, and is named by the stride of the finer one."""
WINDOW_MULTIPLE = 32
"""The encoders' output stride: window sides are multiples of it."""
_LONGEST = 20_000  # letters
WINDOW_MIN = 64
"""Below this the coarsest map has one row, and resizing with aligned corners is undefined."""
WINDOW_MAX = 8192
"""Beyond this a single window takes tens of gigabytes."""
_MOST = {"width": 4096, "embedding": 4096, "salient_bins": 64, "smooth_bins": 64, "edge_points": 4096}
"""Beyond these a network takes more memory than any machine has, or a product of points does."""
_DARKEST, _BRIGHTEST = 1e-4, 1e10
"""Of the pixel value that becomes 1: beyond, all pixels would look the same."""
_LEAST, _LARGEST = 1e-3, 1e3
"""Of what shares of the full value, and logits, are divided by: beyond, they drown or become infinite."""
_FAR = {"gsd": 1.5, "mean": 3.0, "std": 3.0, "chroma": 3.0, "tint": 0.0}
_TINT = 0.08
"""How far from what was learned a scene looks unlike it: a factor, or what is added, at least, for the tint.
Of the shipped model's data nothing that was held out does, and of places that are left out hardly anything.
"""
UNLIKE = "looks unlike all that model"


@dataclass(frozen=True, slots=True)
class Architecture:
    """The settings that define one PFNet: everything its weights' shapes and arithmetic depend on.

    Defaults are those of the published checkpoints (Li et al., CVPR 2021, section 3). The settings after
    `edge_points` are those that the paper's ablations vary (its Table 2). They also name its neighbours:
    `flow` none is Semantic FPN, with `context` none or ppm; `context` aspp puts the decoder behind DeepLabV3,
    which is why there is no setting for that.
    """

    encoder: Encoder
    classes: int
    bands: int = 3
    """Channels of the image; a card counts them, as it does the classes."""
    width: int = 256
    """Channels of the decoder (C)."""
    embedding: int = 64
    """Channels of the saliency embedding (D)."""
    salient_bins: int = 14
    """Side of the max pool that picks salient points: `salient_bins ** 2` per map."""
    smooth_bins: int = 9
    """Side of the average pool that blurs the saliency before edges are sharpened."""
    edge_points: int = 128
    """Boundary points per map (K)."""
    context: Context = "ppm"
    """What tops the encoder: pyramid pooling, DeepLabV3's atrous pooling, or a plain lateral."""
    flow: Literal["both", "salient", "boundary", "none"] = "both"
    """Which points semantics flow through; with none, maps are resized and added."""
    flow_levels: tuple[int, ...] = FLOW_LEVELS
    """Where PointFlow modules sit, as strides of the finer map of each pair of neighbours; at the other
    levels maps are resized and added. Means nothing where `flow` is none."""
    salient_points: Literal["max_pool", "uniform", "attention"] = "max_pool"
    """Which points are salient: the maxima of `salient_bins ** 2` cells, as many points on a regular grid, or
    as many that are the largest of the whole map."""
    edge_features: Literal["subtraction", "addition", "direct"] = "subtraction"
    """Where contours are looked for: in the map less its salient bulk, plus it, or as it is."""
    direction: Literal["top_down", "bottom_up", "both"] = "top_down"
    """From coarse to fine, from fine to coarse, or first down and then up again."""
    contact: tuple[str, ...] = ()
    """Classes whose objects often touch: the network shows where, so that they can be taken apart."""

    def __post_init__(self) -> None:
        check_values(self)
        if not 2 <= self.classes <= 255:
            raise ModelError(f"a model has 2 to 255 classes (255 is nodata), not {self.classes}")
        for name, most in (_MOST | {"bands": 16}).items():
            if not 1 <= getattr(self, name) <= most:
                raise ModelError(f"{name} is {getattr(self, name)}: it has to be 1 to {most}")
        levels = self.flow_levels
        if not levels or len(set(levels)) < len(levels) or not set(levels) <= set(FLOW_LEVELS):
            raise ModelError(
                f"flow_levels is {list(levels)}: name one or more of the strides "
                f"{', '.join(map(str, FLOW_LEVELS))}, each once (no flow at all is flow = 'none')"
            )


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What the network expects to see."""

    bands: tuple[str, ...]
    """One to sixteen names, in order: red, green, blue, nir, rededge, dsm, or any other."""
    scale: float
    """The pixel value that becomes 1.0, of bands that `scales` does not name."""
    mean: tuple[float, ...]
    """Subtracted per band, in 0..1 units."""
    std: tuple[float, ...]
    """Divided by per band."""
    window: int
    """Side of the square window in pixels."""
    gsd: tuple[float, float]
    """Smallest and largest ground sampling distance the model knows, metres per pixel."""
    scales: Mapping[str, float] = field(default_factory=dict)
    """The same of single bands, by name, such as 30 of dsm: metres above ground."""
    enlarge: float = 0.0
    """Coarser scenes are enlarged to this ground sampling distance, within `gsd`; 0 for none."""

    def __post_init__(self) -> None:
        if not len(self.bands) == len({*self.bands}) == len(self.mean) == len(self.std) > 0:
            raise ModelError("bands, mean and std have an entry each, of bands that differ")
        check_values(self)
        for scale in (self.scale, *self.scales.values()):
            if not _DARKEST <= scale <= _BRIGHTEST:
                raise ModelError(f"scale is {scale}: it has to be {_DARKEST:g} to {_BRIGHTEST:g}")
        if unknown := ", ".join({*self.scales} - {*self.bands}):
            raise ModelError(f"scales names {unknown}: the bands are {', '.join(self.bands)}")
        if not _LEAST <= min(self.std) <= max(self.std) <= _LARGEST:
            raise ModelError(f"std is {list(self.std)}: each has to be {_LEAST:g} to {_LARGEST:g}")
        if max(map(abs, self.mean)) > _LARGEST:
            raise ModelError(f"mean is {list(self.mean)}: each has to be {-_LARGEST:g} to {_LARGEST:g}")
        if len(self.gsd) != 2 or not 0 < self.gsd[0] <= self.gsd[1]:
            raise ModelError(f"gsd is [smallest, largest] in metres, not {list(self.gsd)}")
        if self.enlarge and not self.gsd[0] <= self.enlarge <= self.gsd[1]:
            within = f"within gsd, {list(self.gsd)}, or be 0"
            raise ModelError(f"enlarge is {self.enlarge:g}: it has to lie {within}")
        check_window(self.window, self.window)

    @property
    def statistics(self) -> dict[str, tuple[float, float, float]]:
        """Scale, mean and deviation of each band, by name."""
        each = zip(self.bands, self.mean, self.std, strict=True)
        return {name: (self.scales.get(name, self.scale), mean, std) for name, mean, std in each}


def check_window(height: int, width: int) -> None:
    """Refuse a window that no network can take: a side below 64 pixels, above 8192, or no multiple of 32."""
    for side in (height, width):
        if not WINDOW_MIN <= side <= WINDOW_MAX or side % WINDOW_MULTIPLE:
            raise ModelError(
                f"window {height} x {width}: both sides have to be multiples of {WINDOW_MULTIPLE}, "
                f"{WINDOW_MIN} to {WINDOW_MAX}"
            )


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where the weights come from, and what may be done with them."""

    data: str
    """What the model was trained on."""
    licence: str
    """Of the weights."""
    attribution: str
    """What a map made with the model has to name."""
    limits: str = ""
    """What the model cannot do, plainly."""


@dataclass(frozen=True, slots=True)
class Card:
    """All that is known of a model, apart from its weights."""

    name: str
    """Short name, as on the command line."""
    title: str
    architecture: Architecture
    input: InputSpec
    classes: tuple[ClassSpec, ...]
    """In index order."""
    provenance: Provenance
    accuracy: Mapping[str, float] = field(default_factory=dict)
    """Measured figures by name, 0 to 1."""
    accuracy_note: str = field(default="", metadata={"key": "accuracy note"})  # no key that a file may have
    temperature: float = 1.0
    """Divides the logits, so that the confidence means what it says."""
    learned: Mapping[str, tuple[tuple[float, ...], ...]] = field(default_factory=dict)
    """How the images look that it learned from: least and most of all but rare ones, per band, where 1 is the
    full value. Of mean and standard deviation, and of how far the band is above the mean of all: `chroma` is
    the standard deviation of that, 0 in grey images, `tint` the sum of percentiles 3 and 97, above 0 where
    what stands out has the band's colour. `gsd`, a single one, is of metres per pixel, zooms included."""

    def __post_init__(self) -> None:
        needs, count = self.architecture, len(self.classes)
        if count != needs.classes:
            raise ModelError(f"the card lists {count} classes, its architecture has {needs.classes}")
        if (count := len(self.input.bands)) != needs.bands:
            raise ModelError(f"[input] names {count} bands, the architecture has {needs.bands}")
        _check_learned(self.learned, len(self.input.bands))
        check_values(self)
        if not _LEAST <= self.temperature <= _LARGEST:
            raise ModelError(f"temperature is {self.temperature}: it has to be {_LEAST:g} to {_LARGEST:g}")
        texts = (self.name, self.title, self.accuracy_note, *self.input.bands, *astuple(self.provenance))
        if any(UNSEEN.search(re.sub("[\n\t]", "", text)) or len(text) > _LONGEST for text in texts):
            raise ModelError(f"a text has control characters, or is longer than {_LONGEST:,} letters")
        _check_names([spec.name for spec in self.classes], needs.contact)

    @property
    def by_index(self) -> dict[int, ClassSpec]:
        """The classes by their value in class rasters."""
        return dict(enumerate(self.classes))

    def about_looks(self, scene: str, found: Mapping[str, Sequence[float]]) -> list[str]:
        """Say of a scene with figures as in `learned` that it looks unlike all of that, if it does."""
        for name, factor in _FAR.items():
            values, ranges = found.get(name, ()), self.learned.get(name, ())
            if len(values) != len(ranges):  # not all bands were looked at
                continue
            for band, value, (low, high) in zip(self.input.bands, values, ranges, strict=False):
                margin = max(_TINT, (high - low) / 3)
                least, most = (low / factor, high * factor) if factor else (low - margin, high + margin)
                if not least <= value <= most:
                    what = f"{name if name == 'gsd' else f'{name} of {band}'} is {round(value, 4):g}"
                    text = f"{scene} {UNLIKE} {self.name!r} learned: {what}, not about {low:g} to {high:g}"
                    remedy = "check bands=, scale= and gsd=, or train a model on such images with pfmap train"
                    return [worded(f"{text}; expect poor results; {remedy}")]
        return []


def _check_learned(learned: Mapping[str, Sequence[Sequence[float]]], bands: int) -> None:
    for name, ranges in learned.items():
        fits = name in _FAR and len(ranges) == (1 if name == "gsd" else bands)
        if not fits or not all(len(pair) == 2 and -2 <= pair[0] <= pair[1] < math.inf for pair in ranges):
            needed = f"{', '.join(_FAR)} list [least, most] for each band, gsd once"
            raise ModelError(f"learned.{name} is {[*map(list, ranges)]}: {needed}")


def _check_names(known: Sequence[str], contact: Sequence[str]) -> None:
    names = [name.strip().casefold() for name in known]
    if listed := [name for name in names if "," in name]:
        raise ModelError(f"class {listed[0]!r} has a comma, which separates classes in lists: rename it")
    if twice := sorted(name for name in known if names.count(name.strip().casefold()) > 1):
        raise ModelError(f"class names appear twice, but for case or blanks: {', '.join(twice)}")
    if others := [name for name in contact if name not in known]:
        raise ModelError(f"contact names {', '.join(others)}: the classes are {', '.join(known)}")


def read_card(path: Path) -> Card:
    """Read a `model.toml`."""
    return parse_card(read_toml(path), path)


def parse_card(data: Mapping[str, Any], path: Path) -> Card:
    """Build a card from the tables of a `model.toml`."""
    tables = dict(data)
    classes, architecture, accuracy = (tables.get(key) for key in ("classes", "architecture", "accuracy"))
    if isinstance(architecture, Mapping):
        bands = seen.get("bands") if isinstance(seen := tables.get("input"), Mapping) else None
        counts = [len(one) if isinstance(one, list | tuple) else 3 for one in (classes, bands)]
        tables["architecture"] = {"classes": counts[0], "bands": counts[1], **architecture}
    if isinstance(accuracy, Mapping):
        tables["accuracy note"] = str(accuracy.get("note", ""))
        tables["accuracy"] = {key: value for key, value in accuracy.items() if key != "note"}
    try:
        return build(Card, tables)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def card_table(card: Card) -> dict[str, Any]:
    """Turn a card back into the tables of its `model.toml`, ready for a TOML writer."""
    architecture = asdict(card.architecture)
    del architecture["classes"], architecture["bands"]  # counted from [[classes]] and [input]
    return {
        "name": card.name,
        "title": card.title,
        "temperature": card.temperature,
        "architecture": architecture,
        "input": table_of(card.input),
        "provenance": asdict(card.provenance),
        "accuracy": {"note": card.accuracy_note, **card.accuracy},
        "classes": [table_of(spec) for spec in card.classes],
        **({"learned": dict(card.learned)} if card.learned else {}),
    }
