"""What a survey of many small scenes costs, against one large scene of as many pixels and windows.

    python -m tests.benchmarks.surveying [SIDE ...]

maps a scene of 8,064 x 8,064 pixels with the default model, and the same pixels cut into sheets of SIDE x
SIDE pixels, in turns, and prints the ratio of the seconds. Sides are multiples of 336, the windows' stride,
that divide 8,064: then both have as many windows.
"""

import sys
import tempfile
import time
from pathlib import Path

import rasterio
from affine import Affine
from rasterio.windows import Window

import pfmap
from pfmap.raster.synthetic import make_pattern, write_scene

WHOLE = 8064
ROUNDS = 3


def main() -> None:
    sides = [int(word) for word in sys.argv[1:]] or [2016, 672]
    model = pfmap.load_model()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = folder / "whole" / "scene.tif"
        whole.parent.mkdir()
        write_scene(whole, make_pattern(), WHOLE, WHOLE, 0.1, "jpeg")
        for side in sides:
            cut(whole, folder / f"sheets_{side}", side)
        seconds(folder / f"sheets_{sides[0]}" / "00000_00000.tif", folder / "warm", model)
        for number in range(ROUNDS):
            one = seconds(whole.parent, folder / f"one_{number}", model)
            for side in sides:
                many = seconds(folder / f"sheets_{side}", folder / f"many_{side}_{number}", model)
                count = (WHOLE // side) ** 2
                print(
                    f"{count} sheets of {side} x {side}: {many:.1f} s, one scene {one:.1f} s, "
                    f"{many / one:.3f} times, {1000 * (many - one) / count:.0f} ms a sheet",
                    flush=True,
                )


def cut(whole: Path, folder: Path, side: int) -> None:
    folder.mkdir()
    with rasterio.open(whole) as src:
        for row in range(0, WHOLE, side):
            for col in range(0, WHOLE, side):
                place = src.transform @ Affine.translation(col, row)
                profile = src.profile | {"width": side, "height": side, "transform": place}
                with rasterio.open(folder / f"{row:05d}_{col:05d}.tif", "w", **profile) as dst:
                    dst.write(src.read(window=Window(col, row, side, side)))


def seconds(scenes: Path, out: Path, model: object) -> float:
    begun = time.perf_counter()
    results = pfmap.predict_all(scenes, out, model=model)  # type: ignore[arg-type]
    assert not [result.reason for result in results if result.reason]
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
