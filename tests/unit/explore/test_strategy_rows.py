"""Rows of tables of strategies: crossed with values, and those that lie otherwise under another order."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cosim.explore.strategy_rows import Table, crossed, kept, lie_otherwise, whole_pieces, with_experts
from cosim.mapping.order import ORDERS
from cosim.records import array

DEGREES = st.lists(st.tuples(*[st.sampled_from([1.0, 2.0, 4.0])] * 4), min_size=1, max_size=8)


def table_of(rows: list[tuple[float, ...]]) -> Table:
    columns = np.array(rows).T
    return dict(zip(("tensor", "context", "data", "pipeline"), columns, strict=True))


@given(rows=DEGREES, values=st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_every_row_meets_every_value_once_in_order(rows: list[tuple[float, ...]], values: list[int]) -> None:
    wide = crossed(table_of(rows), "zero", tuple(values))
    found = list(zip(*(column.tolist() for column in wide.values()), strict=True))
    assert found == [(*row, float(value)) for row, value in itertools.product(rows, values)]
    some = kept(wide, wide["zero"] == values[0])
    assert len(some["tensor"]) == len(rows) * values.count(values[0])


@given(rows=DEGREES, one=st.sampled_from(ORDERS), other=st.sampled_from(ORDERS))
def test_rows_lie_otherwise_where_kinds_with_ranks_change_places(
    rows: list[tuple[float, ...]], one: str, other: str
) -> None:
    found = lie_otherwise(table_of(rows), one, other)
    for row, apart in zip(rows, found, strict=True):
        several = {kind for kind, count in zip(("tp", "cp", "dp", "pp"), row, strict=True) if count > 1.0}
        left = [[word for word in order.split("-") if word in several] for order in (one, other)]
        assert bool(apart) == (left[0] != left[1])


def test_ranks_of_an_expert_that_follow_anyway_are_told_once_by_hand() -> None:
    table = table_of([(1.0, 1.0, 8.0, 1.0), (4.0, 1.0, 2.0, 1.0)])
    found = with_experts(table, (1.0, 8.0), (0.0, 1.0, 4.0))
    rows = set(zip(*(found[name].tolist() for name in ("tensor", "expert", "expert_tensor")), strict=True))
    every = set(itertools.product((1.0, 4.0), (1.0, 8.0), (0.0, 1.0, 4.0)))
    assert every - rows == {(1.0, 1.0, 1.0), (1.0, 8.0, 1.0), (4.0, 1.0, 4.0), (4.0, 8.0, 1.0)}
    assert "expert_tensor" not in with_experts(table, (1.0,), None)
    assert len(with_experts(table, (1.0, 8.0), (1.0, 4.0))["tensor"]) == 8


def test_pieces_are_those_of_the_schedule_or_come_out_even() -> None:
    table = {name: array([value] * 4) for name, value in {"pipeline": 4.0, "data": 1.0, "micro_batch": 1.0}.items()}
    table["virtual"] = array([1.0, 2.0, 3.0, 5.0])
    asked = {"batch": 16.0, "layers": 32.0}
    assert whole_pieces(table, "zb-v", **asked, any_pieces=False).tolist() == [False, True, False, False]
    assert whole_pieces(table, "1f1b", **asked, any_pieces=False).tolist() == [True, True, False, False]
    assert whole_pieces(table, "1f1b", **asked, any_pieces=True).tolist() == [True, True, True, True]
    # Fourteen micro-batches do not go round four stages.
    assert whole_pieces(table, "1f1b", 14.0, 32.0, any_pieces=True).tolist() == [True, False, False, False]
