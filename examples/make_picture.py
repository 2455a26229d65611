"""Draw the README's picture from real output: the orthophoto, its class map, and its polygons.

Run after `make demo`: python -m examples.make_picture [OUTPUT_DIR] [PICTURE]
"""

import json
import sys
from pathlib import Path

import geopandas as gpd
import matplotlib.pyplot as plt
import numpy as np
import rasterio
from matplotlib.patches import Patch
from rasterio.windows import Window, bounds

HERE = Path(__file__).parent
WINDOW = Window(0, 1500, 1024, 1000)


def main(out: str = "out/demo", picture: str = str(HERE / "banepa.png")) -> None:
    with rasterio.open(HERE / "banepa.tif") as src:
        image = src.read(window=WINDOW).transpose(1, 2, 0)
        left, bottom, right, top = bounds(WINDOW, src.transform)
    with rasterio.open(Path(out) / "banepa_classes.tif") as src:
        classes = src.read(1, window=WINDOW)
        palette = np.array([src.colormap(1)[i] for i in range(256)], dtype=np.uint8)
        names = src.tags()["PFMAP_CLASSES"].split(",")
    objects = gpd.read_file(
        Path(out) / "banepa_objects.gpkg", layer="objects", bbox=(left, bottom, right, top)
    )
    report = json.loads((Path(out) / "banepa_report.json").read_text())
    colors = {name: palette[i] / 255 for i, name in enumerate(names)}

    figure, axes = plt.subplots(1, 3, figsize=(15, 5.4), dpi=110, layout="constrained")
    extent = (left, right, bottom, top)
    axes[0].imshow(image, extent=extent)
    axes[0].set_title("orthophoto")
    axes[1].imshow(palette[classes], extent=extent)
    axes[1].set_title("banepa_classes.tif")
    axes[2].imshow(image, extent=extent)
    shown = objects[objects["area_m2"] >= 4]
    shown.plot(
        ax=axes[2],
        facecolor=[(*colors[name][:3], 0.35) for name in shown["class"]],
        edgecolor=[colors[name] for name in shown["class"]],
        linewidth=0.8,
    )
    axes[2].set_title("banepa_objects.gpkg")
    for axis in axes:
        axis.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[], xlabel="", ylabel="")
        axis.set_aspect("equal")
    handles = [Patch(facecolor=colors[name], label=name.replace("_", " ")) for name in names]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(names), frameon=False)
    figure.savefig(picture)
    print(f"wrote {picture}, from model {report['model']['name']} {report['model']['sha256'][:12]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
