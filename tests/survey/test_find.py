import os
from pathlib import Path

import pytest

from pfmap.core.errors import SourceError, UsageError
from pfmap.survey.find import find_sheets


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def places(*args, **kwargs) -> list[tuple[str, str]]:
    return [(sheet.folder.as_posix(), sheet.location.stem) for sheet in find_sheets(*args, **kwargs)]


def test_a_folder_is_searched_recursively_and_outputs_mirror_it(tmp_path):
    touch(
        tmp_path / "in/a.tif",
        tmp_path / "in/north/b.TIF",
        tmp_path / "in/.hidden/c.tif",
        tmp_path / "in/d.txt",
    )
    out = tmp_path / "out"
    assert places([tmp_path / "in"], out) == [(f"{out}", "a"), (f"{out}/north", "b")]
    assert [sheet.name for sheet in find_sheets([tmp_path / "in"], out)] == ["a", "north/b"]
    assert places([tmp_path / "in"]) == [(f"{tmp_path}/in", "a"), (f"{tmp_path}/in/north", "b")]


def test_what_pfmap_wrote_and_what_repeats_other_files_is_left_out(tmp_path):
    touch(
        tmp_path / "a.tif",
        tmp_path / "a_classes.tif",
        tmp_path / "a_confidence.tif",
        tmp_path / "a_report.json",
    )
    touch(tmp_path / "all.vrt", tmp_path / "preview.jpg", tmp_path / "land_classes.tif")
    assert [stem for _, stem in places([tmp_path])] == ["a", "land_classes"]
    touch(tmp_path / "preview.jgw")
    assert [stem for _, stem in places([tmp_path])] == ["a", "land_classes", "preview"]


def test_a_shell_that_names_outputs_of_an_earlier_run_does_no_harm(tmp_path):
    names = ["a.tif", "a_classes.tif", "a_confidence.tif", "a_report.json", "b.tif"]
    touch(*(tmp_path / name for name in names))
    assert [stem for _, stem in places(sorted(tmp_path.glob("*.tif")))] == ["a", "b"]
    assert [stem for _, stem in places([tmp_path / "a_classes.tif"])] == ["a_classes"]


def test_no_outputs_are_called_as_the_surveys_own_or_as_those_of_another_scene(tmp_path):
    out = tmp_path / "out"
    touch(tmp_path / "in/SURVEY.tif", tmp_path / "in/north/survey.tif")
    found = places([tmp_path / "in"], out, reserved="survey")
    assert found == [(f"{out}", "SURVEY_tif"), (f"{out}/north", "survey")]
    touch(tmp_path / "in/survey_tif.jp2")
    with pytest.raises(UsageError, match=r"SURVEY\.tif and .*survey_tif\.jp2 would have outputs"):
        find_sheets([tmp_path / "in"], out, reserved="survey")


def test_a_survey_of_nothing_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no scene is named"):
        find_sheets([], tmp_path)


def test_a_pattern_chooses_files(tmp_path):
    touch(tmp_path / "n/ortho_1.tif", tmp_path / "n/dsm_1.tif", tmp_path / "ortho_2.vrt")
    assert [stem for _, stem in places([tmp_path], None, "ortho_*")] == ["ortho_1", "ortho_2"]
    with pytest.raises(SourceError, match=r"no file that matches '\*\.jp2' \(it has dsm_1.tif, ortho_1.tif"):
        find_sheets([tmp_path], None, "*.jp2")


def test_a_list_names_scenes_beside_it(tmp_path):
    touch(tmp_path / "a.tif", tmp_path / "sub/b.tif")
    (tmp_path / "list.txt").write_text("# the good ones\n\na.tif\n  sub\nhttps://host/c.tif\n")
    sheets = find_sheets([f"@{tmp_path / 'list.txt'}"], tmp_path / "out")
    assert [sheet.location.text for sheet in sheets] == [
        str(tmp_path / "a.tif"),
        str(tmp_path / "sub/b.tif"),
        "https://host/c.tif",
    ]
    (tmp_path / "list.txt").write_text("# nothing\n")
    with pytest.raises(SourceError, match="names no scene"):
        find_sheets([f"@{tmp_path / 'list.txt'}"])
    with pytest.raises(SourceError, match=r"the list .*none\.txt cannot be read"):
        find_sheets([f"@{tmp_path / 'none.txt'}"])


@pytest.mark.parametrize(
    ("files", "sources", "expected"),
    [
        (["in/a.tif", "in/a.jp2"], ["in"], ["a_jp2", "a_tif"]),
        (["in/a.tif", "in/A.tiff"], ["in"], ["A_tiff", "a_tif"]),
        (["x/a.tif", "y/a.tif"], ["x/a.tif", "y/a.tif"], ["x/a", "y/a"]),
        (["x/a.tif", "y/a.tif", "y/b.tif"], ["x", "y"], ["x/a", "y/a", "y/b"]),
        (["x/s/a.tif", "y/s/a.tif"], ["x/s", "y/s"], ["s/x/s/a", "s/y/s/a"]),
        (["x/a.tif", "x/a.jp2", "y/a.tif"], ["x/a.tif", "x/a.jp2", "y/a.tif"], ["x/a_tif", "x/a_jp2", "y/a"]),
    ],
)
def test_equal_stems_do_not_collide(tmp_path, files, sources, expected):
    touch(*(tmp_path / name for name in files))
    sheets = find_sheets([tmp_path / name for name in sources], tmp_path / "out")
    assert [sheet.name for sheet in sheets] == expected
    assert len({(sheet.folder, sheet.location.stem) for sheet in sheets}) == len(files)


def test_what_cannot_be_a_survey_is_refused(tmp_path):
    touch(tmp_path / "in/a.tif", tmp_path / "in/notes.txt", tmp_path / "notes/readme.md")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"empty has no raster \(it has no file at all\)"):
        find_sheets([tmp_path / "empty"])
    with pytest.raises(SourceError, match=r"notes has no raster \(it has readme.md\).*pattern="):
        find_sheets([tmp_path / "notes"])
    with pytest.raises(SourceError, match=r"b.tif does not exist"):
        find_sheets([tmp_path / "in/b.tif"])
    with pytest.raises(UsageError, match=r"a.tif is named twice: name each scene once"):
        find_sheets([tmp_path / "in", tmp_path / "in/a.tif"])
    twice = os.path.relpath(tmp_path / "in/a.tif")
    with pytest.raises(UsageError, match=r"is named twice, the other time as .*/in/a.tif"):
        find_sheets([tmp_path / "in/a.tif", twice])
    for folder in ("in", "in/maps"):
        with pytest.raises(
            UsageError, match=r"lies in .*, which is searched for scenes: choose one outside it"
        ):
            find_sheets([tmp_path / "in"], tmp_path / folder)


def test_scenes_whose_names_must_not_be_told_apart_are_refused() -> None:
    forms = ("https://host/file?name={}.tif", "/vsicurl?url=https%3A%2F%2Fhost%2F{}.tif&header.x=y")
    for form in forms:
        with pytest.raises(UsageError, match="<redacted> is named twice, the other time with another query"):
            find_sheets([form.format("a"), form.format("b")])
