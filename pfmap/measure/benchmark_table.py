"""The figures of a benchmark: for JSON, and as lines for people."""

from dataclasses import asdict, dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Stage:
    """What one stage of the pipeline did."""

    name: str
    workers: int
    busy: float
    """Seconds of work, added up over them."""
    waiting: float
    """Seconds without any."""


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement: the network alone, and around it the whole."""

    network_seconds: float
    """The network alone for all windows of the scene, in the mean of before and after."""
    whole_seconds: float
    """From the first window that is read to the finished files."""
    stages: tuple[Stage, ...]
    memory: int
    """Most memory that the process had meanwhile, bytes."""
    device_memory: int | None
    """Most of the device's own memory, bytes; None without one."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What was measured, on what."""

    scene: str
    width: int
    """Pixels of the outputs."""
    height: int
    model: str
    """Its name; none for a network of zero cost."""
    device: str
    window: int
    """Side of the windows, pixels."""
    overlap: int
    windows: int
    """Those on the scene that have data."""
    multiply_adds: int
    """Of the published network per window; 0 without a network."""
    peak: float
    """Multiply-adds per second of large matrix products on this device and precision."""
    load_seconds: float
    warm_up_seconds: float
    """Until the first window was computed and the tracer compiled."""
    idle_memory: int
    """Of the process before the first run: libraries and model, bytes."""
    runs: tuple[Run, ...]
    apart: tuple[Run, ...] = ()
    """The same with objects that touch taken apart, each right after one of them; or none."""

    @property
    def medians(self) -> dict[str, Any]:
        """The figures of all runs in one: of the median run, of memory the most; None without a network."""
        pixels = self.width * self.height
        network = median(run.network_seconds for run in self.runs)
        whole = median(run.whole_seconds for run in self.runs)
        pairs = zip(self.runs, self.apart, strict=False)  # or none
        apart = [taken.whole_seconds / run.whole_seconds for run, taken in pairs]
        beside = [run.whole_seconds / run.network_seconds for run in self.runs] if network else []
        rate = self.multiply_adds * self.windows / network if network else 0.0
        return {
            "network_megapixels_per_second": pixels / network / 1e6 if network else None,
            "whole_megapixels_per_second": pixels / whole / 1e6,
            "whole_over_network": median(beside) if beside else None,
            "apart_over_whole": median(apart) if apart else None,
            "multiply_adds_per_second": rate,
            "share_of_matrix_peak": rate / self.peak,
            "memory_above_idle": max(run.memory for run in self.runs) - self.idle_memory,
        }

    def table(self) -> dict[str, Any]:
        """Return all figures, with medians of the runs, as JSON has them."""
        return {**asdict(self), "median": self.medians}

    def lines(self) -> list[str]:
        """Write the figures for people, a line each."""
        from pfmap.report.html import render  # jinja2 loads here

        memory = max(run.memory for run in self.runs)
        return render("benchmark.txt.jinja", found=self, middle=self.medians, memory=memory).splitlines()
