"""Which truth belongs to which prediction: two files, or two folders of files with the same names."""

import os
from pathlib import Path

from pfmap.core.errors import SourceError
from pfmap.raster.location import EXACT_SUFFIXES

_CLASSES = "_classes"


def find_pairs(prediction: str | os.PathLike[str], truth: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """Pair predictions with their truth.

    In a folder that pfmap predict wrote to, its `*_classes.tif` are the predictions; in others all rasters.

    Args:
        prediction: a file, or a folder.
        truth: a file, or a folder with rasters of the same names, without `_classes` and whatever their
            format.

    Returns:
        (prediction, truth), in the order of their names.

    Raises:
        SourceError: a folder is empty, only one of the two is a folder, or files have no partner.
    """
    one, two = Path(prediction), Path(truth)
    folders = one.is_dir(), two.is_dir()
    if not any(folders):
        return [(os.fspath(prediction), os.fspath(truth))]
    if not all(folders):
        which, other = (one, two) if folders[0] else (two, one)
        raise SourceError(f"{which} is a folder and {other} is not: give two files, or two folders")
    predicted, true = _rasters(one), _rasters(two)
    ours = {stem: path for stem, path in predicted.items() if stem.endswith(_CLASSES)} or predicted
    found = {stem.removesuffix(_CLASSES): path for stem, path in ours.items()}
    known = {stem.removesuffix(_CLASSES): path for stem, path in true.items()}
    for missing, here, there in (
        (sorted(found.keys() - known.keys()), one, two),
        (sorted(known.keys() - found.keys()), two, one),
    ):
        if missing:
            some = ", ".join(missing[:5]) + ", ..." * (len(missing) > 5)
            raise SourceError(
                f"{len(missing)} of the rasters in {here} have no partner in {there}: {some}; files that "
                "belong together have the same name"
            )
    return [(str(found[stem]), str(known[stem])) for stem in sorted(found)]


def _rasters(folder: Path) -> dict[str, Path]:
    """Find the rasters in a folder by their names without the ending."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in EXACT_SUFFIXES and path.is_file() and not path.stem.endswith("_confidence"):
            if path.stem in found:
                raise SourceError(f"{found[path.stem]} and {path} have the same name: keep one of them")
            found[path.stem] = path
    if not found:
        raise SourceError(
            f"{folder} has no raster ({', '.join(sorted(EXACT_SUFFIXES))}): class rasters are needed"
        )
    return found
