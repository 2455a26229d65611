"""Turning a class raster of any origin into vector files."""

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from pfmap.core.arrays import Array, Bytes
from pfmap.core.classes import ClassSpec, default_color
from pfmap.core.errors import SourceError, UsageError
from pfmap.core.files import private_folder, publish, scratch, writing
from pfmap.core.grid import Span
from pfmap.core.option import explained, take
from pfmap.core.resources import UNDATED, clear_beside, moment_of
from pfmap.core.stages import read_ahead
from pfmap.mapping.objects import Chosen, Shaper, numbered, refuse_existing, refuse_odd_names, vector_names
from pfmap.mapping.options import ShapeOptions, ShapeSettings
from pfmap.raster.classmap import ClassMap, open_percent, percent_beside
from pfmap.raster.location import Location, locate, output_folder
from pfmap.raster.target import Parts, RasterTarget, finish
from pfmap.trace.tile import warn_unkept
from pfmap.vector.write import SceneNames
from pfmap.version import __version__

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Vectorized:
    """What vectorising a class raster gave."""

    raster: str
    """As it was named."""
    outputs: dict[str, Path]
    """Files by kind: each vector format; parts of a shapefile as shp_2 and so on, files of one class as
    gpkg.building and so on."""
    counts: dict[str, int]
    """Objects by class name."""
    areas: dict[str, float]
    """Their area by class name, in `unit`."""
    unit: str
    """m2, or px where there is no CRS."""
    scenes: Mapping[tuple[str, int], int] = field(default_factory=dict)
    """Objects by name of the scene and value of the class, where there are several scenes."""


@explained
def vectorize(
    raster: str | os.PathLike[str],
    output_dir: str | os.PathLike[str] | None = None,
    *,
    band: int | None = None,
    confidence: str | os.PathLike[str] | None = None,
    contact: str | os.PathLike[str] | None = None,
    names: Mapping[int, str] | None = None,
    classes: Sequence[str] | None = None,
    overwrite: bool = False,
    on_progress: Progress = lambda _done, _total: None,
    on_message: Callable[[str], None] = lambda _text: None,
    **settings: Unpack[ShapeSettings],
) -> Vectorized:
    """Turn a class raster into polygons with attributes, in memory that does not grow with it.

    Classes are named, or given by their value.

    Args:
        raster: any raster that GDAL opens with whole numbers as classes.
        output_dir: where the files go, a folder or `s3://bucket/folder`; by default the raster's folder.
        band: 1-based band; None if it has only one.
        confidence: raster of the same size with percent; None to take that of pfmap predict beside it.
        contact: the same, of where objects touch, by which they are taken apart.
        names: of classes, by their value; None for those in the raster.
        classes: those that become polygons; None for all.
        overwrite: whether existing files may be replaced.
        on_progress: called with (pixels done, pixels in all); it may raise to stop.
        on_message: called with lines for people.
        **settings: what the polygons are to be like; each by its name:

    Returns:
        The written files, and what is in them.

    Raises:
        PfmapError: bad input, files that exist, a full disk; nothing is left under a final name then.
    """
    options, unknown = take(ShapeOptions, settings)
    if unknown:
        raise TypeError(f"vectorize has no option {', '.join(unknown)}")
    options = replace(options, min_area=options.min_area or 0.0)  # no model is there to say it
    warn_unkept(on_message)
    location = locate(raster)
    folder = output_folder(output_dir) if output_dir is not None else location.folder
    stem = location.stem.removesuffix("_classes")
    with ExitStack() as opened:
        source = opened.enter_context(ClassMap(location, band))
        table = ClassTable(source.classes)
        for value, name in (names or {}).items():
            table[value] = ClassSpec(name, table[value].color)
        find = partial(_wanted, table, raster=location.text)
        wanted = None if classes is None else find(classes)
        given = {"confidence": confidence} | ({"contact": contact} if options.separate != ("none",) else {})
        percent = _open_percent(opened, source, location, given, on_message)
        walls = percent.get("contact")
        shown = frozenset[int]() if walls is None else _shown(walls, source, options, find)
        chosen = Chosen.of(options, find, wanted, shown, table, (walls or source).scale)
        if not chosen.by_contact:
            percent.pop("contact", None)
        if (separation := chosen.separation) is not None:
            on_message("warning: " * bool(separation.by_shape) + separation.about(table))
        if source.geobox.crs_wkt is None:
            on_message(f"warning: {location.text} has no CRS: areas and lengths are in pixels")
        named = [table[value] for value in sorted(table if wanted is None else wanted)]
        files = vector_names(f"{stem}_objects", options, named).values()
        refuse_odd_names(folder, stem, files)
        refuse_existing(folder, f"{stem}_objects", options, files, overwrite=overwrite)
        job = Vectorizer(source, percent, folder, stem, table, chosen, options, stem, on_progress)
        job.moment = moment_of(filter(None, [location.local]))
        return job.write(location.text)


def _open_percent(
    opened: ExitStack, source: ClassMap, location: Location, given: dict[str, Any], say: Callable[[str], None]
) -> dict[str, ClassMap]:
    """Open what is known in percent, by kind: what is given, or else lies beside the class raster."""
    found = {}
    for kind, path in given.items():
        if path is None and (path := percent_beside(location, kind)) is not None:
            say(f"{kind} from {path}")
        if path is not None:
            found[kind] = open_percent(opened, path, source, kind=kind)
    return found


def _shown(
    walls: ClassMap, source: ClassMap, options: ShapeOptions, find: Callable[[Sequence[str]], frozenset[int]]
) -> frozenset[int]:
    """Return the classes that a contact map names, or else all that are asked for."""
    if not (shown := _wanted(source.classes, walls.separated, source.name) or find(options.separate or ())):
        raise UsageError(f"the contact map of {source.name} does not name its classes: do so with separate=")
    return shown


class ClassTable(dict[int, ClassSpec]):
    """Names and colours of classes by their value; a class that is not named is called by its value."""

    def __missing__(self, value: int) -> ClassSpec:
        self[value] = ClassSpec(str(value), default_color(value))
        return self[value]


@dataclass(slots=True)
class Vectorizer:
    """A class raster on its way to vector files in a folder, whose names begin with a stem."""

    source: ClassMap
    percent: Mapping[str, ClassMap]
    """Confidence and contact, as far as they are there, of the same size as `source`."""
    folder: Path
    stem: str
    table: Mapping[int, ClassSpec]
    chosen: Chosen
    options: ShapeOptions
    scene: str | SceneNames
    """Name of the scene, or what says it for each object."""
    on_progress: Progress
    on_rows: Callable[[int, Array], None] = lambda _top, _values: None
    """Called with the number of the first row and rows of classes, as the raster has them."""
    target: RasterTarget | None = None
    """What the raster as the polygons have it is like, if that is wanted: a file of each part; `on_rows` is
    called with its rows."""
    parts: Sequence[tuple[Span, Span]] | None = None
    """Rows and columns that are traced, each part on its own; None for all."""
    moment: datetime = UNDATED
    files: dict[str, list[Path]] = field(default_factory=dict)
    """Those that are written, by vector format; several are parts of a shapefile."""
    sieved: list[tuple[RasterTarget, Parts]] = field(default_factory=list)
    """The files of `target`, and their parts."""

    def write(self, raster: str) -> Vectorized:
        """Make the files in a staging folder, then give them their names; messages name the `raster`."""
        with writing(self.folder / f"{self.stem}_objects"):
            scratch(self.folder).mkdir(parents=True, exist_ok=True)
            with private_folder(self.folder) as staging:
                with self._shaper(staging, raster) as shaper:
                    self._trace(shaper, staging)
                    if not shaper.seen:
                        why = "has no valid pixel: everything is nodata; check it with gdalinfo"
                        raise SourceError(f"{raster} {why}")
                    files = shaper.writer.finish()
                finish(self.sieved, staging)
                outputs = self._publish(staging, files)
        counts: dict[str, int] = {}
        areas: dict[str, float] = {}
        for value, count in sorted(shaper.writer.counts.items()):
            name = self.table[value].name  # several values may have one
            counts[name] = counts.get(name, 0) + count
            areas[name] = round(areas.get(name, 0.0) + shaper.writer.areas[value], 2)
        return Vectorized(raster, outputs, counts, areas, shaper.measurer.area_units, shaper.writer.scenes)

    def _shaper(self, staging: Path, raster: str) -> Shaper:
        return Shaper(
            staging,
            f"{self.stem}_objects",
            self.source.geobox,
            self.table,
            self.chosen,
            nodata=self.source.nodata,
            options=self.options,
            scene=self.scene,
            metadata={"PFMAP_VERSION": __version__, "PFMAP_RASTER": Path(raster).name.partition("?")[0]},
            moment=self.moment,
            has_confidence="confidence" in self.percent,
        )

    def _trace(self, shaper: Shaper, staging: Path) -> None:
        """Read all parts, and write the regions that are closed as they come."""
        geobox = self.source.geobox
        parts = self.parts or [(Span(0, geobox.height), Span(0, geobox.width))]
        total = sum(rows.size * cols.size for rows, cols in parts)
        done = 0
        for part in parts:
            self.source.strips(*part)  # refuses what does not fit into memory
            shaper.begin(*part)
            top = part[0].start
            if self.target is not None:
                name, kept = f"{self.stem}.{len(self.sieved) + 1}_classes", list[tuple[Span, Path]]()
                target = replace(self.target, geobox=geobox.crop(*part), name=f"{name}.tif")
                self.sieved.append((target, kept))
                shaper.on_sieved = self.on_rows, partial(target.write_next, staging / name, kept)
            with closing(read_ahead(self._rows(part), depth=2, name="read")) as strips:
                for values, percent in strips:
                    if self.target is None:
                        self.on_rows(top, values)
                    for rows in shaper.merge(values, **percent):
                        for regions in shaper.trace(*rows):
                            self.on_progress(done, total)
                            shaper.writer.add(regions)
                    top += len(values)
                    done += values.size
                    self.on_progress(done, total)

    def _publish(self, staging: Path, files: Mapping[str, Sequence[Path]]) -> dict[str, Path]:
        """Give the files their names, those that are named in the result last."""
        self.files = {kind: [self.folder / path.name for path in paths] for kind, paths in files.items()}
        outputs = numbered(self.files)
        mains = {path.name for path in outputs.values()}
        clear_beside(self.folder, [path.name for path in staging.iterdir()])
        for path in sorted(staging.iterdir(), key=lambda path: (path.name in mains, path.name)):
            if path.is_file():
                publish(path, self.folder / path.name)
        return outputs

    def _rows(self, part: tuple[Span, Span]) -> Generator[tuple[Array, dict[str, Bytes]]]:
        """Yield rows of classes with those of what is known in percent."""
        for strip in self.source.strips(*part):
            read = {kind: layer.read(strip, part[1]) for kind, layer in self.percent.items()}
            percent = {kind: values.astype(np.uint8, copy=False) for kind, values in read.items()}
            yield self.source.read(strip, part[1]), percent


def _wanted(table: Mapping[int, ClassSpec], classes: Sequence[str], raster: str) -> frozenset[int]:
    """Find classes by name, or by value."""
    by_name = {spec.name: value for value, spec in table.items()}
    wanted = set()
    for name in classes:
        if name in by_name:
            wanted.add(by_name[name])
        elif name.isdecimal():
            wanted.add(int(name))
        else:
            known = ", ".join(name for name in by_name if not name.isdecimal())
            known = known or "none: give values, such as classes=('1', '2')"
            raise UsageError(f"class {name!r} is unknown: {raster} names {known}")
    return frozenset(wanted)
