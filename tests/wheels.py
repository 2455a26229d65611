"""For which Pythons and systems every dependency has a wheel, as pinned: `python -m tests.wheels`.

pip resolves, and downloads nothing but what says of a wheel what it needs. torch has wheels of its makers'
own, of several gigabytes on PyPI, and is left out.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
SYSTEMS = {
    "Linux": [f"manylinux_2_{minor}_x86_64" for minor in range(17, 29)],
    "Windows": ["win_amd64"],
    "macOS": [f"macosx_{major}_0_arm64" for major in range(11, 16)],
}


def lacking(python: str, platforms: list[str]) -> str:
    """What pip misses for a Python on a system; "" if it finds all."""
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
    command += ["--target", "nowhere", "--only-binary=:all:", "--python-version", python]
    command += [f"--platform={each}" for each in platforms]
    command += ["-c", str(ROOT / "constraints.txt"), *(one for one in needed if not one.startswith("torch"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.findall(r"No matching distribution found for (\S+)|conflict", done.stderr)
    return "" if done.returncode == 0 else ", ".join(found) or done.stderr[-500:]


if __name__ == "__main__":
    for system, platforms in SYSTEMS.items():
        for minor in (11, 12, 13, 14):
            print(f"Python 3.{minor} on {system}: {lacking(f'3.{minor}', platforms) or 'all'}", flush=True)
