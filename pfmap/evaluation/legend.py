"""Match the classes of a truth with those of a prediction: both become the same codes, 0 to 253.

Classes are matched by name. Where one side names none, its values are taken as those of the other. 255
without a name is nodata, as usual.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pfmap.core.arrays import Bytes
from pfmap.core.classes import NODATA, ClassSpec, default_color
from pfmap.core.errors import SourceError, UsageError, few
from pfmap.core.grid import Span
from pfmap.evaluation.comparison import Labels
from pfmap.raster.classmap import ClassMap
from pfmap.trace.compare import NO_CODE

OTHER = "other"
"""Name of all classes but the chosen ones."""

_OTHER_COLOR = "#bdbdbd"
_LARGEST = 65535  # value of a class
_UNASKED = NO_CODE - 1  # no class has this code


@dataclass(frozen=True, slots=True)
class MatchOptions:
    """How classes are brought together: as the arguments of `evaluate` of the same names."""

    names: Mapping[int, str] = field(default_factory=dict)
    mapping: Mapping[str, str] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    rest: str | None = None


class Legend:
    """Gives the classes that a prediction and its truth name, each by value, common codes.

    Truth is None for polygons, which name theirs in each feature; `sources` are the names of the two files.
    A `UsageError` says that a class that is asked for does not exist.
    """

    def __init__(
        self,
        options: MatchOptions,
        prediction: Mapping[int, ClassSpec],
        truth: Mapping[int, ClassSpec] | None,
        sources: tuple[str, str],
    ) -> None:
        self.options = options
        self.notes: list[str] = []
        """What to tell the user."""
        self.guessed = False
        """Whether 255 in a truth was taken for nodata, though the file does not call it so."""
        self._sources = sources
        specs = _named(prediction) | {
            value: ClassSpec(name, prediction[value].color if value in prediction else default_color(value))
            for value, name in options.names.items()
        }
        colors = {spec.name: spec.color for spec in specs.values()}
        _check_choice(options, colors, sources[0])
        self._prediction = {value: spec.name for value, spec in specs.items()}
        self._truth = {value: spec.name for value, spec in _named(truth or {}).items()}
        self._classes: list[ClassSpec] = []
        self._codes: dict[str, int] = {}
        for name in options.only or colors:
            self._add(name, colors.get(name))
        if options.only:
            self._add(OTHER, _OTHER_COLOR)
        if truth is not None:
            self._note_values()

    @property
    def labels(self) -> Labels:
        """What the codes mean so far: where the prediction names no classes, its values become some."""
        return Labels(tuple(self._classes), other=bool(self.options.only))

    @property
    def closed(self) -> bool:
        """Whether the prediction names its classes: then those of the truth are among them."""
        return bool(self._prediction)

    def _note_values(self) -> None:
        """Say so where the values of one side are taken as those of the other."""
        one, two = self._sources
        if self._prediction and not self._truth and not self.options.mapping:
            bare, named, names, option = two, one, self._prediction, "mapping="
        elif self._truth and not self._prediction:
            bare, named, names, option = one, two, self._truth, "names="
        else:
            return
        values = ", ".join(f"{value} {name}" for value, name in sorted(names.items()))
        self.notes = [
            f"{bare} names no classes: its values are taken as those of {named} ({values}); {option} says "
            "otherwise"
        ]

    def predicted(self, value: int) -> int:
        """Return the code of a value of the prediction."""
        if value in self._prediction:
            return self._code(self._prediction[value])
        if value == NODATA and value not in self._truth:
            return NO_CODE
        name = None if self._prediction else self._truth.get(value)
        return self._code(name or str(value))

    def true(self, value: int) -> int | None:
        """Return the code of a value of a truth raster; `NO_CODE` if it is ignored, None if it is unknown."""
        text, mapping = str(value), self.options.mapping
        if text in self.options.ignore:
            return NO_CODE
        if text in mapping:
            return self.named(mapping[text])
        name = self._truth.get(value)
        if name is None and value == NODATA and value not in self._prediction:
            self.guessed = True
            return NO_CODE
        if name is None and not self._truth and not mapping:
            name = self._prediction.get(value) if self._prediction else text
        return self.named(name)

    def named(self, name: str | None) -> int | None:
        """Return the code of a class of the truth by name; as `true`."""
        if name is not None:
            name = self.options.mapping.get(name, name)
        if name in self.options.ignore:
            return NO_CODE
        if name is None or (self._prediction and name not in self._codes):
            return self._codes[OTHER] if self.options.only else None
        return self._code(name)

    def text(self, value: str) -> int | None:
        """Return the code of a class of a polygon, which may be a name or a value; as `true`."""
        names = {*self._prediction.values(), *self.options.mapping}
        if value.isdecimal() and value not in names:
            self._note_values()
            return self.true(int(value))
        return NO_CODE if value in self.options.ignore else self.named(value)

    def rest(self) -> int:
        """Return the code of what lies outside all polygons."""
        rest = self.options.rest or (OTHER if self.options.only else "ignore")
        if rest == "ignore":
            return NO_CODE
        if rest == OTHER and OTHER not in self._codes:
            raise UsageError("rest='other' needs only=: which classes are not other?")
        return self._code(rest)

    def unknown(self, values: Sequence[object]) -> SourceError:
        """Say which classes of the truth the prediction does not have."""
        one, two = self._sources
        known = ", ".join(spec.name for spec in self._classes)
        first = str(values[0])
        return SourceError(
            f"{two} has classes that {one} does not have: {few(values, 8)}; it has {known}: say which they "
            f"are with mapping={{{first!r}: 'NAME'}}, leave them out with ignore=({first!r},), or choose "
            "classes with only="
        )

    def code(self, name: str) -> int:
        """Return the code of a class that is asked for by name; a `UsageError` if there is none."""
        if name not in self._codes and self._prediction:
            known = ", ".join(spec.name for spec in self._classes)
            raise UsageError(f"class '{name}' is unknown: there are {known}")
        return self._code(name)

    def _code(self, name: str) -> int:
        if name in self._codes:
            return self._codes[name]
        if self.options.only:
            return self._codes[OTHER]
        return self._add(name, None)

    def _add(self, name: str, color: str | None) -> int:
        code = len(self._classes)
        if code >= _UNASKED:
            raise SourceError(f"{' and '.join(self._sources)} have more than {_UNASKED} classes")
        self._classes.append(ClassSpec(name, color or default_color(int(name) if name.isdecimal() else code)))
        self._codes[name] = code
        return code


class CodedMap:
    """A class raster on the prediction's grid, whose values are read as codes.

    The code of each value is asked for once; for those without one, `unknown` makes the error.
    """

    def __init__(
        self,
        source: ClassMap,
        code: Callable[[int], int | None],
        unknown: Callable[[Sequence[object]], SourceError],
        name: str,
    ) -> None:
        self._source, self._code, self._unknown, self._name = source, code, unknown, name
        self._table = np.full(_LARGEST + 2, _UNASKED, dtype=np.uint8)
        self._table[-1] = NO_CODE
        if source.nodata is not None and source.nodata <= _LARGEST:
            self._table[source.nodata] = NO_CODE

    def rows(self, rows: Span) -> Bytes:
        """Return the ``(rows, width)`` codes of rows; a `SourceError` if values have none."""
        index = values = self._source.read(rows)
        if values.dtype != np.uint8:
            gone = values == self._source.nodata
            if (values[~gone] > _LARGEST).any():
                needed = f"classes from 0 to {_LARGEST} are needed"
                raise SourceError(f"{self._name} has the value {values[~gone].max()}: {needed}")
            index = np.where(gone, _LARGEST + 1, values)
        codes: Bytes = self._table[index]
        new = {value: self._code(value) for value in np.unique(values[codes == _UNASKED]).tolist()}
        if missing := [value for value, code in new.items() if code is None]:
            raise self._unknown(missing)
        self._table[list(new)] = np.array(list(new.values()), dtype=np.uint8)
        return np.asarray(self._table[index]) if new else codes


def _check_choice(options: MatchOptions, known: Collection[str], source: str) -> None:
    """Refuse classes that are asked for and that a prediction which names its classes does not have."""
    if OTHER in options.only:
        raise UsageError(f"only={OTHER!r}: name the classes themselves; all the rest is called {OTHER}")
    asked = [*options.only, *([options.rest] if options.rest not in (None, "ignore", OTHER) else [])]
    if known and (unknown := [name for name in asked if name not in known]):
        raise UsageError(f"class '{unknown[0]}' is unknown: {source} has {', '.join(known)}")


def _named(classes: Mapping[int, ClassSpec]) -> dict[int, ClassSpec]:
    """Leave out classes that have a colour but no name."""
    return {value: spec for value, spec in classes.items() if spec.name != str(value)}
