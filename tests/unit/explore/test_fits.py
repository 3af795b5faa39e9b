"""The nearest strategy that fits: nothing nearer fits, it does fit, and where none does, that is the answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import cosim
from cosim.engines.analytic import evaluate
from cosim.engines.case import Case
from cosim.engines.training import with_micro_batches
from cosim.errors import InfeasibleError
from cosim.explore.fits import COUNTED, Fit, nearest_fit
from cosim.hardware.lower import lower_system
from cosim.mapping.plan import Plan, Scenario, lower_plan, lower_scenario
from cosim.mapping.software import load_software, lower_software
from cosim.overrides import Varied, vary
from cosim.records import array
from cosim.workload.load import lower_workload

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")


def case_of(workload: str, system: str, nodes: int, batch: int = 64, **plan: Any) -> Case:
    return with_micro_batches(
        Case(
            "train",
            lower_system(cosim.system(system, nodes=nodes).varied),
            lower_workload(cosim.workload(workload).varied),
            lower_plan(vary(Varied(Plan()), plan)),
            lower_scenario(Varied(Scenario(global_batch=batch))),
            lower_software(load_software("megatron")),
        )
    )


def fitting(case: Case, **options: Any) -> Fit:
    found = nearest_fit(case, **options)
    assert found is not None
    return found


def test_what_fits_is_itself_with_nothing_changed() -> None:
    case = case_of("llama-3.1-8b", "dgx-h100", 1, tensor_parallel=8)
    assert evaluate(case).feasible.all()
    found = fitting(case)
    assert (found.changed, found.nodes) == ((), 1)
    assert found.time == float(evaluate(case).time[0])


def test_one_change_that_fits_is_found_before_two() -> None:
    case = case_of("llama-3.1-8b", "dgx-h100", 1, data_parallel=8)
    assert not evaluate(case).feasible.any()
    found = fitting(case)
    assert len(found.changed) == 1
    assert evaluate(found.case).feasible.all()
    # No single change is faster: each alternative tried by hand.
    tried = []
    for name, values in {
        "zero": (1, 2, 3),
        "recompute": (1, 2),
        "tensor": (2, 4, 8),
        "pipeline": (2, 4, 8),
    }.items():
        for value in values:
            plan = replace(case.plan, **{name: array(float(value))})
            plan = replace(plan, data=array(8.0 / float(plan.tensor * plan.pipeline)))
            result = evaluate(with_micro_batches(replace(case, plan=plan)))
            if result.feasible.all():
                tried.append(float(result.time[0]))
    assert found.time == pytest.approx(min(tried))


def test_a_micro_batch_is_made_smaller_never_larger() -> None:
    case = case_of("llama-3.1-8b", "dgx-h100", 1, tensor_parallel=8, micro_batch=64)
    assert not evaluate(case).feasible.any()
    found = fitting(case)
    assert float(np.max(found.case.plan.micro_batch)) <= 64
    assert found.changed


def test_where_nothing_fits_on_the_nodes_there_are_more_are_tried() -> None:
    case = case_of("llama-3.1-70b", "dgx-h100", 1, tensor_parallel=8)
    assert nearest_fit(case, more_nodes=False) is None
    found = fitting(case)
    assert found.nodes in (2, 4, 8, 16)
    assert float(np.max(found.case.system.chips)) == 8 * found.nodes == float(np.max(found.case.plan.chips))
    assert evaluate(found.case).feasible.all()


def test_what_fits_nowhere_has_no_fit() -> None:
    case = case_of("llama-3.1-405b", "l40s-8gpu-pcie4", 1, batch=1, tensor_parallel=8)
    assert nearest_fit(case, more_nodes=False) is None
    with pytest.raises(InfeasibleError, match=r"nothing is known to fit, on 16 times as many nodes neither; use more"):
        cosim.estimate_training(
            cosim.system("l40s-8gpu-pcie4"),
            cosim.workload("llama-3.1-405b"),
            {"tensor_parallel": 8},
            global_batch=1,
        )


def test_changes_are_counted_without_what_follows() -> None:
    assert "data" not in COUNTED
    assert {"tensor", "zero", "recompute", "micro_batch"} <= set(COUNTED)


def test_a_schedule_that_keeps_too_much_is_given_up() -> None:
    plan = {"tensor_parallel": 4, "pipeline_parallel": 2, "schedule": "gpipe", "sequence_parallel": True}
    case = case_of("llama-3.1-8b", "dgx-a100", 1, batch=512, **plan)
    assert not evaluate(case).feasible.any()
    found = fitting(case)
    assert len(found.changed) == 1
    assert evaluate(found.case).feasible.all()


def test_the_message_of_an_estimate_names_it() -> None:
    with pytest.raises(InfeasibleError) as caught:
        cosim.estimate_training(
            cosim.system("dgx-h100"), cosim.workload("llama-3.1-8b"), {"data_parallel": 8}, global_batch=64
        )
    text = str(caught.value)
    assert text.startswith(
        "memory: tensor 1 x pipeline 1 x data 8, 8 micro-batches, zero 0, recompute none, bf16 lacks"
    )
    assert "; the nearest strategy that fits is tensor " in text
