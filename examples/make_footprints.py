"""Cut the footprints of the demo orthophoto out of Banepa's label raster, as polygons.

Run once by the makers of pfmap: python -m examples.make_footprints LABELS. Users have the result,
`banepa_footprints.gpkg`.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import geopandas as gpd
import rasterio
from rasterio.windows import from_bounds

HERE = Path(__file__).parent
TARGET = HERE / "banepa_footprints.gpkg"


def main(labels: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "footprints.tif"
        with rasterio.open(HERE / "banepa.tif") as scene, rasterio.open(labels) as src:
            window = from_bounds(*scene.bounds, src.transform).round_offsets().round_lengths()
            with rasterio.open(
                part, "w", driver="GTiff", width=scene.width, height=scene.height, count=1, dtype="uint8",
                crs=scene.crs, transform=scene.transform, nodata=255,
            ) as dst:  # fmt: skip
                dst.write(src.read(1, window=window), 1)
        subprocess.run(
            [
                "pfmap",
                "vectorize",
                part,
                "--names",
                "0=open,1=building",
                "--classes",
                "building",
                "-o",
                folder,
            ],
            check=True,
        )
        found = gpd.read_file(next(Path(folder).glob("*.gpkg")), layer="objects")
    TARGET.unlink(missing_ok=True)
    found[["class", "geometry"]].to_file(TARGET, layer="footprints")
    print(f"wrote {TARGET}: {len(found)} footprints, {TARGET.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1])
