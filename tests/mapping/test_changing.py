"""A scene that changes while it is mapped is refused: its map would show some of before and some of after."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import stand_in
from runs import small_model
from sheets import SIDE, flat_sheet, virtual

import pfmap
from pfmap.core.errors import SourceError
from pfmap.model.store import WEIGHTS_NAME, file_hash


def rewritten(path: Path) -> None:
    with rasterio.open(path, "r+") as dst:
        dst.write(np.full((3, SIDE, SIDE), 240, np.uint8))


def rewritten_in_secret(path: Path) -> None:
    """As long as before, and with its old time."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-1000:] = bytes(1000)
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(path: Path) -> None:
    flat_sheet(path.with_name("new.tif"), value=240).replace(path)


def with_side_file(ending: str) -> Callable[[Path], None]:
    def add(path: Path) -> None:
        flat_sheet(path.with_name("new.tif"), value=0).rename(f"{path}{ending}")

    return add


CHANGES: dict[str, Callable[[Path], None]] = {
    "rewritten": rewritten,
    "rewritten in secret": rewritten_in_secret,
    "replaced": replaced,
    "a mask": with_side_file(".msk"),
    "deleted": Path.unlink,
}


@pytest.mark.parametrize("what", ["scene", "part", "part of a part"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_scene_that_changes_while_it_is_mapped_is_refused(change: str, what: str, tmp_path: Path) -> None:
    scene = part = flat_sheet(tmp_path / "scene.tif")
    if what != "scene":
        scene = virtual(tmp_path / "outer.vrt", ["scene.tif", "scene.tif"])
    if what == "part of a part":
        scene = virtual(tmp_path / "outest.vrt", ["outer.vrt"])
    done = False

    def on_progress(_done: int, _total: int) -> None:
        nonlocal done
        if not done:
            CHANGES[change](part)
            done = True

    with pytest.raises(SourceError, match=r"while it was mapped|cannot be read"):
        pfmap.predict(scene, tmp_path / "out", model=stand_in(), device="cpu", on_progress=on_progress)
    assert done
    assert [path.name for path in (tmp_path / "out").glob("*") if not path.name.startswith(".")] == []


def test_a_scene_that_is_only_looked_at_is_mapped(tmp_path: Path) -> None:
    scene = flat_sheet(tmp_path / "scene.tif")
    pfmap.predict(
        scene,
        tmp_path / "out",
        model=stand_in(),
        device="cpu",
        on_progress=lambda *_: scene.read_bytes() and None,
    )


def test_the_report_names_the_weights_that_were_loaded(tmp_path: Path) -> None:
    """Another file may have taken their place since."""
    model = small_model(tmp_path / "model", seed=0)
    loaded = file_hash(tmp_path / "model" / WEIGHTS_NAME)
    small_model(tmp_path / "model", seed=1)
    assert file_hash(tmp_path / "model" / WEIGHTS_NAME) != loaded
    scene = flat_sheet(tmp_path / "scene.tif")
    report = pfmap.predict(scene, tmp_path / "out", model=model, device="cpu").report
    assert report["model"]["sha256"] == loaded
