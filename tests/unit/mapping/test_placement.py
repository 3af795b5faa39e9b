"""Placement of ranks on tiers, against chips counted one by one."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.mapping.placement import data_placement, expert_data_placement, stage_hops, tensor_placement
from cosim.mapping.plan import PlanArrays
from cosim.records import array

PlanOf = Callable[..., PlanArrays]
powers = st.sampled_from([1, 2, 4, 8, 16, 32, 64])


@settings(max_examples=60, deadline=None)
@given(tensor=powers, node=powers)
def test_inner_times_outer_are_the_ranks(tensor: int, node: int) -> None:
    group = tensor_placement(array(tensor), array(node))
    assert float(group.inner * group.outer) == tensor
    assert float(group.inner) <= node


@pytest.mark.parametrize(("tensor", "inner", "outer"), [(1, 1, 1), (4, 4, 1), (8, 8, 1), (16, 8, 2), (64, 8, 8)])
def test_tensor_ranks_fill_a_node_of_eight_first(tensor: int, inner: int, outer: int) -> None:
    group = tensor_placement(array(tensor), array(8))
    assert (float(group.inner), float(group.outer)) == (inner, outer)


def test_placements_follow_the_points_axis() -> None:
    group = tensor_placement(array([2, 8, 16]), array([4, 8, 8]))
    np.testing.assert_array_equal(group.inner, [2.0, 8.0, 8.0])
    np.testing.assert_array_equal(group.outer, [1.0, 1.0, 2.0])


@settings(max_examples=60, deadline=None)
@given(tensor=powers, pipeline=st.integers(1, 64), node=powers)
def test_hops_are_those_of_stages_laid_out_chip_by_chip(tensor: int, pipeline: int, node: int) -> None:
    first_node = [stage * tensor // node for stage in range(pipeline)]
    crossing = sum(a != b for a, b in itertools.pairwise(first_node))
    inside, across = stage_hops(array(tensor), array(pipeline), array(node))
    assert (float(inside), float(across)) == (pipeline - 1 - crossing, crossing)


@settings(max_examples=60, deadline=None)
@given(tensor=st.integers(1, 40), pipeline=st.integers(1, 64), node=st.integers(1, 40))
def test_a_pipeline_has_one_hop_less_than_stages(tensor: int, pipeline: int, node: int) -> None:
    inside, across = stage_hops(array(tensor), array(pipeline), array(node))
    assert float(inside + across) == pipeline - 1
    assert min(float(inside), float(across)) >= 0.0


@pytest.mark.parametrize(
    ("tensor", "pipeline", "inside", "across"),
    [
        (8, 1, 0, 0),
        (8, 4, 0, 3),  # every stage is a node
        (4, 4, 2, 1),  # two stages a node
        (2, 4, 3, 0),  # all in one
        (16, 2, 0, 1),  # a stage is two nodes
    ],
)
def test_hops_between_nodes_of_eight_by_hand(tensor: int, pipeline: int, inside: int, across: int) -> None:
    hops = stage_hops(array(tensor), array(pipeline), array(8))
    assert tuple(float(hop) for hop in hops) == (inside, across)


@settings(max_examples=60, deadline=None)
@given(tensor=powers, data=powers, node=powers)
def test_replicas_lie_where_their_chips_do_one_by_one(tensor: int, data: int, node: int) -> None:
    nodes = {replica * tensor // node for replica in range(data)}
    group = data_placement(array(tensor), array(data), array(node))
    assert (float(group.inner), float(group.outer)) == (data / len(nodes), len(nodes))


@settings(max_examples=60, deadline=None)
@given(tensor=st.integers(1, 40), data=st.integers(1, 200), node=st.integers(1, 40))
def test_replicas_are_all_placed_and_span_no_more_nodes_than_there_are(tensor: int, data: int, node: int) -> None:
    group = data_placement(array(tensor), array(data), array(node))
    assert float(group.inner * group.outer) == pytest.approx(data, rel=1e-12)
    assert float(group.inner) >= 1.0
    assert float(group.outer) <= -(-tensor * data // node)


@pytest.mark.parametrize(
    ("tensor", "data", "inner", "outer"),
    [
        (1, 8, 8, 1),  # all in one node
        (8, 4, 1, 4),  # each replica fills a node: its peers are elsewhere
        (2, 8, 4, 2),  # four replicas a node
        (16, 2, 1, 2),  # a replica is two nodes
        (8, 1, 1, 1),
    ],
)
def test_replicas_next_to_their_tensor_ranks_by_hand(tensor: int, data: int, inner: int, outer: int) -> None:
    group = data_placement(array(tensor), array(data), array(8))
    assert (float(group.inner), float(group.outer)) == (inner, outer)


@settings(max_examples=100, deadline=None)
@given(tensor=powers, data=powers, expert=powers, node=powers)
def test_copies_of_an_expert_lie_where_their_chips_do_one_by_one(
    plan_of: PlanOf, tensor: int, data: int, expert: int, node: int
) -> None:
    ranks = tensor * data
    expert = min(expert, ranks)
    plan = plan_of(tensor_parallel=tensor, data_parallel=data, expert_parallel=expert)
    # Groups of neighbours hold every expert once: whole tensor groups, or all that expert parallelism spans.
    copies = range(0, ranks, max(tensor, expert))
    nodes = {chip // node for chip in copies}
    group = expert_data_placement(plan, array(node))
    assert (float(group.inner), float(group.outer)) == (len(copies) / len(nodes), len(nodes))


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
    group = expert_data_placement(plan, array(8))
    assert (float(group.inner), float(group.outer)) == (inner, outer)


@settings(max_examples=60, deadline=None)
@given(tensor=powers, data=powers, node=powers)
def test_without_expert_parallelism_experts_are_copied_as_all_weights_are(
    plan_of: PlanOf, tensor: int, data: int, node: int
) -> None:
    plan = plan_of(tensor_parallel=tensor, data_parallel=data)
    expert, rest = expert_data_placement(plan, array(node)), data_placement(plan.tensor, plan.data, array(node))
    assert (float(expert.inner), float(expert.outer)) == (float(rest.inner), float(rest.outer))
