"""Truth and prediction on one grid, from class rasters, polygons, or rasters with the ids of footprints.

Each gives, some rows at a time, codes, and where objects of a class are told apart, what marks them.
"""

from collections.abc import Callable, Container, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pfmap.core.arrays import Array, Bytes
from pfmap.core.classes import NODATA, PERCENT
from pfmap.core.errors import SourceError, UsageError, few
from pfmap.core.grid import Span
from pfmap.evaluation.legend import CodedMap, Legend
from pfmap.raster.align import AlignedMap, burn_values
from pfmap.raster.classmap import ClassMap
from pfmap.raster.gdal import crs_of, gdal_settings
from pfmap.raster.location import EXACT_SUFFIXES
from pfmap.raster.parts import found_rasters
from pfmap.trace.compare import CODES, NO_CODE, Marks
from pfmap.trace.separate import Separation
from pfmap.trace.tile import NOTHING, look_up, roots, shifted
from pfmap.vector.labels import LabelPolygons, remarks

ADVICE = "take one with gdal_translate -b 1, or map the scene first with pfmap predict"
"""What to do about a class raster with several bands."""

_CLASSES = "_classes"  # how names of class rasters end that pfmap predict wrote
_COLUMNS = 2048  # taken apart at a time
_OBJECTS = "_objects"  # and those of polygons
_CACHE = 128 << 20  # of decoded blocks; strips are whole blocks, so that most are read just once

Read = Callable[[Span], Array]


def find_pairs(prediction: str, truth: str, polygons: Container[str]) -> list[tuple[str, str]]:
    """Pair predictions with their truth; some of them are `polygons`.

    Both are files, or folders of rasters with the same names, whatever their format. In a folder that pfmap
    predict wrote to, its `*_classes.tif` are the predictions, named without `_classes`; else all rasters. A
    `SourceError` says that there are none, or which have no partner.
    """
    one, two = Path(prediction), Path(truth)
    if all(not Path(path).is_dir() or path in polygons for path in (prediction, truth)):
        return [(prediction, truth)]  # a FileGDB is a folder
    if one.is_dir() != two.is_dir():
        folder, other = (one, two) if one.is_dir() else (two, one)
        raise SourceError(f"{folder} is a folder and {other} is not: give two files, or two folders")
    predicted, true = _rasters(one), _rasters(two)
    ours = {stem: path for stem, path in predicted.items() if stem.endswith(_CLASSES)} or predicted
    found = {stem.removesuffix(_CLASSES): path for stem, path in ours.items()}
    known = {stem.removesuffix(_CLASSES): path for stem, path in true.items()}
    for here, ours, there, theirs in ((one, found, two, known), (two, known, one, found)):
        if missing := sorted(ours.keys() - theirs.keys()):
            raise SourceError(
                f"{len(missing)} of the rasters in {here} have no partner in {there}: {few(missing, 5)}; "
                "files that belong together have the same name"
            )
    return [(str(found[stem]), str(known[stem])) for stem in sorted(found)]


def _rasters(folder: Path) -> dict[str, Path]:
    """Find the rasters in a folder by their names without the ending."""
    found: dict[str, Path] = {}
    for path in found_rasters(folder, endings=EXACT_SUFFIXES):
        if path.stem.endswith(tuple(map("_{}".format, PERCENT))):
            continue
        if (other := found.setdefault(path.stem, path)) != path:
            raise SourceError(f"{other} and {path} have the same name: keep one of them")
    if not found:
        known = ", ".join(sorted(EXACT_SUFFIXES))
        raise SourceError(f"{folder} has no raster ({known}): class rasters are needed")
    return found


def grid_of(prediction: str, truth: str, polygons: Container[str]) -> str:
    """Name the raster whose pixels are compared: for polygons pfmap predict's beside them, or the truth.

    A `SourceError` says that there is none.
    """
    if prediction not in polygons:
        return prediction
    path = Path(prediction)
    beside = path.with_name(f"{path.stem.removesuffix(_OBJECTS)}{_CLASSES}.tif")
    if path.stem.endswith(_OBJECTS) and beside.is_file():
        return str(beside)
    if truth in polygons:
        raise SourceError(
            f"{prediction} and {truth} are polygons, without {beside.name}: one of the two has to be a raster"
        )
    return truth


@dataclass(frozen=True, slots=True)
class Side:
    """A truth or a prediction, on the pixels of one raster."""

    rows: Callable[[Span], tuple[Bytes, Marks | None]]
    """Gives the ``(rows, width)`` codes of rows, and what tells objects apart; rows come from the top."""
    remarks: Callable[[], list[str]] = list
    """Says at the end what is to be known about it, or raises why there is nothing of it."""


def from_polygons(
    shapes: LabelPolygons,
    code: Callable[[str], int | None],
    rest: int,
    legend: Legend,
    source: ClassMap | None = None,
) -> Side:
    """Burn polygons into a grid: a pixel is what the last one says that its centre lies in, else `rest`.

    `code` gives the code of a class that they name, or None. What is nodata in `source` does not count. A
    `SourceError` names unknown classes, a `UsageError` says that they have none.
    """
    file, box, only = shapes.file, shapes.geobox, legend.options.only
    if file.field is None and len(only) != 1:
        raise UsageError(
            f"{file.text} has no field class: name the field with field=, or, if all polygons are of one "
            "class, that class with only="
        )
    codes: dict[str | None, Any] = {value: code(value) for value in file.values if value is not None}
    if missing := [value for value, number in codes.items() if number is None]:
        raise legend.unknown(sorted(map(str, missing)))
    codes[None] = NO_CODE if file.field else legend.code(only[0])

    def rows(rows: Span) -> tuple[Bytes, Marks]:
        found = list(shapes.strip(rows))
        burnt = [(shape, k) for k, (shape, _) in enumerate(found)]
        at = burn_values(burnt, rows, Span(0, box.width), len(found), dtype=np.int32)
        values = np.array([*(codes[klass] for _, (klass, _) in found), rest], dtype=np.uint8)[at]
        if source is not None:
            values[source.read(rows) == source.nodata] = NO_CODE
        return values, Marks(np.array([*(number for _, (_, number) in found), 0])[at])

    def said() -> list[str]:
        if not shapes.tally.placed:
            raise SourceError(
                f"{file.text} and {shapes.raster} do not overlap: none of its features is a polygon that "
                f"reaches the scene, which covers {','.join(f'{v:.8g}' for v in box.bounds)} in "
                f"{box.crs_name}"
            )
        return remarks([file], shapes.tally)

    return Side(rows, said)


def from_ids(
    ids: AlignedMap, labels: CodedMap | None, legend: Legend, code: int, sources: tuple[str, str]
) -> Side:
    """Tell objects of one class apart by ids, 0 for none; without labels they say what is of the class, too.

    `sources` are the names of the ids and of the labels, or else of the prediction. A `SourceError` says that
    the ids lie on another grid.
    """
    one, two = sources
    grids = [(crs_of(box.crs_wkt), np.delete(box.transform, [2, 5])) for box in (ids.own, ids.geobox)]
    if ids.moved and (grids[0][0] != grids[1][0] or not np.allclose(grids[0][1], grids[1][1], 1e-6, 0)):
        raise SourceError(
            f"{one} lies on another grid than {two}, and ids are not resampled: burn the objects into its "
            "pixels, or give their polygons as the truth"
        )
    rest = legend.rest() if labels is None else NO_CODE
    pixels = np.zeros(2, dtype=np.int64)  # with an id, and another label or the class's

    def rows(rows: Span) -> tuple[Bytes, Marks]:
        values = ids.read(rows).astype(np.int32)
        values[values == ids.nodata] = NOTHING
        codes = np.array([rest, code, NO_CODE], dtype=np.uint8)[np.sign(values)]
        if labels is not None:
            codes = labels.rows(rows)
        pixels[:] += np.bincount(codes[(values > 0) & (codes != NO_CODE)] == code, minlength=2)
        return codes, Marks(values)

    def said() -> list[str]:
        if not pixels[1]:
            raise SourceError(f"{one} has no id on a pixel that counts and is labelled as its class in {two}")
        some = f"warning: {pixels[0]:,} pixels of {one} have an id, but another label in {two}"
        return [f"{some}: they belong to no object"] * bool(pixels[0])

    return Side(rows, said)


def from_contact(classes: Read, contact: Read, shape: tuple[int, ...], separation: Separation) -> Side:
    """Take objects of ``(height, width)`` codes apart by contact in percent, as the tracer does it."""
    halo, (height, width) = separation.halo, shape

    def around(span: Span, size: int) -> Span:
        return Span(span.start - halo, span.stop + halo).clip(Span(0, size))

    def rows(rows: Span) -> tuple[Bytes, Marks]:
        view = around(rows, height)
        at, codes, walls = rows.within(view), classes(view), contact(view).astype(np.uint8)
        marks, count, pairs = np.full(codes.shape, NOTHING, dtype=np.int32), 0, [np.zeros((0, 2), np.int64)]
        beside: Any = None  # parts of the column right of what is done
        for cols in Span(0, width).cut(_COLUMNS):
            near = around(cols, width)
            inner, side = cols.within(near), slice(near.start, near.stop)
            parts: Any = separation.parts(codes[:, side], (at, inner), walls[:, side])
            if parts is not None:
                parts = shifted(parts, count)
                count = max(count, int(parts.max()) + 1)
                marks[:, cols.start : cols.stop] = parts[:, inner]
                if beside is not None:
                    pairs.append(np.column_stack([beside, parts[:, inner.start]])[at])
            beside = None if parts is None or cols.stop == width else parts[:, inner.stop].copy()
        touch = np.unique(np.concatenate(pairs), axis=0)
        objects = roots(count, touch[(touch >= 0).all(axis=1)])
        marks = (look_up(objects, marks).astype(np.int32) + 1) * CODES + codes + 1  # of one class each
        return codes[at], Marks(marks[at], marks[at.start - 1] if at.start else np.zeros_like(marks[0]))

    return Side(rows)


def strips(
    rows: Sequence[Span], true: Side, predicted: Side, certain: ClassMap | None
) -> Generator[tuple[Bytes, Bytes, Bytes | None, Marks | None, Marks | None]]:
    """Yield codes of the truth and of the prediction, confidence in percent, and the marks of both."""
    with gdal_settings(cache=_CACHE):
        for strip in rows:
            percent = None if certain is None else _percent(certain, strip)
            (codes, marks), (others, of_others) = true.rows(strip), predicted.rows(strip)
            yield codes, others, percent, marks, of_others


def _percent(confidence: ClassMap, rows: Span) -> Bytes:
    """Read confidence in percent, 255 where it is unknown; a `SourceError` names other values."""
    values = confidence.read(rows)
    unknown = (values == NODATA) | (values == confidence.nodata)
    if (values[~unknown] > 100).any():
        raise SourceError(
            f"{confidence.name} has the value {values[~unknown].max()}: percent, 0 to 100, is needed; choose "
            "another with confidence="
        )
    return np.where(unknown, NODATA, values).astype(np.uint8)
