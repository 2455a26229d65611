"""From rows of a class raster to finished vector files."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, starmap
from pathlib import Path
from types import TracebackType

import numpy as np

from pfmap.core.arrays import Array, Bytes
from pfmap.core.classes import ClassSpec
from pfmap.core.errors import UNSEEN, TargetError, UsageError, visible
from pfmap.core.files import existing, file_names, scratch
from pfmap.core.grid import GeoBox, Span, mean_size
from pfmap.core.resources import UNDATED, beside, refuse_open
from pfmap.core.stages import Regions
from pfmap.core.system import longest_name
from pfmap.mapping.options import ShapeOptions
from pfmap.trace.separate import Separation
from pfmap.trace.sieve import Rows, Sieve
from pfmap.trace.tracer import Tracer
from pfmap.vector.geodesy import Measurer, pixel_area, pixel_size
from pfmap.vector.regularize import Regularizer
from pfmap.vector.write import ObjectWriter, SceneNames, file_part

_ON_THE_WAY = 32
"""Bytes that names of files have which are written on the way to one: journals, indices, a random ending."""

_SQLITE_PATH = 511

_FEWEST = 16.0  # pixels of an object, whatever its class


def limits_of(
    options: ShapeOptions, classes: Iterable[ClassSpec], geobox: GeoBox, measurer: Measurer
) -> tuple[float, ...]:
    """Return below which area regions are small, in the measurer's unit: one for all, or of each class."""
    if options.min_area is not None:
        return (options.min_area,)
    if measurer.units == "px":
        return (_FEWEST,)
    fewest = 0.9999 * _FEWEST * pixel_area(geobox, measurer, geobox.height / 2)  # for areas are rounded
    return tuple(max(fewest, spec.min_area) for spec in classes)


def vector_names(stem: str, options: ShapeOptions, wanted: Iterable[ClassSpec]) -> dict[str, str]:
    """Return the names of the vector files by kind, apart from further parts of shapefiles."""
    if not options.split_by_class:
        return {form: f"{stem}.{form}" for form in options.formats}
    return {
        f"{form}.{spec.name}": f"{stem}_{file_part(spec.name)}.{form}"
        for spec in wanted
        for form in options.formats
    }


def refuse_odd_names(folder: Path, stem: str, names: Iterable[str]) -> None:
    """Refuse names of outputs, from `stem` on, that a disk or a library cannot handle, by a `TargetError`."""
    here = scratch(folder).absolute()
    if odd := sorted(one for one in set(str(folder / stem)) if one in ";!" or UNSEEN.match(one)):
        raise TargetError(
            f"{folder / stem} has {visible(' and '.join(odd))} in its name, which writers of files cannot "
            "handle: choose another folder with output_dir=, or rename the scene"
        )
    home = next(path for path in (here, *here.parents) if path.is_dir())
    limit = longest_name(home)
    for name in names:
        size = len(os.fsencode(name)) + _ON_THE_WAY
        if size > limit:
            raise TargetError(
                f"{folder / name} has too long a name: with the files on the way it takes {size} bytes, of "
                f"{limit} that file names can have here: rename the scene"
            )
        size += len(os.fsencode(here / stem))
        if name.endswith(".gpkg") and size > _SQLITE_PATH:
            raise TargetError(
                f"{folder / name} has too long a path: with the files on the way it takes {size} bytes, of "
                f"{_SQLITE_PATH} that a GeoPackage's can have: choose another folder with output_dir="
            )


def refuse_existing(
    folder: Path, stem: str, options: ShapeOptions, names: Iterable[str], *, overwrite: bool
) -> None:
    """Refuse to replace vector files, those of these names and of other classes, by a `TargetError`."""
    further = "(_.+)" * options.split_by_class
    pattern = rf"{re.escape(stem)}{further}\.({'|'.join(options.formats)})"
    there = [name for name in file_names(folder, stem) if re.fullmatch(pattern, name)]
    refuse_to_replace(folder, [*names, *there], overwrite=overwrite)


def refuse_to_replace(
    folder: Path, names: Iterable[str], *, overwrite: bool, note: str = "", sources: Iterable[Path] = ()
) -> None:
    """Refuse to replace those of these files that exist, by a `TargetError`; `note` is what is known of them.

    What outputs are made of, `sources`, is never replaced.
    """
    new = dict.fromkeys(names)
    there = existing(folder, new)
    own = {(folder / name).resolve() for name in there}
    if used := [path for path in sources if path.resolve() in own]:
        raise TargetError(
            f"{used[0]} is what the outputs are made of, and one of them has its name: choose another folder "
            "with output_dir="
        )
    for name in (one for each in new for one in (each, *beside(each), f"{Path(each).stem}.qml")):
        if (folder / name).is_dir():
            raise TargetError(
                f"{folder / name} is a folder, and a file is to go there: move it away, or choose another "
                "folder with output_dir="
            )
    if there and not overwrite:
        some = ", ".join(str(folder / name) for name in there)
        raise TargetError(
            f"{some} exist{'s' * (len(there) == 1)} already{note}: replace with overwrite=True, or choose "
            "another folder with output_dir="
        )
    for name in there:
        refuse_open(folder / name)


def numbered(files: Mapping[str, Sequence[Path]]) -> dict[str, Path]:
    """Name each file by its kind; further ones of a kind, such as parts of a shapefile, kind_2 and so on."""
    return {
        kind if number == 1 else f"{kind}_{number}": path
        for kind, paths in files.items()
        for number, path in enumerate(paths, 1)
    }


@dataclass(frozen=True, slots=True)
class Chosen:
    """What becomes of classes, by their value in the raster."""

    wanted: frozenset[int] | None
    """Those that become polygons; None for all."""
    regularized: frozenset[int]
    """Those whose objects are squared."""
    smoothed: frozenset[int]
    """Those whose outlines become curves."""
    separation: Separation | None
    """How objects that touch are taken apart; None leaves them together."""

    @property
    def by_contact(self) -> frozenset[int]:
        """Those that are taken apart by a contact map."""
        return self.separation.by_contact if self.separation else frozenset()

    @classmethod
    def of(
        cls,
        shapes: ShapeOptions,
        find: Callable[[Sequence[str]], Iterable[int]],
        wanted: frozenset[int] | None,
        shown: frozenset[int],
        classes: Mapping[int, ClassSpec],
        scale: float,
    ) -> "Chosen":
        """Say what becomes of classes, which `find` finds by their names.

        What touches is taken apart by a contact map where that has `shown` it, else by shape; by default what
        is shown and wanted. `scale` is as in `Separation`. A `UsageError` says that one of those does not
        become polygons.
        """
        if shapes.separate is None:
            apart = shown if wanted is None else shown & wanted
        else:
            apart = frozenset(find([name for name in shapes.separate if name != "none"]))
        squared = frozenset(find(shapes.regularize))
        for values, what in ((squared, "squared"), (apart, "taken apart")):
            if wanted is not None and (lost := values - wanted):
                raise UsageError(
                    f"class {classes[min(lost)].name!r} is to be {what}, but does not become polygons: name "
                    "it in classes= too"
                )
        separation = Separation(apart & shown, apart - shown).scaled(scale) if apart else None
        return cls(wanted, squared, frozenset(find(shapes.smooth)), separation)


class Shaper:
    """Makes vector files of a class raster that comes in rows, top to bottom. Use it as a context manager.

    `classes` go by the value in the raster. `scene` is its name, or what says it for each object.
    """

    def __init__(
        self,
        folder: Path,
        stem: str,
        geobox: GeoBox,
        classes: Mapping[int, ClassSpec],
        chosen: Chosen,
        *,
        nodata: int | None,
        options: ShapeOptions,
        scene: str | SceneNames,
        metadata: Mapping[str, str],
        moment: datetime = UNDATED,
        has_confidence: bool = True,
    ) -> None:
        size = (pixel := pixel_size(geobox)) or (1.0, 1.0)
        self.measurer = Measurer(geobox.crs_wkt, geobox.center)
        self._geobox, self._options = geobox, options
        self._folder, self._nodata, self._chosen = folder, nodata, chosen
        self._tolerance = options.tolerance(mean_size(size))
        self._limits = limits_of(options, classes.values(), geobox, self.measurer)
        self.on_sieved: Sequence[Callable[[int, Array], None]] = ()
        """Called with the number of the first row and rows of classes, as the polygons have them."""
        squared = chosen.regularized
        self._curves = dict.fromkeys(chosen.smoothed, True) | dict.fromkeys(squared, False)
        self._part = ExitStack()  # holds what traces the part in work
        self._tracer: Tracer | None = None
        self.seen = False
        """Whether any pixel had a class so far, wanted or not."""
        self.writer = ObjectWriter(
            folder=folder,
            stem=stem,
            formats=options.formats,
            classes=classes,
            wanted=chosen.wanted,
            geobox=geobox,
            measurer=self.measurer,
            scene=scene,
            min_area=self._limits if options.drop_small else (),
            metadata=metadata,
            by_class=options.split_by_class,
            apart=chosen.separation.classes if chosen.separation else frozenset(),
            has_confidence=has_confidence,
            moment=moment,
            regularizer=Regularizer(squared, size, pixel is not None) if squared else None,
        )

    def __enter__(self) -> "Shaper":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._part.close()
        self.writer.close()

    def begin(self, rows: Span, cols: Span) -> None:
        """Go on with this part of the class raster; it knows nothing of the one before, which is complete."""
        self._part.close()
        self._rows, self._cols, self._top = rows, cols, rows.start
        small = () if self._options.drop_small else self._limits
        self._sieves = [
            Sieve(
                rows.size,
                cols.size,
                nodata=self._nodata,
                limits=limits,
                holes_only=holes_only,
                pixel_area=lambda row: pixel_area(self._geobox, self.measurer, rows.start + row),
            )
            for limits, holes_only in ((small, False), ((self._options.fill_holes,), True))
            if any(limits)
        ]
        pixel = pixel_area(self._geobox, self.measurer, self._geobox.height / 2)
        self._tracer = Tracer(
            rows.size,
            cols.size,
            nodata=self._nodata,
            wanted=self._chosen.wanted,
            tolerance=self._tolerance,
            split=self._options.split_large,
            workers=os.cpu_count() or 1,
            spool=self._folder,
            separation=self._chosen.separation,
            limits=[limit / pixel for limit in self._limits],
            curves=self._curves,
        )
        self._part.enter_context(self._tracer)

    def merge(
        self, classes: Array, confidence: Bytes | None = None, contact: Bytes | None = None
    ) -> Iterator[Rows]:
        """Take the next ``(rows, width)``, and give those whose small regions are merged, for `trace`.

        `confidence` and `contact` are percent, where they are known.
        """
        if self._tracer is None:
            self.begin(Span(0, self._geobox.height), Span(0, self._geobox.width))
        if confidence is None:
            confidence = np.broadcast_to(np.uint8(0), classes.shape)
        rows: Iterator[Rows] = iter([(classes, confidence, *([] if contact is None else [contact]))])
        for sieve in self._sieves:
            rows = chain.from_iterable(starmap(sieve.add, rows))
        for part in rows:
            for call in self.on_sieved:
                call(self._top, part[0])
            self._top += len(part[0])
            yield part

    def trace(self, *rows: Array) -> Iterator[Regions]:
        """Take the next rows of `merge`, and give the regions that are closed then; `writer` takes them."""
        assert self._tracer is not None
        place = self._rows.start, self._cols.start, self._cols.size, self._geobox.width
        for regions in self._tracer.add(*rows):
            yield regions.moved(*place)
        self.seen = self.seen or self._tracer.piece_count > 0

    @property
    def merged(self) -> Counter[tuple[str, int]]:
        """How many "regions" of each class became another's in this part, and how many "pixels"."""
        return sum((sieve.merged for sieve in self._sieves), Counter())
