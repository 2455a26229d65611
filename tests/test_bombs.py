"""Small files that claim to be huge: refused, or read a part at a time, in memory that the plan knows of."""

import sys
from pathlib import Path

import forks
import pytest
from bombs import BOMBS
from commands import HANG

ALLOWED = 1 << 30
"""Bytes of memory: a tenth of what each of them claims at the least."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", BOMBS)
def test_what_claims_to_be_huge_is_refused_in_little_memory(kind: str, tmp_path: Path) -> None:
    """In a process of its own, whose memory is measured; nothing comes out but an error of one line."""
    if sys.platform != "linux":
        pytest.skip("peaks of memory are read from /proc")
    done = forks.run([Path(__file__).with_name("bombs.py"), kind, tmp_path], 2 * HANG)
    assert done.returncode == 0, done.stderr[-2000:]
    took, said = done.stdout.split(maxsplit=1)
    assert int(took) < ALLOWED, said
    assert "Error" in said, said
    out = tmp_path / "out"
    assert not out.exists() or not any(out.iterdir())
