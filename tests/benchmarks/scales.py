"""Does a model say the same of one scene at several resolutions?

    python -m tests.benchmarks.scales SCENE [--model NAME] [--gsd 0.1 0.15 0.3 0.6 1.2]

The scene is resampled to each ground sampling distance as GIS programs do (averaged down, bilinear up),
mapped, and each map laid over that of the scene's own resolution, pixel by pixel of it.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import Resampling

import pfmap
from pfmap.core.classes import NODATA
from pfmap.core.grid import mean_size
from pfmap.raster.location import locate
from pfmap.raster.source import Source
from pfmap.vector.geodesy import pixel_size


def resampled(scene: Path, factor: float, target: Path) -> Path:
    """Write the scene with pixels `factor` times as large."""
    with rasterio.open(scene) as src:
        height, width = round(src.height / factor), round(src.width / factor)
        how = Resampling.average if factor > 1 else Resampling.bilinear
        image = src.read([1, 2, 3], out_shape=(3, height, width), resampling=how)
        transform = src.transform * src.transform.scale(src.width / width, src.height / height)
        with rasterio.open(
            target, "w", driver="GTiff", count=3, height=height, width=width, dtype="uint8", crs=src.crs,
            transform=transform,
        ) as dst:  # fmt: skip
            dst.write(image)
    return target


def classes_of(scene: Path, model: str, folder: Path) -> np.ndarray:
    """Map a scene, on its own grid."""
    result = pfmap.predict(scene, folder, model=model, confidence=False)
    with rasterio.open(result.outputs["classes"]) as src:
        found: np.ndarray = src.read(1)
    return found


def main() -> None:
    """Print the agreement at each resolution."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scene", type=Path)
    parser.add_argument("--model", default="landcover")
    parser.add_argument("--gsd", type=float, nargs="*", default=[0.1, 0.15, 0.3, 0.6, 1.2])
    options = parser.parse_args()
    with Source(locate(options.scene)) as source:
        own = mean_size(pixel_size(source.info.geobox) or (1.0, 1.0))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        reference = classes_of(options.scene, options.model, work / "own")
        known = reference != NODATA
        for gsd in options.gsd:
            scene = resampled(options.scene, gsd / own, work / f"{gsd:g}.tif")
            found = classes_of(scene, options.model, work / f"{gsd:g}")
            height, width = reference.shape
            rows = (np.arange(height) + 0.5) * found.shape[0] // height
            cols = (np.arange(width) + 0.5) * found.shape[1] // width
            laid = found[rows.astype(int)][:, cols.astype(int)]
            print(f"{gsd:g} m: {(laid == reference)[known].mean():.4f} agree with {own:.3f} m")


if __name__ == "__main__":
    main()
