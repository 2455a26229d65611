"""Import models from addresses, archives and folders: nothing is read of a file whose hash is another."""

import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.error import HTTPError
from urllib.parse import urlsplit

import tomli_w

from pfmap.core.card import card_table, read_card
from pfmap.core.errors import ModelError, TargetError, UsageError, named, saying
from pfmap.core.files import private_folder, publish, write_text, writing
from pfmap.core.web import asked
from pfmap.model.store import (
    CARD_NAME,
    WEIGHTS_NAME,
    bundled_models,
    check_name,
    file_hash,
    load_model,
    user_models,
)
from pfmap.model.upstream import import_checkpoint

_MOST = 4 << 30  # bytes of a download, and of an archive unpacked
_SMALL = 1 << 20  # of what is no weights
_CHUNK = 1 << 20
_HERE = ("localhost", "127.0.0.1", "::1")
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, RuntimeError)


def import_model(
    source: str | os.PathLike[str],
    *,
    name: str | None = None,
    preset: str | None = None,
    sha256: str | None = None,
    models_dir: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Bring a model of somebody else's into a model folder of your own: whole, or not at all.

    Args:
        source: an address (https), an archive (zip, tar) or a folder of a model as `pfmap train` writes it;
            or a published checkpoint.
        name: of the new model; by default what the model is called. A checkpoint needs one.
        preset: what a checkpoint was trained for, as for `import_checkpoint`.
        sha256: hash that the file has to have, as hexadecimal digits; an address needs one.
        models_dir: where the model goes; by default the user's model folder.
        overwrite: replace a model of that name.

    Returns the new model folder.

    Raises:
        ModelError: it cannot be downloaded, is another file than it should be, or holds no model that works.
        UsageError: what is said does not do for it.
        TargetError: it cannot be written.
    """
    text, home = os.fspath(source), Path(models_dir) if models_dir is not None else user_models()
    remote = re.match("https?://", text, re.IGNORECASE)
    shown = named(text) if remote else text
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise UsageError(f"sha256={sha256!r} is no SHA-256: it has 64 hexadecimal digits")
    if name is not None:
        _refuse_taken(home, name, overwrite=overwrite)
    with saying(f"{home} cannot be written", TargetError):
        home.mkdir(parents=True, exist_ok=True)
    if not (remote or os.path.exists(text)):  # noqa: PTH110 - of any name
        raise ModelError(f"{text} does not exist: check the path")
    with private_folder(home) as room:
        path = _download(text, shown, sha256, room) if remote else Path(text)
        if sha256 is not None:
            _refuse_other(path, shown, sha256)
        try:
            staged = _staged(path, shown, room, name, preset)
            folder = _refuse_taken(home, read_card(staged / CARD_NAME).name, overwrite=overwrite)
            load_model(staged)
        except ModelError as error:
            text = re.sub(rf"{re.escape(str(room))}/(model|download)", shown, str(error))
            raise type(error)(text) from error
        _publish(staged, folder, room / "before")
    return folder


def _staged(path: Path, shown: str, room: Path, name: str | None, preset: str | None) -> Path:
    """Make a model folder in a room of its own."""
    if (staged := _unpack(path, shown, room / "model")) is not None:
        card = read_card(staged / CARD_NAME)
        if name not in (None, card.name):
            write_text(staged / CARD_NAME, tomli_w.dumps(card_table(replace(card, name=name))))
        return staged
    if preset is None or name is None:
        raise UsageError(
            f"{shown} holds no {CARD_NAME}, and so no model of pfmap's; of a published checkpoint say what "
            "it was trained for with preset=, and what it is to be called with name="
        )
    return import_checkpoint(path, preset=preset, name=name, models_dir=room)


def _publish(staged: Path, folder: Path, before: Path) -> None:
    """Put a model in the place of another of its name, which comes back if that fails."""
    with ExitStack() as failed:
        with saying(f"{folder} cannot be written", TargetError):
            if os.path.lexists(folder):
                folder.rename(before)
                failed.callback(before.rename, folder)
        publish(staged, folder)
        failed.pop_all()


def _refuse_taken(home: Path, name: str, *, overwrite: bool) -> Path:
    """Return the folder of a model of this name, if it may have it."""
    check_name(name)
    if (bundled_models() / name).is_dir():
        raise ModelError(f"{name!r} is a model that comes with pfmap: choose another name with name=")
    if os.path.lexists(home / name) and not overwrite:
        raise ModelError(f"{home / name} exists already: choose another name with name=, or overwrite=True")
    return home / name


def _refuse_plain(address: str, shown: str) -> None:
    parts = urlsplit(address)
    if parts.scheme.lower() != "https" and parts.hostname not in _HERE:
        raise UsageError(f"{shown} is read by everybody on the way: use https://")


def _download(address: str, shown: str, sha256: str | None, room: Path) -> Path:
    """Download a file that has a hash to be checked by."""
    _refuse_plain(address, shown)
    if sha256 is None:
        raise UsageError(
            f"{shown} needs sha256=, the SHA-256 that its maker says it has: else it might be anything"
        )
    path = room / "download"
    try:
        with asked(address, shown, kind=ModelError) as answer:
            _refuse_plain(answer.url, f"{shown} leads elsewhere, and that")
            length = answer.headers["Content-Length"] or ""
            beyond = f"{shown} is larger than the {_MOST >> 30} GB that a model may have"
            size = _copy(answer, path, _MOST, beyond)
    except HTTPError as error:
        raise ModelError(f"{shown} cannot be downloaded: its server answers {error.code}") from error
    if length.isdecimal() and size < int(length):
        raise ModelError(f"{shown} broke off after {size:,} of {int(length):,} bytes: try again")
    return path


def _refuse_other(path: Path, shown: str, sha256: str) -> None:
    with saying(f"{shown} cannot be read", ModelError):
        found = file_hash(path)
    if found != sha256.lower():
        raise ModelError(f"{shown} has the SHA-256 {found}, not {sha256.lower()}: nothing was imported")


def _unpack(path: Path, shown: str, folder: Path) -> Path | None:
    """Copy card, weights and page of the only model in a folder or archive; None if it holds none.

    Of what an archive says of its files only their names are believed, and none is written under its own.
    """
    with saying(f"{shown} cannot be read", ModelError, OSError, HTTPException, *_DAMAGED):
        every = [PurePosixPath(name) for name, _ in _files(path)]
        homes = {own.parent for own in every if own.name == CARD_NAME}
        if len(homes) > 1:
            raise ModelError(f"{shown} holds {len(homes)} models: one is needed")
        folder.mkdir()
        for name, file in _files(path) if homes else ():
            own = PurePosixPath(name)
            if own.parent in homes and own.name in (CARD_NAME, WEIGHTS_NAME, "README.md"):
                most = _MOST if own.name == WEIGHTS_NAME else _SMALL
                beyond = f"{own.name} of {shown} is larger than the {most:,} bytes it may have"
                _copy(file, folder / own.name, most, beyond)
    return folder if homes else None


def _copy(source: IO[bytes], target: Path, most: int, beyond: str) -> int:
    """Copy bytes into a new file, and return how many; more than `most` are refused in the words `beyond`."""
    size = 0
    with writing(target):
        target.touch(exist_ok=False)
    with target.open("wb") as file:
        while chunk := source.read(_CHUNK):  # what fails here is no matter of the disk
            size += len(chunk)
            if size > most:
                raise ModelError(beyond)
            with writing(target):
                file.write(chunk)
    return size


def _files(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield name and content of the files in a folder or an archive; no link is followed."""
    with ExitStack() as held:
        if path.is_dir():
            for inside in sorted(path.iterdir()):
                if inside.is_file() and not inside.is_symlink():
                    with inside.open("rb") as file:
                        yield inside.name, file
        elif zipfile.is_zipfile(path):
            archive = held.enter_context(zipfile.ZipFile(path))
            for one in archive.infolist():
                if not one.is_dir():
                    with archive.open(one) as file:
                        yield one.filename, file
        elif path.is_file() and tarfile.is_tarfile(path):
            size, tar = 0, held.enter_context(tarfile.open(path))
            for member in tar:
                size += member.size  # all of it is unpacked on the way to the next
                if size > _MOST:
                    raise tarfile.TarError(f"unpacked it has more than {_MOST >> 30} GB")
                if member.isreg() and (content := tar.extractfile(member)):
                    yield member.name, content
