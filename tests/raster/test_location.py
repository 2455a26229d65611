"""Where scenes are: names as users write them, and what GDAL opens for them."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import Write, blobs

from pfmap.core.errors import SourceError
from pfmap.raster.location import ask_server, locate


def test_what_is_located_is_what_gdal_opens(write_scene: Write, tmp_path: Path) -> None:
    """A file, the only raster of an archive, and one that is named in it: rasterio reads the same pixels."""
    image = blobs(20, 30)
    scene = write_scene(image)
    with zipfile.ZipFile(tmp_path / "one.zip", "w") as archive:
        archive.write(scene, "deep/scene.tif")
        archive.writestr("deep/readme.txt", "no raster")
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.write(scene, "a.tif")
        archive.write(scene, "b.tif")
    two = tmp_path / "two.zip"
    for name in (scene, tmp_path / "one.zip", two / "b.tif", f"/vsizip/{two}/a.tif"):
        with rasterio.open(locate(name).gdal) as src:
            assert np.array_equal(src.read(), image)
    inside = locate(two / "b.tif")
    assert (inside.stem, inside.folder, inside.local) == ("b", tmp_path, two)
    with pytest.raises(SourceError, match=r"two\.zip holds 2 rasters \(a\.tif, b\.tif\)"):
        locate(two)


@pytest.mark.parametrize(
    ("name", "vsi", "stem"),
    [
        ("https://host/a/scene.tif?key=1", "/vsicurl/https://host/a/scene.tif?key=1", "scene"),
        ("s3://bucket/a/scene.tif", "/vsis3/bucket/a/scene.tif", "scene"),
        ("gs://bucket/scene.tif", "/vsigs/bucket/scene.tif", "scene"),
        ("AZ://container/scene.tif", "/vsiaz/container/scene.tif", "scene"),
        ("/vsis3/bucket/scene.tif", "/vsis3/bucket/scene.tif", "scene"),
    ],
)
def test_addresses_are_remote_and_have_a_name_for_every_program(name: str, vsi: str, stem: str) -> None:
    found = locate(name)
    assert (found.remote, found.local, found.vsi, found.stem) == (True, None, vsi, stem)
    assert found.folder == Path()
    assert found.absolute() == found


def test_a_path_is_made_absolute_for_processes_elsewhere(
    write_scene: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scene(blobs(20, 30))
    monkeypatch.chdir(tmp_path)
    found = locate("scene.tif")
    assert (found.text, found.gdal, found.folder) == ("scene.tif", "scene.tif", Path())
    assert found.absolute().gdal == found.absolute().text == str(tmp_path / "scene.tif")


def test_what_is_no_scene_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.zip").write_bytes(b"no archive")
    os.mkfifo(tmp_path / "pipe.tif")
    for name, words in (
        (tmp_path, "is a folder"), (tmp_path / "none.tif", "does not exist"),
        (tmp_path / "bad.zip", "not a zip archive"), ("a\0b", "does not exist"),
        (tmp_path / "pipe.tif", "is a pipe or a device"),
    ):  # fmt: skip
        with pytest.raises(SourceError, match=words):
            locate(name)
    assert ask_server(locate("s3://bucket/scene.tif")) == {}
