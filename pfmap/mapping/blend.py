"""Blend overlapping windows in bounded memory, and choose classes on the grid of the outputs.

The weights are a separable raised cosine over the overlap, and one elsewhere, so that they sum to one at
every pixel by construction: no count buffer, no division. Only the overlaps wait for the next window:
`overlap` columns of the window before, and `overlap` rows of the window row above, over the scene's width.
Those rows are kept as whole numbers of two bytes, 8e-6 from what they stand for: float16 would be off by up
to 2e-4. Everything stays on the network's device. On a CPU classes are chosen in compiled loops
(`pfmap.trace.tile.choose_classes`), of which what torch does elsewhere is the reference.
"""

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from pfmap.core.grid import Frame, Grid, Scale, Span
from pfmap.core.stages import Clock
from pfmap.model.lanes import Batch, Window
from pfmap.model.predictor import Predictor
from pfmap.raster.view import neighbours
from pfmap.trace.tile import SAME, Neighbours, choose_classes

_STEPS = 65534  # from probability 0, kept as the first below, to probability 1
_ZERO = -_STEPS // 2


class Blender:
    """Takes probabilities window by window, in reading order, and gives finished blocks.

    The first row given may lie inside the scene: then the row before it has to be given too, and what that
    finishes is to be thrown away (a swath recomputes the window row above it).
    """

    def __init__(self, grid: Grid, channels: int, device: torch.device | str = "cpu") -> None:
        self._grid = grid
        self._device = device
        overlap = grid.rows.overlap
        width = grid.cols.extent(grid.cols.count - 1).stop
        self._above = torch.full((channels, overlap, width), _ZERO, dtype=torch.int16, device=device)
        self._left: Tensor | None = None
        at = (torch.arange(overlap, dtype=torch.float64) + 0.5) / max(overlap, 1)
        self._rising = (0.5 - 0.5 * torch.cos(math.pi * at)).float().to(device)
        self._falling = 1 - self._rising

    @torch.inference_mode()  # what the network gives may be changed in no other
    def add(self, row: int, col: int, probabilities: Tensor | None) -> Tensor:
        """Blend one window and return what it finishes.

        `probabilities` are ``(channels, window, window)`` float32 on the blender's device, changed in place;
        None for a window without a valid pixel, which was not computed and has no say. What it finishes is
        ``(channels, rows, cols)``, all 0 at pixels that no computed window sees.
        """
        if probabilities is None:
            size = self._grid.rows.window, self._grid.cols.window
            probabilities = torch.zeros((self._above.shape[0], *size), device=self._device)
        return self.add_side_by_side(row, col, probabilities[None])

    @torch.inference_mode()
    def add_side_by_side(self, row: int, col: int, probabilities: Tensor) -> Tensor:
        """Do as `add` for several windows of a row at once, ``(windows, ...)``, from the column `col` on."""
        rows, cols = self._grid.rows, self._grid.cols
        # Only the overlaps have a weight other than one.
        overlap, falling, last = cols.overlap, self._falling, col + len(probabilities) - 1
        ends = probabilities[..., cols.stride :] * falling
        starts = probabilities[..., :overlap]
        starts[1:].mul_(self._rising).add_(ends[:-1])
        if col and self._left is not None:
            starts[0].mul_(self._rising).add_(self._left)
        self._left = ends[-1]
        wide = probabilities[..., : cols.stride].permute(1, 2, 0, 3).flatten(2)
        if last == cols.count - 1:
            end = probabilities[-1, ..., cols.stride :]
            wide = torch.cat([wide, end], dim=2) if col < last else probabilities[0]
        start, stop = cols.block(col).start, cols.block(last).stop
        at = slice(start, start + wide.shape[-1])
        if row > 0 and overlap:
            above = self._above[..., at].float().sub_(_ZERO).div_(_STEPS)
            wide[:, :overlap].mul_(self._rising[:, None]).add_(above)
        if row < rows.count - 1 and overlap:
            waiting = wide[:, rows.stride :] * falling[:, None]
            self._above[..., at].copy_(waiting.mul_(_STEPS).add_(_ZERO).round_())
        return wide[:, : rows.block(row).size, : stop - start]


_STRIP = 8 << 20  # probabilities in work at a time


@dataclass(frozen=True, slots=True)
class Block:
    """A finished piece of the map, in pixels of the outputs."""

    rows: Span
    cols: Span
    classes: Tensor
    """``(rows, cols)`` uint8, the class of highest blended probability of those above their thresholds."""
    percent: tuple[Tensor, ...]
    """``(rows, cols)`` uint8: that probability, and the contact's where there is one. At last
    ``(classes, rows, cols)`` of all classes, where they are wanted."""


class Chooser:
    """Takes blended probabilities block by block, in reading order, and chooses classes.

    Where the outputs lie on another grid than the network's, probabilities are interpolated between the four
    pixels around an output pixel's centre, and only then is the class chosen: borders come out smooth, not as
    steps. One row and one column wait for the next block. `native` outputs lie on the scene's grid, others on
    the network's. With `contact` the last channel is that of the contact map, and no class. Each class is
    chosen only above its threshold, if there are `thresholds`, unless none of them is.
    """

    def __init__(
        self,
        frame: Frame,
        classes: int,
        *,
        native: bool,
        contact: bool = False,
        thresholds: Sequence[float] = (),
        probabilities: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.channels, self.device = classes + contact, device
        self.layers = [()] * (2 + contact) + [(classes,)] * probabilities
        """What comes before rows and columns in the shape of the classes, and of each of `Block.percent`."""
        self._classes, self._all = classes, probabilities
        self._thresholds = torch.tensor(thresholds, device=device).view(-1, 1, 1) if thresholds else None
        turns = [thresholds, [1.0] * classes] if thresholds else [[-1.0] * classes]
        self._turns = np.array(turns, dtype=np.float32)
        self._shown = np.array([*range(classes, self.channels), *range(classes * probabilities)], np.int64)
        self._frame = frame
        self._interpolates = native and frame.resampled
        width = frame.cols.size if self._interpolates else 0
        self._above = torch.zeros((self.channels, 1, width), device=device)
        self._below = torch.zeros_like(self._above)
        self._left: Tensor | None = None
        self.compiled = self._above.device.type == "cpu"
        """Whether classes are chosen by compiled loops, not by torch."""

    def rows(self, block: Span) -> Span:
        """Return the output rows that a block of the network's rows finishes."""
        scale = self._frame.rows
        return Span(scale.finished(block.start), scale.finished(block.stop)) if self._interpolates else block

    def cols(self, block: Span) -> Span:
        """Return the output columns that a block of the network's columns finishes."""
        scale = self._frame.cols
        return Span(scale.finished(block.start), scale.finished(block.stop)) if self._interpolates else block

    def add(self, rows: Span, cols: Span, probabilities: Tensor) -> Block:
        """Choose the classes that a block of the network's grid finishes, of ``(channels, rows, cols)``."""
        if not self._interpolates and self.compiled:
            return self._choose(probabilities, rows, cols)
        if not self._interpolates:
            shares = probabilities[: self._classes]
            best, classes = self._decide(shares)
            percent = best, *probabilities[self._classes :], *[shares] * self._all
            return Block(rows, cols, classes, tuple(map(to_percent, percent)))
        if cols.start == 0:
            self._above, self._below, self._left = self._below, self._above, None
        wide = probabilities if self._left is None else torch.cat([self._left, probabilities], dim=2)
        first_col = cols.start - (self._left is not None)
        first_row = rows.start
        self._left = probabilities[:, :, -1:].clone()
        if rows.start > 0:
            above = self._above[:, :, first_col : cols.stop]
            wide, first_row = torch.cat([above, wide], dim=1), rows.start - 1
        self._below[:, :, cols.start : cols.stop] = probabilities[:, -1:]
        return self._interpolate(wide, (first_row, first_col), self.rows(rows), self.cols(cols))

    def _interpolate(self, known: Tensor, origin: tuple[int, int], rows: Span, cols: Span) -> Block:
        down = self._neighbours(self._frame.rows, rows, origin[0])
        across = self._neighbours(self._frame.cols, cols, origin[1])
        if self.compiled:
            return self._choose(known, rows, cols, down, across)
        y0, y1, wy, x0, x1, wx = (
            torch.from_numpy(values).to(self.device, non_blocking=known.is_cuda)
            for values in (*down, *across)
        )
        size = rows.size, cols.size
        classes, *percent = (
            torch.empty((*layer, *size), dtype=torch.uint8, device=self.device) for layer in self.layers
        )
        step = max(1, _STRIP // max(1, known.shape[0] * cols.size))
        for top in range(0, rows.size, step):
            at = slice(top, top + step)
            lines = torch.lerp(known[:, y0[at]], known[:, y1[at]], wy[at, None])
            values = torch.lerp(lines[..., x0], lines[..., x1], wx)
            shares = values[: self._classes]
            # Beside windows that were not computed the probabilities do not add up to one.
            whole = shares.sum(dim=0).clamp(min=1e-6)
            best, classes[at] = self._decide(shares, whole)
            parts = best, *values[self._classes :], *[shares] * self._all
            for out, part in zip(percent, parts, strict=True):
                out[..., at, :] = to_percent(part / whole)
        return Block(rows, cols, classes, tuple(percent))

    def _decide(self, shares: Tensor, whole: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
        """Find the probability, of a `whole`, and the index of the class that each pixel gets."""
        if self._thresholds is not None:
            passes = shares > self._thresholds * whole
            shares = torch.where(passes | ~passes.any(dim=0), shares, -1)
        best, chosen = shares.max(dim=0)  # the first of equals
        return best, chosen.to(torch.uint8)

    def _choose(
        self, known: Tensor, rows: Span, cols: Span, down: Neighbours = SAME, across: Neighbours = SAME
    ) -> Block:
        """Choose classes by compiled loops."""
        if known.stride(2) != 1:
            known = known.contiguous()
        size = known.untyped_storage().nbytes() // known.element_size() - known.storage_offset()
        flat, steps = known.as_strided((size,), (1,)), (known.stride(0), known.stride(1), self.channels)
        out = torch.empty((2 + len(self._shown), rows.size, cols.size), dtype=torch.uint8)
        choose_classes(flat.numpy(), steps, down, across, self._turns, self._shown, out.numpy())
        single = len(self.layers) - self._all
        classes, *percent = out[:single]
        return Block(rows, cols, classes, (*percent, *[out[single:]] * self._all))

    def _neighbours(self, scale: Scale, span: Span, origin: int) -> Neighbours:
        """Return the two neighbours of each output pixel, counted from `origin`, and the second's weight."""
        first, second, weight = neighbours(Scale(scale.size, scale.native), span)
        return first - origin, second - origin, weight


def to_percent(best: Tensor) -> Tensor:
    """Turn probabilities into whole percent, uint8."""
    return (best * 100).round_().clamp_(0, 100).to(torch.uint8)


def blend(
    predictor: Predictor, windows: Iterable[Window], grid: Grid, chooser: Chooser, clock: Clock, tta: str
) -> Generator[tuple[Window, Block]]:
    """Run the network over windows, blend them, and choose; each comes with the block that it finishes.

    That is done on the device, a batch at a time, of which all reaches the host in one copy, while the device
    is at the next.
    """
    batches = predictor.batches(windows, clock, tta)
    lane, arriving = predictor.lane, deque[tuple[Batch, Callable[[], Tensor]]]()
    blender = lane.run(Blender, grid, chooser.channels, chooser.device)
    with closing(batches):
        for batch in chain(batches, [None]):
            if batch is not None:
                with clock.stage("blend"):
                    made = lane.run(_finished, blender, chooser, grid, _side_by_side(batch), batch.made)
                    arriving.append((batch._replace(made=None), lane.download(made)))
            while len(arriving) > (batch is not None):
                done, arrive = arriving.popleft()
                with clock.stage("network"):  # that is what the host waits for
                    values = arrive()
                sound, blocks = values[: sum(done.seen)], values[sum(done.seen) :]
                predictor.refuse_unsound(done, sound)
                yield from _blocks(done, blocks, grid, chooser)
            del batch


def _side_by_side(batch: Batch) -> list[tuple[list[Window], bool]]:
    """Take a batch apart: computed windows that follow each other in a row, and empty ones one by one."""
    pieces: list[tuple[list[Window], bool]] = []
    for window, seen in zip(batch.windows, batch.seen, strict=True):
        if not (pieces and window.col and seen and pieces[-1][1]):
            pieces.append(([], seen))
        pieces[-1][0].append(window)
    return pieces


@torch.inference_mode()
def _finished(
    blender: Blender,
    chooser: Chooser,
    grid: Grid,
    pieces: Sequence[tuple[Sequence[Window], bool]],
    made: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Return bytes: of each computed window whether it is sound, and the pieces' blocks, layer by layer."""
    waiting, parts = (made[0], [made[1].byte()]) if made is not None else (None, [])
    for windows, seen in pieces:
        row, first, last = windows[0].row, windows[0].col, windows[-1].col
        if seen and waiting is not None:
            blended = blender.add_side_by_side(row, first, waiting[: len(windows)])
            waiting = waiting[len(windows) :]
        else:
            blended = blender.add(row, first, None)
        cols = Span(grid.cols.block(first).start, grid.cols.block(last).stop)
        block = chooser.add(grid.rows.block(row), cols, blended)
        parts += [block.classes, *block.percent]
    return torch.cat([part.flatten() for part in parts])


def _blocks(batch: Batch, values: Tensor, grid: Grid, chooser: Chooser) -> Iterator[tuple[Window, Block]]:
    """Take the pieces' blocks apart into those of the windows."""
    for windows, _ in _side_by_side(batch):
        rows = chooser.rows(grid.rows.block(windows[0].row))
        cols = [chooser.cols(grid.cols.block(window.col)) for window in windows]
        shapes = [(*layer, rows.size, cols[-1].stop - cols[0].start) for layer in chooser.layers]
        layers = []
        for shape in shapes:
            layers.append(values[: math.prod(shape)].view(shape))
            values = values[math.prod(shape) :]
        for window, span in zip(windows, cols, strict=True):
            within = slice(span.start - cols[0].start, span.stop - cols[0].start)
            classes, *percent = (layer[..., within] for layer in layers)
            yield window, Block(rows, span, classes, tuple(percent))
