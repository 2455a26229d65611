"""Code that was compiled by an earlier process serves later ones, but never longer than it is true."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import rasterio
from numba.core.caching import NullCache
from rasterio.windows import Window

import pfmap
from pfmap.mapping.run_options import RunOptions
from pfmap.survey.single import started
from pfmap.trace import tile

LOOPS = """
from typing import NamedTuple
import numpy as np
from pfmap.trace.tile import compiled, root

class Pair(NamedTuple):
    parent: np.ndarray

@compiled
def top(pair):
    return root(pair.parent, 1)

print(top(Pair(np.array([0, 0]))), sum(top.stats.cache_hits.values()), sum(top.stats.cache_misses.values()))
"""


HELPED = """
import subprocess, sys
from pfmap.trace import tile
tile.helpers.append(subprocess.Popen([sys.executable, "-c", {program!r}], stdout=subprocess.DEVNULL))
import pfmap.trace.loops
"""

NEW = """
import sys
from numba.core.dispatcher import Dispatcher
import pfmap
from pfmap.trace import separate, sieve, simplify, tile, tracer

def known():
    loops = {f"{m.__name__}.{k}": v for m in (separate, sieve, simplify, tile) for k, v in vars(m).items()}
    return {f"{k}{s}" for k, v in loops.items() if isinstance(v, Dispatcher) for s in v.signatures}

tracer._compile_lines()
tracer._compile_objects()
before = known()
made = pfmap.predict(sys.argv[1])
print(len(before) > 5, made.facts.classes[0].objects > 5, sorted(known() - before))
"""


def put(file: Path, before: str, after: str) -> None:
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the package's compiled loops, with some more in it that were never run."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(pfmap.__file__).parent, tmp_path / "pfmap", ignore=ignored)
    folder = tmp_path / "pfmap" / "trace"
    (folder / "loops.py").write_text(LOOPS)
    return folder


def run(folder: Path, program: str = "import pfmap.trace.loops") -> str:
    command, env = [sys.executable, "-c", program], {**os.environ, "PYTHONPATH": ""}
    copy = folder.parents[1]
    done = subprocess.run(command, check=False, cwd=copy, env=env, capture_output=True, text=True)
    return done.stdout.strip() or done.stderr


def test_code_that_was_compiled_is_used_until_an_update_makes_it_another(folder: Path) -> None:
    assert run(folder) == "0 0 1"
    put(folder / "tile.py", "    return index\n", "    return index + 7\n")  # what is called in another file
    assert run(folder) == "7 0 1"
    put(folder / "loops.py", "Pair", "Couple")
    assert run(folder) == "7 0 1"
    for name in folder.rglob("loops.top*.nbc"):
        name.write_bytes(name.read_bytes()[:100])
    assert run(folder) == "7 0 1"
    assert run(folder) == "7 1 0"


@pytest.mark.parametrize(
    ("program", "wanted"),
    [
        ("import time, pfmap.trace.loops; time.sleep(1)", "0 1 0"),
        ("import time; time.sleep(2)", "0 0 1"),
        ("import sys; sys.exit(1)", "0 0 1"),
    ],
)
def test_code_that_a_helper_compiles_is_waited_for(folder: Path, program: str, wanted: str) -> None:
    """Whatever it does not compile, for whatever reason, is compiled here."""
    assert run(folder, HELPED.format(program=program)) == wanted


def test_helpers_compile_all_loops_that_a_run_calls(tmp_path: Path) -> None:
    with rasterio.open(Path(pfmap.__file__).parents[1] / "examples" / "banepa.tif") as src:
        part = Window(0, 0, 500, 400)
        profile = src.profile | {"width": 500, "height": 400, "photometric": None, "compress": "deflate"}
        with rasterio.open(tmp_path / "scene.tif", "w", **profile) as out:
            out.write(src.read(window=part))
    command = [sys.executable, "-c", NEW, str(tmp_path / "scene.tif")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.stdout.strip() == "True True []", done.stderr


def test_where_no_code_can_be_kept_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tile.root, "_cache", NullCache())
    said: list[str] = []
    with started(RunOptions(), None, said.append):
        pass
    with pytest.raises(pfmap.PfmapError):
        pfmap.vectorize("none.tif", on_message=said.append)
    assert [line.count("set NUMBA_CACHE_DIR to a folder") for line in said] == [1, 1]
