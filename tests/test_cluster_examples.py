"""The recipes for clusters name commands and options that exist, and the reckoning adds up."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from examples.cluster.country import Country, reckon
from pfmap.cli.main import cli

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "examples" / "cluster"

pytest.importorskip("distributed")


def commands() -> list[list[str]]:
    """Every call of pfmap predict, dask scheduler and dask worker in the recipes, in words."""
    import yaml

    shell = (CLUSTER / "slurm.sh").read_text().replace("\\\n", " ")
    found = [line.split() for line in shell.splitlines() if re.match(r"\s*(dask|pfmap) ", line)]
    for document in yaml.safe_load_all((CLUSTER / "kubernetes.yaml").read_text()):
        pod = document["spec"].get("template", {}).get("spec", {})
        found += [container["command"] for container in pod.get("containers", [])]
    readme = (CLUSTER / "README.md").read_text()
    found += [line.split() for line in readme.splitlines() if re.match(r"(dask|pfmap) [a-z]+ .*-", line)]
    return found


def test_every_command_and_option_of_the_recipes_exists() -> None:
    from distributed.cli import dask_scheduler, dask_worker

    predict = cli.get_command(click.Context(cli), "predict")
    bench = cli.get_command(click.Context(cli), "bench")
    known = {
        ("dask", "scheduler"): dask_scheduler.main,
        ("dask", "worker"): dask_worker.main,
        ("pfmap", "predict"): predict,
        ("pfmap", "bench"): bench,
    }
    seen = set()
    for program, name, *words in commands():
        seen.add((program, name))
        command = known[program, name]
        assert command is not None
        options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
        for word in words:
            if word.startswith("-"):
                assert word.split("=")[0] in options, f"{word} is no option of {program} {name}"
    assert len(seen) == 4


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_slurm_recipe_is_a_shell_script() -> None:
    subprocess.run(["bash", "-n", str(CLUSTER / "slurm.sh")], check=True)


def test_a_country_adds_up() -> None:
    """Figures that can be worked out by hand: 100 km2 at 10 cm are 10,000 megapixels, one scene."""
    one = Country(
        area=100, gsd=0.1, worker=100, client=10, workers=2, side=100_000, scene=0.5,
        outputs=(0.1, 0.2, 0.3), block=500,
    )  # fmt: skip
    found = reckon(one)
    assert found["pixels"] == pytest.approx(1e10)
    assert found["scenes"] == pytest.approx(1)
    assert found["worker hours"] == pytest.approx(100 * 33 / 32 / 3600)
    assert found["client hours"] == pytest.approx(1000 / 3600)
    assert found["clients at a time"] == pytest.approx(20)
    assert found["scenes TB"] == pytest.approx(0.005)
    assert found["outputs TB"] == pytest.approx(0.006)
    assert found["read requests"] == pytest.approx(40_000 * 33 / 32)
    assert found["Dask tasks"] == pytest.approx(10)


def test_the_reckoning_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.cluster.country", "--worker", "50"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "worker hours" in done.stdout
