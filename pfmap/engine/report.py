"""What a run says of itself: tags in the files, and the report beside them."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pfmap.classes import NODATA
from pfmap.engine.options import PredictOptions
from pfmap.engine.store import WEIGHTS_NAME, Model
from pfmap.engine.swaths import Swath
from pfmap.engine.weights import file_hash
from pfmap.grid import Grid
from pfmap.raster.source import SceneInfo
from pfmap.vector.measure import Measurer
from pfmap.version import __version__


@dataclass(frozen=True, slots=True)
class Run:
    """What a run was made with.

    Attributes:
        scene: the scene.
        grid: its windows.
        model: the model.
        model_hash: SHA-256 of its weights, or "" for a model that has no file.
        options: as given.
        device: in use.
        precision: in use.
        batch_size: in use.
        wanted: indices of the classes that become polygons.
    """

    scene: SceneInfo
    grid: Grid
    model: Model
    model_hash: str
    options: PredictOptions
    device: torch.device
    precision: torch.dtype
    batch_size: int
    wanted: Sequence[int]

    @property
    def precision_name(self) -> str:
        """Name of the precision, such as float32."""
        return str(self.precision).removeprefix("torch.")

    def tags(self) -> dict[str, str]:
        """Return the run's parameters, as they are kept in the output files."""
        card = self.model.card
        return {
            "PFMAP_VERSION": __version__,
            "PFMAP_MODEL": card.name,
            "PFMAP_MODEL_SHA256": self.model_hash,
            "PFMAP_WINDOW": str(self.grid.rows.window),
            "PFMAP_OVERLAP": str(self.grid.rows.overlap),
            "PFMAP_PRECISION": self.precision_name,
            "PFMAP_CLASSES": ",".join(spec.name for spec in card.classes),
            "PFMAP_ATTRIBUTION": card.provenance.attribution,
        }


@dataclass(slots=True)
class Tally:
    """Pixels and ground area per class, added up swath by swath.

    Attributes:
        scene: the scene.
        measurer: gives true areas.
        pixels: ``(256,)`` pixels per value of the class raster.
        areas: ``(256,)`` the same in square metres, or pixels where the scene has no CRS.
    """

    scene: SceneInfo
    measurer: Measurer
    pixels: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, dtype=np.int64))
    areas: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(256))

    def add(self, swath: Swath) -> None:
        """Count a swath; its pixels are as large as the one in its middle."""
        counts = np.bincount(swath.classes.ravel(), minlength=256)
        self.pixels += counts
        self.areas += counts * self.pixel_area((swath.rows.start + swath.rows.stop) / 2)

    @property
    def valid(self) -> int:
        """Number of pixels with a class."""
        return int(self.pixels[:NODATA].sum())

    def pixel_area(self, row: float) -> float:
        """Return the ground area of a pixel in the middle of a row: square metres, or 1 without a CRS."""
        if self.measurer.units == "px":
            return 1.0
        x = self.scene.width / 2
        corners = [self.scene.place(x + dx, row + dy) for dx, dy in ((0, 0), (1, 0), (1, 1), (0, 1))]
        return self.measurer.area(np.array(corners))

    @property
    def gsd(self) -> float | None:
        """Ground sampling distance at the scene's centre in metres; None without a CRS."""
        if self.measurer.units == "px":
            return None
        return float(np.sqrt(self.pixel_area(self.scene.height / 2)))


def model_hash(model: Model) -> str:
    """Return the SHA-256 of a model's weights, or "" for a model that was never a file."""
    path = model.folder / WEIGHTS_NAME
    return file_hash(path) if path.is_file() else ""


def build_report(
    run: Run,
    tally: Tally,
    objects: npt.NDArray[np.int64],
    seconds: Mapping[str, float],
    outputs: Mapping[str, Path],
    warnings: Sequence[str],
) -> dict[str, Any]:
    """Put together the content of the report file.

    Args:
        run: what the run was made with.
        tally: pixels and areas.
        objects: ``(classes,)`` objects written per class.
        seconds: per stage, and "total".
        outputs: final files by kind.
        warnings: what the user was warned of.
    """
    scene, card = run.scene, run.model.card
    unit = "m2" if tally.measurer.units == "m" else "px"
    gsd = tally.gsd
    return {
        "pfmap": __version__,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "scene": {
            "path": str(scene.path),
            "width": scene.width,
            "height": scene.height,
            "bands": list(scene.bands),
            "crs": scene.crs_wkt,
            "transform": list(scene.transform),
            "gsd_m": None if gsd is None else round(gsd, 5),
            "valid_pixels": tally.valid,
        },
        "model": {
            "name": card.name,
            "sha256": run.model_hash,
            "attribution": card.provenance.attribution,
        },
        "options": {
            "device": str(run.device),
            "precision": run.precision_name,
            "window": run.grid.rows.window,
            "overlap": run.grid.rows.overlap,
            "batch_size": run.batch_size,
            "formats": list(run.options.formats),
            "classes": [card.classes[i].name for i in run.wanted],
            "min_area": run.options.min_area,
        },
        "classes": [
            {
                "class_id": index,
                "class": spec.name,
                "pixels": int(tally.pixels[index]),
                f"area_{unit}": round(float(tally.areas[index]), 2),
                "objects": int(objects[index]),
            }
            for index, spec in enumerate(card.classes)
        ],
        "warnings": list(warnings),
        "outputs": {kind: path.name for kind, path in outputs.items()},
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "pixels_per_second": round(scene.width * scene.height / seconds["total"]),
        "peak_memory_bytes": _peak_memory(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            **{name: version(name) for name in ("numpy", "rasterio", "geopandas", "shapely")},
        },
    }


def _peak_memory() -> int | None:
    """Return the process's peak resident memory in bytes, where the system tells."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if platform.system() == "Darwin" else peak * 1024)
