"""Code that was compiled by an earlier process serves later ones, but never longer than it is true."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pfmap

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


def put(file: Path, before: str, after: str) -> None:
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after))


def test_code_that_was_compiled_is_used_until_an_update_makes_it_another(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(pfmap.__file__).parent, tmp_path / "pfmap", ignore=ignored)
    folder = tmp_path / "pfmap" / "trace"
    (folder / "loops.py").write_text(LOOPS)

    def run() -> str:
        command = [sys.executable, "-c", "import pfmap.trace.loops"]
        env = {**os.environ, "PYTHONPATH": ""}
        done = subprocess.run(command, check=False, cwd=tmp_path, env=env, capture_output=True, text=True)
        return done.stdout.strip() or done.stderr

    assert run() == "0 0 1"
    put(folder / "tile.py", "    return index\n", "    return index + 7\n")  # what is called in another file
    assert run() == "7 0 1"
    put(folder / "loops.py", "Pair", "Couple")
    assert run() == "7 0 1"
    for name in folder.rglob("loops.top*.nbc"):
        name.write_bytes(name.read_bytes()[:100])
    assert run() == "7 0 1"
    assert run() == "7 1 0"
