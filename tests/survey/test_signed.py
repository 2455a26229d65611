"""Scenes whose addresses hold secrets are mapped, resumed and listed, and nothing that is written has one."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from conftest import Write, blobs, stand_in
from range_server import served
from runs import PowerError, breaking

import pfmap
from pfmap.core.errors import HIDDEN, PfmapError

SECRET, RENEWED = "s3cr3tWORD-of-16", "renewedWORD-of-16"
OPTIONS: dict[str, Any] = {"device": "cpu", "swath_pixels": 12_000}


def signed(url: str, name: str = "scene.tif", secret: str = SECRET) -> str:
    return f"{url.replace('://', f'://me:{secret}@')}/{name}?X-Amz-Signature={secret}"


def leaks(folder: Path) -> list[str]:
    """Files with a secret in them, those in archives included."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            contents = [path.read_bytes()]
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(io.BytesIO(contents[0])) as archive:
                    contents += [archive.read(name) for name in archive.namelist()]
            if any(word.encode() in text for text in contents for word in (SECRET, RENEWED)):
                found.append(path.name)
    return found


def test_nothing_that_is_written_or_said_holds_a_secret(write_scene: Write, tmp_path: Path) -> None:
    (tmp_path / "www").mkdir()
    write_scene(blobs(150, 150), "www/scene.tif", tiled=True, blockxsize=64, blockysize=64)
    (tmp_path / "www" / "key").write_text(SECRET)
    out, said = tmp_path / "out", []
    with served(tmp_path / "www") as url:
        made = pfmap.batch(
            [signed(url), signed(url, "none.tif")], out, model=stand_in(), on_message=said.append, **OPTIONS
        )
    assert leaks(out) == []
    assert SECRET not in "".join([*said, *(one.reason for one in made.scenes), repr(made.scenes)])
    report = json.loads((out / "scene_report.json").read_text())
    assert report["scene"]["path"].endswith(f"/scene.tif?{HIDDEN}")
    (warning,) = [text for text in report["warnings"] if "QGIS project" in text]
    assert "its address holds a secret" in warning
    assert any(warning.split("QGIS")[1] in text for text in said)
    assert warning in json.loads((out / "survey_report.json").read_text())["scenes"][0]["warnings"]
    with zipfile.ZipFile(out / "scene.qgz") as project:
        assert b"vsicurl" not in project.read("project.qgs")
    assert "data:image" in (out / "survey_report.html").read_text()  # the picture is drawn all the same


def test_a_renewed_signature_goes_on_and_retries(write_scene: Write, tmp_path: Path) -> None:
    (tmp_path / "www").mkdir()
    out = tmp_path / "out"
    with served(tmp_path / "www") as url:
        sources = [signed(url), signed(url, "late.tif")]
        write_scene(blobs(400, 150), "www/scene.tif", tiled=True, blockxsize=64, blockysize=64)
        with pytest.raises(PowerError):
            pfmap.predict(sources[0], out, model=breaking(12), batch_size=1, **OPTIONS)
        assert leaks(out) == []
        assert list(out.glob(".scene.pfmap/*-*"))
        said: list[str] = []
        again = signed(url, secret=RENEWED)
        pfmap.predict(again, out, model=breaking(None), batch_size=1, on_message=said.append, **OPTIONS)
        assert any("finished swaths of an earlier run" in line for line in said)
        assert pfmap.predict(signed(url), out, model=breaking(None), **OPTIONS).skipped
        first = pfmap.predict_all(sources, out, model=breaking(None), **OPTIONS)
        assert [bool(one.reason) for one in first] == [False, True]
        write_scene(blobs(90, 90), "www/late.tif")
        renewed = [again, signed(url, "late.tif", RENEWED)]
        retried = pfmap.predict_all(renewed, out, model=breaking(None), retry_failed=True, **OPTIONS)
    assert [one.sheet.location.stem for one in retried] == ["late"]
    assert leaks(out) == []
    assert not (out / "failures.csv").exists()


def test_a_mosaic_is_no_place_for_a_secret(write_scene: Write, tmp_path: Path) -> None:
    (tmp_path / "www").mkdir()
    write_scene(blobs(90, 90), "www/scene.tif")
    here = write_scene(blobs(90, 90), "here.tif")
    with served(tmp_path / "www") as url:
        made = pfmap.batch([here, signed(url)], tmp_path / "out", mosaic=True, model=stand_in(), **OPTIONS)
    assert next(one.reason for one in made.scenes if one.reason).endswith(
        "can be no part of a mosaic (its address holds a secret): map it alone"
    )
    assert leaks(tmp_path / "out") == []


@pytest.mark.parametrize("call", ["predict", "vectorize", "evaluate", "inspect"])
def test_no_error_holds_a_secret(call: str) -> None:
    address = signed("http://127.0.0.1:9")
    with pytest.raises(PfmapError) as error:
        getattr(pfmap, call)(address, *([address] if call == "evaluate" else []))
    assert SECRET not in str(error.value)


def test_a_hostile_scene_is_mapped_under_a_name_that_all_formats_hold(
    write_scene: Write, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    name = "=cmd|'c'A1 \x1b]0,x\x07<script>\"&' \n\u202e.tif"
    write_scene(blobs(90, 90), "plain.tif").rename(tmp_path / "in" / name)
    out = tmp_path / "out"
    made = pfmap.batch(tmp_path / "in", out, model=stand_in(), formats=("gpkg", "geojson"), **OPTIONS)
    assert [one.reason for one in made.scenes] == [""]
    for path in out.rglob("*"):
        assert path.name.isprintable()
        if path.suffix in (".html", ".csv", ".vrt", ".qml", ".xml", ".json", ".geojson"):
            text = path.read_text("utf-8-sig")
            assert all(letter in "\n\r\t" or letter.isprintable() for letter in text), path
    page = (out / "survey_report.html").read_text()
    assert "<script>" not in page
    assert "is left out of the QGIS project" in page
    assert (out / "survey_report.csv").read_text("utf-8-sig").splitlines()[1].startswith('"' + str(tmp_path))
    assert made.figures.scenes[0].name == "=cmd|'c'A1 _]0,x_<script>\"&' __"
