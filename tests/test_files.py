"""Writing without half-written files."""

from pathlib import Path

import pytest

from pfmap.errors import TargetError
from pfmap.files import publish, staging, write_text


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_staging_folder_is_gone_whatever_happens(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), staging(tmp_path / "out", "scene") as folder:  # noqa: PT012
        (folder / "half.tif").write_text("half")
        raise error
    assert list((tmp_path / "out").iterdir()) == []


def test_publishing_replaces_at_once(tmp_path: Path) -> None:
    (tmp_path / "final").write_text("old")
    with staging(tmp_path, "x") as folder:
        (folder / "new").write_text("new")
        publish(folder / "new", tmp_path / "final")
    assert (tmp_path / "final").read_text() == "new"
    with pytest.raises(TargetError, match="missing"):
        publish(tmp_path / "nothing", tmp_path / "missing" / "final")


def test_text_is_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "Übersicht")
    assert (tmp_path / "a.txt").read_bytes() == "Übersicht".encode()
    assert len(list(tmp_path.iterdir())) == 1
