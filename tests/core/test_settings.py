"""Tables read into dataclasses: what does not fit is named, all of it, by its full key; and back."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from pfmap.core.errors import ModelError
from pfmap.core.tables import build, read_json, table_of


@dataclass(frozen=True)
class Leaf:
    name: str
    size: int = 1

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ModelError(f"size is {self.size}: it has to be 1 or more")


@dataclass(frozen=True)
class Tree:
    leaves: tuple[Leaf, ...]
    kind: Literal["oak", "ash"] = "oak"
    height: float = 1.0
    tall: bool = False
    places: Mapping[str, tuple[int, ...]] | None = None


def test_lists_become_tuples_and_whole_numbers_stand_for_others() -> None:
    found = build(Tree, {"leaves": [{"name": "a", "size": 2}, {"name": "b"}], "height": 3})
    assert found == Tree((Leaf("a", 2), Leaf("b")), height=3.0)
    assert type(found.height) is float


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({}, "t.leaves is missing"),
        (7, "t has to be a table, not 7"),
        ({"leaves": {"name": "a"}}, "t.leaves has to be a list, not {'name': 'a'}"),
        ({"leaves": ["a"]}, "t.leaves[0] has to be a table, not 'a'"),
        ({"leaves": [{"name": "a"}, {"size": 2}]}, "t.leaves[1].name is missing"),
        ({"leaves": [{"name": "a", "size": "2"}]}, "t.leaves.a.size has to be int, not '2'"),
        ({"leaves": [{"name": "a", "size": True}]}, "t.leaves.a.size has to be int, not True"),
        ({"leaves": [{"name": "a", "size": 0}]}, "t.leaves.a: size is 0: it has to be 1 or more"),
        ({"leaves": [], "kind": "elm"}, "t.kind 'elm' is unknown: use one of oak, ash"),
        ({"leaves": [], "tall": 1}, "t.tall has to be bool, not 1"),
        ({"leaves": [], "places": "x"}, "t.places has to be a table, not 'x'"),
        ({"leaves": [], "places": {"x": [1.5]}}, "t.places.x has to be a list of whole numbers, not [1.5]"),
        ({"leaves": [], "heigth": 2.0}, "t has unknown keys: heigth (is height meant?)"),
        ({"leaves": [], "colour": "red"}, "t has unknown keys: colour"),
        (
            {"height": "3", "x": 1},
            "t.leaves is missing; t.height has to be float, not '3'; t has unknown keys: x",
        ),
    ],
)
def test_what_does_not_fit_is_named_by_its_full_key(tables: Any, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        build(Tree, tables, "t")
    assert str(caught.value) == message


def test_a_bug_in_a_settings_class_keeps_its_traceback() -> None:
    @dataclass(frozen=True)
    class Broken:
        size: int

        def __post_init__(self) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        build(Broken, {"size": 1})


@dataclass(frozen=True)
class Named:
    trees: tuple[Tree, ...]
    origin: str = field(metadata={"key": "from"})
    corner: tuple[float, float]
    area: float | None = None


NAMED = Named((Tree((Leaf("a", 2),), places={"x": (1, 2)}),), "a sample", (0.5, 2.0))
TABLE = {
    "trees": [{"leaves": [{"name": "a", "size": 2}], "places": {"x": [1, 2]}}],
    "from": "a sample",
    "corner": [0.5, 2.0],
}


def test_a_table_has_the_keys_of_the_file_and_leaves_out_what_is_unset(tmp_path: Path) -> None:
    assert table_of(NAMED) == TABLE
    path = tmp_path / "named.json"
    path.write_text(json.dumps(TABLE))
    assert read_json(path, Named) == NAMED
    with pytest.raises(ModelError, match=r"^n.from has to be str, not 1$"):
        build(Named, TABLE | {"from": 1}, "n")
    with pytest.raises(ModelError, match=r"n.from is missing.*unknown keys: origin"):
        build(Named, {"trees": [], "origin": "x"}, "n")


@pytest.mark.parametrize("text", ["", "[]", "1", "{", '{"trees": 1}', '{"trees": [], "from": null}'])
def test_what_is_no_such_file_is_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "named.json"
    path.write_text(text)
    assert read_json(path, Named) is None
    assert read_json(tmp_path / "gone.json", Named) is None
