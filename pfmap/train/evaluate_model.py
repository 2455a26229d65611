"""A model on the sources of a training configuration, with full, partial and sparse labels."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from pfmap.core.arrays import Bools, Bytes
from pfmap.core.card import Card
from pfmap.core.classes import index_of
from pfmap.core.errors import TrainingError
from pfmap.core.grid import Span
from pfmap.evaluation.comparison import Comparison, Labels, Tally
from pfmap.evaluation.figures import Evaluation, ends_known, figures, lines_of
from pfmap.evaluation.metrics import MIN_OBJECT, settled
from pfmap.evaluation.sides import Side, from_contact
from pfmap.mapping.options import PredictOptions
from pfmap.mapping.runtime import choose_device
from pfmap.model.predictor import Predictor
from pfmap.model.store import Model, load_model
from pfmap.report.picture import png
from pfmap.trace.compare import NO_CODE
from pfmap.trace.separate import Separation
from pfmap.train.config import TrainingConfig, read_config
from pfmap.train.data import PIECE, Source, load_data, pixels_of
from pfmap.train.label_layers import ClassSets
from pfmap.train.labelled_image import Image, Sample
from pfmap.train.validate import mapped, predictor_of
from pfmap.version import __version__

_PIXELS = 4 << 20  # compared at a time
_TOGETHER = "together"
_PARTIAL = (
    "Labels leave open what some pixels are: these serve the classes that they exclude; boundaries, objects "
    "and confidence are shown of classes that no label of the source leaves open"
)


@dataclass(frozen=True, slots=True)
class SourceEvaluation:
    """A model on one source."""

    name: str
    images: int
    """How many there were, or parts of images."""
    figures: Evaluation
    """Classes that no sure label names have none."""
    picture: bytes = b""
    """Map of errors as a PNG file, if there is just one image; else empty."""


@dataclass(frozen=True, slots=True)
class ModelEvaluation:
    """A model on a data set."""

    model: str
    data: str
    part: str
    """What of it: "validation" or "training"."""
    labels: Labels
    sources: tuple[SourceEvaluation, ...]
    """In the configuration's order; those without images in this part are left out."""
    together: Evaluation

    def table(self) -> dict[str, Any]:
        """Return everything but the pictures as it is written to JSON."""
        return {
            "pfmap": __version__,
            "model": self.model,
            "data": self.data,
            "part": self.part,
            "sources": [
                {"source": source.name, "images": source.images, **source.figures.table()}
                for source in self.sources
            ],
            _TOGETHER: self.together.table(),
        }

    def lines(self) -> list[str]:
        """Return the figures as lines of text."""
        lines = []
        for source in self.sources:
            images = f"{source.images} image{'s' * (source.images != 1)}"
            lines += [f"{source.name}: {images}", *lines_of(source.figures), ""]
        return [*lines, _TOGETHER, *lines_of(self.together)]

    def page(self) -> str:
        """Return the figures as an HTML page."""
        from pfmap.evaluation.evaluation_page import Section, page  # jinja2 loads here

        sections = [Section(s.name, s.figures, self.labels, s.picture) for s in self.sources]
        facts = [("Model", self.model), ("Data", self.data), ("Part", self.part)]
        title = f"Evaluation of {self.model}"
        if len(sections) > 1:
            sections.append(Section("All sources together", self.together, self.labels))
        return page(title, facts, sections)


def evaluate_model(
    model: str | os.PathLike[str] | Model,
    data: str | os.PathLike[str],
    data_folder: str | os.PathLike[str] | None = None,
    *,
    extra: Mapping[str, str] | None = None,
    part: str = "validation",
    objects: Sequence[str] = (),
    min_object: int = MIN_OBJECT,
    device: str = "auto",
    tta: str = "none",
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    on_message: Callable[[str], None] = lambda _text: None,
) -> ModelEvaluation:
    """Map the images of a data set as scenes would be, and compare with their labels.

    Args:
        model: by name or folder, or a loaded one.
        data: a training configuration.
        data_folder: what its paths are relative to; None for its own folder.
        extra: files of further bands, by name, as a source has them; before those of the sources.
        part: "validation" or "training".
        objects: classes whose objects are matched, in sources whose labels say where they end.
        min_object: pixels that they have at least, or do not count.
        device: auto, cpu, cuda, cuda:1, mps.
        tta: none, flips or d4, as `predict` has it.
        on_progress: called with (pixels done, pixels in all); it may raise to stop.
        on_message: called with lines for people.

    Raises:
        PfmapError: the model, the configuration, or its data do not fit.
    """
    PredictOptions(tta=tta)  # refuses what is no such name
    name, config = os.fspath(data), read_config(Path(data))
    loaded = model if isinstance(model, Model) else load_model(os.fspath(model))
    classes = config.card.classes
    config = _seen_by(loaded.card, config, extra)
    order = _order(loaded, tuple(spec.name for spec in classes), name)
    chosen = tuple(index_of(classes, wanted) for wanted in objects)
    folder = Path(data_folder) if data_folder is not None else Path(data).parent
    found = load_data(config, folder)
    for note in found.notes:
        on_message(note)
    parts = {source.spec.name: _samples(source, part) for source in found.sources}
    total = pixels_of(chain(*parts.values()))
    if not total:
        raise TrainingError(f"{name} holds nothing out for {part}: choose another part=")
    predictor = predictor_of(loaded.network, loaded.card, choose_device(device))
    codes, partial = _codes(found.sets)
    labels, contact = Labels(classes, partial), loaded.card.architecture.contact
    names = labels, chosen, contact, min_object
    job = _Job(predictor, tta, order, codes, *names, lambda done: on_progress(done, total))
    sources = tuple(job.source(source, samples) for source, samples in parts.items() if samples)
    if missing := [source for source, samples in parts.items() if not samples]:
        on_message(f"nothing is held out for {part} in {', '.join(missing)}")
    return ModelEvaluation(loaded.card.name, name, part, labels, sources, job.together())


def _samples(source: Source, part: str) -> Sequence[Sample]:
    """Return what of a source is held out, or is trained on, in pieces that are mapped in memory."""
    if part == "validation":
        return source.validation
    return [piece for sample in source.train for piece in sample.pieces(PIECE)]


def _seen_by(card: Card, config: TrainingConfig, given: Mapping[str, str] | None) -> TrainingConfig:
    """Have a configuration's images read as the model of a card is to see them."""
    bands, sources = card.input.bands, []
    for one in config.sources:
        extra = {name: file for name, file in one.extra.items() if name in bands}
        sources.append(replace(one, extra={**extra, **(given or {})}))
    architecture = replace(config.card.architecture, bands=len(bands))
    seen = replace(config.card, name=card.name, input=card.input, architecture=architecture)
    return replace(config, card=seen, sources=tuple(sources))


def _order(model: Model, known: tuple[str, ...], data: str) -> Bytes:
    """Return the configuration's class for each of the model's."""
    names = [spec.name for spec in model.card.classes]
    if unknown := [name for name in names if name not in known]:
        raise TrainingError(
            f"model {model.card.name!r} has classes that {data} does not know: {', '.join(unknown)}; it "
            f"knows {', '.join(known)}"
        )
    return np.array([known.index(name) for name in names], dtype=np.uint8)


@dataclass(slots=True)
class _Job:
    """The sources of a data set, one after the other."""

    predictor: Predictor
    tta: str
    order: Bytes
    """The data set's class for each of the model's."""
    codes: Bytes
    """``(256,)`` for each label set."""
    labels: Labels
    objects: tuple[int, ...]
    contact: tuple[str, ...]
    """Names of classes whose objects are taken apart."""
    least: int
    on_pixels: Callable[[int], None]
    total: Tally = field(default_factory=Tally)
    judged: Bools = field(init=False)
    done: int = 0

    def __post_init__(self) -> None:
        self.judged = np.zeros(len(self.labels.classes), dtype=bool)

    def source(self, name: str, samples: Sequence[Sample]) -> SourceEvaluation:
        """Evaluate one source."""
        tally, picture = Tally(), b""
        colors = self.labels.colors() if len(samples) == 1 else None
        for true, found, confidence, contact in mapped(self.predictor, samples, len(self.order), self.tta):
            height, width = found.shape
            comparison = Comparison(height, width, self.labels, tally, self.objects, colors, self.least)
            side = self._side(found, contact)
            for rows in Span(0, height).cut(max(1, _PIXELS // width)):
                at = slice(rows.start, rows.stop)
                predicted, marks = side.rows(rows)
                comparison.add(self.codes[true[at]], predicted, confidence[at], None, marks)
            picture = png(comparison.picture()) if colors is not None else b""
            self.done += found.size
            self.on_pixels(self.done)
        labels, classes = len(self.labels.names), len(self.labels.classes)
        certain = settled(tally.counts[:labels, :classes], self.labels.allowed()[:labels, :classes])
        notes = () if certain.all() else (_PARTIAL,)
        made = figures(tally, self.labels, self.objects, self.least, named_only=True, notes=notes)
        # What cannot be judged here has no say in the whole either.
        named = tally.counts[:classes, :classes].sum(axis=1) > 0
        ends = certain & named & ends_known(tally, classes)
        tally.levels[:classes][~certain] = 0
        for counts in (tally.predicted_lines, tally.true_lines, tally.objects):
            counts[:classes][~ends] = 0
        self.judged |= certain
        self.total.add(tally)
        return SourceEvaluation(name, len(samples), made, picture)

    def _side(self, classes: Image, contact: Image | None) -> Side:
        """Give codes of the data set's classes, and tell objects apart as prediction does it."""

        def codes(rows: Span) -> Image:
            return self.order[classes[rows.start : rows.stop]]

        if contact is None or not self.objects:
            return Side(lambda rows: (codes(rows), None))
        walls: Image = contact
        apart = Separation(frozenset(map(self.labels.names.index, self.contact)))
        return from_contact(codes, lambda rows: walls[rows.start : rows.stop], walls.shape, apart)

    def together(self) -> Evaluation:
        """Return the figures of all sources."""
        notes = () if self.judged.all() and not self.labels.partial else (_PARTIAL,)
        found = self.total, self.labels, self.objects, self.least
        return figures(*found, certain=self.judged, named_only=True, notes=notes)


def _codes(sets: ClassSets) -> tuple[Bytes, tuple[frozenset[int], ...]]:
    """Give each label set a code, ``(256,)``: that of its class, or one for several classes.

    Also returns the classes of the codes that follow those of single classes.
    """
    codes = np.full(256, NO_CODE, dtype=np.uint8)
    partial: list[frozenset[int]] = []
    for index, (members, weight, _) in enumerate(sets.entries):
        if not weight or len(members) == len(sets.classes):
            continue
        if len(members) == 1:
            codes[index] = min(members)
            continue
        if members not in partial:
            partial.append(members)
        codes[index] = len(sets.classes) + partial.index(members)
    return codes, tuple(partial)
