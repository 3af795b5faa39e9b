"""Grids: pure, nested, each point once, within their bounds."""

from __future__ import annotations

import pytest

from cosim.measure.grid import GRIDS, KINDS, MOST_CACHED, MOST_PRODUCTS, MOST_TOKENS, STATES, points
from cosim.measure.points import Attention, Launch, Matmul, id_of

each_kind = pytest.mark.parametrize("kind", KINDS)
each_grid = pytest.mark.parametrize("grid", GRIDS)


@each_kind
@each_grid
def test_a_grid_is_the_same_each_time_and_holds_each_point_once(kind: str, grid: str) -> None:
    found = points(kind, grid, ("bf16", "fp16"))
    assert found == points(kind, grid, ("bf16", "fp16"))
    assert len({id_of(point, "x") for point in found}) == len(found)
    assert {point.kind for point in found} == {kind}


@each_kind
def test_a_finer_grid_begins_with_the_coarser_one(kind: str) -> None:
    quick, standard, full = (points(kind, grid, ("bf16",)) for grid in ("quick", "standard", "full"))
    assert standard[: len(quick)] == quick
    assert full[: len(standard)] == standard
    assert kind == "launch" or len(quick) < len(standard) < len(full)


def test_the_quick_grid_by_hand() -> None:
    # 5 row counts x 2 x 2 widths x warm and cold; 3 prefills and 3 x 2 decodes, cold; 5 sizes; 3 launches
    assert [len(points(kind, "quick", ("bf16",))) for kind in KINDS] == [40, 9, 10, 3]
    assert [len(points(kind, "quick", ("bf16", "fp8"))) for kind in KINDS] == [80, 18, 10, 3]
    assert [len(points(kind, "quick", ())) for kind in KINDS] == [0, 0, 10, 3]


@each_kind
@pytest.mark.parametrize("states", [("warm",), ("cold",), STATES])
def test_operands_are_where_it_was_asked_for(kind: str, states: tuple[str, ...]) -> None:
    found = {point.warm for point in points(kind, "quick", ("bf16",), states)}
    assert found == ({True} if kind == "launch" else {state == "warm" for state in states})


def test_products_stay_in_bounds_and_suit_every_format() -> None:
    for point in points("matmul", "full", ("fp8",)):
        assert isinstance(point, Matmul)
        assert point.n % 128 == point.k % 128 == 0
        assert point.m * point.n * point.k <= MOST_PRODUCTS


def test_attention_stays_in_bounds() -> None:
    found = points("attention", "full", ("bf16",))
    for point in found:
        assert isinstance(point, Attention)
        assert point.heads % point.kv_heads == 0
        if point.phase == "prefill":
            assert point.query_len == point.context_len
            assert point.batch * point.context_len <= MOST_TOKENS
        else:
            assert point.query_len == 1
            assert 2 * point.batch * point.context_len * point.kv_heads * point.head_dim <= MOST_CACHED
    assert {point.phase for point in found if isinstance(point, Attention)} == {"prefill", "decode"}


def test_gaps_are_of_chains_and_a_lone_kernel_is_alone() -> None:
    runs = {point.what: point.runs for point in points("launch", "full", ("bf16",)) if isinstance(point, Launch)}
    assert runs["lone_kernel"] == 1
    assert min(runs["stream_gap"], runs["graph_gap"]) >= 100
