"""Secrets stay out of every text, whichever form they have, and hostile text commands no program."""

import csv
import io
import json
from xml.etree import ElementTree

import pytest

from pfmap.core.errors import (
    HIDDEN,
    SourceError,
    bare,
    csv_text,
    json_text,
    markdown,
    named,
    reason,
    redacted,
    visible,
    xml_attribute,
    xml_text,
)
from pfmap.raster.location import locate

SECRET = "s3cr3tWORD-of-16"

NAMES = [
    "https://host/scene.tif?X-Amz-Signature={}&X-Amz-Expires=60",
    "https://me:{}@host/scene.tif",
    "https://{}@host/scene.tif",
    "HTTPS://host/scene.tif?sig={}",
    "https://host/my scene.tif?token={}",
    "https://host/scene.tif?a={}'b)c",
    "https://host/scene.tif#access_token={}",
    "https://me:a@{}@host/scene.tif",
    "az://container/scene.tif?sv=2024&sig={}",
    "/vsicurl/https://me:{}@host/scene.tif",
    "/vsicurl?url=https%3A%2F%2Fhost%2Fscene.tif&header.Authorization=Bearer%20{}",
    "/vsicurl_streaming/https://host/scene.tif?sig={}",
    "/vsis3/bucket/scene.tif?sig={}",
    "/vsizip//vsicurl/https://host/archive.zip?sig={}/scene.tif",
    "/vsizip/{{/vsicurl/https://host/archive.zip?sig={}}}/scene.tif",
]


@pytest.mark.parametrize("form", NAMES)
def test_a_scenes_name_holds_no_secret(form: str) -> None:
    location = locate(form.format(SECRET))
    assert SECRET in location.gdal
    for text in (location.text, location.stem, repr(location), named(location.text)):
        assert SECRET not in text
    assert HIDDEN in location.text
    assert location.unfit
    # Signed anew it has the same name: what failed is known by it.
    assert locate(form.format("another-of-16-letters")).text == location.text


@pytest.mark.parametrize("name", ["s3://bucket/a#1.tif", "https://host/scene.tif", "/vsis3/bucket/scene.tif"])
def test_a_name_without_a_secret_stays_as_it_is(name: str) -> None:
    assert locate(name).text == name
    assert not locate(name).unfit


def test_outputs_are_named_after_the_scene_alone() -> None:
    assert locate("https://host/ortho.tif?X-Amz-Signature=abc/def.tif").stem == "ortho"
    assert locate("/vsicurl?url=https%3A%2F%2Fhost%2Fortho.tif%3Fsig%3Dabc&x=1").stem == "ortho"


@pytest.mark.parametrize(
    "text",
    [
        f"cannot open 'https://host/scene.tif?sig={SECRET}' (HTTP 403): check it",
        f"PG:host=db user=me password={SECRET} dbname=maps does not exist",
        f"PG:host=db password='{SECRET}' is no file",
        f"WMS:https://me:{SECRET}@host/wms?LAYERS=a cannot be opened",
        f"the server says: Authorization: Bearer {SECRET}, no",
        f"GDAL_HTTP_USERPWD=me:{SECRET}",
        f"tls://me:{SECRET}@scheduler:8786 is gone",
        f"X-Amz-Signature={SECRET}&X-Amz-Date=1",
        f"https://me:a#{SECRET}@host/scene.tif?lang=de&key={SECRET}",
    ],
)
def test_no_message_holds_what_has_the_form_of_a_secret(text: str) -> None:
    assert SECRET not in redacted(text)
    assert SECRET not in str(SourceError(text))
    assert SECRET not in reason(OSError(text))
    assert SECRET not in json_text({"a": [text]})
    assert json.loads(json_text({"a": [text]}))["a"] == [bare(text)]
    assert SECRET not in csv_text([[text]])
    assert redacted(redacted(text)) == redacted(text)


def test_libraries_that_take_an_address_apart_reveal_nothing() -> None:
    named(f"https://me:{SECRET}@host/scene.tif?sig=ab%2Fcd%2Fef%2Fgh%2Fij")
    assert SECRET not in redacted(f"nonnumeric port: '{SECRET}@host'")
    assert "ab/cd" not in redacted("no such query: ab/cd/ef/gh/ij")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_SESSION_TOKEN", SECRET),
        ("GDAL_HTTP_HEADERS", f"X-Key: {SECRET}"),
        ("GDAL_HTTP_USERPWD", f"me:{SECRET}"),
        ("GDAL_HTTP_BEARER", SECRET),
        ("AZURE_STORAGE_CONNECTION_STRING", f"AccountName=a;AccountKey={SECRET}"),
        ("AZURE_STORAGE_SAS_TOKEN", SECRET),
        ("GS_SECRET_ACCESS_KEY", SECRET),
        ("PGPASSWORD", SECRET),
    ],
)
def test_no_message_holds_a_secret_of_the_environment(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert SECRET not in redacted(f"the server was given {SECRET}, and says no")


def test_ordinary_texts_lose_nothing() -> None:
    for text in (
        "/maps/scale=2/scene.tif: 3 bands, min_area= is 2; is it a=b? keys: classes=('a', 'b')",
        "EPSG:4326, see https://host/page for more (really)",
        "https://stac-extensions.github.io/processing/v1.1.0/schema.json",
        "Contains data of https://host/terms#attribution, see https://host/copyright?lang=de",
        "http://www.opengis.net/def? and /vsis3/bucket/what?.tif",
        "token = road",
    ):
        assert bare(text) == text


def test_long_texts_are_no_work() -> None:
    """No pattern tries a place of a text again and again: whole pages with pictures go through them."""
    for piece in ("a", "=", "secret", "http://", "?", ".", "a@", "token ="):
        bare(piece * (40_000 // len(piece)))  # takes minutes where one does


HOSTILE = [
    "=cmd|'/c calc'!A1", "\x1b]0;x\x07", "<script>", "\"&'", "a\nb", "\u202egpj.tif", "caf\udce9", "\x9b31m",
    "\ufeff",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_harmless_in_every_format(text: str) -> None:
    shown = visible(text)
    shown.encode()
    assert shown.isprintable()
    ((cell,),) = csv.reader(io.StringIO(csv_text([[text]])))
    assert not cell.startswith(("=", "+", "-", "@"))
    assert cell.removeprefix("'") == shown
    element = ElementTree.fromstring(f"<a b={xml_attribute(text)}>{xml_text(text)}</a>")
    assert element.get("b") == shown
    assert element.text == visible(text, "\n\t")
    assert json.loads(json_text([text], plain=True)) == [text]
    assert all(letter == "\n" or letter.isprintable() for letter in json_text([text], plain=True))


def test_numbers_of_tables_stay_numbers() -> None:
    assert csv_text([["a; =1+1;-2; b"]]) == "a;' =1+1;'-2; b\r\n"
    assert csv_text([[-1.5, None, "+1"]]) == "-1.5,,'+1\r\n"


def test_markdown_has_no_parts_that_come_from_outside() -> None:
    assert markdown("<b>|[a](b) `c` low_vegetation") == r"\<b>\|\[a\](b) \`c\` low_vegetation"
