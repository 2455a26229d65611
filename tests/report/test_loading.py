"""Libraries that only some reports need are loaded only for them, and none is searched for garbage."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Write, blobs

MAP = """
import gc
import sys
from pfmap.cli.main import cli
cli.main(["predict", *sys.argv[1:]], standalone_mode=False)
print(sorted({"jinja2", "matplotlib", "pystac"} & set(sys.modules)))
print(gc.isenabled(), gc.get_freeze_count() > 300_000)
"""


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_mapping_scenes_loads_neither_templates_nor_catalogues_nor_plots(
    count: int, small: str, write_scene: Write, tmp_path: Path
) -> None:
    scenes = [write_scene(blobs(64, 64), f"scene{number}.tif") for number in range(count)]
    command = [
        sys.executable,
        "-c",
        MAP,
        *scenes,
        "-o",
        tmp_path / "out",
        "--model",
        small,
        "--device",
        "cpu",
    ]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("*_report.json"))) == count
    assert done.stdout.splitlines()[-2:] == ["[]", "True True"]
