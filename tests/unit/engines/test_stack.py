"""What a training stack reaches of the chip's own rates: kernels, traffic, pieces, copies, the host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.analytic import evaluate
from cosim.engines.case import Case
from cosim.engines.stack import as_stack_runs, as_stack_sends, as_stack_shards
from cosim.engines.step import CLASSES_OF_TIME
from cosim.engines.training import kernels, passes, software_of, step_table, with_micro_batches
from cosim.hardware.load import load_chip
from cosim.hardware.lower import ChipArrays, lower_chip
from cosim.mapping.software import SoftwareArrays, load_software, lower_software
from cosim.records import array
from cosim.timing.collective import CollectiveCost
from cosim.timing.cost import KernelCost

Train = Callable[..., Case]
RATES = st.floats(0.05, 3.0)
CHIP: ChipArrays = lower_chip(load_chip("h100-sxm"))
STACK: SoftwareArrays = lower_software(load_software("megatron-2022"))


def kernel(time: float, flop: float = 1e12) -> KernelCost:
    zero = array(0.0)
    return KernelCost(
        array(time), array(0.8 * time), array(0.5 * time), array(flop), zero, zero, np.zeros((), np.int64), (zero,) * 3
    )


def sent(time: float, wire: float = 1e9) -> CollectiveCost:
    return CollectiveCost(array(time), array(wire), array(0.0))


@settings(max_examples=40, deadline=None)
@given(rate=RATES, time=st.floats(1e-6, 1.0), kind=st.sampled_from(["matmul", "vector"]))
def test_a_kernel_takes_its_time_over_the_rate_of_its_class_alone(rate: float, time: float, kind: str) -> None:
    stack = replace(STACK, **{f"{kind}_rate": array(rate)})
    found = as_stack_runs(kernel(time), kind, stack, CHIP)
    assert float(found.time) == pytest.approx(time / rate)
    assert float(found.compute) == pytest.approx(0.8 * time / rate)
    other = "vector" if kind == "matmul" else "matmul"
    assert float(as_stack_runs(kernel(time), other, stack, CHIP).time) == time


@settings(max_examples=40, deadline=None)
@given(most=st.floats(1.0, 1e5), time=st.floats(1e-6, 1.0), flop=st.floats(1e9, 1e15))
def test_attention_is_no_faster_than_its_kernels_on_all_cores(most: float, time: float, flop: float) -> None:
    stack = replace(STACK, attention_per_core=array(most))
    found = as_stack_runs(kernel(time, flop), "attention", stack, CHIP)
    assert float(found.time) == pytest.approx(max(time, flop / (most * 132 * 1.83e9)))
    assert float(found.compute) >= 0.8 * time
    assert float(as_stack_runs(kernel(time, flop), "attention", STACK, CHIP).time) == time


def test_attention_on_a_chip_of_unknown_cores_is_left_alone() -> None:
    stack = replace(STACK, attention_per_core=array(1e-6))
    assert float(as_stack_runs(kernel(1e-3), "attention", stack, replace(CHIP, cores=None)).time) == 1e-3


@settings(max_examples=40, deadline=None)
@given(rate=RATES, time=st.floats(1e-6, 1.0))
def test_traffic_has_a_rate_and_exchanges_one_of_their_own(rate: float, time: float) -> None:
    stack = replace(STACK, collective_rate=array(rate), exchange_rate=array(2.0 * rate))
    assert float(as_stack_sends(sent(time), stack).time) == pytest.approx(time / rate)
    assert float(as_stack_sends(sent(time), stack, exchange=True).time) == pytest.approx(time / rate / 2.0)
    assert float(as_stack_sends(sent(time), None).time) == time


def test_shards_pass_through_buffers_and_a_lone_rank_copies_nothing() -> None:
    stack = replace(STACK, shard_copy=array(1e11))
    # 2 GB at 100 GB/s beside 30 ms on the links.
    assert float(as_stack_shards(sent(0.03), array(2e9), stack).time) == pytest.approx(0.05)
    assert float(as_stack_shards(sent(0.0, 0.0), array(2e9), stack).time) == 0.0


@pytest.mark.parametrize("field", ["matmul_rate", "vector_rate", "collective_rate"])
def test_a_slower_stack_never_makes_a_faster_step(train: Train, field: str) -> None:
    plan: dict[str, Any] = {"tensor_parallel": 4, "pipeline_parallel": 2, "data_parallel": 2, "sequence_parallel": True}
    slow = {f"software.{field}": array(0.5)}
    assert float(evaluate(train(**plan, **slow)).time[0]) > float(evaluate(train(**plan)).time[0])


def test_pieces_hide_tensor_traffic_behind_its_product_but_for_the_first(train: Train) -> None:
    plan: dict[str, Any] = {"tensor_parallel": 8, "sequence_parallel": True, "recompute": "full"}
    host = {"software.host_kernel": array(0.0), "software.host_collective": array(0.0)}
    whole, cut = (with_micro_batches(train(**plan, **host, **{"software.tensor_pieces": on})) for on in (False, True))
    before, after = (step_table(case).rounds.classes["collective"][0] for case in (whole, cut))
    assert float(np.max(after)) < float(np.max(before))
    # The first of eight pieces has nothing to hide behind, in each of four collectives of the forward pass.
    assert float(np.max(after)) > float(np.max(before)) / 8.0
    same = [name for name in CLASSES_OF_TIME if name != "collective"]
    for name in same:
        assert np.array_equal(step_table(cut).rounds.classes[name], step_table(whole).rounds.classes[name])


def test_every_gather_and_scatter_of_a_layer_names_a_product_that_runs(train: Train) -> None:
    case = with_micro_batches(train(tensor_parallel=8, sequence_parallel=True, recompute="full"))
    names = {op.name for op in kernels(case)}
    every = passes(case)
    pieces = [op for part in (every.forward, every.again, every.gradients) for op in part.collectives if op.beside]
    assert len(pieces) == 4 + 4 + 2
    assert {op.beside for op in pieces} <= names


def test_one_rank_issues_no_collective(train: Train) -> None:
    free = {"software.host_kernel": array(0.0), "software.host_step": array(0.0)}
    dear = {**free, "software.host_collective": array(10.0)}
    assert float(evaluate(train(tensor_parallel=1, **dear)).breakdown["host"][0]) == 0.0
    assert float(evaluate(train(tensor_parallel=2, **dear)).breakdown["host"][0]) > 10.0


def test_exchanges_wait_for_the_host_and_only_where_tokens_travel(train: Train) -> None:
    plan: dict[str, Any] = {"model": "mixtral-8x7b", "tensor_parallel": 1, "data_parallel": 8, "software": "megatron"}
    slow = {"software.host_exchange": array(1.0)}
    alone, apart = (with_micro_batches(train(**plan, expert_parallel=each, **slow)) for each in (1, 8))
    assert float(evaluate(alone).breakdown["host"][0]) < 1.0
    # Out and back, forward and in the backward pass, in each of 12 layers: a second each, less what the device does.
    waits = float(evaluate(apart).breakdown["host"][0]) / float(np.ravel(apart.plan.micro_batches)[0])
    assert waits == pytest.approx(4 * 12, rel=0.02)
    assert float(np.max(software_of(apart).host_exchange)) == 1.0
