"""The picture of a window's points: one panel per PointFlow module, as in the paper's Figure 4."""

import os
from pathlib import Path, PurePath

from pfmap.core.errors import UsageError
from pfmap.measure.flow_points import LevelPoints, WindowPoints
from pfmap.raster.location import locate
from pfmap.report.picture import Panel, Words, write_picture


def picture_path(scene: str | os.PathLike[str], window: tuple[int, int], output: Path | None) -> Path:
    """Decide where the picture goes: by default ``<stem>_points_COL_ROW.png`` beside the scene.

    Raises:
        UsageError: the output is no PNG in a folder that exists.
        SourceError: there is no such scene.
    """
    location = locate(scene)
    path = output or location.folder / f"{location.stem}_points_{window[0]}_{window[1]}.png"
    if path.suffix.lower() != ".png" or not path.parent.is_dir():
        raise UsageError(f"{path} is no name for the picture: give a .png in a folder that exists")
    return path


def draw_points(found: WindowPoints, path: Path) -> None:
    """Draw the points over their window; the file is replaced if it exists.

    Raises:
        TargetError: it cannot be written.
    """
    side = found.seen.shape[0]
    gsd = f" at {found.gsd:.3g} m" if found.gsd is not None else ""
    place = f"column {found.cols.start}, row {found.rows.start}: {side} x {side} pixels{gsd}"
    words = Words(
        "salient points" if any(len(level.salient) for level in found.levels) else "",
        "boundary points" if any(len(level.boundary) for level in found.levels) else "",
        f"predicted {found.foreground_text}",
        [f"{PurePath(found.scene).name}, {place}, model {found.model}", found.summary()],
    )
    panels = [_panel(level, found) for level in found.levels]
    write_picture(path, found.pixels, found.seen, found.on_foreground, panels, words)


def _panel(level: LevelPoints, found: WindowPoints) -> Panel:
    counted = []
    for kind, points in (("salient", level.salient), ("boundary", level.boundary)):
        share = found.point_share(points)
        if share is not None:
            counted.append(f"{len(points)} {kind}, {100 * share:.0f} % on foreground")
    title = f"stride {level.source} to {level.target}"
    return Panel(title, "; ".join(counted), level.salient, level.boundary)
