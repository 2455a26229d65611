"""Blend overlapping windows in bounded memory.

The weights are a separable raised cosine over the overlap, and one elsewhere, so that they sum to one at
every pixel by construction: no count buffer, no division. Only the overlaps wait for the next window:
`overlap` columns of the window before, and `overlap` rows of the window row above, over the scene's width.
Those rows are kept as whole numbers of two bytes, 8e-6 from what they stand for: float16 would be off by up
to 2e-4. Everything stays on the network's device.
"""

import math

import torch
from torch import Tensor

from pfmap.core.grid import Grid


def ramp(overlap: int, device: torch.device | str = "cpu") -> Tensor:
    """Build the rising half of the taper: ``(overlap,)`` float32, 0 to 1; the falling half is 1 - it."""
    at = (torch.arange(overlap, dtype=torch.float64) + 0.5) / max(overlap, 1)
    return (0.5 - 0.5 * torch.cos(math.pi * at)).float().to(device)


_STEPS = 65534  # from probability 0, kept as the first below, to probability 1
_ZERO = -_STEPS // 2


def _pack(probabilities: Tensor, out: Tensor) -> None:
    """Keep probabilities, which are changed, in two bytes each."""
    out.copy_(probabilities.mul_(_STEPS).add_(_ZERO).round_())


def _unpack(packed: Tensor) -> Tensor:
    return packed.float().sub_(_ZERO).div_(_STEPS)


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
        self._above = torch.full((classes, overlap, width), _ZERO, dtype=torch.int16, device=device)
        self._left: Tensor | None = None
        self._row = -1
        self._rising = ramp(overlap, device)
        self._falling = 1 - self._rising

    def begin_row(self, row: int) -> None:
        """Move to window row `row`."""
        self._row = row
        self._left = None

    @torch.inference_mode()  # what the network gives may be changed in no other
    def add(self, col: int, probabilities: Tensor | None) -> Tensor:
        """Blend one window and return what it finishes.

        Args:
            col: window column; columns come in order.
            probabilities: ``(classes, window, window)`` float32 on the blender's device, changed in place;
                None for a window without a valid pixel, which was not computed and has no say.

        Returns:
            ``(classes, rows, cols)`` blended probabilities of the window's block; all 0 at pixels that no
            computed window sees.
        """
        rows, cols = self._grid.rows, self._grid.cols
        if probabilities is None:
            probabilities = torch.zeros((self._above.shape[0], rows.window, cols.window), device=self._device)
        # Only the overlaps have a weight other than one.
        overlap, falling = cols.overlap, self._falling
        if self._left is not None:
            probabilities[..., :overlap].mul_(self._rising).add_(self._left)
        if col < cols.count - 1:
            self._left = probabilities[..., cols.stride :] * falling
            probabilities = probabilities[..., : cols.stride]

        block_cols = cols.block(col)
        at = slice(block_cols.start, block_cols.start + probabilities.shape[-1])
        if self._row > 0 and overlap:
            probabilities[:, :overlap].mul_(self._rising[:, None]).add_(_unpack(self._above[..., at]))
        if self._row < rows.count - 1 and overlap:
            _pack(probabilities[:, rows.stride :] * falling[:, None], self._above[..., at])
        return probabilities[:, : rows.block(self._row).size, : block_cols.size]
