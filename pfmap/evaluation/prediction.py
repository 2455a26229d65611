"""Evaluate class rasters against their truth: two files, or two folders of files with the same names.

Both are read side by side on the prediction's grid, a strip of rows at a time.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pfmap.core.classes import NODATA, ClassSpec, default_color
from pfmap.core.errors import SourceError, UsageError, worded
from pfmap.core.grid import GeoBox
from pfmap.core.stages import read_ahead
from pfmap.evaluation.comparison import Comparison, Labels, Tally
from pfmap.evaluation.figures import Evaluation, ends_known, figures, lines_of
from pfmap.evaluation.legend import OTHER, CodedMap, Legend, MatchOptions
from pfmap.evaluation.metrics import MIN_OBJECT
from pfmap.evaluation.sides import (
    ADVICE,
    Side,
    find_pairs,
    from_contact,
    from_ids,
    from_polygons,
    grid_of,
    strips,
)
from pfmap.raster.align import AlignedMap
from pfmap.raster.classmap import ClassMap, open_percent, percent_beside
from pfmap.raster.gdal import BLOCK
from pfmap.raster.location import locate
from pfmap.report.picture import png
from pfmap.trace.separate import Separation
from pfmap.vector.labels import LabelPolygons, PolygonFile
from pfmap.vector.layer import is_vector
from pfmap.version import __version__

Progress = Callable[[int, int], None]

_PIXELS = 4 << 20  # compared at a time


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What comparing a prediction with its truth gave, each a file or a folder."""

    prediction: str
    truth: str
    confidence: str | None
    """The raster it was taken from; None without one, and for folders."""
    figures: Evaluation
    labels: Labels
    picture: bytes
    """Map of errors as a PNG file; empty for folders."""
    object_map: bytes
    """Map of objects as a PNG file; empty for folders, and where no objects are matched."""

    def table(self) -> dict[str, Any]:
        """Return everything but the picture as it is written to JSON.

        Keys: `pfmap` (version), `prediction`, `truth`, `confidence`, and those of `Evaluation.table`.
        """
        return {
            "pfmap": __version__,
            "prediction": self.prediction,
            "truth": self.truth,
            "confidence": self.confidence,
            **self.figures.table(),
        }

    def lines(self) -> list[str]:
        """Return the figures as lines of text."""
        return lines_of(self.figures)

    def page(self) -> str:
        """Return the figures as an HTML page, with the map of errors."""
        from pfmap.evaluation.evaluation_page import Section, page  # jinja2 loads here

        facts = [("Prediction", self.prediction), ("Truth", self.truth)]
        if self.confidence is not None:
            facts.append(("Confidence", self.confidence))
        section = Section("", self.figures, self.labels, self.picture, self.object_map)
        return page(f"Evaluation of {Path(self.prediction).name}", facts, [section])


def evaluate(
    prediction: str | os.PathLike[str],
    truth: str | os.PathLike[str] | None = None,
    *,
    names: Mapping[int, str] | None = None,
    mapping: Mapping[str, str] | None = None,
    ignore: Sequence[str] = (),
    only: Sequence[str] = (),
    field: str | None = None,
    rest: str | None = None,
    objects: Sequence[str] = (),
    ids: str | os.PathLike[str] | None = None,
    min_object: int = MIN_OBJECT,
    confidence: str | os.PathLike[str] | None = None,
    on_progress: Progress = lambda _done, _total: None,
    on_message: Callable[[str], None] = lambda _text: None,
) -> Evaluated:
    """Compare a class raster or polygons with the truth, in memory that does not grow with the height.

    Footprints with an id take some bytes each.

    Args:
        prediction: a class raster of any origin; its grid is the one on which both are compared. Or a folder
            of them. Or polygons, which are compared on the grid of the class raster that pfmap predict wrote
            beside them, or of the truth.
        truth: a class raster of any CRS, resolution and extent, or a file of polygons, or ``FILE:layer``. Or
            a folder of rasters with the predictions' names. None if there are only `ids`.
        names: of the prediction's classes, by value; None for those in the raster.
        mapping: classes of the truth, by value or name, to those of the prediction.
        ignore: classes of the truth, by value or name, that do not count.
        only: classes that are told apart; all others are one, "other". Empty for all; for polygons and for
            ids alone for `objects`.
        field: column of the polygons with their classes; None for `class`. Without one, and with one class
            in `only`, all polygons are that class.
        rest: what lies outside all polygons: "ignore", or a class; None for "other" with `only`, else
            "ignore".
        objects: classes whose objects are matched: polygons, those of one `object_id` as one; or pixels with
            one id; else connected pixels.
        ids: raster with ids of true objects, 0 for none, on the same pixels.
        min_object: pixels that objects have at least, or do not count.
        confidence: raster with percent; None for that of pfmap predict beside the prediction.
        on_progress: called with (pixels done, pixels in all); it may raise to stop.
        on_message: called with lines for people.

    Raises:
        PfmapError: bad input.
    """
    one, two = os.fspath(prediction), os.fspath(truth or ids or "")
    polygons = frozenset(filter(is_vector, (one, two)))  # asked for once: files are opened for it
    only = only or (objects if truth is None or one in polygons else ())
    options = MatchOptions(names or {}, mapping or {}, tuple(ignore), tuple(only), rest)
    marks = None if ids is None else os.fspath(ids)
    job = _Job(options, tuple(objects), min_object, marks, field, polygons, on_progress, on_message)
    job.check(one, two)
    pairs = find_pairs(one, two, polygons)
    if len(pairs) > 1 and (confidence or ids) is not None:
        raise SourceError("confidence= and ids= are for one prediction: confidence is found beside each")
    for number, (each, true) in enumerate(pairs):
        given = None if confidence is None else locate(confidence).text
        job.compare(each, true, given, left=len(pairs) - number - 1)
    return job.result(one, two)


@dataclass(slots=True)
class _Job:
    """Predictions that are compared with their truth, one after the other."""

    options: MatchOptions
    objects: tuple[str, ...]
    least: int
    ids: str | None
    column: str | None
    polygons: frozenset[str]
    on_progress: Progress
    on_message: Callable[[str], None]
    tally: Tally = field(default_factory=Tally)
    notes: list[str] = field(default_factory=list)
    legend: Legend | None = None
    done: int = 0
    confidence: str | None = None
    picture: bytes = b""
    object_map: bytes = b""

    def check(self, one: str, two: str) -> None:
        """Refuse polygons, ids or nothing at all, where they do not say what is to be compared."""
        if not two:
            raise UsageError("truth= or ids= is needed")
        if self.ids is not None and (len(self.objects) != 1 or two in self.polygons):
            raise UsageError(
                "ids= needs the one class that they are of in objects=, and labels in a raster or none"
            )
        if one in self.polygons and not self.options.only:
            raise UsageError(f"{one} are polygons: name the classes to compare with objects= or only=")

    def compare(self, prediction: str, truth: str, confidence: str | None, left: int) -> None:
        """Compare one prediction with its truth; `left` more will follow."""
        with ExitStack() as stack:
            location = locate(grid_of(prediction, truth, self.polygons))
            source = stack.enter_context(ClassMap(location, None, ADVICE))
            drawn, box = prediction in self.polygons, source.geobox
            own, name = not drawn or location.text != truth, prediction if drawn else location.text
            given = confidence or (percent_beside(location) if own else None)
            certain = None if given is None else open_percent(stack, given, source, ADVICE)
            self.confidence = None if given is None else os.fspath(given)
            legend, sides = self._open(stack, name, truth, source, masked=own)
            chosen, labels = self._chosen(legend), legend.labels
            maps = labels.colors()
            comparison = Comparison(box.height, box.width, labels, self.tally, chosen, maps, self.least)
            total = self.done + (1 + left) * box.width * box.height
            step = max(BLOCK, _PIXELS // box.width // BLOCK * BLOCK)
            spans = [part for strip in source.strips() for part in strip.cut(step)]
            rows = strips(spans, *sides, certain)
            with closing(read_ahead(rows, depth=1, name="read")) as ahead:
                for codes in ahead:
                    comparison.add(*codes)
                    self.done += codes[0].size
                    self.on_progress(self.done, total)
            self._say([line for side in sides for line in side.remarks()])
            self.picture, self.object_map = (
                b"" if left or picture is None else png(picture)
                for picture in (comparison.picture(), comparison.object_map())
            )

    def _open(
        self, stack: ExitStack, prediction: str, truth: str, source: ClassMap, *, masked: bool
    ) -> tuple[Legend, tuple[Side, Side]]:
        """Open truth and prediction on the pixels of a raster, and bring their classes together."""
        box, classes, shapes = source.geobox, source.classes, None
        if prediction in self.polygons:
            shapes = LabelPolygons(PolygonFile(prediction, None), box, source.name)
            values = [value for value in shapes.file.values if value is not None] or self.options.only
            classes = {k: ClassSpec(value, default_color(k)) for k, value in enumerate(values)}
        opened = self._opened(stack, truth, box, prediction)
        named = opened.classes if isinstance(opened, AlignedMap) and truth != self.ids else None
        self.legend = legend = self.legend or Legend(self.options, classes, named, (prediction, truth))
        self._chosen(legend)  # refuses what is no class
        self._say([*legend.notes, opened.note, shapes.note if shapes is not None else ""])
        true = self._true(stack, opened, legend, prediction, truth)
        if shapes is not None:
            codes, own = {v: legend.predicted(k) for k, v in enumerate(values)}, source if masked else None
            return legend, (true, from_polygons(shapes, codes.get, legend.code(OTHER), legend, own))
        return legend, (true, self._predicted(stack, source, legend, prediction))

    def _predicted(self, stack: ExitStack, source: ClassMap, legend: Legend, prediction: str) -> Side:
        """Bring a predicted raster onto codes; take objects apart where a contact map lies beside it."""
        found, chosen = CodedMap(source, legend.predicted, legend.unknown, prediction), self._chosen(legend)
        contact = percent_beside(locate(prediction), "contact")
        if contact is None or not chosen:
            return Side(lambda rows: (found.rows(rows), None))
        walls, known = open_percent(stack, contact, source, ADVICE, "contact"), source.classes
        told = [legend.predicted(value) for value, spec in known.items() if spec.name in walls.separated]
        separation = Separation(frozenset(chosen).intersection(told or chosen)).scaled(walls.scale)
        size = source.geobox.height, source.geobox.width
        return from_contact(found.rows, walls.read, size, separation)

    def _opened(
        self, stack: ExitStack, truth: str, box: GeoBox, prediction: str
    ) -> AlignedMap | LabelPolygons:
        """Open a truth, whose classes are not brought together with the prediction's yet."""
        if truth in self.polygons:
            return LabelPolygons(PolygonFile(truth, self.column), box, prediction)
        if self.column is not None or self.options.rest is not None:
            raise UsageError(f"field= and rest= are for polygons: {truth} is none")
        return stack.enter_context(AlignedMap(locate(truth), box, ADVICE, prediction))

    def _true(
        self, stack: ExitStack, opened: AlignedMap | LabelPolygons, legend: Legend, one: str, truth: str
    ) -> Side:
        """Bring an opened truth onto codes; `one` is the prediction's name."""
        if isinstance(opened, LabelPolygons):
            return from_polygons(opened, legend.text, legend.rest(), legend)
        coded = CodedMap(opened, legend.true, legend.unknown, truth)
        if self.ids is None:
            return Side(lambda rows: (coded.rows(rows), None))
        ids = stack.enter_context(AlignedMap(locate(self.ids), opened.geobox, ADVICE, one))
        (code,), alone = self._chosen(legend), truth == self.ids
        sources = self.ids, one if alone else truth
        return from_ids(ids, None if alone else coded, legend, code, sources)

    def result(self, prediction: str, truth: str) -> Evaluated:
        """Turn what was counted into figures; a `SourceError` if there was nothing to compare."""
        assert self.legend is not None
        labels, classes = self.legend.labels, len(self.legend.labels.classes)
        _refuse_nothing(self.tally, labels, prediction, truth, closed=self.legend.closed)
        occurs = self.tally.counts[:classes, :classes].any(axis=1)
        true = [labels.names[code] for code in np.flatnonzero(occurs)]
        vague = [labels.names[code] for code in np.flatnonzero(occurs & ~ends_known(self.tally, classes))]
        if len(true) == 1:
            hint = "" if self.options.only else "; only= tells a class from all the rest"
            if self.legend.guessed:
                hint = f"; its pixels of {NODATA} do not count: mapping= says which class they are"
            self._say([f"warning: the truth is all {true[0]}: the figures say little{hint}"])
        elif vague:
            some = ", ".join(vague)
            self._say([f"{some}: labels touch no other class; boundaries and objects are not measured"])
        found = figures(self.tally, labels, self._chosen(self.legend), self.least, notes=tuple(self.notes))
        if Path(prediction).is_dir() and prediction not in self.polygons:
            return Evaluated(prediction, truth, None, found, labels, b"", b"")
        return Evaluated(prediction, truth, self.confidence, found, labels, self.picture, self.object_map)

    def _chosen(self, legend: Legend) -> tuple[int, ...]:
        return tuple(legend.code(name) for name in self.objects)

    def _say(self, lines: Sequence[str]) -> None:
        for line in map(worded, lines):
            if line and line not in self.notes:
                self.notes.append(line)
                self.on_message(line)


def _refuse_nothing(tally: Tally, labels: Labels, one: str, two: str, *, closed: bool) -> None:
    """Refuse a prediction and a truth that share no labelled pixel, or have no class in common."""
    classes = len(labels.classes)
    counts = tally.counts[:classes, :classes]
    if not tally.counts[:classes].any():
        raise SourceError(f"{two} has no label on {one}: all of it is nodata or ignored there")
    if not counts.any():
        raise SourceError(f"{one} is nodata wherever {two} has a label: there is nothing to compare")
    predicted, true = counts.any(axis=0), counts.any(axis=1)
    if not closed and not (predicted & true).any():
        ours, theirs = (
            ", ".join(labels.names[code] for code in np.flatnonzero(side)) for side in (predicted, true)
        )
        raise SourceError(
            f"{one} and {two} have no class in common: {ours} against {theirs}; bring them together with "
            "names= or mapping="
        )
