"""`pfmap evaluate`: how well a prediction, or a model, agrees with the truth."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import click

from pfmap.cli.common import Command, listed, options, pairs, percent_option, refuse_given
from pfmap.cli.progress import run_with_progress
from pfmap.cli.screen import say, show, tell

_PAGE = 1 << 20  # bytes that a page and its map of errors mostly take

_pairs = partial(click.option, multiple=True, metavar="VALUE=NAME,...")
_lists = partial(click.option, multiple=True, callback=listed(lambda parts: tuple(dict.fromkeys(parts))))


@click.command(cls=Command)
@click.argument("prediction", required=False)
@click.argument("truth", required=False)
@_pairs(
    "--map",
    "mapping",
    callback=pairs(str),
    help="Which class of the prediction a class of the truth is, by its value or name.  [default: by name]",
)
@_pairs(
    "--names", callback=pairs(int), help="Names of the prediction's classes.  [default: those in the raster]"
)
@_lists(
    "--ignore",
    metavar="VALUE,...",
    help="Classes of the truth that do not count, by value or name, besides nodata.",
)
@_lists(
    "--only",
    metavar="NAME,...",
    help="Classes that are told apart; all others are one, 'other'.  [default: all]",
)
@click.option("--field", metavar="NAME", help="Field of TRUTH's polygons with their class.  [default: class]")
@click.option(
    "--rest",
    metavar="ignore|NAME",
    help="What lies outside TRUTH's polygons.  [default: 'other' with --only, else it does not count]",
)
@_lists(
    "--objects",
    metavar="NAME,...",
    help="Classes whose objects are matched one by one: how many are found, merged, split.  [default: none]",
)
@click.option(
    "--min-object",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    metavar="PIXELS",
    help="Smaller objects do not count.",
)
@click.option(
    "--ids",
    metavar="RASTER",
    help="Ids of true objects, 0 for none, on the same pixels, with or without TRUTH.  [default: polygons, "
    "or connected pixels]",
)
@percent_option("confidence", "Percent for each pixel.")
@click.option("-m", "--model", help="Evaluate a model, by name or folder, on a data set instead.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="TOML",
    help="Training configuration that names the data set for --model.",
)
@click.option(
    "--data-folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="What the paths in --data are relative to.  [default: its folder]",
)
@click.option(
    "--part",
    type=click.Choice(["validation", "training"]),
    help="Which part of the data set.  [default: validation]",
)
@options("extra", "device", "tta")
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON.")
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a page with all figures and a map of the errors.",
)
@click.option("-q", "--quiet", is_flag=True, help="Show no progress and no notes.")
@click.pass_context
def evaluate(
    ctx: click.Context,
    /,
    prediction: str | None,
    truth: str | None,
    objects: tuple[str, ...],
    min_object: int,
    model: str | None,
    data: Path | None,
    data_folder: Path | None,
    part: str | None,
    extra: dict[str, str] | None,
    device: str,
    tta: str,
    as_json: bool,
    html: Path | None,
    quiet: bool,
    **of_maps: Any,  # which only a map has a use for
) -> None:
    """Compare PREDICTION, a class raster or polygons, with TRUTH, and print how well they agree.

    TRUTH is a class raster of any CRS, resolution and extent, or a vector file with polygons, or FILE:LAYER.
    Both may be folders of rasters with the same names.

    Or evaluate a --model on the data set of a training configuration, --data.

    \b
    pfmap evaluate scene_classes.tif labels.tif --html page.html
    pfmap evaluate scene_classes.tif footprints.gpkg --only building --objects building
    pfmap evaluate scene_objects.gpkg --ids footprints.tif --objects building
    pfmap evaluate --model landcover --data train.toml
    """  # noqa: D301 - click wants the character itself
    if html is not None:
        _refuse_page(html, (prediction, truth, of_maps["ids"], data))
    work: partial[Any]
    if model is not None:
        refuse_given(ctx, ("prediction", "truth", *of_maps), ": of no use with --model")
        if data is None:
            raise click.UsageError("--model needs --data: the training configuration that names the data set")
        from pfmap.train.evaluate_model import evaluate_model

        how: dict[str, Any] = {"extra": extra, "part": part or "validation", "device": device, "tta": tta}
        work = partial(evaluate_model, model, data, data_folder, **how)
    elif prediction is None or (truth is None and of_maps["ids"] is None):
        raise click.UsageError("give PREDICTION and TRUTH (or --ids), or --model and --data")
    else:
        refuse_given(ctx, ("data", "data_folder", "part", "extra", "tta"), ": of use with --model only")
        from pfmap.evaluation.prediction import evaluate as compare

        work = partial(compare, prediction, truth, **of_maps)
    result: Any = run_with_progress(partial(work, objects=objects, min_object=min_object), quiet=quiet)
    if html is not None:
        from pfmap.core.files import write_text

        write_text(html, result.page())
    figures = result.table()
    tell("result", outputs={} if html is None else {"html": html}, figures=figures)
    if as_json:
        show(figures)
        return
    say(*result.lines())
    if html is not None:
        say(f"wrote {html}")


def _refuse_page(page: Path, inputs: Iterable[str | Path | None]) -> None:
    """Refuse a page that could not be written, or would replace an input, before anything is computed."""
    from pfmap.core.files import refuse_unwritable

    if not page.absolute().parent.is_dir():
        raise click.UsageError(f"--html {page}: the folder {page.parent} does not exist")
    for given in inputs:
        if given is not None and page.resolve() == Path(given).resolve():
            raise click.UsageError(f"--html {page} would replace {given}: name another file")
    refuse_unwritable(page, _PAGE)
