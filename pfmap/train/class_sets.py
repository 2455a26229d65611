"""Labels as sets of classes.

A label says which classes a pixel may be. "Building" is a set of one, "not a building" a set of several,
"unknown" the set of all. One byte per pixel points into one table for all sources, so that full, partial and
missing labels are the same thing to everything that follows.
"""

import numpy as np
import numpy.typing as npt

from pfmap.core.errors import TrainingError

Labels = npt.NDArray[np.uint8]
"""``(height, width)`` indices into a table of class sets; 0 is unknown."""


class ClassSets:
    """The table of label sets; entry 0 is "unknown": every class, weight 0."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes = classes
        everything = frozenset(range(len(classes)))
        self._entries: list[tuple[frozenset[int], float]] = [(everything, 0.0)]

    def add(self, members: frozenset[int], weight: float) -> int:
        """Find or make the entry for these classes with this weight, and return its index."""
        entry = (members, weight)
        if entry not in self._entries:
            if len(self._entries) == 256:
                raise TrainingError("the sources use more than 255 different label sets")
            self._entries.append(entry)
        return self._entries.index(entry)

    def add_named(self, names: tuple[str, ...], weight: float) -> int:
        """Find or make the entry for classes given by name."""
        return self.add(frozenset(self.classes.index(name) for name in names), weight)

    def members(self, index: int) -> frozenset[int]:
        """Return the classes of an entry."""
        return self._entries[index][0]

    def weight(self, index: int) -> float:
        """Return the weight of an entry."""
        return self._entries[index][1]

    def sure(self, index: int) -> bool:
        """Say whether an entry names one class."""
        return len(self._entries[index][0]) == 1

    def __len__(self) -> int:
        return len(self._entries)

    def table(self) -> npt.NDArray[np.bool_]:
        """Return ``(S, classes)`` bool: which classes each entry allows."""
        out = np.zeros((len(self), len(self.classes)), dtype=bool)
        for index, (members, _) in enumerate(self._entries):
            out[index, sorted(members)] = True
        return out

    def weights(self) -> npt.NDArray[np.float32]:
        """Return ``(S,)`` float32 weights."""
        return np.array([weight for _, weight in self._entries], dtype=np.float32)
