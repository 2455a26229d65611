"""Which class of the truth is which of the prediction: both become the same small numbers.

Classes are matched by name. Where one side names none, its values are taken as those of the other. 255
without a name is nodata, as usual.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pfmap.core.classes import NODATA, ClassSpec
from pfmap.core.errors import SourceError, UsageError
from pfmap.raster.classmap import default_color
from pfmap.trace.compare import NO_CODE

OTHER = "other"
"""Name of all classes but the chosen ones."""

_OTHER_COLOR = "#bdbdbd"
_LARGEST = 65535  # value of a class
_UNASKED = NO_CODE - 1  # no class has this code


@dataclass(frozen=True, slots=True)
class MatchOptions:
    """How classes are brought together.

    Attributes:
        names: of the prediction's classes by value; empty for those in the raster.
        mapping: classes of the truth, by value or name, to those of the prediction.
        ignore: classes of the truth, by value or name, that do not count.
        only: classes that are told apart; all others are one, "other". Empty for all.
        rest: what lies outside all polygons of a truth: "ignore", or a class; None for "other" where `only`
            is given and "ignore" elsewhere.
    """

    names: Mapping[int, str] = field(default_factory=dict)
    mapping: Mapping[str, str] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    rest: str | None = None


class Legend:
    """Gives the classes of a prediction and of its truth common codes.

    Args:
        options: how classes are brought together.
        prediction: classes that the prediction names, by value.
        truth: classes that the truth names, by value; empty for polygons, which name theirs in each feature.
        sources: names of the two files, for messages.
        polygons: whether the truth is polygons.

    Attributes:
        classes: by code; the last is "other" if only some are told apart.
        notes: what to tell the user.

    Raises:
        UsageError: a class that is asked for does not exist.
    """

    def __init__(
        self,
        options: MatchOptions,
        prediction: Mapping[int, ClassSpec],
        truth: Mapping[int, ClassSpec],
        sources: tuple[str, str],
        *,
        polygons: bool = False,
    ) -> None:
        if OTHER in options.only:
            raise UsageError(f"--only {OTHER}: name the classes themselves; all the rest is called {OTHER}")
        self._options = options
        self._sources = sources
        self._prediction = _named(prediction) | {
            value: ClassSpec(name, prediction[value].color if value in prediction else default_color(value))
            for value, name in options.names.items()
        }
        self._truth = {value: spec.name for value, spec in _named(truth).items()}
        self.notes: list[str] = []
        self.classes: list[ClassSpec] = []
        self._codes: dict[str, int] = {}
        known = [spec.name for spec in self._prediction.values()]
        for name in (*options.only, *([options.rest] if options.rest not in (None, "ignore", OTHER) else [])):
            if known and name not in known:
                raise UsageError(
                    f"class {name!r} is unknown: {sources[0]} has {', '.join(dict.fromkeys(known))}"
                )
        colors = {spec.name: spec.color for spec in self._prediction.values()}
        for name in options.only or dict.fromkeys(known):
            self._add(name, colors.get(name))
        if options.only:
            self._add(OTHER, _OTHER_COLOR)
        if not polygons:
            self._by_value()

    @property
    def closed(self) -> bool:
        """Whether the prediction names its classes: then those of the truth are among them."""
        return bool(self._prediction)

    def _by_value(self) -> None:
        """Say so where the values of one side are taken as those of the other."""
        one, two = self._sources
        if self.notes:
            return
        if self._prediction and not self._truth and not self._options.mapping:
            values = ", ".join(f"{value} {spec.name}" for value, spec in sorted(self._prediction.items()))
            self.notes.append(
                f"{two} names no classes: its values are taken as those of {one} ({values}); --map says "
                "otherwise"
            )
        elif self._truth and not self._prediction:
            values = ", ".join(f"{value} {name}" for value, name in sorted(self._truth.items()))
            self.notes.append(
                f"{one} names no classes: its values are taken as those of {two} ({values}); --names says "
                "otherwise"
            )

    def predicted(self, value: int) -> int:
        """Return the code of a value of the prediction."""
        if value in self._prediction:
            return self._code(self._prediction[value].name)
        if value == NODATA and value not in self._truth:
            return NO_CODE
        name = self._truth.get(value) if not self._prediction else None
        return self._code(name or str(value))

    def true(self, value: int) -> int | None:
        """Return the code of a value of a truth raster; `NO_CODE` if it is ignored, None if it is unknown."""
        options, text = self._options, str(value)
        if text in options.ignore:
            return NO_CODE
        name = self._truth.get(value)
        if value == NODATA and name is None and text not in options.mapping and value not in self._prediction:
            return NO_CODE
        if text in options.mapping:
            name = options.mapping[text]
        elif name is None and not self._truth and not options.mapping:
            name = self._prediction[value].name if value in self._prediction else None
            name = text if not self._prediction else name
        return self.named(name)

    def named(self, name: str | None) -> int | None:
        """Return the code of a class of the truth by name; as `true`."""
        name = self._options.mapping.get(name, name) if name is not None else None
        if name is not None and name in self._options.ignore:
            return NO_CODE
        known = name in self._codes or not self._prediction
        if name is None or not known:
            return self._codes[OTHER] if self._options.only else None
        return self._code(name)

    def text(self, value: str) -> int | None:
        """Return the code of a class of a polygon, which may be a name or a value; as `true`."""
        names = {spec.name for spec in self._prediction.values()} | set(self._options.mapping)
        if value.isdecimal() and value not in names:
            self._by_value()
            return self.true(int(value))
        return NO_CODE if value in self._options.ignore else self.named(value)

    def rest(self) -> int:
        """Return the code of what lies outside all polygons."""
        rest = self._options.rest or (OTHER if self._options.only else "ignore")
        if rest == "ignore":
            return NO_CODE
        if rest == OTHER and OTHER not in self._codes:
            raise UsageError("--rest other needs --only: which classes are not other?")
        return self._code(rest)

    def unknown(self, values: Sequence[object]) -> SourceError:
        """Say which classes of the truth the prediction does not have."""
        one, two = self._sources
        some = ", ".join(map(str, values[:8])) + ", ..." * (len(values) > 8)
        known = ", ".join(spec.name for spec in self.classes)
        first = values[0]
        return SourceError(
            f"{two} has classes that {one} does not have: {some}; it has {known}: say which they are with "
            f"--map {first}=NAME, leave them out with --ignore {first}, or choose classes with --only"
        )

    def code(self, name: str) -> int:
        """Return the code of a class that is asked for by name.

        Raises:
            UsageError: there is no such class.
        """
        if name not in self._codes and self._prediction:
            known = ", ".join(spec.name for spec in self.classes)
            raise UsageError(f"class {name!r} is unknown: there are {known}")
        return self._code(name)

    def _code(self, name: str) -> int:
        if name in self._codes:
            return self._codes[name]
        if self._options.only:
            return self._codes[OTHER]
        return self._add(name, None)

    def _add(self, name: str, color: str | None) -> int:
        code = len(self.classes)
        if code >= _UNASKED:
            raise SourceError(f"{' and '.join(self._sources)} have more than {_UNASKED} classes")
        self.classes.append(ClassSpec(name, color or default_color(int(name) if name.isdecimal() else code)))
        self._codes[name] = code
        return code


class Translator:
    """Turns values of a raster into codes, each of which is asked for once.

    Args:
        nodata: value without a class, or None.
        code: gives the code of a value, or None if it has none.
        unknown: makes the error about values without a code.
        source: name of the raster, for messages.
    """

    def __init__(
        self,
        nodata: int | None,
        code: Callable[[int], int | None],
        unknown: Callable[[Sequence[object]], SourceError],
        source: str,
    ) -> None:
        self._nodata, self._code, self._unknown, self._source = nodata, code, unknown, source
        self._table = np.full(_LARGEST + 2, _UNASKED, dtype=np.uint8)
        self._table[-1] = NO_CODE
        if nodata is not None and nodata <= _LARGEST:
            self._table[nodata] = NO_CODE

    def __call__(self, values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Translate ``(rows, width)`` uint8 or int32.

        Raises:
            SourceError: there are values without a code.
        """
        index = values
        if values.dtype != np.uint8:
            gone = values == self._nodata
            if (values[~gone] > _LARGEST).any():
                raise SourceError(
                    f"{self._source} has the value {values[~gone].max()}: classes from 0 to {_LARGEST} are "
                    "needed"
                )
            index = np.where(gone, _LARGEST + 1, values)
        codes: npt.NDArray[np.uint8] = self._table[index]
        new = np.unique(values[codes == _UNASKED]).tolist()
        if not new:
            return codes
        found = {value: self._code(value) for value in new}
        missing = [value for value, code in found.items() if code is None]
        if missing:
            raise self._unknown(missing)
        for value, code in found.items():
            self._table[value] = NO_CODE if code is None else code
        return np.asarray(self._table[index])


def _named(classes: Mapping[int, ClassSpec]) -> dict[int, ClassSpec]:
    """Leave out classes that have a colour but no name."""
    return {value: spec for value, spec in classes.items() if spec.name != str(value)}
