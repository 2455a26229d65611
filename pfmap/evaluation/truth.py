"""Truth on a prediction's grid, from a class raster or from polygons: codes of some rows at a time."""

from contextlib import ExitStack

import numpy as np
import numpy.typing as npt

from pfmap.core.errors import SourceError, UsageError
from pfmap.core.grid import GeoBox, Span
from pfmap.evaluation.legend import Legend
from pfmap.raster.align import AlignedMap, burn_values
from pfmap.raster.location import locate
from pfmap.trace.compare import NO_CODE
from pfmap.vector.labels import LabelPolygons, PolygonFile, remarks
from pfmap.vector.layer import is_vector

ADVICE = "take one with gdal_translate -b 1, or map the scene first with pfmap predict"
"""What to do about a class raster with several bands."""

Codes = npt.NDArray[np.uint8]


def open_truth(
    stack: ExitStack, text: str, field: str | None, rest: str | None, geobox: GeoBox, prediction: str
) -> AlignedMap | LabelPolygons:
    """Open a truth of `evaluate`, whose classes are not brought together with the prediction's yet.

    Raises:
        SourceError: it cannot be opened, or not be brought onto the grid.
        UsageError: the options are for polygons, and it is a raster; or there is no such column.
    """
    if is_vector(text):
        return LabelPolygons(PolygonFile(text, field), geobox, prediction)
    if field is not None or rest is not None:
        raise UsageError(f"field= and rest= are for polygons: {text} is none")
    return stack.enter_context(AlignedMap(locate(text), geobox, ADVICE, prediction))


class PolygonTruth:
    """Polygons as truth: a pixel is what the last polygon says that its centre lies in.

    Raises:
        SourceError: they have classes that the prediction does not have.
        UsageError: they do not say their class.
    """

    def __init__(self, shapes: LabelPolygons, legend: Legend, geobox: GeoBox, prediction: str) -> None:
        self._shapes, self._geobox, self._prediction = shapes, geobox, prediction
        self._rest = legend.rest()
        file, only = shapes.file, legend.options.only
        if file.field is None and len(only) != 1:
            raise UsageError(
                f"{file.text} has no field class: name the field with field=, or, if all polygons are of "
                "one class, that class with only="
            )
        self._codes: dict[str | None, int] = {None: NO_CODE}
        if file.field is None:
            self._codes = {None: legend.code(only[0])}
            return
        codes = {value: legend.text(value) for value in file.values if value is not None}
        missing = sorted(value for value, code in codes.items() if code is None)
        if missing:
            raise legend.unknown(missing)
        self._codes |= {value: code for value, code in codes.items() if code is not None}

    def rows(self, rows: Span) -> Codes:
        """Return the ``(rows, width)`` codes of rows; each row is asked for once, top to bottom."""
        burnt = [(shape, self._codes[value]) for shape, value in self._shapes.strip(rows)]
        return burn_values(burnt, rows, Span(0, self._geobox.width), self._rest)

    def remarks(self) -> list[str]:
        """Say at the end what is to be known about it.

        Raises:
            SourceError: nothing of it lies on the prediction.
        """
        file, counted, box = self._shapes.file, self._shapes.tally, self._geobox
        if not counted.placed:
            raise SourceError(
                f"{file.text} and {self._prediction} do not overlap: none of its features is a polygon "
                f"that reaches the scene, which covers {','.join(f'{v:.8g}' for v in box.bounds)} in "
                f"{box.crs_name}"
            )
        return remarks([file], counted)
