"""The truth on a prediction's grid: codes of rows, from a raster or from polygons."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pfmap.core.classes import ClassSpec
from pfmap.core.errors import SourceError, UsageError
from pfmap.core.grid import GeoBox, Span
from pfmap.evaluate.legend import Legend, MatchOptions, Translator
from pfmap.raster.align import AlignedMap, burn_values
from pfmap.raster.gdal import locate
from pfmap.trace.compare import NO_CODE
from pfmap.vector.labels import LabelPolygons, PolygonFile, is_vector

ADVICE = "take one with gdal_translate -b 1, or map the scene first with pfmap predict"
"""What to do about a class raster with several bands."""

Codes = npt.NDArray[np.uint8]


class Truth(Protocol):
    """What a prediction is compared with."""

    def rows(self, rows: Span) -> Codes:
        """Return the ``(rows, width)`` codes of rows; each row is asked for once, top to bottom.

        Raises:
            SourceError: they cannot be read, or have classes that are unknown.
        """

    def remarks(self) -> list[str]:
        """Say at the end what is to be known about it.

        Raises:
            SourceError: nothing of it lies on the prediction.
        """


class OpenTruth:
    """An opened truth whose classes are not brought together with the prediction's yet.

    Args:
        stack: closes it.
        text: a class raster, or a file of polygons, or ``FILE:layer``.
        field: column of the polygons with their classes, or None.
        rest: what lies outside all polygons, or None; as in `MatchOptions`.
        geobox: the prediction's grid.
        prediction: its name, for messages.

    Attributes:
        classes: those it names by value.
        polygons: whether it is polygons.
        note: what to tell the user about how the grids were brought together, or "".
    """

    def __init__(
        self,
        stack: ExitStack,
        text: str,
        field: str | None,
        rest: str | None,
        geobox: GeoBox,
        prediction: str,
    ) -> None:
        self._names = prediction, text
        self._geobox = geobox
        self.polygons = is_vector(text)
        self.classes: Mapping[int, ClassSpec] = {}
        self._map: AlignedMap | None = None
        self._shapes: LabelPolygons | None = None
        if self.polygons:
            self._shapes = LabelPolygons(PolygonFile(text, field), geobox, prediction)
            self.note = self._shapes.note
            return
        if field is not None or rest is not None:
            raise UsageError(f"--field and --rest are for polygons: {text} is none")
        self._map = stack.enter_context(AlignedMap(locate(text), geobox, ADVICE, prediction))
        self.classes, self.note = self._map.classes, self._map.note

    def bind(self, legend: Legend, options: MatchOptions) -> Truth:
        """Bring its classes together with the prediction's.

        Raises:
            SourceError: polygons have classes that the prediction does not have.
            UsageError: polygons do not say their class.
        """
        if self._map is not None:
            return _RasterTruth(self._map, legend, self._names[1])
        assert self._shapes is not None
        return _PolygonTruth(self._shapes, legend, options, self._geobox, self._names)


class _RasterTruth:
    def __init__(self, source: AlignedMap, legend: Legend, name: str) -> None:
        self._source = source
        self._translate = Translator(source.nodata, legend.true, legend.unknown, name)

    def rows(self, rows: Span) -> Codes:
        return self._translate(self._source.read(rows))

    def remarks(self) -> list[str]:
        return []


class _PolygonTruth:
    def __init__(
        self,
        shapes: LabelPolygons,
        legend: Legend,
        options: MatchOptions,
        geobox: GeoBox,
        names: tuple[str, str],
    ) -> None:
        self._shapes, self._geobox, self._names = shapes, geobox, names
        self._rest = legend.rest()
        self._codes: dict[str | None, int] = {None: NO_CODE}
        if shapes.file.field is None:
            if len(options.only) != 1:
                raise UsageError(
                    f"{names[1]} has no field class: name the field with --field, or, if all polygons are of "
                    "one class, that class with --only"
                )
            self._codes = {None: legend.code(options.only[0])}
            return
        missing = []
        for value in shapes.file.values:
            if value is not None:
                code = legend.text(value)
                self._codes[value] = NO_CODE if code is None else code
                if code is None:
                    missing.append(value)
        if missing:
            raise legend.unknown(sorted(missing))

    def rows(self, rows: Span) -> Codes:
        burnt = [(shape, self._codes[value]) for shape, value in self._shapes.strip(rows)]
        return burn_values(burnt, rows, Span(0, self._geobox.width), self._rest)

    def remarks(self) -> list[str]:
        counted, box = self._shapes.tally, self._geobox
        if not counted.placed:
            raise SourceError(
                f"{self._names[1]} and {self._names[0]} do not overlap: none of its features is a polygon "
                f"that reaches the scene, which covers {','.join(f'{v:.8g}' for v in box.bounds)} in "
                f"{box.crs_name}"
            )
        remarks = []
        if counted.mended:
            remarks.append(f"warning: {counted.mended:,} invalid polygons were made valid")
        if counted.lost:
            remarks.append(f"warning: {counted.lost:,} features without an area or a place were left out")
        if self._shapes.file.values.get(None):
            count = self._shapes.file.values[None]
            remarks.append(
                f"warning: {count:,} features have no {self._shapes.file.field}: they do not count"
            )
        outside = self._shapes.file.layer.count - counted.placed - counted.lost
        if outside > 0:
            remarks.append(f"{outside:,} of {self._shapes.file.layer.count:,} features lie outside the scene")
        return remarks
