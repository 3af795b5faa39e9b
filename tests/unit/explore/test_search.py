"""Evaluating a search: the best and the front of every strategy tried alone, limits, what the result keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cosim
from cosim.engines.analytic import evaluate
from cosim.explore import search as module
from cosim.explore.search import (
    Answer,
    answered,
    case_at,
    judged,
    kept_of,
    limit_names,
    parts_of,
    rows_of,
    run_part,
    strategy_at,
    strategy_of,
    tables_of,
)
from cosim.explore.search_file import StrategySearch
from cosim.explore.search_inputs import searched_inputs
from cosim.records import at
from cosim.schema import validated

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")
SMALL: dict[str, Any] = {
    "kind": "search",
    "question": "",
    "system": "dgx-a100",
    "workload": "llama-3.1-8b",
    "scenario": {"global_batch": 16, "context": 2048},
    "space": {"micro_batch": [1, 2], "virtual_pipeline": [1, 2], "schedule": ["1f1b", "zb-v"], "zero": [0, 1]},
    "objectives": ["time_s", "memory_bytes.total"],
}


def searched(**more: Any) -> Answer:
    study = validated(StrategySearch, {**SMALL, **more})
    inputs = searched_inputs(study, cosim.system(study.system).varied, cosim.workload(study.workload).varied)
    return answered(inputs, [(part, judged(inputs, part, run_part(inputs, part))) for part in parts_of(inputs)])


@pytest.fixture(scope="module")
def small() -> Answer:
    return searched()


def alone(answer: Answer) -> list[tuple[dict[str, Any], float, float]]:
    """Every strategy as a case of one point: itself, time (inf where it does not fit), memory."""
    found = []
    for cell in answer.inputs.cells:
        for place in range(cell.count):
            strategy = strategy_of(cell, place)
            result = evaluate(case_at(answer.inputs, strategy))
            time = float(result.time[0]) if result.feasible[0] else np.inf
            found.append((strategy, time, float(result.memory["total"][0])))
    return found


def test_the_best_the_front_and_the_count_are_those_of_every_strategy_alone() -> None:
    few = {"micro_batch": [1, 2], "virtual_pipeline": 1, "schedule": "1f1b", "zero": [0, 1], "tensor": [1, 8]}
    small = searched(space={**few, "sequence_parallel": "on"})
    every = alone(small)
    fit = [each for each in every if np.isfinite(each[1])]
    assert (len(every), len(fit)) == (small.inputs.legal, small.feasible)
    assert 0 < len(fit) < len(every)
    first, second = small.best
    assert first is not None
    assert second is not None
    assert float(small.number("time_s")[first]) == min(time for _, time, _ in fit)
    assert float(small.number("memory_bytes.total")[second]) == min(memory for *_, memory in fit)
    pairs = {(time, memory) for _, time, memory in fit}
    beaten = {(t, m) for t, m in pairs if any((a <= t and b <= m and (a, b) != (t, m)) for a, b in pairs)}
    front = {(float(small.worth[index, 0]), float(small.worth[index, 1])) for index in small.front}
    assert front == pairs - beaten
    assert len(small.front) == len(front)


def test_a_strategy_is_found_again_by_its_index(small: Answer) -> None:
    for index in (0, small.feasible // 2, small.feasible - 1):
        strategy = strategy_at(small, index)
        result = evaluate(case_at(small.inputs, strategy))
        assert float(result.time[0]) == float(small.number("time_s")[index])


def test_parts_do_not_change_the_answer(small: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_STRATEGIES", 7)
    again = searched()
    assert len(list(parts_of(again.inputs))) > len(again.cells)
    assert np.array_equal(again.worth, small.worth)
    assert np.array_equal(again.front, small.front)
    assert again.best == small.best


def test_a_constraint_is_a_limit_after_those_of_the_plan(small: Answer) -> None:
    bound = float(np.median(small.number("memory_bytes.total")))
    tight = searched(constraints=[f"memory_bytes.total <= {bound / 1e9:.3f} GB"])
    names = [name for name, _ in limit_names(tight.inputs.constraints)]
    code = names.index(tight.inputs.constraints[0].text)
    broken = sum(int((cell.code == code).sum()) for cell in tight.cells)
    assert broken == small.feasible - tight.feasible > 0
    assert float(tight.number("memory_bytes.total").max()) <= round(bound / 1e9, 3) * 1e9
    memory = names.index("memory")
    assert [(c.code == memory).sum() for c in tight.cells] == [(c.code == memory).sum() for c in small.cells]


def test_the_result_has_every_legal_strategy_where_it_may(small: Answer) -> None:
    chosen, others, said = kept_of(small)
    assert (len(chosen), others) == (small.feasible, True)
    assert said == f"a row for each of the {small.inputs.legal:,} legal strategies"
    tables = tables_of(small, chosen, others=others)
    feasible = np.concatenate([table["feasible"] for table in tables])
    assert (len(feasible), int(feasible.sum())) == (small.inputs.legal, small.feasible)
    time = np.concatenate([table["time_s"] for table in tables])
    assert np.array_equal(np.isfinite(time), feasible)
    limits = [word for table in tables for word in table["limit"]]
    assert set(limits) == {"", "memory"}
    assert [bool(word) for word in limits] == (~feasible).tolist()


def test_the_result_has_those_that_fit_and_then_the_best_alone_where_it_may_not() -> None:
    most = searched().feasible
    wide = searched(rows=most)
    chosen, others, said = kept_of(wide)
    assert (len(chosen), others) == (most, False)
    assert said.startswith(f"a row for each of the {most:,} strategies that fit; others are counted by limit")
    few = searched(rows=4)
    chosen, others, said = kept_of(few)
    assert set(few.front.tolist()) | {each for each in few.best if each is not None} <= set(chosen.tolist())
    assert f"{len(chosen):,} rows of {most:,}" in said
    assert "rows: 4 in the file" in said


def test_rows_come_in_the_order_that_is_asked(small: Answer) -> None:
    order = small.front[::-1]
    rows = rows_of(small, order)
    assert [row["time_s"] for row in rows] == pytest.approx([float(small.worth[index, 0]) for index in order])
    assert all(row["on_front"] and row["feasible"] for row in rows)
    assert rows_of(small, []) == []


def test_of_strategies_equal_in_an_objective_the_fastest_is_the_best() -> None:
    found = searched(objectives=["chips"])
    assert found.best[0] == int(np.argmin(found.number("time_s")))
    assert found.front.tolist() == [found.best[0]]


def test_a_date_that_none_meets_has_no_best_and_leaves_the_others() -> None:
    never = searched(objectives=["time_s", {"finish": {"tokens": 1e18, "days": 1}}])
    assert never.best[0] is not None
    assert never.best[1] is None
    always = searched(objectives=[{"finish": {"tokens": 1e6, "days": 1}}], nodes=[1, 2, 3])
    assert always.best[0] is not None
    assert strategy_at(always, always.best[0])["nodes"] == 1


def test_where_nothing_fits_there_is_no_best_no_front_and_still_a_table() -> None:
    nothing = searched(workload="llama-3.1-70b")
    assert (nothing.feasible, nothing.best, nothing.front.size) == (0, (None, None), 0)
    tables = tables_of(nothing, kept_of(nothing)[0])
    assert [len(table["system"]) for table in tables] == [0]
    assert {"plan.tensor_parallel", "usd_per_token", "on_front"} <= set(tables[0])


def test_a_cell_is_one_case_of_its_strategies(small: Answer) -> None:
    cell = small.inputs.cells[-1]
    case = cell.case(slice(0, cell.count))
    last = at(case.plan, cell.count - 1)
    strategy = strategy_of(cell, cell.count - 1)
    assert (last.tensor, last.zero, last.schedule) == (strategy["tensor"], strategy["zero"], strategy["schedule"])
    assert float(last.micro_batches) == 16 / (strategy["data"] * strategy["micro_batch"])
