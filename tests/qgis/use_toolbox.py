"""Run pfmap's algorithms in QGIS itself: from its command line, and in its window, which is drawn.

    make test-qgis

runs this; it needs QGIS and a screen (Debian: ``apt-get install qgis xvfb``).

    python tests/qgis/use_toolbox.py PFMAP FOLDER

PFMAP is installed into a profile of its own. What goes wrong is said on stderr, and the exit status is 1.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from tile_server import serving

ROOT = Path(__file__).parents[2]
SCENE = ROOT / "examples" / "banepa.tif"
FOOTPRINTS = ROOT / "examples" / "banepa_footprints.gpkg"
PROBLEMS = []


def expect(fine, problem):
    if not fine:
        PROBLEMS.append(problem)


class Toolbox:
    """qgis_process with a profile in which the plugin is installed."""

    def __init__(self, pfmap, folder):
        self.folder = folder
        self.profile = folder / "profiles" / "default"
        self.profile.mkdir(parents=True)
        (folder / "run").mkdir(mode=0o700)
        os.environ.update(QGIS_CUSTOM_CONFIG_PATH=str(folder), XDG_RUNTIME_DIR=str(folder / "run"))
        # Debian's script passes an option on that this program of version 3.22 does not know.
        self.program = shutil.which("qgis_process.bin") or shutil.which("qgis_process")
        subprocess.run([pfmap, "qgis", "install"], check=True)

    def set(self, **settings):
        """Change settings of Processing, as its dialog of options does."""
        path = self.profile / "QGIS" / "QGIS3.ini"
        lines = [
            line for line in path.read_text().splitlines() if "PFMAP_" not in line and line != "[Processing]"
        ]
        lines += ["[Processing]", *(f"Configuration\\{name}={value}" for name, value in settings.items())]
        path.write_text("\n".join(lines) + "\n")

    def call(self, *words):
        """Run qgis_process."""
        offscreen = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
        return subprocess.run(
            [self.program, *words], capture_output=True, text=True, check=False, env=offscreen
        )

    def run(self, name, *, fails=False, **values):
        """Run an algorithm; return its results and all it printed."""
        words = [f"--{key}={value}" for key, value in values.items()]
        done = self.call("--json", "run", f"pfmap:{name}", *words)
        said = done.stdout + done.stderr
        expect(bool(done.returncode) == fails, f"{name} ended with {done.returncode}: {said}")
        start = done.stdout.find("{")
        results = json.loads(done.stdout[start:])["results"] if start >= 0 and not fails else {}
        print(f"{name}: {sorted(results) or done.returncode}")
        return defaultdict(str, results), said


def check_commands(box, out):
    """Run each algorithm as qgis_process does."""
    corner = "9520231,9520331,3202640,3202740 [EPSG:3857]"
    listed = box.call("list").stdout
    for name in ("predict", "batch", "vectorize", "summary", "evaluate", "review", "train"):
        expect(f"pfmap:{name}\t" in listed, f"{name} is not in the toolbox")
    made, said = box.run("predict", INPUT=SCENE, OUTPUT=out / "one", SQUARE="building", MIN_AREA=2)
    expect("39 windows on cpu" in said, f"the plan is not said: {said}")
    for kind in ("CLASSES_RASTER", "CONFIDENCE", "OBJECTS", "PROJECT", "REPORT"):
        expect(kind in made and Path(made[kind].split("|")[0]).is_file(), f"predict lacks {kind}: {made}")
    part, _ = box.run("predict", INPUT=SCENE, OUTPUT=out / "part", EXTENT=corner)
    report = json.loads(Path(part["REPORT"]).read_text())
    expect(report["map"]["width"] < 1000 > report["map"]["height"], f"all was mapped: {report['map']}")
    again, _ = box.run("vectorize", INPUT=part["CLASSES_RASTER"], OUTPUT=out / "again", FORMAT="shp")
    expect(again["OBJECTS"].endswith("_objects.shp"), f"no shapefile: {again}")
    table, _ = box.run("summary", INPUT=part["OBJECTS"], ZONES=FOOTPRINTS, OUTPUT=out / "zones.csv")
    rows = list(csv.DictReader(Path(table["OUTPUT"]).read_text().splitlines()))
    expect(rows and "class" in rows[0], f"no table: {rows[:2]}")
    page = {"OBJECTS": "building", "ONLY": "building"}
    figures, _ = box.run(
        "evaluate", INPUT=made["CLASSES_RASTER"], TRUTH=FOOTPRINTS, OUTPUT=out / "page.html", **page
    )
    expect(0.5 < (figures["MEAN_IOU"] or 0) < 1, f"figures are {figures}")
    expect((out / "page.html").stat().st_size > 10_000, "the page is empty")
    listed, _ = box.run("review", INPUT=made["OBJECTS"], OUTPUT=out / "review.gpkg", COUNT=50)
    expect(listed["OBJECTS"].endswith("review.gpkg|layername=objects"), f"review gives {listed}")
    (out / "survey").mkdir()
    shutil.copy(SCENE, out / "survey")
    (out / "survey" / "broken.tif").write_text("no raster")
    survey, said = box.run("batch", INPUT=out / "survey", OUTPUT=out / "maps")
    expect(
        "broken.tif" in said and "1 of 2 scenes could not be mapped" in said, f"a failure is not said: {said}"
    )
    expect(Path(survey["OBJECTS"].split("|")[0]).is_file(), f"batch gives {survey}")
    _, said = box.run(
        "train", INPUT=SCENE, LABELS=part["OBJECTS"], FIELD="class", STEPS=2, OUTPUT=out / "model"
    )
    expect((out / "model" / "model.toml").is_file(), f"no model: {said}")
    used, _ = box.run("predict", INPUT=SCENE, EXTENT=corner, MODEL_FOLDER=out / "model", OUTPUT=out / "mine")
    expect("OBJECTS" in used, "the trained model is not used")
    return made


def check_failures(box, out):
    """Break what can break: what is wrong has to reach QGIS's log, and nothing is half done."""
    empty = out / "empty.tif"
    empty.write_text("no raster")
    _, said = box.run("predict", fails=True, INPUT=empty, OUTPUT=out / "none")
    expect("INPUT" in said, f"a broken layer is not said: {said}")
    _, said = box.run("predict", fails=True, INPUT=SCENE, OUTPUT=out / "none", FURTHER="--bands 1,2,9")
    expect("has bands 1 to 3, not 9: correct --bands" in said, f"pfmap's message is lost: {said}")
    _, said = box.run("predict", fails=True, INPUT=SCENE, OUTPUT=out / "one", SQUARE="road")
    expect("exist" in said, f"outputs that are there are not said: {said}")
    expect(not (out / "none").exists() or not any((out / "none").iterdir()), "something is half done")
    old = out / "old" / "pfmap"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho pfmap 0.1.0\n")
    old.chmod(0o755)
    box.set(PFMAP_COMMAND=old)
    _, said = box.run("predict", fails=True, INPUT=SCENE, OUTPUT=out / "none")
    expect("pfmap 0.1.0 is too old, 0.2 is needed" in said, f"an old pfmap is not said: {said}")
    box.set(PFMAP_COMMAND=out / "no" / "pfmap")
    _, said = box.run("predict", fails=True, INPUT=SCENE, OUTPUT=out / "none")
    expect("is no program here: install it" in said, f"a missing pfmap is not said: {said}")


def check_server(box, pfmap, out):
    """Have pfmap run behind a stand-in for ssh, on a machine where the folders have other names."""
    server = out / "server"
    (server / "data").mkdir(parents=True)
    shutil.copy(SCENE, server / "data" / "scene one.tif")
    here = out / "here"
    here.symlink_to(server)
    ssh = out / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(f'#!/bin/sh\nshift\necho "Welcome" >&2\ncd {server} && exec sh -c "$*"\n')
    ssh.chmod(0o755)
    box.set(PFMAP_COMMAND=f'"{ssh} host {pfmap}"', PFMAP_PATHS=f'"{here}={server}"')
    made, said = box.run(
        "predict", INPUT=here / "data" / "scene one.tif", OUTPUT=here / "maps", CLASSES="building"
    )
    expect(made.get("OBJECTS", "").startswith(str(here)), f"paths are the server's: {made}")
    expect("Welcome" in said, "what the server says is lost")
    _, said = box.run("predict", fails=True, INPUT=SCENE, OUTPUT=here / "other")
    expect("has no name where pfmap runs" in said, f"a path that is not there is not said: {said}")


def check_window(out):
    """Have QGIS itself, on a screen that nobody sees, do what in_window.py says."""
    told = out / "window.json"
    (out / "served").mkdir()
    shutil.copy(SCENE, out / "served" / "scene.tif")
    os.environ.update(PFMAP_SCENE=str(SCENE), PFMAP_OUT=str(out), QT_QPA_PLATFORM="xcb")
    code = str(Path(__file__).with_name("in_window.py"))
    command = ["qgis", "--nologo", "--noversioncheck", "--code", code]
    screen = ["Xvfb", "-displayfd", "1", "-screen", "0", "1400x900x24"]
    with serving(out / "served") as tiles, subprocess.Popen(screen, stdout=subprocess.PIPE) as server:
        try:
            os.environ["PFMAP_TILES"] = tiles.url
            os.environ["DISPLAY"] = f":{server.stdout.readline().decode().strip()}"
            subprocess.run(command, check=False, timeout=900)
        finally:
            server.terminate()
    expect(told.is_file(), "QGIS ended before it was done")
    PROBLEMS.extend(json.loads(told.read_text()) if told.is_file() else [])


def main():
    pfmap, out = str(Path(sys.argv[1]).absolute()), Path(sys.argv[2]).resolve()
    out.mkdir(parents=True)
    box = Toolbox(pfmap, out / "profile")
    check_commands(box, out)
    check_failures(box, out)
    check_server(box, pfmap, out)
    box.set()
    check_window(out)
    for problem in PROBLEMS:
        print(f"wrong: {problem}", file=sys.stderr)
    sys.exit(bool(PROBLEMS))


if __name__ == "__main__":
    main()
