"""Map services, as tiles, WMTS and WMS: a part of one is mapped as if it were a file."""

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from conftest import stand_in
from rasterio.io import MemoryFile
from rasterio.warp import transform_bounds
from rasterio.windows import Window
from tile_server import EDGE, SIDE, Server, picture, serving, tile_bounds

import pfmap
from pfmap.core.errors import HIDDEN, SourceError, UsageError, quietly
from pfmap.mapping.options import PredictOptions
from pfmap.mapping.services import cut_out
from pfmap.raster import gdal
from pfmap.raster.gdal import opened
from pfmap.raster.location import locate

ZOOM, LEFT, TOP = 20, 773388, 440482
BOX = (100, 150, 420, 410)  # columns and rows of the scene: 2 x 2 tiles
OPTIONS: dict[str, Any] = {"device": "cpu", "bbox_crs": "EPSG:4326"}
BANEPA = Path(__file__).parents[2] / "examples" / "banepa.tif"
TILES = "{z}/{x}/{y}.png"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    with rasterio.open(BANEPA) as src:
        profile = {"width": 1024, "height": 1024, "compress": "deflate", "photometric": "rgb"}
        with rasterio.open(folder / "scene.tif", "w", **src.profile | profile) as dst:
            dst.write(src.read(window=Window(0, 0, 1024, 1024)))
    with serving(folder) as server:
        yield server


@pytest.fixture
def server(running: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(gdal, "_WAITS", (0.01, 0.01, 0.01))
    running.answer()
    running.asked()
    return running


def box(left: int, top: int, right: int, bottom: int) -> tuple[float, ...]:
    """Columns and rows of the scene as longitudes and latitudes."""
    pixel = 2 * EDGE / SIDE / 2**ZOOM
    west, north = LEFT * SIDE * pixel - EDGE, EDGE - TOP * SIDE * pixel
    bounds = west + left * pixel, north - bottom * pixel, west + right * pixel, north - top * pixel
    return transform_bounds("EPSG:3857", "EPSG:4326", *bounds)


def mapped(scene: str | Path, out: Path, **options: Any) -> tuple[Any, Any, pfmap.predict]:
    result = pfmap.predict(scene, out, **{"model": stand_in(), "bbox": box(*BOX), **OPTIONS, **options})
    with rasterio.open(result.outputs["classes"]) as src:
        return src.read(1), src.transform, result


def as_file(server: Server, path: Path, kind: str) -> Path:
    """Put the tiles of the box together in a file."""
    image = np.zeros((3, 2 * SIDE, 2 * SIDE), np.uint8)
    for y in (0, 1):
        for x in (0, 1):
            content = picture(server.scene, tile_bounds(ZOOM, LEFT + x, TOP + y), SIDE, SIDE, kind)
            with quietly(), MemoryFile(content) as file, file.open() as tile:
                image[:, y * SIDE : (y + 1) * SIDE, x * SIDE : (x + 1) * SIDE] = tile.read((1, 2, 3))
    with rasterio.open(server.scene) as src:
        profile = src.profile | {"width": 2 * SIDE, "height": 2 * SIDE}
    with rasterio.open(path, "w", **profile) as dst:
        dst.write(image)
    return path


@pytest.mark.parametrize("kind", ["png", "jpg", "tms", "wmts", "wms", "xml"])
def test_a_part_of_a_service_is_mapped_as_the_same_pixels_of_a_file(
    kind: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no tile is asked for that is not wanted, or twice; nor is one kept."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    scale = {} if kind in ("wmts", "wms", "xml") else {"gsd": 0.14}
    address = {
        "png": f"{server.url}/{TILES}",
        "jpg": f"{server.url}/{{z}}/{{x}}/{{y}}.jpg",
        "tms": f"{server.url}/tms/{{z}}/{{x}}/{{-y}}.png",
        "wmts": f"WMTS:{server.url}/wmts.xml,layer=scene",
        "wms": f"WMS:{server.url}/wms?SERVICE=WMS&VERSION=1.1.1&REQUEST=GetMap&LAYERS=scene&SRS=EPSG:3857"
        f"&BBOX={','.join(map(str, tile_bounds(ZOOM - 2, LEFT // 4, TOP // 4)))}"
        f"&MINRESOLUTION={2 * EDGE / SIDE / 2**ZOOM}&FORMAT=image/png&TRANSPARENT=TRUE",
        "xml": "service.xml",
    }[kind]
    described = gdal_tiles(server).replace("<Projection>", "<Cache/><Projection>")
    (tmp_path / "service.xml").write_text(described)
    classes, transform, result = mapped(address, Path("out"), **scale)
    tiles = [path for path in server.asked() if "/20/" in path or "/wms?" in path]
    assert len(set(tiles)) == (1 if kind == "wms" else 4)
    assert len(tiles) <= len(set(tiles)) + 1  # one is looked at before GDAL is sent there
    whole = as_file(server, tmp_path / "whole.tif", "jpg" if kind == "jpg" else "png")
    expected, grid, _ = mapped(whole, tmp_path / "file")
    assert np.array_equal(classes, expected)
    assert len(np.unique(classes)) == 3
    assert np.allclose(transform, grid, rtol=0, atol=1e-3)
    stem = {"wmts": "127.0.0.1_scene", "wms": "127.0.0.1_scene", "xml": "service"}.get(kind, "127.0.0.1")
    assert result.outputs["classes"].name == f"{stem}_classes.tif"
    assert sum("its licence allows" in text for text in result.report["warnings"]) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"out", "file", "service.xml", "whole.tif"}


def gdal_tiles(server: Server) -> str:
    """A description of the tiles that GDAL understands."""
    from pfmap.raster.layout import tiles

    return tiles(f"{server.url}/{TILES}", ZOOM, "a test")


@pytest.mark.parametrize(
    ("gsd", "zoom"), [(0.14, 20), (0.1324, 20), (0.2, 20), (0.2649, 19), (0.27, 19), (1.06, 17), (1e6, 0)]
)
def test_the_zoom_is_the_coarsest_that_is_as_fine_on_the_ground(
    gsd: float, zoom: int, server: Server
) -> None:
    options = PredictOptions.of(bbox=box(*BOX), bbox_crs="EPSG:4326", gsd=gsd)
    location, left, (said,) = cut_out(locate(f"{server.url}/{TILES}"), options)
    with opened(location) as src:
        assert src.transform.a == pytest.approx(2 * EDGE / SIDE / 2**zoom)
    assert f"zoom {zoom}, " in said
    assert left.gsd is None


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        (TILES, {"bbox": None, "bbox_crs": None}, r"shows the world.*bbox=.*bbox_crs='EPSG:4326'"),
        (TILES, {"bbox_crs": None}, "needs bbox_crs='EPSG:4326'"),
        (TILES, {"gsd": None}, "many zooms.*gsd=METRES"),
        (TILES, {"gsd": 0.001}, r"gsd=0.001 is finer than tiles.*zoom 22 is gsd=0.033 "),
        (TILES, {"bbox_crs": "EPSG:9"}, "bbox_crs='EPSG:9' cannot be brought into the CRS"),
        (TILES, {"bbox": (0.0, 80.0, 1.0, 95.0)}, "reaches beyond"),
        ("{s}/{z}/{x}/{y}.png", {}, r"is no address of tiles.*place of \{s\} name one"),
        ("{q}.png", {}, "is no address of tiles"),
        ("{z}/{x}.png", {}, "is no address of tiles"),
        ("{z}/{x}/{y}/{-y}.png", {}, "is no address of tiles"),
    ],
)
def test_what_is_missing_is_said_before_any_server_is_asked(
    name: str, options: dict[str, Any], said: str, server: Server, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=said):
        mapped(f"{server.url}/{name}", tmp_path, **{"gsd": 0.14, **options})
    assert server.asked() == []
    assert [*tmp_path.iterdir()] == []


def test_a_whole_world_is_not_mapped(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="268,435,456 pixels: only a part can be mapped"):
        mapped(f"WMTS:{server.url}/wmts.xml,layer=scene", tmp_path, bbox=None, bbox_crs=None)


def test_a_zoom_that_a_server_does_not_have_is_said_with_the_one_it_has(
    server: Server, tmp_path: Path
) -> None:
    with pytest.raises(
        SourceError, match=r"no tiles at zoom 22, 0.033 m.*zoom 20, which is gsd=0.132"
    ) as error:
        mapped(f"{server.url}/{TILES}", tmp_path, gsd=0.04)
    assert mapped(f"{server.url}/{TILES}", tmp_path, gsd=float(str(error.value)[-5:]))[0].shape == (260, 320)


def test_tiles_that_are_missing_are_nodata(server: Server, tmp_path: Path) -> None:
    """West of the scene there are none; a part of what is wanted is not beyond the server's zooms."""
    classes, *_ = mapped(f"{server.url}/{TILES}", tmp_path, bbox=box(-300, 100, 60, 200), gsd=0.14)
    assert classes.shape == (100, 360)
    assert (classes[:, :300] == 255).all()
    assert (classes[:, 300:] != 255).all()


def test_an_area_in_a_file_will_do_in_place_of_a_box(server: Server, tmp_path: Path) -> None:
    west, south, east, north = box(*BOX)
    corners = [[west, south], [east, south], [east, north], [west, south]]
    (tmp_path / "area.geojson").write_text(f'{{"type": "Polygon", "coordinates": [{corners}]}}')
    area = str(tmp_path / "area.geojson")
    classes, *_ = mapped(f"{server.url}/{TILES}", tmp_path, bbox=None, bbox_crs=None, aoi=area, gsd=0.14)
    assert classes.shape == (260, 320)
    assert 0.45 < (classes != 255).mean() < 0.55


@pytest.mark.parametrize(
    ("mode", "said"),
    [("500", "answers 500"), ("403", "answers 403"), ("drop", "Empty reply"), ("hang", "too slow")],
)
def test_a_server_that_fails_in_the_middle_ends_the_run_and_it_goes_on(
    mode: str, said: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(gdal._REMOTE_SETTINGS, "GDAL_HTTP_LOW_SPEED_TIME", "1")
    address, lines = f"{server.url}/{TILES}?key=", list[str]()
    # The window makes the most of few tiles: each row of windows needs one more of them.
    wanted = {"bbox": box(0, 0, 256, 1024), "gsd": 0.14, "swath_pixels": 1, "model": stand_in(window=128)}
    monkeypatch.setattr("pfmap.raster.source._FEW", 1)  # not all tiles are seen in samples
    server.answer(f"{mode} 3")
    with pytest.raises(SourceError, match=f"{said}.*same command again later") as error:
        mapped(f"{address}s3cr3tWORD-of-16", tmp_path, on_message=lines.append, **wanted)
    assert "s3cr3t" not in "".join([str(error.value), *lines])
    assert 4 in Counter(server.asked()).values()  # GDAL asks once, and pfmap has it ask three times more
    assert [path.name for path in tmp_path.iterdir()] == [".127.0.0.1.pfmap"]
    server.answer()
    _, _, result = mapped(f"{address}renewedWORD-of-16", tmp_path, **wanted)
    assert result.report["swaths"]["from_earlier_runs"] > 0
    assert result.report["scene"]["path"] == f"{server.url}/{TILES}?{HIDDEN}"
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"WORD" in path.read_bytes()]


def test_a_hiccup_of_a_server_is_waited_for(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gdal, "_WAITS", (0.1,) * 50)
    server.answer("503")
    threading.Timer(0.5, server.answer).start()
    assert mapped(f"{server.url}/{TILES}", tmp_path, gsd=0.14)[0].shape == (260, 320)
    assert len(server.asked()) > 5


def test_a_server_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    for name, options in (
        (f"http://127.0.0.1:9/{TILES}", {"gsd": 0.14}),
        ("WMTS:http://127.0.0.1:9/x.xml", {}),
    ):
        with pytest.raises(SourceError, match="the server does not answer"):
            mapped(name, tmp_path, **options)


def test_a_service_that_lies_in_a_folder_is_not_asked(server: Server, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.xml", "b.tif", "c.wms"):
        (tmp_path / "in" / name).write_text(gdal_tiles(server))
    options: dict[str, Any] = {"model": stand_in(), "bbox": box(*BOX), **OPTIONS}
    made = pfmap.predict_all(tmp_path / "in", tmp_path / "out", pattern="*", **options)
    assert [one.reason.partition("; ")[2][:39] for one in made if one.sheet.name != "b"] == [
        "a file in a folder that leads to others"
    ] * 2
    assert [one.sheet.name for one in made if one.reason] == ["a", "b", "c"]
    assert server.asked() == []


def test_a_survey_may_have_a_part_of_a_service_among_its_scenes(server: Server, tmp_path: Path) -> None:
    scene = as_file(server, tmp_path / "scene.tif", "png")
    sources = [scene, f"{server.url}/{TILES}?token=s3cr3tWORD-of-16"]
    made = pfmap.batch(sources, tmp_path / "out", model=stand_in(), bbox=box(*BOX), gsd=0.1493, **OPTIONS)
    assert [one.reason for one in made.scenes] == ["", ""]
    assert len({one.result.report["scene"]["valid_pixels"] for one in made.scenes if one.result}) == 1
