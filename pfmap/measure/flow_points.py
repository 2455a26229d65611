"""The points that PointFlow chooses in one window of a scene: found, counted and drawn.

The paper shows them in its Figure 4, and argues with a share: 7.83 % of its points lie on foreground, which
covers 2.89 % of the pixels, so the points are where the objects are.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from pfmap.core.arrays import Bools, Bytes
from pfmap.core.card import Card
from pfmap.core.classes import as_colors, index_of
from pfmap.core.errors import ModelError, SourceError, UsageError
from pfmap.core.grid import Scale, Span, mean_size
from pfmap.core.option import explained, take
from pfmap.mapping.job import Job
from pfmap.mapping.options import PredictOptions, WindowSettings
from pfmap.mapping.plan import Plan
from pfmap.mapping.run_options import RunOptions
from pfmap.mapping.runtime import Runtime
from pfmap.model.predictor import Predictor
from pfmap.net.layers import resize
from pfmap.net.pfnet import PFNet, PFNetOutput
from pfmap.raster.location import locate
from pfmap.raster.view import View, pad_to
from pfmap.report.picture import Panel, Points, write_picture

_USUAL_FOREGROUND = "building"
_FEW = 3  # class names in a line


@dataclass(frozen=True, slots=True)
class LevelPoints:
    """The points of one PointFlow module where there is data: pixels of its source map, each named once."""

    source: int
    """Stride of the map they were chosen on."""
    target: int
    """Stride of the map they flow into."""
    flows: Mapping[str, Points]
    """Salient and boundary points; empty where a module has no such flow."""


@dataclass(frozen=True, slots=True)
class WindowPoints:
    """One window as the network sees it, and where it lets semantics flow."""

    scene: str
    model: str
    rows: Span
    """Of the scene that the window covers."""
    cols: Span
    gsd: float | None
    """Metres per pixel that the network sees."""
    pixels: Bytes
    """``(3, side, side)`` as the network sees them: its first three bands, or one three times."""
    seen: Bools
    """``(side, side)``: which of them have data; the others are nodata or beyond the scene."""
    foreground: tuple[str, ...]
    on_foreground: Bools
    """``(side, side)``: pixels that have data and are predicted to be foreground."""
    levels: tuple[LevelPoints, ...]
    """In the order in which the modules run."""
    notes: tuple[str, ...]

    @property
    def pixel_share(self) -> float:
        """Share of foreground among the pixels that have data."""
        return float(self.on_foreground.sum() / self.seen.sum())

    def point_share(self, points: Points) -> float | None:
        """Share of the points that lie on foreground; None of no points."""
        rows, cols = points.astype(int).T
        return float(self.on_foreground[rows, cols].mean()) if len(points) else None

    @property
    def foreground_text(self) -> str:
        """The foreground's classes, as far as they fit into a line."""
        few = len(self.foreground) <= _FEW
        return ", ".join(self.foreground) if few else f"foreground ({len(self.foreground)} classes)"

    @property
    def all_points(self) -> Points:
        """The points of all levels and flows."""
        return np.concatenate([points for level in self.levels for points in level.flows.values()])

    def summary(self) -> str:
        """Say in a line where the points are."""
        share = self.point_share(self.all_points)
        points = "none of the points" if share is None else f"{100 * share:.1f} % of the points"
        return f"{points} and {100 * self.pixel_share:.1f} % of the pixels on {self.foreground_text}"

    def table(self) -> dict[str, Any]:
        """Put the figures together for machines."""
        return {
            "scene": self.scene,
            "model": self.model,
            "window": {
                "col": self.cols.start,
                "row": self.rows.start,
                "width": self.cols.size,
                "height": self.rows.size,
                "pixels": self.seen.shape[0],
                "gsd_m": self.gsd,
            },
            "foreground": list(self.foreground),
            "foreground_pixels": self.pixel_share,
            "foreground_points": self.point_share(self.all_points),
            "levels": [
                {"from_stride": level.source, "to_stride": level.target}
                | {
                    kind: {"points": len(points), "on_foreground": self.point_share(points)}
                    for kind, points in level.flows.items()
                }
                for level in self.levels
            ],
            "notes": list(self.notes),
        }


@explained
def find_points(
    scene: str | os.PathLike[str],
    window: tuple[int, int],
    *,
    foreground: Sequence[str] | None = None,
    **settings: Unpack[WindowSettings],
) -> WindowPoints:
    """Find the points of one window, read and prepared as `predict` does, in float32.

    Args:
        scene: any raster that GDAL opens.
        window: column and row of the window's top-left pixel in the scene; its size is the model's, on the
            grid that the network sees.
        foreground: names of the foreground classes; None for all but the model's background, or for
            building where a model has none.
        **settings: those of `predict` that matter for it:

    Raises:
        UsageError: the window lies outside the scene, or options do not fit it.
        ModelError: the model has no PointFlow module, or no such class.
        SourceError: the window has no valid pixel, or cannot be read.
        DeviceError: the network gives numbers that are none.
    """
    run, own = take(RunOptions, settings)
    runtime = Runtime.of(run.model, run.device, "float32", 1, lambda _text: None)
    network = runtime.model.network
    if not isinstance(network, PFNet) or network.architecture.flow == "none":
        raise ModelError(
            f"model {runtime.model.card.name!r} has no PointFlow module (flow = 'none'), so there are no "
            "points to show: choose another with model="
        )
    wanted = _foreground(runtime.model.card, foreground)
    options = PredictOptions.of(**own, grid="model")
    # Of what is said on the way, warnings matter: those are the plan's.
    with Job(locate(scene), runtime, options, lambda _text: None).planned() as (source, plan):
        rows, cols = _spans(plan, window)
        side = plan.card.input.window
        tile = View(source, plan.frame, None, native=False).read(rows, cols, rows, cols)
    # Beyond the scene the window is padded by reflection: the network is shown what is no data.
    pixels, shown = pad_to(tile.pixels, tile.seen, side, side)
    seen = np.zeros_like(shown)
    seen[: rows.size, : cols.size] = tile.seen
    if not seen.any():
        raise SourceError(
            f"{plan.scene.name} has no valid pixel in the window at column {window[0]}, row {window[1]}: "
            "choose another with window="
        )
    predictor = Predictor(network, plan.card.input, plan.device)
    with torch.inference_mode():
        output = predictor.prepare([pixels], [shown], network.compute)
        if not output.logits.isfinite().all():
            raise predictor.unsound("the window")
        classes = resize(output.logits, shown.shape).argmax(dim=1)[0].cpu().numpy()
    return WindowPoints(
        scene=plan.scene.name,
        model=plan.card.name,
        rows=plan.frame.rows.cover(rows),
        cols=plan.frame.cols.cover(cols),
        gsd=None if plan.model_gsd is None else round(mean_size(plan.model_gsd), 6),
        pixels=pixels[as_colors(list(range(len(pixels))))],
        seen=seen,
        foreground=tuple(plan.card.classes[index].name for index in wanted),
        on_foreground=np.isin(classes, wanted) & seen,
        levels=_levels(output, seen),
        notes=tuple(plan.warnings),
    )


def _foreground(card: Card, names: Sequence[str] | None) -> list[int]:
    """Decide which classes are foreground, by their indices."""
    if names is not None:
        if not names:
            raise UsageError("no foreground class is named: give one or more with foreground=")
        return list(dict.fromkeys(index_of(card.classes, name) for name in names))
    objects = [index for index, spec in enumerate(card.classes) if not spec.background]
    if len(objects) < len(card.classes):
        return objects
    known = [spec.name for spec in card.classes]
    if _USUAL_FOREGROUND in known:
        return [known.index(_USUAL_FOREGROUND)]
    raise ModelError(
        f"model {card.name!r} has no background class: say which of its classes are foreground with "
        f"foreground= ({', '.join(known)})"
    )


def _spans(plan: Plan, window: tuple[int, int]) -> tuple[Span, Span]:
    """Return the window's rows and columns on the network's grid, as far as the scene goes."""
    (col, row), box = window, plan.scene.geobox
    if not (0 <= col < box.width and 0 <= row < box.height):
        raise UsageError(
            f"window {col},{row} is outside {plan.scene.name}, which has {box.width:,} x {box.height:,} "
            f"pixels: give COL,ROW between 0,0 and {box.width - 1},{box.height - 1}"
        )

    def part(at: int, axis: Scale) -> Span:
        start = min(at * axis.size // axis.native, axis.size - 1)
        return Span(start, min(start + plan.card.input.window, axis.size))

    return part(row, plan.frame.rows), part(col, plan.frame.cols)


def _levels(output: PFNetOutput, seen: Bools) -> tuple[LevelPoints, ...]:
    """Turn the modules' flat indices into places in the window."""
    levels = []
    for points, flowed in zip(output.points, output.flows, strict=True):
        source, target = seen.shape[0] // points.grid[0], seen.shape[0] // flowed.shape[-2]
        kinds = {"salient": points.salient, "boundary": points.boundary}
        flows = {kind: _places(at, points.grid, seen) for kind, at in kinds.items()}
        levels.append(LevelPoints(source, target, flows))
    return tuple(levels)


def _places(at: Tensor | None, grid: tuple[int, int], seen: Bools) -> Points:
    """Return the centres of pixels of a map, row and column in the window, as far as there is data."""
    flat = np.unique(at.cpu().numpy()) if at is not None else np.empty(0, dtype=np.int64)
    centres = (np.stack(np.divmod(flat, grid[1]), axis=1) + 0.5) * (seen.shape[0] / grid[0])
    rows, cols = centres.astype(int).T
    on_data: Points = centres[seen[rows, cols]]
    return on_data


def draw_points(found: WindowPoints, path: Path) -> None:
    """Draw the points over their window, replacing a file that exists, or raise a `TargetError`."""
    side = found.seen.shape[0]
    gsd = f" at {found.gsd:.3g} m" if found.gsd is not None else ""
    place = f"column {found.cols.start}, row {found.rows.start}: {side} x {side} pixels{gsd}"
    kinds = {kind for level in found.levels for kind, points in level.flows.items() if len(points)}
    legend = (
        "salient points" * ("salient" in kinds),
        "boundary points" * ("boundary" in kinds),
        f"predicted {found.foreground_text}",
    )
    captions = [f"{PurePath(found.scene).name}, {place}, model {found.model}", found.summary()]
    panels: list[Panel] = []
    for level in found.levels:
        counted = [
            f"{len(points)} {kind}, {100 * share:.0f} % on foreground"
            for kind, points in level.flows.items()
            if (share := found.point_share(points)) is not None
        ]
        title = f"stride {level.source} to {level.target}"
        panels.append((title, "; ".join(counted), level.flows["salient"], level.flows["boundary"]))
    write_picture(path, found.pixels, found.seen, found.on_foreground, panels, legend, captions)
