"""Evaluate class rasters against their truth: two files, or two folders of files with the same names.

Both are read side by side on the prediction's grid, a strip of rows at a time.
"""

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pfmap.core.classes import NODATA
from pfmap.core.errors import SourceError, worded
from pfmap.core.grid import Span
from pfmap.core.stages import read_ahead
from pfmap.evaluation.comparison import Comparison, Labels, Tally
from pfmap.evaluation.figures import Evaluation, ends_known, figures, lines_of
from pfmap.evaluation.legend import CodedMap, Legend, MatchOptions
from pfmap.evaluation.truth import ADVICE, Codes, PolygonTruth, open_truth
from pfmap.raster.align import AlignedMap
from pfmap.raster.classmap import ClassMap, open_percent, percent_beside
from pfmap.raster.gdal import gdal_settings
from pfmap.raster.location import EXACT_SUFFIXES, locate
from pfmap.raster.parts import found_rasters
from pfmap.raster.preview import png
from pfmap.vector.layer import is_vector
from pfmap.version import __version__

Progress = Callable[[int, int], None]

_CLASSES = "_classes"  # how names of class rasters end that pfmap predict wrote
_CACHE = 128 << 20  # of decoded blocks; strips are whole blocks, so that most are read just once


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What comparing a prediction with its truth gave, each a file or a folder."""

    prediction: str
    truth: str
    confidence: str | None
    """The raster it was taken from; None without one, and for folders."""
    figures: Evaluation
    labels: Labels
    """What the codes mean."""
    picture: bytes
    """Map of errors as a PNG file; empty for folders."""

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
        section = Section("", self.figures, self.labels, self.picture)
        return page(f"Evaluation of {Path(self.prediction).name}", facts, [section])


def evaluate(
    prediction: str | os.PathLike[str],
    truth: str | os.PathLike[str],
    *,
    names: Mapping[int, str] | None = None,
    mapping: Mapping[str, str] | None = None,
    ignore: Sequence[str] = (),
    only: Sequence[str] = (),
    field: str | None = None,
    rest: str | None = None,
    objects: Sequence[str] = (),
    confidence: str | os.PathLike[str] | None = None,
    on_progress: Progress = lambda _done, _total: None,
    on_message: Callable[[str], None] = lambda _text: None,
) -> Evaluated:
    """Compare a class raster with the truth, in memory that does not grow with its height.

    Args:
        prediction: a class raster of any origin; its grid is the one on which both are compared. Or a folder
            of them.
        truth: a class raster of any CRS, resolution and extent, or a file of polygons, or ``FILE:layer``. Or
            a folder of rasters with the predictions' names.
        names: of the prediction's classes, by value; None for those in the raster.
        mapping: classes of the truth, by value or name, to those of the prediction.
        ignore: classes of the truth, by value or name, that do not count.
        only: classes that are told apart; all others are one, "other". Empty for all.
        field: column of the polygons with their classes; None for `class`. Without one, and with one class
            in `only`, all polygons are that class.
        rest: what lies outside all polygons: "ignore", or a class; None for "other" with `only`, else
            "ignore".
        objects: classes whose objects are matched.
        confidence: raster with percent; None for that of pfmap predict beside the prediction.
        on_progress: called with (pixels done, pixels in all); it may raise to stop.
        on_message: called with lines for people.

    Raises:
        PfmapError: bad input.
    """
    options = MatchOptions(names or {}, mapping or {}, tuple(ignore), tuple(only), rest)
    job = _Job(options, tuple(objects), field, on_progress, on_message)
    pairs = find_pairs(prediction, truth)
    if len(pairs) > 1 and confidence is not None:
        raise SourceError("confidence= is for one prediction: for folders it is found beside each of them")
    for number, (one, two) in enumerate(pairs):
        given = None if confidence is None else locate(confidence).text
        job.compare(one, two, given, left=len(pairs) - number - 1)
    return job.result(os.fspath(prediction), os.fspath(truth))


def find_pairs(prediction: str | os.PathLike[str], truth: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """Pair predictions with their truth.

    Both are files, or folders of rasters with the same names, whatever their format. In a folder that pfmap
    predict wrote to, its `*_classes.tif` are the predictions, named without `_classes`; else all rasters.

    Raises:
        SourceError: a folder is empty, only one of the two is a folder, or files have no partner.
    """
    one, two = Path(prediction), Path(truth)
    if not one.is_dir() and (not two.is_dir() or is_vector(str(two))):  # a FileGDB is a folder
        return [(os.fspath(prediction), os.fspath(truth))]
    if one.is_dir() != two.is_dir():
        folder, other = (one, two) if one.is_dir() else (two, one)
        raise SourceError(f"{folder} is a folder and {other} is not: give two files, or two folders")
    predicted, true = _rasters(one), _rasters(two)
    ours = {stem: path for stem, path in predicted.items() if stem.endswith(_CLASSES)} or predicted
    found = {stem.removesuffix(_CLASSES): path for stem, path in ours.items()}
    known = {stem.removesuffix(_CLASSES): path for stem, path in true.items()}
    for missing, here, there in (
        (sorted(found.keys() - known.keys()), one, two),
        (sorted(known.keys() - found.keys()), two, one),
    ):
        if missing:
            some = ", ".join(missing[:5]) + ", ..." * (len(missing) > 5)
            raise SourceError(
                f"{len(missing)} of the rasters in {here} have no partner in {there}: {some}; files that "
                "belong together have the same name"
            )
    return [(str(found[stem]), str(known[stem])) for stem in sorted(found)]


def _rasters(folder: Path) -> dict[str, Path]:
    """Find the rasters in a folder by their names without the ending."""
    found: dict[str, Path] = {}
    for path in found_rasters(folder, endings=EXACT_SUFFIXES):
        if not path.stem.endswith(("_confidence", "_contact")):
            if path.stem in found:
                raise SourceError(f"{found[path.stem]} and {path} have the same name: keep one of them")
            found[path.stem] = path
    if not found:
        raise SourceError(
            f"{folder} has no raster ({', '.join(sorted(EXACT_SUFFIXES))}): class rasters are needed"
        )
    return found


@dataclass(slots=True)
class _Job:
    """Predictions that are compared with their truth, one after the other."""

    options: MatchOptions
    objects: tuple[str, ...]
    column: str | None
    on_progress: Progress
    on_message: Callable[[str], None]
    tally: Tally = field(default_factory=Tally)
    notes: list[str] = field(default_factory=list)
    legend: Legend | None = None
    done: int = 0
    confidence: str | None = None
    picture: bytes = b""

    def compare(self, prediction: str, truth: str, confidence: str | None, left: int) -> None:
        """Compare one prediction with its truth; `left` more will follow."""
        with ExitStack() as stack:
            location = locate(prediction)
            name = location.text
            source = stack.enter_context(ClassMap(location, None, ADVICE))
            box = source.geobox
            given = confidence or percent_beside(location)
            certain = None if given is None else open_percent(stack, given, source, name, ADVICE)
            self.confidence = None if given is None else os.fspath(given)
            opened = open_truth(stack, truth, self.column, self.options.rest, box, name)
            classes = opened.classes if isinstance(opened, AlignedMap) else None
            legend = self.legend or Legend(self.options, source.classes, classes, (name, truth))
            self.legend = legend
            true = (
                CodedMap(opened, legend.true, legend.unknown, truth)
                if isinstance(opened, AlignedMap)
                else PolygonTruth(opened, legend, box, name)
            )
            predicted = CodedMap(source, legend.predicted, legend.unknown, name)
            self._say([*legend.notes, opened.note])
            chosen, labels = self._chosen(legend), legend.labels
            comparison = Comparison(box.height, box.width, labels, self.tally, chosen, labels.colors())
            total = self.done + (1 + left) * box.width * box.height
            strips = _strips(source.strips(), true, predicted, certain, str(given))
            with closing(read_ahead(strips, depth=1, name="read")) as ahead:
                for codes in ahead:
                    comparison.add(*codes)
                    self.done += codes[0].size
                    self.on_progress(self.done, total)
            if isinstance(true, PolygonTruth):
                self._say(true.remarks())
            self.picture = png(comparison.picture()) if not left else b""

    def result(self, prediction: str, truth: str) -> Evaluated:
        """Turn what was counted into figures.

        Raises:
            SourceError: there was nothing to compare.
        """
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
        found = figures(self.tally, labels, objects=self._chosen(self.legend), notes=tuple(self.notes))
        if Path(prediction).is_dir():
            return Evaluated(prediction, truth, None, found, labels, b"")
        return Evaluated(prediction, truth, self.confidence, found, labels, self.picture)

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


def _strips(
    rows: Sequence[Span],
    true: CodedMap | PolygonTruth,
    predicted: CodedMap,
    certain: ClassMap | None,
    name: str,
) -> Generator[tuple[Codes, Codes, Codes | None], None, None]:
    """Yield codes of the truth and of the prediction, and confidence in percent; the name is its raster's."""
    with gdal_settings(cache=_CACHE):
        for strip in rows:
            percent = None if certain is None else _percent(certain, strip, name)
            yield true.rows(strip), predicted.rows(strip), percent


def _percent(confidence: ClassMap, rows: Span, name: str) -> Codes:
    """Read confidence in percent, 255 where it is unknown.

    Raises:
        SourceError: there are other values.
    """
    values = confidence.read(rows)
    unknown = values == NODATA
    if confidence.nodata is not None:
        unknown |= values == confidence.nodata
    if (values[~unknown] > 100).any():
        raise SourceError(
            f"{name} has the value {values[~unknown].max()}: percent, 0 to 100, is needed; choose another "
            "with confidence="
        )
    return np.where(unknown, NODATA, values).astype(np.uint8)
