"""Options that say which model maps which scenes, and what computes; the others are in `options`."""
# ruff: noqa: RUF009 - option() makes a field, as dataclasses.field does

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pfmap.core.option import option

if TYPE_CHECKING:
    from pfmap.model.store import Model


class OpenedCluster(Protocol):
    """What `pfmap.cluster.opened_cluster` gives, as far as an option has to know it."""

    def settle(self, device: str, precision: str) -> Any:
        """Find out on what and in what arithmetic its workers run the network."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Which model maps, and what computes."""

    model: "str | Path | Model" = option(
        "landcover",
        "Model by name (see pfmap models list) or folder.",
        more="Or a loaded `Model`.",
        flags=("-m", "--model"),
    )
    device: str = option(
        "auto",
        "Where the network runs.",
        more="One of auto, cpu, cuda, cuda:N, mps.",
        metavar="auto|cpu|cuda|cuda:N|mps",
    )
    precision: str = option(
        "auto",
        "Arithmetic of the network; auto takes what the device does natively.",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    workers: int | None = option(
        None,
        "Compute in N worker processes on this machine: one per GPU, or sharing the cores.",
        more="None computes in this process. They import the script that calls: guard the call there by "
        '``if __name__ == "__main__":``.',
        metavar="N",
        least=1,
    )
    cluster: "str | OpenedCluster | None" = option(
        None,
        "Compute on a running Dask cluster: its scheduler's address or file. Scene, model and outputs are on "
        "storage that all its workers reach.",
        more="Or what `pfmap.cluster.opened_cluster` gave, which stays open for many scenes.",
        metavar="ADDRESS",
    )


@dataclass(frozen=True, slots=True)
class SurveyOptions:
    """Which scenes of many are mapped, and when."""

    pattern: str | None = option(
        None,
        "Which files of folders are scenes, such as 'ortho_*.tif'.",
        words="rasters with a place",
        flags=("--glob",),
        metavar="PATTERN",
    )
    retry_failed: bool = option(False, "Map only the scenes that failures.csv names.")
    watch: bool = option(
        False,
        "Go on with what appears in the folders, until Ctrl-C.",
        more="From Python, until `on_progress` raises. Files are taken once they are complete.",
    )
