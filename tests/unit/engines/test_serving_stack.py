"""What a serving stack makes of kernels, sums and the host: never faster with slower constants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.analytic import timed_step
from cosim.engines.case import Case, device_graph, stage_classes
from cosim.engines.serving_stack import sent_by, served_by, serving_host
from cosim.engines.step import op_costs, stage_costs
from cosim.mapping.device import DeviceCollective, DeviceMatmul
from cosim.mapping.placement import tensor_placement
from cosim.records import Array, array
from cosim.timing.collective import all_reduce
from cosim.timing.cost import dram_rate
from cosim.workload.work import Work, decode_work

Serving = Callable[..., Case]
STEP = Work(*(array(x) for x in (2.0, 300.0, 100.0, 30.0, 900.0, 32.0)))


def timed(case: Case, work: Work = STEP) -> tuple[float, dict[str, float]]:
    """Seconds of a step and of its parts."""
    found, parts = timed_step(replace(case, work=work))
    return float(found["time"][0]), {name: float(np.ravel(value)[0]) for name, value in parts.items()}


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(
        [
            *("host_step", "host_sequence", "host_kernel", "routed_start", "matmul_rate", "routed_rate"),
            *("attention_rate", "vector_rate", "collective_rate", "exchange_rate", "read_per_core"),
        ]
    ),
    factor=st.floats(1.01, 50.0),
    hidden=st.booleans(),
    model=st.sampled_from(["llama-3.1-8b", "mixtral-8x7b"]),
)
def test_slower_constants_are_never_faster(
    serving: Serving, name: str, factor: float, hidden: bool, model: str
) -> None:
    base = {"rate": 1.0, "read_per_core": 40.0}.get(name if name == "read_per_core" else name.rpartition("_")[2], 1e-6)
    worse = base / factor if name.endswith("_rate") or name == "read_per_core" else base * factor
    common = {"tensor_parallel": 4, "stack.host_hidden": hidden, "stack.host_step": 1e-6}
    quick, slow = (timed(serving(model, **{**common, f"stack.{name}": x}))[0] for x in (base, worse))
    assert slow >= quick * (1.0 - 1e-12)


@pytest.mark.parametrize(("rate", "part"), [("matmul", "matmul"), ("attention", "attention"), ("vector", "vector")])
def test_a_rate_slows_its_own_kernels_and_no_others(serving: Serving, rate: str, part: str) -> None:
    _, plain = timed(serving())
    _, slow = timed(serving(**{f"stack.{rate}_rate": 0.5}))
    for name in ("matmul", "attention", "vector", "launch"):
        assert slow[name] == pytest.approx(plain[name] * (2.0 if name == part else 1.0)), name


def test_experts_have_a_rate_of_their_own(serving: Serving) -> None:
    plain, slow = (serving("mixtral-8x7b", **{"stack.routed_rate": rate}, tensor_parallel=2) for rate in (1.0, 0.5))
    costs = []
    for case in (plain, slow):
        at = replace(case, work=STEP)
        costs.append({op.name: float(np.ravel(op.cost.time)[0]) for op in op_costs(at, device_graph(at))})
    for name, value in costs[0].items():
        assert costs[1][name] == pytest.approx(value * (2.0 if name.startswith("expert_") and "act" not in name else 1))


def product(case: Case, **changes: Any) -> tuple[DeviceMatmul, Any]:
    at = replace(case, work=STEP)
    device = device_graph(at)
    op = next(op for op in device.matmuls if op.name == "ffn_in")
    cost = next(cost.cost for cost in op_costs(replace(at, stack=None), device) if cost.name == "ffn_in")
    return replace(op, **changes), cost


def test_products_take_no_more_of_memory_than_cores_read(serving: Serving) -> None:
    case = serving(**{"stack.read_per_core": 2.0})
    op, cost = product(case)
    assert case.stack is not None
    chip = case.system.chip
    assert chip.cores is not None
    assert chip.matrix.clock is not None
    least = float(cost.dram_bytes[0]) / (2.0 * float(chip.cores) * float(chip.matrix.clock))
    found = served_by(cost, "matmul", case.stack, chip, op)
    assert float(found.time[0]) == pytest.approx(max(least, float(cost.time[0])))
    assert least > float(cost.time[0])


@settings(max_examples=30, deadline=None)
@given(rate=st.floats(1e-3, 10.0), rows=st.floats(1.0, 8.0), matmul=st.floats(0.5, 2.0))
def test_few_rows_of_stored_weights_are_dot_products(serving: Serving, rate: float, rows: float, matmul: float) -> None:
    case = serving(**{"stack.stored_on_vector": rate, "stack.matmul_rate": matmul})
    op, cost = product(case, stored="int4", m=array(rows))
    assert case.stack is not None
    chip = case.system.chip
    found = served_by(cost, "matmul", case.stack, chip, op)
    dots = float(cost.flop[0]) / (rate * float(chip.vector_peak))
    assert float(found.time[0]) == pytest.approx(max(dots, float(cost.memory[0]) / matmul))
    plain = served_by(cost, "matmul", case.stack, chip, replace(op, stored=None))
    assert float(plain.time[0]) == pytest.approx(float(cost.time[0]) / matmul)


@settings(max_examples=20, deadline=None)
@given(rows=st.floats(9.0, 1e5), rate=st.floats(1e-3, 10.0))
def test_many_rows_of_stored_weights_copy_them_first(serving: Serving, rows: float, rate: float) -> None:
    case = serving(**{"stack.stored_on_vector": rate})
    op, cost = product(case, stored="int4", m=array(rows))
    assert case.stack is not None
    chip = case.system.chip
    found = served_by(cost, "matmul", case.stack, chip, op)
    copied = 4.0 * float(op.n) * float(op.k) * float(op.batch) / float(dram_rate(chip))
    assert float(found.time[0]) == pytest.approx(float(cost.time[0]) + copied)
    assert float(found.memory[0]) == pytest.approx(float(cost.memory[0]) + copied)


def test_stacks_that_widen_on_the_way_copy_nothing(serving: Serving) -> None:
    case = serving()
    op, cost = product(case, stored="int4")
    assert case.stack is not None
    assert float(served_by(cost, "matmul", case.stack, case.system.chip, op).time[0]) == float(cost.time[0])


@settings(max_examples=20, deadline=None)
@given(kernel=st.floats(1e-7, 1e-3), chunks=st.sampled_from([0.0, 1.0]), decodes=st.sampled_from([0.0, 300.0]))
def test_steps_of_decodes_alone_may_be_replayed(serving: Serving, kernel: float, chunks: float, decodes: float) -> None:
    work = Work(array(chunks), array(64.0), array(0.0), array(decodes), array(900.0), array(max(chunks + decodes, 1.0)))
    fields = {"stack.host_step": 0.0, "stack.host_kernel": kernel, "stack.graph_tokens": 0.0}
    issued, replayed, free = (
        timed(serving(**{**fields, **own}), work)[0]
        for own in ({}, {"stack.graph_decodes": True}, {"stack.host_kernel": 0.0})
    )
    assert replayed == (issued if chunks else free)
    assert issued >= free


def test_other_kernels_know_no_such_limits(serving: Serving) -> None:
    case = serving(**{"stack.read_per_core": 1e-3, "stack.attention_rate": 0.5})
    _, cost = product(case)
    assert case.stack is not None
    found = served_by(cost, "attention", case.stack, case.system.chip, None)
    assert float(found.time[0]) == pytest.approx(2 * float(cost.time[0]))


def summed(case: Case, size: float, kind: str = "all_reduce") -> tuple[float, float]:
    """Seconds of a sum by the library, and by the stack."""
    assert case.stack is not None
    group = tensor_placement(case.plan.tensor, case.system.sizes, case.plan.chips)
    cost = all_reduce(array([size]), group, case.system, "fastest")
    op = DeviceCollective("sum", "layer", kind, array(1.0), array([size]))
    found = sent_by(cost, op, group, case.system, case.stack)
    return float(np.ravel(cost.time)[0]), float(np.ravel(found.time)[0])


@settings(max_examples=25, deadline=None)
@given(size=st.floats(64.0, 1e9), start=st.floats(1e-7, 1e-4))
def test_the_stacks_own_sum_is_taken_where_it_is_faster(serving: Serving, size: float, start: float) -> None:
    case = serving(tensor_parallel=4, **{"stack.sum_start": start})
    library, found = summed(case, size)
    own = start + 3 * size / float(case.system.tiers[0].bandwidth)
    assert found == pytest.approx(min(library, own))
    assert found <= library


def test_small_sums_are_faster_and_large_ones_the_librarys(serving: Serving) -> None:
    case = serving(tensor_parallel=8, **{"stack.sum_start": 2e-6})
    small, large = summed(case, 8192.0), summed(case, 1e9)
    assert small[1] < 0.5 * small[0]
    assert large[1] == large[0]


def test_sums_over_nodes_and_other_operations_are_the_librarys(serving: Serving) -> None:
    own = {"stack.sum_start": 1e-9, "stack.collective_rate": 0.5, "stack.exchange_rate": 0.25}
    beyond = serving(tensor_parallel=16, **own, **{"system.nodes": 2})
    assert summed(beyond, 8192.0)[1] == pytest.approx(2 * summed(beyond, 8192.0)[0])
    inside = serving(tensor_parallel=4, **own)
    for kind, slower in (("all_gather", 2.0), ("all_to_all", 4.0)):
        assert summed(inside, 8192.0, kind)[1] == pytest.approx(slower * summed(inside, 8192.0, kind)[0])
    assert summed(inside, 0.0)[1] == pytest.approx(2 * summed(inside, 0.0)[0])


def host(case: Case, device: float, work: Work = STEP) -> float:
    at = replace(case, work=work)
    stage, graph = stage_classes(at), device_graph(at)
    costs = stage_costs(at, graph, op_costs(at, graph), stage)
    found: Array = serving_host(at, costs, stage, array([device]))
    return float(np.ravel(found)[0])


def test_the_host_by_hand(serving: Serving) -> None:
    fields = {"stack.host_step": 3e-3, "stack.host_sequence": 1e-5}
    after, behind = (serving(**fields, **{"stack.host_hidden": hidden}) for hidden in (False, True))
    # 2 pieces and 30 sequences
    assert host(after, 1e-3) == pytest.approx(3e-3 + 32e-5)
    assert host(behind, 1e-3) == pytest.approx(2e-3 + 32e-5)
    assert host(behind, 5e-3) == 0.0
    assert host(serving(**fields, data_parallel=2), 1e-3) == pytest.approx(3e-3 + 16e-5)


def test_a_stack_that_does_not_say_has_the_host_of_the_chip(serving: Serving) -> None:
    case = serving()
    assert host(case, 1e-3) == float(case.system.chip.launch.host_step)
    assert host(replace(case, stack=None), 1e-3) == float(case.system.chip.launch.host_step)


def test_steps_that_no_graph_replays_wait_for_their_kernels_to_be_issued(serving: Serving) -> None:
    fields = {"stack.host_step": 0.0, "stack.host_kernel": 1e-5, "stack.graph_tokens": 64.0}
    case = serving(**fields)
    small, large = (decode_work(array(count), array(100.0)) for count in (64.0, 65.0))
    at = replace(case, work=large)
    stage, graph = stage_classes(at), device_graph(at)
    kernels = float(np.sum(stage.count * stage_costs(at, graph, op_costs(at, graph), stage).kernels))
    assert host(case, 1e-4, small) == 0.0
    assert host(case, 1e-4, large) == pytest.approx(kernels * 1e-5 - 1e-4)
    assert host(case, 1.0, large) == 0.0


def test_the_start_of_a_router_is_counted_a_routed_layer(serving: Serving) -> None:
    plain, slow = (
        timed(serving("mixtral-8x7b", tensor_parallel=2, **{"stack.routed_start": s}))[1] for s in (0.0, 1e-5)
    )
    assert slow["launch"] - plain["launch"] == pytest.approx(32 * 1e-5)
    dense = [timed(serving(**{"stack.routed_start": s}))[0] for s in (0.0, 1e-5)]
    assert dense[0] == dense[1]
