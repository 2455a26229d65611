"""The classes of a model: index, name, colour."""

import re
from dataclasses import dataclass

from pfmap.core.errors import ModelError

NODATA = 255
"""Value of the class raster where the scene has no data; classes are 0 to 254."""

_COLOR = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True, slots=True)
class ClassSpec:
    """One class of a model.

    Attributes:
        name: unique within the model, as it appears in every output.
        color: ``#rrggbb``, as it appears in every map.
        background: True for what is not an object: it becomes no polygon unless asked for.
    """

    name: str
    color: str
    background: bool = False

    def __post_init__(self) -> None:
        if not self.name:
            raise ModelError("a class has an empty name")
        if not _COLOR.fullmatch(self.color):
            raise ModelError(f"class {self.name!r} has colour {self.color!r}: write it as #rrggbb")

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Red, green and blue, 0 to 255."""
        red, green, blue = bytes.fromhex(self.color[1:])
        return red, green, blue


def index_of(classes: tuple[ClassSpec, ...], name: str) -> int:
    """Find a class by name.

    Raises:
        ModelError: there is no such class.
    """
    for index, spec in enumerate(classes):
        if spec.name == name:
            return index
    names = ", ".join(spec.name for spec in classes)
    raise ModelError(f"class {name!r} is unknown: the model has {names}")
