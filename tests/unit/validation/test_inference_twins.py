"""Records of one run: what lost its workers takes them from the one that kept them, and nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim.validation.cases import Case
from cosim.validation.inference_twins import LAYOUT, SAME, with_twins

KEPT = {
    "accelerator": "gb200",
    "software_stack": "sglang",
    "batch": "1024",
    "input_len": "8192",
    "output_len": "1024",
    "measured_quantity": "tpot_s",
    "measured_value": "0.018528",
    "workload": "deepseek-v3",
    "num_accelerators": "72",
    "tp": "P1/D1",
    "pp": "P1/D1",
    "ep": "P8/D32",
    "dp": "P8/D32",
    "notes": "disaggregated: 5 prefill + 1 decode workers",
}
LOST = {
    **KEPT,
    "workload": "deepseek-r1",
    "num_accelerators": "40",
    "tp": "P8/D32",
    "ep": "P8/D8",
    "dp": "P1/D1",
    "notes": "disaggregated:  prefill +  decode workers",
}


def rows(*many: dict[str, str]) -> list[Case]:
    return [Case(str(place), place, values) for place, values in enumerate(many)]


def test_a_record_that_lost_its_workers_has_the_layout_of_the_other() -> None:
    for order in ((KEPT, LOST), (LOST, KEPT)):
        found = {row.values["workload"]: row.values for row in with_twins(rows(*order))}
        assert {name: found["deepseek-r1"][name] for name in LAYOUT} == {name: KEPT[name] for name in LAYOUT}
        assert found["deepseek-v3"] == KEPT
        # All else stays its own.
        assert found["deepseek-r1"]["measured_value"] == LOST["measured_value"]


@pytest.mark.parametrize("column", SAME)
def test_another_run_is_no_twin(column: str) -> None:
    other = {**KEPT, column: "another"}
    assert with_twins(rows(other, LOST))[1].values == LOST


def test_records_that_differ_tell_nothing() -> None:
    other = {**KEPT, "notes": "disaggregated: 2 prefill + 4 decode workers"}
    assert with_twins(rows(KEPT, other, LOST))[2].values == LOST
    assert with_twins(rows(KEPT, KEPT, LOST))[2].values["num_accelerators"] == "72"


def test_runs_of_one_pool_stay_as_they_are() -> None:
    whole = {**LOST, "tp": "8", "notes": ""}
    assert with_twins(rows(KEPT, whole))[1].values == whole


@given(st.lists(st.sampled_from([KEPT, LOST, {**LOST, "batch": "8"}, {**KEPT, "tp": "8", "notes": ""}]), max_size=6))
def test_rows_keep_their_place_and_what_was_completed_stays(many: list[dict[str, str]]) -> None:
    once = with_twins(rows(*many))
    assert [row.id for row in once] == [str(place) for place in range(len(many))]
    assert [row.values for row in with_twins(once)] == [row.values for row in once]
    assert [row.values["measured_value"] for row in once] == [values["measured_value"] for values in many]
