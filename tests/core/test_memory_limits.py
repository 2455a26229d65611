"""How much memory there is: the machine's, within all limits that a process may have."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import Pointwise, Write, blobs, stand_in
from torch import Tensor, nn

import pfmap
from pfmap.cli import main
from pfmap.core import resources
from pfmap.core.errors import DeviceError, SourceError

MB = 1 << 20


def group(folder: Path, names: tuple[str, str], most: object, used: int, stat: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip((*names, "stat"), (most, used, stat), strict=True):
        (folder / f"memory.{name}").write_text(f"{value}\n")


@pytest.mark.parametrize("nested", ["own", "around", "as root"])
@pytest.mark.parametrize("version", [1, 2])
def test_limits_of_control_groups_count_wherever_they_are_set(
    version: int, nested: str, tmp_path: Path
) -> None:
    root = tmp_path / "memory" if version == 1 else tmp_path
    names = ("limit_in_bytes", "usage_in_bytes") if version == 1 else ("max", "current")
    before = "total_" if version == 1 else ""
    stat = f"{before}active_file {10 * MB}\n{before}inactive_file {20 * MB}\nfile {99 * MB}"
    unlimited = 9223372036854771712 if version == 1 else "max"
    own = tmp_path / "own"
    line = "4:cpu,memory:/" if version == 1 else "0::/"
    own.write_text(f"9:name=systemd:/\n3:cpuset:/\n{line}jobs/one\n")
    for folder, place in ((root / "jobs" / "one", "own"), (root / "jobs", "around"), (root, "as root")):
        if nested != "as root" or place == "as root":  # a container sees no group around its own
            limit = 500 * MB if place == nested else unlimited
            group(folder, names, limit, 130 * MB, stat)
    assert min(resources._left_in_groups(tmp_path, own)) == 400 * MB
    assert resources._left_in_groups(tmp_path / "none", own) == []


LIMITED = """
import resource, sys
from pfmap.core.resources import free_memory
before = free_memory()
resource.setrlimit(getattr(resource, sys.argv[1]), (6 << 30, -1))
assert free_memory() < 7 << 30, (before, free_memory())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space are Linux's")
@pytest.mark.parametrize("kind", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_limits_of_the_shell_count(kind: str) -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED, kind], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_windows_that_take_more_than_there_is_are_refused_beforehand(
    write_scene: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pfmap.mapping.estimate.free_memory", lambda: 8 << 30)
    with pytest.raises(SourceError, match=r"windows of 8192 x 8192 pixels alone take .*smaller"):
        pfmap.predict(write_scene(blobs(90, 90)), tmp_path / "out", model=stand_in(window=8192), device="cpu")
    assert not (tmp_path / "out").exists()


class Greedy(nn.Module):
    """Asks a CPU for more than it has, and says so as torch does."""

    def forward(self, image: Tensor) -> Tensor:
        torch.empty(1 << 60, dtype=torch.uint8)
        return image


def test_a_failed_allocation_says_how_much_and_what_to_do(write_scene: Write, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"single window per pass.*smaller windows"):
        pfmap.predict(write_scene(blobs(90, 90)), tmp_path, model=stand_in(network=Greedy()), device="cpu")


def test_a_failed_allocation_elsewhere_says_how_much_and_what_to_do(
    write_scene: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        torch.empty(1 << 60, dtype=torch.uint8)

    monkeypatch.setattr("pfmap.mapping.blend.Chooser.add", fail)
    with pytest.raises(DeviceError, match=r"ran out when 1,152,921\.5 TB more were needed.*bbox="):
        pfmap.predict(
            write_scene(blobs(90, 90)), tmp_path, model=stand_in(network=Pointwise(3)), device="cpu"
        )


def test_threads_that_cannot_be_started_are_not_called_memory() -> None:
    assert "what ulimit -u allows" in resources.lack_of(RuntimeError("can't start new thread"))


def test_no_command_ends_in_an_allocators_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError("std::bad_alloc")

    monkeypatch.setattr(main.cli, "main", fail)
    monkeypatch.setattr(main, "separate", lambda: None)  # this process has more tests to come
    with pytest.raises(SystemExit) as caught:
        main.run([])
    assert caught.value.code == 1
