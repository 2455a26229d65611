"""Map an orthophoto from Python, and work with the result as a GeoDataFrame and as an array.

Run: python -m examples.predict_python [SCENE] [OUTPUT_DIR]
"""

import sys
from pathlib import Path

import geopandas as gpd
import rasterio
import torch

import pfmap


def main(scene: str = "examples/banepa.tif", out: str = "out/python") -> None:
    result = pfmap.predict(scene, out, model="landcover", formats=("gpkg", "geojson"), overwrite=True)

    # Polygons, as any GeoDataFrame.
    objects = gpd.read_file(result.outputs["gpkg"], layer="objects")
    roofs = objects[(objects["class"] == "building") & (objects["confidence_mean"] > 0.6)]
    print(f"{len(roofs)} sure buildings, {roofs['area_m2'].sum():,.0f} m2 of roof")

    # The class raster, as any raster.
    with rasterio.open(result.outputs["classes"]) as src:
        print(f"{src.width} x {src.height} pixels in {src.crs}, classes {src.tags()['PFMAP_CLASSES']}")

    # What the run found, per class.
    for row in result.report["classes"]:
        print(f"{row['class']:<12} {row['area_m2']:>10,.0f} m2 {row['objects']:>6} objects")

    # The network itself, as a torch module: normalised (B, 3, H, W) in, logits (B, classes, H, W) out, and
    # behind them that of the contact map.
    model = pfmap.load_model("landcover")
    with torch.inference_mode():
        logits = model.network(torch.zeros(1, 3, 256, 256))
    print(Path(model.folder).name, tuple(logits.shape))


if __name__ == "__main__":
    main(*sys.argv[1:])
