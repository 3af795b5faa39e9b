"""What is known of measured inference runs: the shipped file, and the first client whose conditions hold."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim import library
from cosim.errors import SpecError
from cosim.schema import validated
from cosim.validation.cases import Case
from cosim.validation.inference_known import Known, known

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


@given(st.text("ab", max_size=4), st.text("ab", max_size=4))
def test_the_first_client_that_holds_counts(notes: str, key: str) -> None:
    both = facts(
        {"name": "first", "when": [{"column": "notes", "has": "a"}]},
        {"name": "second", "when": [{"column": "key", "has": "b"}]},
    )
    found = both.client(row(notes=notes, key=key))
    expected = "first" if "a" in notes else "second" if "b" in key else None
    assert (None if found is None else found.name) == expected


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
