"""Draw a picture of buildings as the pixels are, simplified, and squared, from one class raster.

Run after `make demo`: python -m examples.make_polygon_picture [CLASSES] [PICTURE]
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import geopandas as gpd
import matplotlib.pyplot as plt
import rasterio
from rasterio.windows import Window, bounds

import pfmap

HERE = Path(__file__).parent
WINDOW = Window(300, 2640, 420, 400)
WAYS: dict[str, dict[str, Any]] = {
    "--simplify 0": {"simplify": 0},
    "as it is by default": {},
    "--regularize building --min-area 2 --fill-holes 10": {
        "regularize": ("building",),
        "min_area": 2,
        "fill_holes": 10,
    },
}


def main(
    classes: str = "out/demo/banepa_classes.tif", picture: str = str(HERE / "banepa_polygons.jpg")
) -> None:
    with rasterio.open(HERE / "banepa.tif") as src:
        image = src.read(window=WINDOW).transpose(1, 2, 0)
        left, bottom, right, top = bounds(WINDOW, src.transform)
    figure, axes = plt.subplots(1, 3, figsize=(15, 5.2), dpi=100, layout="constrained")
    for axis, (title, options) in zip(axes, WAYS.items(), strict=True):
        with tempfile.TemporaryDirectory() as folder:
            path = pfmap.vectorize(classes, folder, classes=("building",), **options).outputs["gpkg"]
            everything = gpd.read_file(path, layer="objects")
        objects = everything.cx[left:right, bottom:top]
        axis.imshow(image, extent=(left, right, bottom, top))
        objects.plot(ax=axis, facecolor=(0.84, 0.19, 0.12, 0.25), edgecolor="#ffdd00", linewidth=1.4)
        vertices = everything.geometry.count_coordinates().sum()
        axis.set_title(f"{title}\n{len(everything):,} buildings, {vertices:,} vertices in the whole scene")
        axis.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[], xlabel="", ylabel="")
        axis.set_aspect("equal")
    figure.savefig(picture)
    print(f"wrote {picture}")


if __name__ == "__main__":
    main(*sys.argv[1:])
