"""Writing without half-written files."""

from pathlib import Path

import pytest

from pfmap.core.errors import TargetError
from pfmap.core.files import publish, write_text


def test_publishing_replaces_at_once(tmp_path: Path) -> None:
    (tmp_path / "final").write_text("old")
    (tmp_path / "new").write_text("new")
    publish(tmp_path / "new", tmp_path / "final")
    assert (tmp_path / "final").read_text() == "new"
    with pytest.raises(TargetError, match="missing"):
        publish(tmp_path / "nothing", tmp_path / "missing" / "final")


def test_text_is_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "Übersicht")
    assert (tmp_path / "a.txt").read_bytes() == "Übersicht".encode()
    assert len(list(tmp_path.iterdir())) == 1
