"""The folders in which QGIS keeps what a user has set up, and pfmap's plugin in them.

QGIS looks for profiles where `QGIS_CUSTOM_CONFIG_PATH` says, else in its folder of the user's data:
https://docs.qgis.org/latest/en/docs/user_manual/introduction/qgis_configuration.html#working-with-user-profiles
"""

import configparser
import io
import json
import os
import re
import shutil
import sys
import zipfile
from contextlib import suppress
from pathlib import Path
from string import Template

import platformdirs

from pfmap.core.errors import TargetError, UsageError, saying
from pfmap.core.files import private_folder, publish, write_bytes
from pfmap.version import __version__

NAME = "pfmap_qgis"
"""Of the plugin's folder: not pfmap, which QGIS's Python may have itself."""

_SOURCE = Path(__file__).parents[1] / "plugin"
_FLATPAK = "~/.var/app/org.qgis.qgis/data/QGIS"
_TICK = re.compile(rf"^{NAME}=[^\r\n]*", re.MULTILINE)


def install(profile: str | None = None) -> list[Path]:
    """Put the plugin into a profile of each QGIS here, by default the one it starts with; return where it is.

    A `UsageError` says that there is no QGIS, or no such profile.
    """
    return [_install(folder) for folder in _profiles(profile)]


def uninstall(profile: str | None = None) -> list[Path]:
    """Take the plugin out of a profile of each QGIS here; return from where."""
    folders = [folder for folder in _profiles(profile) if (folder / "python/plugins" / NAME).is_dir()]
    for folder in folders:
        _remove(folder / "python/plugins" / NAME)
        _tick(folder, on=False)
    return [folder / "python/plugins" / NAME for folder in folders]


def pack(target: Path, *, overwrite: bool = False) -> None:
    """Write the plugin as a zip file, as QGIS's dialog of plugins installs it."""
    if target.exists() and not overwrite:
        raise TargetError(f"{target} exists already: replace it with overwrite=True, or name another file")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in _files().items():
            archive.writestr(zipfile.ZipInfo(f"{NAME}/{name}"), content, zipfile.ZIP_DEFLATED)
    write_bytes(target, file.getvalue())


def _files() -> dict[str, bytes]:
    """Return the plugin's files by name."""
    found = {path.name: path.read_bytes() for path in sorted(_SOURCE.iterdir()) if path.is_file()}
    found["metadata.txt"] = Template(found["metadata.txt"].decode()).substitute(version=__version__).encode()
    return found


def _profiles(profile: str | None) -> list[Path]:
    """Find the profile of each QGIS that this user has started."""
    own = platformdirs.user_data_dir("QGIS", appauthor=False, roaming=True)
    homes = [Path(own), Path(_FLATPAK).expanduser()]
    roots = [home / name / "profiles" for home in homes for name in ("QGIS3", "QGIS4")]
    if given := os.environ.get("QGIS_CUSTOM_CONFIG_PATH"):
        roots = [Path(given) / "profiles"]
    if not (roots := list(filter(Path.is_dir, roots))):
        raise UsageError(
            f"no profile of QGIS was found, such as {own}/QGIS3/profiles/default: start QGIS once, or "
            "make a file for its dialog of plugins with pfmap qgis zip"
        )
    named = [root / (profile or _default(root)) for root in roots]
    if not (found := list(filter(Path.is_dir, named))):
        there = sorted({path.name for root in roots for path in root.iterdir() if path.is_dir()})
        raise UsageError(f"QGIS has no profile {named[0].name!r}: it has {', '.join(there) or 'none'}")
    return found


def _default(root: Path) -> str:
    """Return the name of the profile that QGIS starts with."""
    read = configparser.ConfigParser(interpolation=None, strict=False)
    with suppress(configparser.Error, UnicodeDecodeError):
        read.read(root / "profiles.ini", encoding="utf-8")
    return read.get("core", "defaultProfile", fallback="default").strip('"') or "default"


def _install(folder: Path) -> Path:
    """Put the plugin into a profile, whole or not at all, and switch it on."""
    plugins = folder / "python" / "plugins"
    with saying(f"{plugins} cannot be written", TargetError):
        plugins.mkdir(parents=True, exist_ok=True)
        with private_folder(plugins) as room:
            staged = room / NAME
            staged.mkdir()
            for name, content in _files().items():
                (staged / name).write_bytes(content)
            command = [sys.executable, "-P", "-m", "pfmap"]
            (staged / "program.json").write_text(json.dumps(command), encoding="utf-8")
            _remove(plugins / NAME)
            publish(staged, plugins / NAME)
        _tick(folder, on=True)
    return plugins / NAME


def _remove(plugin: Path) -> None:
    """Delete the plugin, and nothing else of that name."""
    if not plugin.exists():
        return
    if plugin.is_symlink() or not (plugin / "program.py").is_file():
        raise TargetError(f"{plugin} is not what pfmap put there: move it away, and run the command again")
    shutil.rmtree(plugin)


def _tick(folder: Path, *, on: bool) -> None:
    """Switch the plugin on or off in QGIS's settings; a running QGIS keeps to what it knows."""
    path = folder / "QGIS" / ("QGIS4.ini" if "QGIS4" in folder.parts else "QGIS3.ini")
    text = path.read_bytes().decode("latin-1") if path.is_file() else ""  # so that any byte stays what it is
    line = f"{NAME}={'true' if on else 'false'}"
    if _TICK.search(text):
        text = _TICK.sub(line, text)
    elif "[PythonPlugins]" in text:
        text = text.replace("[PythonPlugins]", f"[PythonPlugins]\n{line}", 1)
    else:
        text = f"{text.rstrip()}\n\n[PythonPlugins]\n{line}\n".lstrip()
    path.parent.mkdir(exist_ok=True)
    write_bytes(path, text.encode("latin-1"))
