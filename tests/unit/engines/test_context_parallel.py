"""What ranks that share out a sequence send: bytes by hand, the way back, windows, and nothing without them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.analytic import evaluate
from cosim.engines.case import Case, device_graph
from cosim.engines.step import group_costs, op_costs
from cosim.errors import SpecError
from cosim.mapping.context import context_collectives

Train = Callable[..., Case]
LONG = {"context": 32768, "workload.max_positions": 32768, "global_batch": 32}


def of(train: Train, degree: int, **fields: object) -> Case:
    return train("megatron", **{"tensor_parallel": 2, "context_parallel": degree, **LONG, **fields})


def sent(case: Case, *, backward: bool = False) -> dict[str, float]:
    found = context_collectives(device_graph(case).attentions, case.plan, backward=backward)
    return {f"{op.kind}{'.hides' if op.hides else ''}": float(np.ravel(op.size_bytes)[0]) for op in found}


def test_a_whole_sequence_on_a_rank_sends_nothing(train: Train) -> None:
    assert sent(of(train, 1)) == {}


def test_bytes_by_hand(train: Train) -> None:
    case = of(train, 4)
    op = device_graph(case).attentions[0].op
    heads, kv, wide = float(op.heads), float(op.kv_heads), float(op.head_dim)
    joined = 32768 * kv * 2 * wide * 2
    assert sent(case) == {"context_gather.hides": joined}
    assert sent(case, backward=True) == {"context_gather.hides": 2.0 * joined}
    gathered = of(train, 4, context_exchange="all_gather")
    assert sent(gathered) == {"context_gather": joined}
    assert sent(gathered, backward=True) == {"context_gather": joined, "context_scatter": joined}
    # Queries, keys, values and the output of a quarter of the tokens.
    exchanged = of(train, 4, context_exchange="all_to_all")
    assert sent(exchanged) == {"context_exchange": 32768 / 4 * (2 * heads + 2 * kv) * wide * 2}
    assert sent(exchanged, backward=True) == sent(exchanged)


@settings(max_examples=20, deadline=None)
@given(degree=st.sampled_from([2, 4, 8]), exchange=st.sampled_from(["ring", "all_gather", "all_to_all"]))
def test_more_ranks_share_the_work_and_the_memory(train: Train, degree: int, exchange: str) -> None:
    """Per micro-batch a rank has its part of the kernels; what is sent comes on top, and activations shrink."""
    alone, shared = of(train, 1), of(train, degree, context_exchange=exchange)
    costs = [
        group_costs(case, device_graph(case), op_costs(case, device_graph(case)))["layer"] for case in (alone, shared)
    ]
    assert float(costs[1].attention[0]) < float(costs[0].attention[0]) / degree * 1.3
    assert float(costs[1].matmul[0]) < float(costs[0].matmul[0]) / degree * 1.3
    assert float(costs[1].collective[0]) >= 0.0
    few, many = evaluate(alone), evaluate(shared)
    assert float(many.memory["activations"][0]) == pytest.approx(float(few.memory["activations"][0]) / degree, rel=1e-9)
    assert float(many.memory["weights"][0]) == float(few.memory["weights"][0])
    assert float(many.chips[0]) == degree * float(few.chips[0])


def test_a_ring_hides_behind_attention_and_a_gather_does_not(train: Train) -> None:
    ring, gather = (of(train, 8, context_exchange=exchange) for exchange in ("ring", "all_gather"))
    exposed = [float(evaluate(case).breakdown["collective"][0]) for case in (ring, gather)]
    assert exposed[0] < exposed[1]


def test_software_without_fused_attention_is_refused(train: Train) -> None:
    with pytest.raises(SpecError, match="context_parallel: needs fused attention"):
        evaluate(train("megatron-2022", context_parallel=2))


def test_a_degree_that_does_not_divide_the_sequence_is_not_legal(train: Train) -> None:
    result = evaluate(of(train, 3))
    assert not result.feasible[0]
