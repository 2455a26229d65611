"""Cut the demo orthophoto out of the Banepa scene: its validation columns, JPEG-compressed with a mask.

Run once by the makers of pfmap: python -m examples.make_banepa SCENE. Users have the result, `banepa.tif`.
"""

import sys
from pathlib import Path

import rasterio
from rasterio.windows import Window

TARGET = Path(__file__).with_name("banepa.tif")
ATTRIBUTION = "OpenAerialMap contributors, CC BY 4.0"


def main(scene: str) -> None:
    with rasterio.open(scene) as src:
        window = Window(2048, 0, 1024, src.height)
        image = src.read([1, 2, 3], window=window)
        valid = src.dataset_mask(window=window) > 0
        transform, crs = src.window_transform(window), src.crs
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            TARGET,
            "w",
            driver="GTiff",
            width=1024,
            height=image.shape[1],
            count=3,
            dtype="uint8",
            crs=crs,
            transform=transform,
            tiled=True,
            blockxsize=512,
            blockysize=512,
            compress="jpeg",
            jpeg_quality=95,
            photometric="ycbcr",
        ) as dst,
    ):
        dst.update_tags(TIFFTAG_COPYRIGHT=ATTRIBUTION)
        dst.write(image)
        dst.write_mask(valid)
    print(f"wrote {TARGET}, {TARGET.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(sys.argv[1])
