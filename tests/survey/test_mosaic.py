import base64
import re
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from conftest import NORTH_UP, Pointwise, Walled, Write, blobs, houses, stand_in
from pictures import panels
from rasterio.enums import Resampling
from rasterio.warp import reproject, transform_bounds
from sheets import OVERLAPPING, QUARTERS, sheets
from surveys import read_survey
from torch import Tensor, nn

import pfmap
from pfmap.core.errors import SourceError, UsageError
from pfmap.survey.campaign import SurveyResult
from pfmap.survey.scenes import batch


class Blurred(nn.Module):
    """A network whose view is wider than a pixel: at a border it sees what lies beyond."""

    def __init__(self, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.blur, self.inner = nn.AvgPool2d(9, 1, 4, count_include_pad=False), inner or Pointwise(3)

    def forward(self, image: Tensor) -> Tensor:
        return self.inner(self.blur(image))


def run(sources, out: Path, **settings) -> SurveyResult:
    return batch(
        sources, out, **{"model": stand_in(network=Blurred()), "device": "cpu", "mosaic": True} | settings
    )


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as src:
        return src.read()


@pytest.mark.parametrize("boxes", [QUARTERS, OVERLAPPING], ids=["touching", "overlapping"])
@pytest.mark.parametrize("kind", ["alpha", "nodata", "16-bit", "houses"])
def test_sheets_as_one_give_what_the_whole_scene_gives(boxes, kind: str, write_scene: Write, tmp_path: Path):
    image, profile, mask, options = blobs(200, 200, smooth=15), {}, None, {}
    model = stand_in(network=Blurred())
    if kind == "houses":
        image, model = houses(200, 200)[0], stand_in(network=Blurred(Walled(3)), contact=("class_2",))
        options = {"tta": "flips", "probabilities": True, "threshold": {"class_2": 0.6}}
    if kind == "16-bit":
        image = image.astype(np.uint16) * 40
    if kind == "nodata":
        image[:, 30:90, 60:140] = 0
        profile["nodata"] = 0
    whole_mask = np.ones((200, 200), dtype=bool)
    whole_mask[30:90, 60:140] = False
    mask = whole_mask if kind == "alpha" else None
    whole = pfmap.predict(
        write_scene(image, "whole.tif", mask=mask, **profile),
        tmp_path / "one", model=model, device="cpu", **options,
    )  # fmt: skip
    parts = [
        write_scene(
            image[:, row : row + height, col : col + width],
            f"sheet{number}.tif",
            transform=NORTH_UP @ Affine.translation(col, row),
            mask=None if mask is None else mask[row : row + height, col : col + width],
            **profile,
        )
        for number, (row, col, height, width) in enumerate(boxes)
    ]
    found = run(parts, tmp_path / "many", model=model, **options)
    for kind_of in ("classes", "confidence", *["contact", "probabilities"] * (kind == "houses")):
        assert (read(found.outputs[kind_of]) == read(whole.outputs[kind_of])).all()
    ours, theirs = (
        gpd.read_file(path, layer="objects").sort_values("object_id")
        for path in (found.outputs["gpkg"], whole.outputs["gpkg"])
    )
    assert len(ours) > 5
    assert shapely.equals_exact(ours.geometry.values, theirs.geometry.values, 1e-9).all()
    assert set(ours["scene"]) <= {"sheet0", "sheet1", "sheet2", "sheet3"}
    assert (ours[["object_id", "region_id"]].values == theirs[["object_id", "region_id"]].values).all()
    apart = run(parts, tmp_path / "apart", mosaic=False, model=model)
    assert (read(apart.outputs["classes"]) != read(whole.outputs["classes"])).any()


def test_a_sheet_of_another_crs_and_resolution_fits_in(write_scene: Write, tmp_path: Path) -> None:
    """Of two halves one is given in the next UTM zone, in pixels of 0.6 instead of 0.5 m and with nodata."""
    image = blobs(400, 400, smooth=41)
    whole = pfmap.predict(write_scene(image, "whole.tif"), tmp_path / "one", model=stand_in(), device="cpu")
    left = write_scene(image[:, :, :250], "left.tif")
    place = NORTH_UP @ Affine.translation(200, 0)
    bounds = transform_bounds("EPSG:32645", "EPSG:32644", place.c, place.f - 200, place.c + 100, place.f)
    to = Affine(0.6, 0, bounds[0], 0, -0.6, bounds[3])
    width, height = (int((bounds[i + 2] - bounds[i]) / 0.6) + 1 for i in (0, 1))
    turned = np.zeros((3, height, width), np.uint8)
    reproject(
        image[:, :, 200:], turned, resampling=Resampling.nearest, init_dest_nodata=True, dst_nodata=0,
        src_transform=place, src_crs="EPSG:32645", dst_transform=to, dst_crs="EPSG:32644",
    )  # fmt: skip
    right = write_scene(turned, "right.tif", crs="EPSG:32644", transform=to, nodata=0)
    found = run([left, right], tmp_path / "many", model=stand_in())
    theirs = read(whole.outputs["classes"])[0]
    with rasterio.open(found.outputs["classes"]) as src:
        col, row = (round(value) for value in ~src.transform @ (NORTH_UP.c, NORTH_UP.f))
        ours = src.read(1)[row : row + 400, col : col + 400]
        assert src.transform.a == 0.5
    assert ours.shape == theirs.shape
    assert (ours == 255).mean() < 0.01
    assert (ours == theirs).mean() > 0.97
    wrong = (ours != theirs)[:, 300:] & (ours[:, 300:] != 255)
    assert wrong.mean() < 0.1  # outlines move by up to a pixel of the coarser sheet


def test_sheets_that_do_not_go_together_are_refused_by_name(write_scene: Write, tmp_path: Path) -> None:
    image = blobs(80, 80)
    byte, wide = write_scene(image, "byte.tif"), write_scene(image.astype(np.uint16), "wide.tif")
    with pytest.raises(SourceError, match=r"byte\.tif has uint8 values and .*wide\.tif uint16"):
        run([byte, wide], tmp_path / "out")
    nowhere = write_scene(image, "nowhere.tif", crs=None)
    with pytest.raises(SourceError, match=r"nowhere\.tif has no CRS: a mosaic needs a place"):
        run([byte, nowhere], tmp_path / "out")
    with pytest.raises(UsageError, match="leave one out"):
        run([byte], tmp_path / "out", retry_failed=True)
    broken = tmp_path / "broken.tif"
    broken.write_bytes(b"nothing")
    with pytest.raises(SourceError, match=r"none of 1 sheets can be opened; the first: .*broken\.tif"):
        run([broken], tmp_path / "out")
    assert not list((tmp_path / "out").glob("*_classes.*"))


def test_a_broken_sheet_leaves_a_hole_and_is_listed(write_scene: Write, tmp_path: Path) -> None:
    parts = sheets(write_scene, blobs(200, 200), QUARTERS)
    parts[1].write_bytes(b"nothing")
    found = run(parts, tmp_path / "out")
    assert [bool(one.reason) for one in found.scenes] == [False, True]
    assert "sheet1.tif" in (tmp_path / "out/failures.csv").read_text()
    figures = read_survey(tmp_path / "out/survey_report.json")
    assert [(scene.name, scene.state) for scene in figures.scenes] == [
        ("sheet0", "done"), ("sheet1", "failed"), ("sheet2", "done"), ("sheet3", "done"),
    ]  # fmt: skip
    assert all(scene.footprint for scene in figures.scenes if scene.state == "done")
    assert sum(row.pixels for row in figures.classes) == 30_000
    classes = read(found.outputs["classes"])[0]
    assert (classes[:100, 100:] == 255).all()
    assert (classes[100:] < 3).all()


def test_a_mosaic_is_done_once_until_a_sheet_changes(write_scene: Write, tmp_path: Path) -> None:
    parts = sheets(write_scene, blobs(200, 200), QUARTERS)
    results = [run(parts, tmp_path / "out").scenes[0].result for _ in range(2)]
    assert [result.skipped for result in results if result] == [False, True]
    write_scene(blobs(100, 100, seed=5), "sheet0.tif")
    again = run(parts, tmp_path / "out", overwrite=True).scenes[0].result
    assert again is not None
    assert not again.skipped


def test_the_report_says_of_each_sheet_what_the_one_map_shows_there(
    write_scene: Write, tmp_path: Path
) -> None:
    """The oracle: the same sheets mapped one by one, with a network that sees single pixels."""
    parts = sheets(write_scene, blobs(200, 200, smooth=15), OVERLAPPING)
    one = run(parts, tmp_path / "one", model=stand_in(), overlap=0, simplify=0.0)
    each = run(parts, tmp_path / "each", model=stand_in(), overlap=0, simplify=0.0, mosaic=False)
    for found, alone in zip(one.figures.scenes, each.figures.scenes, strict=True):
        assert (found.name, found.state) == (alone.name, "done")
        assert [row.pixels for row in found.classes] == [row.pixels for row in alone.classes]
        assert [row.area for row in found.classes] == pytest.approx([row.area for row in alone.classes])
        assert found.valid_pixels == alone.valid_pixels
        assert found.mean_confidence == pytest.approx(alone.mean_confidence, abs=0.5)
        assert found.gsd == pytest.approx(alone.gsd)
    objects = [sum(row.objects for row in scene.classes) for scene in one.figures.scenes]
    layer = gpd.read_file(one.outputs["gpkg"], layer="objects")
    assert objects == [int((layer["scene"] == scene.name).sum()) for scene in one.figures.scenes]
    assert sum(objects) == len(layer) == sum(row.objects for row in one.figures.classes)
    page = (tmp_path / "one/survey_report.html").read_text()
    assert page.count('src="data:image/webp') == page.count('href="data:image/webp') == len(parts)


def test_the_pictures_of_sheets_are_those_of_sheets_mapped_alone(write_scene: Write, tmp_path: Path) -> None:
    """Also of one on a grid of its own, which shows no more of the map than it has data."""
    image = blobs(200, 400, smooth=40)
    coarser = NORTH_UP @ Affine.translation(200, 0) @ Affine.scale(2)
    mask = np.ones((200, 200), dtype=bool)
    mask[:80, :80] = False
    write_scene(image[:, :, :200], "a.tif", mask=mask)
    write_scene(image[:, ::2, 200::2], "b.tif", transform=coarser)
    paths = [tmp_path / "a.tif", tmp_path / "b.tif"]
    run(paths, tmp_path / "one", model=stand_in(), overlap=0)
    run(paths, tmp_path / "each", model=stand_in(), overlap=0, mosaic=False)
    pictures = [
        [
            panels(base64.b64decode(text))
            for text in re.findall(r"src=\"data:image/webp;base64,([^\"]+)", page)
        ]
        for page in ((tmp_path / name / "survey_report.html").read_text() for name in ("one", "each"))
    ]
    assert len(pictures[0]) == len(pictures[1]) == 2
    for found, alone in zip(*pictures, strict=True):
        for half, other in zip(found, alone, strict=True):
            assert half.shape == other.shape
            assert np.abs(half - other).mean() < 6
