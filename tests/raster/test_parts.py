"""Files behind a scene: what is missing is nodata and listed, or refused; it never becomes black."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import shapely
from conftest import NORTH_UP, UTM, stand_in
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window
from sheets import SIDE, flat_sheet, virtual

import pfmap
from pfmap.core.errors import PfmapError, SourceError
from pfmap.core.grid import Span
from pfmap.mapping.job import look_behind
from pfmap.raster.classmap import ClassMap
from pfmap.raster.gdal import GDAL_ERRORS, Steady
from pfmap.raster.location import locate
from pfmap.raster.parts import Gone, find_parts
from pfmap.raster.source import Source


def gone_of(path: Path) -> set[Gone]:
    with Source(locate(path), skip_unreadable=True) as source:
        return {
            Gone(Path(one.name).name, one.rows, one.cols)
            for one in find_parts(source.info, needed=False)[0].gone
        }


def test_missing_files_are_found_where_they_are_shown(tmp_path: Path) -> None:
    for number in range(2):
        flat_sheet(tmp_path / f"{number}.tif")
    (tmp_path / "broken.tif").write_bytes((tmp_path / "0.tif").read_bytes()[:6])
    whole = virtual(tmp_path / "whole.vrt", ["0.tif", "1.tif"])
    assert gone_of(whole) == set()
    some = virtual(tmp_path / "some.vrt", ["0.tif", "missing.tif", "broken.tif"])
    rows = Span(0, SIDE)
    assert gone_of(some) == {
        Gone("missing.tif", rows, Span(100, 200)), Gone("broken.tif", rows, Span(200, 300))
    }  # fmt: skip


def test_missing_files_behind_other_virtual_rasters_are_found(tmp_path: Path) -> None:
    flat_sheet(tmp_path / "0.tif")
    virtual(tmp_path / "inner.vrt", ["missing.tif"])
    virtual(tmp_path / "middle.vrt", ["inner.vrt"], scale=1)
    outer = virtual(tmp_path / "outer.vrt", ["0.tif", "middle.vrt"], "ComplexSource", scale=2)
    assert gone_of(outer) == {Gone("missing.tif", Span(0, 200), Span(200, 400))}
    unplaced = virtual(tmp_path / "unplaced.vrt", ["missing.tif"], rects=False)
    assert gone_of(unplaced) == {Gone("missing.tif", Span(0, SIDE), Span(0, SIDE))}


def test_files_that_show_one_another_end(tmp_path: Path) -> None:
    virtual(tmp_path / "a.vrt", ["b.vrt"])
    virtual(tmp_path / "b.vrt", ["a.vrt"])
    gone_of(tmp_path / "a.vrt")


def warped(tmp_path: Path) -> Path:
    with rasterio.open(flat_sheet(tmp_path / "w.tif", left=100)) as src, WarpedVRT(src, crs=UTM) as through:
        rasterio.shutil.copy(through, tmp_path / "w.vrt", driver="VRT")
    (tmp_path / "w.tif").unlink()
    return tmp_path / "w.vrt"


def test_a_warped_raster_whose_source_is_gone_names_it(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"w\.vrt .* \(it shows .*w\.tif, which is not there\)"):
        Source(locate(warped(tmp_path)))


@pytest.mark.parametrize("change", ["narrower", "other type"])
def test_files_that_are_not_as_a_virtual_raster_says_are_gone(change: str, tmp_path: Path) -> None:
    """GDAL shows black where one has become smaller, and cuts off what another type holds."""
    flat_sheet(tmp_path / "0.tif")
    scene = virtual(tmp_path / "scene.vrt", ["0.tif", "1.tif"])
    properties = f'<SourceProperties RasterXSize="{SIDE}" RasterYSize="{SIDE}" DataType="Byte"/><SrcRect'
    scene.write_text(scene.read_text().replace("<SrcRect", properties))
    flat_sheet(tmp_path / "1.tif", left=SIDE)
    assert gone_of(scene) == set()
    with rasterio.open(tmp_path / "1.tif") as src:
        profile, pixels = src.profile, src.read()
    profile |= {"width": SIDE // 2} if change == "narrower" else {"dtype": "uint16"}
    with rasterio.open(tmp_path / "1.tif", "w", **profile) as dst:
        dst.write(pixels[:, :, : profile["width"]].astype(profile["dtype"]))
    assert gone_of(scene) == {Gone("1.tif", Span(0, SIDE), Span(SIDE, 2 * SIDE))}


@pytest.mark.parametrize("kind", ["missing", "cut", "warped"])
def test_what_is_missing_is_refused_or_nodata_and_listed(kind: str, tmp_path: Path) -> None:
    flat_sheet(tmp_path / "0.tif")
    name = "1.tif"
    if kind == "cut":
        content = flat_sheet(tmp_path / name, left=100).read_bytes()
        (tmp_path / name).write_bytes(content[:100])
    elif kind == "warped":
        name = warped(tmp_path).name
    scene = virtual(tmp_path / "scene.vrt", ["0.tif", name])
    said = "w.tif" if kind == "warped" else "1.tif"
    with pytest.raises(
        SourceError, match=rf"scene.vrt shows 1 file that cannot be opened, or changed \(.*{said}\)"
    ):
        pfmap.predict(scene, tmp_path / "out", model=stand_in(), device="cpu")
    assert not (tmp_path / "out").exists()
    found = pfmap.predict(
        scene, tmp_path / "out", model=stand_in(), device="cpu", on_read_error="nodata", swath_pixels=5000
    )
    with rasterio.open(found.outputs["classes"]) as src:
        assert (src.read(1) == np.repeat([1, 255], SIDE)).all()
    assert found.report["scene"]["unreadable_blocks"] == [[100, 0, 100, 100]]
    assert any(said in text and "nodata" in text for text in found.report["warnings"])


def test_a_tile_index_is_refused(tmp_path: Path) -> None:
    """GDAL shows a tile that is missing as black, at the first read already."""
    tiles = [flat_sheet(tmp_path / f"{number}.tif", left=100 * number) for number in range(2)]
    boxes = [shapely.box(300000 + 50 * k, 2999950, 300050 + 50 * k, 3000000) for k in range(2)]
    frame = gpd.GeoDataFrame({"location": list(map(str, tiles))}, geometry=boxes, crs=UTM)
    frame.to_file(tmp_path / "index.gti.gpkg", driver="GPKG")
    with pytest.raises(SourceError, match="is a tile index"):
        pfmap.predict(tmp_path / "index.gti.gpkg", tmp_path / "out", model=stand_in(), device="cpu")
    behind = shows(tmp_path / "behind.vrt", {"index.gti.gpkg": (0, 200)}, 200, 100)
    with pytest.raises(SourceError, match=r"behind\.vrt shows 1 file .*index\.gti\.gpkg"):
        pfmap.predict(behind, tmp_path / "out", model=stand_in(), device="cpu")
    for reader in (Source, lambda location: ClassMap(location, 1)):  # as training and evaluation read
        with pytest.raises(SourceError, match="is a tile index"):
            reader(locate(tmp_path / "index.gti.gpkg"))


@pytest.mark.parametrize("kind", ["SimpleSource", "ComplexSource"])
def test_what_is_missing_is_in_no_sample(kind: str, tmp_path: Path) -> None:
    flat_sheet(tmp_path / "0.tif")
    virtual(tmp_path / "inner.vrt", ["missing.tif"])
    scene = virtual(tmp_path / "scene.vrt", ["0.tif", "inner.vrt"], kind)
    with Source(locate(scene), skip_unreadable=True) as source:
        source.parts, _ = find_parts(source.info, needed=False)
        for _ in range(2):
            sample = source.sample(values=True)
            assert set(np.unique(sample.pixels[:, sample.valid])) == {120}


def test_places_that_are_no_numbers_are_everywhere(tmp_path: Path) -> None:
    scene = virtual(tmp_path / "scene.vrt", ["missing.tif"])
    scene.write_text(scene.read_text().replace('xOff="0"', 'xOff="left"'))
    assert gone_of(scene) == {Gone("missing.tif", Span(0, SIDE), Span(0, SIDE))}


def cut(path: Path) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    return path


BROKEN: dict[str, Callable[[Path], Path]] = {
    "VRT": lambda folder: virtual(folder / "scene.vrt", ["0.tif"]),
    "VRT, complex": lambda folder: virtual(folder / "scene.vrt", ["0.tif"], "ComplexSource"),
    "GTiff": lambda folder: cut(flat_sheet(folder / "cut.tif")),
    "BMP": lambda folder: cut(noisy(folder / "cut.bmp", "BMP")),
    "JPEG": lambda folder: cut(noisy(folder / "cut.jpg", "JPEG")),
    "PNG": lambda folder: cut(noisy(folder / "cut.png", "PNG")),
}


def noisy(path: Path, driver: str, side: int = 600, **profile: Any) -> Path:
    image = np.random.default_rng(0).integers(0, 256, (3, side, side), dtype=np.uint8)
    with rasterio.open(
        path, "w", driver=driver, width=side, height=side, count=3, dtype="uint8", crs=UTM,
        transform=NORTH_UP, **profile,
    ) as dst:  # fmt: skip
        dst.write(image)
    return path


def spoilt(path: Path) -> Path:
    content = bytearray(path.read_bytes())
    content[-20_000:-18_000] = b"\xff\xd9" * 1000  # ends of images, in the middle of the last
    path.write_bytes(content)
    return path


JPEG = {"compress": "jpeg", "tiled": True, "blockxsize": 304, "blockysize": 304}
BROKEN |= {
    "spoilt JPEG": lambda folder: spoilt(noisy(folder / "spoilt.jpg", "JPEG")),
    "JPEG in TIFF": lambda folder: spoilt(noisy(folder / "spoilt.tif", "GTiff", **JPEG)),
    "JPEG in TIFF, bands apart": lambda folder: spoilt(
        noisy(folder / "spoilt.tif", "GTiff", interleave="band", **JPEG)
    ),
    "JPEG behind a VRT": lambda folder: shows(
        folder / "scene.vrt", {spoilt(noisy(folder / "x.tif", "GTiff", **JPEG)).name: (0, 600)}, 600, 600
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_failed_once_fails_again(kind: str, tmp_path: Path) -> None:
    """GDAL by itself gives black at the second or third time, or what it read before."""
    path = BROKEN[kind](tmp_path)
    with rasterio.open(path) as src:
        window = Window(0, 0 if kind == "BMP" else src.height - 8, src.width, 8)  # from the bottom up
    flat_sheet(tmp_path / "other.tif")
    with rasterio.open(virtual(tmp_path / "other.vrt", ["other.tif"])) as other:
        other.read()  # as long as any is open, GDAL remembers what it could not open, and shows black
        steady = Steady(locate(path))
        for _ in range(4):
            with pytest.raises(GDAL_ERRORS):
                steady.read([1, 2, 3], window=window)
        steady.close()


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_broken_is_so_when_all_of_it_is_read_at_once(kind: str, tmp_path: Path) -> None:
    """GDAL by itself makes up the rest of a PNG that was cut, without a word."""
    with Source(locate(BROKEN[kind](tmp_path))) as source:
        box = source.info.geobox
        with pytest.raises(SourceError, match=r"cannot be read at column \d+, row \d+"):
            source.read(Span(0, box.height), Span(0, box.width))


def test_a_sparse_file_lacks_nothing(tmp_path: Path) -> None:
    path = tmp_path / "sparse.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=300, height=300, count=3, dtype="uint8", crs=UTM, transform=NORTH_UP,
        tiled=True, blockxsize=128, blockysize=128, sparse_ok=True, nodata=0,
    ) as dst:  # fmt: skip
        dst.write(np.full((3, 128, 128), 120, np.uint8), window=((0, 128), (0, 128)))
    found = pfmap.predict(path, tmp_path / "out", model=stand_in(), device="cpu", on_read_error="nodata")
    assert found.report["scene"]["valid_pixels"] == 128 * 128
    assert found.report["scene"]["unreadable_blocks"] == []


def gapped(folder: Path, kind: str, **profile: Any) -> Path:
    """A scene of three tiles side by side that shows nothing in the middle one; black, as GDAL has it."""
    side, name = 128, "0.tif"
    with rasterio.open(
        folder / name, "w", driver="GTiff", width=3 * side, height=side, count=3, dtype="uint8", crs=UTM,
        transform=NORTH_UP, tiled=True, blockxsize=side, blockysize=side, sparse_ok=True, **profile,
    ) as dst:  # fmt: skip
        for left in (0, 2 * side) if "sparse" in kind else (0, side, 2 * side):
            dst.write(np.full((3, side, side), 120, np.uint8), window=Window(left, 0, side, side))
    if kind == "gap":
        return shows(folder / "scene.vrt", {name: (0, side), f"./{name}": (2 * side, 3 * side)})
    if kind == "gap behind another":
        return shows(
            folder / "scene.vrt", {gapped(folder, "gap").rename(folder / "x.vrt").name: (0, 3 * side)}
        )
    return shows(folder / "scene.vrt", {name: (0, 3 * side)}) if "behind" in kind else folder / name


def shows(path: Path, places: dict[str, tuple[int, int]], width: int = 384, height: int = 128) -> Path:
    """A VRT that shows columns of files where they are."""
    bands = ""
    for band in (1, 2, 3):
        bands += f'<VRTRasterBand dataType="Byte" band="{band}">'
        for name, (left, right) in places.items():
            size = f'xOff="{left}" yOff="0" xSize="{right - left}" ySize="{height}"'
            bands += (
                f'<SimpleSource><SourceFilename relativeToVRT="1">{name}</SourceFilename><SourceBand>{band}'
                f"</SourceBand><SrcRect {size}/><DstRect {size}/></SimpleSource>"
            )
        bands += "</VRTRasterBand>"
    place = f"<SRS>{UTM}</SRS><GeoTransform>300000, 0.5, 0, 3000000, 0, -0.5</GeoTransform>"
    path.write_text(f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">{place}{bands}</VRTDataset>')
    return path


@pytest.mark.parametrize("kind", ["files", "tiles"])
def test_damage_that_gdal_meets_in_threads_of_its_own_is_heard(kind: str, tmp_path: Path) -> None:
    """As it would read a VRT of several files, a million pixels at a time, and reads the tiles of a TIFF."""
    scene = spoilt(noisy(tmp_path / "x.tif", "GTiff", 1200, **JPEG))
    if kind == "files":
        name = scene.name
        scene = shows(tmp_path / "scene.vrt", {name: (0, 600), f"./{name}": (600, 1200)}, 1200, 1200)
    with Source(locate(scene)) as source, pytest.raises(SourceError, match="Corrupt JPEG"):
        source.read(Span(0, 1200), Span(0, 1200))


GAPS = ["gap", "gap behind another", "sparse", "sparse, bands apart", "sparse behind another", "sparse sheet"]


@pytest.mark.parametrize("kind", GAPS)
def test_where_nothing_is_shown_there_is_nodata(kind: str, tmp_path: Path) -> None:
    scene = gapped(tmp_path, kind, **({"interleave": "band"} if "apart" in kind else {}))
    if kind == "sparse sheet":
        found = pfmap.batch([scene], tmp_path / "out", model=stand_in(), device="cpu", mosaic=True)
        path = found.scenes[0].result.outputs["classes"]
    else:
        result = pfmap.predict(scene, tmp_path / "out", model=stand_in(), device="cpu")
        path = result.outputs["classes"]
        (said,) = (text for text in result.report["warnings"] if "count as nodata" in text)
        assert "scene.vrt has places" in said or "0.tif has places" in said
        with Source(locate(scene)) as source:
            look_behind(source)
            assert source.sample(values=True).valid_share == pytest.approx(2 / 3, abs=0.01)
            thin = source.thinned(Span(0, 128), Span(64, 384), (32, 80), 1e9)
            assert thin is not None
            assert thin[1].all(axis=0).tolist() == [True] * 16 + [False] * 32 + [True] * 32
    with rasterio.open(path) as src:
        assert (src.read(1) == np.repeat([1, 255, 1], 128)).all()


@pytest.mark.parametrize("kind", ["gap", "sparse"])
def test_what_says_itself_what_is_valid_needs_no_word_on_gaps(kind: str, tmp_path: Path) -> None:
    scene = gapped(tmp_path, kind, nodata=0)
    if kind == "gap":
        text = re.sub(r'(band="\d">)', r"\1<NoDataValue>0</NoDataValue>", scene.read_text())
        scene.write_text(text)
    report = pfmap.predict(scene, tmp_path / "out", model=stand_in(), device="cpu").report
    assert report["scene"]["valid_pixels"] == 128 * 256
    assert not [text for text in report["warnings"] if "count as nodata" in text]


def test_missing_sheets_of_a_mosaic_fail_by_name(tmp_path: Path) -> None:
    survey = tmp_path / "survey"
    survey.mkdir()
    flat_sheet(survey / "a.tif")
    virtual(tmp_path / "b.vrt", ["missing.tif"])
    made = pfmap.batch(
        [survey / "a.tif", tmp_path / "b.vrt"], tmp_path / "out", model=stand_in(), device="cpu", mosaic=True
    )
    assert [(one.sheet.name, "missing.tif" in one.reason) for one in made.scenes if one.reason] == [
        ("b", True)
    ]


def test_errors_in_what_is_read_are_pfmaps_own(tmp_path: Path) -> None:
    with pytest.raises(PfmapError):
        pfmap.predict(
            cut(noisy(tmp_path / "cut.png", "PNG")), tmp_path / "out", model=stand_in(), device="cpu"
        )
