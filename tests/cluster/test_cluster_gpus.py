"""One worker per GPU: what each is told, and that it has one swath at a time. Most of it needs no GPU."""

import itertools
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Write
from runs import equal_outputs, noise, small_model

import pfmap
from pfmap.cluster.link import local_cluster
from pfmap.core.errors import ClusterError

pytest.importorskip("distributed")

from distributed import Client

CUDA = torch.device("cuda")


def seen(dask_worker: Any) -> tuple[str, dict[str, float], int]:
    state = dask_worker.state
    return os.environ["CUDA_VISIBLE_DEVICES"], dict(state.total_resources), state.nthreads


@pytest.mark.parametrize(("listed", "expected"), [("", ["0", "1"]), ("3, 7", ["3", "7"])])
def test_each_worker_sees_a_gpu_of_its_own(
    listed: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    with local_cluster(2, CUDA) as cluster, Client(cluster) as client:
        told = sorted(client.run(sent(seen)).values())
    assert told == [(name, {"GPU": 1}, 1) for name in expected]


def test_more_workers_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ClusterError, match="3 workers are asked for, and 2 devices 'cuda' are here"):
        local_cluster(3, CUDA).__enter__()


def test_a_gpu_has_one_swath_at_a_time_however_many_threads_its_worker_has() -> None:
    """Workers that others started may have several: the resource keeps pfmap's tasks apart."""
    from distributed import LocalCluster

    def stamped() -> tuple[float, float]:
        import time

        begun = time.monotonic()
        time.sleep(0.2)
        return begun, time.monotonic()

    options: dict[str, Any] = {"processes": False, "dashboard_address": None, "resources": {"GPU": 1}}
    with LocalCluster(n_workers=1, threads_per_worker=4, **options) as cluster, Client(cluster) as client:
        tasks = [client.submit(stamped, resources={"GPU": 1}, pure=False) for _ in range(4)]
        times = sorted(client.gather(tasks))
    assert all(end <= begun for (_, end), (begun, _) in itertools.pairwise(times))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_worker_on_a_gpu_gives_the_bytes_of_one_process(write_scene: Write, tmp_path: Path) -> None:
    model, scene = small_model(tmp_path / "model"), write_scene(noise(600, 170))
    options: dict[str, Any] = {"device": "cuda", "precision": "float32", "swath_pixels": 12_000}
    pfmap.predict(scene, tmp_path / "one", model=model, **options)
    pfmap.predict(scene, tmp_path / "two", model=model, workers=1, **options)
    equal_outputs(tmp_path / "one", tmp_path / "two")


def sent(function: Any) -> Any:
    """Have a function sent as it is: these tests cannot be imported by workers."""
    import cloudpickle

    module = __import__(function.__module__)
    cloudpickle.register_pickle_by_value(module)
    return function
