"""Collectives at once, degraded and late, and every request that cannot be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cosim.engines.network.simulate import NetworkRun, Request, bus_bandwidth, simulate_collectives
from cosim.errors import SpecError
from cosim.hardware.lower import SystemArrays

Made = Callable[..., SystemArrays]
NODES: tuple[dict[str, Any], ...] = (
    {"name": "node", "size": 4},
    {"name": "net", "kind": "fat_tree", "size": 4, "link": "nic", "bandwidth": 20e9},
)
CUBE: dict[str, Any] = {"name": "cube", "kind": "torus", "shape": (4, 4)}
BYTES = 1.6e9


def run(system: SystemArrays, *requests: Request, **given: Any) -> NetworkRun:  # whatever it takes
    return simulate_collectives(system, requests, **given)


def wire(found: NetworkRun, place: int = 0) -> float:
    """Seconds of a collective past its latency: 3 us and some hops, which are small here."""
    return found.outcomes[place].time_s


def test_two_groups_on_links_of_their_own_do_not_meet(network_on: Made) -> None:
    system = network_on(*NODES)
    alone = wire(run(system, Request("all_reduce", BYTES, (0, 4))))
    both = run(system, Request("all_reduce", BYTES, (0, 4)), Request("all_reduce", BYTES, (1, 5)))
    assert [one.time_s for one in both.outcomes] == pytest.approx([alone, alone])


def test_two_groups_on_the_same_links_share_them(network_on: Made) -> None:
    system = network_on(*NODES)
    alone = wire(run(system, Request("all_reduce", BYTES, (0, 4))))
    both = run(system, *[Request("all_reduce", BYTES, (0, 4))] * 2)
    assert wire(both) == pytest.approx(2 * alone, rel=1e-3)
    later = run(system, Request("all_reduce", BYTES, (0, 4)), Request("all_reduce", BYTES, (0, 4), start_s=alone / 2))
    assert [one.end_s for one in later.outcomes] == pytest.approx([1.5 * alone, 2 * alone], rel=1e-3)


def test_background_takes_its_rate_and_no_more_than_half(network_on: Made) -> None:
    system = network_on(*NODES)
    alone = wire(run(system, Request("all_gather", BYTES, (0, 4))))
    # 16 GB/s are reached: 4 of them are taken, or half.
    for rate, factor in ((4e9, 16 / 12), (100e9, 2.0)):
        found = run(system, Request("all_gather", BYTES, (0, 4)), background=[(0, 4, rate)])
        assert wire(found) == pytest.approx(factor * alone, rel=1e-3)


def test_a_ring_on_a_mesh_gives_way_as_one_connection_a_link(network_on: Made) -> None:
    system = network_on({"kind": "mesh", "size": 8})
    alone = wire(run(system, Request("all_gather", BYTES, tuple(range(8)))))
    found = run(system, Request("all_gather", BYTES, tuple(range(8))), background=[(0, 1, 100e9)])
    assert wire(found) == pytest.approx(2 * alone, rel=1e-3)


def test_a_degraded_port_slows_its_rail_alone(network_on: Made) -> None:
    system = network_on(*NODES)
    everyone = Request("all_reduce", BYTES, tuple(range(16)), "ring")
    whole, half = run(system, everyone), run(system, everyone, degraded={"net0.node2.chip1.up": 0.5})
    assert wire(half) == pytest.approx(2 * wire(whole), rel=1e-3)
    assert half.busiest(1)[0][0] == "net0.node2.chip1.up"
    assert half.busiest(1)[0][1] > 0.99
    assert dict(half.busiest(100))["net0.node2.chip2.up"] == pytest.approx(0.5, rel=1e-2)


def test_a_failed_link_is_passed_round(network_on: Made) -> None:
    system = network_on(CUBE)
    everyone = Request("all_reduce", BYTES, tuple(range(16)), "ring")
    whole, cut = run(system, everyone), run(system, everyone, degraded={"cube0.x+[1,2]": 0.0})
    assert wire(cut) == pytest.approx(2 * wire(whole), rel=1e-2)
    pairs = Request("alltoall", BYTES, tuple(range(16)))
    assert wire(run(system, pairs, degraded={"cube0.x+[1,2]": 0.0})) > wire(run(system, pairs))


def test_a_torus_cut_in_two_names_tier_and_link(network_on: Made) -> None:
    everyone = Request("all_reduce", BYTES, tuple(range(16)), "ring")
    with pytest.raises(SpecError, match=r"tier 'cube': link cube0.*failed links cut the tier in two"):
        run(network_on(CUBE), everyone, degraded={"cube0.*[0,0]": 0.0})


def test_a_late_chip_delays_those_that_need_it(network_on: Made) -> None:
    system = network_on(*NODES)
    requests = (Request("all_reduce", BYTES, (0, 4)), Request("all_reduce", BYTES, (1, 5)))
    plain, late = run(system, *requests), run(system, *requests, stragglers={4: 0.25})
    assert wire(late) == pytest.approx(wire(plain) + 0.25)
    assert wire(late, 1) == pytest.approx(wire(plain, 1))


def test_bytes_past_ports_are_those_of_the_collective(network_on: Made) -> None:
    found = run(network_on(*NODES), Request("alltoall", BYTES, tuple(range(16))))
    ports = found.carried[: 2 * 16]
    assert ports == pytest.approx(3 * BYTES / 16)
    outer = found.carried[found.graph.tiers[1].first :][: 2 * 16]
    assert outer == pytest.approx(12 * BYTES / 16)


def test_utilisation_is_piecewise_and_adds_up(network_on: Made) -> None:
    found = run(network_on(*NODES), Request("all_reduce", BYTES, (0, 4)), Request("all_reduce", BYTES / 2, (0, 4)))
    at, used = found.utilisation("net0.node0.chip0.up")
    assert used[-1] == 0.0
    assert used.max() == pytest.approx(1.0)
    moved = float(np.sum(used[:-1] * np.diff(at))) * 16e9
    assert moved == pytest.approx(1.5 * BYTES)
    with pytest.raises(SpecError, match="no link has this name"):
        found.utilisation("nothing")


def test_a_large_run_may_leave_the_series_out(network_on: Made) -> None:
    request = Request("alltoall", BYTES, tuple(range(16)))
    kept, left = run(network_on(*NODES), request), run(network_on(*NODES), request, series=False)
    assert (left.intervals, left.end_s) == ((), kept.end_s)
    assert left.busiest() == kept.busiest()


def test_step_by_step_gives_the_same(network_on: Made) -> None:
    request = Request("all_reduce", BYTES, (0, 1, 2, 3), "ring")
    times = [wire(run(network_on(*NODES), request, stepwise=stepwise)) for stepwise in (False, True)]
    assert times[1] == pytest.approx(times[0], rel=1e-6)


def test_the_order_of_ranks_is_no_matter_but_for_who_sends(network_on: Made) -> None:
    system = network_on(*NODES)
    assert wire(run(system, Request("all_reduce", BYTES, (4, 0)))) == wire(
        run(system, Request("all_reduce", BYTES, (0, 4)))
    )
    back = run(system, Request("send_recv", BYTES, (4, 0)))
    assert back.busiest(1)[0][0].startswith("net0.node1") or back.busiest(1)[0][0] == "net0.node0.chip0.down"
    assert found_loads(back, "net0.node0.chip0.up") == 0.0


def found_loads(found: NetworkRun, link: str) -> float:
    return float(found.utilisation(link)[1].max())


@pytest.mark.parametrize(
    ("op", "factor"), [("all_reduce", 1.75), ("all_gather", 0.875), ("alltoall", 0.875), ("broadcast", 1.0)]
)
def test_bus_bandwidth_as_nccl_tests_count(op: str, factor: float) -> None:
    assert bus_bandwidth(op, 8e9, 8, 2.0) == pytest.approx(4e9 * factor)
    assert bus_bandwidth(op, 8e9, 8, 0.0) == 0.0


@pytest.mark.parametrize(
    ("request_", "given", "said"),
    [
        (
            Request("all_reduce", 1e6, tuple(range(17))),
            {},
            r"larger than the system \(got 17\).*16 chips \(node 4 x net 4",
        ),
        (Request("all_reduce", 1e6, (0, 16)), {}, "is no chip of the system.*chips 0 to 15"),
        (Request("all_reduce", 1e6, (0, 0)), {}, "names a chip twice"),
        (Request("all_reduce", 1e6, ()), {}, "or none"),
        (Request("all_reduce", -1.0, (0, 1)), {}, "is no number of bytes"),
        (Request("all_reduce", float("nan"), (0, 1)), {}, "is no number of bytes"),
        (Request("all_redux", 1e6, (0, 1)), {}, "unknown collective"),
        (Request("send_recv", 1e6, (0, 1, 2)), {}, "takes two chips"),
        (Request("all_reduce", 1e6, (0, 1)), {"degraded": {"net7": 0.5}}, "no link has this name"),
        (Request("all_reduce", 1e6, (0, 1)), {"stragglers": {99: 1.0}}, "straggler: is no chip"),
        (Request("all_reduce", 1e6, (0, 1)), {"stragglers": {1: -1.0}}, "straggler: is no delay"),
        (Request("all_reduce", 1e6, (0, 1)), {"background": [(0, 0, 1e9)]}, "background: is no traffic"),
        (Request("all_reduce", 1e6, (0, 1)), {"background": [(0, 1, 0.0)]}, "background: is no traffic"),
        (Request("all_reduce", 1e6, (0, 1)), {"background": [(0, 77, 1.0)]}, "background: is no chip"),
    ],
)
def test_what_cannot_be_is_told(network_on: Made, request_: Request, given: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        run(network_on(*NODES), request_, **given)


def test_nothing_asked_is_told(network_on: Made) -> None:
    with pytest.raises(SpecError, match="no collective is asked for"):
        run(network_on(*NODES))
