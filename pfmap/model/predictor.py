"""Run a network over windows: normalise, batch, autocast, softmax, several at once."""

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from itertools import compress
from typing import Any

import torch
from torch import Tensor, nn

from pfmap.core.card import InputSpec
from pfmap.core.errors import DeviceError
from pfmap.core.resources import lacks_memory
from pfmap.core.stages import Clock
from pfmap.model.lanes import VIEWS, Batch, CudaLane, Fill, Masks, Pixels, T, Window, joined

log = logging.getLogger(__name__)

MOST_WORKERS = 8
"""Passes at a time at most: each holds a window's activations."""


class Lane:
    """What a device does for batches, in order: copies in, arithmetic, copies out. This one waits for all."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def feed(self, shape: Sequence[int], fill: Fill, function: Callable[[Tensor], T]) -> T:
        """Have bytes of a shape filled on the host, copy them to the device, and compute with them there.

        What is returned may not be there yet, here and of `run`: it is for `run` and `download`.
        """
        staged = torch.empty(tuple(shape), dtype=torch.uint8)
        fill(staged)
        return function(staged.to(self.device))

    def run(self, function: Callable[..., T], *args: Any) -> T:
        """Compute on the device."""
        return function(*args)

    def call(self, network: nn.Module, seen: Tensor) -> Any:
        """Compute a network, always the same one, inside what is fed."""
        return network(seen)

    def download(self, made: Tensor) -> Callable[[], Tensor]:
        """Begin to copy to the host; what is returned waits for the end, and gives it."""
        return made.cpu

    def clear(self) -> None:
        """Let go of the device's memory: batches become smaller."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


class Predictor:
    """A network, its input settings and where it runs.

    Args:
        network: ``(B, bands, H, W)`` normalised float32 to logits ``(B, channels, H, W)``, evaluating.
        precision: type of the heavy arithmetic; autocast where it is not float32.
        batch_size: windows per pass. The batch is always full, padded if need be, so that a window's result
            does not depend on its company. Halved when the device runs out of memory.
        on_message: called with a line for people when that happens.
        threads: of a CPU, to be shared by all passes; None for torch's own number.
        contact: whether the last channel is that of the contact map, and no class.
        channels: how many of the network's are of use, from the first on; None for all.
        lane: how the device is told what to do.

    One scene at a time has the device: of several that are mapped at once, the next has its first windows
    ready, and they are computed right behind the last of the one before.
    """

    workers: int
    """Passes that `batches` computes at a time. The cores of a CPU get more done with a pass each than
    together on one, where they wait for each other after every layer."""

    def __init__(
        self,
        network: nn.Module,
        spec: InputSpec,
        device: torch.device | str = "cpu",
        precision: torch.dtype = torch.float32,
        batch_size: int = 1,
        on_message: Callable[[str], None] = log.warning,
        threads: int | None = None,
        *,
        contact: bool = False,
        channels: int | None = None,
        lane: CudaLane | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.lane = lane or Lane(self.device)
        self.network = network.to(self.device)
        self.spec, self.precision, self.batch_size = spec, precision, batch_size
        self.contact, self._channels = contact, channels
        # Asked for once: what torch says later, in another thread, is what `batches` last set in any.
        self._threads = threads or torch.get_num_threads()
        self.workers = min(self._threads, MOST_WORKERS) if self.device.type == "cpu" else 1
        self._say = on_message
        self._pool: ThreadPoolExecutor | None = None
        self._streams = 0  # that use it
        self._turn, self._lock = threading.Lock(), threading.Lock()
        # One multiplication and one addition take a pixel value to (value / 255 - mean) / std.
        std = torch.tensor(spec.std, dtype=torch.float32, device=self.device)
        mean = torch.tensor(spec.mean, dtype=torch.float32, device=self.device)
        self._gain = (1 / (std * 255)).view(1, -1, 1, 1)
        self._offset = (-mean / std).view(1, -1, 1, 1)

    @property
    def ahead(self) -> int:
        """Windows to have read when others are being computed: a batch for each worker, and one more."""
        return (self.workers + 1) * self.batch_size

    def probabilities(self, windows: Pixels, valid: Masks, tta: str = "none") -> Tensor:
        """Compute class probabilities of windows, the mean over their `VIEWS`, in as many passes as needed.

        They are ``(len(windows), channels, window, window)`` float32, on the device: the classes, and behind
        them the contact, where the network shows it. A `DeviceError` says that not even one window fits into
        its memory, or that numbers come out that are none.
        """
        made, sound = self._made(windows, valid, tta)
        if not self.lane.download(sound)().all():  # until then the device computes
            raise self.unsound("a window")
        return made

    def _made(self, windows: Pixels, valid: Masks, tta: str) -> tuple[Tensor, Tensor]:
        """Compute probabilities, and for each window whether all its logits were finite, as ``(n,)`` bool.

        That stays on the device: asking for it would have a GPU wait.
        """
        parts: list[tuple[Tensor, Tensor]] = []
        done = 0
        while done < len(windows):
            batch = slice(done, done + self.batch_size)
            part = None
            try:
                views = partial(self._views, len(windows[batch]), tta)
                part = self.prepare(windows[batch], valid[batch], views)
            except (MemoryError, RuntimeError) as error:
                if not lacks_memory(error):
                    raise
            if part is None:  # with the error went what the failed pass held
                self._halve(batch.stop - done)
            else:
                parts.append(part)
                done = batch.stop
        return parts[0] if len(parts) == 1 else self.lane.run(joined, parts)

    @torch.inference_mode()
    def _views(self, count: int, tta: str, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the first so many windows, a view after the other."""
        made, sound = self._pass(seen, count)
        for swapped, flipped in VIEWS[tta][1:]:
            view = (seen.mT if swapped else seen).flip(flipped)
            view = view.contiguous(memory_format=torch.channels_last)
            turned, fine = self._pass(view, count)
            turned = turned.flip(flipped)
            made += turned.mT if swapped else turned
            sound &= fine
        return made if tta == "none" else made.div_(len(VIEWS[tta])), sound

    def _pass(self, seen: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Compute probabilities of the first so many windows, and whether their logits are finite."""
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            logits = self.lane.call(self.network, seen)
        logits = logits[:count, : self._channels].float()
        # One infinite logit of a class makes its sum so, even where the softmax hides it.
        sound = logits.sum(dim=(1, 2, 3)).isfinite()
        if not self.contact:
            return torch.softmax(logits, dim=1), sound
        made = torch.softmax(logits[:, :-1], dim=1), torch.sigmoid(logits[:, -1:])
        return torch.cat(made, dim=1), sound

    def _halve(self, tried: int) -> None:
        """Go on with half of a size that did not fit, unless another pass was quicker to."""
        if tried == 1:
            raise DeviceError(
                "the device ran out of memory with a single window per pass: close other programs that use "
                "it, choose a model with smaller windows, try precision='bfloat16', or use device='cpu' (one "
                "pass at a time with OMP_NUM_THREADS=1)"
            )
        with self._lock:
            if self.batch_size < tried:
                return
            self.batch_size = tried // 2
        self.lane.clear()
        self._say(f"warning: the device ran out of memory: going on with {self.batch_size} windows per pass")

    def prepare(self, windows: Pixels, valid: Masks, function: Callable[[Tensor], T]) -> T:
        """Put up to a batch of windows on the device, normalised as the network is to see them, and compute.

        They are ``(batch_size, bands, window, window)`` float32; invalid pixels and missing windows are 0.
        """
        bands, side, _ = windows[0].shape
        size = max(self.batch_size, len(windows))  # another pass may have halved it meanwhile

        def fill(staged: Tensor) -> None:
            for index in range(len(windows)):
                staged[index, :bands] = torch.from_numpy(windows[index])
                staged[index, bands] = torch.from_numpy(valid[index])
            staged[len(windows) :, bands] = 0

        def compute(staged: Tensor) -> T:
            pixels, mask = staged[:, :bands], staged[:, bands:].view(torch.bool)
            seen = (pixels.float() * self._gain + self._offset) * mask
            return function(seen.contiguous(memory_format=torch.channels_last))

        return self.lane.feed((size, bands + 1, side, side), fill, compute)

    def batches(
        self, windows: Iterable[Window], clock: Clock | None = None, tta: str = "none"
    ) -> Generator[Batch]:
        """Compute windows in batches, keeping their order; empty ones are not computed.

        Close the generator when stopping early; one of windows is closed at the end. The clock gets the
        seconds of all workers.
        """
        # Of this thread, which blends while the workers compute.
        torch.set_num_threads(max(1, self._threads // self.workers))
        running, clock = deque[Future[Batch]](), clock or Clock()
        turn = contextlib.ExitStack()
        pool = self._begin()
        try:
            for batch in self._batches(windows):
                if not running:
                    turn.enter_context(self._turn)
                running.append(pool.submit(self._compute, batch, clock, tta))
                # One more than there are workers, so that none waits for the next.
                if len(running) > self.workers:
                    yield running.popleft().result()
            turn.close()
            while running:
                yield running.popleft().result()
        finally:
            wait([future for future in running if not future.cancel()])
            turn.close()
            self._end()
            torch.set_num_threads(self._threads)
            if isinstance(windows, Generator):
                windows.close()

    def _begin(self) -> ThreadPoolExecutor:
        """Return the threads that compute, the same for scenes that follow each other without a pause.

        The memory of a new thread comes from the system, page by page.
        """
        with self._lock:
            if self._pool is None:
                each = max(1, self._threads // self.workers)
                self._pool = ThreadPoolExecutor(self.workers, "pfmap-network", torch.set_num_threads, (each,))
            self._streams += 1
            return self._pool

    def _end(self) -> None:
        """Let go of the threads; whoever is last ends them."""
        with self._lock:
            self._streams -= 1
            if not self._streams and self._pool is not None:
                self._pool.shutdown()
                self._pool = None

    def _batches(self, windows: Iterable[Window]) -> Iterator[list[Window]]:
        waiting: list[Window] = []
        full = 0
        for window in windows:
            waiting.append(window)
            full += bool(window.seen.any())
            # A rotated survey has long runs of empty windows: they must not pile up.
            if full >= self.batch_size or not full or len(waiting) >= 4 * self.batch_size:
                yield waiting
                waiting, full = [], 0
        if waiting:
            yield waiting

    def _compute(self, batch: list[Window], clock: Clock, tta: str) -> Batch:
        seen = [bool(window.seen.any()) for window in batch]
        if not (some := list(compress(batch, seen))):
            return Batch(batch, seen, None)
        with clock.stage("network"):
            return Batch(batch, seen, self._made([w.pixels for w in some], [w.seen for w in some], tta))

    def refuse_unsound(self, batch: Batch, sound: Tensor) -> None:
        """Refuse a window whose logits are not all finite; `sound` is the batch's, on the host."""
        if not sound.all():
            window = list(compress(batch.windows, batch.seen))[sound.tolist().index(False)]
            raise self.unsound(f"window {window.col} of window row {window.row}, counted from 0,")

    def unsound(self, window: str) -> DeviceError:
        """Say that logits of a window are not all finite, or its pixels would be of any class."""
        remedy = "its weights are damaged, or too large: train or import the model again"
        if self.precision != torch.float32:
            remedy = f"{precision_name(self.precision)} does not hold its numbers: use precision='float32'"
        return DeviceError(f"the model gives NaN or infinite numbers for {window} of the scene: {remedy}")


def precision_name(precision: torch.dtype) -> str:
    """Name a precision, such as float32."""
    return str(precision).removeprefix("torch.")
