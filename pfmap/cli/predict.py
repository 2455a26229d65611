"""`pfmap predict`: map a scene."""

import json
import sys
from pathlib import Path

import click
from tqdm import tqdm

from pfmap.cli.options import device_option


def _split(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _bands(_ctx: click.Context, _param: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    try:
        return None if text is None else tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no list of band numbers such as 1,2,3") from error


@click.command(epilog="The outputs open in QGIS coloured and named: drag them into the window.")
@click.argument("scene", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the outputs go.  [default: the scene's folder]",
)
@click.option(
    "-m",
    "--model",
    default="landcover",
    show_default=True,
    help="Model by name (see pfmap models list) or folder.",
)
@device_option
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="Arithmetic of the network; auto takes what the device does natively.",
)
@click.option(
    "--overlap",
    type=click.IntRange(min=0),
    metavar="PX",
    help="Pixels that windows share and blend.  [default: an eighth of the window]",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Windows per pass.  [default: 1 on CPU, 8 on GPU]",
)
@click.option(
    "--bands",
    callback=_bands,
    metavar="N,N,N",
    help="Band numbers in the model's order.  [default: by colour interpretation]",
)
@click.option(
    "--format",
    "formats",
    type=click.Choice(["gpkg", "shp", "geojson"]),
    multiple=True,
    default=("gpkg",),
    show_default=True,
    help="Vector format; may be repeated.",
)
@click.option(
    "--classes",
    metavar="NAME,NAME",
    help="Classes that become polygons.  [default: all but the model's background]",
)
@click.option(
    "--min-area",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    metavar="M2",
    help="Leave smaller objects out of the vector files.",
)
@click.option(
    "--confidence/--no-confidence",
    default=True,
    show_default=True,
    help="Write the confidence raster.",
)
@click.option("--overwrite", is_flag=True, help="Replace existing outputs.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("-v", "--verbose", is_flag=True, help="Say more.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
def predict(
    scene: Path,
    output_dir: Path | None,
    model: str,
    device: str,
    precision: str,
    overlap: int | None,
    batch_size: int | None,
    bands: tuple[int, ...] | None,
    formats: tuple[str, ...],
    classes: str | None,
    min_area: float,
    confidence: bool,
    overwrite: bool,
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Map SCENE: a class raster, its confidence and object polygons.

    Writes <stem>_classes.tif, <stem>_confidence.tif, <stem>_objects.gpkg and <stem>_report.json, with QGIS
    styles.
    """
    from pfmap.engine import pipeline  # torch loads here: --help stays instant

    with tqdm(
        total=None, unit="px", unit_scale=True, disable=quiet or None, file=sys.stderr, leave=False
    ) as bar:

        def on_progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        def on_message(text: str) -> None:
            if not quiet:
                bar.write(text, file=sys.stderr)

        result = pipeline.predict(
            scene,
            output_dir,
            model=model,
            on_progress=on_progress,
            on_message=on_message,
            device=device,
            precision=precision,
            overlap=overlap,
            batch_size=batch_size,
            bands=bands,
            formats=formats,
            classes=_split(classes),
            min_area=min_area,
            confidence=confidence,
            overwrite=overwrite,
        )
    if as_json:
        click.echo(json.dumps(result.report, indent=2))
    elif not quiet:
        _show(result.report, {kind: str(path) for kind, path in result.outputs.items()}, verbose)


def _show(report: dict[str, object], outputs: dict[str, str], verbose: bool) -> None:
    """Print what was found and where it lies."""
    rows: list[dict[str, object]] = report["classes"]  # type: ignore[assignment]
    unit = "m2" if "area_m2" in rows[0] else "px"
    click.echo(f"{'class':<20} {'area ' + unit:>14} {'objects':>9}")
    for row in rows:
        click.echo(f"{row['class']!s:<20} {row[f'area_{unit}']:>14,.0f} {row['objects']:>9,}")
    for path in outputs.values():
        click.echo(f"wrote {path}")
    if verbose:
        seconds: dict[str, float] = report["seconds"]  # type: ignore[assignment]
        click.echo("  ".join(f"{name} {value:.1f} s" for name, value in seconds.items()))
