"""Union-find: which things are one."""

import numpy as np

from pfmap.trace.compiled import compiled
from pfmap.trace.types import Ints, Longs


@compiled
def root(parent: Ints | Longs, index: int) -> int:
    """Return the root of a set, and shorten the way to it."""
    while parent[index] != index:
        parent[index] = parent[parent[index]]
        index = parent[index]
    return index


@compiled
def unite(parent: Ints | Longs, a: int, b: int) -> None:
    """Join two sets; the lower root stays."""
    a, b = root(parent, a), root(parent, b)
    if a < b:
        parent[b] = a
    else:
        parent[a] = b


@compiled
def roots(count: int, pairs: Longs) -> Longs:
    """Return the least number in everyone's set.

    Args:
        count: how many there are.
        pairs: ``(n, 2)`` that are one.
    """
    parent = np.arange(count)
    for k in range(len(pairs)):
        unite(parent, pairs[k, 0], pairs[k, 1])
    for k in range(count):
        parent[k] = parent[parent[k]]
    return parent
