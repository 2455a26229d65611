"""What a run says of itself in the report beside its files."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from pfmap.core.files import existing, read_text
from pfmap.core.grid import mean_size
from pfmap.core.resources import peak_memory
from pfmap.mapping.mapper import Mapped
from pfmap.mapping.plan import Plan
from pfmap.version import __version__

_DIFFERENCES = {
    "scene": "of the scene before it changed",
    "model": "of another model",
    "options": "of other options",
}


def read_report(path: Path) -> dict[str, Any] | None:
    """Read a report; None if there is none that can be read."""
    try:
        report = json.loads(read_text(path))
    except (OSError, ValueError):
        return None
    return report if isinstance(report, dict) else None


def is_done(report: Mapping[str, Any], identity: Mapping[str, str], folder: Path) -> bool:
    """Whether an earlier run made just what is wanted, and all of it is still there."""
    names = list(report.get("outputs", {}).values())
    there = bool(names) and existing(folder, names) == names
    return there and report.get("identity") == dict(identity)


def difference(report: Mapping[str, Any] | None, identity: Mapping[str, str]) -> str:
    """Say what is different about outputs that are there already, or nothing if that is not known."""
    before = (report or {}).get("identity", {})
    changed = [words for key, words in _DIFFERENCES.items() if key in before and before[key] != identity[key]]
    return f" ({' and '.join(changed)})" if changed else ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run went.

    Attributes:
        mapped: what it gave.
        batch_size: windows per pass at the end.
        seconds: of work per stage, added up over its threads (stages work at once), and "total" on the clock.
        warnings: what the user was warned of.
    """

    mapped: Mapped
    batch_size: int
    seconds: Mapping[str, float]
    warnings: Sequence[str]


def build_report(
    plan: Plan, outcome: Outcome, outputs: Mapping[str, str], identity: Mapping[str, str]
) -> dict[str, Any]:
    """Put together the content of the report file.

    Args:
        plan: what was to be done.
        outcome: what was done.
        outputs: names of the files by kind.
        identity: by which a later run knows that all this is done, as `Plan.identity` makes it.
    """
    scene, card, mapped = plan.scene, plan.card, outcome.mapped
    tally = mapped.tally
    unit = "m2" if tally.measurer.units == "m" else "px"
    return {
        "pfmap": __version__,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "scene": {
            "path": scene.name,
            "width": scene.geobox.width,
            "height": scene.geobox.height,
            "bands": list(scene.bands),
            "dtype": scene.dtype,
            "crs": scene.geobox.crs_wkt,
            "transform": list(scene.geobox.transform),
            "gsd_m": _mean(plan.gsd),
            "scale": {"min": plan.scaling.low, "max": plan.scaling.high, "from": plan.scaling.origin},
            "valid_pixels": tally.valid,
            "mean_confidence": round(tally.mean_confidence, 2),
            "unreadable_blocks": [list(block) for block in sorted(tally.unreadable)],
        },
        "model": {
            "name": card.name,
            "sha256": plan.model_hash,
            "attribution": card.provenance.attribution,
        },
        "options": {
            "device": str(plan.device),
            "precision": plan.precision_name,
            "window": plan.grid.rows.window,
            "overlap": plan.grid.rows.overlap,
            "batch_size": outcome.batch_size,
            "read_at_gsd_m": _mean(plan.model_gsd),
            "grid": plan.options.grid,
            "aoi": plan.options.aoi,
            "bbox": list(plan.options.bbox) if plan.options.bbox else None,
            "classes": [card.classes[i].name for i in plan.wanted],
            "shapes": asdict(plan.options.shapes),
            "on_read_error": plan.options.on_read_error,
        },
        "map": {
            "width": plan.geobox.width,
            "height": plan.geobox.height,
            "transform": list(plan.geobox.transform),
        },
        "classes": [
            {
                "class_id": index,
                "class": spec.name,
                "pixels": int(tally.pixels[index]),
                f"area_{unit}": round(float(tally.areas[index]), 2),
                "objects": int(mapped.objects.get(index, 0)),
            }
            for index, spec in enumerate(card.classes)
        ],
        "warnings": list(outcome.warnings),
        "outputs": dict(outputs),
        "identity": dict(identity),
        "swaths": {"all": mapped.swaths, "from_earlier_runs": mapped.resumed},
        "seconds": {name: round(value, 3) for name, value in outcome.seconds.items()},
        "pixels_per_second": round(plan.geobox.width * plan.geobox.height / outcome.seconds["total"]),
        "peak_memory_bytes": peak_memory(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            **_libraries(),
        },
    }


@cache  # reads many files
def _libraries() -> dict[str, str]:
    return {name: version(name) for name in ("numpy", "numba", "rasterio", "geopandas", "shapely")}


def _mean(gsd: tuple[float, float] | None) -> float | None:
    return None if gsd is None else round(mean_size(gsd), 5)
