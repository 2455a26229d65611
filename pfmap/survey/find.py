"""Find the scenes of a survey in files, folders and lists, and say where the outputs of each go."""

import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from pfmap.core import bucket
from pfmap.core.classes import PERCENT
from pfmap.core.errors import UNSEEN, SourceError, UsageError, few, saying
from pfmap.core.files import in_bucket
from pfmap.core.system import common_folder
from pfmap.raster.location import RASTER_SUFFIXES, Location, is_hidden, locate
from pfmap.raster.parts import found_file

_PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"})
_OWN = tuple(map("_{}".format, ("classes", *PERCENT)))


@dataclass(frozen=True, slots=True)
class Sheet:
    """One scene of a survey."""

    location: Location
    """Where it is, and what its outputs are called."""
    folder: Path
    """Where they go."""
    name: str
    """Of its outputs below the survey's output folder, without endings; unique in the survey."""
    fault: str = ""
    """Why it is no scene but a folder that was not searched, or a file that is out of reach; or ""."""


def find_sheets(
    sources: Sequence[str | os.PathLike[str]],
    output_dir: Path | None = None,
    pattern: str | None = None,
    *,
    may_be_empty: bool = False,
    reserved: str = "",
) -> list[Sheet]:
    """Find the scenes of a survey, and name the outputs of each; those of a folder come by name.

    Sources are scenes, as `locate` takes them; folders; or ``@list.txt`` with one of these in each line. A
    folder is searched recursively; hidden files and what pfmap wrote there earlier are left out, and so are
    VRTs, which repeat other files, and pictures without a world file, unless the pattern names them. Outputs
    go into folders like those of the scenes, or beside each. Where a folder `may_be_empty`, some may appear;
    what is `reserved` no outputs in the output folder itself are called.
    """
    if not sources:
        raise UsageError("no scene is named: give scenes, folders of them, or lists such as @list.txt")
    named = [_plain(text) for text in _unlisted([os.fspath(source) for source in sources])]
    folders = [Path(text) for text in named if is_folder(text)]
    _refuse_inside(output_dir, folders)
    sheets: list[Sheet] = []
    unsearched: list[Sheet] = []
    known = [os.path.realpath(path) for path in (*folders, *filter(None, [output_dir]))]
    for text in named:
        path = Path(text)
        if path in folders:
            # Below the output folder, each of several folders has one of its own name.
            home = Path(path.resolve().name) if len(folders) > 1 else Path()
            found, faults = _search(path, pattern, known, may_be_empty=may_be_empty)
            for file, location in found.items():
                sheets.append(_sheet(location, output_dir, home / _clean(file.relative_to(path).parent)))
            for one, why in sorted(faults.items()):
                place = _sheet(Location(str(one), str(one), False, one), output_dir, home)
                name = f"{(home / _clean(one.relative_to(path))).as_posix()}/"  # as none of a scene's outputs
                unsearched.append(replace(place, name=name, fault=why))
        elif len(named) == 1 or not _is_own(path):  # *.tif names what an earlier run wrote too
            sheets.append(_sheet(locate(text), output_dir))
    _refuse_twice([sheet.location for sheet in sheets])
    return _told_apart(sheets, output_dir, reserved) + unsearched


def _clean(path: Path) -> Path:
    """Name the folder of outputs as one of scenes is, without characters that no text has."""
    return Path(UNSEEN.sub("_", os.fspath(path)))


def _sheet(location: Location, output_dir: Path | None, below: Path = Path()) -> Sheet:
    """Say where a scene's outputs go; its name comes once all scenes are known."""
    return Sheet(location, location.folder if output_dir is None else output_dir / below, "")


def _plain(text: str) -> str:
    """Name what may be a folder in a bucket as its files are named."""
    named = text.startswith("s3://") and not _looks_like_file(text)
    return bucket.plain(text).as_posix() if named else text


def _looks_like_file(text: str) -> bool:
    return PurePosixPath(text).suffix.lower() in RASTER_SUFFIXES | {".zip"}


def is_folder(source: str) -> bool:
    """Whether a source is a folder of scenes; in a bucket it is by its name, for there are none."""
    path = Path(_plain(source))
    return not _looks_like_file(source) if in_bucket(path) else os.path.isdir(path)  # noqa: PTH112


def _unlisted(sources: Sequence[str]) -> Iterator[str]:
    """Take lists apart."""
    for source in sources:
        if not source.startswith("@"):
            yield source
            continue
        path = Path(source[1:])
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeError) as error:
            needs = "it needs a scene in each line"
            raise SourceError(f"the list {path} cannot be read ({error}): {needs}") from error
        names = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        if not names:
            raise SourceError(f"the list {path} names no scene: write one in each line")
        for name in names:
            elsewhere = "://" in name or name.startswith("/vsi")
            yield name if elsewhere else os.fspath(path.parent / name)


def _search(
    folder: Path, pattern: str | None, known: Sequence[str], *, may_be_empty: bool
) -> tuple[dict[Path, Location], dict[Path, str]]:
    """Return the scenes in a folder, by name, and what of it cannot be searched or reached, and why."""
    there, faults = _files(folder, known)
    files = [path for path in there if not is_hidden(path.relative_to(folder))]
    has = set(files).__contains__ if in_bucket(folder) else os.path.isfile
    found = {}
    for path in files:
        if _is_scene(path, pattern, has) and not _is_own(path, has):
            try:
                found[path] = found_file(path, pattern or "")
            except SourceError as error:
                faults[path] = str(error)
    if not found and not may_be_empty and not faults:
        what = f"no file that matches {pattern!r}" if pattern else "no raster"
        some = few([path.name for path in files]) or "no file at all"
        raise SourceError(
            f"{folder} has {what} (it has {some}): scenes such as GeoTIFFs are needed; name them, or choose "
            "files with pattern="
        )
    return found, faults


def _files(folder: Path, known: Sequence[str]) -> tuple[list[Path], dict[Path, str]]:
    """Return all files in a folder and those in it, in order, and the folders that are not searched, and why.

    Whether a link to a folder elsewhere is meant only the user knows; one into a folder that is searched
    anyway, or one of the `known` ones, changes nothing.
    """
    if in_bucket(folder):
        with saying(f"{folder} cannot be searched for scenes", SourceError, remedy="check the name"):
            return bucket.walk(folder), {}
    found: list[Path] = []
    faults: dict[Path, str] = {}

    def note(error: OSError) -> None:
        path = Path(error.filename)
        faults[path] = (
            f"{path} cannot be searched for scenes ({error.strerror}): check its permissions and the disk"
        )

    for home, below, names in os.walk(folder, onerror=note):
        below[:] = [name for name in below if not name.startswith(".")]
        for link in filter(Path.is_symlink, (Path(home, name) for name in below)):
            to = Path(os.path.realpath(link))
            if not any(to.is_relative_to(place) for place in known):
                faults[link] = f"{link} is a link to {to}, which is not searched: name that folder too"
        found += [path for path in (Path(home, name) for name in names) if _is_file(path)]
    if folder in faults:
        raise SourceError(faults[folder])
    return sorted(found), faults


def _is_file(path: Path) -> bool:
    """Whether it is a file, or something of which the system does not say what it is; opening it says why."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return path.is_symlink()
    except OSError:
        return True


def _is_scene(path: Path, pattern: str | None, there: Callable[[Path], bool]) -> bool:
    if pattern is not None:
        return path.match(pattern)
    if (suffix := path.suffix.lower()) in _PICTURES:
        return any(there(path.with_suffix(world)) for world in (f"{suffix[:2]}{suffix[-1]}w", ".wld"))
    return suffix in RASTER_SUFFIXES - {".vrt"}


def _is_own(path: Path, there: Callable[[Path], bool] = os.path.isfile) -> bool:
    """Whether pfmap wrote this raster: its report lies beside it."""
    return any(
        path.stem.endswith(end) and there(path.with_name(f"{path.stem.removesuffix(end)}_report.json"))
        for end in _OWN
    )


def _refuse_inside(output_dir: Path | None, folders: Sequence[Path]) -> None:
    for folder in folders:
        if output_dir is not None and output_dir.resolve().is_relative_to(folder.resolve()):
            raise UsageError(
                f"the output folder {output_dir} lies in {folder}, which is searched for scenes: choose one "
                "outside it, or leave out output_dir= to have outputs beside their scenes"
            )


def _refuse_twice(locations: Sequence[Location]) -> None:
    seen, texts = dict[str, str](), set[str]()
    for location in locations:
        text = location.text
        place = os.path.realpath(location.gdal) if location.local is not None else location.gdal
        if place in seen:
            how = f", the other time as {seen[place]}" * (seen[place] != text)
            raise UsageError(f"{text} is named twice{how}: name each scene once")
        if text in texts:
            raise UsageError(
                f"{text} is named twice, the other time with another query, which lists must not show: map "
                "these scenes one by one, into different folders"
            )
        seen[place] = text
        texts.add(text)


def _told_apart(sheets: list[Sheet], output_dir: Path | None, reserved: str) -> list[Sheet]:
    """Give outputs folders or names of their own where scenes have the same name."""
    if output_dir is not None:
        for group in _equal(sheets):
            homes = [os.path.realpath(sheets[index].location.folder) for index in group]
            for index, home in zip(group, homes, strict=True):  # north/a.tif and south/a.tif: north and south
                below = Path(home).relative_to(common_folder(homes) or Path(home).anchor)
                sheets[index] = replace(sheets[index], folder=sheets[index].folder / below)
    place = output_dir, reserved
    own = [k for k, one in enumerate(sheets) if (one.folder, one.location.stem.casefold()) == place]
    for group in [*_equal(sheets), own]:
        for index in group:  # a.tif and a.jp2: a_tif and a_jp2; and survey.tif: survey_tif
            location = sheets[index].location
            called = location.name.replace(".", "_")
            sheets[index] = replace(sheets[index], location=replace(location, called=called))
    for first, second, *_ in _equal(sheets):
        raise UsageError(
            f"{sheets[first].location.text} and {sheets[second].location.text} would have outputs of the "
            "same name: map them into different folders"
        )
    for index, sheet in enumerate(sheets):
        folder = sheet.folder if output_dir is None else sheet.folder.relative_to(output_dir)
        sheets[index] = replace(sheet, name=(folder / sheet.location.stem).as_posix())
    return sheets


def _equal(sheets: Sequence[Sheet]) -> list[list[int]]:
    """Return the numbers of those scenes whose outputs would have the same name."""
    groups = defaultdict(list)
    for index, sheet in enumerate(sheets):
        groups[os.path.realpath(sheet.folder), sheet.location.stem.casefold()].append(index)
    return [group for group in groups.values() if len(group) > 1]
