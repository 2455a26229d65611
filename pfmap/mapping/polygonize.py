"""A class raster of any origin to vector files."""

import os
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pfmap.core.bucket import output_folder
from pfmap.core.classes import ClassSpec
from pfmap.core.errors import SourceError, TargetError, UsageError
from pfmap.core.files import publish, scratch, write_failed
from pfmap.core.grid import Span
from pfmap.core.stages import read_ahead
from pfmap.mapping.objects import (
    SPLIT_LARGE,
    ClassTable,
    ShapeOptions,
    Shaper,
    clear_parts,
    refuse_existing,
    refuse_odd_names,
    refuse_unwanted,
)
from pfmap.mapping.plan import pixel_size
from pfmap.raster.classmap import ClassMap, default_color
from pfmap.raster.gdal import Location, locate
from pfmap.vector.geodesy import Measurer
from pfmap.vector.write import SceneNames
from pfmap.version import __version__

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Vectorized:
    """What vectorising a class raster gave.

    Attributes:
        raster: as it was named.
        outputs: files by kind: each vector format; parts of a shapefile as shp_2 and so on, files of one
            class as gpkg.building and so on.
        counts: objects by class name.
        areas: their area by class name: square metres, or pixels where there is no CRS.
        unit: "m2" or "px".
        scenes: objects by name of the scene and value of the class, where there are several scenes.
    """

    raster: str
    outputs: dict[str, Path]
    counts: dict[str, int]
    areas: dict[str, float]
    unit: str
    scenes: Mapping[tuple[str, int], int] = field(default_factory=dict)


def vectorize(
    raster: str | os.PathLike[str],
    output_dir: str | os.PathLike[str] | None = None,
    *,
    band: int | None = None,
    confidence: str | os.PathLike[str] | None = None,
    names: Mapping[int, str] | None = None,
    formats: Sequence[str] = ("gpkg",),
    classes: Sequence[str] | None = None,
    simplify: float | None = None,
    regularize: Sequence[str] = (),
    min_area: float = 0.0,
    fill_holes: float = 0.0,
    drop_small: bool = False,
    split_large: int = SPLIT_LARGE,
    split_by_class: bool = False,
    overwrite: bool = False,
    on_progress: Progress = lambda _done, _total: None,
    on_message: Callable[[str], None] = lambda _text: None,
) -> Vectorized:
    """Turn a class raster into polygons with attributes, in memory that does not grow with it.

    Args:
        raster: any raster that GDAL opens with whole numbers as classes.
        output_dir: where the files go, a folder or `s3://bucket/folder`; by default the raster's folder.
        band: 1-based band; None if it has only one.
        confidence: raster of the same size with percent; None to take that of pfmap predict beside it.
        names: of classes, by their value; None for those in the raster.
        formats: vector files to write: gpkg, shp, fgb, geojson, parquet.
        classes: names, or values, of the classes that become polygons; None for all.
        simplify: how far outlines may be moved to simplify them, metres (pixels where there is no CRS); 0
            leaves them as the pixels are, None means 1.25 pixels.
        regularize: names, or values, of the classes whose objects are squared, such as buildings.
        min_area: smaller regions are merged into the neighbour with the longest border, square metres.
        fill_holes: smaller holes are filled, square metres.
        drop_small: whether regions below `min_area` are left out instead.
        split_large: objects of more vertices are cut along a grid, and share a region_id; 0 never cuts.
        split_by_class: whether each class gets files of its own.
        overwrite: whether existing files may be replaced.
        on_progress: called with (pixels done, pixels in all); it may raise to stop.
        on_message: called with lines for people.

    Returns:
        The written files, and what is in them.

    Raises:
        PfmapError: bad input, files that exist, a full disk; nothing is left under a final name then.
    """
    options = ShapeOptions(
        formats=tuple(dict.fromkeys(formats)),
        simplify=simplify,
        regularize=tuple(regularize),
        min_area=min_area,
        fill_holes=fill_holes,
        drop_small=drop_small,
        split_large=split_large,
        split_by_class=split_by_class,
    )
    location = locate(raster)
    folder = output_folder(output_dir) if output_dir is not None else location.folder
    stem = location.stem.removesuffix("_classes")
    with ClassMap(location, band) as source:
        table = ClassTable(_named(source.classes, names), default_color)
        wanted = None if classes is None else _wanted(table, classes, location.text)
        squared = _wanted(table, options.regularize, location.text)
        if wanted is not None:
            refuse_unwanted(squared, wanted, table)
        certain = _confidence(location, confidence, source, on_message)
        if source.geobox.crs_wkt is None:
            on_message(f"warning: {location.text} has no CRS: areas and lengths are in pixels")
        refuse_odd_names(folder, stem)
        refuse_existing(folder, f"{stem}_objects", options, overwrite=overwrite)
        job = Vectorizer(source, certain, folder, stem, table, wanted, squared, options, stem, on_progress)
        try:
            return job.write(location.text)
        finally:
            if certain is not None:
                certain.__exit__(None, None, None)


@dataclass(slots=True)
class Vectorizer:
    """A class raster on its way.

    Attributes:
        source: the opened class raster.
        confidence: that of its confidence, of the same size, or None.
        folder: where the files go.
        stem: what their names begin with.
        table: names and colours of the classes.
        wanted: values that become polygons; None for all.
        regularized: values whose objects are squared.
        options: what the polygons are to be like.
        scene: name of the scene, or what says it for each object.
        on_progress: called with (pixels done, pixels in all).
        on_rows: called with the number of the first row and rows of classes, as they come.
        parts: rows and columns that are traced, each on its own; None for all.
    """

    source: ClassMap
    confidence: ClassMap | None
    folder: Path
    stem: str
    table: ClassTable
    wanted: frozenset[int] | None
    regularized: frozenset[int]
    options: ShapeOptions
    scene: str | SceneNames
    on_progress: Progress
    on_rows: Callable[[int, npt.NDArray[Any]], None] = lambda _top, _values: None
    parts: Sequence[tuple[Span, Span]] | None = None

    def write(self, raster: str) -> Vectorized:
        """Make the files in a staging folder, then give them their names.

        Args:
            raster: name of the class raster, for messages.

        Raises:
            SourceError: it cannot be read, or has no valid pixel.
            TargetError: the folder cannot be written.
        """
        try:
            here = scratch(self.folder)
            here.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=here, prefix=f".{self.stem}.pfmap-") as staging:
                return self._write(Path(staging), raster)
        except OSError as error:
            if isinstance(error, TargetError):
                raise
            raise write_failed(self.folder / f"{self.stem}_objects", error) from error

    def _write(self, staging: Path, raster: str) -> Vectorized:
        geobox = self.source.geobox
        measurer = Measurer(geobox.crs_wkt, geobox.center)
        shaper = Shaper(
            staging,
            f"{self.stem}_objects",
            geobox,
            self.table,
            self.wanted,
            nodata=self.source.nodata,
            measurer=measurer,
            pixel=pixel_size(geobox),
            regularized=self.regularized,
            options=self.options,
            scene=self.scene,
            metadata={"PFMAP_VERSION": __version__, "PFMAP_RASTER": raster},
            has_confidence=self.confidence is not None,
        )
        parts = self.parts or [(Span(0, geobox.height), Span(0, geobox.width))]
        total = sum(rows.size * cols.size for rows, cols in parts)
        done = 0
        with shaper:
            for part in parts:
                shaper.begin(*part)
                top = part[0].start
                with closing(read_ahead(self._rows(part), depth=2)) as strips:
                    for values, percent in strips:
                        self.on_rows(top, values)
                        for regions in shaper.trace(values, percent):
                            self.on_progress(done, total)
                            shaper.writer.add(regions)
                        top += len(values)
                        done += values.size
                        self.on_progress(done, total)
            if not shaper.seen:
                raise SourceError(
                    f"{raster} has no valid pixel: everything is nodata; check it with gdalinfo"
                )
            files = shaper.writer.finish()
        outputs: dict[str, Path] = {}
        for kind, paths in files.items():
            for number, path in enumerate(paths, 1):
                outputs[kind if number == 1 else f"{kind}_{number}"] = self.folder / path.name
        mains = {path.name for path in outputs.values()}
        clear_parts(self.folder, f"{self.stem}_objects")
        for path in sorted(staging.iterdir(), key=lambda path: (path.name in mains, path.name)):
            if path.is_file():
                publish(path, self.folder / path.name)
        counts: dict[str, int] = {}
        areas: dict[str, float] = {}
        for value, count in sorted(shaper.writer.counts.items()):
            name = self.table[value].name  # several values may have one
            counts[name] = counts.get(name, 0) + count
            areas[name] = round(areas.get(name, 0.0) + shaper.writer.areas[value], 2)
        unit = "m2" if measurer.units == "m" else "px"
        return Vectorized(raster, outputs, counts, areas, unit, shaper.writer.scenes)

    def _rows(
        self, part: tuple[Span, Span]
    ) -> Generator[tuple[npt.NDArray[Any], npt.NDArray[np.uint8] | None], None, None]:
        """Yield rows of classes with those of the confidence, which may come in other numbers."""
        if self.confidence is None:
            for values in self.source.rows(part):
                yield values, None
            return
        others = self.confidence.rows(part)
        rest = np.zeros((0, part[1].size), dtype=np.uint8)
        for values in self.source.rows(part):
            while len(rest) < len(values):
                rest = np.concatenate([rest, next(others).astype(np.uint8)])
            yield values, rest[: len(values)]
            rest = rest[len(values) :]


def _named(own: Mapping[int, ClassSpec], names: Mapping[int, str] | None) -> dict[int, ClassSpec]:
    """Give classes the names the user wants."""
    classes = dict(own)
    for value, name in (names or {}).items():
        classes[value] = ClassSpec(name, own[value].color if value in own else default_color(value))
    return classes


def _wanted(table: ClassTable, classes: Sequence[str], raster: str) -> frozenset[int]:
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
            known = known or "none: give values, such as --classes 1,2"
            raise UsageError(f"class {name!r} is unknown: {raster} names {known}")
    return frozenset(wanted)


def _confidence(
    location: Location,
    given: str | os.PathLike[str] | None,
    source: ClassMap,
    on_message: Callable[[str], None],
) -> ClassMap | None:
    """Open the confidence raster: the one given, or that which pfmap predict wrote beside the classes."""
    if given is None:
        if location.local is None or not location.stem.endswith("_classes"):
            return None
        beside = location.local.with_name(f"{location.stem.removesuffix('_classes')}_confidence.tif")
        if not beside.is_file():
            return None
        on_message(f"confidence from {beside}")
        given = beside
    found = ClassMap(locate(given), None)
    if (found.geobox.height, found.geobox.width) != (source.geobox.height, source.geobox.width):
        found.__exit__(None, None, None)
        raise SourceError(
            f"{given} has {found.geobox.width} x {found.geobox.height} pixels, {location.text} has "
            f"{source.geobox.width} x {source.geobox.height}: give the confidence of the same map"
        )
    return found
