"""The update that a plan asks for: Adam named is Adam unnamed, state costs memory and time, Muon costs products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.analytic import Estimates, evaluate
from cosim.engines.case import Case
from cosim.engines.step import op_costs
from cosim.engines.train_events import simulate_training
from cosim.engines.training import passes, software_of, step_table, with_micro_batches
from cosim.mapping.device import DeviceGraph, DeviceMatmul
from cosim.mapping.optimizers import optimized
from cosim.mapping.plan import StateDtype
from cosim.mapping.software import load_software
from cosim.mapping.state import is_matrix, matrices_of
from cosim.records import array

Train = Callable[..., Case]
PLANS = st.fixed_dictionaries(
    {
        "tensor_parallel": st.sampled_from([1, 2, 8]),
        "data_parallel": st.sampled_from([1, 4]),
        "pipeline_parallel": st.sampled_from([1, 3]),
        "zero": st.integers(0, 3),
    }
)


def case_of(
    train: Train, optimizer: str | None, dtype: StateDtype | None = None, stack: str = "megatron", **fields: Any
) -> Case:
    case = train(stack, **fields)
    return with_micro_batches(replace(case, software=optimized(load_software(stack), optimizer, dtype)))


def run(train: Train, optimizer: str | None, dtype: StateDtype | None = None, **fields: Any) -> Estimates:
    return evaluate(case_of(train, optimizer, dtype, **fields))


@settings(max_examples=20, deadline=None)
@given(plan=PLANS, stack=st.sampled_from(["megatron", "megatron-2022", "deepseek"]))
def test_the_stacks_own_optimizer_named_changes_nothing(train: Train, plan: dict[str, Any], stack: str) -> None:
    software = load_software(stack)
    named, own = run(train, software.optimizer, stack=stack, **plan), run(train, None, stack=stack, **plan)
    assert named.time == pytest.approx(own.time, rel=1e-12)
    assert named.energy == pytest.approx(own.energy, rel=1e-12)
    assert named.memory["optimizer"] == pytest.approx(own.memory["optimizer"], rel=1e-12)


@settings(max_examples=20, deadline=None)
@given(plan=PLANS)
def test_less_state_takes_less_memory_and_no_more_time(train: Train, plan: dict[str, Any]) -> None:
    kinds = (("adamw", None), ("adamw", "bf16"), ("adamw", "int8"), ("sgd-momentum", "int8"), ("sgd", None))
    every = [run(train, name, dtype, **plan) for name, dtype in kinds]
    for more, less in pairwise(every):
        assert less.memory["optimizer"] < more.memory["optimizer"]
        assert less.breakdown["optimizer"] <= more.breakdown["optimizer"]
        for kind in ("weights", "gradients", "activations"):
            assert less.memory[kind] == more.memory[kind]


@settings(max_examples=20, deadline=None)
@given(plan=PLANS, optimizer=st.sampled_from(["muon", "adafactor", "lamb", "sgd"]))
def test_parts_sum_to_the_time_and_events_agree(train: Train, plan: dict[str, Any], optimizer: str) -> None:
    case = case_of(train, optimizer, **plan, **{"system.chip.power.limit": 1e6, "system.chip.collective_cores": 1e-9})
    result = evaluate(case)
    assert sum(part[0] for part in result.breakdown.values()) == pytest.approx(result.time[0], rel=1e-12)
    if plan["zero"] < 2 or plan["pipeline_parallel"] == 1:
        assert simulate_training(case).time_s == pytest.approx(result.time[0], rel=5e-3)


def test_elementwise_update_by_hand(train: Train) -> None:
    case = case_of(train, "sgd", data_parallel=2, zero=1)
    table, chip = step_table(case), case.system.chip
    held = 12 * sum(float(op.count * op.parameters) for op in passes(case).forward.matmuls if op.group == "layer")
    # Two reads and one write of a 4-byte gradient, a 4-byte master read and written, a 2-byte weight written.
    bytes_ = (12 + 8 + 2) / 2 * held
    rate = float(chip.memory["dram"].bandwidth * chip.quality.memory)
    assert float(table.optimizer[0, 0]) > bytes_ / rate
    assert float(table.optimizer[0, 0]) < 1.2 * bytes_ / rate


def test_muon_runs_fifteen_products_of_every_matrix(train: Train) -> None:
    plain, muon = case_of(train, "sgd-momentum"), case_of(train, "muon")
    changed = [op for op in passes(muon).forward.matmuls if is_matrix(op)]
    seconds = 0.0
    for op in changed:
        n, k = float(op.n), float(op.k)
        short, long = min(n, k), max(n, k)
        for m, w, d in ((short, short, long), (short, short, short), (short, long, short)):
            dims = (array(m), array(w), array(d))
            one = DeviceMatmul("x", "step", array(1.0), *dims, "bf16", array(0.0))
            cost = op_costs(muon, DeviceGraph("x", (one,), (), (), ()))[0].cost
            gap = float(muon.system.chip.launch.gap)
            seconds += 12 * 5 * float(op.count * matrices_of(op)) * (float(np.ravel(cost.time)[0]) + gap)
    own, more = (float(step_table(case).optimizer[0, 0]) for case in (plain, muon))
    assert seconds > 0.0
    # Embedding, head and norms keep two moments under Muon.
    assert more - own == pytest.approx(seconds, rel=0.05)


def test_ranks_that_share_out_state_share_the_products(train: Train) -> None:
    alone, shared = (run(train, "muon", data_parallel=4, zero=zero) for zero in (0, 1))
    assert shared.breakdown["optimizer"][0] == pytest.approx(alone.breakdown["optimizer"][0] / 4.0, rel=0.02)
    # More ranks than matrices: the one with the longest still has that.
    many = [run(train, "muon", data_parallel=count, zero=1, global_batch=256) for count in (64, 128)]
    small = float(many[0].breakdown["optimizer"][0]), float(many[1].breakdown["optimizer"][0])
    assert small[0] > 0.55 * small[1]


def test_nothing_updated_costs_nothing(train: Train) -> None:
    result = run(train, "muon", **{"scenario.updates": "nothing"})
    assert result.breakdown["optimizer"][0] == 0.0
    assert result.memory["optimizer"][0] == 0.0


def test_adapters_alone_are_updated(train: Train) -> None:
    all_, few = (run(train, "muon", **{"scenario.updates": what}) for what in ("all", "adapters"))
    assert few.memory["optimizer"][0] < 0.05 * all_.memory["optimizer"][0]
    assert few.breakdown["optimizer"][0] < 0.1 * all_.breakdown["optimizer"][0]


def test_points_share_one_optimizer(train: Train) -> None:
    case = case_of(train, "muon", tensor_parallel=[1, 2, 4], data_parallel=[4, 2, 1])
    together = evaluate(case)
    for index, (tensor, data) in enumerate(((1, 4), (2, 2), (4, 1))):
        alone = run(train, "muon", tensor_parallel=tensor, data_parallel=data)
        assert together.time[index] == pytest.approx(alone.time[0], rel=1e-12)
        assert together.memory["optimizer"][index] == pytest.approx(alone.memory["optimizer"][0], rel=1e-12)
    assert software_of(case).update is not None
