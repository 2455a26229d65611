"""Take apart the objects of one class that touch: the houses of a row are one region of a class raster."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Separation:
    """Which objects are taken apart, and how; lengths are pixels of the class raster.

    A wall is a pixel whose contact is at least the threshold. Seeds are the 4-connected sets of pixels of one
    class without a wall, or another class, within `depth` rows and columns. Every other pixel of the class
    goes to the seed to which the way within the class is shortest, in 4-connected steps.
    """

    classes: frozenset[int]
    """Values whose objects are taken apart."""
    by_shape: bool = False
    """Whether seeds are found by the shape of regions, because contact is not known."""
    threshold: int = 50
    """Percent of contact from which on a pixel is a wall."""
    depth: int = 4
    """How far from walls and other classes seeds lie."""
    reach: int = 40
    """How long the way to a seed may be; what is farther from any is an object of its own."""
    least: int = 24
    """Pixels that a seed has at least."""
