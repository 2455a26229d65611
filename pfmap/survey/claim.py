"""A survey's own files: whose they are, while they are being made and after."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pfmap.core.files import exists, file_names
from pfmap.mapping.objects import refuse_to_replace
from pfmap.mapping.options import PredictOptions
from pfmap.mapping.work import locked, work_path
from pfmap.survey.merge import STEM

_OWN = re.compile(r"survey(_classes\.vrt|_confidence\.vrt|_objects.*\.\w+|_report\.(html|json|csv)|\.qgz)")


@contextmanager
def alone(folder: Path, options: PredictOptions) -> Iterator[None]:
    """Make a survey's files in a folder, alone; those of an earlier survey are replaced.

    Raises:
        TargetError: another process makes them, they are not an earlier survey's, or the folder cannot be
            written.
    """
    claim = work_path(folder, STEM)
    if not claim.is_dir() and not exists(folder / "survey_report.json"):
        own = [name for name in file_names(folder, STEM) if _OWN.fullmatch(name)]
        refuse_to_replace(folder, own, overwrite=options.overwrite)
    with locked(folder, STEM, "a survey"):
        yield
    shutil.rmtree(claim, ignore_errors=True)
