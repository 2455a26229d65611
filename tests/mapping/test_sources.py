"""Scenes wherever they are: archives, mosaics, servers, odd names, folders that cannot be written."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from commands import HANG, PFMAP, interruptible
from conftest import NORTH_UP, UTM, Write, blobs, pointwise_reference, stand_in
from range_server import served

import pfmap
from pfmap.core.errors import SourceError

NODATA = 255


def mapped(scene: Path | str, out: Path, **options: Any) -> Any:
    result = pfmap.predict(scene, out, model=stand_in(), device="cpu", **options)
    with rasterio.open(result.outputs["classes"]) as src:
        return src.read(1)


def test_from_a_server_only_the_needed_blocks_are_fetched(write_scene: Write, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 2048, 2048), dtype=np.uint8)
    scene = write_scene(
        image, tiled=True, blockxsize=256, blockysize=256, compress="deflate", interleave="pixel"
    )
    x, y = NORTH_UP @ (300, 300)
    x1, y1 = NORTH_UP @ (500, 500)
    with served(tmp_path) as url:
        classes = mapped(f"{url}/scene.tif", tmp_path / "out", bbox=(x, y1, x1, y))
    difference = classes != pointwise_reference(image)[300:500, 300:500]
    assert difference.mean() < 0.002  # noise: a few pixels are ties
    sent = sum(map(int, (tmp_path / "sent.log").read_text().split()))
    assert sent < 0.35 * scene.stat().st_size
    assert (tmp_path / "out" / "scene_classes.tif").exists()


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_buckets_are_read_with_gdals_own_settings(
    scheme: str, write_scene: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"bucket-{scheme}").mkdir()
    image = blobs(300, 310)
    write_scene(image, f"bucket-{scheme}/scene.tif", tiled=True, blockxsize=128, blockysize=128)
    if scheme == "az":  # its server asks for the token
        (tmp_path / "key").write_text("sig=K")
    with served(tmp_path) as url:
        settings = {
            "s3": {
                "AWS_S3_ENDPOINT": url.removeprefix("http://"), "AWS_HTTPS": "NO",
                "AWS_VIRTUAL_HOSTING": "FALSE", "AWS_NO_SIGN_REQUEST": "YES",
            },
            "gs": {"CPL_GS_ENDPOINT": f"{url}/", "GS_NO_SIGN_REQUEST": "YES"},
            "az": {
                "CPL_AZURE_ENDPOINT": url, "AZURE_STORAGE_ACCOUNT": "me", "AZURE_STORAGE_SAS_TOKEN": "sig=K",
            },
        }[scheme]  # fmt: skip
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        classes = mapped(f"{scheme}://bucket-{scheme}/scene.tif", tmp_path / "out")
    assert np.array_equal(classes, pointwise_reference(image))


@pytest.mark.slow
def test_a_server_that_vanishes_is_a_clear_error(write_scene: Write, tmp_path: Path) -> None:
    image = blobs(1024, 1024, smooth=30)
    write_scene(image, tiled=True, blockxsize=256, blockysize=256, interleave="pixel")
    with served(tmp_path) as url:

        def on_progress(done: int, total: int) -> None:
            if done > total / 4:
                (tmp_path / "broken").touch()

        with pytest.raises(SourceError, match=r"gone|went away") as caught:  # the latter if all was read
            mapped(f"{url}/scene.tif", tmp_path / "out", on_progress=on_progress, swath_pixels=100_000)
        assert "\n" not in str(caught.value)
        kept = {p.name for p in (tmp_path / "out").iterdir()}
        assert kept == {".scene.pfmap"}
        (tmp_path / "broken").unlink()
        said: list[str] = []
        result = pfmap.predict(
            f"{url}/scene.tif", tmp_path / "out", model=stand_in(), device="cpu", swath_pixels=100_000,
            on_message=said.append,
        )  # fmt: skip
    assert result.report["swaths"]["from_earlier_runs"] >= 1
    assert any("going on after" in line for line in said)


def test_a_remote_scene_that_changed_is_mapped_afresh(write_scene: Write, tmp_path: Path) -> None:
    scene = write_scene(blobs(300, 300, smooth=20), tiled=True, blockxsize=128, blockysize=128)
    options: dict[str, Any] = {"model": stand_in(), "device": "cpu", "swath_pixels": 1}

    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise InterruptedError

    said: list[str] = []
    with served(tmp_path) as url:
        with pytest.raises(InterruptedError):
            pfmap.predict(f"{url}/scene.tif", tmp_path / "out", on_progress=stop, **options)
        os.utime(scene, (10**9, 10**9))
        result = pfmap.predict(f"{url}/scene.tif", tmp_path / "out", on_message=said.append, **options)
    assert any("the scene changed" in line for line in said)
    assert result.report["swaths"]["from_earlier_runs"] == 0


def test_ctrl_c_is_heeded_while_a_server_keeps_silent(tmp_path: Path) -> None:
    """It takes the connection, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/scene.tif"
        command = [
            PFMAP,
            "predict",
            address,
            "-o",
            str(tmp_path / "out"),
        ]
        process = subprocess.Popen(interruptible(*command), stderr=subprocess.PIPE, text=True)
        connection, _ = silent.accept()
        with connection:
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=HANG)
        silent.setblocking(False)
        with pytest.raises(
            BlockingIOError
        ):  # nobody asked a second time, as GDAL does when it gives up waiting
            silent.accept()
    assert process.returncode == 130
    assert "Traceback" not in error


def test_a_server_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/scene.tif"
    with pytest.raises(SourceError, match="server does not answer"):
        mapped(address, tmp_path / "out")


def test_a_missing_remote_scene_is_a_clear_error(tmp_path: Path) -> None:
    with served(tmp_path) as url, pytest.raises(SourceError, match="cannot be opened"):
        mapped(f"{url}/missing.tif", tmp_path / "out")


@pytest.mark.parametrize("how", ["archive", "inner path", "vsizip"])
def test_archives_are_opened_in_place(how: str, write_scene: Write, tmp_path: Path) -> None:
    image = blobs(90, 100)
    scene = write_scene(image)
    archive = tmp_path / "delivery 1.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as content:
        content.write(scene, "ortho/scene.tif")
        content.writestr("readme.txt", "text")
    scene.unlink()
    name = {
        "archive": archive,
        "inner path": archive / "ortho" / "scene.tif",
        "vsizip": f"/vsizip/{archive}/ortho/scene.tif",
    }[how]
    out = tmp_path if how != "vsizip" else tmp_path / "out"
    assert np.array_equal(mapped(name, out), pointwise_reference(image))
    assert (out / "scene_classes.tif").exists()


def test_archives_with_several_rasters_want_a_name(tmp_path: Path) -> None:
    archive = tmp_path / "many.zip"
    with zipfile.ZipFile(archive, "w") as content:
        content.writestr("a.tif", "")
        content.writestr("b.tif", "")
    with pytest.raises(SourceError, match=r"2 rasters \(a.tif, b.tif\).*many.zip/a.tif"):
        mapped(archive, tmp_path)
    (tmp_path / "no.zip").write_bytes(b"nothing")
    with pytest.raises(SourceError, match="not a zip archive"):
        mapped(tmp_path / "no.zip", tmp_path)


VRT = """<VRTDataset rasterXSize="{width}" rasterYSize="{height}"><SRS>{crs}</SRS>
<GeoTransform>300000, 0.5, 0, 3000000, 0, -0.5</GeoTransform>{bands}</VRTDataset>"""
BAND = """<VRTRasterBand dataType="Byte" band="{band}"><ColorInterp>{color}</ColorInterp>
<NoDataValue>0</NoDataValue>{sources}</VRTRasterBand>"""
SOURCE = """<ComplexSource><SourceFilename relativeToVRT="1">{name}</SourceFilename>
<SourceBand>{band}</SourceBand><SrcRect xOff="0" yOff="0" xSize="100" ySize="100"/>
<DstRect xOff="{x}" yOff="{y}" xSize="100" ySize="100"/><NODATA>0</NODATA></ComplexSource>"""


def test_mosaics_of_sheets_are_one_scene(write_scene: Write, tmp_path: Path) -> None:
    image = np.zeros((3, 300, 400), dtype=np.uint8)
    sheets = [(row, col) for row in range(3) for col in range(4) if (row, col) != (1, 2)]
    for row, col in sheets:
        part = blobs(100, 100, seed=row * 4 + col)
        image[:, row * 100 : row * 100 + 100, col * 100 : col * 100 + 100] = part
        write_scene(
            part, f"sheet_{row}_{col}.tif", transform=NORTH_UP @ Affine.translation(col * 100, row * 100)
        )
    bands = "".join(
        BAND.format(
            band=band,
            color=color,
            sources="".join(
                SOURCE.format(name=f"sheet_{row}_{col}.tif", band=band, x=col * 100, y=row * 100)
                for row, col in sheets
            ),
        )
        for band, color in enumerate(("Red", "Green", "Blue"), 1)
    )
    (tmp_path / "mosaic.vrt").write_text(VRT.format(width=400, height=300, crs=UTM, bands=bands))
    classes = mapped(tmp_path / "mosaic.vrt", tmp_path / "out")
    expected = pointwise_reference(image)
    expected[100:200, 200:300] = NODATA
    assert np.array_equal(classes, expected)


def test_python_in_a_mosaic_is_never_run(tmp_path: Path, write_scene: Write) -> None:
    write_scene(blobs(100, 100), "sheet_0_0.tif")
    witness = tmp_path / "witness"
    code = f"<![CDATA[\nimport pathlib\npathlib.Path({str(witness)!r}).touch()\ndef f(*args): pass\n]]>"
    band = (
        '<VRTRasterBand dataType="Byte" band="{band}" subClass="VRTDerivedRasterBand">'
        "<PixelFunctionType>f</PixelFunctionType><PixelFunctionLanguage>Python</PixelFunctionLanguage>"
        f"<PixelFunctionCode>{code}</PixelFunctionCode>"
        + SOURCE.format(name="sheet_0_0.tif", band=1, x=0, y=0)
        + "</VRTRasterBand>"
    )
    bands = "".join(band.replace("{band}", str(number)) for number in (1, 2, 3))
    (tmp_path / "evil.vrt").write_text(VRT.format(width=100, height=100, crs=UTM, bands=bands))
    os.environ["GDAL_VRT_ENABLE_PYTHON"] = "YES"  # even if the user's shell allows it
    try:
        with pytest.raises(SourceError):
            mapped(tmp_path / "evil.vrt", tmp_path / "out")
    finally:
        del os.environ["GDAL_VRT_ENABLE_PYTHON"]
    assert not witness.exists()


@pytest.mark.parametrize("name", ["scene 1.tif", "Übersicht–Süd.tif", "航空写真.tif", "a'b&c#d,e.tif"])
def test_names_of_any_kind(name: str, write_scene: Write, tmp_path: Path) -> None:
    image = blobs(80, 90)
    assert np.array_equal(mapped(write_scene(image, name), tmp_path), pointwise_reference(image))
    assert (tmp_path / f"{Path(name).stem}_objects.gpkg").exists()


def test_names_that_writers_of_vector_files_trip_over_are_refused_at_once(
    write_scene: Write, tmp_path: Path
) -> None:
    with pytest.raises(pfmap.PfmapError, match=r"; in its name.*rename the scene"):
        mapped(write_scene(blobs(80, 90), "a;b.tif"), tmp_path)


def test_links_are_followed_and_name_the_outputs(write_scene: Write, tmp_path: Path) -> None:
    image = blobs(80, 90)
    scene = write_scene(image)
    link = tmp_path / "links" / "survey.tif"
    link.parent.mkdir()
    link.symlink_to(scene)
    assert np.array_equal(mapped(link, link.parent), pointwise_reference(image))
    assert (link.parent / "survey_classes.tif").exists()


def test_a_huge_sparse_bigtiff_is_mapped_where_it_is_wanted(tmp_path: Path) -> None:
    scene = tmp_path / "huge.tif"
    image = blobs(150, 200)
    with rasterio.open(
        scene, "w", driver="GTiff", width=150_000, height=90_000, count=3, dtype="uint8", tiled=True,
        crs=UTM, transform=NORTH_UP, bigtiff="yes", sparse_ok=True, compress="deflate", interleave="pixel",
    ) as dst:  # fmt: skip
        dst.write(image, window=((70_000, 70_150), (140_000, 140_200)))
    x, y = NORTH_UP @ (140_000, 70_000)
    x1, y1 = NORTH_UP @ (140_200, 70_150)
    classes = mapped(scene, tmp_path / "out", bbox=(x, y1, x1, y))
    assert np.array_equal(classes, pointwise_reference(image))


def test_a_folder_that_cannot_be_written_wants_another(write_scene: Write, tmp_path: Path) -> None:
    """The rights of a folder mean nothing to root, so something else stands in the way."""
    scene = write_scene(blobs(80, 90))
    (tmp_path / ".scene.pfmap").write_text("in the way")
    with pytest.raises(pfmap.PfmapError, match=r"cannot be written.*output_dir="):
        mapped(scene, tmp_path)
    assert mapped(scene, tmp_path / "out").shape == (80, 90)


READ_ONLY = """
import subprocess, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from conftest import stand_in
import pfmap
folder, out = Path(sys.argv[2]), Path(sys.argv[3])
subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
try:
    pfmap.predict(folder / "scene.tif", model=stand_in(), device="cpu")
except pfmap.PfmapError as error:
    print(error)
print(pfmap.predict(folder / "scene.tif", out, model=stand_in(), device="cpu").outputs["classes"].exists())
"""


def test_scenes_in_read_only_folders_are_mapped_elsewhere(write_scene: Write, tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-Urm", "true"], check=False).returncode:
        pytest.skip("this system lets nobody mount a file system of their own")
    folder = tmp_path / "archive"
    folder.mkdir()
    write_scene(blobs(80, 90), "archive/scene.tif")
    script = [
        sys.executable,
        "-c",
        READ_ONLY,
        str(Path(__file__).parents[1]),
        str(folder),
        str(tmp_path / "out"),
    ]
    done = subprocess.run([unshare, "-Urm", *script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    refusal, written = done.stdout.splitlines()
    assert "cannot be written (Read-only file system)" in refusal
    assert "output_dir=" in refusal
    assert written == "True"
    assert [p.name for p in folder.iterdir()] == ["scene.tif"]


def test_a_name_that_no_file_can_have_is_a_clear_error(tmp_path: Path) -> None:
    for name in ("a" * 5000, "nul\0byte.tif", ""):
        with pytest.raises(SourceError):
            mapped(name, tmp_path)
