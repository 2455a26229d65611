"""Square Banepa's buildings, with pfmap and with the PyPI package buildingregulariser, in one run.

    pip install buildingregulariser==0.2.5
    python -m tests.benchmarks.regularizing CLASSES.tif LABELS.tif

CLASSES.tif is what `pfmap predict` wrote of Banepa's scene, LABELS.tif the OpenStreetMap footprints on the
same pixels (1 is building). Both square the same outlines: buildings of 10 square metres or more that do not
end at the scene's edge. What agrees less than `LEAST_IOU` with its outline, or is no single polygon, is left
as it is. Footprints of buildings at the edge count as missed, for all alike.
"""

import argparse
import importlib.util
import sys
import tempfile
import time
import warnings
from collections.abc import Callable

import geopandas as gpd
import numpy as np
import rasterio
import shapely
from rasterio.features import rasterize

import pfmap
from pfmap.vector.regularize import LEAST_IOU, Row
from pfmap.vector.walls import iou

Squarer = Callable[[shapely.Polygon], shapely.Geometry | None]

TRAINED = 2048
"""Columns from which on the model never saw Banepa's footprints."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("classes")
    parser.add_argument("labels")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = pfmap.vectorize(args.classes, folder, classes=("building",)).outputs["gpkg"]
        objects = gpd.read_file(path, layer="objects")
    objects = objects[(objects["area_m2"] >= 10) & ~objects["touches_edge"]]
    with rasterio.open(args.labels) as src:
        truth, transform = src.read(1) == 1, src.transform
    # Web Mercator is the ground, but for the scale.
    scale = float(np.sqrt(objects["area_m2"].sum() / objects.area.sum()))
    outlines = shapely.transform(objects.geometry.array, lambda xy: xy * scale)

    squarers: dict[str, Squarer] = {"as traced": lambda _outline: None, "pfmap": ours}
    if importlib.util.find_spec("buildingregulariser"):
        for tolerance, parallel, diagonal in (
            (0.5, 1, False),
            (0.5, 1, True),
            (1, 1, False),
            (0.5, 0.5, True),
        ):
            name = f"package {tolerance:g} {parallel:g} {'45' * diagonal}"
            squarers[name] = theirs(tolerance, parallel, diagonal)
    else:
        print("buildingregulariser is not installed: pfmap alone", file=sys.stderr)
    print(f"{len(outlines)} buildings")
    print(f"{'':<18} squared  right corners  vertices  IoU trained on  IoU never seen  seconds")
    for name, squarer in squarers.items():
        begun = time.perf_counter()
        squared = [squarer(outline) for outline in outlines]
        seconds = time.perf_counter() - begun
        good = [found is not None and fits(found, old) for found, old in zip(squared, outlines, strict=True)]
        final = np.array(
            [a if ok else b for a, b, ok in zip(squared, outlines, good, strict=True)], dtype=object
        )
        burnt = rasterize(
            shapely.transform(final, lambda xy: xy / scale), out_shape=truth.shape, transform=transform
        )
        seen, unseen = (
            agreement(burnt[:, cols] == 1, truth[:, cols]) for cols in (slice(TRAINED), slice(TRAINED, None))
        )
        right = np.concatenate([corners(shape) for shape in final[good]] or [np.zeros(0)])
        print(
            f"{name:<18} {np.mean(good):7.1%}  {np.mean(right < 0.5) if len(right) else np.nan:13.1%}  "
            f"{shapely.get_num_coordinates(final).sum():8,}  {seen:14.4f}  {unseen:14.4f}  {seconds:7.2f}"
        )


def ours(outline: shapely.Polygon) -> shapely.Polygon | None:
    nobody = np.zeros(0, dtype=object)
    (found,) = Row(np.array([outline]), np.array([True]), 1.0).squared(lambda _polygon: nobody)
    return found


def theirs(tolerance: float, parallel: float, diagonal: bool) -> Squarer:
    from buildingregulariser.regularization import regularize_single_polygon

    def squarer(outline: shapely.Polygon) -> shapely.Geometry:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = regularize_single_polygon(outline, parallel, diagonal, 15, False, 0.9, True, tolerance)
        return shapely.union_all([one["geometry"] for one in found])

    return squarer


def fits(found: shapely.Geometry, outline: shapely.Polygon) -> bool:
    return found.geom_type == "Polygon" and found.is_valid and iou(found, outline) >= LEAST_IOU


def agreement(found: np.ndarray, truth: np.ndarray) -> float:
    return float((found & truth).sum() / (found | truth).sum())


def corners(shape: shapely.Polygon) -> np.ndarray:
    """Degrees by which the outer corners differ from right angles, or from none at all."""
    step = np.diff(shapely.get_coordinates(shape.exterior), axis=0)
    turn = np.degrees(np.diff(np.arctan2(*np.vstack([step, step[:1]]).T[::-1]))) % 90
    return np.minimum(turn, 90 - turn)


if __name__ == "__main__":
    main()
