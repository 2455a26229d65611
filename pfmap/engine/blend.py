"""Blend overlapping windows in bounded memory.

The weights are a separable raised cosine over the overlap, and one elsewhere, so that they sum to one at
every pixel by construction: no count buffer, no division. Only the overlaps wait for the next window:
`overlap` columns of the window before, and `overlap` rows of the window row above, over the scene's width.
Everything stays on the network's device.
"""

import math

import torch
from torch import Tensor

from pfmap.grid import Axis, Grid


def ramp(overlap: int, device: torch.device | str = "cpu") -> Tensor:
    """Build the rising half of the taper: ``(overlap,)`` float32, 0 to 1; the falling half is 1 - it."""
    at = (torch.arange(overlap, dtype=torch.float64) + 0.5) / max(overlap, 1)
    return (0.5 - 0.5 * torch.cos(math.pi * at)).float().to(device)


def taper(axis: Axis, index: int, device: torch.device | str = "cpu") -> Tensor:
    """Build the blend weights of window `index` along one axis: ``(window,)`` float32.

    At the scene's edge there is no neighbour and the weight stays one.
    """
    weight = torch.ones(axis.window, device=device)
    if axis.overlap:
        rising = ramp(axis.overlap, device)
        if index > 0:
            weight[: axis.overlap] = rising
        if index < axis.count - 1:
            weight[axis.stride :] = 1 - rising
    return weight


class Blender:
    """Takes probabilities window by window, in reading order, and gives finished blocks.

    Start with `begin_row` for each window row. The first row given may lie inside the scene: then the row
    before it has to be given too, and what that finishes is to be thrown away (a swath recomputes the
    window row above it).
    """

    def __init__(self, grid: Grid, classes: int, device: torch.device | str = "cpu") -> None:
        self._grid = grid
        self._device = device
        overlap = grid.rows.overlap
        width = grid.cols.extent(grid.cols.count - 1).stop
        self._above = torch.zeros((classes, overlap, width), device=device)
        self._left: Tensor | None = None
        self._row = -1
        self._tapers: dict[tuple[bool, bool, bool], Tensor] = {}

    def begin_row(self, row: int) -> None:
        """Move to window row `row`."""
        self._row = row
        self._left = None

    def add(self, col: int, probabilities: Tensor | None) -> Tensor:
        """Blend one window and return what it finishes.

        Args:
            col: window column; columns come in order.
            probabilities: ``(classes, window, window)`` float32 on the blender's device, or None for a window
                without a valid pixel, which was not computed and has no say.

        Returns:
            ``(classes, rows, cols)`` blended probabilities of the window's block; all 0 at pixels that no
            computed window sees.
        """
        rows, cols = self._grid.rows, self._grid.cols
        if probabilities is None:
            probabilities = torch.zeros((self._above.shape[0], rows.window, cols.window), device=self._device)
        weighted = probabilities * self._taper(cols, col)
        if self._left is not None:
            weighted[..., : cols.overlap] += self._left
        block_cols = cols.block(col)
        if col < cols.count - 1:
            self._left = weighted[..., cols.stride :].clone()
            weighted = weighted[..., : cols.stride]

        weighted = weighted * self._taper(rows, self._row)[:, None]
        at = slice(block_cols.start, block_cols.start + weighted.shape[-1])
        if rows.overlap:
            if self._row > 0:
                weighted[:, : rows.overlap] += self._above[..., at]
            if self._row < rows.count - 1:
                self._above[..., at] = weighted[:, rows.stride :]
        return weighted[:, : rows.block(self._row).size, : block_cols.size]

    def _taper(self, axis: Axis, index: int) -> Tensor:
        """Build a window's weights once per place it can have: first, inside, last, only."""
        place = axis is self._grid.rows, index > 0, index < axis.count - 1
        if place not in self._tapers:
            self._tapers[place] = taper(axis, index, self._device)
        return self._tapers[place]
