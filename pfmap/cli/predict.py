"""`pfmap predict`: map scenes."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

import click

from pfmap.cli import screen
from pfmap.cli.common import Command, mapping_options, options, show_made
from pfmap.cli.main import importing
from pfmap.cli.progress import run_with_progress
from pfmap.cli.screen import say, show
from pfmap.core.errors import SourceError
from pfmap.core.option import take
from pfmap.mapping.options import SurveySettings
from pfmap.mapping.run_options import SurveyOptions

if TYPE_CHECKING:
    from pfmap.mapping.job import Result
    from pfmap.survey.run import SheetResult

T = TypeVar("T")


@click.command(cls=Command, epilog="Open <stem>.qgz in QGIS, or drag the outputs into its window.")
@click.argument("scenes", nargs=-1, required=True, metavar="SCENE...")
@mapping_options
@options("sieve", "workers", "cluster", "overwrite", "resume")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
def predict(
    scenes: tuple[str, ...],
    output_dir: Path | None,
    as_json: bool,
    quiet: bool,
    **settings: Unpack[SurveySettings],
) -> None:
    """Map each SCENE: a class raster, its confidence and object polygons.

    SCENE is any raster that GDAL opens: a path, a URL (https, s3, gs, az), or a zip archive with a raster in
    it; a map service, such as https://host/{z}/{x}/{y}.png, with --bbox; a folder, of which all scenes are
    mapped; or @list.txt, with a scene or folder in each line.

    Writes <stem>_classes.tif, <stem>_confidence.tif, <stem>_objects.gpkg, <stem>_report.json, and <stem>.qgz,
    a QGIS project of it all. A run that was stopped goes on when the same command is given again; scenes that
    are done are left alone, and those that fail are listed in failures.csv.
    """
    with importing(tracing=True):  # torch loads here: --help stays instant
        from pfmap.survey import single
        from pfmap.survey.find import is_folder

    which, own = take(SurveyOptions, settings)
    several = len(scenes) > 1 or scenes[0].startswith("@") or is_folder(scenes[0])
    if several or which.retry_failed or which.watch:
        from pfmap.survey import scenes as batch

        results = run_survey(partial(batch.predict_all, scenes, output_dir, **settings), quiet=quiet)
        screen.tell("result", outputs={}, scenes=[scene_json(result, report=False) for result in results])
        if as_json:
            show([scene_json(result) for result in results])
        elif not quiet:
            say(counts(results))
        fail_if_any_failed(results, scenes, output_dir)
        return
    call = partial(single.predict, scenes[0], output_dir, **own)
    result = run_with_progress(call, quiet=quiet, goes_on=True)
    screen.tell("result", outputs=result.outputs, skipped=result.skipped)
    if as_json:
        show(result.report)
    elif not quiet:
        _say_made(result)


def _say_made(result: "Result") -> None:
    """Say what mapping a scene gave."""
    if result.skipped:
        say(f"{result.scene} is mapped already: --no-resume maps it again")
    report = result.facts
    rows = [(row.name, row.area, row.objects) for row in report.classes]
    show_made(report.unit, rows, result.outputs.values())
    if screen.verbose:
        say("  ".join(f"{name} {value:.1f} s" for name, value in report.seconds.items()))


def run_survey(call: Callable[..., T], *, quiet: bool) -> T:
    """Map scenes, and say what becomes of each."""
    from pfmap.core.stages import Message

    def run(*, on_message: Callable[[str], None], **told: Any) -> T:
        def on_scene(scene: "SheetResult") -> None:
            on_message(Message(scene_line(scene), "scene", scene_json(scene, report=False)))

        return call(on_scene=on_scene, on_message=on_message, **told)

    return run_with_progress(run, quiet=quiet, goes_on=True)


def scene_line(result: "SheetResult") -> str:
    """Say in a line what became of a scene."""
    name = result.sheet.location.text
    if result.left_out:
        why = {"outside": "not in the area of interest", "empty": "no valid pixel"}[result.left_out]
        return f"{result.left_out:<8} {name}: {why}"
    if result.result is None:
        return f"failed   {name}: {result.reason.removeprefix(name).lstrip(': ')}"
    if result.result.skipped:
        return f"skipped  {name}: mapped already"
    report = result.result.facts
    objects, seconds = sum(row.objects for row in report.classes), report.seconds["total"]
    return f"mapped   {name}: {objects:,} object{'s' * (objects != 1)}, {seconds:.1f} s"


def fail_if_any_failed(
    results: "list[SheetResult]", sources: tuple[str, ...], output_dir: Path | None
) -> None:
    """Exit with status 1 if a scene failed."""
    from pfmap.survey.choice import NAME, failures_folder

    if not (failed := [result for result in results if result.reason]):
        return
    listed = failures_folder(sources, output_dir) / NAME
    word = f"{len(failed)} of {len(results)} scenes" if len(results) > 1 else "the scene"
    raise SourceError(
        f"{word} could not be mapped; {listed} says why: the same command with --retry-failed maps just them"
    )


def counts(results: "list[SheetResult]") -> str:
    """Say how many scenes were mapped."""
    done = [result.result for result in results if result.result is not None]
    skipped = sum(result.skipped for result in done)
    failed = sum(bool(result.reason) for result in results)
    left_out = Counter[str](result.left_out for result in results)
    text = f"{len(done) - skipped:,} mapped, {skipped:,} mapped already, {failed:,} failed"
    for kind, words in (("outside", "outside the area of interest"), ("empty", "without a valid pixel")):
        text += f", {left_out[kind]:,} {words}" * bool(left_out[kind])
    return text


def scene_json(result: "SheetResult", *, report: bool = True) -> dict[str, Any]:
    """Say for machines what became of a scene, and what its report says."""
    done = result.result
    state = result.left_out or ("failed" if done is None else "skipped" if done.skipped else "done")
    return {
        "scene": result.sheet.location.text,
        "name": result.sheet.name,
        "state": state,
        "reason": result.reason,
        "outputs": {} if done is None else {kind: str(path) for kind, path in done.outputs.items()},
    } | ({"report": None if done is None else done.report} if report else {})
