"""Transfers between stages, by hand on two and three tiers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from cosim.engines.boundary import boundary_transfers
from cosim.engines.case import Case
from cosim.hardware.tiers import ProtocolArrays
from cosim.mapping.placement import stage_hops
from cosim.records import Array, array
from cosim.timing.collective import send

CaseOf = Callable[..., Case]
US = 1e-6


def piped(case_of: CaseOf, pipeline: object, sizes: tuple[float, ...], node_tier: int = 0) -> Case:
    """A pipeline on tiers that join `sizes` units, each 1/10 of the one below; hops of 1, 2, 4 us, starts of none."""
    case = case_of("decode", "dgx-h100", **{"plan.pipeline_parallel": pipeline})
    outer = case.system.tiers[1]
    tiers = tuple(
        replace(
            outer,
            name=f"tier {index}",
            size=array(size),
            bandwidth=array(100e9 / 10**index),
            protocols=(ProtocolArrays("plain", array(0.0), array(2**index * US), array(1.0)),),
            efficiency=array(1.0),
        )
        for index, size in enumerate(sizes)
    )
    return replace(case, system=replace(case.system, tiers=tiers, node_tier=node_tier))


def found(size: float, stage: float, case: Case) -> list[float]:
    return [float(value) for value in boundary_transfers(array(size), array(stage), case)]


@pytest.mark.parametrize(
    ("stage", "pipeline", "numbers"),
    [
        (8, 1, [0, 0]),
        (8, 4, [0, 3]),
        (4, 4, [2, 1]),
        (2, 4, [3, 0]),
    ],
)
def test_transfers_of_two_tiers_by_hand(case_of: CaseOf, stage: int, pipeline: int, numbers: list[float]) -> None:
    # 1 MB: 1 us and 10 us inside, 2 us and 100 us beyond, whether any are made or not.
    times = boundary_transfers(array(1e6), array(stage), piped(case_of, pipeline, (8, 4)))
    assert [float(value) for value in times] == pytest.approx([*numbers, 11 * US, 102 * US])


def test_what_ends_on_several_tiers_takes_their_mean(case_of: CaseOf) -> None:
    # Stages of 4 on nodes of 8, racks of 4 nodes: 8 transfers in nodes, 6 between nodes, 1 between racks.
    case = piped(case_of, 16, (8, 4, 2))
    beyond = (6 * 102 * US + 1 * 1004 * US) / 7
    assert found(1e6, 4, case) == pytest.approx([8, 7, 11 * US, beyond])
    # The same where rack and node are one: what stays inside is the mean of two.
    case = piped(case_of, 16, (8, 4, 2), node_tier=1)
    assert found(1e6, 4, case) == pytest.approx([14, 1, (8 * 11 * US + 6 * 102 * US) / 14, 1004 * US])


def test_where_no_transfer_is_made_the_first_of_the_tiers_says_its_time(case_of: CaseOf) -> None:
    assert found(1e6, 1, piped(case_of, 2, (8, 4, 2))) == pytest.approx([1, 0, 11 * US, 102 * US])


def test_a_system_without_a_network_has_none_beyond(case_of: CaseOf) -> None:
    assert found(1e6, 2, piped(case_of, 4, (8,))) == pytest.approx([3, 0, 11 * US, 0.0])


def test_points_follow_their_axis(case_of: CaseOf) -> None:
    case = piped(case_of, np.array([1, 4, 16]), (8, 4, 2))
    size, stage = array([1e6, 2e6, 0.0]), array([8, 8, 4])
    together = boundary_transfers(size, stage, case)
    alone = [found(b, s, piped(case_of, p, (8, 4, 2))) for b, s, p in zip(size, stage, (1, 4, 16), strict=True)]
    columns: list[Array] = [np.broadcast_to(value, (3,)) for value in together]
    assert np.allclose(np.array(columns).T, np.array(alone), rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("system", ["dgx-h100", "l40s-8gpu-pcie4", "mi300x-8gpu", "tpu-v5p-64"])
@pytest.mark.parametrize("stage", [1, 2, 4, 8])
def test_the_numbers_and_means_are_those_of_the_tiers(case_of: CaseOf, system: str, stage: int) -> None:
    case = case_of("decode", system, **{"plan.pipeline_parallel": 8, "system.nodes": 8})
    inside, beyond, near, far = found(1e6, stage, case)
    counts = [float(count) for count in stage_hops(array(stage), array(8), case.system.sizes)]
    assert inside + beyond == sum(counts) == 7.0
    assert beyond == sum(counts[case.system.node_tier + 1 :])
    total = sum(count * float(send(array(1e6), tier, case.system)) for tier, count in enumerate(counts))
    assert inside * near + beyond * far == pytest.approx(total, rel=1e-12)
