"""Every error that pfmap raises on purpose, and what any text loses before it leaves pfmap.

A message names the file, what was found, what is needed, and the remedy, in one line. It names options as
Python has them: ``min_area=``, ``device='cpu'``, ``resample=False``, ``gsd=METRES``; the command line shows
them as its flags, by `worded_by`. Anything that is not a `PfmapError` is a bug and keeps its traceback.

Secrets go wherever a text is made: from names of scenes in `named`, from messages in `redacted`. What would
command the program that shows a text goes where it is written, by one function for each format: `visible` for
terminals, and for HTML and JSON before their own escaping, `csv_text`, `xml_text` and `markdown`.
"""

import csv
import html
import importlib.util
import io
import json
import math
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import quote, unquote

_wording: Callable[[str], str] = str


@contextmanager
def worded_by(wording: Callable[[str], str]) -> Iterator[None]:
    """Have all texts name options as `wording` does, in all threads: the whole process is one command."""
    global _wording  # noqa: PLW0603 - threads of the work do not inherit a context variable
    before, _wording = _wording, wording
    try:
        yield
    finally:
        _wording = before


def worded(text: str) -> str:
    """Name options in a text as its reader knows them."""
    return _wording(text)


def few(names: Sequence[object], most: int = 3) -> str:
    """List the first of what may be many."""
    return ", ".join(map(str, names[:most])) + ", ..." * (len(names) > most)


class PfmapError(Exception):
    """Base of all expected errors; the command line prints its text and exits with `exit_code`."""

    exit_code = 1

    def __str__(self) -> str:
        return redacted(worded(super().__str__()))


class UsageError(PfmapError, ValueError):
    """The options contradict each other or the scene."""

    exit_code = 2


class OutsideError(UsageError):
    """The area of interest does not touch the scene."""


class SourceError(PfmapError):
    """A scene cannot be opened, read or used."""


class EmptyError(SourceError):
    """A scene has no valid pixel, or none in the area of interest."""


class TargetError(PfmapError, OSError):
    """An output cannot be written, or exists already."""

    @property
    def strerror(self) -> str:  # type: ignore[override]
        """Its text, for whoever says why a file could not be written."""
        return super().__str__()


class ModelError(PfmapError):
    """A model is unknown, incomplete or does not fit its card."""


class CheckpointError(ModelError):
    """A checkpoint is not what its preset needs; nothing was imported."""


class DeviceError(PfmapError):
    """The device or precision asked for is not to be had on this machine."""


class ClusterError(PfmapError):
    """A cluster cannot be reached, or its workers cannot do what is asked of them."""


class TrainingError(PfmapError):
    """Training data or settings do not fit."""


def refuse_without(package: str, extra: str, what: str) -> None:
    """Refuse what takes a package of an extra that is not installed: at once, not after hours of work."""
    if importlib.util.find_spec(package) is None:
        raise UsageError(f"{what} the package {package}, which is not here: pip install 'pfmap[{extra}]'")


_SHOWN = 200  # letters of the beginning and the end: SQLite quotes pages of SQL
_ADVICE = re.compile(r"[;.] [^;.]*(It might help|config(uration)? option).*", re.DOTALL)


def reason(error: BaseException) -> str:
    """Return a library's own word, of rasterio GDAL's, on one line and without advice for programmers."""
    if isinstance(error, UnicodeEncodeError):
        known = sys.getfilesystemencoding()
        return f"its name is not {known}: rename it" + ", or set PYTHONUTF8=1" * (known != "utf-8")
    text = redacted(" ".join(_ADVICE.sub("", str(error.__cause__ or error)).split()))
    return text if len(text) <= 2 * _SHOWN else f"{text[:_SHOWN]} ... {text[-_SHOWN:]}"


@contextmanager
def saying(what: str, kind: type[PfmapError], *errors: type[Exception], remedy: str = "") -> Iterator[None]:
    """Have such errors, by default the system's, be one of pfmap's: `what` cannot be, why, and the remedy."""
    caught = errors or (OSError,)
    try:
        yield
    except kind:
        raise
    except caught as error:
        why = getattr(error, "strerror", None) or reason(error)
        raise kind(f"{what} ({why})" + f": {remedy}" * bool(remedy)) from error


def refused(error: OSError) -> str:
    """Say that the system refused something that nothing nearer to it could explain better."""
    return f"{reason(error)}: the system refused this; check the disk, the folders and their permissions"


HIDDEN = "<redacted>"
"""What stands where a secret was."""

# In a password a slash or the like may stand as it is: then all up to the last @ may be part of it.
_USER = re.compile(
    r"""((?:\b[a-z][\w+.-]{1,20}:/{1,2}|/vsi(?:s3|gs|az|adls|oss|swift|webhdfs)(?:_streaming)?/)
        (?!<redacted>@))
        (?:[^\s/?#"<>]*|[^\s/?#"<>:]*:(?:\d{1,5}/[^\s?#"<>]{0,1000}|(?!\d{1,5}[/?#])[^\s"<>]{0,1000}))@""",
    re.I | re.VERBOSE,
)
_QUERY = re.compile(
    r"""((?:\b[a-z][\w+.-]{1,20}:/{1,2}|/vsi(?:curl|s3|gs|az|adls|oss|swift|webhdfs))
        (?:<redacted>|[^\s?#"'<>]){0,1000}\?
        | https?:/{1,2}[^\s?#"'<>/]{0,1000}\#)([^\s"'<>]*[^\s"'<>).,:;\]])?""",
    re.I | re.VERBOSE,
)
_TOKEN = "token|signature|api_?key|credential|bearer"
_KEY = rf"\b(?:\w*(?:passw(?:or)?d|pwd|secret|{_TOKEN})|sig)\s*="
_KEYS = re.compile(
    rf"""(\b(?!\w*(?:{_TOKEN})\s*=\s*[\w-]{{0,7}}(?:\s|$)) {_KEY}\s* | \bauthorization\s*[:=]\s*)
        (?!<redacted>) (?:(?:bearer|basic)(?:\s|%20|\+)+)? (?:'[^']*' | "[^"]*" | [^\s&;,)\\"']+)""",
    re.I | re.VERBOSE,
)
_PRIVATE = re.compile(
    r"(AWS|AZURE|CPL|GDAL|GOOGLE|GS|OGR|OSS|PG|SWIFT)_?\w*(SECRET|TOKEN|PASSW|USERPWD|HEADERS|BEARER|SAS"
    r"|ACCESS_KEY|CONNECTION_STRING|AUTH|KEY)(?!\w*(_FILE|_ID|_PATH)$)"
)
_LEAST, _LONG = 8, 16  # characters: shorter ones may be words of any text
_MANY = 2000  # secrets of names that are remembered
_secrets: dict[str, None] = {}


def named(place: str) -> str:
    """Return the name of a scene as it may be shown: an address without its user, password and query.

    What it loses is left out of later messages too, however libraries take it apart.
    """
    if not re.match(r"[a-z][\w+.-]+:/|/vsi", place, re.I):
        return place
    user = _USER.search(place)
    said = user[0].removeprefix(user[1])[:-1] if user else ""
    address, mark, query = _USER.sub(rf"\1{HIDDEN}@", place).partition("?")
    values = [part.split("=", 1) for part in re.split("[&;]", query)]
    given = (value[-1] for value in values if value[0] != "url" and len(value[-1]) >= _LONG)
    lost = [said, *said.split(":")[1:], query, *given]
    _secrets.update(dict.fromkeys(form for text in lost for form in (text, unquote(text), quote(text, ""))))
    for old in list(_secrets)[:-_MANY]:
        _secrets.pop(old, None)
    shown = bare(f"{address}?{HIDDEN}" if mark else address)
    if user and re.search("[/?#]", said) and not re.match(r"[^:]*:\d{1,5}/", said):  # which may be a port
        raise SourceError(f"{shown} cannot be opened: in a password write / ? # as %2F %3F %23")
    return shown


def redacted(text: str) -> str:
    """Return a message without secrets: of addresses, of connection strings, and of the environment."""
    parts = {value for name, value in os.environ.items() if _PRIVATE.match(name)}
    parts |= {part for value in parts for part in re.split(r"[\s,;:=]+", value)}
    for secret in sorted({*parts, *list(_secrets)}, key=len, reverse=True):
        if len(secret) >= _LEAST and secret in text:
            text = text.replace(secret, HIDDEN)
    return bare(text)


def bare(text: str) -> str:
    """Return a text without what has the form of a secret."""
    text = _QUERY.sub(_bare_query, _USER.sub(rf"\1{HIDDEN}@", text))
    return _KEYS.sub(rf"\1{HIDDEN}", text).replace(HIDDEN + HIDDEN, HIDDEN)


def _bare_query(found: re.Match[str]) -> str:
    """Hide what follows an address, unless it is too short for a secret, as in ?lang=de."""
    short = all(len(part.rpartition("=")[2]) < _LEAST for part in re.split("[&;]", found[2] or ""))
    return found[0] if short and not re.search(_KEY, found[0], re.I) else found[1] + HIDDEN


def _bare(value: Any) -> Any:
    """Return a table as JSON has it, without what in its texts has the form of a secret."""
    if isinstance(value, str):
        return bare(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _bare(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        value = sorted(value)
    return [_bare(item) for item in value] if isinstance(value, list | tuple) else value


def json_text(table: Any, *, plain: bool = False, indent: int | None = 2) -> str:
    """Return a table as JSON without secrets; `plain` has letters of all languages as they are."""
    text = json.dumps(_bare(table), indent=indent, ensure_ascii=not plain, default=str)
    return re.sub(f"(?!\n){UNSEEN.pattern}", lambda found: f"\\u{ord(found[0]):04x}", text)


UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]")
"""What is no text: control codes, marks that turn the direction of writing, bytes that are no UTF-8."""

_FORMULA = re.compile("(^|;)(?=\\s*[-=+@\uff1d\uff0b\uff0d\uff20])")
"""What begins a cell; in many countries a semicolon ends one."""


def visible(text: str, keep: str = "") -> str:
    r"""Return a text with what is no text in escapes, such as ``\x1b``; `keep` are exceptions."""

    def shown(found: re.Match[str]) -> str:
        if 0xDC80 <= (code := ord(found[0])) <= 0xDCFF:  # a byte of a file name
            return f"\\x{code - 0xDC00:02x}"
        return found[0] if found[0] in keep else ascii(found[0])[1:-1]

    return UNSEEN.sub(shown, text)


def csv_cell(value: object) -> object:
    """Return a cell of a table; an apostrophe keeps spreadsheets from taking a text for a formula."""
    return _FORMULA.sub(r"\1'", visible(bare(value))) if isinstance(value, str) else value


def csv_text(rows: Iterable[Iterable[object]], end: str = "\r\n") -> str:
    """Return a table for spreadsheets; lines end as RFC 4180 has it."""
    text = io.StringIO()
    csv.writer(text, lineterminator=end).writerows([csv_cell(value) for value in row] for row in rows)
    return text.getvalue()


def xml_text(text: str) -> str:
    """Return a text for an element of an XML file."""
    return html.escape(visible(text, "\n\t"), quote=False)


def xml_attribute(text: str, *, raw: bool = False) -> str:
    """Return a text for an attribute of an XML file, in quotes; `raw` has a path stay what it is."""
    from xml.sax.saxutils import quoteattr  # loads HTTP and e-mail, which --help has no use for

    return quoteattr(text if raw else visible(text))


def markdown(text: str) -> str:
    """Return a text for a Markdown page: no HTML, no link, no cell of a table begins in it."""
    return re.sub(r"([`<\[\]|])", r"\\\1", visible(text, "\n"))


_EXPECTED = (
    "Dataset has no geotransform",  # said better, once, by pfmap itself
    "'crs' was not provided",
    "'crs' argument is required",
    "More than one layer found",
)

_lock = threading.Lock()
_inside = 0  # callers of `quietly`, in all threads
_filters = ExitStack()


@contextmanager
def quietly() -> Iterator[None]:
    """Leave out what libraries warn of though it is allowed; from any number of threads at once.

    Python keeps one list of filters for all threads: whoever comes first changes it, whoever leaves last
    restores it. `warnings.catch_warnings` would restore what another thread is still in need of.
    """
    global _inside  # noqa: PLW0603 - so is Python's list
    with _lock:
        if not _inside:
            _filters.enter_context(warnings.catch_warnings())
            for message in _EXPECTED:
                warnings.filterwarnings("ignore", message=message)
            warnings.filterwarnings("ignore", module="pyogrio", category=RuntimeWarning)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _filters.close()
