"""What packs pfmap - wheel, container, recipe, workflows - says the same of it as `pyproject.toml`."""

import re
import tomllib
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

import pfmap

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONTAINER = (ROOT / "Containerfile").read_text(encoding="utf-8")
OTHERS = {"torch": "pytorch"}
"""What conda-forge calls by another name."""


def workflow(name: str) -> dict[str, Any]:
    text = (ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8")
    return yaml.load(text, Loader=yaml.BaseLoader)  # else "on" is true


def recipe() -> dict[str, Any]:
    """The recipe as conda-forge renders it."""
    text = (ROOT / ".github" / "conda" / "meta.yaml").read_text(encoding="utf-8")
    filled = jinja2.Template(text, undefined=jinja2.StrictUndefined).render(PYTHON="python")
    return yaml.safe_load(filled)


def pythons() -> list[str]:
    """The Pythons that pfmap promises, lowest first."""
    return re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))


def test_the_recipe_asks_for_what_pfmap_needs() -> None:
    made = recipe()
    assert made["package"] == {"name": "pfmap", "version": pfmap.__version__}
    needed = [re.fullmatch(r"([\w-]+)(.*)", one).groups() for one in PROJECT["dependencies"]]  # type: ignore[union-attr]
    needed = [f"{OTHERS.get(name, name)} {bound}" for name, bound in needed]
    assert sorted(needed) == sorted(made["requirements"]["run"][1:])
    assert made["requirements"]["run"][0] == f"python {PROJECT['requires-python']}"
    (backend,) = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"][
        "requires"
    ]
    assert backend.replace(">", " >", 1) in made["requirements"]["host"]
    assert made["build"]["entry_points"] == [f"pfmap = {PROJECT['scripts']['pfmap']}"]
    assert made["about"]["license"] == PROJECT["license"]
    assert made["about"]["summary"] == PROJECT["description"]


def test_the_container_holds_this_version_and_what_is_pinned() -> None:
    assert f'image.version="{pfmap.__version__}"' in CONTAINER
    assert f'image.licenses="{PROJECT["license"]}"' in CONTAINER
    (base,) = re.findall(r"^FROM (\S+/\S+) AS", CONTAINER, flags=re.MULTILINE)
    minor = re.fullmatch(r"docker\.io/library/python:(3\.\d+)\.\d+-slim-\w+", base)  # of one release
    assert minor is not None
    assert minor[1] in pythons()
    installs = re.findall(r"pip --python /opt/pfmap install ((?:.*\\\n)*.*)", CONTAINER)
    assert len(installs) == 2
    assert all(one.split()[-1] == "/wheel/*.whl" and "==" not in one for one in installs)
    assert "PIP_CONSTRAINT=/src/constraints.txt" in CONTAINER


def test_the_container_runs_as_nobody_special_and_without_what_built_it() -> None:
    stages = dict(re.findall(r"^FROM (?:\S+) AS (\S+)\n(.*?)(?=^FROM|\Z)", CONTAINER, flags=re.M | re.DOTALL))
    assert list(stages)[-1] == "cpu"  # what is built without a target
    for name in ("cpu", "cuda"):
        assert re.fullmatch(rf"COPY --from=build-{name} (/opt/pfmap) \1\n+", stages[name])
    assert re.search(r"^USER (\d+):\1$", stages["pfmap"], flags=re.MULTILINE)
    (check,) = re.findall(r"^HEALTHCHECK .*\n +CMD (\[.*\])$", stages["pfmap"], flags=re.MULTILINE)
    assert check == '["pfmap", "info", "/usr/share/pfmap/banepa.tif"]'
    assert "COPY examples/banepa.tif" in stages["pfmap"]


@pytest.mark.parametrize("name", ["ci.yml", "release.yml"])
def test_a_workflow_may_little_and_runs_what_it_was_checked_with(name: str) -> None:
    made = workflow(name)
    assert made["permissions"] == {}
    for job in made["jobs"].values():
        assert int(job["timeout-minutes"]) <= 60
        assert set(job["permissions"].items()) <= {("contents", "read"), ("id-token", "write")}
        for step in job["steps"]:
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", step.get("uses", f"own@{'0' * 40}"))
            for target in re.findall(r"make ([\w -]+)", step.get("run", "")):
                targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
                assert set(target.split()) <= set(targets)


def test_each_system_and_python_is_tried() -> None:
    systems = workflow("ci.yml")["jobs"]["systems"]
    assert systems["strategy"]["matrix"]["python"] == [*pythons(), "3.14"]  # which nothing has run with yet
    assert [name.partition("-")[0] for name in systems["strategy"]["matrix"]["system"]] == [
        "ubuntu", "windows", "macos",
    ]  # fmt: skip
    for word in systems["steps"][-1]["run"].split():
        assert not word.startswith("tests/") or (ROOT / word).exists()


def test_only_a_tag_is_published_and_without_a_password() -> None:
    made = workflow("release.yml")
    assert made["on"] == {"push": {"tags": ["v[0-9]*"]}}
    publish = made["jobs"]["publish"]
    assert publish["needs"] == "build"
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["environment"] == "pypi"
    assert "secrets." not in (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
