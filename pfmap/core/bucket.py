"""Files in a bucket: an object store that speaks S3, by the names that GDAL has for them, /vsis3/bucket/key.

Objects appear whole or not at all, whoever writes them, which is what a rename is for on a disk. Errors are
those of files, so that whoever writes a file need not know where it goes.
"""

import errno
import functools
import mimetypes
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from pfmap.core.errors import TargetError, saying

LEASE = 90.0
"""Seconds after which what a process held that has not been heard of is free."""

ROOT = "/vsis3/"
"""How GDAL's names for what lies in a bucket begin."""

_SCHEME = "s3://"
_GONE = frozenset({"404", "NoSuchKey", "NotFound"})
_TAKEN = frozenset({"412", "PreconditionFailed", "409", "ConditionalRequestConflict"})
_KEYS = frozenset({"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "Forbidden", "401"})
_NO = frozenset({"NO", "FALSE", "OFF", "0"})
_TRIES = 5
_AT_ONCE = 1000  # keys that one request deletes


def check(folder: str) -> None:
    """Refuse a place for outputs that names no bucket, or which nothing here could write to."""
    if not _place(Path(folder))["Bucket"]:
        raise TargetError(f"{folder} names no bucket: outputs go to s3://bucket/folder")
    _client()


def plain(text: str) -> Path:
    """Return a path, also of what is named as ``s3://bucket/key``."""
    return Path(ROOT + text.removeprefix(_SCHEME)) if text.startswith(_SCHEME) else Path(text)


def gdal_endpoint() -> dict[str, str]:
    """Return what GDAL has to be told of the server, where it is named as Amazon's own tools name it."""
    url = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    if not url or "AWS_S3_ENDPOINT" in os.environ:
        return {}
    scheme, _, host = url.rstrip("/").rpartition("://")
    secure = "NO" if scheme == "http" else "YES"
    return {"AWS_S3_ENDPOINT": host, "AWS_HTTPS": secure, "AWS_VIRTUAL_HOSTING": "FALSE"}


def read(path: Path) -> bytes:
    """Return what a file holds."""
    with _asked(path) as (client, place):
        return bytes(client.get_object(**place)["Body"].read())


def write(path: Path, content: bytes) -> None:
    """Write a small file."""
    with _asked(path) as (client, place):
        client.put_object(**place, Body=content, **_kind(path))


def upload(file: Path, path: Path) -> None:
    """Write a file of any size, from a file of this machine."""
    with _asked(path) as (client, place):
        _forget_parts(client, place)
        client.upload_file(str(file), **place, ExtraArgs=_kind(path))


def _forget_parts(client: Any, place: dict[str, str]) -> None:
    """Delete parts of this very file that a broken-off run has uploaded: nobody sees them, yet they cost."""
    from botocore.exceptions import BotoCoreError, ClientError

    with suppress(BotoCoreError, ClientError):  # not every server knows of them, or lets everyone ask
        begun = client.list_multipart_uploads(Bucket=place["Bucket"], Prefix=place["Key"])
        for upload in begun.get("Uploads", ()):
            if upload["Key"] == place["Key"]:
                client.abort_multipart_upload(**place, UploadId=upload["UploadId"])


def download(path: Path, file: Path) -> None:
    """Bring a file of any size onto this machine."""
    with _asked(path) as (client, place):
        client.download_file(**place, Filename=str(file))


def exists(path: Path) -> bool:
    """Whether there is such a file."""
    with suppress(FileNotFoundError), _asked(path) as (client, place):
        client.head_object(**place)
        return True
    return False


def names(folder: Path, prefix: str = "") -> list[str]:
    """Return the names of the files in a folder that begin with something, in order."""
    return sorted(_listed(folder, prefix, Delimiter="/"))


def walk(folder: Path) -> list[Path]:
    """Return all files in a folder and those in it, in order."""
    return sorted(folder / name.lstrip("/") for name in _listed(folder) if not name.endswith("/"))


def _listed(folder: Path, prefix: str = "", **how: str) -> list[str]:
    """Return the keys of all objects in a folder that begin with something, without the folder's own."""
    with _asked(folder) as (client, place):
        start = f"{place['Key']}/" if place["Key"] else ""
        where = {"Bucket": place["Bucket"], "Prefix": start + prefix}
        pages = client.get_paginator("list_objects_v2").paginate(**where, **how)
        keys = [item["Key"].removeprefix(start) for page in pages for item in page.get("Contents", ())]
    return [key for key in keys if key]


def remove(path: Path) -> None:
    """Delete a file, if it is there."""
    with _asked(path) as (client, place):
        client.delete_object(**place)


def remove_all(folder: Path) -> None:
    """Delete a folder and all that is in it."""
    keys = [{"Key": _place(path)["Key"]} for path in walk(folder)]
    with _asked(folder) as (client, place):
        for first in range(0, len(keys), _AT_ONCE):
            some = {"Objects": keys[first : first + _AT_ONCE], "Quiet": True}
            client.delete_objects(Bucket=place["Bucket"], Delete=some)


@contextmanager
def leased(path: Path, holder: str) -> Iterator[None]:
    """Hold a name in a bucket against everyone else, until the end or until this process is gone.

    Whoever gives the same `holder` may take it over: it is to do so only once that one is known to be dead.
    A `BlockingIOError` says that somebody else holds it, an `OSError` that the bucket cannot be written.
    """
    stop = threading.Event()
    _take(path, holder)

    def renew() -> None:
        while not stop.wait(LEASE / 4):
            try:
                write(path, holder.encode())
            except OSError:  # the network is gone for a moment; what is written next says more
                continue

    thread = threading.Thread(target=renew, name="pfmap-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        with suppress(OSError):  # it becomes free by itself
            remove(path)


def _take(path: Path, holder: str) -> None:
    content = holder.encode()
    for _ in range(_TRIES):
        with suppress(FileExistsError), _asked(path) as (client, place):
            client.put_object(**place, Body=content, IfNoneMatch="*")
            return
        # another is just as quick
        with suppress(FileNotFoundError, FileExistsError), _asked(path) as (client, place):
            found = client.get_object(**place)
            other = found["Body"].read().decode(errors="replace")
            now = found["ResponseMetadata"]["HTTPHeaders"].get("date", "")  # by the server's clock
            silent = (parsedate_to_datetime(now) - found["LastModified"]).total_seconds() if now else 0.0
            if other != holder and silent < LEASE:
                break
            client.put_object(**place, Body=content, IfMatch=found["ETag"])
            return
    else:
        other = "others in turn"
    raise BlockingIOError(errno.EAGAIN, f"held by {other.partition(' ')[0]}", str(path))


@functools.cache
def _client() -> Any:  # boto3 has no types
    """Return the one client of this process, set up as GDAL is."""
    try:
        from boto3.session import Session
        from botocore import UNSIGNED
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise TargetError(
            "writing into a bucket needs boto3, which is not here: pip install 'pfmap[s3]'"
        ) from error
    endpoint = None
    if host := os.environ.get("AWS_S3_ENDPOINT"):
        endpoint = f"{'https' if _says('AWS_HTTPS', 'YES') else 'http'}://{host.rpartition('://')[2]}"
    config = Config(
        retries={"max_attempts": 5, "mode": "standard"},
        connect_timeout=10,
        max_pool_connections=32,
        # Public ones, to read from.
        signature_version=UNSIGNED if _says("AWS_NO_SIGN_REQUEST", "NO") else None,
        s3={} if _says("AWS_VIRTUAL_HOSTING", "TRUE") else {"addressing_style": "path"},
        # Servers other than Amazon's do not all know its newer checksums.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    what, remedy = "buckets cannot be reached", "check the AWS_ settings"
    with saying(what, TargetError, BotoCoreError, ValueError, remedy=remedy):
        return Session().client("s3", config=config, endpoint_url=endpoint)


def _says(setting: str, default: str) -> bool:
    """Whether one of GDAL's settings says yes."""
    return os.environ.get(setting, default).upper() not in _NO


def _place(path: Path) -> dict[str, str]:
    """Name the bucket and the object's key in it as the server's calls do."""
    bucket, _, key = path.as_posix().removeprefix(ROOT).partition("/")
    return {"Bucket": bucket, "Key": key}


def _kind(path: Path) -> dict[str, str]:
    """Say what a file is, so that a browser shows a report instead of saving it."""
    kind, encoding = mimetypes.guess_type(path.name)
    return {"ContentType": kind} if kind and not encoding else {}


@contextmanager
def _asked(path: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    """Give the client, and a path's place for its calls, whose errors become those that files have."""
    if re.search("[@:]", _place(path)["Bucket"]):
        raise OSError(
            errno.EINVAL, "a bucket has no user and no password: those are the AWS_ settings", str(path)
        )
    client = _client()  # says so where boto3 is missing
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield client, _place(path)
    except ClientError as error:
        answer = error.response.get("Error", {})
        code = str(answer.get("Code", ""))
        said = answer.get("Message", "") or code
        number, text = errno.EIO, f"the server says {code}: {said}"
        if code in _GONE:
            number, text = errno.ENOENT, "no such object in the bucket"
        elif code in _TAKEN:
            number, text = errno.EEXIST, "the object exists"
        elif code in _KEYS:
            number, text = errno.EACCES, f"the server refuses: {said}; check the AWS_ keys"
        raise OSError(number, text, str(path)) from error  # of the kind that the number stands for
    except (BotoCoreError, Boto3Error) as error:
        raise OSError(errno.EIO, " ".join(str(error).split()), str(path)) from error
