"""What `make demo` runs: `pfmap predict` on the orthophoto beside this file, and where to look then."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
OUT = Path("out/demo")


def main() -> int:
    command = ["pfmap", "predict", str(HERE / "banepa.tif"), "-o", str(OUT), "--overwrite"]
    print("$", *command, flush=True)
    status = subprocess.run(
        [str(Path(sys.executable).with_name("pfmap")), *command[1:]], check=False
    ).returncode
    if status:
        return status
    print(
        f"""
Open {OUT.resolve() / "banepa.qgz"} in QGIS. It shows the orthophoto and, over it,
  banepa_classes.tif      what is on the ground, in the model's colours, with class names
  banepa_objects.gpkg     the same as polygons: click one for its class, area and confidence
  banepa_confidence.tif   how sure the model is, percent
  banepa_contact.tif      where houses touch, percent
banepa_report.json lists areas and objects per class, settings, timings and warnings."""
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
