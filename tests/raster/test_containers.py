"""Files that hold several rasters, or none that this GDAL can read, are said to be such."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from conftest import Write, blobs, stand_in

import pfmap
from pfmap.core.errors import SourceError
from pfmap.raster.classmap import ClassMap
from pfmap.raster.extra import glance
from pfmap.raster.location import locate
from pfmap.raster.source import Source


@pytest.fixture
def containers(write_scene: Write, tmp_path: Path) -> Path:
    """A netCDF file of three variables, a TIFF of two pages, and a GeoPackage of two rasters."""
    scene, other = write_scene(blobs(90, 80)), write_scene(blobs(40, 30, seed=1), "other.tif")
    rasterio.shutil.copy(scene, tmp_path / "bands.nc", driver="netCDF")
    for name, driver, tables in (("pages.tif", "GTiff", ("", "")), ("two.gpkg", "GPKG", ("A", "B"))):
        for source, table in zip((other, scene), tables, strict=True):
            options = {"RASTER_TABLE": table} if table else {}
            append = {"APPEND_SUBDATASET": "YES"} if source == scene else {}
            rasterio.shutil.copy(source, tmp_path / name, driver=driver, **options, **append)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "inside"),
    [("bands.nc", "bands.nc:Band1"), ("pages.tif", "GTIFF_DIR:2:"), ("two.gpkg", "two.gpkg:B")],
)
def test_a_file_of_several_rasters_says_their_names(name: str, inside: str, containers: Path) -> None:
    location = locate(containers / name)
    for look in (Source, glance, lambda place: ClassMap(place, None)):
        with pytest.raises(SourceError, match=r"holds \d rasters; name one of them in its place") as refused:
            look(location)
        assert inside.lower() in str(refused.value).lower()


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("NETCDF:{}/bands.nc:Band2", "bands_Band2"),
        ('NETCDF:"{}/bands.nc":Band2', "bands_Band2"),
        ("GTIFF_DIR:2:{}/pages.tif", "pages_2"),
        ("GPKG:{}/two.gpkg:B", "two_B"),
    ],
)
def test_one_of_them_is_mapped_by_gdals_name(
    name: str, stem: str, containers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rasterio.open(containers / "scene.tif") as src:
        place = tuple(src.transform), src.shape
    monkeypatch.chdir(containers.parent)  # names may be relative
    named = name.format(containers.name)
    result = pfmap.predict(named, tmp_path / "out", model=stand_in(), device="cpu", bands=(1, 1, 1))
    assert {path.name.removeprefix(stem)[0] for path in result.outputs.values()} == {"_", "."}
    with rasterio.open(result.outputs["classes"]) as dst:
        assert (tuple(dst.transform), dst.shape) == place
    assert locate(named).absolute().gdal == named.replace(containers.name, str(containers))


def test_a_name_that_only_looks_like_gdals_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "scene.tif").touch()
    for name in (
        "NETCDF:none.nc:a",
        "WMS:example.org",
        f"GTIFF_DIR:9:{tmp_path}/none.tif",
        ":::::::::::",
    ):
        with pytest.raises(SourceError, match="does not exist"):
            locate(name)


def test_a_missing_driver_and_an_archive_are_said(tmp_path: Path, write_scene: Write) -> None:
    (tmp_path / "ortho.ecw").write_bytes(b"\x65\x02\x00\x00" + bytes(400))
    with pytest.raises(SourceError, match=r"no driver for here \(ECW\): convert it to GeoTIFF"):
        glance(locate(tmp_path / "ortho.ecw"))
    write_scene(np.zeros((3, 20, 20), np.uint8))
    archive = shutil.make_archive(str(tmp_path / "delivery"), "tar", tmp_path, "scene.tif")
    with pytest.raises(SourceError, match=r"is an archive: .* as /vsitar/.*delivery\.tar/scene\.tif"):
        glance(locate(archive))
    assert glance(locate(f"/vsitar/{archive}/scene.tif")).width == 20
