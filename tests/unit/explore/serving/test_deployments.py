"""The space of deployments: what is legal, that chips come out, what is said where nothing is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.explore.serving.deployments import (
    Cell,
    Ground,
    Machine,
    case_of,
    cells_of,
    crossed,
    demand_of,
    levels_of,
    replicas_of,
    size_of,
    together_of,
)
from cosim.explore.serving.search_file import ServingSearch
from cosim.records import points

Study = Callable[..., ServingSearch]
Grounds = Callable[..., Ground]
Machines = Callable[..., Machine]


@given(st.lists(st.integers(1, 9), max_size=4), st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_every_value_meets_every_row(first: list[int], second: list[int]) -> None:
    table = crossed(crossed({}, one=first), two=second)
    rows = list(zip(table["one"].tolist(), table["two"].tolist(), strict=True))
    assert rows == [(float(a), float(b)) for a, b in product(first, second)]


def of(machine: Machines, study: ServingSearch, ground: Ground) -> tuple[Cell, dict[str, np.ndarray[Any, Any]], str]:
    (cell,) = cells_of(study.space, [machine(chips=ground.chips)], ground)
    return cell, *replicas_of(cell, study.space, ground)


@pytest.mark.parametrize("chips", [1, 3, 4, 8])
def test_deployments_together_take_all_chips(study: Study, ground: Grounds, machine: Machines, chips: int) -> None:
    asked = study(chips=chips)
    own = ground(asked)
    _, replicas, _ = of(machine, asked, own)
    assert np.all(size_of(replicas) <= chips)
    table = together_of(replicas, levels_of(asked.space, own), own)
    assert len(table["tensor"])
    assert np.all(table["replicas"] * size_of(table) == chips)
    rows = set(zip(*(column.tolist() for column in table.values()), strict=True))
    assert len(rows) == len(table["tensor"])


def test_replicas_of_a_dense_model_by_hand(study: Study, ground: Grounds, machine: Machines) -> None:
    # 32 heads and 8 key/value heads: tensor 1, 2, 4; stages that are powers of two or divide 4.
    _, replicas, limit = of(machine, study(), ground())
    found = sorted(zip(replicas["tensor"].tolist(), replicas["pipeline"].tolist(), strict=True))
    assert found == [(1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (4, 1)]
    assert limit == ""
    assert np.all(replicas["data"] == 1.0)


def test_data_ranks_share_all_experts(study: Study, ground: Grounds, machine: Machines) -> None:
    asked = study(chips=8)
    _, replicas, _ = of(machine, asked, ground(asked, "qwen3-30b-a3b"))
    several = replicas["data"] > 1.0
    assert several.any()
    assert np.all(replicas["expert"][several] == (replicas["tensor"] * replicas["data"])[several])
    assert np.all(replicas["expert"][~several] <= replicas["tensor"][~several])


def test_the_limit_that_stops_most_is_named(study: Study, ground: Grounds, machine: Machines) -> None:
    _, replicas, limit = of(machine, study({"tensor": 3}), ground())
    assert not len(replicas["tensor"])
    assert limit == "tensor_parallel"
    _, replicas, limit = of(machine, study({"tensor": 8}), ground())
    assert (len(replicas["tensor"]), limit) == (0, "chips")


def test_levels_rise_to_what_the_stack_holds(study: Study, ground: Grounds) -> None:
    asked = study({"max_sequences": "all", "token_budget": "all"})
    levels = levels_of(asked.space, ground())
    stack = ground().stack
    assert levels["max_sequences"][:12] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    assert levels["max_sequences"][-1] == float(stack.max_sequences)
    ratios = np.diff(levels["max_sequences"][20:]) / np.array(levels["max_sequences"][20:-1])
    assert ratios.max() < 0.12
    assert float(stack.token_budget) in levels["token_budget"]
    assert levels_of(study().space, ground())["max_sequences"] == [1, 8, 32, 64, 128]


def test_formats_make_cells(study: Study, ground: Grounds, machine: Machines) -> None:
    space = study({"dtype": ["bf16", "fp8"], "weights_dtype": ["fp8", "int4"], "kv_dtype": ["bf16", "fp8"]}).space
    labels = [cell.label for cell in cells_of(space, [machine()], ground())]
    assert labels == [
        "bf16, weights fp8, cache bf16",
        "bf16, weights fp8, cache fp8",
        "bf16, weights int4, cache bf16",
        "bf16, weights int4, cache fp8",
        "fp8, cache bf16",
        "fp8, cache fp8",
        "fp8, weights int4, cache bf16",
        "fp8, weights int4, cache fp8",
    ]
    plain = cells_of(study({"dtype": None}).space, [machine()], ground())
    # The stack's recipes keep the cache of weights of 8 bits in 8 bits.
    assert [cell.label for cell in plain] == ["fp8, cache fp8"]
    assert [cell.label for cell in cells_of(study().space, [machine()], ground())] == ["bf16, cache bf16"]


def test_formats_that_no_chip_has_are_refused(study: Study, ground: Grounds, machine: Machines) -> None:
    for space in ({"dtype": "nvfp4"}, {"dtype": "fp8", "weights_dtype": "bf16"}):
        with pytest.raises(SpecError, match=r"space.dtype: has no set of formats.*bf16"):
            cells_of(study(space).space, [machine()], ground())


def test_a_case_is_one_replica_with_its_stack(study: Study, ground: Grounds, machine: Machines) -> None:
    asked = study({"tensor": 2, "pipeline": 2})
    cell, replicas, _ = of(machine, asked, ground(asked))
    table = together_of(replicas, levels_of(asked.space, ground()), ground())
    case, demand = case_of(cell, table, ground()), demand_of(table, ground())
    assert points(case) == 10
    assert case.stack is not None
    assert case.stack.max_sequences.tolist() == [1, 8, 32, 64, 128] * 2
    assert case.plan.micro_batches.tolist() == [2] * 10
    assert demand.concurrency.tolist() == case.stack.max_sequences.tolist()
    assert set(demand.prompt.tolist()) == {1000.0}


def test_a_sequence_holds_half_of_its_answer_on_average(ground: Grounds) -> None:
    own = ground()
    assert own.held_tokens == 1050.0
    whole = replace(own, stack=replace(own.stack, reserves_whole=True))
    assert whole.held_tokens == 1100.0
