"""What is known of measured inference runs: the shipped file, and the first client whose conditions hold."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cosim import documents, library
from cosim.errors import SpecError
from cosim.mapping.serving import load_serving
from cosim.overrides import value_at
from cosim.schema import validated
from cosim.validation.cases import Case
from cosim.validation.inference_fit import ROWS_PER_CONSTANT
from cosim.validation.inference_known import DATA, DraftHeads, Known, RowFile, RowSet, in_fitted_half, known
from cosim.validation.training_fit import LEAST_ROWS
from cosim.workload.load import load_workload

TASK = {"prompt": 300, "output": 200, "source": "a test"}


def row(**values: object) -> Case:
    return Case("r", 2, {name: str(value) for name, value in values.items()})


def facts(*clients: dict[str, Any]) -> Known:
    return validated(Known, {"tasks": {"a-model": TASK}, "clients": [{"source": "a test", **each} for each in clients]})


def test_the_shipped_file_is_read_once_and_names_workloads_of_the_library() -> None:
    assert known() is known()
    assert set(known().tasks) <= set(library.names("workloads"))
    assert len({client.name for client in known().clients}) == len(known().clients)


def test_shipped_numbers_say_where_they_are_from() -> None:
    for entry in (*known().tasks.values(), *known().clients):
        assert len(entry.source) > 5
    for task in known().tasks.values():
        assert task.prompt >= 1.0
        assert task.ttft_limit is None or task.ttft_limit > (task.tpot_limit or 0.0)
        if task.interactive is not None:
            assert (task.interactive.ttft_limit or 0.0) < (task.ttft_limit or 0.0)
            assert (task.interactive.tpot_limit or 0.0) < (task.tpot_limit or 0.0)


@given(st.text("ab", max_size=4), st.text("ab", max_size=4))
def test_the_first_client_that_holds_counts(notes: str, key: str) -> None:
    both = facts(
        {"name": "first", "when": [{"column": "notes", "has": "a"}]},
        {"name": "second", "when": [{"column": "key", "has": "b"}]},
    )
    found = both.client(row(notes=notes, key=key))
    expected = "first" if "a" in notes else "second" if "b" in key else None
    assert (None if found is None else found.name) == expected


@given(column=st.text("ab", max_size=3), words=st.text("ab", max_size=4))
def test_a_variant_is_named_by_its_words(column: str, words: str) -> None:
    variant = {"stack": "own", "when": [{"column": "framework", "has": "a"}], "reason": "a test"}
    what = validated(Known, {"tasks": {}, "clients": [], "variants": [variant]})
    found = what.stack(row(software_stack=column, framework=words))
    assert found == ("own" if "a" in words else column)


def test_variants_of_the_shipped_file_stand_in_the_library_and_are_found_once() -> None:
    for variant in known().variants:
        assert variant.stack in library.names("serving")
        assert variant.reason
        named = {each.column: each.equals or each.has or "" for each in variant.when}
        assert known().stack(row(**named)) == variant.stack
        # What was read once is read again to the same.
        assert known().stack(row(**{**named, "software_stack": variant.stack})) == variant.stack


def test_limits_are_those_of_the_scenario_that_notes_name() -> None:
    task = known().tasks["llama-3.1-8b"]
    assert task.limits("interactive limits") is task.interactive
    assert task.limits("best of 3") is task
    without = known().tasks["gpt-j-6b"]
    assert without.limits("interactive limits") is without


def test_all_conditions_must_hold() -> None:
    both = facts({"name": "x", "when": [{"column": "notes", "has": "a"}, {"column": "key", "equals": "b"}]})
    assert both.client(row(notes="a", key="b")) is not None
    assert both.client(row(notes="a", key="c")) is None
    assert both.client(row()) is None


def test_what_a_client_does_not_say_is_a_long_run_of_what_is_asked() -> None:
    (client,) = facts({"name": "x", "when": []}).clients
    assert (client.lengths, client.waves, client.requests, client.alike) == (1.0, math.inf, math.inf, False)
    assert facts({"name": "x", "when": []}).client(row()) is not None


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"tasks": {"a": {**TASK, "prompt": 0}}}, "prompt"),
        ({"tasks": {"a": {"prompt": 1, "output": 1}}}, "source"),
        ({"clients": [{"name": "x", "when": [], "source": "s", "waves": -1}]}, "waves"),
        ({"clients": [{"name": "x", "when": [{"has": "a"}], "source": "s"}]}, "column"),
        ({"clients": [{"name": "x", "when": [], "source": "s", "speed": 1}]}, "speed"),
    ],
)
def test_a_fault_is_named_by_its_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError) as caught:
        validated(Known, {"tasks": {}, "clients": [], **change})
    assert field in str(caught.value)


Make = Callable[..., Case]
SHARED = Path(__file__).resolve().parents[4] / "shared" / "cases"
HEADS = Known(tasks={}, clients=(), draft_heads=(DraftHeads(workloads=("deepseek-v3",), reason="one head"),))


@given(st.text(min_size=1, max_size=20), st.sampled_from(["tpot_s", "ttft_s"]))
def test_all_rows_of_a_run_are_in_one_half(name: str, quantity: str) -> None:
    row = Case("a", 1, {"point_id": name, "measured_quantity": quantity})
    other = Case("b", 2, {"point_id": name})
    assert in_fitted_half(row) == in_fitted_half(other)


@settings(max_examples=10)
@given(st.lists(st.integers(), min_size=200, max_size=200, unique=True))
def test_about_half_of_the_runs_may_be_fitted(names: list[int]) -> None:
    assert 50 < sum(in_fitted_half(Case("a", 1, {"point_id": f"run {name}"})) for name in names) < 150


def test_halves_by_hand() -> None:
    # MD5 of "a" ends in 1, of "e" in 2, of "" it is never asked.
    assert not in_fitted_half(Case("e", 1, {"point_id": "a"}))
    assert in_fitted_half(Case("a", 1, {"point_id": "e"}))
    # A row without a run is one of its own.
    assert in_fitted_half(Case("e", 1, {"point_id": " "}))
    assert not in_fitted_half(Case("a", 1, {}))


@pytest.mark.parametrize(
    ("workload", "said", "may"),
    [
        ("deepseek-v3", "not stated", True),
        ("deepseek-v3", "unknown", True),
        ("deepseek-v3", "", True),
        ("deepseek-v3", "no", False),
        ("deepseek-v2", "not stated", False),
        ("llama-3.1-8b", "not stated", False),
    ],
)
def test_a_row_may_draft_where_its_model_has_heads_and_it_does_not_say_no(
    served: Make, workload: str, said: str, *, may: bool
) -> None:
    assert HEADS.may_draft(served(workload=workload, spec_decode=said)) is may


def test_sets_leave_out_what_is_apart_unless_they_say_so() -> None:
    plain = RowSet(name="plain")
    assert (plain.drafts, plain.disaggregated) == (False, False)
    assert (plain.experts, plain.loaded, plain.starved) == (None, None, None)
    with pytest.raises(ValidationError, match="Input should be"):
        RowSet.model_validate({"name": "x", "asked": {"worst": 0.1}})
    with pytest.raises(ValidationError, match="greater than"):
        RowSet.model_validate({"name": "x", "asked": {"median_abs_error": 0.0}})


def test_the_shipped_file_names_stacks_models_and_constants_of_the_library() -> None:
    what = known()
    for fit in what.fits:
        stack = load_serving(fit.name)
        assert fit.stacks == (fit.name,)
        for path in fit.constants:
            assert getattr(value_at(stack, path), "source", "").startswith("fitted on"), (fit.name, path)
    for heads in what.draft_heads:
        for name in heads.workloads:
            assert getattr(load_workload(name), "experts", None) is not None
        assert len(heads.reason) > 10


def test_every_constant_that_a_stack_calls_fitted_is_listed() -> None:
    listed = {(fit.name, path) for fit in known().fits for path in fit.constants}
    for name, path in library.names("serving").items():
        if library.shipped() not in path.parents:
            continue
        data = documents.read(path).data
        flat = {**data, **{f"rates.{key}": value for key, value in data.get("rates", {}).items()}}
        fitted = {
            (name, key) for key, value in flat.items() if isinstance(value, dict) and value.get("source") == "fit"
        }
        assert fitted <= listed
        assert {pair for pair in listed if pair[0] == name} <= fitted


def test_files_and_sets_of_the_shipped_file() -> None:
    what = known()
    assert [each.file for each in what.files if each.fitted] == ["inference.csv"]
    assert [each.file for each in what.files if each.disaggregated] == ["inference_disaggregated.csv"]
    names = [each.name for each in what.sets]
    assert len(set(names)) == len(names)
    assert all(file in {each.file for each in what.files} for each in what.sets for file in each.files)
    assert sum(len(each.asked) for each in what.sets) == 11
    assert RowFile(file="x").model_dump() == {"file": "x", "disaggregated": False, "fitted": False}
    assert DATA.name == "inference_known.yaml"


@pytest.mark.skipif(not (SHARED / "inference.csv").is_file(), reason="measured runs do not ship with cosim")
def test_fitted_stacks_have_rows_enough_and_halves_are_halves() -> None:
    from cosim.validation.cases import read_cases

    what = known()
    rows = [row for row in read_cases("inference", SHARED / "inference.csv") if not what.may_draft(row)]
    for fit in what.fits:
        own = [row for row in rows if what.stack(row) == fit.name]
        assert len(own) >= max(LEAST_ROWS, ROWS_PER_CONSTANT * len(fit.constants))
        assert 0.35 < sum(in_fitted_half(row) for row in own) / len(own) < 0.65
