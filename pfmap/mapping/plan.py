"""What is going to be done with a scene, before anything is computed."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np
import torch

from pfmap.core.card import Card, card_table
from pfmap.core.classes import PERCENT, index_of
from pfmap.core.errors import SourceError, UsageError, worded
from pfmap.core.grid import Frame, GeoBox, Grid, Scale, Span, mean_size
from pfmap.core.resources import free_memory, gigabytes
from pfmap.mapping.objects import Chosen, limits_of
from pfmap.mapping.options import SHARED_SWATH_PIXELS, PredictOptions
from pfmap.model.predictor import precision_name
from pfmap.model.store import Model
from pfmap.raster.gdal import BLOCK, GDAL_VERSION
from pfmap.raster.scaling import Sample, Scaling, about_scaling, known_scaling, sampled_scaling
from pfmap.raster.scene import SceneInfo
from pfmap.raster.source import Source
from pfmap.raster.view import figures_of, overview_of
from pfmap.vector.area import Area, read_area
from pfmap.vector.geodesy import Measurer, pixel_size
from pfmap.version import __version__

_TOLERANCE = 1.01  # a range of resolution is not meant to the last digit
_SQUARE = 1.2  # pixels longer than wide by more are made square
_COARSEST, _FINEST = 32.0, 64.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How a scene is mapped."""

    scene: SceneInfo
    frame: Frame
    """The part that is mapped, and the two grids over it."""
    grid: Grid
    """The windows, on the network's grid."""
    geobox: GeoBox
    """The grid of the outputs."""
    native: bool
    """Whether that is the scene's grid; else it is the network's."""
    area: Area | None
    scaling: Scaling
    """How pixel values become 0..1."""
    sample: Sample
    gsd: tuple[float, float] | None
    """Metres per pixel of the scene, across and down; None where that is unknown."""
    overview: int
    """How many times as coarse the overview is that is read where all is valid; 0 is none."""
    model: Model
    model_hash: str
    """SHA-256 of the weights."""
    options: PredictOptions
    device: torch.device
    precision: torch.dtype
    batch_size: int
    """Windows per pass."""
    chosen: Chosen
    """What becomes of the classes, by their indices."""
    warnings: Sequence[str]

    @property
    def wanted(self) -> list[int]:
        """Indices of the classes that become polygons."""
        return wanted_classes(self.card, self.options.classes)

    @property
    def card(self) -> Card:
        """The model's card."""
        return self.model.card

    @property
    def layers(self) -> list[str]:
        """What swaths say of each pixel: its class, and in percent the confidence and what else there is."""
        return layers_of(self.options, self.chosen)

    @property
    def model_gsd(self) -> tuple[float, float] | None:
        """Metres per pixel of the image that the network sees, across and down."""
        if self.gsd is None:
            return None
        return self.gsd[0] * self.frame.cols.factor, self.gsd[1] * self.frame.rows.factor

    @property
    def limits(self) -> dict[str, float]:
        """From which area on regions of each class are objects: square metres, or pixels without a CRS."""
        box, classes = self.geobox, self.card.classes
        found = limits_of(self.options.shapes, classes, box, Measurer(box.crs_wkt, box.center))
        return {spec.name: limit for spec, limit in zip(classes, cycle(found), strict=False)}

    @property
    def cache_bytes(self) -> int:
        """How much of GDAL's block cache reading a row of windows wants."""
        return self.scene.cache_bytes(round(self.grid.rows.window * max(1.0, self.frame.rows.factor)))

    @property
    def swath_height(self) -> int:
        """Window rows per swath."""
        share = self.options.swath_pixels / (self.geobox.width * self.geobox.height)
        return max(1, round(share * self.frame.rows.size / self.grid.rows.stride))

    @property
    def swath_step(self) -> int:
        """Rows of the outputs at whose multiples swaths end: those of their blocks, but of tiny swaths."""
        return BLOCK if self.options.swath_pixels >= SHARED_SWATH_PIXELS else 1

    def part(self, rows: Span, cols: Span) -> "Plan":
        """Return a plan for a piece of the frame, given in pixels of the network's grid."""
        frame = self.frame
        y, x = frame.rows.cover(rows), frame.cols.cover(cols)
        down, across = y.moved(frame.top), x.moved(frame.left)
        piece = Frame(down.start, across.start, Scale(y.size, rows.size), Scale(x.size, cols.size))
        crop = self.scene.geobox.crop(down, across)
        return replace(
            self,
            frame=piece,
            grid=Grid.of(rows.size, cols.size, self.grid.rows.window, self.grid.rows.overlap),
            geobox=crop if self.native else crop.resized(rows.size, cols.size),
        )

    def tags(self) -> dict[str, str]:
        """Return the run's parameters, as they are kept in the output files."""
        tags = {
            "PFMAP_VERSION": __version__,
            "PFMAP_MODEL": self.card.name,
            "PFMAP_MODEL_SHA256": self.model_hash,
            "PFMAP_WINDOW": str(self.grid.rows.window),
            "PFMAP_OVERLAP": str(self.grid.rows.overlap),
            "PFMAP_PRECISION": precision_name(self.precision),
            "PFMAP_SCALE": f"{self.scaling.low:g},{self.scaling.high:g}",
            "PFMAP_CLASSES": ",".join(spec.name for spec in self.card.classes),
            "PFMAP_ATTRIBUTION": self.card.provenance.attribution,
        }
        if self.chosen.separation is not None:
            tags |= self.chosen.separation.tags(self.card.by_index)
        tags |= {f"PFMAP_{name.upper()}": text for name, text in self.options.decided.items()}
        if self.model_gsd is not None:
            tags["PFMAP_GSD"] = f"{mean_size(self.model_gsd):.5g}"
        return tags

    def fingerprint(self, scene: str) -> dict[str, str]:
        """Return all that the content of a swath depends on: the scene by its fingerprint, model, options."""
        options = self._essentials() | {"device": self.device.type, "swath_pixels": self.options.swath_pixels}
        options |= {"layers": self.layers, "overview": self.overview}
        return {
            "pfmap": f"{__version__}, torch {torch.__version__}, GDAL {GDAL_VERSION}",
            "scene": scene,
            "model": self._model_facts(),
            "options": json.dumps(options, sort_keys=True),
        }

    def identity(self, scene: str, outputs: str) -> dict[str, str]:
        """Return hashes of all that the outputs depend on, by which a scene is known to be done.

        As `fingerprint`, without what makes no difference that anyone wants to see: how the work was cut,
        what did it, and whether overviews were read. `outputs` says which are wanted, and how they are made.
        """
        options = json.dumps(self._essentials(), sort_keys=True)
        facts = {"scene": scene, "model": self._model_facts(), "options": options + outputs}
        return {name: hashlib.sha256(fact.encode()).hexdigest() for name, fact in facts.items()}

    def _model_facts(self) -> str:
        return f"{self.model_hash} {json.dumps(card_table(self.card), sort_keys=True)}"

    def _essentials(self) -> dict[str, Any]:
        return {
            "frame": asdict(self.frame),
            "grid": asdict(self.grid),
            "native": self.native,
            "area": self.area.digest().hex() if self.area is not None else None,
            "bands": self.scene.bands,
            "scale": (self.scaling.low, self.scaling.high),
            "precision": precision_name(self.precision),
            "on_read_error": self.options.on_read_error,
            **({"probabilities": True} if self.options.probabilities else {}),
            **self.options.decided,
        }


def make_plan(
    source: Source,
    model: Model,
    model_hash: str,
    options: PredictOptions,
    device: torch.device,
    precision: torch.dtype,
    batch_size: int,
) -> Plan:
    """Decide how to map a scene; a `UsageError` says that options or its resolution do not fit."""
    scene, card = source.info, model.card
    _refuse_giant_blocks(scene)
    area, rows, cols = None, Span(0, scene.geobox.height), Span(0, scene.geobox.width)
    if options.aoi is not None or options.bbox is not None:
        area = read_area(options.aoi, options.bbox, scene.geobox, scene.name, options.bbox_crs)
        rows, cols = area.rows, area.cols
    crop = scene.geobox.crop(rows, cols)
    gsd = (options.gsd, options.gsd) if options.gsd is not None else pixel_size(scene.geobox)
    (across, down), about_size = _factors(gsd, card, scene.name, options)
    frame = Frame(
        rows.start,
        cols.start,
        Scale(rows.size, max(1, round(rows.size / down))),
        Scale(cols.size, max(1, round(cols.size / across))),
    )
    native = options.grid == "scene"
    chosen = chosen_classes(card, options, mean_size((across, down)) if native else 1.0)
    overlap = options.overlap if options.overlap is not None else card.input.window // 8
    grid = Grid.of(frame.rows.size, frame.cols.size, card.input.window, overlap)
    known = known_scaling(scene, card.input.scale, options.scale)
    sample = source.sample(values=known is None)
    source.scaling = scaling = known or sampled_scaling(sample, scene)
    looks: dict[str, Any] = {"gsd": [mean_size(gsd) * mean_size((across, down))]} if gsd is not None else {}
    if card.learned and not source.extra:
        shown, valid = source.shown(sample.looked, np.ones(sample.looked.shape[1], dtype=bool))
        looks |= figures_of(shown[:, valid])
    return Plan(
        scene=scene,
        frame=frame,
        grid=grid,
        geobox=crop if native else crop.resized(frame.rows.size, frame.cols.size),
        native=native,
        area=area,
        scaling=scaling,
        sample=sample,
        gsd=gsd,
        overview=overview_of(source, frame),
        model=model,
        model_hash=model_hash,
        options=options,
        device=device,
        precision=precision,
        batch_size=batch_size,
        chosen=chosen,
        warnings=[
            *filter(None, [area.note if area else ""]),
            *scene.guesses,
            *sample.notes,
            *about_scaling(scaling, scene),
            *about_size,
            *card.about_looks(scene.name, looks),
            *([apart.about(card.by_index)] if (apart := chosen.separation) and apart.by_shape else []),
        ],
    )


def layers_of(options: PredictOptions, chosen: Chosen) -> list[str]:
    """Name the layers of swaths, as `Plan.layers`."""
    wanted = {"confidence": True, "contact": chosen.by_contact, "probabilities": options.probabilities}
    return ["classes", *(kind for kind in PERCENT if wanted[kind])]


def chosen_classes(card: Card, options: PredictOptions, scale: float = 1.0) -> Chosen:
    """Say what becomes of the classes, by their indices; a `UsageError` if one does not become polygons."""
    find = partial(wanted_classes, card)
    find(tuple(options.threshold or ()))
    wanted, shown = frozenset(find(options.classes)), frozenset(find(card.architecture.contact))
    return Chosen.of(options.shapes, find, wanted, shown, card.by_index, scale)


def wanted_classes(card: Card, names: Sequence[str] | None) -> list[int]:
    """Return the indices of the named classes, or of all but the background: those that become polygons."""
    if names is None:
        return [index for index, spec in enumerate(card.classes) if not spec.background]
    return [index_of(card.classes, name) for name in names]


def _refuse_giant_blocks(scene: SceneInfo) -> None:
    """Refuse a scene of which not even a block fits into memory, before anything is read from it."""
    if 2 * scene.block_bytes > (free := free_memory()):
        raise SourceError(
            f"{scene.name} is stored in blocks of {scene.block[1]:,} x {scene.block[0]:,} pixels; each takes "
            f"{gigabytes(scene.block_bytes)} of memory to read, {gigabytes(free)} are free: store it in "
            "tiles with gdal_translate -co TILED=YES"
        )


def _factors(
    gsd: tuple[float, float] | None, card: Card, scene: str, options: PredictOptions
) -> tuple[tuple[float, float], list[str]]:
    """Return scene pixels per pixel that the network sees, across and down, and what the user should know.

    A scene within the model's range stays as it is, or is enlarged as the model wants; outside the network
    sees the nearest resolution that the model knows; pixels that are not square on the ground are made so.
    """
    low, high = card.input.gsd
    known = f"model {card.name!r} knows {low:g} to {high:g} m"
    if gsd is None:
        unknown = f"{scene} does not say how large its pixels are; {known}: state it with gsd=METRES"
        return (1.0, 1.0), [worded(unknown)]
    mean = mean_size(gsd)
    outside = not (low / _TOLERANCE <= mean <= high * _TOLERANCE)
    slanted = max(gsd) / min(gsd) > _SQUARE
    target = min(max(mean, low), high, card.input.enlarge or high)
    if not outside and (not options.resample or (not slanted and mean <= target * _TOLERANCE)):
        return (1.0, 1.0), []
    if outside and not options.resample:
        raise UsageError(
            f"{scene} has {mean:.3g} m per pixel, {known}: leave out resample=False, correct the resolution "
            "with gsd=, or choose another model"
        )
    factors = target / gsd[0], target / gsd[1]
    if max(factors) > _FINEST or min(factors) < 1 / _COARSEST:
        raise UsageError(
            f"{scene} has {mean:.3g} m per pixel, {known}: too far apart to bridge by resampling; correct "
            "the resolution with gsd=, or choose another model"
        )
    if not outside:
        return factors, []
    word = "coarser" if mean > target else "finer"
    poor = "; expect poor results" if mean > 2 * target else ""
    return factors, [f"{scene} has {mean:.3g} m per pixel, {word} than {known}: read at {target:.3g} m{poor}"]
