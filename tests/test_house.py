"""The house is easy to find one's way in: short modules with names of their own, and few that map a scene."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import grimp
import networkx as nx
import rasterio
from rasterio.windows import Window

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "pfmap").rglob("*.py"))

# Prints the files of the package of which a function is called while a scene is mapped.
MAP = """
import json, sys, threading
from pathlib import Path
import geopandas, numba, rasterio, torch  # quicker while nobody takes notes
package, called = Path(sys.argv[1]), set()

def note(frame, event, _arg):
    code = frame.f_code
    if event == "call" and code.co_flags & 2:  # a function: neither a module's body nor a class's
        called.add(code.co_filename)

threading.setprofile(note)
sys.setprofile(note)
import pfmap
pfmap.predict(sys.argv[2], sys.argv[3], device="cpu", precision="float32")
sys.setprofile(None)
print(json.dumps(sorted(name for name in called if Path(name).is_relative_to(package))))
"""


def test_mapping_a_scene_runs_at_most_45_files(tmp_path: Path) -> None:
    scene = tmp_path / "scene.tif"
    with rasterio.open(ROOT / "examples" / "banepa.tif") as src:
        corner = src.read(window=Window(0, 0, 600, 500))
        with rasterio.open(scene, "w", **src.profile | {"width": 600, "height": 500}) as dst:
            dst.write(corner)
    command = [sys.executable, "-W", "ignore", "-c", MAP, str(ROOT / "pfmap"), str(scene), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    files = json.loads(done.stdout.splitlines()[-1])
    assert any(name.endswith("mapping/mapper.py") for name in files)
    assert len(files) <= 45, "\n".join(files)


def test_a_modules_name_stands_once() -> None:
    names = Counter(path.name for path in MODULES if path.name != "__init__.py")
    assert [name for name, count in names.items() if count > 1] == []


def test_modules_are_short() -> None:
    """Only tracing may be longer: its compiled loops belong together."""
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: n for name, n in lengths.items() if n > 320 and not name.startswith("pfmap/trace/")} == {}


def test_modules_import_each_other_in_no_circle() -> None:
    """Imports that only type checkers follow count too."""
    graph = grimp.build_graph("pfmap", exclude_type_checking_imports=False, cache_dir=None)
    imports = nx.DiGraph(
        (name, other) for name in graph.modules for other in graph.find_modules_directly_imported_by(name)
    )
    # The package's own names come from its rooms.
    imports.remove_nodes_from(["pfmap"])
    assert list(nx.simple_cycles(imports)) == []


def test_nothing_lies_about() -> None:
    """What is kept at the top is what somebody looks for there."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tops = {name.partition("/")[0] for name in listed.splitlines()}
    wanted = (
        ".ci .github .gitignore CHANGELOG.md CONTRIBUTING.md Containerfile LICENSE Makefile README.md "
        "SECURITY.md constraints.txt docs examples models pfmap pyproject.toml tests"
    )
    assert tops <= set(wanted.split())
