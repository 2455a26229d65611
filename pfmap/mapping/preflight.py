"""What a user should know before a scene is mapped, as a table and as lines of text."""

from pathlib import Path
from typing import Any

from pfmap.core.resources import gigabytes
from pfmap.mapping.estimate import Estimate
from pfmap.mapping.plan import Plan
from pfmap.model.device import describe


def preflight_table(plan: Plan, estimated: Estimate, output_dir: Path) -> dict[str, Any]:
    """Put together scene, plan, estimates and warnings."""
    scene, card = plan.scene, plan.card
    return {
        "scene": {
            "path": scene.name,
            "driver": scene.driver,
            "width": scene.geobox.width,
            "height": scene.geobox.height,
            "bands": scene.count,
            "bands_used": list(scene.bands),
            "dtype": scene.dtype,
            "compression": scene.compression,
            "block": [scene.block[1], scene.block[0]],
            "crs": scene.geobox.crs_wkt,
            "crs_name": scene.geobox.crs_name,
            "transform": list(scene.geobox.transform),
            "gsd_m": None if plan.gsd is None else [round(value, 6) for value in plan.gsd],
            "valid_share": round(plan.sample.valid_share, 4),
            "scale": {"min": plan.scaling.low, "max": plan.scaling.high, "from": plan.scaling.origin},
        },
        "model": {
            "name": card.name,
            "window": card.input.window,
            "overlap": plan.grid.rows.overlap,
            "gsd_m": list(card.input.gsd),
            "bands": list(card.input.bands),
        },
        "plan": {
            "read_at_gsd_m": None if plan.model_gsd is None else [round(v, 6) for v in plan.model_gsd],
            "output_width": plan.geobox.width,
            "output_height": plan.geobox.height,
            "windows": estimated.windows,
            "windows_to_compute": estimated.compute,
            "device": describe(plan.device, plan.precision),
        },
        "estimate": {
            "seconds": None if estimated.seconds is None else round(estimated.seconds, 1),
            "memory_bytes": estimated.memory,
            "memory_free_bytes": estimated.free_memory,
            "disk_bytes": estimated.temporary,
            "output_bytes": estimated.final,
            "disk_free_bytes": estimated.free_disk,
            "output_dir": str(output_dir),
        },
        "warnings": list(plan.warnings),
    }


def describe_table(table: dict[str, Any]) -> list[str]:
    """Write the table for people, warnings last."""
    scene, model, plan, needs = table["scene"], table["model"], table["plan"], table["estimate"]
    bands = f"{scene['bands']} band{'s' * (scene['bands'] != 1)} {scene['dtype']}"
    lines = [
        f"scene    {scene['path']}: {scene['width']:,} x {scene['height']:,} pixels, {bands}, "
        f"{scene['driver']} {scene['compression']}, about {100 * scene['valid_share']:.0f} % valid"
    ]
    known = f"model {model['name']} knows {model['gsd_m'][0]:g} to {model['gsd_m'][1]:g} m"
    if scene["gsd_m"] is None:
        lines.append(f"pixels   of unknown size, {scene['crs_name']}; {known}")
    else:
        read = plan["read_at_gsd_m"]
        resampled = "" if read == scene["gsd_m"] else f", read at {_size(read)}"
        lines.append(
            f"pixels   {_size(scene['gsd_m'])} on the ground in {scene['crs_name']}{resampled}; {known}"
        )
    scale = scene["scale"]
    if (scale["min"], scale["max"]) != (0, 255) or scene["dtype"] != "uint8":
        lines.append(f"values   {scale['min']:g} to {scale['max']:g}: {scale['from']}")
    lines.append(
        f"windows  {plan['windows_to_compute']:,} of {plan['windows']:,} to compute, {model['window']} "
        f"pixels wide, overlap {model['overlap']}"
    )
    lines.append(f"map      {plan['output_width']:,} x {plan['output_height']:,} pixels")
    lines.append(f"device   {plan['device']}")
    if needs["seconds"] is not None:
        lines.append(f"time     about {duration(needs['seconds'])}")
    lines.append(
        f"memory   about {gigabytes(needs['memory_bytes'])} of {gigabytes(needs['memory_free_bytes'])} free"
    )
    word = "about" if needs["seconds"] is not None else "at most"
    lines.append(
        f"disk     {word} {gigabytes(needs['disk_bytes'])} of {gigabytes(needs['disk_free_bytes'])} free in "
        f"{needs['output_dir']}, {gigabytes(needs['output_bytes'])} of it for good"
    )
    return lines + [f"warning: {text}" for text in table["warnings"]]


def duration(seconds: float) -> str:
    """Write seconds for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _size(gsd: list[float]) -> str:
    across, down = gsd
    return f"{across:.4g} m" if abs(across / down - 1) < 0.01 else f"{across:.4g} x {down:.4g} m"
