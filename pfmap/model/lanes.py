"""Windows in batches, and how a device is told to compute them: waiting for each step, or for none."""

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from pfmap.core.arrays import Bools, Bytes
from pfmap.core.errors import reason

Pixels = Sequence[Bytes]
"""Of windows, each ``(bands, window, window)``."""
Masks = Sequence[Bools]
"""Of windows, each ``(window, window)``: which of the pixels have data; the network sees others as the mean
colour."""


class Window(NamedTuple):
    """A window on its way to the network."""

    row: int
    col: int
    pixels: Bytes
    """``(bands, window, window)``."""
    seen: Bools
    """``(window, window)``: which of the pixels have data."""
    valid: Bools
    """Where the block that the window finishes has data: ``(rows, cols)`` on the outputs' grid."""


class Batch(NamedTuple):
    """Windows that were computed together."""

    windows: list[Window]
    seen: list[bool]
    """Which of them have a pixel to see: only those were computed."""
    made: tuple[Tensor, Tensor] | None
    """Of those, as `Predictor.probabilities`, and whether all logits were finite, as ``(n,)`` bool."""


_FLIPS = ((), (3,), (2,), (2, 3))  # axes of (B, C, H, W)
VIEWS: Mapping[str, Sequence[tuple[bool, tuple[int, ...]]]] = {
    "none": [(False, ())],
    "flips": list(product((False,), _FLIPS)),
    "d4": list(product((False, True), _FLIPS)),
}
"""Of a window, itself first, by the name of `tta`: whether rows become columns, and what is flipped then."""

T = TypeVar("T")
Fill = Callable[[Tensor], None]


def joined(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Put the passes of a batch together."""
    probabilities, sound = zip(*parts, strict=True)
    return torch.cat(probabilities), torch.cat(sound)


_NAMES = _IN, _COMPUTE, _OUT, _RECORD = "in", "compute", "out", "record"
_SLOTS = 3  # one is filled while the device is at two
_WARM = 2  # passes before one is recorded: libraries choose and load what they compute with


@cache
def _streams(device: torch.device) -> dict[str, Any]:
    """One each for all lanes of a device: what one has made for good, such as a matrix, others may read."""
    return {name: torch.cuda.Stream(device) for name in _NAMES}  # type: ignore[no-untyped-call]


@dataclass(slots=True)
class _Slot:
    """A batch's bytes in pinned memory, which the device reads by itself, and on the device."""

    host: Tensor
    there: Tensor
    free: Any
    """Event: from then on neither is read."""


class CudaLane:
    """A `Lane` whose copies in, arithmetic and copies out go on side by side, each in a stream of its own.

    Of each batch the host waits for one event, that its results have arrived; a slot to fill is free by then.
    From the third pass on the network is replayed as one CUDA graph; `say` gets a line if it cannot be.
    """

    def __init__(self, device: torch.device, say: Callable[[str], None]) -> None:
        self.device, self._say = device, say
        self._slots: deque[_Slot] = deque()
        self._lock = threading.Lock()  # the next scene may be probed meanwhile
        self._passes = 0
        self._replay: Callable[[Tensor], Tensor] | None = None

    def feed(self, shape: Sequence[int], fill: Fill, function: Callable[[Tensor], T]) -> T:
        """Do as any lane; the host may be ahead by as many batches as there are slots."""
        with self._lock:
            slot = self._slot(tuple(shape))
            fill(slot.host)
            self._on(_IN, slot.there.copy_, slot.host, True)
            self._hold(_COMPUTE, self._record(_IN))
            try:
                return self._on(_COMPUTE, function, slot.there)
            finally:
                slot.free = self._record(_COMPUTE)
                self._slots.append(slot)

    def _slot(self, shape: Sequence[int]) -> _Slot:
        """Return a slot of bytes that nobody reads any more."""
        if len(self._slots) == _SLOTS:
            slot = self._slots.popleft()
            self._wait(slot.free)
            if slot.host.shape == shape:
                return slot
        return _Slot(*self._buffers(shape), None)

    def run(self, function: Callable[..., T], *args: Any) -> T:
        """Compute on the device, behind what was told before."""
        with self._lock:
            return self._on(_COMPUTE, function, *args)

    def download(self, made: Tensor) -> Callable[[], Tensor]:
        """Begin to copy to the host's pinned memory, as soon as what is told until now is done."""
        self._hold(_OUT, self._record(_COMPUTE))
        host = self._on(_OUT, partial(Tensor.to, device="cpu", non_blocking=True), made)
        return partial(self._arrive, self._record(_OUT), host, made)

    def _arrive(self, arrived: Any, host: Tensor, _made: Tensor) -> Tensor:
        """Wait for a copy; until then what it is made of may not go."""
        self._wait(arrived)
        return host

    def call(self, network: nn.Module, seen: Tensor) -> Any:
        """Compute the network, or replay it; what is returned is overwritten by the next call."""
        self._passes += 1
        if self._passes == _WARM + 1:
            self._replay = self._recorded(network, seen)
        return (self._replay or network)(seen)

    def clear(self) -> None:
        """Let go of memory, also of what was recorded."""
        torch.cuda.synchronize(self.device)  # a graph's memory goes with it
        self._passes, self._replay = 0, None
        torch.cuda.empty_cache()

    def _recorded(self, network: nn.Module, seen: Tensor) -> Callable[[Tensor], Tensor] | None:
        """Record a pass as a graph, and return what replays it; None where that is not possible."""
        graph, given, here = torch.cuda.CUDAGraph(), seen.clone(), torch.cuda.current_stream(self.device)
        torch.clear_autocast_cache()  # the weights in it go when this pass ends
        try:
            with torch.cuda.graph(graph, None, self._streams[_RECORD], "thread_local"):
                made = network(given)
        except RuntimeError as error:
            torch.cuda.set_stream(here)
            self._say(f"warning: the network cannot be recorded, and takes longer ({reason(error)})")
            return None

        def replay(seen: Tensor) -> Any:
            if seen.shape != given.shape:  # of a pass that began before batches became smaller
                return network(seen)
            given.copy_(seen)
            graph.replay()
            return made

        return replay

    # What follows is all that is CUDA's: a test has another device in its place.

    @property
    def _streams(self) -> dict[str, Any]:
        return _streams(self.device)

    def _buffers(self, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return bytes in pinned memory, and as many on the device."""
        there = self._on(_IN, partial(torch.empty, shape, dtype=torch.uint8, device=self.device))
        return torch.empty(shape, dtype=torch.uint8, pin_memory=True), there

    def _on(self, stream: str, function: Callable[..., T], *args: Any) -> T:
        """Have what a function computes done in a stream, behind what this thread had done before."""
        its = self._streams[stream]
        its.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(its):
            return function(*args)

    def _record(self, stream: str) -> Any:
        """Return an event that comes when all that a stream was told is done."""
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        return self._streams[stream].record_event(event)

    def _hold(self, stream: str, event: Any) -> None:
        """Have a stream wait for an event."""
        self._streams[stream].wait_event(event)

    def _wait(self, event: Any) -> None:
        """Wait for an event."""
        event.synchronize()
