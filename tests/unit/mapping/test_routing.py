"""Routed tokens on ranks, against tokens thrown one by one with a fixed seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.mapping.plan import PlanArrays
from cosim.mapping.routing import (
    expected_maximum,
    expert_group,
    expert_replicas,
    expert_tensor,
    load,
    sent,
    spans_replicas,
    travels,
)
from cosim.records import array
from cosim.workload.ops import Routing

PlanOf = Callable[..., PlanArrays]
DEGREES = [1, 2, 4, 8, 16, 32, 64]
# Tokens, choices of each, experts, ranks.
MANY = [
    (256, 8, 256, 32),
    (512, 8, 256, 8),
    (256, 8, 128, 64),
    (64, 4, 128, 4),
    (128, 8, 256, 16),
    (64, 2, 8, 4),
    (400, 2, 8, 8),
]
FEW = [(1, 8, 256, 32), (4, 8, 256, 32), (16, 8, 256, 32), (8, 2, 8, 8), (4, 2, 8, 2)]


def routing(experts: object, chosen: object, nodes: object = np.inf, imbalance: object = 0.0) -> Routing:
    return Routing(array(experts), array(chosen), array(nodes), array(imbalance))


def thrown(tokens: int, chosen: int, experts: int, seed: int = 7) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """The distinct experts of every token, each set as likely as any other."""
    return np.argpartition(np.random.default_rng(seed).random((tokens, experts)), chosen - 1, axis=1)[:, :chosen]


def busiest_and_busy(tokens: int, chosen: int, experts: int, ranks: int, rounds: int) -> tuple[float, float]:
    """Rows of the busiest rank and experts with work of a rank, on average over rounds."""
    busiest, busy = [], []
    for seed in range(rounds):
        picked = thrown(tokens, chosen, experts, seed)
        busiest.append(np.bincount((picked // (experts // ranks)).ravel(), minlength=ranks).max())
        busy.append(np.unique(picked).size / ranks)
    return float(np.mean(busiest)), float(np.mean(busy))


def spread(plan_of: PlanOf, ranks: object, tensor: object = 1) -> PlanArrays:
    """Attention in replicas, experts over all of them."""
    plan = plan_of(expert_parallel=ranks, tensor_parallel=tensor)
    return replace(plan, data=array(ranks) / array(tensor))


@pytest.mark.parametrize(("tokens", "chosen", "experts", "ranks"), MANY)
def test_the_busiest_rank_is_that_of_tokens_thrown_one_by_one(
    plan_of: PlanOf, tokens: int, chosen: int, experts: int, ranks: int
) -> None:
    simulated, _ = busiest_and_busy(tokens, chosen, experts, ranks, 60)
    found = load(routing(experts, chosen), array(tokens / ranks), spread(plan_of, ranks))
    assert float(found.rows) == pytest.approx(simulated, rel=0.15)


@pytest.mark.parametrize(("tokens", "chosen", "experts", "ranks"), [*MANY, *FEW])
def test_the_busiest_rank_is_near_what_chance_makes_it(
    plan_of: PlanOf, tokens: int, chosen: int, experts: int, ranks: int
) -> None:
    simulated, _ = busiest_and_busy(tokens, chosen, experts, ranks, 60)
    found = load(routing(experts, chosen), array(tokens / ranks), spread(plan_of, ranks))
    assert 0.97 * simulated <= float(found.rows) <= min(1.2 * simulated, tokens * min(chosen, experts // ranks))


@pytest.mark.parametrize(("tokens", "ranks"), [(1, 32), (4, 32), (16, 32), (128, 32), (64, 8), (4, 256)])
def test_no_expert_of_the_busiest_rank_has_more_rows_than_there_are_tokens(
    plan_of: PlanOf, tokens: int, ranks: int
) -> None:
    found = load(routing(256, 8), array(tokens / ranks), spread(plan_of, ranks))
    assert float(found.rows_each) <= tokens * (1.0 + 1e-12)
    assert float(found.rows_each * found.active) == pytest.approx(float(found.rows))


def test_the_busiest_rank_has_more_experts_at_work_than_the_average(plan_of: PlanOf) -> None:
    # 4 tokens x 8 choices over 32 ranks of 8 experts: simulated, the busiest has 3.05 busy experts, a rank 0.95.
    found = load(routing(256, 8), array(4 / 32), spread(plan_of, 32))
    assert float(found.active) == pytest.approx(3.05, rel=0.1)


@pytest.mark.parametrize(("tokens", "chosen", "experts", "ranks"), [*MANY, *FEW])
def test_experts_with_work_are_those_of_tokens_thrown_one_by_one(
    plan_of: PlanOf, tokens: int, chosen: int, experts: int, ranks: int
) -> None:
    _, simulated = busiest_and_busy(tokens, chosen, experts, ranks, 200)
    mean = experts / ranks * (1.0 - (1.0 - chosen / experts) ** tokens)
    assert mean == pytest.approx(simulated, rel=0.05)
    found = load(routing(experts, chosen), array(tokens / ranks), spread(plan_of, ranks))
    assert mean * (1.0 - 1e-12) <= float(found.active) <= float(found.kept) == experts / ranks


@settings(max_examples=80, deadline=None)
@given(mean=st.floats(1e-3, 1e6), factor=st.floats(1.01, 100.0), ranks=st.integers(1, 4096))
def test_more_load_raises_the_busiest_rank_and_evens_out(mean: float, factor: float, ranks: int) -> None:
    less, more = expected_maximum(array([mean, mean * factor]), array(ranks))
    assert less < more
    assert more / (mean * factor) <= less / mean * (1.0 + 1e-6)
    assert less >= mean


@settings(max_examples=80, deadline=None)
@given(mean=st.floats(1e-3, 1e6), ranks=st.integers(1, 2048), more=st.integers(1, 2048))
def test_the_busiest_of_more_ranks_with_the_same_mean_has_no_less(mean: float, ranks: int, more: int) -> None:
    few, many = expected_maximum(array(mean), array([ranks, ranks + more]))
    assert few <= many * (1.0 + 1e-12)


@pytest.mark.parametrize(
    ("mean", "ranks", "expected"), [(100.0, 31.0, 121.03), (4.0, 1.0, 4.0), (10000.0, 31.0, 10204.4)]
)
def test_the_busiest_rank_by_hand(mean: float, ranks: float, expected: float) -> None:
    # 31 ranks: z of (31 - 0.375) / 31.25 = 0.98 is 2.054; mean + z sqrt(mean) + (z^2 - 1) / 6
    assert float(expected_maximum(array(mean), array(ranks))) == pytest.approx(expected, rel=1e-3)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 100_000), experts=st.integers(1, 512), share=st.floats(0.0, 1.0), imbalance=st.floats(0, 100)
)
def test_one_rank_has_every_choice_exactly(
    plan_of: PlanOf, rows: int, experts: int, share: float, imbalance: float
) -> None:
    chosen = max(int(share * experts), 1)
    found = load(routing(experts, chosen, imbalance=imbalance), array(rows), plan_of())
    assert float(found.rows) == rows * chosen
    assert float(found.kept) == experts


@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(1, 20_000),
    more=st.integers(1, 20_000),
    ranks=st.sampled_from(DEGREES),
    per_rank=st.integers(1, 16),
    chosen=st.integers(1, 64),
    imbalance=st.floats(0.0, 10.0),
)
def test_more_tokens_are_more_rows_and_more_busy_experts(
    plan_of: PlanOf, rows: int, more: int, ranks: int, per_rank: int, chosen: int, imbalance: float
) -> None:
    experts = ranks * per_rank
    found = load(
        routing(experts, min(chosen, experts), imbalance=imbalance), array([rows, rows + more]), spread(plan_of, ranks)
    )
    assert found.rows[0] < found.rows[1]
    assert found.active[0] <= found.active[1] <= per_rank
    np.testing.assert_allclose(found.rows_each * found.active, found.rows, rtol=1e-12)


@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(1, 20_000),
    ranks=st.sampled_from(DEGREES),
    per_rank=st.integers(1, 16),
    chosen=st.integers(1, 64),
    imbalance=st.lists(st.floats(0.0, 100.0), min_size=2, max_size=6).map(sorted),
)
def test_rows_rise_with_imbalance_from_the_mean_up_to_all_that_tokens_can_send(
    plan_of: PlanOf, rows: int, ranks: int, per_rank: int, chosen: int, imbalance: list[float]
) -> None:
    experts, tokens = ranks * per_rank, rows * ranks
    chosen = min(chosen, experts)
    found = load(routing(experts, chosen, imbalance=imbalance), array(rows), spread(plan_of, ranks))
    assert np.all(np.diff(found.rows) >= 0.0)
    assert found.rows[0] >= tokens * chosen / ranks * (1.0 - 1e-12)
    assert found.rows[-1] <= tokens * min(chosen, per_rank) * (1.0 + 1e-12)


def test_imbalance_is_a_share_beyond_chance(plan_of: PlanOf) -> None:
    even, skewed = load(routing(256, 8, imbalance=[0.0, 0.25]), array(64), spread(plan_of, 32)).rows
    assert skewed == pytest.approx(1.25 * even)


@pytest.mark.parametrize(
    ("tensor", "expert", "share", "tokens"),
    [
        (1, 1, 1, 100),
        (8, 1, 8, 100),  # every expert over eight ranks
        (8, 2, 4, 100),
        (8, 8, 1, 100),  # inside a tensor group all ranks have the same tokens
        (8, 32, 1, 400),  # four tensor groups with tokens of their own
        (1, 32, 1, 3200),
        (2, 8, 1, 400),
    ],
)
def test_ranks_of_an_expert_and_tokens_of_a_group(
    plan_of: PlanOf, tensor: int, expert: int, share: int, tokens: int
) -> None:
    plan = plan_of(tensor_parallel=tensor, expert_parallel=expert, data_parallel=max(expert // tensor, 1))
    assert float(expert_tensor(plan)) == share
    # Every token on every rank: all experts chosen, so that the busiest has rows x kept
    found = load(routing(64, 64), array(100), plan)
    assert float(found.kept) == 64 / expert
    assert float(found.rows) == pytest.approx(tokens * 64 / expert)


@settings(max_examples=60, deadline=None)
@given(
    tensor=st.sampled_from([1, 2, 4, 8, 16]),
    expert=st.sampled_from(DEGREES),
    node=st.sampled_from([1, 4, 8, 64]),
    nodes=st.sampled_from([1.0, 4.0, np.inf]),
)
def test_nothing_is_sent_inside_a_tensor_group(
    plan_of: PlanOf, tensor: int, expert: int, node: int, nodes: float
) -> None:
    plan = plan_of(tensor_parallel=tensor, expert_parallel=expert, data_parallel=max(expert // tensor, 1))
    near, far = sent(routing(64, 4, nodes), array(100), plan, array(node))
    assert (float(near + far) == 0.0) == (expert <= tensor)
    assert min(float(near), float(far)) >= 0.0


@pytest.mark.parametrize(("chosen", "experts", "ranks"), [(8, 256, 8), (4, 128, 4), (2, 64, 2), (8, 64, 8)])
def test_only_copies_for_other_ranks_leave_a_rank(plan_of: PlanOf, chosen: int, experts: int, ranks: int) -> None:
    tokens = 20_000
    needed = np.zeros((tokens, ranks), dtype=bool)
    np.put_along_axis(needed, thrown(tokens, chosen, experts) // (experts // ranks), True, axis=1)
    near, far = sent(routing(experts, chosen), array(tokens), spread(plan_of, ranks), array(8))
    # Rank 0 sends to the others, once however many experts a token has there.
    assert float(near) == pytest.approx(needed[:, 1:].sum(), rel=0.06)
    assert float(far) == 0.0


@pytest.mark.parametrize(("chosen", "experts", "ranks"), [(8, 256, 16), (8, 256, 32), (4, 128, 16), (8, 256, 64)])
def test_without_a_limit_every_rank_beyond_the_node_is_sent_its_copy(
    plan_of: PlanOf, chosen: int, experts: int, ranks: int
) -> None:
    tokens = 20_000
    needed = np.zeros((tokens, ranks), dtype=bool)
    np.put_along_axis(needed, thrown(tokens, chosen, experts) // (experts // ranks), True, axis=1)
    _, far = sent(routing(experts, chosen), array(tokens), spread(plan_of, ranks), array(8))
    assert float(far) == pytest.approx(needed[:, 8:].sum(), rel=0.06)


@pytest.mark.parametrize(("limit", "ranks"), [(4, 64), (2, 64), (4, 32), (1, 16)])
def test_with_a_limit_of_nodes_a_token_is_sent_once_to_each_and_handed_on_inside(
    plan_of: PlanOf, limit: int, ranks: int
) -> None:
    tokens, experts, chosen = 20_000, 256, 8
    rng = np.random.default_rng(3)
    nodes = ranks // 8
    allowed = np.zeros((tokens, nodes), dtype=bool)
    np.put_along_axis(allowed, np.argsort(rng.random((tokens, nodes)), axis=1)[:, :limit], True, axis=1)
    scores = rng.random((tokens, experts)) + np.where(np.repeat(allowed, experts // nodes, axis=1), 0.0, 2.0)
    picked = np.argpartition(scores, chosen - 1, axis=1)[:, :chosen]
    needed = np.zeros((tokens, ranks), dtype=bool)
    np.put_along_axis(needed, picked // (experts // ranks), True, axis=1)
    by_node = needed.reshape(tokens, nodes, 8)
    near, far = sent(routing(experts, chosen, limit), array(tokens), spread(plan_of, ranks), array(8))
    assert float(far) == pytest.approx(by_node.any(axis=2)[:, 1:].sum(), rel=0.15)
    # A copy arrives at the peer of its sender; those for the other seven ranks of the node go on from there.
    handed_on = by_node[:, :, 1:].sum()
    assert handed_on * 0.94 <= float(near) <= (7 / 8) * chosen * tokens


def test_copies_by_hand(plan_of: PlanOf) -> None:
    # 64 ranks on 8 nodes, 8 choices: nodes 8 (1 - (7/8)^8) = 5.251, at most 4; 7/8 of them elsewhere: 3.5 a token
    _, far = sent(routing(256, 8, 4), array(1000), spread(plan_of, 64), array(8))
    assert float(far) == pytest.approx(3500.0)
    # 8 ranks of one node, 2 choices: ranks 8 (1 - (7/8)^2) = 1.875, 7/8 of them elsewhere
    near, _ = sent(routing(256, 2), array(1000), spread(plan_of, 8), array(8))
    assert float(near) == pytest.approx(1640.625)


@settings(max_examples=60, deadline=None)
@given(
    ranks=st.sampled_from([16, 32, 64]),
    chosen=st.integers(1, 16),
    limits=st.lists(st.integers(1, 8), min_size=2, max_size=4).map(sorted),
)
def test_a_stricter_limit_never_sends_more_between_nodes(
    plan_of: PlanOf, ranks: int, chosen: int, limits: list[int]
) -> None:
    _, far = sent(routing(256, chosen, [*limits, np.inf]), array(100), spread(plan_of, ranks), array(8))
    assert np.all(np.diff(far) >= -1e-9)
    assert far[0] <= 100.0 * limits[0]


def test_ranks_of_a_tensor_group_share_out_what_is_sent(plan_of: PlanOf) -> None:
    # The tokens of a replica are on all its tensor ranks: each sends its slice to 32 ranks.
    alone, shared = (sent(routing(256, 8, 4), array(800), spread(plan_of, 32, tensor), array(8)) for tensor in (1, 8))
    assert float(shared[0]) == pytest.approx(float(alone[0]) / 8.0)
    assert float(shared[1]) == pytest.approx(float(alone[1]) / 8.0)


def test_points_that_send_and_points_that_do_not_share_a_batch(plan_of: PlanOf) -> None:
    plan = plan_of(tensor_parallel=[1, 8, 8, 1], expert_parallel=[1, 8, 16, 32], data_parallel=[1, 1, 2, 32])
    near, far = sent(routing(256, 8, 4), array(800), plan, array(8))
    assert (near > 0.0).tolist() == [False, False, True, True]
    assert (far > 0.0).tolist() == [False, False, True, True]


WIDTHS = st.sampled_from([1, 2, 4, 8])


def wide(plan_of: PlanOf, tensor: int, expert: int, width: int) -> PlanArrays:
    """Experts over `expert` ranks of `width` each, on as many replicas as that takes at the least."""
    data = max(expert * width // tensor, 1)
    return plan_of(tensor_parallel=tensor, expert_parallel=expert, expert_tensor_parallel=width, data_parallel=data)


@settings(max_examples=60, deadline=None)
@given(tensor=WIDTHS, expert=WIDTHS, width=WIDTHS)
def test_an_asked_width_of_experts_is_taken_and_the_copies_fill_the_stage(
    plan_of: PlanOf, tensor: int, expert: int, width: int
) -> None:
    plan = wide(plan_of, tensor, expert, width)
    assert float(expert_tensor(plan)) == width
    assert float(expert_group(plan)) == expert * width
    assert float(expert_group(plan) * expert_replicas(plan)) == float(plan.tensor * plan.replicas)


@settings(max_examples=60, deadline=None)
@given(tensor=WIDTHS, expert=WIDTHS, width=WIDTHS, rows=st.integers(1, 10**5))
def test_the_groups_of_a_stage_work_on_every_token_once(
    plan_of: PlanOf, tensor: int, expert: int, width: int, rows: int
) -> None:
    plan = wide(plan_of, tensor, expert, width)
    # All experts chosen: the busiest has every token of its group.
    each = load(routing(64, 64), array(rows), plan)
    tokens = float(each.rows) / (64 / expert)
    assert tokens * float(expert_replicas(plan)) == pytest.approx(rows * float(plan.replicas))


@settings(max_examples=60, deadline=None)
@given(tensor=WIDTHS, expert=st.sampled_from(DEGREES), node=st.sampled_from([1, 4, 8, 64]))
def test_the_width_that_follows_is_the_same_asked_where_it_changes_nothing(
    plan_of: PlanOf, tensor: int, expert: int, node: int
) -> None:
    data = max(expert // tensor, 1)
    degrees = {"tensor_parallel": tensor, "expert_parallel": expert, "data_parallel": data}
    follows = plan_of(**degrees)
    asked = plan_of(**degrees, expert_tensor_parallel=int(expert_tensor(follows)))
    assert float(expert_group(asked)) == float(expert_group(follows))
    if expert > tensor or expert == 1:
        for router in (routing(64, 4), routing(64, 4, 2.0)):
            assert load(router, array(100), asked) == load(router, array(100), follows)
            assert sent(router, array(100), asked, array(node)) == sent(router, array(100), follows, array(node))
        assert bool(travels(asked)) == bool(travels(follows))
    else:
        # Inside a tensor group whose width is asked tokens travel all the same.
        assert bool(travels(asked))
        assert not bool(travels(follows))


def test_megatrons_eight_by_eight_with_whole_experts_sends_slices_inside_the_tensor_group(plan_of: PlanOf) -> None:
    plan = wide(plan_of, 8, 8, 1)
    near, far = sent(routing(8, 2), array(800), plan, array(8))
    # A slice of 100 tokens; two of eight ranks, less those who choose one rank twice; seven eighths are others.
    assert float(near) == pytest.approx(100 * 8 * (1 - (7 / 8) ** 2) * 7 / 8)
    assert float(far) == 0.0


def test_neighbours_that_share_an_expert_leave_room_for_fewer_on_a_node(plan_of: PlanOf) -> None:
    # Eight experts' ranks of two each: four of them on a node of eight, half of the copies leave it.
    near, far = sent(routing(8, 8), array(100), wide(plan_of, 1, 8, 2), array(8))
    needed = 8 * (1 - (7 / 8) ** 8)
    assert float(far) == pytest.approx(100 * needed / 2)
    assert float(near) == pytest.approx(100 * needed * 3 / 8)


@pytest.mark.parametrize(
    ("tensor", "expert", "width", "spans"),
    [(8, 8, 1, False), (8, 4, 1, False), (8, 4, 2, False), (8, 4, 4, True), (1, 64, 1, True), (6, 4, 1, True)],
)
def test_replicas_meet_in_every_layer_where_experts_span_them(
    plan_of: PlanOf, tensor: int, expert: int, width: int, spans: bool
) -> None:
    plan = plan_of(tensor_parallel=tensor, expert_parallel=expert, expert_tensor_parallel=width, data_parallel=64)
    assert bool(spans_replicas(plan)) == spans


@settings(max_examples=40, deadline=None)
@given(tensor=WIDTHS, expert=st.sampled_from(DEGREES))
def test_without_a_width_replicas_meet_where_there_are_more_experts_ranks_than_tensor_ranks(
    plan_of: PlanOf, tensor: int, expert: int
) -> None:
    plan = plan_of(tensor_parallel=tensor, expert_parallel=expert)
    assert bool(spans_replicas(plan)) == (expert > tensor)
