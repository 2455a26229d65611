"""The wheel and the source: complete, and usable outside the checkout without development tools."""

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_wheel_carries_the_model_and_runs_elsewhere(tmp_path: Path) -> None:
    run([sys.executable, "-m", "build", "--outdir", tmp_path, ROOT], ROOT)  # the wheel is made of the source
    (source,) = tmp_path.glob("pfmap-*.tar.gz")
    with tarfile.open(source) as files:
        inside = {name.partition("/")[2] for name in files.getnames()}
    assert {
        ".ci/run",
        "Makefile",
        "README.md",
        "constraints.txt",
        "examples/banepa.tif",
        "models/landcover/weights.safetensors",
        "tests/test_wheel.py",
    } <= inside
    assert source.stat().st_size < 25e6
    (wheel,) = tmp_path.glob("pfmap-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "pfmap/core/layer_styles.sql",
        "pfmap/core/xml/objects.xml",
        "pfmap/model/presets/isaid.toml",
        "pfmap/model/published_names.toml",
        "pfmap/models/landcover/model.toml",
        "pfmap/models/landcover/weights.safetensors",
        "pfmap/py.typed",
        "pfmap/report/templates/survey.html.jinja",
        "pfmap/report/templates/survey.css",
    } <= names
    assert wheel.stat().st_size < 15e6

    home = tmp_path / "env"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    run([*pip, "-c", ROOT / "constraints.txt", wheel], tmp_path)
    listed = run([home / "bin" / "pfmap", "models", "list"], tmp_path)
    assert "landcover" in listed
    where = run([python, "-c", "import pfmap; print(pfmap.__file__)"], tmp_path)
    assert str(home) in where
    for tool in ("pytest", "ruff", "mypy", "hypothesis"):
        assert (
            run([python, "-c", f"import importlib.util as u; print(u.find_spec('{tool}'))"], tmp_path)
            == "None"
        )


def run(command: list[object], where: Path) -> str:
    done = subprocess.run([str(c) for c in command], cwd=where, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()
