"""Collectives as bursts: what waits for what, how many bytes pass, and the same answer step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cosim.engines.network.flows import Burst, run_flows
from cosim.engines.network.graph import build
from cosim.engines.network.schedules import Work, schedule
from cosim.errors import SpecError
from cosim.hardware.lower import SystemArrays
from cosim.timing.collective_parts import group_of, parts_of

Made = Callable[..., SystemArrays]
NODES: tuple[dict[str, Any], ...] = (
    {"name": "node", "size": 4},
    {"name": "net", "kind": "fat_tree", "size": 4, "link": "nic", "bandwidth": 20e9},
)


def work(
    system: SystemArrays,
    op: str,
    size: float,
    chips: list[int],
    algorithm: str = "fastest",
    late: dict[int, float] | None = None,
    first: int = 0,
) -> Work:
    graph = build(system)
    parts = parts_of(op, size, group_of(chips, [tier.size for tier in graph.tiers]), system, algorithm)
    return Work(system, graph, graph.capacity, "c", op, size, np.array(chips), parts, 0.0, late or {}, first)


def end(one: Work, bursts: tuple[Burst, ...]) -> float:
    return run_flows(one.capacity, bursts).end_s[-1]


def test_a_ring_over_tiers_is_a_flow_a_channel(network_on: Made) -> None:
    one = work(network_on(*NODES), "all_reduce", 16e6, list(range(16)), "ring")
    (burst,) = schedule(one)
    assert len(burst.size) == 4
    assert burst.size == pytest.approx(2 * 15 / 16 * 16e6 / 4)
    assert burst.latency_s == pytest.approx(one.parts.parts[0].latency_s)


def test_a_hierarchy_goes_out_and_in_again(network_on: Made) -> None:
    bursts = schedule(work(network_on(*NODES), "all_reduce", 16e6, list(range(16)), "hierarchical", first=5))
    assert [burst.name for burst in bursts] == ["c node", "c net", "c node"]
    assert [burst.after for burst in bursts] == [(), (5,), (6,)]
    assert [len(burst.size) for burst in bursts] == [1, 4, 1]
    # 3/4 of 16 MB inside, twice 3/4 of each port's quarter across.
    assert [float(burst.size[0]) for burst in bursts] == pytest.approx([12e6, 6e6, 12e6])


@pytest.mark.parametrize(("op", "order"), [("all_gather", ["net", "node"]), ("reduce_scatter", ["node", "net"])])
def test_a_gather_goes_inward_and_a_scatter_outward(network_on: Made, op: str, order: list[str]) -> None:
    bursts = schedule(work(network_on(*NODES), op, 16e6, list(range(16)), "hierarchical"))
    assert [burst.name.split()[1] for burst in bursts] == order
    assert sorted(float(burst.size[0]) for burst in bursts) == pytest.approx([3e6, 12e6])


def test_a_hierarchical_gather_takes_each_phase_once(network_on: Made) -> None:
    one = work(network_on(*NODES), "all_gather", 16e9, list(range(16)), "hierarchical")
    inside, across = 0.75 * 16e9 / 80e9, 0.75 * 4e9 / 16e9
    assert end(one, schedule(one)) == pytest.approx(inside + across + 2 * 3e-6 + (3 + 3) * 1e-6)


def test_halving_doubling_starts_once(network_on: Made) -> None:
    one = work(network_on(*NODES), "all_reduce", 16e9, list(range(16)), "halving_doubling")
    bursts = schedule(one)
    assert [burst.latency_s > 0.0 for burst in bursts] == [True, False, False]
    assert end(one, bursts) == pytest.approx(one.parts.time_s, rel=1e-6)


def test_all_pairs_send_at_once(network_on: Made) -> None:
    (burst,) = schedule(work(network_on(*NODES), "alltoall", 16e6, list(range(16))))
    assert len(burst.size) == 16 * 15
    assert set(burst.size) == {1e6}


def test_only_pairs_of_a_late_rank_wait_for_it(network_on: Made) -> None:
    bursts = schedule(work(network_on(*NODES), "alltoall", 16e6, list(range(8)), late={3: 1e-3}))
    assert [len(burst.size) for burst in bursts] == [7 * 6, 2 * 7, 0]
    assert [burst.at_s for burst in bursts[:2]] == [0.0, 1e-3]
    assert bursts[-1].after == (0, 1)


def test_a_ring_waits_for_all_its_ranks(network_on: Made) -> None:
    (burst,) = schedule(work(network_on(*NODES), "all_reduce", 16e6, list(range(8)), "ring", late={3: 1e-3, 5: 2e-3}))
    assert burst.at_s == 2e-3


def test_a_group_of_one_does_nothing(network_on: Made) -> None:
    one = work(network_on(*NODES), "all_reduce", 16e6, [3])
    assert end(one, schedule(one)) == 0.0


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    op=st.sampled_from(["all_reduce", "all_gather", "reduce_scatter"]),
    tier=st.sampled_from(
        [
            {"size": 6},
            {"kind": "bus", "size": 6},
            {"kind": "fat_tree", "size": 6},
            {"kind": "dragonfly", "shape": (6, 1)},
        ]
    ),
    ranks=st.integers(2, 6),
    size=st.floats(1e3, 1e9),
)
def test_a_stream_is_the_same_as_its_steps(
    network_on: Made, op: str, tier: dict[str, Any], ranks: int, size: float
) -> None:
    one = work(network_on(tier), op, size, list(range(ranks)), "ring")
    stream, steps = schedule(one), schedule(one, stepwise=True)
    assert len(steps) == (2 if op == "all_reduce" else 1) * (ranks - 1) * ranks + 1
    assert end(one, steps) == pytest.approx(end(one, stream), rel=1e-6)


def test_steps_wait_for_the_step_before(network_on: Made) -> None:
    one = work(network_on(*NODES), "all_gather", 4e6, [0, 1, 2], "ring", first=10)
    bursts = schedule(one, stepwise=True)
    assert [burst.after for burst in bursts] == [(), (), (), (10, 12), (11, 10), (12, 11), (15, 14, 13)]


def test_a_late_rank_holds_up_a_stepwise_ring_by_no_more_than_it_is_late(network_on: Made) -> None:
    plain = work(network_on(*NODES), "all_reduce", 4e6, [0, 1, 2, 3], "ring")
    late = work(network_on(*NODES), "all_reduce", 4e6, [0, 1, 2, 3], "ring", late={2: 1e-3})
    ends = [end(one, schedule(one, stepwise=True)) for one in (plain, late)]
    assert ends[1] - ends[0] == pytest.approx(1e-3)


@pytest.mark.parametrize("algorithm", ["tree", "hierarchical", "ring"])
def test_only_a_ring_inside_a_tier_has_steps(network_on: Made, algorithm: str) -> None:
    with pytest.raises(SpecError, match="cannot be run step by step"):
        schedule(work(network_on(*NODES), "all_reduce", 4e6, list(range(16)), algorithm), stepwise=True)


def test_only_a_switch_reduces_in_the_network(network_on: Made) -> None:
    mesh = work(network_on({"kind": "mesh", "size": 4}), "all_reduce", 4e6, [0, 1, 2, 3], "in_network")
    assert mesh.parts.algorithm != "in_network"
