"""The command line in a process of its own, as a user meets it."""

import subprocess
import sys
from pathlib import Path

PFMAP = str(Path(sys.executable).with_name("pfmap"))


def pfmap(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [PFMAP, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)
