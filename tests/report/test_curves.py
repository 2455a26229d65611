"""What training notes of itself, and what that needs."""

import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from pfmap.core.errors import UsageError, refuse_without
from pfmap.report.curves import LOSS, RATE, write_curves


def test_curves_are_written_as_a_table_and_drawn(tmp_path: Path) -> None:
    rows = [row for step in range(3) for row in ((step, LOSS, 1.0 / (step + 1)), (step, RATE, 0.01))] + [
        (2, "field, north", 0.625)
    ]
    write_curves(rows, tmp_path)
    frame = pd.read_csv(tmp_path / "curves.csv")
    assert [tuple(row) for row in frame.itertuples(index=False)] == [
        (step, name, pytest.approx(value, rel=1e-5)) for step, name, value in rows
    ]
    with Image.open(tmp_path / "curves.png") as image:
        assert image.format == "PNG"
    assert not list(tmp_path.glob(".*"))


def test_without_matplotlib_training_names_the_extra_before_it_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"the package matplotlib, .*: pip install 'pfmap\[train\]'"):
        refuse_without("matplotlib", "train", "training draws its curves with")
