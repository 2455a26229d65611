"""Whatever breaks in mid-run: one clear line, nothing under a final name, and a rerun goes on from there."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import forks
import numpy as np
import pytest
import rasterio
import torch
from commands import HANG
from conftest import Pointwise, Write, blobs, pointwise_reference, stand_in
from torch import Tensor, nn

import pfmap
from pfmap.core.errors import DeviceError, SourceError, TargetError
from pfmap.raster.source import Source

NODATA = 255
TILED: dict[str, Any] = {
    "tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate", "interleave": "pixel",
}  # fmt: skip


def read(path: Path) -> Any:
    with rasterio.open(path) as src:
        return src.read(1)


class SmallMemory(nn.Module):
    """A device on which only so many windows fit: beyond, torch's own error."""

    def __init__(self, fits: int) -> None:
        super().__init__()
        self.inner, self.fits, self.batches = Pointwise(3), fits, []

    def forward(self, image: Tensor) -> Tensor:
        self.batches.append(len(image))
        if len(image) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.inner(image)


@pytest.mark.parametrize(("fits", "batches"), [(1, {8, 4, 2, 1}), (3, {8, 4, 2}), (8, {8})])
def test_out_of_memory_halves_the_batch_and_goes_on(
    fits: int, batches: set[int], write_scene: Write, tmp_path: Path
) -> None:
    image = blobs(200, 300)
    network = SmallMemory(fits)
    said: list[str] = []
    result = pfmap.predict(
        write_scene(image), tmp_path, model=stand_in(network=network), device="cpu", batch_size=8,
        on_message=said.append,
    )  # fmt: skip
    assert np.array_equal(read(result.outputs["classes"]), pointwise_reference(image))
    assert set(network.batches) == batches
    passes = torch.get_num_threads() + 1  # at a time: each may try the size that the others find too large
    assert network.batches.count(8) <= passes if fits < 8 else set(network.batches) == {8}
    assert result.report["options"]["batch_size"] == min(batches)
    assert sum("ran out of memory" in line for line in said) == len(batches) - 1


def test_out_of_memory_with_a_single_window_says_what_to_do(write_scene: Write, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"single window per pass.*device='cpu'"):
        pfmap.predict(
            write_scene(blobs(200, 300)),
            tmp_path / "out",
            model=stand_in(network=SmallMemory(0)),
            device="cpu",
        )
    assert list((tmp_path / "out").iterdir()) == []


def test_overlaps_that_do_not_fit_on_the_device_say_what_to_do(
    write_scene: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("pfmap.mapping.blend.Blender.add_side_by_side", fail)
    with pytest.raises(DeviceError, match=r"overlaps of a scene this wide: lower overlap="):
        pfmap.predict(write_scene(blobs(200, 300)), tmp_path, model=stand_in(), device="cpu")


def damage(scene: Path, col: int, row: int) -> None:
    """Overwrite the compressed bytes of a block."""
    with rasterio.open(scene) as src:
        across = -(-src.width // 64)
    content = bytearray(scene.read_bytes())
    offsets, sizes = tags(content, 324), tags(content, 325)
    index = row * across + col
    content[offsets[index] : offsets[index] + sizes[index]] = b"\x55" * sizes[index]
    scene.write_bytes(content)


def tags(content: bytearray, wanted: int) -> list[int]:
    """Read a tag's integers from a classic little-endian TIFF."""
    at = int.from_bytes(content[4:8], "little")
    for entry in range(int.from_bytes(content[at : at + 2], "little")):
        field = at + 2 + 12 * entry
        tag, kind = (int.from_bytes(content[field + i : field + i + 2], "little") for i in (0, 2))
        if tag == wanted:
            count = int.from_bytes(content[field + 4 : field + 8], "little")
            width = {3: 2, 4: 4}[kind]
            start = int.from_bytes(content[field + 8 : field + 12], "little")
            return [
                int.from_bytes(content[start + width * i : start + width * (i + 1)], "little")
                for i in range(count)
            ]
    raise AssertionError(wanted)


def test_a_corrupt_block_fails_with_its_place_and_can_be_mended(write_scene: Write, tmp_path: Path) -> None:
    image = blobs(300, 400, smooth=9)
    scene = write_scene(image, **TILED)
    whole = scene.read_bytes()
    damage(scene, 3, 3)
    options: dict[str, Any] = {"model": stand_in(), "device": "cpu", "swath_pixels": 1}
    with pytest.raises(SourceError, match=r"cannot be read at column \d+, row 168.*on_read_error='nodata'"):
        pfmap.predict(scene, tmp_path / "out", **options)
    assert [p.name for p in (tmp_path / "out").iterdir()] == [".scene.pfmap"]
    scene.write_bytes(whole)
    result = pfmap.predict(scene, tmp_path / "out", **options)
    assert np.array_equal(read(result.outputs["classes"]), pointwise_reference(image))


@pytest.mark.parametrize("ratio", [1.0, 1.7])
def test_corrupt_blocks_can_count_as_nodata(ratio: float, write_scene: Write, tmp_path: Path) -> None:
    import dataclasses

    image = blobs(300, 400, smooth=9)
    scene = write_scene(image, **TILED)
    for block in ((1, 0), (3, 3), (6, 4)):
        damage(scene, *block)
    model = stand_in()
    spec = dataclasses.replace(model.card.input, gsd=(0.5 * ratio, 0.5 * ratio))
    model = dataclasses.replace(model, card=dataclasses.replace(model.card, input=spec))
    said: list[str] = []
    result = pfmap.predict(
        scene, tmp_path / "out", model=model, device="cpu", on_read_error="nodata", on_message=said.append
    )
    expected = pointwise_reference(image)
    expected[0:64, 64:128] = expected[192:256, 192:256] = expected[256:, 384:] = NODATA
    classes = read(result.outputs["classes"])
    assert np.array_equal(classes == NODATA, expected == NODATA)
    if ratio == 1:
        assert np.array_equal(classes, expected)
    blocks = [[64, 0, 64, 64], [192, 192, 64, 64], [384, 256, 16, 44]]
    assert result.report["scene"]["unreadable_blocks"] == blocks
    assert any("3 blocks" in line and "nodata" in line for line in said)


def test_damage_does_not_spoil_the_scaling(write_scene: Write, tmp_path: Path) -> None:
    image = blobs(300, 400, smooth=9).astype(np.uint16) * 40 + 100
    scene = write_scene(image, **TILED)
    scale = np.percentile(image[:, :, 64:], [2, 98])
    for row in range(5):
        damage(scene, 0, row)
    result = pfmap.predict(scene, tmp_path, model=stand_in(), device="cpu", on_read_error="nodata")
    used = result.report["scene"]["scale"]
    assert (used["min"], used["max"]) == pytest.approx(tuple(scale), rel=0.01)
    assert len(result.report["scene"]["unreadable_blocks"]) == 5


@pytest.mark.parametrize("on_read_error", ["fail", "nodata"])
def test_a_truncated_scene(on_read_error: str, write_scene: Write, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 512, 512), dtype=np.uint8)
    scene = write_scene(image, **TILED)
    scene.write_bytes(scene.read_bytes()[: scene.stat().st_size * 3 // 5])
    options: dict[str, Any] = {"model": stand_in(), "device": "cpu", "on_read_error": on_read_error}
    if on_read_error == "fail":
        with pytest.raises(SourceError, match="damaged, incomplete or gone"):
            pfmap.predict(scene, tmp_path / "out", **options)
        return
    result = pfmap.predict(scene, tmp_path / "out", **options)
    lost = np.zeros((512, 512), dtype=bool)
    for col, row, width, height in result.report["scene"]["unreadable_blocks"]:
        lost[row : row + height, col : col + width] = True
    classes = read(result.outputs["classes"])
    assert np.array_equal(classes == NODATA, lost)
    assert 0.2 < lost.mean() < 0.6


def test_a_scene_that_vanishes_in_mid_run(write_scene: Write, tmp_path: Path) -> None:
    """On systems that keep opened files it goes on; truncated under way it fails clearly."""
    small = TILED | {"blockxsize": 16, "blockysize": 16}  # too many to be all in GDAL's cache already
    scene = write_scene(np.random.default_rng(0).integers(0, 256, (3, 512, 512), dtype=np.uint8), **small)

    def on_progress(done: int, total: int) -> None:
        if done > total / 3:
            os.truncate(scene, 5000)

    with pytest.raises(SourceError, match="gone"):
        pfmap.predict(
            scene, tmp_path / "out", model=stand_in(), device="cpu", swath_pixels=1, on_progress=on_progress
        )
    assert [p.name for p in (tmp_path / "out").iterdir()] == [".scene.pfmap"]


def test_an_output_folder_removed_in_mid_run(write_scene: Write, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def on_progress(done: int, total: int) -> None:
        if done > total / 2:
            shutil.rmtree(out, ignore_errors=True)  # a swath may just be appearing in it: then again

    scene = write_scene(blobs(300, 300, smooth=20))
    with pytest.raises(TargetError, match=r"folder|cannot be written") as caught:
        pfmap.predict(scene, out, model=stand_in(), device="cpu", swath_pixels=1, on_progress=on_progress)
    assert "\n" not in str(caught.value)
    assert not out.exists() or not any(out.iterdir())


DISK = """
import subprocess, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from conftest import stand_in
import pfmap
scene, out = sys.argv[2], Path(sys.argv[3])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(out)], check=True)
filler = out / "filler"
full = False
def fill(done, total):
    global full
    if done > total / 2 and not full:
        full = True
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
options = dict(model=stand_in(), device="cpu", swath_pixels=1)
try:
    pfmap.predict(scene, out / "maps", on_progress=fill, **options)
except pfmap.PfmapError as error:
    print(error)
print(sorted(p.name for p in (out / "maps").iterdir()))
filler.unlink()
result = pfmap.predict(scene, out / "maps", **options)
print(result.report["swaths"]["from_earlier_runs"] > 0, result.outputs["classes"].stat().st_size > 0)
"""


def test_a_full_disk_is_clear_and_the_run_goes_on_once_there_is_space(
    write_scene: Write, tmp_path: Path
) -> None:
    """On a real small file system, mounted in a namespace of its own."""
    out = tmp_path / "disk"
    out.mkdir()
    scene = write_scene(blobs(300, 300, smooth=20))
    inner = [sys.executable, "-c", DISK, str(Path(__file__).parents[1]), str(scene), str(out)]
    unshare = shutil.which("unshare")
    if (
        unshare is None
        or subprocess.run([unshare, "-Urm", "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("this system lets nobody mount a file system of their own")
    done = subprocess.run([unshare, "-Urm", *inner], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    error, names, after = done.stdout.splitlines()
    assert "No space left" in error or "the disk is full" in error
    assert names == "['.scene.pfmap']"
    assert after == "True True"


def test_a_run_that_cannot_fit_on_the_disk_is_refused_at_once(
    write_scene: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pfmap.mapping.estimate.free_disk", lambda _folder: 1_200_000)
    with pytest.raises(TargetError, match=r"needs up to 1\.. MB of disk.*1\.2 MB are free.*output_dir="):
        pfmap.predict(write_scene(blobs(300, 300)), tmp_path / "out", model=stand_in(), device="cpu")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("error", [RuntimeError("a bug"), MemoryError(), OSError("strange")])
def test_errors_in_the_reading_thread_reach_the_user(
    error: Exception, write_scene: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    real = Source.read

    def read_badly(self: Source, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise error
        return real(self, *args)

    monkeypatch.setattr(Source, "read", read_badly)
    before = threading.active_count()
    # A lack of memory is no bug: it is said what to do.
    with pytest.raises(DeviceError if isinstance(error, MemoryError) else type(error)):
        pfmap.predict(write_scene(blobs(300, 300)), tmp_path / "out", model=stand_in(), device="cpu")
    assert threading.active_count() == before
    assert not any(p for p in (tmp_path / "out").iterdir() if not p.name.startswith("."))


def test_errors_while_swaths_are_made_stop_the_reading_thread(
    write_scene: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise TargetError("no")

    monkeypatch.setattr("pfmap.mapping.mapper.write_record", fail)
    before = threading.active_count()
    with pytest.raises(TargetError):
        pfmap.predict(write_scene(blobs(300, 300)), tmp_path / "out", model=stand_in(), device="cpu")
    assert threading.active_count() == before


INTERRUPT = """
import os, signal, sys, threading, time
sys.path.insert(0, sys.argv[1])
import numpy as np, rasterio, rasterio.shutil
from conftest import Pointwise, stand_in
import pfmap, pfmap.survey.single, pfmap.cli.main
kind = sys.argv[2]
asked, never, passes = threading.Event(), threading.Event(), []
def heed(*arguments):  # also where SIGINT was ignored, as under nohup
    asked.set()
    signal.default_int_handler(*arguments)
signal.signal(signal.SIGINT, heed)
class Slow(Pointwise):
    def forward(self, image):
        if kind == "network":
            passes.append(0)
            os.write(1, b"now\\n")
            if len(passes) >= 10:
                asked.wait()
                time.sleep(0.2)
        return super().forward(image)
real_copy, real_read = rasterio.shutil.copy, pfmap.raster.source.Source.read
def slow_copy(*args, **options):  # both rasters at once: a line is one write
    os.write(1, b"now\\n")
    never.wait()  # stands for a long call into GDAL: in a thread no signal interrupts it
def slow_read(self, *args):
    if self.info.location.stem == "scene" and kind == "read" and args[0].start > 100:
        os.write(1, b"now\\n")
        never.wait()
    return real_read(self, *args)
if kind == "assembly":
    rasterio.shutil.copy = slow_copy
pfmap.raster.source.Source.read = slow_read
real = pfmap.survey.single.predict
def predict(scene, output_dir, **options):
    options |= {"model": stand_in(network=Slow(3)), "swath_pixels": 1}
    return real(scene, output_dir, **options)
pfmap.survey.single.predict = predict
pfmap.cli.main.run(["predict", *sys.argv[3:]])
"""


@pytest.mark.parametrize("kind", ["network", "read", "assembly"])
def test_ctrl_c_waits_for_no_long_call_and_can_be_resumed(
    kind: str, write_scene: Write, tmp_path: Path
) -> None:
    scene = write_scene(blobs(300, 300, smooth=20))
    out = tmp_path / "out"
    command = ["-c", INTERRUPT, Path(__file__).parents[1], kind, scene, "-o", out]
    noise = tmp_path / "noise"
    with (
        noise.open("wb") as stderr,
        forks.begin(command, stdout=subprocess.PIPE, stderr=stderr) as process,
    ):
        assert process.stdout is not None
        for _ in range(10 if kind == "network" else 1):
            assert process.stdout.readline().strip() == "now"
        os.kill(process.pid, signal.SIGINT)
        status, error = process.wait(HANG), noise.read_text()
    assert status == 130, error
    assert "Traceback" not in error
    assert "Interrupted" in error
    assert "same command goes on" in error
    assert [p.name for p in out.iterdir()] == [".scene.pfmap"]
    result = pfmap.predict(scene, out, model=stand_in(), device="auto", swath_pixels=1)
    assert result.report["swaths"]["from_earlier_runs"] > 0
    if kind != "assembly":
        assert result.report["swaths"]["from_earlier_runs"] < result.report["swaths"]["all"]
    assert np.array_equal(read(result.outputs["classes"]), pointwise_reference(blobs(300, 300, smooth=20)))
