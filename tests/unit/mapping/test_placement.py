"""Placement of ranks on tiers, against chips counted one by one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.mapping.order import ORDERS, USUAL
from cosim.mapping.placement import (
    Placement,
    context_placement,
    crossed,
    crosses,
    crossings,
    expert_placement,
    expert_tensor_placement,
    group_placement,
    pair_placement,
    placed,
    serving_stage,
    stage_hops,
    stage_ranks,
    stage_stride,
    tensor_group,
    tensor_placement,
)
from cosim.mapping.plan import PlanArrays
from cosim.mapping.routing import expert_group, expert_replicas
from cosim.records import Array, array

PlanOf = Callable[..., PlanArrays]


def expert_copies(plan: PlanArrays, sizes: tuple[Array, ...]) -> Placement:
    return group_placement(plan, expert_group(plan), expert_replicas(plan), sizes, plan.chips)


POWERS = st.sampled_from([1, 2, 4, 8, 16, 32, 64])
SIZES = st.lists(st.sampled_from([1, 2, 4, 8]), min_size=1, max_size=3)
ANY_SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=3)
"""Units that each tier joins; one more joins all that is left."""


def tiers(*sizes: int) -> tuple[Array, ...]:
    """Sizes of tiers and one more that has room for all."""
    return (*(array(size) for size in sizes), array(np.inf))


def ranks(group: Placement) -> list[float]:
    return [float(each) for each in group.ranks]


def chips_held(sizes: list[int]) -> list[int]:
    """Chips of a unit that each tier makes, the last but one first missing."""
    return list(itertools.accumulate(sizes, lambda a, b: a * b))


def counted(chips: list[int], sizes: list[int]) -> list[float]:
    """Ranks of each tier when a group sits on `chips`, spread evenly over the units that it spans."""
    spanned = [len(chips), *(len({chip // held for chip in chips}) for held in chips_held(sizes)), 1]
    return [spanned[i] / spanned[i + 1] for i in range(len(sizes))] + [float(spanned[len(sizes)])]


@settings(max_examples=100, deadline=None)
@given(tensor=POWERS, stride=POWERS, sizes=SIZES)
def test_groups_lie_where_their_chips_do_one_by_one(tensor: int, stride: int, sizes: list[int]) -> None:
    group = placed(array(tensor), array(stride), tiers(*sizes))
    assert ranks(group) == counted([rank * stride for rank in range(tensor)], sizes)


@settings(max_examples=100, deadline=None)
@given(tensor=st.integers(1, 300), stride=st.integers(1, 40), sizes=ANY_SIZES)
def test_all_ranks_are_placed_and_no_unit_holds_more_than_it_has(tensor: int, stride: int, sizes: list[int]) -> None:
    group = placed(array(tensor), array(stride), tiers(*sizes))
    assert float(group.total) == pytest.approx(tensor, rel=1e-12)
    assert len(group.ranks) == len(group.stride) == len(sizes) + 1
    for tier, (size, here) in enumerate(zip(sizes, group.ranks, strict=False)):
        assert 1.0 - 1e-12 <= float(here) <= size * (1.0 + 1e-12)
        assert float(group.inside(tier + 1)) == pytest.approx(float(group.inside(tier) * here), rel=1e-12)
    assert float(group.inside(0)) == 1.0
    assert float(group.ranks[-1]) <= -(-tensor * stride // math.prod(sizes))


@settings(max_examples=60, deadline=None)
@given(tensor=POWERS, stride=POWERS, sizes=SIZES)
def test_a_stride_is_in_units_of_its_tier(tensor: int, stride: int, sizes: list[int]) -> None:
    group = placed(array(tensor), array(stride), tiers(*sizes))
    assert [float(apart) for apart in group.stride] == [max(stride / held, 1.0) for held in (1, *chips_held(sizes))]


@pytest.mark.parametrize(
    ("tensor", "sizes", "on"),
    [
        (1, (8,), [1, 1]),
        (4, (8,), [4, 1]),
        (8, (8,), [8, 1]),
        (16, (8,), [8, 2]),
        (64, (8,), [8, 8]),
        (12, (8,), [6, 2]),  # spread evenly over two nodes
        (8, (2, 2), [2, 2, 2]),
        (4, (2, 2), [2, 2, 1]),
        (2, (2, 2), [2, 1, 1]),
        (576, (8, 18), [8, 18, 4]),
        (8, (), [8]),  # one tier
    ],
)
def test_tensor_ranks_fill_a_unit_before_they_leave_it(tensor: int, sizes: tuple[int, ...], on: list[float]) -> None:
    group = tensor_placement(array(tensor), tiers(*sizes))
    assert ranks(group) == on
    assert [float(apart) for apart in group.stride] == [1.0] * len(on)


def test_placements_follow_the_points_axis() -> None:
    # Ranks, stride and the sizes may each be one number or a number a point.
    group = placed(array([2, 8, 16]), array(1), (array([4, 8, 8]), array(4)))
    np.testing.assert_array_equal(group.ranks[0], [2.0, 8.0, 8.0])
    np.testing.assert_array_equal(group.ranks[1], [1.0, 1.0, 2.0])
    np.testing.assert_array_equal(group.total, [2.0, 8.0, 16.0])
    strided = placed(array(4), array([1, 2, 8]), tiers(8))
    np.testing.assert_array_equal(strided.ranks[0], [4.0, 4.0, 1.0])
    np.testing.assert_array_equal(strided.stride[0], [1.0, 2.0, 8.0])
    np.testing.assert_array_equal(strided.stride[1], [1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("tensor", "data", "on", "apart"),
    [
        (1, 8, [8, 1], [1, 1]),  # all in one node
        (8, 4, [1, 4], [8, 1]),  # each replica fills a node: its peers are elsewhere
        (2, 8, [4, 2], [2, 1]),  # four replicas a node
        (16, 2, [1, 2], [16, 2]),  # a replica is two nodes
        (8, 1, [1, 1], [8, 1]),
    ],
)
def test_replicas_next_to_their_tensor_ranks_by_hand(
    tensor: int, data: int, on: list[float], apart: list[float]
) -> None:
    group = placed(array(data), array(tensor), tiers(8))
    assert ranks(group) == on
    assert [float(each) for each in group.stride] == apart


def test_replicas_over_three_tiers_by_hand() -> None:
    # Tensor groups of 4 in nodes of 8, racks of 4 nodes: 2 replicas a node, 8 a rack, 32 replicas in 4 racks.
    group = placed(array(32), array(4), tiers(8, 4))
    assert ranks(group) == [2.0, 4.0, 4.0]
    assert [float(each) for each in group.stride] == [4.0, 1.0, 1.0]


@settings(max_examples=100, deadline=None)
@given(tensor=POWERS, data=POWERS, expert=POWERS, sizes=SIZES)
def test_copies_of_an_expert_lie_where_their_chips_do_one_by_one(
    plan_of: PlanOf, tensor: int, data: int, expert: int, sizes: list[int]
) -> None:
    total = tensor * data
    expert = min(expert, total)
    plan = plan_of(tensor_parallel=tensor, data_parallel=data, expert_parallel=expert)
    # Groups of neighbours hold every expert once: whole tensor groups, or all that expert parallelism spans.
    copies = list(range(0, total, max(tensor, expert)))
    assert ranks(expert_copies(plan, tiers(*sizes))) == counted(copies, sizes)


@pytest.mark.parametrize(
    ("tensor", "data", "expert", "inner", "outer"),
    [
        (1, 32, 1, 8, 4),  # every rank has every expert: 32 copies on four nodes
        (1, 32, 8, 1, 4),  # a node has each expert once
        (1, 32, 4, 2, 4),
        (1, 32, 32, 1, 1),  # one copy in all
        (8, 4, 8, 1, 4),
        (8, 4, 2, 1, 4),  # four experts' width each over four ranks: still one copy a tensor group
        (2, 16, 8, 1, 4),
    ],
)
def test_copies_of_an_expert_on_nodes_of_eight_by_hand(
    plan_of: PlanOf, tensor: int, data: int, expert: int, inner: int, outer: int
) -> None:
    plan = plan_of(tensor_parallel=tensor, data_parallel=data, expert_parallel=expert)
    assert ranks(expert_copies(plan, tiers(8))) == [inner, outer]


@settings(max_examples=60, deadline=None)
@given(tensor=POWERS, data=POWERS, sizes=SIZES)
def test_without_expert_parallelism_experts_are_copied_as_all_weights_are(
    plan_of: PlanOf, tensor: int, data: int, sizes: list[int]
) -> None:
    plan = plan_of(tensor_parallel=tensor, data_parallel=data)
    expert = expert_copies(plan, tiers(*sizes))
    assert ranks(expert) == ranks(placed(plan.data, plan.tensor, tiers(*sizes)))


def test_expert_ranks_lie_next_to_each_other(plan_of: PlanOf) -> None:
    plan = plan_of(tensor_parallel=2, data_parallel=32, expert_parallel=64)
    assert ranks(expert_placement(plan, tiers(8, 4))) == [8.0, 4.0, 2.0]
    assert float(serving_stage(plan)) == 64.0
    assert float(serving_stage(plan_of(tensor_parallel=8))) == 8.0


@settings(max_examples=100, deadline=None)
@given(apart=st.integers(1, 600), sizes=ANY_SIZES)
def test_a_pair_meets_on_the_first_tier_that_holds_both(apart: int, sizes: list[int]) -> None:
    group = pair_placement(array(apart), tiers(*sizes))
    meeting = next((tier for tier, held in enumerate(chips_held(sizes)) if apart // held == 0), len(sizes))
    assert ranks(group) == [2.0 if tier == meeting else 1.0 for tier in range(len(sizes) + 1)]
    assert float(group.total) == 2.0


def test_pairs_follow_the_points_axis() -> None:
    group = pair_placement(array([1, 7, 8, 31, 32]), tiers(8, 4))
    assert [each.tolist() for each in group.ranks] == [[2, 2, 1, 1, 1], [1, 1, 2, 2, 1], [1, 1, 1, 1, 2]]
    # Chips that differ by point too: 7 apart stay in a node of 8 and leave one of 4.
    assert pair_placement(array(7), (array([4, 8]), array(2))).ranks[0].tolist() == [1.0, 2.0]


def hops_counted(stage: int, pipeline: int, sizes: list[int]) -> list[float]:
    """Transfers between stages by the first tier that holds the first chips of both."""
    counts = [0.0] * (len(sizes) + 1)
    for a, b in itertools.pairwise(number * stage for number in range(pipeline)):
        joint = (tier for tier, held in enumerate(chips_held(sizes)) if a // held == b // held)
        counts[next(joint, len(sizes))] += 1.0
    return counts


@settings(max_examples=100, deadline=None)
@given(stage=POWERS, pipeline=st.integers(1, 64), sizes=SIZES)
def test_hops_are_those_of_stages_laid_out_chip_by_chip(stage: int, pipeline: int, sizes: list[int]) -> None:
    found = stage_hops(array(stage), array(pipeline), tiers(*sizes))
    assert [float(hop) for hop in found] == hops_counted(stage, pipeline, sizes)


@settings(max_examples=100, deadline=None)
@given(stage=st.integers(1, 40), pipeline=st.integers(1, 64), sizes=ANY_SIZES)
def test_a_pipeline_has_one_hop_less_than_stages(stage: int, pipeline: int, sizes: list[int]) -> None:
    found = [float(hop) for hop in stage_hops(array(stage), array(pipeline), tiers(*sizes))]
    assert sum(found) == pipeline - 1
    assert min(found) >= 0.0
    # No fewer leave a unit than the chips need units.
    for tier, held in enumerate(chips_held(sizes)):
        assert sum(found[tier + 1 :]) >= min(-(-stage * pipeline // held), pipeline) - 1


@pytest.mark.parametrize(
    ("stage", "pipeline", "sizes", "hops"),
    [
        (8, 1, (8,), [0, 0]),
        (8, 4, (8,), [0, 3]),  # every stage is a node
        (4, 4, (8,), [2, 1]),  # two stages a node
        (2, 4, (8,), [3, 0]),  # all in one
        (16, 2, (8,), [0, 1]),  # a stage is two nodes
        (4, 16, (8, 4), [8, 6, 1]),  # eight nodes in two racks
        (3, 4, (8,), [0, 3]),  # some chip of every stage sends to another node
        (3, 2, (8,), [1, 0]),
        (8, 4, (), [3]),
    ],
)
def test_hops_between_nodes_by_hand(stage: int, pipeline: int, sizes: tuple[int, ...], hops: list[float]) -> None:
    assert [float(hop) for hop in stage_hops(array(stage), array(pipeline), tiers(*sizes))] == hops


def test_hops_follow_the_points_axis() -> None:
    inside, beyond = stage_hops(array([8, 4, 2]), array(4), tiers(8))
    assert (inside.tolist(), beyond.tolist()) == ([0.0, 2.0, 3.0], [3.0, 1.0, 0.0])


@settings(max_examples=100, deadline=None)
@given(stage=st.integers(1, 40), pipeline=st.integers(1, 64), node=st.integers(1, 40))
def test_the_boundaries_that_cross_nodes_are_those_that_are_counted(stage: int, pipeline: int, node: int) -> None:
    # The last one returns to the first stage and is none of the counted.
    crossing = sum(crosses(boundary, stage, pipeline, node) for boundary in range(pipeline - 1))
    assert crossing == float(stage_hops(array(stage), array(pipeline), tiers(node))[-1])
    assert crosses(pipeline - 1, stage, pipeline, node) == (stage * pipeline > node)


@settings(max_examples=80, deadline=None)
@given(ranks=st.integers(1, 40), stride=st.integers(1, 6), held=st.integers(1, 40), groups=st.integers(1, 12))
def test_the_worst_placed_of_many_groups_counts(ranks: int, stride: int, held: int, groups: int) -> None:
    """Groups of neighbours one after the other: none spans more units than is said, and one alone no less."""
    length = ranks * stride
    sizes = (array(float(held)), array(1e6))
    many = placed(array(ranks), array(stride), sizes, array(float(length * groups)))
    firsts = range(0, length * groups, length)
    spanned = max(len({(first + stride * rank) // held for rank in range(ranks)}) for first in firsts)
    if length > held:
        assert float(many.ranks[1]) >= spanned
    else:
        # There are units enough to leave a rest of every one free.
        assert float(many.ranks[1]) == 1.0
    assert float(many.ranks[1]) >= float(placed(array(ranks), array(stride), sizes).ranks[1])
    assert float(many.ranks[0] * many.ranks[1]) == pytest.approx(ranks)


def test_a_group_that_straddles_two_racks_is_priced_over_both() -> None:
    # Nine groups of 16 on two racks of 72: chips 64 to 79 lie in both; eight of them fit beside each other.
    racks = (array(72.0), array(2.0))
    assert float(tensor_placement(array(16.0), racks, array(144.0)).ranks[1]) == 2.0
    assert float(tensor_placement(array(16.0), racks, array(128.0)).ranks[1]) == 1.0
    assert float(tensor_placement(array(16.0), racks).ranks[1]) == 1.0


@settings(max_examples=100, deadline=None)
@given(expert=POWERS, width=POWERS, sizes=SIZES)
def test_ranks_of_experts_of_an_asked_width_lie_where_their_chips_do(
    plan_of: PlanOf, expert: int, width: int, sizes: list[int]
) -> None:
    plan = plan_of(data_parallel=expert * width, expert_parallel=expert, expert_tensor_parallel=width)
    apart = [number * width for number in range(expert)]
    assert ranks(expert_placement(plan, tiers(*sizes))) == counted(apart, sizes)
    assert ranks(expert_tensor_placement(plan, tiers(*sizes))) == counted(list(range(width)), sizes)


def test_whole_experts_of_megatrons_eight_by_four_have_copies_inside_the_tensor_group(plan_of: PlanOf) -> None:
    plan = plan_of(tensor_parallel=8, data_parallel=4, expert_parallel=4, expert_tensor_parallel=1)
    assert ranks(expert_copies(plan, tiers(8))) == [2.0, 4.0]


FEW = st.sampled_from([1, 2, 4, 8])
EACH_ORDER = st.sampled_from(ORDERS)
DEGREES = {"tp": "tensor_parallel", "cp": "context_parallel", "dp": "data_parallel", "pp": "pipeline_parallel"}


def laid_out(order: str, degrees: dict[str, int]) -> dict[tuple[int, ...], int]:
    """Chip of every rank by its places (tp, cp, dp, pp), counted one by one in the order."""
    words = order.split("-")
    found = {}
    for chip, places in enumerate(itertools.product(*(range(degrees[word]) for word in reversed(words)))):
        at = dict(zip(reversed(words), places, strict=True))
        found[tuple(at[word] for word in DEGREES)] = chip
    return found


@settings(max_examples=150, deadline=None)
@given(order=EACH_ORDER, tensor=FEW, context=FEW, data=FEW, pipeline=FEW, sizes=SIZES)
def test_groups_of_every_order_lie_where_their_chips_do_one_by_one(
    plan_of: PlanOf, order: str, tensor: int, context: int, data: int, pipeline: int, sizes: list[int]
) -> None:
    degrees = {"tp": tensor, "cp": context, "dp": data, "pp": pipeline}
    plan = plan_of(order=order, **{DEGREES[word]: degree for word, degree in degrees.items()})
    chips = laid_out(order, degrees)

    def of(*kinds: str) -> list[float]:
        own = [
            chip
            for places, chip in chips.items()
            if all(word in kinds or place == 0 for word, place in zip(DEGREES, places, strict=True))
        ]
        return counted(sorted(own), sizes)

    units = tiers(*sizes)
    assert ranks(tensor_group(plan, units)) == of("tp")
    assert ranks(context_placement(plan, units)) == of("cp")
    assert ranks(group_placement(plan, plan.tensor, plan.replicas, units)) == of("cp", "dp")
    assert float(stage_stride(plan)) == (chips[0, 0, 0, 1] if pipeline > 1 else float(stage_stride(plan)))


@settings(max_examples=100, deadline=None)
@given(order=EACH_ORDER, tensor=FEW, context=FEW, data=FEW, pipeline=FEW, shared=FEW, sizes=SIZES)
def test_parts_of_the_replicas_of_every_order_make_the_whole(
    plan_of: PlanOf, order: str, tensor: int, context: int, data: int, pipeline: int, shared: int, sizes: list[int]
) -> None:
    degrees = (tensor, context, data, pipeline)
    plan = plan_of(order=order, **dict(zip(DEGREES.values(), degrees, strict=True)))
    units, few = tiers(*sizes), np.minimum(array(shared), plan.replicas)
    inside = group_placement(plan, plan.tensor, few, units)
    across = group_placement(plan, plan.tensor * few, plan.replicas / few, units)
    whole = group_placement(plan, plan.tensor, plan.replicas, units)
    assert float(inside.total * across.total) == float(whole.total) == context * data
    for tier in range(len(units)):
        assert float(inside.inside(tier + 1) * across.inside(tier + 1)) == float(whole.inside(tier + 1))


@settings(max_examples=60, deadline=None)
@given(tensor=FEW, data=FEW, pipeline=FEW, expert=FEW, width=FEW, order=EACH_ORDER)
def test_experts_ranks_are_the_inner_ones_of_a_stage_in_every_order(
    plan_of: PlanOf, tensor: int, data: int, pipeline: int, expert: int, width: int, order: str
) -> None:
    degrees = {"tp": tensor, "cp": 1, "dp": data, "pp": pipeline}
    expert, width = min(expert, tensor * data), min(width, max(tensor * data // expert, 1))
    named = {DEGREES[word]: degree for word, degree in degrees.items()}
    plan = plan_of(order=order, expert_parallel=expert, expert_tensor_parallel=width, **named)
    chips = laid_out(order, degrees)
    # The stage's own order: tensor ranks, then replicas.
    stage = [chips[t, 0, d, 0] for d in range(data) for t in range(tensor)]
    for sizes in ([8], [4, 4]):
        units = tiers(*sizes)
        assert ranks(expert_tensor_placement(plan, units)) == counted(stage[:width], sizes)
        assert ranks(expert_placement(plan, units)) == counted(stage[: expert * width : width], sizes)
        assert ranks(expert_copies(plan, units)) == counted(stage[:: expert * width], sizes)


def test_the_usual_order_is_one_run_and_others_are_cut_by_the_pipeline(plan_of: PlanOf) -> None:
    degrees = dict(zip(DEGREES.values(), (2, 3, 5, 7), strict=True))
    runs = {order: stage_ranks(plan_of(order=order, **degrees)) for order in ORDERS}
    plain = {order: [(float(count), float(apart)) for count, apart in found] for order, found in runs.items()}
    assert plain[USUAL] == plain["tp-dp-cp-pp"] == [(30.0, 1.0)]
    assert plain["tp-cp-pp-dp"] == [(6.0, 1.0), (5.0, 42.0)]
    assert plain["tp-pp-dp-cp"] == [(2.0, 1.0), (15.0, 14.0)]
    assert plain["pp-tp-cp-dp"] == [(30.0, 7.0)]


@settings(max_examples=150, deadline=None)
@given(stage=FEW, pipeline=FEW, groups=st.integers(1, 6), node=st.sampled_from([1, 2, 4, 8, 16, 12, 24]))
def test_transfers_of_pipelines_side_by_side_are_those_of_the_worst_placed(
    stage: int, pipeline: int, groups: int, node: int
) -> None:
    chips = stage * pipeline * groups
    sizes = (array(node), array(math.ceil(chips / node)))
    found = float(stage_hops(array(stage), array(pipeline), sizes, array(chips))[-1])
    across = crossings(stage, pipeline, node, float(sizes[1]), chips)
    assert sum(across[:-1]) == found
    worst = 0
    for group in range(groups):
        first = group * stage * pipeline
        on = [{(first + number * stage + peer) // node for peer in range(stage)} for number in range(pipeline)]
        worst = max(worst, sum(here != after for here, after in itertools.pairwise(on)))
    roomy = node // (stage * pipeline) * (stage * pipeline) * math.ceil(chips / node) >= chips
    if node % stage == 0 and not roomy:
        assert found >= worst
    if node % (stage * pipeline) == 0:
        assert found == 0.0


@settings(max_examples=60, deadline=None)
@given(stage=st.integers(1, 40), pipeline=st.integers(2, 64), node=st.integers(1, 40))
def test_a_pipeline_alone_crosses_where_a_serving_one_does(stage: int, pipeline: int, node: int) -> None:
    alone = [crosses(boundary, stage, pipeline, node) for boundary in range(pipeline)]
    assert crossings(stage, pipeline, node, np.inf, stage * pipeline) == alone


def test_pipelines_that_do_not_fit_a_node_are_placed_where_they_fit_or_straddle() -> None:
    # Six stages of one chip on nodes of eight: with chips to spare none straddles, without the second one does.
    assert sum(crossings(1, 6, 8, 6.0, 36)) == 0
    assert crossings(1, 6, 8, 3.0, 24) == [False, False, False, True, False, True]


def test_a_group_of_groups_has_the_ranks_of_both_and_their_mean_distance() -> None:
    near, far = placed(array(2), array(1), tiers(8)), placed(array(4), array(4), tiers(8))
    both = crossed(near, far)
    assert ranks(both) == [4.0, 2.0]
    assert float(both.stride[0]) == 2.0  # 0, 1, 4, 5 of eight chips
    assert crossed(placed(array(1), array(1), tiers(8)), far).stride == far.stride
