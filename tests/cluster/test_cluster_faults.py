"""Workers, schedulers and clients that are killed in mid-run, and a scheduler that has to know little."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import rasterio
from commands import HANG, interruptible, wait_until
from conftest import NORTH_UP, UTM, Write
from runs import SWATHS, equal_outputs, noise, on_workers, small_model

import pfmap
from pfmap.cluster import dispatch, opened_cluster
from pfmap.core.errors import ClusterError
from pfmap.model.store import Model

ROOT = Path(__file__).parents[2]
ENV = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def tall(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene of many swaths, and what comes of it where nothing goes wrong, in `one` beside it."""
    path, image = tmp_path_factory.mktemp("tall") / "scene.tif", noise(12_000, 170)
    with rasterio.open(
        path, "w", driver="GTiff", width=170, height=12_000, count=3, dtype="uint8", crs=UTM,
        transform=NORTH_UP,
    ) as dst:  # fmt: skip
        dst.write(image)
    pfmap.predict(path, path.with_name("one"), model=model, **SWATHS)
    return path


class Watch:
    """Sees that what is finished once is never computed again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: dict[str, int] = {}

    def look(self) -> int:
        """Compare the finished swaths with those of the last look; return how many there are."""
        now = {
            path.name: path.stat().st_ino
            for path in self.folder.glob("[0-9]*")
            if path.suffix != ".part" and path.is_dir()
        }
        for name, inode in self.seen.items():
            assert now[name] == inode, name
        self.seen = now
        return len(now)


def worker_processes() -> list[psutil.Process]:
    """The worker processes of this one: all that it spawned but the helper of multiprocessing."""
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if "spawn_main" in " ".join(child.cmdline())
    ]


def test_three_kills_cost_a_swath_each(model: Model, tall: Path) -> None:
    out = tall.with_name("killed")
    watch, said, killed = Watch(out / ".scene.pfmap"), [], []
    shares = [0.2, 0.45, 0.7]

    def on_progress(done: int, total: int) -> None:
        if len(killed) < len(shares) and done >= shares[len(killed)] * total:
            victim = min(worker_processes(), key=lambda process: process.create_time())
            victim.send_signal(signal.SIGKILL)
            victim.wait(HANG)
            killed.append(watch.look())
        else:
            watch.look()

    result = pfmap.predict(
        tall, out, model=model, workers=2, on_progress=on_progress, on_message=said.append, **SWATHS
    )
    equal_outputs(tall.with_name("one"), out)
    assert len(killed) == 3
    assert killed[-1] < result.report["swaths"]["all"]
    assert sum("is gone: others go on" in line for line in said) == 3
    assert not worker_processes()


def test_a_worker_that_is_stopped_for_a_while_is_waited_for(
    model: Model, write_scene: Write, tmp_path: Path
) -> None:
    scene = write_scene(noise(6_000, 170))
    pfmap.predict(scene, tmp_path / "one", model=model, **SWATHS)
    stopped: list[psutil.Process] = []
    shares = [0.2, 0.4]  # stopped, and continued while the others go on

    def on_progress(done: int, total: int) -> None:
        if shares and done >= shares[0] * total:
            if shares.pop(0) == 0.2:
                stopped.append(min(worker_processes(), key=lambda process: process.create_time()))
                stopped[0].send_signal(signal.SIGSTOP)
            else:
                assert stopped[0].status() == psutil.STATUS_STOPPED
                stopped[0].send_signal(signal.SIGCONT)

    pfmap.predict(scene, tmp_path / "two", model=model, workers=2, on_progress=on_progress, **SWATHS)
    equal_outputs(tmp_path / "one", tmp_path / "two")
    assert not shares
    assert not worker_processes()


def test_a_swath_that_ends_every_worker_is_named(
    model: Model, write_scene: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_DEATHS", 0)
    scene = write_scene(noise(600, 170))

    def make() -> Callable[[], None]:
        def patch() -> None:
            import os

            from pfmap.cluster import worker

            write = worker.write_record

            def deadly(folder: Any, swath: Any, *rest: Any) -> Any:
                if swath.rows.start == 280:
                    os._exit(1)
                return write(folder, swath, *rest)

            worker.write_record = deadly

        return patch

    with opened_cluster(None, 2, "cpu", print) as cluster:
        on_workers(cluster, make)
        with pytest.raises(ClusterError, match="while they mapped rows 280 to 336 of the map") as caught:
            pfmap.predict(scene, tmp_path / "out", model=model, cluster=cluster, **SWATHS)
        print(caught.value)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def scheduler(port: int, cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [
        sys.executable,
        "-m",
        "distributed.cli.dask_scheduler",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    process = subprocess.Popen(
        [*command, "--no-dashboard"], env=ENV, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def supervised_workers(port: int, count: int, cwd: Path) -> Iterator[None]:
    """Workers that are started again when they end, as Kubernetes and SLURM's --requeue do it."""
    ended = threading.Event()
    command = [sys.executable, "-m", "distributed.cli.dask_worker", f"tcp://127.0.0.1:{port}"]
    running: list[subprocess.Popen[bytes]] = []

    def supervise() -> None:
        while not ended.is_set():
            process = subprocess.Popen(
                [*command, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--death-timeout", "20"],
                env=ENV, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            running.append(process)
            process.wait()

    threads = [threading.Thread(target=supervise) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for process in running:
            process.kill()
        for thread in threads:
            thread.join()


def test_a_scheduler_that_is_restarted_costs_what_was_in_work(
    model: Model, tall: Path, tmp_path: Path
) -> None:
    out = tall.with_name("restarted")
    port, said, watch = free_port(), [], Watch(out / ".scene.pfmap")
    at: list[int] = []
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(scheduler(port, tmp_path))
        stack.enter_context(supervised_workers(port, 2, tmp_path))

        def on_progress(done: int, total: int) -> None:
            watch.look()
            if not at and done >= 0.3 * total:
                first.kill()
                first.wait()
                at.append(watch.look())
                stack.enter_context(scheduler(port, tmp_path))

        result = pfmap.predict(
            tall, out, model=model, cluster=f"tcp://127.0.0.1:{port}", on_progress=on_progress,
            on_message=said.append, **SWATHS,
        )  # fmt: skip
    equal_outputs(tall.with_name("one"), out)
    assert at[0] < result.report["swaths"]["all"]
    assert any("is gone: waiting up to" in line for line in said)
    assert any("is back" in line for line in said)
    assert not any("worker" in line and "is gone" in line for line in said)  # no worker is blamed


CLIENT = """
import sys, pfmap
if __name__ == "__main__":
    pfmap.predict(sys.argv[1], sys.argv[2], model=sys.argv[3], device="cpu", precision="float32",
                  swath_pixels=12_000, workers=2)
"""


def test_no_worker_outlives_a_killed_client(model: Model, tall: Path, tmp_path: Path) -> None:
    script, out = tmp_path / "client.py", tall.with_name("outlived")
    script.write_text(CLIENT)
    command = [sys.executable, str(script), str(tall), str(out), str(model.folder)]
    client = subprocess.Popen(command, env=ENV, cwd=tmp_path)
    watch = Watch(out / ".scene.pfmap")
    wait_until(lambda: watch.look() >= 20, client)
    children = psutil.Process(client.pid).children(recursive=True)
    assert len(children) >= 2
    client.kill()
    client.wait()
    _, alive = psutil.wait_procs(children, timeout=HANG)
    assert not alive
    before = watch.look()
    result = pfmap.predict(tall, out, model=model, workers=2, **SWATHS)
    assert result.report["swaths"]["from_earlier_runs"] == before
    equal_outputs(tall.with_name("one"), out)


def test_ctrl_c_ends_everything_without_noise(model: Model, write_scene: Write, tmp_path: Path) -> None:
    """As a terminal sends it: to the command and to its workers."""
    scene = write_scene(noise(30_000, 170))
    command = [sys.executable, "-m", "pfmap", "predict", str(scene), "-o", str(tmp_path / "out"), "--model"]
    command += [str(model.folder), "--device", "cpu", "--workers", "2"]
    client = subprocess.Popen(
        interruptible(*command),
        env=ENV,
        cwd=tmp_path,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    watch = Watch(tmp_path / "out/.scene.pfmap")
    wait_until(watch.look, client)
    children = psutil.Process(client.pid).children(recursive=True)
    os.killpg(client.pid, signal.SIGINT)
    said, _ = client.communicate(timeout=HANG)
    assert client.returncode == 130
    assert b"Traceback" not in said, said.decode()
    _, alive = psutil.wait_procs(children, timeout=HANG)
    assert not alive


def test_the_scheduler_knows_no_more_of_many_swaths_than_of_few(tmp_path: Path) -> None:
    """A network of zero cost, one window per swath, the scheduler in a process of its own."""
    model = small_model(tmp_path / "model")

    def make() -> Callable[[], None]:
        def patch() -> None:
            from pfmap.cluster import worker
            from pfmap.core import files
            from pfmap.measure.benchmark import _Free

            worker._network = lambda job: _Free.of(job.plan)
            files.settle = files.settle_names = lambda _path: None  # the disk is not what is looked at

        return patch

    port, grown = free_port(), {}
    with scheduler(port, tmp_path) as process, supervised_workers(port, 2, tmp_path):
        address = f"tcp://127.0.0.1:{port}"
        with opened_cluster(address, None, "cpu", print) as cluster:
            cluster._link._client.wait_for_workers(2, timeout=HANG)
            on_workers(cluster, make)
            memory = psutil.Process(process.pid).memory_info
            for count in (100, 100, 1000, 10_000):
                scene = tmp_path / f"scene_{count}.tif"
                with rasterio.open(
                    scene, "w", driver="GTiff", width=64, height=56 * count + 8, count=3, dtype="uint8",
                    crs=UTM, transform=NORTH_UP, tiled=True, blockxsize=64, blockysize=1024,
                    compress="deflate",
                ) as dst:  # fmt: skip
                    dst.write(np.zeros((3, 56 * count + 8, 64), np.uint8))
                peak = [0]

                def on_progress(_done: int, _total: int, peak: list[int] = peak) -> None:
                    peak[0] = max(peak[0], memory().rss)

                begun = time.monotonic()
                result = pfmap.predict(
                    scene, tmp_path / "out", model=model, cluster=cluster, on_progress=on_progress,
                    device="cpu", swath_pixels=1, overlap=8, classes=["class_0"], confidence=False,
                    overwrite=True,
                )  # fmt: skip
                assert result.report["swaths"]["all"] == count
                grown[count] = peak[0] / 1e6
                print(f"{count:6} swaths  {grown[count]:.1f} MB  {time.monotonic() - begun:.1f} s")
    assert max(grown.values()) <= 200  # without torch
    assert grown[10_000] <= grown[100] + 10
