"""The machine-readable reports of a survey."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from surveys import CARD, made_up, read_survey

from pfmap.report.survey_figures import SceneFigures, survey_csv, survey_json


@pytest.mark.parametrize("unit", ["m2", "px"])
def test_figures_come_back_from_the_json_as_they_were(tmp_path: Path, unit: str) -> None:
    survey = made_up(8, unit=unit)
    path = tmp_path / "survey_report.json"
    path.write_bytes(survey_json(survey))
    assert read_survey(path) == survey
    table = json.loads(survey_json(survey))
    assert {f"area_{unit}"} == {key for key in table["classes"][0] if key.startswith("area")}
    assert table["model"]["bands"] == list(CARD.input.bands)
    assert table["model"]["licence"] == CARD.provenance.licence
    assert (table["scenes_done"], table["scenes_skipped"], table["scenes_failed"]) == (6, 1, 1)


def test_names_that_are_no_text_and_numbers_that_json_has_not_do_no_harm(tmp_path: Path) -> None:
    odd = b"caf\xe9.tif".decode("utf-8", "surrogateescape")
    scene = SceneFigures(odd, odd, "failed", reason="no")
    survey = made_up(
        1, scenes=(scene,), settings={"mean": (0.5, float("nan")), "where": Path("a/b"), "some": {"b", "a"}}
    )
    path = tmp_path / "survey_report.json"
    path.write_bytes(survey_json(survey))
    assert json.loads(path.read_text())["settings"] == {
        "mean": [0.5, None],
        "where": "a/b",
        "some": ["a", "b"],
    }
    assert read_survey(path).scenes == (scene,)
    assert b"caf" in survey_csv(survey)


def test_the_csv_has_a_row_per_scene_with_the_figures_of_the_json() -> None:
    survey = made_up(9)
    content = survey_csv(survey)
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


@pytest.mark.parametrize("name", ["=1+1.tif", "+a.tif", "-b.tif", "@c.tif", "\uff1dd.tif"])
def test_a_spreadsheet_takes_no_name_for_a_formula(name: str) -> None:
    survey = made_up(1)
    survey = replace(survey, scenes=(replace(survey.scenes[0], scene=name, name=f'a "{name}", b'),))
    rows = list(csv.reader(io.StringIO(survey_csv(survey).decode("utf-8-sig"), newline="")))
    assert rows[1][0] == f"'{name}"
    assert rows[1][1] == f'a "{name}", b'
    assert len(rows[0]) == len(rows[1]) == len(set(rows[0]))
