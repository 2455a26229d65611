"""The page of a survey, as far as it can be checked without a browser; `make test-browser` has one."""

import base64
import io
import itertools
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, unquote_to_bytes

import jinja2
import numpy as np
import pyproj
import pytest
from PIL import Image
from surveys import CARD, made_up

from pfmap.core.card import Provenance
from pfmap.core.errors import TargetError
from pfmap.core.grid import GeoBox
from pfmap.evaluation.comparison import Labels, Tally
from pfmap.evaluation.evaluation_page import Section, page
from pfmap.evaluation.figures import figures
from pfmap.report.html import render
from pfmap.report.stac import safe_id
from pfmap.report.survey_figures import SceneFigures, SurveyFigures
from pfmap.report.survey_page import survey_page
from pfmap.report.thumbnail import class_picture
from pfmap.report.wording import AreaUnit, duration, link
from pfmap.survey.campaign import REPORTS, write_reports
from pfmap.vector.footprints import lonlat_ring

VOID = frozenset({"meta", "img", "br"})


class Page(HTMLParser):
    """Checks that tags are balanced, and gathers what tests look at."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.rows: list[list[str]] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs)), (tag, attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert self.open[-1] in {"svg", "symbol", "pattern", "a", "g"} or tag in VOID, (
            tag
        )  # HTML closes no other so
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    def values(self, key: str) -> list[str]:
        return [str(attrs[key]) for _, attrs in self.tags if key in attrs]


def picture(seed: int = 0, limit: int = 15_000) -> bytes:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 255, (3, 240, 320)).astype(np.uint8)
    classes = rng.integers(0, 3, (240, 320)).astype(np.uint8)
    seen = np.ones((240, 320), dtype=bool)
    return class_picture(pixels, seen, classes, {0: (255, 0, 0), 1: (0, 255, 0)}, limit)


def check(html: str) -> Page:
    """What has to be so of every page."""
    page = Page(html)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert not {"script", "link", "iframe", "base", "object", "embed"} & {tag for tag, _ in page.tags}
    assert not any(key.startswith("on") for _, attrs in page.tags for key in attrs)
    for target in [*page.values("href"), *page.values("src")]:
        assert re.match(r"#|data:image/|[^:]*$", target), target
        if target.startswith("#"):
            assert target[1:] in ids, target
    for label in page.values("aria-labelledby"):
        assert label in ids
    style = html[html.index("<style>") : html.index("</style>")]
    assert "http" not in style
    assert "url(" not in style.replace("url(#hatch)", "")
    assert all(attrs.get("alt") and attrs.get("width") and attrs.get("height") for attrs in page.all("img"))
    assert all(attrs.get("scope") in {"row", "col"} for attrs in page.all("th"))
    names = [tag for tag, _ in page.tags]
    assert names.count("table") == names.count("caption") == names.count("thead")
    levels = [int(tag[1]) for tag in names if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
    assert [names.count(tag) for tag in ("header", "nav", "main", "footer")] == [1, 1, 1, 1]
    assert page.all("html")[0]["lang"] == "en"
    assert next(attrs for attrs in page.all("a"))["href"] == "#main"  # the skip link comes first
    return page


@pytest.mark.parametrize("scenes", [0, 1, 4, 60])
def test_the_page_is_whole_and_says_what_the_figures_say(scenes: int) -> None:
    survey = made_up(scenes)
    page = check(survey_page(survey, {scene.name: picture(k) for k, scene in enumerate(survey.scenes[:3])}))
    areas = AreaUnit.fitting(sum(item.area for item in survey.classes), "m2")
    for item in survey.classes:
        row = [item.name.replace("_", " "), areas.number(item.area), f"{item.objects:,}"]
        assert any([cells[0], cells[1], cells[4]] == row for cells in page.rows if len(cells) == 6), row
    for scene in survey.scenes:
        (row,) = (cells for cells in page.rows if len(cells) == 9 and cells[0] == scene.name)
        assert row[1] == {"done": "mapped", "skipped": "mapped earlier", "failed": "failed"}[scene.state]
        if scene.classes:
            assert row[2] == areas.number(sum(item.area for item in scene.classes))
            assert row[3] == f"{sum(item.objects for item in scene.classes):,}"
        assert scene.reason in page.text
        assert all(text in page.text for text in scene.warnings)
    assert survey.model.provenance.attribution in page.text
    assert duration(survey.seconds) in page.text
    assert len(page.all("img")) == sum(scene.classes != () for scene in survey.scenes[:3])
    assert len(page.all("details")) >= scenes


def test_every_scene_has_a_place_on_the_map_with_a_name_and_a_link() -> None:
    survey = made_up(30)
    html = survey_page(survey, {})
    placed = [scene for scene in survey.scenes if scene.footprint]
    found = re.findall(r'<a href="#(scene-\d+)" aria-label="([^"]*)" class="(\w+)"><title>([^<]*)<', html)
    assert len(found) == len(placed) < 30
    assert {kind for _, _, kind, _ in found} == {"done", "skipped"}
    assert all(label == title for _, label, _, title in found)
    assert "Not on the map" in html
    # Failures are among the marks if they have a place, as states differ by shape, not by colour alone.
    ring = placed[0].footprint
    failed = [replace(scene, footprint=ring) if not scene.footprint else scene for scene in survey.scenes]
    html = survey_page(replace(survey, scenes=tuple(failed)), {})
    assert html.count('<use href="#mark-failed" x=') == survey.count("failed")
    assert "Not on the map" not in html


@pytest.mark.parametrize(("west", "south"), [(85.5, 27.6), (-179.9995, -17.0), (10.0, 69.5)])
def test_the_map_is_true_to_scale_and_north_is_up(west: float, south: float) -> None:
    """The oracle measures on the ellipsoid: the scale bar may be off by the 0.5 % that a sphere is."""
    corners = [(0.0, 0.0), (0.01, 0.0), (0.01, 0.004), (0.0, 0.004), (0.0, 0.0)]
    ring = tuple(((west + x - 0.005 + 180) % 360 - 180, south + y) for x, y in corners)
    survey = made_up(1)
    html = survey_page(replace(survey, scenes=(replace(survey.scenes[0], footprint=ring),)), {})
    path = re.findall(r'<polygon points="([^"]*)"', html)[0]
    (x0, y0), (x1, y1), (_, y2), *_ = (tuple(map(float, point.split(","))) for point in path.split())
    assert x0 < x1
    assert y2 < y0 == y1
    share, number, unit = re.findall(r'style="width:([\d.]+)%"></span><b>([\d,.]+) (km|m)<', html)[0]
    length = float(number.replace(",", "")) * (1000 if unit == "km" else 1)
    geod = pyproj.Geod(ellps="WGS84")
    wide = geod.inv(*ring[0], *ring[1])[2]
    tall = geod.inv(*ring[1], *ring[2])[2]
    per_unit = length / (float(share) * 10)
    assert (x1 - x0) * per_unit == pytest.approx(wide, rel=0.006)
    assert (y0 - y2) * per_unit == pytest.approx(tall, rel=0.006)


@pytest.mark.parametrize(
    "transform",
    [
        (0.5, 0.0, 334000.0, 0.0, -0.5, 3055000.0),
        (0.4, 0.3, 334000.0, 0.3, -0.4, 3055000.0),  # rotated
        (0.5, 0.0, 334000.0, 0.0, 0.5, 3055000.0),  # south up
    ],
)
def test_the_picture_of_a_scene_lies_where_the_scene_does(transform: tuple[float, ...]) -> None:
    """The oracle is where PROJ sees three corners, on the scale of the outline that is drawn over it."""
    wkt = pyproj.CRS(32645).to_wkt()
    grid = GeoBox(320, 240, wkt, transform)  # type: ignore[arg-type]
    survey = made_up(1)
    scene = replace(survey.scenes[0], grid=grid, footprint=lonlat_ring(GeoBox(640, 240, wkt, grid.transform)))
    html = survey_page(replace(survey, scenes=(scene,)), {scene.name: picture()})
    a, b, c, d, e, f = map(float, re.findall(r'transform="matrix\(([^)]*)\)', html)[0].split())
    outline = re.findall(r'<polygon points="([^"]*)"', html)[0].split()
    x, y = np.transpose([[float(value) for value in point.split(",")] for point in outline])
    lon, lat = np.transpose(scene.footprint)
    scales = np.polyfit(lon, x, 1), np.polyfit(lat, y, 1)
    to_degrees = pyproj.Transformer.from_crs(32645, 4326, always_xy=True).transform
    for corner, found in {(0, 0): (e, f), (320, 0): (e + a, f + b), (0, 240): (e + c, f + d)}.items():
        place = to_degrees(*grid.place(*corner))
        assert [np.polyval(*pair) for pair in zip(scales, place, strict=True)] == pytest.approx(
            found, abs=0.3
        )
    assert html.index("<image") < html.index("<polygon")  # the outline lies over it


def test_pictures_on_the_map_show_the_scene_alone_and_stay_small() -> None:
    """Of all scenes together, however many there are."""
    red = np.full((3, 240, 320), 20, dtype=np.uint8)
    red[0] = 230
    given = class_picture(red, red[0] > 0, red[0] * 0, {0: (0, 0, 255)}, 15_000)
    survey = made_up(60)
    html = survey_page(survey, {scene.name: given for scene in survey.scenes if scene.state != "failed"})
    drawn = [
        base64.b64decode(data) for data in re.findall(r'<image href="data:image/webp;base64,([^"]*)', html)
    ]
    assert len(drawn) == survey.count("done") + survey.count("skipped")
    assert sum(map(len, drawn)) < 20_000
    for content in drawn:
        with Image.open(io.BytesIO(content)) as image:
            assert image.width == pytest.approx(image.height * 4 / 3, abs=1)
            assert image.width < 200  # sixty of them are not larger on the screen
            shown = np.asarray(image.convert("RGB"))
        assert (shown[..., 0] > 190).all()
        assert (shown[..., 2] < 70).all()


def test_a_survey_without_places_has_no_map_and_counts_pixels() -> None:
    survey = made_up(3, unit="px")
    bare = tuple(replace(scene, footprint=(), gsd=None, crs="") for scene in survey.scenes)
    page = check(survey_page(replace(survey, scenes=bare, crs=""), {}))
    assert not [attrs for attrs in page.all("figure") if attrs.get("class") == "map"]
    assert "px" in page.text
    assert "m²" not in page.text


EVIL = """</title><script>alert('1')</script>" onload="x" '&amp; url(http://x.org)\x00\x1b"""


def evil() -> SurveyFigures:
    survey = made_up(7)
    scenes = [replace(survey.scenes[0], name=f"{k}{EVIL}", scene=EVIL, crs=EVIL) for k in range(4)]
    classes = tuple(replace(item, name=f"{item.name}{EVIL}", color=EVIL) for item in survey.classes)
    scenes[0] = replace(scenes[0], state="failed", reason=EVIL, warnings=(EVIL,))
    scenes[1] = replace(scenes[1], classes=classes, outputs={EVIL: f"a b/{EVIL}", "x": "javascript:alert(1)"})
    scenes[2] = replace(
        scenes[2], name=b"caf\xe9".decode("utf-8", "surrogateescape") + "\ud800", seconds={EVIL: 1.0}
    )
    said = EVIL.rstrip("\x00\x1b")  # a card is read without control characters
    model = replace(CARD, name=said, title=said, provenance=Provenance(said, said, said, said))
    return replace(
        survey, title=EVIL, crs=EVIL, model=model, settings={EVIL: [EVIL], "a": {EVIL: EVIL}},
        warnings=(EVIL,), classes=classes, scenes=tuple(scenes), outputs={EVIL: EVIL}, started=EVIL,
    )  # fmt: skip


def test_nothing_from_outside_becomes_part_of_the_page() -> None:
    survey = evil()
    html = survey_page(survey, {scene.name: picture() for scene in survey.scenes})
    html.encode()
    page = check(html)
    assert "\x00" not in html
    assert page.text.count("<script>alert('1')</script>") > 15
    assert not any("x.org" in value for key in ("style", "class", "id") for value in page.values(key))
    targets = [target for target in page.values("href") if target.startswith("javascript")]
    assert targets == ["javascript%3Aalert%281%29"]


@pytest.mark.parametrize("path", ["a b.tif", "50%#1?.tif", "c:d.tif", "süd/北.tif", "x&y'\"<.gpkg"])
def test_links_lead_to_the_files_whatever_they_are_called(path: str) -> None:
    assert unquote(link(path)) == path
    assert not set(link(path)) & set(" :#?\"'<&")
    odd = b"caf\xe9.tif"
    assert unquote_to_bytes(link(odd.decode("utf-8", "surrogateescape"))) == odd


def test_the_work_grows_as_the_number_of_scenes_does() -> None:
    """Counted in calls of functions: seconds depend on what else the machine does."""

    def calls(scenes: int) -> int:
        survey, count = made_up(scenes), [0]

        def note(_frame: object, event: str, _argument: object) -> None:
            count[0] += event in ("call", "c_call")

        sys.setprofile(note)
        try:
            survey_page(survey, {})
        finally:
            sys.setprofile(None)
        return count[0]

    calls(10)  # what is made once
    assert calls(400) < 2.2 * calls(200)


@pytest.mark.slow
def test_two_thousand_scenes_stay_usable() -> None:
    """Failures on top, then the table of all; every picture has its share of a bounded size."""
    survey = made_up(2000)
    drawn = [picture(k, 8_000) for k in range(5)]
    mapped = [scene for scene in survey.scenes if scene.state != "failed"]
    html = survey_page(survey, {scene.name: drawn[k % 5] for k, scene in enumerate(mapped)})
    assert len(html) < 32_000_000
    page = check(html)
    assert len(page.all("img")) == survey.count("done") + survey.count("skipped") == len(page.all("image"))
    on_map = [str(attrs["href"]) for attrs in page.all("image")]
    assert max(map(len, on_map)) < 1_400
    places = [
        html.index(f'<section id="{name}"') for name in ("failures", "map", "classes", "scenes", "details")
    ]
    assert places == sorted(places)
    assert not any("open" in attrs for attrs in page.all("details"))


def test_a_picture_that_cannot_be_as_small_as_it_has_to_be_is_left_out() -> None:
    survey = made_up(1)
    assert picture(limit=100) == b""
    assert not check(survey_page(survey, {survey.scenes[0].name: b""})).all("img")


def test_the_picture_on_the_page_is_the_one_given() -> None:
    survey, given = made_up(1), picture()
    (image,) = check(survey_page(survey, {survey.scenes[0].name: given})).all("img")
    kind, _, data = str(image["src"]).partition(",")
    assert kind == "data:image/webp;base64"
    assert base64.b64decode(data) == given
    assert survey.scenes[0].name in str(image["alt"])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (4.06, "4.1 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
    ],
)
def test_times_read_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_ids_are_safe_and_unique() -> None:
    taken: list[str] = []
    for name in ("north/sheet 1", "north-sheet-1", "North/Sheet 1", "北", "..", "a" * 300, "süd"):
        taken.append(safe_id(name, taken))
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,125}", taken[-1])
    assert len({name.lower() for name in taken}) == len(taken)
    assert taken[:3] == ["north-sheet-1", "north-sheet-1-2", "North-Sheet-1-3"]
    assert taken[-1] == "sud"


def test_reports_are_written_whole_and_name_each_other(tmp_path: Path) -> None:
    survey = made_up(4)
    names = write_reports(survey, tmp_path, {})
    assert names == {**REPORTS, "stac": "stac/collection.json"}
    assert all((tmp_path / name).is_file() for name in names.values())
    assert not list(tmp_path.rglob("*.part"))
    html = (tmp_path / names["html"]).read_text()
    assert {"survey_report.json", "survey_report.csv", "stac/collection.json"} <= set(
        check(html).values("href")
    )
    assert write_reports(survey, tmp_path, {}) == names  # a second time replaces


def test_a_scene_that_was_never_opened_is_shown_too() -> None:
    scene = SceneFigures("/data/x.tif", "x", "failed", reason="/data/x.tif does not exist: check the path")
    page = check(survey_page(made_up(1, scenes=(scene,), classes=(), outputs={}, warnings=()), {}))
    assert page.text.count("does not exist") == 2


def test_the_json_that_vouches_for_all_reports_is_not_there_if_one_cannot_be_written(tmp_path: Path) -> None:
    before = tmp_path / "survey_report.html"
    before.mkdir()  # nothing can take this name
    with pytest.raises(TargetError, match=r"survey_report\.html cannot be written"):
        write_reports(made_up(2), tmp_path, {})
    assert not (tmp_path / REPORTS["json"]).exists()  # it would say that all is there
    (tmp_path / "file").write_text("")
    with pytest.raises(TargetError, match="could not be written"):
        write_reports(made_up(2), tmp_path / "file", {})


def test_a_value_that_a_template_needs_and_does_not_get_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError, match="pairs"):
        render("evaluation.html.jinja", title="x", sections=[], figure=str)


def test_an_evaluation_of_nothing_has_a_page_too() -> None:
    labels = Labels(CARD.classes)
    html = page("nothing", [], [Section("", figures(Tally(), labels, named_only=True), labels)])
    assert "of 0 compared pixels" in Page(html).text


def test_names_become_no_part_of_an_evaluation_page_either() -> None:
    zero = SimpleNamespace(iou=0.0, f1=0.0, precision=0.0, recall=0.0)
    objects = SimpleNamespace(
        least_pixels=5, matches=[zero], merged=0, split=0, truth=0, predicted=0, share=lambda _count: EVIL
    )
    klass = SimpleNamespace(
        spec=SimpleNamespace(name=EVIL), scores=zero, truth_pixels=1, predicted_pixels=1, boundary=[zero],
        objects=objects, in_mean=True,
    )  # fmt: skip
    found = SimpleNamespace(
        mean=zero, accuracy=0.5, labelled=4, unmapped=1, notes=[EVIL], calibration=None, classes=[klass],
        labels=[EVIL], confusion=[[1234]], allowed=[[True]], boundary=[zero],
    )  # fmt: skip
    section = SimpleNamespace(title=EVIL, figures=found, picture=b"AAAA", object_map=b"")
    html = render(
        "evaluation.html.jinja", title=EVIL, pairs=[(EVIL, EVIL)], sections=[section], figure=lambda _: EVIL,
        base64=base64.b64encode, legend=lambda _section: [(EVIL, EVIL)], distances=[EVIL], ious=[EVIL],
    )  # fmt: skip
    shown = Page(html)
    assert "script" not in {tag for tag, _ in shown.tags}
    assert shown.text.count("<script>alert('1')</script>") > 20
    assert not any("x.org" in value for value in shown.values("style"))
    assert "1,234" in shown.text
