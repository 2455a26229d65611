"""Surveys from Python: `predict_all` maps many scenes with one model, `batch` also makes one map of them."""

import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Unpack

from pfmap.core.errors import UsageError
from pfmap.core.files import existing, file_names
from pfmap.core.option import explained, take
from pfmap.core.resources import claimed
from pfmap.mapping.job import Progress
from pfmap.mapping.objects import refuse_odd_names, refuse_to_replace, vector_names
from pfmap.mapping.options import PredictOptions, SurveySettings
from pfmap.mapping.run_options import RunOptions, SurveyOptions
from pfmap.mapping.work import work_path
from pfmap.raster.location import output_folder
from pfmap.survey.campaign import Survey, SurveyResult
from pfmap.survey.choice import Choice, Sources, several
from pfmap.survey.merge import STEM
from pfmap.survey.run import Runner, SheetResult
from pfmap.survey.single import started

_OWN = re.compile(
    r"survey((\.\d+)?_(classes|con\w+|probabilities)\.\w+|_objects.*\.\w+|_report\.(html|json|csv)|\.qgz)"
)
"""Names of a survey's own files."""

log = logging.getLogger(__name__)


@explained
def predict_all(
    sources: Sources,
    output_dir: str | os.PathLike[str] | None = None,
    *,
    on_scene: Callable[[SheetResult], None] = lambda _result: None,
    on_progress: Progress = lambda _done, _total: None,
    on_message: Callable[[str], None] = log.info,
    **settings: Unpack[SurveySettings],
) -> list[SheetResult]:
    """Map many scenes: for each what `pfmap.predict` makes of it.

    The model is loaded once, and scenes are read ahead while others have the device. What is done already is
    left alone, a run that was killed goes on inside the scene it was in, and a scene that fails does not keep
    the others from being mapped: `failures.csv` in the output folder (or in the one that holds all scenes)
    says which and why. Scenes outside the area of interest, or without a valid pixel, are left out.

    Args:
        sources: scenes; folders, which are searched recursively; ``@list.txt`` with a name in each line.
        output_dir: where the files go, in folders like those of the scenes, below a folder or
            `s3://bucket/folder`; by default beside each scene.
        on_scene: called when a scene is finished, mapped or failed.
        on_progress: called with (pixels done, pixels in all) of all scenes; it may raise to stop.
        on_message: called with lines for people: warnings, and which scene they are about.
        **settings: which scenes are mapped, how, by what; each by its name:

    Returns:
        What became of each scene.

    Raises:
        PfmapError: what concerns all scenes: no scenes, a model or device that is not there, bad settings.
    """
    which, left = take(SurveyOptions, settings)
    run, own = take(RunOptions, left)
    options = PredictOptions.of(**own)
    folder = None if output_dir is None else output_folder(output_dir)
    choice = Choice(several(sources), folder, which, extra=(options.extra or {}).values())
    rounds = choice.rounds(on_progress, on_message)
    with started(run, options.batch_size, on_message) as runtime:
        runner = Runner(runtime, options, on_scene, on_progress, on_message)
        survey = Survey(folder or Path(), choice.listed, runner)
        for sheets in rounds:
            survey.map(sheets)
            survey.list_failures()
    survey.refuse_if_all_left_out()
    return list(survey.results.values())


@explained
def batch(
    sources: Sources,
    output_dir: str | os.PathLike[str],
    *,
    mosaic: bool = False,
    on_scene: Callable[[SheetResult], None] = lambda _result: None,
    on_progress: Progress = lambda _done, _total: None,
    on_message: Callable[[str], None] = log.info,
    **settings: Unpack[SurveySettings],
) -> SurveyResult:
    """Map a survey: many scenes, and one map of them all.

    As `predict_all`, and then from all that is mapped: one class raster and its confidence (VRTs over the
    scenes' own), one vector layer in which objects go on across the scenes' borders, and reports. With
    `retry_failed` and `watch` they are made anew of all that is mapped, each time.

    Args:
        sources: as for `predict_all`; where scenes overlap, later ones are shown over earlier ones.
        output_dir: where the files go, a folder or `s3://bucket/folder`; those of the scenes in folders like
            theirs.
        mosaic: whether the scenes are mapped as one, brought to one grid: windows are blended across their
            borders, and there are no outputs for each of them.
        on_scene: called when a scene is finished, mapped or failed.
        on_progress: called with (pixels done, pixels in all) of all scenes, and then of the one map; it may
            raise to stop.
        on_message: called with lines for people.
        **settings: which scenes are mapped, how, by what; each by its name:

    Returns:
        What became of the scenes, the survey's files, and its figures.

    Raises:
        PfmapError: what concerns all scenes: no scenes, a model or device that is not there, bad settings,
            files that exist and are not an earlier survey's.
    """
    which, left = take(SurveyOptions, settings)
    run, own = take(RunOptions, left)
    if mosaic and (which.retry_failed or which.watch):
        other = "retry_failed=True" if which.retry_failed else "watch=True"
        raise UsageError(f"{other} maps scenes one by one and mosaic=True all as one: leave one out")
    options = PredictOptions.of(**own)
    files = (options.extra or {}).values()
    if mosaic and any("{stem}" in file for file in files):
        raise UsageError(
            "extra= with {stem} names a file for each scene, and mosaic=True maps all as one: join these "
            "files with gdalbuildvrt, and name that"
        )
    folder = output_folder(output_dir)
    choice = Choice(several(sources), folder, which, STEM, files)
    rounds = choice.rounds(on_progress, on_message)
    with _alone(folder, options), started(run, options.batch_size, on_message) as runtime:
        runner = Runner(runtime, options, on_scene, on_progress, on_message)
        survey = Survey(folder, choice.listed, runner)
        for sheets in rounds:
            if mosaic:
                survey.map_as_one(sheets)
            else:
                survey.map(sheets)
                if which.retry_failed:
                    survey.add_earlier(choice.find())
            made = survey.finish()
    return made


@contextmanager
def _alone(folder: Path, options: PredictOptions) -> Iterator[None]:
    """Make a survey's files in a folder, alone; those of an earlier survey are replaced, others refused."""
    path = work_path(folder, STEM)
    mine = path.is_dir() or bool(existing(folder, ["survey_report.json"]))
    own = [name for name in file_names(folder, STEM) if _OWN.fullmatch(name)]
    files = vector_names(f"{STEM}_objects", options.shapes, ()).values()
    refuse_odd_names(folder, STEM, files)
    refuse_to_replace(folder, [*own, *files], overwrite=options.overwrite or mine)
    with claimed(path, folder, "a survey") as give_up:
        yield
        give_up()
