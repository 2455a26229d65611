"""Sheets of a survey, cut out of one image or of one colour, and virtual rasters over them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from conftest import NORTH_UP, UTM, Write

SIDE = 100
"""Of sheets of one colour, pixels."""

Box = tuple[int, int, int, int]
"""Row, column, height and width."""

QUARTERS = [(0, 0, 100, 100), (0, 100, 100, 100), (100, 0, 100, 100), (100, 100, 100, 100)]
OVERLAPPING = [(0, 0, 120, 130), (0, 110, 130, 90), (90, 0, 110, 120), (110, 100, 90, 100)]


def sheets(write: Write, image: npt.NDArray[np.uint8], boxes: Sequence[Box], **profile: object) -> list[Path]:
    """Cut (row, col, height, width) out of an image, each as a scene at its place."""
    return [
        write(
            image[:, row : row + height, col : col + width],
            f"sheet{number}.tif",
            transform=NORTH_UP @ Affine.translation(col, row),
            **profile,
        )
        for number, (row, col, height, width) in enumerate(boxes)
    ]


def flat_sheet(path: Path, left: int = 0, value: int = 120, **profile: Any) -> Path:
    """Write a sheet of one grey, so many pixels to the right."""
    image = np.full((3, SIDE, SIDE), value, np.uint8)
    settings = {
        "driver": "GTiff",
        "crs": UTM,
        "transform": NORTH_UP @ NORTH_UP.translation(left, 0),
    } | profile
    with rasterio.open(path, "w", width=SIDE, height=SIDE, count=3, dtype="uint8", **settings) as dst:
        dst.write(image)
    return path


def virtual(
    path: Path, names: list[str], kind: str = "SimpleSource", *, scale: int = 1, rects: bool = True
) -> Path:
    """Sheets side by side, each shown so many times as large."""
    side, size = SIDE * scale, f'xSize="{SIDE}" ySize="{SIDE}"'
    bands = ""
    for band in (1, 2, 3):
        bands += f'<VRTRasterBand dataType="Byte" band="{band}">'
        for number, name in enumerate(names):
            place = (
                f'<DstRect xOff="{number * side}" yOff="0" xSize="{side}" ySize="{side}"/>' if rects else ""
            )
            source = f'<SrcRect xOff="0" yOff="0" {size}/>' if rects else ""
            bands += (
                f'<{kind}><SourceFilename relativeToVRT="1">{name}</SourceFilename>'
                f'<SourceBand>{band}</SourceBand><SourceProperties RasterXSize="{SIDE}" RasterYSize="{SIDE}" '
                f'DataType="Byte" BlockXSize="{SIDE}" BlockYSize="{SIDE}"/>{source}{place * rects}</{kind}>'
            )
        bands += "</VRTRasterBand>"
    width = side * len(names) if rects else SIDE
    path.write_text(
        f'<VRTDataset rasterXSize="{width}" rasterYSize="{side}"><SRS>{UTM}</SRS>'
        f"<GeoTransform>300000, 0.5, 0, 3000000, 0, -0.5</GeoTransform>{bands}</VRTDataset>"
    )
    return path
