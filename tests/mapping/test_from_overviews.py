"""Maps of scenes that are read from their overviews: as planned, said, and the same however they are cut."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from conftest import Write, stand_in
from rasterio.enums import Resampling
from scipy.ndimage import gaussian_filter

import pfmap
from pfmap.mapping.job import Job
from pfmap.mapping.options import PredictOptions
from pfmap.mapping.runtime import Runtime
from pfmap.model.store import Model
from pfmap.raster.location import locate


def coarse_model() -> Model:
    model = stand_in()
    spec = dataclasses.replace(model.card.input, gsd=(3.2, 10.0))
    return dataclasses.replace(model, card=dataclasses.replace(model.card, input=spec))


def regions() -> np.ndarray:
    """Regions of 40 pixels with detail on them."""
    rng = np.random.default_rng(0)
    large = gaussian_filter(rng.standard_normal((900, 1100)), 20)
    grey = np.select([large < np.quantile(large, q) for q in (0.35, 0.7)], [25, 120], 230)
    return (grey + rng.normal(0, 8, (3, 900, 1100))).clip(0, 255).astype(np.uint8)


def scene_with(write_scene: Write, name: str, method: str | None) -> Path:
    path = write_scene(regions(), name, tiled=True, blockxsize=256, blockysize=256)
    if method is not None:
        with rasterio.open(path, "r+") as dst:
            dst.build_overviews([2, 4], Resampling[method])
    return path


def mapped(scene: Path, out: Path, **options: Any) -> tuple[np.ndarray, dict[str, Any], list[str]]:
    """Classes and confidence of a map, its report, and what was said of it."""
    said: list[str] = []
    model, layers = coarse_model(), []
    result = pfmap.predict(
        scene, out, model=model, device="cpu", overlap=8, on_message=said.append, **options
    )
    for kind in ("classes", "confidence"):
        with rasterio.open(result.outputs[kind]) as src:
            layers.append(src.read(1))
    return np.stack(layers), result.report, said


@pytest.mark.parametrize("grid", ["scene", "model"])
def test_maps_from_overviews_are_those_from_pixels(grid: str, write_scene: Write, tmp_path: Path) -> None:
    (full, _, _), (nearest, left, _), (averaged, read, said) = (
        mapped(scene_with(write_scene, f"{method}.tif", method), tmp_path / "out", grid=grid)
        for method in (None, "nearest", "average")
    )
    assert (left["options"]["overview"], read["options"]["overview"]) == (0, 2)
    assert any("m from overviews 2 times as coarse" in line for line in said)
    assert np.array_equal(full, nearest)
    assert not np.array_equal(full, averaged)
    assert (full[0] == averaged[0]).mean() > 0.99


def test_a_run_goes_on_as_it_began_and_a_map_from_either_is_done(write_scene: Write) -> None:
    """An interrupted run begins anew where it would read otherwise now; a finished one is left alone."""
    scene = scene_with(write_scene, "scene.tif", "average")
    runtime = Runtime.of(coarse_model(), "cpu", "float32", None, print)
    with Job(locate(scene), runtime, PredictOptions(), print).planned() as (_, plan):
        other = dataclasses.replace(plan, overview=0)
    assert plan.overview == 2
    assert plan.fingerprint("scene") != other.fingerprint("scene")
    assert plan.identity("scene", "") == other.identity("scene", "")


def test_the_cut_into_swaths_changes_nothing(write_scene: Write, tmp_path: Path) -> None:
    scene = scene_with(write_scene, "scene.tif", "average")
    (whole, read, _), (cut, parts, _) = (mapped(scene, tmp_path / str(n), swath_pixels=n) for n in (10**9, 1))
    assert read["options"]["overview"] == parts["options"]["overview"] == 2
    assert np.array_equal(whole, cut)
    assert parts["swaths"]["all"] > 1
