"""pfmap's plugin goes into profiles of QGIS, and out of them, and leaves alone all else there."""

import configparser
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from commands import here

from pfmap.core import profiles
from pfmap.core.errors import TargetError, UsageError
from pfmap.version import __version__


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QGIS_CUSTOM_CONFIG_PATH", str(tmp_path))
    (tmp_path / "profiles" / "default" / "QGIS").mkdir(parents=True)
    return tmp_path / "profiles"


def ticked(profile: Path) -> str | None:
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(profile / "QGIS" / "QGIS3.ini", encoding="latin-1")
    return settings.get("PythonPlugins", "pfmap_qgis", fallback=None)


def test_it_is_installed_and_taken_out_again(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plugin = root / "default/python/plugins/pfmap_qgis"
    for _ in range(2):  # an update
        assert here(capsys, "qgis", "install").stdout.startswith(f"installed in {plugin}")
    assert ticked(root / "default") == "true"
    assert f"version={__version__}\n" in (plugin / "metadata.txt").read_text()
    words = json.loads((plugin / "program.json").read_text())
    said = subprocess.run([*words, "--version"], capture_output=True, text=True, check=True).stdout
    assert (words[0], said) == (sys.executable, f"pfmap {__version__}\n")
    assert "removed" in here(capsys, "qgis", "uninstall").stdout
    assert [*plugin.parent.iterdir()] == []
    assert ticked(root / "default") == "false"
    assert "nothing to remove" in here(capsys, "qgis", "uninstall").stdout


@pytest.mark.parametrize(
    "before",
    [
        "[PythonPlugins]\nother=true\n",
        "[PythonPlugins]\npfmap_qgis=false\n",
        "[x]\ny=1",
        "[x]\r\nname=M\xfcller\r\n[PythonPlugins]\r\npfmap_qgis=false\r\n",
    ],
)
def test_settings_of_qgis_stay(root: Path, before: str) -> None:
    path = root / "default/QGIS/QGIS3.ini"
    path.write_bytes(before.encode("latin-1"))
    profiles.install()
    assert ticked(root / "default") == "true"
    after = path.read_bytes().decode("latin-1")
    for line in before.splitlines(keepends=True):
        assert line in after or "pfmap" in line


def test_a_profile_is_named_or_the_one_that_qgis_starts_with(root: Path) -> None:
    (root / "work").mkdir()
    (root / "profiles.ini").write_text("[core]\ndefaultProfile=work\n")
    assert profiles.install() == [root / "work/python/plugins/pfmap_qgis"]
    assert profiles.install("default") == [root / "default/python/plugins/pfmap_qgis"]
    with pytest.raises(UsageError, match="QGIS has no profile 'home': it has default, work"):
        profiles.install("home")


def test_without_qgis_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QGIS_CUSTOM_CONFIG_PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"start QGIS once, or make a file .* with pfmap qgis zip"):
        profiles.install()


def test_what_is_not_its_own_stays(root: Path, tmp_path: Path) -> None:
    plugin = root / "default/python/plugins/pfmap_qgis"
    plugin.mkdir(parents=True)
    (plugin / "mine.py").touch()
    for change in (profiles.install, profiles.uninstall):
        with pytest.raises(TargetError, match="is not what pfmap put there: move it away"):
            change()
    (plugin / "mine.py").rename(tmp_path / "program.py")
    plugin.rmdir()
    plugin.symlink_to(tmp_path)
    with pytest.raises(TargetError, match="is not what pfmap put there"):
        profiles.uninstall()
    assert (tmp_path / "program.py").exists()


def test_the_zip_holds_the_plugin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "pfmap.zip"
    assert here(capsys, "qgis", "zip", file).returncode == 0
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        assert f"version={__version__}" in archive.read("pfmap_qgis/metadata.txt").decode()
    assert {"pfmap_qgis/__init__.py", "pfmap_qgis/program.py", "pfmap_qgis/icon.svg"} <= set(names)
    assert all(name.startswith("pfmap_qgis/") and "json" not in name for name in names)
    done = here(capsys, "qgis", "zip", file)
    assert (done.returncode, "--overwrite" in done.stderr) == (1, True)
    assert here(capsys, "qgis", "zip", file, "--overwrite").returncode == 0
