"""Offload to the host's memory: less on the chip, the rest counted there, time hidden or exposed, in both engines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.analytic import Estimates, evaluate
from cosim.engines.case import Case
from cosim.engines.train_events import simulate_training
from cosim.engines.training import step_table, with_micro_batches
from cosim.errors import SpecError
from cosim.mapping.legal import LIMITS

Train = Callable[..., Case]
CALM = {"system.chip.power.limit": 1e6, "system.chip.collective_cores": 1e-9, "system.server.memory": "1000 TB"}
KINDS = ("activations", "weights", "optimizer")
SHARES = st.sampled_from([0.0, 0.3, 0.7, 1.0])
LINK = "system.chip.links.host.bandwidth"


def case_of(train: Train, **fields: Any) -> Case:
    return with_micro_batches(train(**{"software": "megatron", **CALM, **fields}))


def run(train: Train, **fields: Any) -> Estimates:
    return evaluate(case_of(train, **fields))


def second(result: Estimates) -> float:
    return float(result.time[0])


PLANS = st.fixed_dictionaries(
    {
        "pipeline_parallel": st.sampled_from([1, 2, 3]),
        "data_parallel": st.sampled_from([1, 2]),
        "zero": st.integers(0, 1),
        "recompute": st.sampled_from(["none", "full"]),
    }
)


@settings(max_examples=20, deadline=None)
@given(plan=PLANS, kind=st.sampled_from(KINDS), share=SHARES, more=SHARES)
def test_a_larger_share_takes_less_of_the_chip_and_more_of_the_host(
    train: Train, plan: dict[str, Any], kind: str, share: float, more: float
) -> None:
    low, high = sorted((share, more))
    few, many = (run(train, **plan, **{f"offload_{kind}": each}) for each in (low, high))
    assert many.memory[kind] <= few.memory[kind]
    assert many.memory["host"] >= few.memory["host"]
    assert second(many) >= second(few) * (1 - 1e-12)
    for other in {"weights", "gradients", "activations", "optimizer"} - {kind}:
        assert many.memory[other] <= few.memory[other] * (1 + 1e-12) or plan["pipeline_parallel"] > 1
    # Nothing is lost: buffers are all that is held twice.
    assert many.memory[kind] + many.memory["host"] >= few.memory[kind] * (1 - 1e-12)


def test_nothing_offloaded_is_what_no_share_is(train: Train) -> None:
    plain, none = run(train), run(train, **{f"offload_{kind}": 0.0 for kind in KINDS})
    assert second(plain) == second(none)
    assert none.memory["host"][0] == none.breakdown["offload"][0] == 0.0


@settings(max_examples=20, deadline=None)
@given(plan=PLANS, shares=st.tuples(SHARES, SHARES, SHARES), link=st.sampled_from([1e9, 8e9, 32e9, 1e12]))
def test_events_take_the_time_of_the_closed_form_and_parts_sum(
    train: Train, plan: dict[str, Any], shares: tuple[float, ...], link: float
) -> None:
    offload = {f"offload_{kind}": share for kind, share in zip(KINDS, shares, strict=True)}
    case = case_of(train, **plan, **offload, **{LINK: link})
    result = evaluate(case)
    assert simulate_training(case).time_s == pytest.approx(second(result), rel=5e-3)
    assert sum(float(part[0]) for part in result.breakdown.values()) == pytest.approx(second(result), rel=1e-12)
    assert float(result.breakdown["offload"][0]) >= 0.0
    faster = run(train, **plan, **offload, **{LINK: 2.0 * link})
    assert second(faster) <= second(result) * (1 + 1e-12)


def test_a_fast_link_hides_everything_and_a_slow_one_is_the_step(train: Train) -> None:
    plain = run(train)
    for kind in KINDS:
        fast, slow = (run(train, **{f"offload_{kind}": 1.0, LINK: link}) for link in (1e15, 1e7))
        assert second(fast) == pytest.approx(second(plain), rel=1e-12)
        assert fast.breakdown["offload"][0] == 0.0
        assert slow.breakdown["offload"][0] > 0.9 * second(slow)


def test_time_of_a_slow_link_by_hand(train: Train) -> None:
    link, micro = 1e6, 16.0
    plain = run(train)
    weights = run(train, offload_weights=1.0, **{LINK: link})
    held = float(plain.memory["weights"][0])
    # In behind both passes of every micro-batch; new ones out after the update.
    assert second(weights) == pytest.approx((2.0 * micro + 1.0) * held / link, rel=1e-3)
    state = run(train, offload_optimizer=1.0, **{LINK: link})
    own = float(plain.memory["optimizer"][0])
    assert second(state) == pytest.approx(own / link, rel=1e-2)
    assert float(state.breakdown["offload"][0]) == pytest.approx(second(state) - second(plain), rel=1e-3)
    assert float(state.memory["host"][0]) == pytest.approx(own, rel=1e-12)
    assert float(state.memory["optimizer"][0]) == pytest.approx(own * 2.0 / 12.0, rel=1e-9)
    saved = run(train, offload_activations=1.0, **{LINK: link})
    # One micro-batch lives at a time: out and back for each of them.
    assert second(saved) == pytest.approx(2.0 * micro * float(saved.memory["host"][0]) / link, rel=1e-3)


def test_what_is_recomputed_need_not_travel(train: Train) -> None:
    none, full = (run(train, offload_activations=1.0, recompute=level) for level in ("none", "full"))
    assert full.memory["host"][0] < 0.2 * none.memory["host"][0]


def test_the_host_holds_no_more_than_it_has(train: Train) -> None:
    small = {"system.server.memory": "100 GB"}
    result = run(train, offload_optimizer=1.0, **small)
    limit = LIMITS[int(result.verdict.code[0])]
    assert limit.name == "host_memory"
    own = float(run(train).memory["optimizer"][0])
    assert float(result.verdict.shortfall[0]) == pytest.approx(own - 100e9 / 8, rel=1e-9)
    assert run(train, offload_optimizer=0.1, **small).feasible[0]


def test_shares_are_numbers_along_the_points(train: Train) -> None:
    shares = [0.0, 0.5, 1.0]
    together = run(train, offload_activations=shares, pipeline_parallel=2)
    for index, share in enumerate(shares):
        alone = run(train, offload_activations=share, pipeline_parallel=2)
        assert together.time[index] == pytest.approx(second(alone), rel=1e-12)
        for kind in ("host", "activations", "total"):
            assert together.memory[kind][index] == pytest.approx(float(alone.memory[kind][0]), rel=1e-12)


def test_a_system_without_facts_of_its_host_is_refused(case_of: Callable[..., Case]) -> None:
    fields = {"plan.tensor_parallel": 8, "plan.offload_weights": 0.5, "scenario.global_batch": 8}
    with pytest.raises(SpecError, match=r"plan.offload_weights.*second tier.*server.memory"):
        evaluate(with_micro_batches(case_of("train", "dgx-b200", **fields)))
    case = with_micro_batches(case_of("train", "dgx-h100", **fields))
    links = {name: rate for name, rate in case.system.chip.links.items() if name != "host"}
    bare = replace(case.system, chip=replace(case.system.chip, links=links))
    with pytest.raises(SpecError, match="give links"):
        evaluate(replace(case, system=bare))


def test_bytes_over_the_link_cost_energy(train: Train) -> None:
    plain, moved = run(train), run(train, offload_weights=1.0, **{LINK: 1e15})
    per_byte = 10.0 * 1e-12
    assert float(moved.energy[0]) > float(plain.energy[0]) + per_byte * float(plain.memory["weights"][0])
    table = step_table(case_of(train, offload_weights=1.0, **{LINK: 1e15}))
    assert np.all(table.rounds.offload == 0.0)
    assert np.all(table.ends.swap == 0.0)
