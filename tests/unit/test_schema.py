"""Schema: descriptions are frozen, and a fault is said in our words with file, line, field and nearest name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError, model_validator

from cosim.documents import Document
from cosim.errors import SpecError
from cosim.schema import Frozen, field_names, validated


class Level(Frozen):
    capacity: float
    technology: str = "SRAM"


class Tile(Frozen):
    kind: Literal["tile"]
    clock: float


class Systolic(Frozen):
    kind: Literal["systolic"]
    rows: int


class Thing(Frozen):
    name: str
    cores: int = 1
    memory: dict[str, Level] = {}
    parts: tuple[Level, ...] = ()
    engine: Annotated[Tile | Systolic, Field(discriminator="kind")] | None = None
    renamed: int = Field(default=0, alias="as-written")

    @model_validator(mode="after")
    def _even(self) -> Thing:
        if self.cores % 2 and self.cores > 1:
            raise SpecError("cores come in pairs", field="cores", value=self.cores, hint="give an even number")
        return self


def document(lines: dict[str, int], name: str = "thing.yaml") -> Document:
    """A document of which only the place of its fields matters."""
    return Document({}, Path(name), "", lines)


def fault(data: dict[str, Any], *documents: Document) -> SpecError:
    """The error that `data` raises, reported in the first document unless it came from another."""
    with pytest.raises(SpecError) as caught:
        validated(Thing, data, documents[0] if documents else None, documents[1:])
    return caught.value


def test_right_data_becomes_the_model() -> None:
    thing = validated(Thing, {"name": "a", "cores": 4, "memory": {"dram": {"capacity": 8}}, "as-written": 3})
    assert (thing.name, thing.cores, thing.memory["dram"].capacity, thing.renamed) == ("a", 4, 8.0, 3)


def test_a_description_cannot_be_changed() -> None:
    thing = validated(Thing, {"name": "a"})
    with pytest.raises(ValidationError, match="frozen"):
        thing.cores = 2  # type: ignore[misc]


@settings(max_examples=60, deadline=None)
@given(extra=st.text("abcdefghijklmnop_", min_size=1, max_size=10).filter(lambda name: name not in field_names(Thing)))
def test_any_field_that_is_not_known_is_refused_by_name(extra: str) -> None:
    error = fault({"name": "a", extra: 1})
    assert (error.problem, error.field, error.value) == ("unknown field", extra, 1)
    assert error.hint


@pytest.mark.parametrize(
    ("data", "field", "near"),
    [
        ({"name": "a", "corse": 1}, "corse", "cores"),
        ({"name": "a", "memory": {"dram": {"capacity": 1, "tecnology": "x"}}}, "memory.dram.tecnology", "technology"),
        ({"name": "a", "parts": [{"capacity": 1}, {"capacity": 1, "capcity": 1}]}, "parts.1.capcity", "capacity"),
        ({"name": "a", "engine": {"kind": "systolic", "rows": 1, "rowz": 1}}, "engine.rowz", "rows"),
        ({"name": "a", "as_written": 1}, "as_written", "as-written"),
    ],
)
def test_an_unknown_field_names_the_nearest_one_of_its_own_level(data: dict[str, Any], field: str, near: str) -> None:
    place = document({field: 7, field.rpartition(".")[0]: 3})
    error = fault(data, place)
    assert (error.problem, error.field, error.line) == ("unknown field", field, 7)
    assert str(error.hint).startswith(f"nearest: {near}")


def test_a_missing_field_is_named_at_the_line_of_its_parent() -> None:
    error = fault({"name": "a", "memory": {"dram": {}}}, document({"memory": 2, "memory.dram": 3}))
    assert (error.problem, error.field, error.line, error.value) == ("is missing", "memory.dram.capacity", 3, None)


def test_a_wrong_value_is_shown_with_its_place() -> None:
    error = fault({"name": "a", "cores": "many"}, document({"name": 1, "cores": 2}))
    assert (error.file, error.line, error.field, error.value) == (Path("thing.yaml"), 2, "cores", "many")
    assert str(error).startswith("thing.yaml:2: cores: Input should be a valid integer")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinity_are_refused(value: float) -> None:
    error = fault({"name": "a", "memory": {"dram": {"capacity": value}}})
    assert error.field == "memory.dram.capacity"
    assert "finite number" in error.problem


def test_the_tag_of_a_union_is_no_part_of_the_field() -> None:
    error = fault({"name": "a", "engine": {"kind": "tile", "clock": "fast"}}, document({"engine.clock": 5}))
    assert (error.field, error.line) == ("engine.clock", 5)


def test_an_unknown_kind_of_a_union_lists_the_kinds() -> None:
    error = fault({"name": "a", "engine": {"kind": "optical"}}, document({"engine": 5}))
    assert (error.field, error.line) == ("engine", 5)
    assert "'tile'" in error.problem
    assert "'systolic'" in error.problem


def test_our_own_errors_keep_problem_value_and_hint() -> None:
    error = fault({"name": "a", "cores": 3}, document({"cores": 2}))
    assert str(error) == "thing.yaml:2: cores: cores come in pairs (got 3); give an even number"


def test_our_own_errors_of_an_inner_part_name_the_whole_path() -> None:
    class Outer(Frozen):
        inside: dict[str, Thing]

    with pytest.raises(SpecError) as caught:
        validated(Outer, {"inside": {"one": {"name": "a", "cores": 3}}}, document({"inside.one.cores": 4}))
    assert (caught.value.field, caught.value.line) == ("inside.one.cores", 4)


def test_the_first_of_several_faults_is_told_and_the_others_counted() -> None:
    error = fault({"cores": "x", "parts": "y"})
    assert error.field == "name"
    assert error.hint == "2 more after it"
    both = fault({"name": "a", "corse": 1, "memry": {}})
    assert str(both.hint).startswith("nearest: cores")
    assert str(both.hint).endswith("; 1 more after it")


def test_a_misspelt_field_is_told_before_the_field_that_is_missing_for_it() -> None:
    error = fault({"nme": "a"})
    assert (error.problem, error.field, error.hint) == (
        "unknown field",
        "nme",
        "nearest: name; 1 more after it",
    )


def test_a_fault_of_a_base_file_is_reported_there() -> None:
    own, base = document({"name": 1}, "own.yaml"), document({"cores": 9}, "base.yaml")
    error = fault({"name": "a", "cores": "x"}, own, base)
    assert (error.file, error.line) == (Path("base.yaml"), 9)


def test_a_field_in_both_files_is_reported_in_the_file_itself() -> None:
    own, base = document({"cores": 2}, "own.yaml"), document({"cores": 9}, "base.yaml")
    assert fault({"name": "a", "cores": "x"}, own, base).file == Path("own.yaml")


def test_a_fault_without_a_document_has_no_place() -> None:
    error = fault({"name": "a", "cores": "x"})
    assert (error.file, error.line) == (None, None)


def test_large_values_are_left_out_of_the_message() -> None:
    error = fault({"name": "a", "parts": {f"key{i}": "x" * 20 for i in range(50)}})
    assert error.field == "parts"
    assert error.value is None


def test_field_names_are_those_that_a_file_may_use() -> None:
    assert field_names(Thing) == ["name", "cores", "memory", "parts", "engine", "as-written"]


class Pair(Frozen):
    kind: Literal["pair"]
    left: int
    tile: int = 0


class Single(Frozen):
    kind: Literal["single"]
    only: int


class Row(Frozen):
    parts: tuple[Annotated[Pair | Single, Field(discriminator="kind")], ...]


@pytest.mark.parametrize(
    ("part", "field", "hint"),
    [
        ({"kind": "pair", "left": "x"}, "parts.0.left", None),
        ({"kind": "pair", "left": 1, "lfet": 2}, "parts.0.lfet", "nearest: left"),
        # A word that is also the name of a kind.
        ({"kind": "pair", "left": 1, "single": 2}, "parts.0.single", None),
        ({"kind": "single", "only": 1, "onyl": 2}, "parts.0.onyl", "nearest: only"),
        ({"kind": "pair", "left": 1, "tile": "x"}, "parts.0.tile", None),
        ({"kind": "other"}, "parts.0", None),
    ],
)
def test_in_a_list_of_several_kinds_the_kind_is_no_part_of_the_path(
    part: dict[str, object], field: str, hint: str | None
) -> None:
    with pytest.raises(SpecError) as caught:
        validated(Row, {"parts": [part]})
    assert caught.value.field == field
    assert hint is None or str(caught.value.hint).startswith(hint)


class Choice(Frozen):
    part: Annotated[Pair | Single, Field(discriminator="kind")] | None = None


@pytest.mark.parametrize(
    ("part", "field", "hint"),
    [
        ({"kind": "pair", "left": "x"}, "part.left", None),
        ({"kind": "pair", "left": 1, "lfet": 2}, "part.lfet", "nearest: left"),
        ({"kind": "single", "only": 1, "pair": 2}, "part.pair", None),
        ({"kind": "single"}, "part.only", None),
        ({"kind": "other"}, "part", None),
    ],
)
def test_in_a_field_of_several_kinds_the_kind_is_no_part_of_the_path(
    part: dict[str, object], field: str, hint: str | None
) -> None:
    with pytest.raises(SpecError) as caught:
        validated(Choice, {"part": part})
    assert caught.value.field == field
    assert hint is None or str(caught.value.hint).startswith(hint)


class Either(Frozen):
    """A field of two kinds."""

    many: Annotated[int, Field(ge=1)] | Literal["all"]
    other: int = 0


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"many": 0}, "Input should be greater than or equal to 1, or 'all'"),
        ({"many": "x"}, "unable to parse string as an integer, or 'all'"),
    ],
)
def test_a_field_of_two_kinds_says_both_and_counts_once(data: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError) as caught:
        validated(Either, data)
    assert caught.value.field == "many"
    assert problem in caught.value.problem
    assert caught.value.hint is None
    with pytest.raises(SpecError, match="1 more after it"):
        validated(Either, {**data, "other": "y"})
