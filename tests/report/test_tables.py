"""The machine-readable reports of a survey."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from surveys import made_up

from pfmap.core.errors import SourceError
from pfmap.report.survey_figures import SceneFigures
from pfmap.report.tables import csv_bytes, parse_survey, read_survey, survey_csv, survey_json


@pytest.mark.parametrize("unit", ["m2", "px"])
def test_figures_come_back_from_the_json_as_they_were(tmp_path: Path, unit: str) -> None:
    survey = made_up(8, unit=unit)
    path = tmp_path / "survey_report.json"
    path.write_text(survey_json(survey))
    assert read_survey(path) == survey
    table = json.loads(survey_json(survey))
    assert {f"area_{unit}"} == {key for key in table["classes"][0] if key.startswith("area")}
    assert (table["scenes_done"], table["scenes_skipped"], table["scenes_failed"]) == (6, 1, 1)


def test_names_that_are_no_text_and_numbers_that_json_has_not_do_no_harm() -> None:
    odd = b"caf\xe9.tif".decode("utf-8", "surrogateescape")
    scene = SceneFigures(odd, odd, "failed", reason="no")
    survey = made_up(
        1, scenes=(scene,), model={"mean": (0.5, float("nan")), "where": Path("a/b")}, settings={}
    )
    table = json.loads(survey_json(survey).encode())
    assert table["model"] == {"mean": [0.5, None], "where": "a/b"}
    assert parse_survey(table).scenes == (scene,)
    assert b"caf" in csv_bytes(survey_csv(survey))


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": 9}', '{"format": 1, "pfmap": "1"}', "\x00"], ids=repr
)
def test_what_is_no_survey_report_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(SourceError, match=r"x\.json is no survey report") as caught:
        read_survey(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(SourceError, match="cannot be read"):
        read_survey(tmp_path / "none.json")


def test_the_csv_has_a_row_per_scene_with_the_figures_of_the_json() -> None:
    survey = made_up(9)
    content = csv_bytes(survey_csv(survey))
    assert content.startswith(b"\xef\xbb\xbf")
    assert content.count(b"\r\n") == 10
    frame = pd.read_csv(io.BytesIO(content), encoding="utf-8-sig")
    assert list(frame["name"]) == [scene.name for scene in survey.scenes]
    for k, scene in enumerate(survey.scenes):
        for item in scene.classes:
            assert frame[f"area_m2_{item.name}"][k] == pytest.approx(item.area)
            assert frame[f"objects_{item.name}"][k] == item.objects
    failed = frame[frame["state"] == "failed"]
    assert failed["area_m2_building"].isna().all()
    assert failed["reason"].str.contains("choose them with --bands").all()


@pytest.mark.parametrize("name", ["=1+1.tif", "+a.tif", "-b.tif", "@c.tif", "\td.tif"])
def test_a_spreadsheet_takes_no_name_for_a_formula(name: str) -> None:
    survey = made_up(1)
    survey = replace(survey, scenes=(replace(survey.scenes[0], scene=name, name=f'a "{name}", b'),))
    rows = list(csv.reader(io.StringIO(survey_csv(survey), newline="")))
    assert rows[1][0] == f"'{name}"
    assert rows[1][1] == f'a "{name}", b'
    assert len(rows[0]) == len(rows[1]) == len(set(rows[0]))
