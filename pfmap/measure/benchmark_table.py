"""What a benchmark found, as JSON has it and for people."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Stage:
    """What one stage of the pipeline did.

    Attributes:
        name: of the stage.
        workers: threads that it had.
        busy: seconds of work, added up over them.
        waiting: seconds without any.
    """

    name: str
    workers: int
    busy: float
    waiting: float


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement: the network alone, and around it the whole.

    Attributes:
        network_seconds: the network alone for all windows of the scene, in the mean of before and after.
        whole_seconds: from the first window that is read to the finished files.
        stages: in the order of the pipeline.
        memory: most memory that the process had meanwhile, bytes.
        device_memory: most of the device's own memory, bytes; None without one.
    """

    network_seconds: float
    whole_seconds: float
    stages: tuple[Stage, ...]
    memory: int
    device_memory: int | None


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What was measured, on what.

    Attributes:
        scene: the scene's name, or how it was made.
        width: pixels of the outputs.
        height: pixels of the outputs.
        model: its name; "none" for a network of zero cost.
        device: and precision, for people.
        window: side of the windows, pixels.
        overlap: pixels that they share.
        windows: on the scene that have data.
        multiply_adds: of the published network per window; 0 without a network.
        peak: multiply-adds per second of large matrix products on this device and precision.
        load_seconds: until the model was loaded.
        warm_up_seconds: until the first window was computed and the tracer compiled.
        idle_memory: of the process before the first run: libraries and model, bytes.
        runs: the measurements.
    """

    scene: str
    width: int
    height: int
    model: str
    device: str
    window: int
    overlap: int
    windows: int
    multiply_adds: int
    peak: float
    load_seconds: float
    warm_up_seconds: float
    idle_memory: int
    runs: tuple[Run, ...]

    def table(self) -> dict[str, Any]:
        """Return all figures, with medians of the runs, as JSON has them."""
        pixels = self.width * self.height
        network, whole = (
            float(np.median([getattr(run, name) for run in self.runs]))
            for name in ("network_seconds", "whole_seconds")
        )
        rate = self.multiply_adds * self.windows / network if network else 0.0
        summary = {
            "network_megapixels_per_second": pixels / network / 1e6 if network else None,
            "whole_megapixels_per_second": pixels / whole / 1e6,
            "whole_over_network": (
                float(np.median([run.whole_seconds / run.network_seconds for run in self.runs]))
                if network
                else None
            ),
            "multiply_adds_per_second": rate,
            "share_of_matrix_peak": rate / self.peak,
            "memory_above_idle": max(run.memory for run in self.runs) - self.idle_memory,
        }
        return {**asdict(self), "median": summary}


def bench_lines(found: Benchmark) -> list[str]:
    """Write the figures for people, a line each."""
    table = found.table()
    median, run = table["median"], found.runs[-1]
    lines = [
        f"scene     {found.scene}: {found.width:,} x {found.height:,} pixels",
        f"model     {found.model}, windows of {found.window} overlapping by {found.overlap}: "
        f"{found.windows:,}",
        f"device    {found.device}",
        f"start-up  model loaded in {found.load_seconds:.1f} s, warm in {found.warm_up_seconds:.1f} s more",
        "",
        f"{'':<16}{'seconds':>9}{'Mpx/s':>9}",
    ]
    for name, key in (("network alone", "network"), ("whole predict", "whole")):
        rate = median[f"{key}_megapixels_per_second"]
        if rate and (key == "whole" or found.multiply_adds):
            seconds = found.width * found.height / rate / 1e6
            lines.append(f"{name:<16}{seconds:>9.1f}{rate:>9.2f}")
    if found.multiply_adds:
        lines += [
            f"{'whole / network':<16}{median['whole_over_network']:>9.2f}",
            "",
            f"{median['multiply_adds_per_second'] / 1e9:,.0f} G multiply-adds a second of the published "
            f"network, {median['share_of_matrix_peak']:.0%} of this device's {found.peak / 1e9:,.0f} G",
        ]
    lines.append(
        f"memory    {max(r.memory for r in found.runs) / 1e6:,.0f} MB at most, "
        f"{median['memory_above_idle'] / 1e6:,.0f} MB above libraries and model"
    )
    if run.device_memory is not None:
        lines.append(f"          {run.device_memory / 1e6:,.0f} MB on the device")
    lines += ["", f"{'stage':<16}{'threads':>8}{'busy s':>9}{'waits s':>9}"]
    lines += [f"{s.name:<16}{s.workers:>8}{s.busy:>9.1f}{s.waiting:>9.1f}" for s in run.stages]
    return lines
