"""What a run says of itself: before it begins, and in the report beside its files."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pfmap.core.errors import SourceError
from pfmap.core.files import existing, is_bare
from pfmap.core.grid import mean_size
from pfmap.core.resources import gigabytes, peak_memory
from pfmap.core.tables import read_json, table_of
from pfmap.mapping.estimate import Estimate
from pfmap.mapping.mapper import Mapped
from pfmap.mapping.plan import Plan
from pfmap.mapping.runtime import describe
from pfmap.model.lanes import VIEWS
from pfmap.model.predictor import precision_name
from pfmap.raster.gdal import GDAL_ERRORS, crs_of, geobox_of, opened
from pfmap.raster.location import locate
from pfmap.report.scene_report import ClassRow, MapFacts, ModelFacts, SceneFacts, SceneReport, Swaths
from pfmap.report.wording import duration
from pfmap.version import __version__

_DIFFERENCES = {
    "scene": "of the scene before it changed",
    "model": "of another model",
    "options": "of other options",
}


@dataclass(frozen=True, slots=True)
class Preflight:
    """What a user should know before a scene is mapped."""

    plan: Plan
    estimate: Estimate
    output_dir: Path
    """Where the disk was looked at."""

    def table(self) -> dict[str, Any]:
        """Put scene, plan, estimates and warnings together for programs."""
        plan, estimated = self.plan, self.estimate
        scene, card = plan.scene, plan.card
        return {
            "scene": {
                "path": scene.name,
                "driver": scene.driver,
                "width": scene.geobox.width,
                "height": scene.geobox.height,
                "bands": scene.count,
                "bands_used": list(scene.bands),
                "extra": plan.options.extra,
                "dtype": scene.dtype,
                "compression": scene.compression,
                "block": [scene.block[1], scene.block[0]],
                "crs": scene.geobox.crs_wkt,
                "crs_name": scene.geobox.crs_name,
                "transform": list(scene.geobox.transform),
                "gsd_m": _rounded(plan.gsd),
                "valid_share": round(plan.sample.valid_share, 4),
                "scale": table_of(plan.scaling),
            },
            "model": {
                "name": card.name,
                "window": card.input.window,
                "overlap": plan.grid.rows.overlap,
                "gsd_m": list(card.input.gsd),
                "bands": list(card.input.bands),
            },
            "plan": {
                "read_at_gsd_m": _rounded(plan.model_gsd),
                "overview": plan.overview,
                "output_width": plan.geobox.width,
                "output_height": plan.geobox.height,
                "windows": estimated.windows,
                "windows_to_compute": estimated.compute,
                "device": describe(plan.device, plan.precision),
                **plan.options.decided,
                "min_area": plan.limits,
                "separated": plan.chosen.separation and plan.chosen.separation.about(card.by_index),
            },
            "estimate": {
                "seconds": None if estimated.seconds is None else round(estimated.seconds, 1),
                "memory_bytes": estimated.memory,
                "memory_free_bytes": estimated.free_memory,
                "disk_bytes": estimated.temporary,
                "output_bytes": estimated.final,
                "disk_free_bytes": estimated.free_disk,
                "output_dir": str(self.output_dir),
            },
            "warnings": list(plan.warnings),
        }

    def lines(self) -> list[str]:
        """Write the same for people, warnings last."""
        plan, needs = self.plan, self.estimate
        scene, card, box, tta = plan.scene, plan.card, plan.scene.geobox, plan.options.tta
        bands = f"{scene.count} band{'s' * (scene.count != 1)} {scene.dtype}"
        lines = [
            f"scene    {scene.name}: {box.width:,} x {box.height:,} pixels, {bands}, {scene.driver} "
            f"{scene.compression}, about {100 * plan.sample.valid_share:.0f} % valid"
        ]
        lines += [f"band     {name} from {file}" for name, file in (plan.options.extra or {}).items()]
        gsd = card.input.gsd
        lines.append(f"pixels   {_pixels(plan)}; model {card.name} knows {gsd[0]:g} to {gsd[1]:g} m")
        scaling = plan.scaling
        if (scaling.low, scaling.high) != (0, 255) or scene.dtype != "uint8":
            lines.append(f"values   {scaling.low:g} to {scaling.high:g}: {scaling.origin}")
        lines.append(
            f"windows  {needs.compute:,} of {needs.windows:,} to compute, {card.input.window} pixels wide, "
            f"overlap {plan.grid.rows.overlap}" + f", in {len(VIEWS[tta])} views each" * (tta != "none")
        )
        if threshold := plan.options.decided.get("threshold"):
            lines.append(f"classes  only above {threshold}, else the next best")
        lines.append(f"map      {plan.geobox.width:,} x {plan.geobox.height:,} pixels")
        small = ", ".join(f"{name} {limit:.3g}" for name, limit in plan.limits.items() if limit)
        unit = "pixels" if plan.geobox.crs_wkt is None else "m2"
        lines.append(f"objects  from so many {unit} on: {small}" if small else "objects  of any size")
        if plan.chosen.separation is not None and not plan.chosen.separation.by_shape:
            lines.append(f"         {plan.chosen.separation.about(card.by_index)}")
        lines.append(f"device   {describe(plan.device, plan.precision)}")
        word = "at most" if needs.seconds is None else "about"
        lines += [] if needs.seconds is None else [f"time     about {duration(needs.seconds)}"]
        lines.append(f"memory   about {gigabytes(needs.memory)} of {gigabytes(needs.free_memory)} free")
        lines.append(
            f"disk     {word} {gigabytes(needs.temporary)} of {gigabytes(needs.free_disk)} free in "
            f"{self.output_dir}, {gigabytes(needs.final)} of it for good"
        )
        return lines + [f"warning: {text}" for text in plan.warnings]


def _pixels(plan: Plan) -> str:
    """Say how large the scene's pixels are, and what is read of them."""
    name = plan.scene.geobox.crs_name
    if plan.gsd is None or plan.model_gsd is None:
        return f"of unknown size, {name}"
    read = f", read at {_size(plan.model_gsd)}" if plan.frame.resampled else ""
    overview = f" from overviews {plan.overview} times as coarse" * bool(plan.overview)
    return f"{_size(plan.gsd)} on the ground in {name}{read}{overview}"


def earlier_report(path: Path) -> SceneReport | None:
    """Read what an earlier run said of a scene; None without a report, or with one of another map.

    A survey places maps by what their reports say.
    """
    report = read_json(path, SceneReport)
    if report is None or not all(map(is_bare, report.outputs.values())):
        return None
    told, place = report.grid, path.parent / report.outputs.get("classes", "")
    try:
        with opened(location := locate(place)) as src:
            box = geobox_of(src, location)
        same = (box.width, box.height, crs_of(box.crs_wkt)) == (told.width, told.height, crs_of(told.crs_wkt))
    except (SourceError, ValueError, *GDAL_ERRORS):  # the second: no CRS
        return None
    return report if same and np.allclose(box.transform, told.transform, rtol=1e-12) else None


def is_done(report: SceneReport, identity: Mapping[str, str], folder: Path) -> bool:
    """Whether an earlier run made just what is wanted, and all of it is still there."""
    names = list(report.outputs.values())
    return bool(names) and existing(folder, names) == names and report.identity == identity


def difference(report: SceneReport | None, identity: Mapping[str, str]) -> str:
    """Say what is different about outputs that are there already, or nothing if that is not known."""
    before = {} if report is None else report.identity
    changed = [words for key, words in _DIFFERENCES.items() if key in before and before[key] != identity[key]]
    return f" ({' and '.join(changed)})" if changed else ""


def build_report(
    plan: Plan,
    mapped: Mapped,
    *,
    batch_size: int,
    seconds: Mapping[str, float],
    warnings: Sequence[str],
    outputs: Mapping[str, str],
    identity: Mapping[str, str],
) -> SceneReport:
    """Put together what the report file says; `batch_size` are the windows per pass at the end."""
    scene, card = plan.scene, plan.card
    tally, box = mapped.tally, plan.geobox
    unit = f"area_{tally.measurer.area_units}"
    return SceneReport(
        pfmap=__version__,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        scene=SceneFacts(
            path=scene.name,
            width=scene.geobox.width,
            height=scene.geobox.height,
            bands=scene.bands,
            dtype=scene.dtype,
            crs=scene.geobox.crs_wkt,
            transform=scene.geobox.transform,
            gsd_m=_mean(plan.gsd),
            scale=plan.scaling,
            valid_pixels=tally.valid,
            mean_confidence=round(tally.mean_confidence, 2),
            unreadable_blocks=tuple(sorted(tally.unreadable)),
        ),
        model=ModelFacts(card.name, plan.model_hash, card.provenance.attribution),
        options={
            "device": str(plan.device),
            "precision": precision_name(plan.precision),
            "window": plan.grid.rows.window,
            "overlap": plan.grid.rows.overlap,
            "batch_size": batch_size,
            "read_at_gsd_m": _mean(plan.model_gsd),
            "overview": plan.overview,
            "grid": plan.options.grid,
            "extra": plan.options.extra,
            "aoi": plan.options.aoi,
            "bbox": plan.options.bbox,
            "bbox_crs": plan.options.bbox_crs,
            **plan.options.decided,
            "classes": [card.classes[i].name for i in plan.wanted],
            "separated": plan.chosen.separation and plan.chosen.separation.about(card.by_index),
            "shapes": asdict(plan.options.shapes),
            "on_read_error": plan.options.on_read_error,
        },
        map=MapFacts(box.width, box.height, box.transform),
        classes=tuple(
            ClassRow(
                class_id=index,
                name=spec.name,
                pixels=int(tally.pixels[index]),
                objects=int(mapped.objects.get(index, 0)),
                merged_regions=mapped.merged["regions", index],
                merged_pixels=mapped.merged["pixels", index],
                **{unit: round(float(tally.areas[index]), 2)},
            )
            for index, spec in enumerate(card.classes)
        ),
        warnings=tuple(warnings),
        outputs=outputs,
        identity=identity,
        swaths=Swaths(mapped.swaths, mapped.resumed),
        seconds={name: round(value, 3) for name, value in seconds.items()},
        pixels_per_second=round(box.width * box.height / seconds["total"]),
        peak_memory_bytes=peak_memory(),
        versions={"python": platform.python_version(), "torch": torch.__version__, **_libraries()},
    )


@cache  # reads many files
def _libraries() -> dict[str, str]:
    return {name: version(name) for name in ("numpy", "numba", "rasterio", "geopandas", "shapely")}


def _mean(gsd: tuple[float, float] | None) -> float | None:
    return None if gsd is None else round(mean_size(gsd), 5)


def _rounded(gsd: tuple[float, float] | None) -> list[float] | None:
    return None if gsd is None else [round(value, 6) for value in gsd]


def _size(gsd: tuple[float, float]) -> str:
    across, down = gsd
    return f"{across:.4g} m" if abs(across / down - 1) < 0.01 else f"{across:.4g} x {down:.4g} m"
