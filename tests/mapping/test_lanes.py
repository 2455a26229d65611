"""How a device is told what to do: nobody reads what is not there yet, or writes what is still read.

The device here is made up. It has done nothing until somebody waits, and then its streams run in any order
that what they were told to wait for allows.
"""

import functools
import itertools
import json
import random
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from conftest import Pointwise, Walled, Write, houses, stand_in
from gpu import Check, runs_out_of_memory
from torch import Tensor, nn

import pfmap
from pfmap.core.card import InputSpec
from pfmap.core.errors import DeviceError
from pfmap.mapping import runtime
from pfmap.mapping.swaths import map_array
from pfmap.model.lanes import CudaLane
from pfmap.model.predictor import Predictor

SPEC = InputSpec(("red", "green", "blue"), 255.0, (0.0,) * 3, (1.0,) * 3, 64, (0.1, 1.0))
ROOT = Path(__file__).parents[2]
POISON = 173
WAITS = ("_slot", "feed", "download", "_arrive")
"""The functions that wait, or have a stream wait."""


class NotThereError(AssertionError):
    """Something is used that is not there yet."""


class Later:
    """What a stream will have computed."""

    def __init__(self) -> None:
        self.done, self.value = False, None

    def __getattr__(self, name: str) -> Any:
        raise NotThereError(f"{name} of what is not there yet")


class LateLane(CudaLane):
    """A made-up device: what it is told waits in queues, of which each stream has one, until the host waits.

    Then the streams run as far as they may: which first, `order` says, or chance of that number. Without one
    of the waits it is as if it was forgotten.
    """

    def __init__(self, order: tuple[str, ...] | int, without: str = "") -> None:
        super().__init__(torch.device("cpu"), lambda _line: None)
        self.queues: dict[str, deque[Callable[[], bool]]] = {
            name: deque() for name in ("in", "compute", "out")
        }
        self.order: Any = random.Random(order) if isinstance(order, int) else order
        self.without, self.waits = without, set[str]()
        self.reaches = threading.RLock()

    def _buffers(self, shape: Any) -> tuple[Tensor, Tensor]:
        return torch.full(shape, POISON, dtype=torch.uint8), torch.full(shape, POISON, dtype=torch.uint8)

    def _on(self, stream: str, function: Callable[..., Any], *args: Any) -> Any:
        made = Later()

        def do() -> bool:
            made.value, made.done = function(*map(resolved, args)), True
            return True

        with self.reaches:
            self.queues[stream].append(do)
        return made

    def _record(self, stream: str) -> Any:
        event = Later()

        def do() -> bool:
            event.done = True
            return True

        with self.reaches:
            self.queues[stream].append(do)
        return event

    def _hold(self, stream: str, event: Any) -> None:
        if self._counts():
            with self.reaches:
                self.queues[stream].append(lambda: event.done)

    def _wait(self, event: Any) -> None:
        if self._counts():
            with self.reaches:
                while not event.done:
                    assert any(self._step(name) for name in self._next()), "the device waits for ever"

    def _next(self) -> list[str]:
        names = [name for name, queue in self.queues.items() if queue]
        if isinstance(self.order, random.Random):
            self.order.shuffle(names)
            return names
        return sorted(names, key=self.order.index)

    def _step(self, name: str) -> bool:
        done = self.queues[name][0]()
        if done:
            self.queues[name].popleft()
        return done

    def _counts(self) -> bool:
        name = sys._getframe(2).f_code.co_name
        self.waits.add(name)
        return name != self.without

    def _arrive(self, arrived: Any, host: Any, made: Any) -> Any:
        return resolved(super()._arrive(arrived, host, made))

    def _recorded(self, network: nn.Module, seen: Tensor) -> Callable[[Tensor], Tensor]:
        """As of a graph, what comes out always lies at the same place."""
        made = network(seen).clone()
        return lambda seen: made.copy_(network(seen))


def resolved(value: Any) -> Any:
    """What a stream has computed; it must have."""
    if isinstance(value, Later):
        if not value.done:
            raise NotThereError("used before it was computed")
        return resolved(value.value)
    return [resolved(one) for one in value] if type(value) is list else value


ORDERS = [*itertools.permutations(("in", "compute", "out")), *range(4)]


def scene() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 300, 500), dtype=np.uint8)


def mapped(lane: CudaLane | None, batch: int = 3) -> list[np.ndarray]:
    """A map, and probabilities of more windows than there are slots, in passes of one."""
    device = lane.device if lane else "cpu"
    predictor = Predictor(Walled(3), SPEC, device, batch_size=batch, threads=1, contact=True, lane=lane)
    classes, percent, contact = map_array(predictor, scene(), 3, 64, 16, "flips")
    assert contact is not None
    windows = [scene()[:, 8 * k : 8 * k + 64, :64] for k in range(9)]
    predictor.batch_size = 1
    made = predictor._made(windows, [np.ones((64, 64), dtype=bool)] * 9, "none")
    alone = predictor.lane.download(predictor.lane.run(lambda pair: pair[0], made))()
    return [classes, percent, contact, alone.numpy()]


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_a_device_that_is_late_gives_the_same_map(order: Any) -> None:
    lane = LateLane(order)
    for found, wanted in zip(mapped(lane), mapped(None, 1), strict=True):
        assert np.array_equal(found, wanted)
    assert lane.waits == set(WAITS)


@pytest.mark.parametrize("without", WAITS)
def test_each_wait_is_needed(without: str) -> None:
    wanted = mapped(None, 1)

    def fails(order: Any) -> bool:
        try:
            found = mapped(LateLane(order, without))
        except NotThereError:
            return True
        return not all(map(np.array_equal, found, wanted))

    assert any(map(fails, ORDERS))


@pytest.mark.parametrize("batch", [1, 4])
def test_a_scene_with_gaps_is_mapped_the_same(
    batch: int, write_scene: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resampled, from swaths that begin inside, with all layers, and windows that are not computed."""
    mask = np.ones((400, 700), dtype=bool)
    mask[100:250, 150:600] = mask[380:] = False
    path = write_scene(houses(400, 700)[0], mask=mask)
    options: dict[str, Any] = {"device": "cpu", "overlap": 16, "swath_pixels": 9000, "probabilities": True}
    options |= {"separate": ("class_2",), "gsd": 0.7, "threshold": {"class_1": 0.6}}
    model = stand_in(contact=("class_2",))
    plain = pfmap.predict(path, tmp_path / "plain", model=model, **options)
    lane = LateLane(("out", "compute", "in"))
    made = functools.partial(Predictor, lane=lane)
    monkeypatch.setattr(runtime, "Predictor", lambda *args, **how: made(*args[:6], 1, **how | {"lane": lane}))
    late = pfmap.predict(path, tmp_path / "late", model=model, batch_size=batch, **options)
    assert lane.waits >= {"feed", "download", "_arrive"}
    for kind in ("classes", "confidence", "contact", "probabilities"):
        with rasterio.open(plain.outputs[kind]) as one, rasterio.open(late.outputs[kind]) as other:
            assert np.array_equal(one.read(), other.read()), kind


def test_what_is_no_number_is_refused_by_its_window() -> None:
    class Broken(Pointwise):
        def forward(self, image: Tensor) -> Tensor:
            return torch.where(image.mean() > 0.99, torch.nan, super().forward(image))

    image = np.zeros((3, 128, 300), dtype=np.uint8)
    image[:, 64:, 128:192] = 255
    for lane in (None, LateLane(("in", "compute", "out"))):
        predictor = Predictor(Broken(3), SPEC, threads=1, lane=lane)
        with pytest.raises(DeviceError, match="window 2 of window row 1, counted from 0"):
            map_array(predictor, image, 3, 64, 0)


def test_what_cannot_be_recorded_is_computed_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch says so once the pass that was to be recorded is over."""

    @contextmanager
    def graph(*_how: object) -> Iterator[None]:
        yield
        raise RuntimeError("operation not permitted when stream is capturing")

    said: list[str] = []
    lane = CudaLane(torch.device("cpu"), said.append)
    monkeypatch.setattr("pfmap.model.lanes._streams", lambda _device: dict.fromkeys(("record",)))
    restored: list[object] = []
    for name, instead in {
        "CUDAGraph": object, "graph": graph, "current_stream": lambda _device: "here",
        "set_stream": restored.append,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, instead)
    seen = torch.rand(2, 3, 64, 64)
    for _ in range(5):
        assert torch.equal(lane.call(Pointwise(3), seen), Pointwise(3)(seen))
    assert len(said) == 1
    assert "not permitted" in said[0]
    assert restored == ["here"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_cuda_gives_the_map_of_the_cpu(batch: int) -> None:
    said: list[str] = []
    found = mapped(CudaLane(torch.device("cuda"), said.append), batch)
    for there, here in zip(found, mapped(None, 1), strict=True):
        assert (np.abs(there.astype(float) - here) > 1e-3).mean() < 1e-3
    assert said == []  # it was recorded


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_batches_are_halved_until_cuda_holds_them() -> None:
    runs_out_of_memory(Check(60, "", rehearse=False))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_the_command_for_a_gpu_says_that_none_is_here() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "needs a CUDA device" in done.stderr


@pytest.mark.slow
def test_the_command_for_a_gpu_works(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    command = [sys.executable, "-m", "tests.gpu", "--rehearse", "--json", str(path), "--seconds", "1"]
    for only in ("agrees: landcover", "network: landcover, recorded", "demo"):
        done = subprocess.run(
            [*command, "--only", only], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found = json.loads(path.read_text())
        assert any(name.startswith(only) for name in found["figures"])
        assert found["wrong"] == {}
