"""Objects of one class as ragged arrays: how tracing hands geometry to the vector side."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Regions:
    """4-connected regions of equal class, or objects that touch in one, in pixels of the raster.

    Arrays are ``(n,)`` if nothing is said.
    """

    classes: npt.NDArray[np.int32]
    coords: npt.NDArray[np.float64]
    """``(points, 2)`` columns and rows (x, y) of pixel corners; rings are closed."""
    ring_offsets: npt.NDArray[np.int64]
    """``(rings + 1,)``: where each ring starts in `coords`."""
    region_offsets: npt.NDArray[np.int64]
    """``(n + 1,)``: where each region starts in the rings; the first ring is the outer one."""
    ids: npt.NDArray[np.int64]
    """Place of the first pixel in reading order: row * width + column."""
    object_ids: npt.NDArray[np.int64]
    """The same of the object, such as one of the houses in a row, where this is a piece of it; else `ids`."""
    region_ids: npt.NDArray[np.int64]
    """The same of the connected region of the class, in which several objects may touch."""
    whole: npt.NDArray[np.bool_]
    """Whether it is a whole object, not a piece of one."""
    pixels: npt.NDArray[np.int64]
    """Number of pixels."""
    confidence_sum: npt.NDArray[np.int64]
    """Of the pixels, in percent."""
    confidence_min: npt.NDArray[np.uint8]
    """The least, in percent."""
    at_edge: npt.NDArray[np.bool_]
    """Whether it touches nodata or the raster's edge."""

    @classmethod
    def none(cls) -> "Regions":
        """Return no region."""
        long = np.zeros(0, dtype=np.int64)
        return cls(
            classes=long.astype(np.int32),
            coords=np.zeros((0, 2)),
            ring_offsets=np.zeros(1, dtype=np.int64),
            region_offsets=np.zeros(1, dtype=np.int64),
            ids=long,
            object_ids=long,
            region_ids=long,
            whole=long.astype(np.bool_),
            pixels=long,
            confidence_sum=long,
            confidence_min=long.astype(np.uint8),
            at_edge=long.astype(np.bool_),
        )

    @classmethod
    def join(cls, parts: Sequence["Regions"]) -> "Regions":
        """Put several into one."""
        parts = [part for part in parts if len(part)]
        if len(parts) <= 1:
            return parts[0] if parts else cls.none()
        offsets = {"ring_offsets": "coords", "region_offsets": "ring_offsets"}
        joined = {}
        for item in fields(cls):
            arrays = [getattr(part, item.name) for part in parts]
            if item.name in offsets:
                ends = np.cumsum([0] + [array[-1] for array in arrays])
                arrays = [arrays[0][:1], *(array[1:] + end for array, end in zip(arrays, ends, strict=False))]
            joined[item.name] = np.concatenate(arrays)
        return cls(**joined)

    def part(self, start: int, stop: int) -> "Regions":
        """Return those from `start` to before `stop`; their arrays are views, apart from the offsets."""
        rings = self.region_offsets[start : stop + 1]
        points = self.ring_offsets[rings[0] : rings[-1] + 1]
        special = {
            "coords": self.coords[points[0] : points[-1]],
            "ring_offsets": points - points[0],
            "region_offsets": rings - rings[0],
        }
        names = [item.name for item in fields(self) if item.name not in special]
        return Regions(**special, **{name: getattr(self, name)[start:stop] for name in names})

    def moved(self, row: int, col: int, narrow: int, wide: int) -> "Regions":
        """Return them as regions of a larger raster, in which their own begins at a row and column.

        `narrow` is the width of their own raster, `wide` that of the larger one.
        """

        def place(ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
            return (ids // narrow + row) * wide + ids % narrow + col

        return replace(
            self,
            coords=self.coords + np.array([col, row]),
            ids=place(self.ids),
            object_ids=place(self.object_ids),
            region_ids=place(self.region_ids),
        )

    def save(self, path: Path) -> None:
        """Write all arrays to a numpy archive."""
        np.savez(path, **{item.name: getattr(self, item.name) for item in fields(self)})

    @classmethod
    def load(cls, path: Path) -> "Regions":
        """Read what `save` wrote; nothing in the file is executed."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{item.name: arrays[item.name] for item in fields(cls)})

    def __len__(self) -> int:
        return len(self.classes)
