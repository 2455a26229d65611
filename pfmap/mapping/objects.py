"""From rows of a class raster to finished vector files: what polygons are to be like, and making them."""

import math
import os
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from pfmap.core.classes import ClassSpec
from pfmap.core.errors import TargetError, UsageError
from pfmap.core.files import existing, file_names, remove
from pfmap.core.grid import GeoBox, Span, mean_size
from pfmap.core.regions import Regions
from pfmap.trace.sieve import Sieve
from pfmap.trace.tracer import Tracer
from pfmap.vector.formats import FORMATS, PART
from pfmap.vector.geodesy import Measurer, pixel_area
from pfmap.vector.regularize import Regularizer
from pfmap.vector.write import ObjectWriter, SceneNames, file_part

_SIMPLIFY_PIXELS = 1.25
"""Default of `simplify`: enough that the steps of a slanted edge vanish, and its noise of one pixel."""


SPLIT_LARGE = 100_000
"""Default of `split_large`: larger polygons make GIS programs slow."""


@dataclass(frozen=True, slots=True)
class ShapeOptions:
    """What polygons are to be like. Lengths and areas are in pixels where the scene has no CRS.

    Attributes:
        formats: vector files to write.
        regularize: names of the classes whose objects are squared.
        simplify: how far outlines may be moved, metres; 0 leaves them as the pixels are; None for 1.25
            pixels.
        min_area: smaller regions are merged into the neighbour with the longest border, square metres.
        fill_holes: smaller regions inside one other are merged into it, square metres.
        drop_small: whether regions below `min_area` are left out instead of merged.
        split_large: objects of more vertices are cut along a grid; 0 never cuts.
        split_by_class: whether each class gets files of its own.
    """

    formats: tuple[str, ...] = ("gpkg",)
    simplify: float | None = None
    regularize: tuple[str, ...] = ()
    min_area: float = 0.0
    fill_holes: float = 0.0
    drop_small: bool = False
    split_large: int = SPLIT_LARGE
    split_by_class: bool = False

    def __post_init__(self) -> None:
        unknown = [form for form in self.formats if form not in FORMATS]
        if unknown:
            raise UsageError(f"format {unknown[0]!r} is unknown: use {', '.join(FORMATS)}")
        if not self.formats:
            raise UsageError(f"no vector format is named: use one or more of {', '.join(FORMATS)}")
        if self.drop_small and not self.min_area:
            raise UsageError("--drop-small needs --min-area: how small is small?")
        for name, value in (
            ("simplify", self.simplify),
            ("min area", self.min_area),
            ("fill holes", self.fill_holes),
        ):
            if value is not None and not 0 <= value < math.inf:
                raise UsageError(f"{name} {value} is not possible: use 0 or more")
        if self.split_large < 0:
            raise UsageError(f"split large {self.split_large} is not possible: use 0 or more")

    def tolerance(self, gsd: float) -> float:
        """Return `simplify` in pixels.

        Args:
            gsd: side of a pixel on the ground, metres, or 1 without a CRS.
        """
        return _SIMPLIFY_PIXELS if self.simplify is None else self.simplify / gsd


def refuse_unwanted(
    regularized: Iterable[int], wanted: Container[int], classes: Mapping[int, ClassSpec]
) -> None:
    """Refuse to square objects of classes that do not become polygons.

    Args:
        regularized: values of those whose objects are to be squared.
        wanted: values that become polygons.
        classes: their names.

    Raises:
        UsageError: there is such a class.
    """
    for value in regularized:
        if value not in wanted:
            raise UsageError(
                f"class {classes[value].name!r} is to be squared, but does not become polygons: name it in "
                "--classes too"
            )


def vector_names(stem: str, options: ShapeOptions, wanted: Iterable[ClassSpec]) -> dict[str, str]:
    """Return the names of the vector files by kind, apart from further parts of shapefiles."""
    if not options.split_by_class:
        return {form: f"{stem}.{form}" for form in options.formats}
    return {
        f"{form}.{spec.name}": f"{stem}_{file_part(spec.name)}.{form}"
        for spec in wanted
        for form in options.formats
    }


def refuse_odd_names(folder: Path, stem: str) -> None:
    """Refuse names that the libraries for vector files take for something else.

    Raises:
        TargetError: there is such a letter in it.
    """
    odd = sorted({";", "!"} & set(str(folder / stem)))
    if odd:
        raise TargetError(
            f"{folder / stem} has {' and '.join(odd)} in its name, which writers of vector files cannot "
            "handle: choose another folder with --output-dir, or rename the scene"
        )


def refuse_existing(folder: Path, stem: str, options: ShapeOptions, *, overwrite: bool) -> None:
    """Refuse to replace vector files.

    Raises:
        TargetError: there are some, and they are not to be replaced.
    """
    endings = "|".join(options.formats)
    further = "(_.+)" if options.split_by_class else ""
    pattern = rf"{re.escape(stem)}{further}\.({endings})"
    there = [name for name in file_names(folder, stem) if re.fullmatch(pattern, name)]
    refuse_to_replace(folder, there, overwrite=overwrite)


def refuse_to_replace(folder: Path, names: Iterable[str], *, overwrite: bool, note: str = "") -> None:
    """Refuse to replace those of these files that exist.

    Args:
        folder: where they are.
        names: of the files.
        overwrite: whether they may be replaced.
        note: what is known of them.

    Raises:
        TargetError: there are some, and they are not to be replaced.
    """
    there = [str(folder / name) for name in existing(folder, names)]
    if there and not overwrite:
        raise TargetError(
            f"{', '.join(there)} exist{'s' * (len(there) == 1)} already{note}: replace with --overwrite, or "
            "choose another folder with --output-dir"
        )


def clear_parts(folder: Path, stem: str) -> None:
    """Delete further parts of shapefiles that an earlier run left: no new ones would replace them."""
    for name in file_names(folder, stem):
        if re.fullmatch(rf"{re.escape(stem)}.*{PART}\d+\.(shp|shx|dbf|prj|cpg|qml)", name):
            remove(folder / name)


class ClassTable(dict[int, ClassSpec]):
    """Names and colours of classes by their value; a class that is not named is called by its value.

    Args:
        known: the named ones.
        color: gives a colour to a value.
    """

    def __init__(self, known: Mapping[int, ClassSpec], color: Callable[[int], str]) -> None:
        super().__init__(known)
        self._color = color

    def __missing__(self, value: int) -> ClassSpec:
        self[value] = ClassSpec(str(value), self._color(value))
        return self[value]


class Shaper:
    """Makes vector files of a class raster that comes in rows, top to bottom. Use it as a context manager.

    Args:
        folder: where the files go.
        stem: what their names begin with.
        geobox: the grid of the class raster.
        classes: names and colours, by the value in the raster.
        wanted: values that become polygons; None for all.
        nodata: value that is no class, or None.
        measurer: gives areas and lengths.
        pixel: width and height of a pixel on the ground, metres; None without a CRS.
        regularized: values whose objects are squared.
        options: what the polygons are to be like.
        scene: name of the scene, or what says it for each object.
        metadata: run parameters, kept in the files.
        has_confidence: whether confidences are known.
    """

    def __init__(
        self,
        folder: Path,
        stem: str,
        geobox: GeoBox,
        classes: ClassTable,
        wanted: frozenset[int] | None,
        *,
        nodata: int | None,
        measurer: Measurer,
        pixel: tuple[float, float] | None,
        regularized: frozenset[int] = frozenset(),
        options: ShapeOptions,
        scene: str | SceneNames,
        metadata: Mapping[str, str],
        has_confidence: bool = True,
    ) -> None:
        across, down = pixel or (1.0, 1.0)
        self._geobox, self._measurer, self._options = geobox, measurer, options
        self._folder, self._nodata, self._wanted = folder, nodata, wanted
        self._tolerance = options.tolerance(mean_size((across, down)))
        self._tracer: Tracer | None = None
        self._earlier = 0  # pieces in parts that are complete
        self.writer = ObjectWriter(
            folder=folder,
            stem=stem,
            formats=options.formats,
            classes=classes,
            wanted=wanted,
            geobox=geobox,
            measurer=measurer,
            scene=scene,
            min_area=options.min_area if options.drop_small else 0.0,
            metadata=metadata,
            by_class=options.split_by_class,
            has_confidence=has_confidence,
            regularizer=Regularizer(regularized, (across, down), pixel is not None) if regularized else None,
        )

    def __enter__(self) -> "Shaper":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tracer is not None:
            self._tracer.__exit__(kind, error, trace)
        self.writer.close()

    def begin(self, rows: Span, cols: Span) -> None:
        """Go on with this part of the class raster; it knows nothing of the one before, which is complete."""
        if self._tracer is not None:
            self._earlier += self._tracer.piece_count
            self._tracer.__exit__(None, None, None)
        options, geobox, measurer = self._options, self._geobox, self._measurer
        self._rows, self._cols = rows, cols
        self._sieves = []
        limits = (0.0 if options.drop_small else options.min_area, False), (options.fill_holes, True)
        for limit, holes_only in limits:
            if limit:
                self._sieves.append(
                    Sieve(
                        rows.size,
                        cols.size,
                        nodata=self._nodata,
                        limit=limit,
                        holes_only=holes_only,
                        pixel_area=lambda row: pixel_area(geobox, measurer, rows.start + row),
                    )
                )
        self._tracer = Tracer(
            rows.size,
            cols.size,
            nodata=self._nodata,
            wanted=self._wanted,
            tolerance=self._tolerance,
            split=options.split_large,
            workers=os.cpu_count() or 1,
            spool=self._folder,
        )

    def trace(self, classes: npt.NDArray[Any], confidence: npt.NDArray[np.uint8] | None) -> Iterator[Regions]:
        """Take the next rows, and give the regions that are closed then; `writer` takes them."""
        if self._tracer is None:
            self.begin(Span(0, self._geobox.height), Span(0, self._geobox.width))
        assert self._tracer is not None
        if confidence is None:
            confidence = np.broadcast_to(np.uint8(0), classes.shape)
        rows: Iterator[tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]] = iter([(classes, confidence)])
        for sieve in self._sieves:
            rows = _through(sieve, rows)
        narrow, wide = self._cols.size, self._geobox.width
        for part in rows:
            for regions in self._tracer.add(*part):
                if narrow == wide:
                    yield regions
                else:
                    yield regions.moved(self._rows.start, self._cols.start, narrow, wide)

    @property
    def seen(self) -> bool:
        """Whether any pixel had a class so far, wanted or not."""
        here = 0 if self._tracer is None else self._tracer.piece_count
        return self._earlier + here > 0


def _through(
    sieve: Sieve, rows: Iterator[tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]]
) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]]:
    for classes, confidence in rows:
        yield from sieve.add(classes, confidence)
