"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from pfmap.core.bucket import is_inside, output_folder
from pfmap.core.errors import PfmapError

F = TypeVar("F", bound=Callable[..., Any])

device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="auto|cpu|cuda|cuda:N|mps",
    help="Where the network runs.",
)


class OutputFolder(click.Path):
    """A folder, or a place in a bucket."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return it as a path."""
        try:
            folder = output_folder(value)
        except PfmapError as error:
            self.fail(str(error), param, ctx)
        return folder if is_inside(folder) else super().convert(value, param, ctx)


def split(text: str) -> tuple[str, ...]:
    """Take a comma-separated list apart."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def class_names(_ctx: click.Context, _param: click.Parameter, text: str | None) -> tuple[str, ...] | None:
    """Read names of classes, separated by commas."""
    return None if text is None else split(text)


def numbers(count: int | None, kind: type[int] | type[float], example: str) -> Callable[..., Any]:
    """Build a callback that reads numbers, separated by commas: so many, or any number of them."""

    def parse(_ctx: click.Context, _param: click.Parameter, text: str | None) -> tuple[float, ...] | None:
        if text is None:
            return None
        try:
            values = tuple(kind(part) for part in text.split(","))
        except ValueError as error:
            raise click.BadParameter(f"{text!r} is no list of numbers such as {example}") from error
        if count is not None and len(values) != count:
            raise click.BadParameter(
                f"{text!r} has {len(values)} numbers; {count} are needed, such as {example}"
            )
        return values

    return parse


model_option = click.option(
    "-m",
    "--model",
    default="landcover",
    show_default=True,
    help="Model by name (see pfmap models list) or folder.",
)

bands_option = click.option(
    "--bands",
    callback=numbers(None, int, "1,2,3"),
    metavar="N,N,N",
    help="Band numbers in the model's order.  [default: by colour interpretation]",
)

scale_option = click.option(
    "--scale",
    callback=numbers(2, float, "0,10000"),
    metavar="MIN,MAX",
    help="Pixel values from black to white.  [default: 0,255 of 8-bit scenes, percentiles 2 and 98 of "
    "others]",
)

gsd_option = click.option(
    "--gsd",
    type=click.FloatRange(min=0, min_open=True),
    metavar="METRES",
    help="Size of the scene's pixels on the ground.  [default: from its georeferencing]",
)

precision_option = click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="Arithmetic of the network; auto takes what the device does natively.",
)

overlap_option = click.option(
    "--overlap",
    type=click.IntRange(min=0),
    metavar="PX",
    help="Pixels that windows share and blend.  [default: an eighth of the window]",
)

overwrite_option = click.option("--overwrite", is_flag=True, help="Replace existing outputs.")

resume_option = click.option(
    "--resume/--no-resume",
    default=True,
    show_default=True,
    help="Take over what earlier runs of the same command made.",
)

_SCENE_OPTIONS = (
    click.option(
        "-o",
        "--output-dir",
        type=OutputFolder(path_type=Path, file_okay=False),
        help="Where the outputs go: a folder, or s3://bucket/folder.  [default: the scene's folder]",
    ),
    model_option,
    device_option,
    precision_option,
    overlap_option,
    click.option(
        "--batch-size",
        type=click.IntRange(min=1),
        help="Windows per pass.  [default: 1 on CPU, 8 on GPU]",
    ),
    bands_option,
    scale_option,
    gsd_option,
    click.option(
        "--resample/--no-resample",
        default=True,
        show_default=True,
        help="Bring a scene outside the model's range of resolution into it while reading, or refuse it.",
    ),
    click.option(
        "--grid",
        type=click.Choice(["scene", "model"]),
        default="scene",
        show_default=True,
        help="Whose pixels the outputs have where the scene is resampled.",
    ),
    click.option(
        "--aoi",
        metavar="FILE[:LAYER]",
        help="Map only inside the polygons of a vector file, in any CRS.",
    ),
    click.option(
        "--bbox",
        callback=numbers(4, float, "500000,4100000,500500,4100500"),
        metavar="XMIN,YMIN,XMAX,YMAX",
        help="Map only inside this box, in the scene's CRS.",
    ),
    click.option(
        "--confidence/--no-confidence",
        default=True,
        show_default=True,
        help="Write the confidence raster.",
    ),
    click.option(
        "--on-read-error",
        type=click.Choice(["fail", "nodata"]),
        default="fail",
        show_default=True,
        help="What to do about blocks that cannot be read.",
    ),
)


_SHAPE_OPTIONS = (
    click.option(
        "--format",
        "formats",
        type=click.Choice(["gpkg", "shp", "fgb", "geojson", "parquet"]),
        multiple=True,
        default=("gpkg",),
        show_default=True,
        help="Vector format; may be repeated.",
    ),
    click.option(
        "--classes",
        callback=class_names,
        metavar="NAME,NAME",
        help="Classes that become polygons.  [default: all; of a model, all but its background]",
    ),
    click.option(
        "--simplify",
        type=click.FloatRange(min=0),
        metavar="METRES",
        help="How far outlines may be moved to simplify them; 0 leaves the pixels' steps.  [default: 1.25 "
        "pixels]",
    ),
    click.option(
        "--regularize",
        callback=class_names,
        default="",
        metavar="NAME,NAME",
        help="Classes whose objects are squared: right angles, straight walls.  [default: none]",
    ),
    click.option(
        "--min-area",
        type=click.FloatRange(min=0),
        default=0.0,
        show_default=True,
        metavar="M2",
        help="Merge smaller regions into the neighbour with the longest border.",
    ),
    click.option(
        "--fill-holes",
        type=click.FloatRange(min=0),
        default=0.0,
        show_default=True,
        metavar="M2",
        help="Fill smaller holes.",
    ),
    click.option("--drop-small", is_flag=True, help="Leave regions below --min-area out instead."),
    click.option(
        "--split-large",
        type=click.IntRange(min=0),
        default=100_000,
        show_default=True,
        metavar="N",
        help="Cut objects of more than N vertices along a grid; 0 never cuts.",
    ),
    click.option("--split-by-class", is_flag=True, help="Write vector files for each class."),
)


_CLUSTER_OPTIONS = (
    click.option(
        "--workers",
        type=click.IntRange(min=1),
        metavar="N",
        help="Compute in N worker processes on this machine: one per GPU, or sharing the cores.",
    ),
    click.option(
        "--cluster",
        metavar="ADDRESS",
        help="Compute on a running Dask cluster: its scheduler's address or file. Scene, model and outputs "
        "are on storage that all its workers reach.",
    ),
)


def cluster_options(command: F) -> F:
    """Give a command all options that say which processes compute."""
    for option in reversed(_CLUSTER_OPTIONS):
        command = option(command)
    return command


def shape_options(command: F) -> F:
    """Give a command all options that say what polygons are like."""
    for option in reversed(_SHAPE_OPTIONS):
        command = option(command)
    return command


def scene_options(command: F) -> F:
    """Give a command all options that say how a scene is mapped."""
    for option in reversed(_SCENE_OPTIONS):
        command = option(command)
    return command


_MANY_OPTIONS = (
    click.option(
        "--glob",
        "pattern",
        metavar="PATTERN",
        help="Which files of folders are scenes, such as 'ortho_*.tif'.  [default: rasters with a place]",
    ),
    click.option("--retry-failed", is_flag=True, help="Map only the scenes that failures.csv names."),
    click.option("--watch", is_flag=True, help="Go on with what appears in the folders, until Ctrl-C."),
)


def many_options(command: F) -> F:
    """Give a command all options that choose among many scenes."""
    for option in reversed(_MANY_OPTIONS):
        command = option(command)
    return command
