"""Map a survey from Python: many sheets, one map and one report.

The survey is made of the demo orthophoto: four sheets that touch or overlap, in two folders, and one that is
damaged, as there always is one.

Run: python -m examples.survey_python [OUTPUT_DIR]
"""

import sys
from pathlib import Path

import geopandas as gpd
import rasterio
from affine import Affine
from rasterio.windows import Window

import pfmap

SHEETS = {
    "north/sheet_1": (0, 0, 1024, 1100),
    "north/sheet_2": (0, 1000, 600, 1100),
    "south/sheet_3": (600, 1100, 424, 1000),
    "south/sheet_4": (0, 2100, 1024, 1000),
}
"""Column, row, width and height of each in the orthophoto."""


def make_survey(folder: Path, scene: str = "examples/banepa.tif") -> None:
    with rasterio.open(scene) as src:
        for name, place in SHEETS.items():
            window = Window(*place)
            transform = src.transform @ Affine.translation(*place[:2])
            path = folder / f"{name}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            size = {"width": place[2], "height": place[3], "transform": transform}
            with rasterio.open(path, "w", **src.profile | size) as dst:
                dst.write(src.read(window=window))
    (folder / "damaged.tif").write_bytes(b"not a TIFF")


def main(out: str = "out/survey") -> None:
    survey, maps = Path(out) / "sheets", Path(out) / "maps"
    if not survey.exists():
        make_survey(survey)

    def on_scene(done: pfmap.SheetResult) -> None:
        print(f"{done.sheet.name}: {done.reason or 'mapped'}")

    def on_progress(pixels: int, of: int) -> None:
        """Called from time to time; a notebook would move its bar here."""

    result = pfmap.batch(survey, maps, min_area=1.0, on_scene=on_scene, on_progress=on_progress)

    # One layer of all objects; a house on the border of two sheets is one house.
    objects = gpd.read_file(result.outputs["gpkg"], layer="objects")
    print(objects.groupby(["scene", "class"]).size().unstack(fill_value=0))

    # Areas over the survey: what two sheets show counts once.
    for row in result.figures.classes:
        print(f"{row.name:<12} {row.area:>10,.0f} m2 {row.objects:>6} objects")
    failed = [scene for scene in result.scenes if scene.reason]
    print(f"{len(failed)} of {len(result.scenes)} scenes failed; read {result.outputs['html']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
